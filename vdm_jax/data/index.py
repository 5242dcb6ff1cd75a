"""The index of a folder of videos: made once, kept in the user's cache.

Every file is decoded from end to end, so that damaged files are found before
training rather than during it. What was found is kept outside the folder, by
path, size and time of change; files that cannot be read are tried again. Of
several processes with one cache, one scans and the others read what it found.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import av

from vdm_jax.data import turns
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
  stamps, missing = _stamps(root, names)
  began = _version(file)
  found = _load(file, stamps, quiet=True)
  if found.known.keys() < stamps.keys():
    with _turn(file, root):
      found = _load(file, stamps)
      if _version(file) == began:  # else another process has just tried
        found.problems.clear()
      new = [name for name in stamps if name not in found]
      if new:
        results = _scan_all(root, new, workers, processes, seconds)
        _add(found, results, file, root)
  return found.known, sorted([*missing, *found.problems.items()])


@dataclasses.dataclass(frozen=True)
class _Found:
  """What is known of files that are as they were.

  Attributes:
    stamps: size and time of change of each file.
    known: the index of those that can be read.
    problems: the reasons of the others.
  """

  stamps: Mapping[str, list[int]]
  known: dict[str, reading.Index] = dataclasses.field(default_factory=dict)
  problems: dict[str, str] = dataclasses.field(default_factory=dict)

  def __contains__(self, name: str) -> bool:
    return name in self.known or name in self.problems


def _stamps(root, names) -> tuple[dict[str, list[int]], list[tuple[str, str]]]:
  """Size and time of change of files, and (path, reason) of what is not."""
  stamps, missing = {}, []
  for name in names:
    try:
      status = (root / name).stat()
    except OSError as error:
      missing.append((name, error.strerror or 'cannot be opened'))
      continue
    stamps[name] = [status.st_size, status.st_mtime_ns]
  return stamps, missing


@contextlib.contextmanager
def _turn(file: Path | None, root) -> Iterator[None]:
  """As `turns.turn`; without a cache, nobody waits for what is not kept."""
  with contextlib.ExitStack() as stack:
    try:
      if file is not None:
        path, work = file.with_suffix('.lock'), f'index the videos of {root}'
        stack.enter_context(turns.turn(path, work))
    except OSError as error:
      _warn(f'other processes cannot wait for the video index ({error})')
    yield


def _version(file: Path | None) -> tuple[int, int] | None:
  """What is another whenever the cache was written; None if there is none."""
  try:
    status = file.stat() if file else None
  except OSError:
    return None
  return status and (status.st_ino, status.st_mtime_ns)


def _add(found: _Found, results: Iterable, file: Path | None, root):
  """Takes up results as they come, and keeps them now and then."""
  saved = time.monotonic()
  for name, result in results:
    if isinstance(result, str):
      found.problems[name] = result
    else:
      found.known[name] = result
    if time.monotonic() - saved > _SAVE_EVERY:
      _save(file, root, found)
      saved = time.monotonic()
  _save(file, root, found)


def _scan_all(
  root, names, workers, processes, seconds
) -> Iterator[tuple[str, object]]:
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


def _load(file: Path | None, stamps, *, quiet: bool = False) -> _Found:
  """What the cache knows; nothing if there is none that can be used."""
  found = _Found(stamps)
  if file is None:
    return found
  try:
    data = json.loads(file.read_text())
    if (data['format'], data['decoder']) != (FORMAT, av.__version__):
      return found
    for name, (stamp, fields) in data['files'].items():
      if stamps.get(name) == stamp:
        found.known[name] = _entry(fields)
    for name, (stamp, reason) in data.get('problems', {}).items():
      if stamps.get(name) == stamp:
        found.problems[name] = str(reason)
    return found
  except FileNotFoundError:
    return found
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    if not quiet:
      _warn(f'the video index {file} is unusable ({error})')
    return _Found(stamps)


def _entry(fields) -> reading.Index:
  jumps = tuple((int(n), int(stamp)) for n, stamp in fields.pop('jumps'))
  ticks = tuple(map(int, fields.pop('ticks')))
  return reading.Index(**fields, jumps=jumps, ticks=ticks)


def _warn(text: str) -> None:
  from vdm_jax import runtime  # with JAX, which workers do without

  runtime.warn(text)


def _save(file: Path | None, root, found: _Found) -> None:
  if file is None:
    return
  stamped = lambda values: {n: [found.stamps[n], v] for n, v in values.items()}  # noqa: E731
  files = {n: dataclasses.asdict(i) for n, i in found.known.items()}
  data = {
    'format': FORMAT,
    'decoder': av.__version__,
    'folder': str(root),
    'files': stamped(files),
    # For processes that wait; those of the next start try again.
    'problems': stamped(found.problems),
  }
  # The cache may be one for several machines.
  part = file.with_name(f'.{file.name}.{socket.gethostname()}.{os.getpid()}')
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(data))
    os.replace(part, file)
  except OSError as error:
    _warn(f'the video index cannot be kept ({error})')
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
