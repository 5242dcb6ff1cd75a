"""The disk below a workdir: whether it takes checkpoints, and what is left."""

import contextlib
import errno
import itertools
import os
import pathlib
import re
import shutil
import time
from typing import Any

import jax

from vdm_jax import errors, runtime

PyTree = Any
_TENSORSTORE = re.compile(
  r'([A-Z_]+): .*?Error (reading|writing) "([^"]+)"', re.S
)
# What a start writes to its workdir beside checkpoints.
_LEFT = (
  'config.json',
  'metrics.jsonl',
  'bad_steps.jsonl',
  'tensorboard',
  'samples',
  'index.html',
  'goodput.json',
)
_FULL = re.compile('No space left|RESOURCE_EXHAUSTED|quota exceeded', re.I)


def probe(folder: pathlib.Path):
  """Makes a folder and writes in it.

  Raises:
    CheckpointError: it cannot be written, or is a file.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    _touch(folder)
  except OSError as e:
    full = e.errno in (errno.ENOSPC, errno.EDQUOT)
    what = 'make room' if full else 'change its permissions'
    raise errors.CheckpointError(
      f'the workdir cannot be written ({e}); choose another --workdir or {what}'
    ) from e


def _touch(folder: pathlib.Path):
  file = folder / f'.writable_{jax.process_index()}'
  file.write_bytes(b'.')
  file.unlink()


def size(abstract: PyTree) -> int:
  """The bytes of a state, of which only shapes need be known."""
  return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(abstract))


def taken(folder: pathlib.Path) -> int:
  """The bytes that the files below a folder take."""
  total = 0
  for path, _, names in os.walk(folder):
    for name in names:
      try:
        total += os.stat(os.path.join(path, name)).st_size
      except OSError:
        continue  # it was removed meanwhile
  return total


def require_room(folder: pathlib.Path, *, needed: int, keep: int):
  """Refuses a disk that cannot hold the checkpoints of a run.

  Besides those that are kept one more is written before the oldest goes.

  Args:
    folder: of the checkpoints.
    needed: bytes of one of them.
    keep: how many are kept.

  Raises:
    CheckpointError: the disk is too small.
  """
  missing = (keep + 1) * needed - taken(folder)
  free = shutil.disk_usage(folder).free
  if free < missing:
    raise errors.CheckpointError(
      f'{free / 2**30:.2f} GiB are free for {folder}, and {keep} + 1 '
      f'checkpoints of {needed / 2**30:.2f} GiB need {missing / 2**30:.2f} GiB '
      'more; make room, lower config.train.keep, or choose another --workdir'
    )


def shortage(folder: pathlib.Path, *, needed: int) -> str:
  """Why a folder cannot take so many bytes now; '' if it seems to."""
  try:
    if shutil.disk_usage(folder).free < needed:
      return 'the disk is full'
    _touch(folder)
  except OSError as e:
    return reason(e)
  return ''


def steps(folder: pathlib.Path) -> list[int]:
  """The steps whose checkpoints were finished, oldest first.

  One that is being written has another name until it is whole.
  """
  if not folder.is_dir():
    return []
  names = [p.name for p in folder.iterdir() if p.is_dir()]
  return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))


def remove_unfinished(folder: pathlib.Path):
  """Removes what a failed save has left; some of its threads still write."""
  clean = 0
  for _ in range(20):
    left = list(folder.glob('*.orbax-checkpoint-tmp*'))
    for path in left:
      shutil.rmtree(path, ignore_errors=True)
    clean = 0 if left else clean + 1
    if clean == 2:
      return
    time.sleep(0.1)


def set_aside(folder: pathlib.Path, unusable: list[int]) -> pathlib.Path:
  """Moves damaged checkpoints out of the way of those to come.

  Args:
    folder: of the checkpoints.
    unusable: their steps.

  Returns:
    Where they are now.
  """
  place = folder.with_name('damaged')
  place.mkdir(exist_ok=True)
  for step in unusable:
    shutil.rmtree(place / str(step), ignore_errors=True)
    (folder / str(step)).rename(place / str(step))
  return place


def unused(path: pathlib.Path) -> pathlib.Path:
  """The first of path1, path2, … that is not there."""
  places = (path.with_name(f'{path.name}{n}') for n in itertools.count(1))
  return next(place for place in places if not place.exists())


def set_run_aside(workdir: pathlib.Path) -> pathlib.Path | None:
  """Moves what a run has left out of the way of another one.

  Args:
    workdir: of both.

  Returns:
    Where it is now; None if there was nothing to look at, as of a run that
    took no step: it is removed.
  """
  there = [workdir / name for name in _LEFT if (workdir / name).exists()]
  metrics = workdir / 'metrics.jsonl'
  shown = metrics.is_file() and metrics.stat().st_size
  if not shown and not (workdir / 'samples').exists():
    for path in there:
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None
  place = unused(workdir / 'earlier')
  place.mkdir()
  for path in there:
    path.rename(place / path.name)
  return place


@contextlib.contextmanager
def spared(what: str):
  """Makes a disk that takes no more a line, where nothing is lost by it.

  Args:
    what: was to be written, as the message calls it.
  """
  try:
    yield
  except OSError as e:
    runtime.warn(f'{what} could not be written ({reason(e)}); going on')


def reason(error: BaseException) -> str:
  """Why something could not be read or written, in a few words."""
  text = str(error).strip()
  if _FULL.search(text):
    return 'the disk is full'
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if found := _TENSORSTORE.match(text):
    return '{} {} {}'.format(*found.groups())
  line = (text.splitlines() or [''])[0][:120]
  return (
    line
    if isinstance(error, ValueError) and line
    else (f'{type(error).__name__}: {line}')
  )
