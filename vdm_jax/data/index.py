"""The index of a folder of videos: made once, kept in the user's cache.

Every file is decoded from end to end, so that damaged files are found before
training rather than during it. What was found is kept outside the folder, by
path, size and time of change; files that cannot be read are tried again.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import av

from vdm_jax.data import workers as workers_lib
from vdm_jax.media import reading
from vdm_jax.progress import Progress

FORMAT = 2  # of the cache; another number makes it anew
_SAVE_EVERY = 60.0  # seconds; what an interruption loses
_BYTES = 2.5e5  # that are scanned in a second, at the least


def index(
  root: Path,
  names: Sequence[str],
  *,
  cache: Path | None,
  workers: int,
  processes: int = 0,
  seconds: float = 0.0,
) -> tuple[dict[str, reading.Index], list[tuple[str, str]]]:
  """Scans the files that the cache does not know, showing the progress.

  Args:
    root: the folder.
    names: paths relative to it.
    cache: the folder of the cache; None keeps nothing.
    workers: files scanned at a time.
    processes: worker processes that scan, in place of threads: a file at which
      the decoder crashes or hangs is then one that cannot be read.
    seconds: that a worker process may take for a small file; 0: any time.

  Returns:
    The index of each file that can be read, and (path, reason) of the others.
  """
  file = None
  if cache is not None:
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
    file = cache / 'videos' / f'{digest[:24]}.json'
  stamps, known, problems = {}, {}, []
  old = _load(file)
  for name in names:
    try:
      status = (root / name).stat()
    except OSError as error:
      problems.append((name, error.strerror or 'cannot be opened'))
      continue
    stamps[name] = [status.st_size, status.st_mtime_ns]
    if name in old and old[name][0] == stamps[name]:
      known[name] = old[name][1]
  new = [name for name in stamps if name not in known]
  saved = time.monotonic()
  for name, result in _scan_all(root, new, workers, processes, seconds):
    if isinstance(result, str):
      problems.append((name, result))
      continue
    known[name] = result
    if time.monotonic() - saved > _SAVE_EVERY:
      _save(file, root, stamps, known)
      saved = time.monotonic()
  if new:
    _save(file, root, stamps, known)
  return known, sorted(problems)


def _scan_all(
  root, names, workers, processes, seconds
) -> Iterator[tuple[str, object]]:
  if not names:
    return
  scan = _scan
  with contextlib.ExitStack() as stack:
    if processes:
      guarded = workers_lib.Workers(_scan, processes)
      stack.callback(guarded.close)
      scan = functools.partial(_scan_there, guarded, seconds)
    pool = concurrent.futures.ThreadPoolExecutor(processes or workers)
    stack.enter_context(pool)
    progress = stack.enter_context(
      Progress(len(names), name='indexing videos', unit='files')
    )
    jobs = {pool.submit(scan, root / name): name for name in names}
    try:
      done = concurrent.futures.as_completed(jobs)
      for count, job in enumerate(done, start=1):
        progress.update(count)
        yield jobs[job], job.result()
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def _scan(path: Path) -> reading.Index | str:
  try:
    return reading.scan(path)
  except reading.VideoError as error:
    return error.reason


def _scan_there(guarded, seconds: float, path: Path) -> reading.Index | str:
  """The same in a worker process."""
  limit = seconds and seconds + path.stat().st_size / _BYTES
  try:
    return guarded(path, seconds=limit)
  except workers_lib.Lost as error:
    return str(error)


def _load(file: Path | None) -> Mapping[str, tuple[list[int], reading.Index]]:
  """What the cache knows; nothing if there is none that can be used."""
  if file is None:
    return {}
  try:
    data = json.loads(file.read_text())
    if (data['format'], data['decoder']) != (FORMAT, av.__version__):
      return {}
    return {
      name: (stamp, _entry(fields))
      for name, (stamp, fields) in data['files'].items()
    }
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    _warn(f'the video index {file} is unusable ({error})')
    return {}


def _entry(fields) -> reading.Index:
  jumps = tuple((int(n), int(stamp)) for n, stamp in fields.pop('jumps'))
  ticks = tuple(map(int, fields.pop('ticks')))
  return reading.Index(**fields, jumps=jumps, ticks=ticks)


def _warn(text: str) -> None:
  from vdm_jax import runtime  # with JAX, which workers do without

  runtime.warn(text)


def _save(file, root, stamps, known) -> None:
  if file is None:
    return
  data = {
    'format': FORMAT,
    'decoder': av.__version__,
    'folder': str(root),
    'files': {n: [stamps[n], dataclasses.asdict(i)] for n, i in known.items()},
  }
  part = file.with_name(f'.{file.name}.{os.getpid()}')
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(data))
    os.replace(part, file)
  except OSError as error:
    _warn(f'the video index cannot be kept ({error})')
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
