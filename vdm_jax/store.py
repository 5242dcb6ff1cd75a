"""Where the frames of long videos lie while they are made.

On disk, so that memory does not grow with their length and an interrupted
start can be continued: frames are written, and count as finished only after a
commit, which follows them to the disk. Whatever is written after the last
commit is made again, and overwritten, by whoever continues.
"""

import errno
import json
import math
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vdm_jax import runtime, storage
from vdm_jax.data import turns
from vdm_jax.errors import CheckpointError
from vdm_jax.media import writing

Videos = UInt8[np.ndarray, 'b k h w 3']
Indices = Sequence[int] | np.ndarray

_FRAMES, _REQUEST, _PROGRESS = 'frames.npy', 'request.json', 'progress.json'
_SPARE = 2**26  # bytes of the disk that are left alone


class MemoryStore:
  """Frames in memory, for short videos; the methods of `FrameStore`.

  Attributes:
    done: how many units of work are finished.
    videos: uint8 `[count, frames, h, w, 3]`, not to be written to.
  """

  def __init__(self, shape: Sequence[int]):
    self.done = 0
    self._videos = np.zeros(shape, np.uint8)

  @property
  def videos(self) -> np.ndarray:
    """All frames, read-only; those not written yet are black."""
    view = self._videos.view()
    view.flags.writeable = False
    return view

  def write(self, rows: Indices, numbers: Indices, videos: Videos):
    """Puts frames `numbers` of the videos `rows` in place."""
    self._videos[np.ix_(rows, numbers)] = videos

  def read(self, rows: Indices, numbers: Indices) -> Videos:
    """Frames `numbers` of the videos `rows`, a copy."""
    return self._videos[np.ix_(rows, numbers)]

  def commit(self, done: int):
    """Notes that `done` units of work are finished."""
    _check_commit(done, self.done)
    self.done = done

  def remove(self):
    """Does nothing: there is nothing on disk."""


class FrameStore:
  """Frames in a folder of their own, which a later process can continue.

  A folder whose request and shape are the same is continued; anything else
  that is there is moved aside, unless no unit of it was finished. One store at
  a time has a folder: a lock beside it says so for as long as the store lives.

  Attributes:
    done: how many units of work are finished.
    folder: where it is.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    shape: Sequence[int],
    request: dict[str, Any],
  ):
    """Continues what is in the folder, or begins.

    Args:
      folder: for this store alone; made if missing.
      shape: (count, frames, h, w, 3).
      request: all that the frames depend on; JSON-able.

    Raises:
      CheckpointError: the disk is too full, the folder cannot be written, or
        another store has it.
    """
    self.folder = pathlib.Path(folder)
    self.shape = tuple(int(n) for n in shape)
    text = json.dumps(
      {'shape': self.shape, 'request': request}, sort_keys=True, indent=1
    )
    try:
      self._lock = _claim(self.folder)
      done = _finished(self.folder, text, self.shape)
      if done is None:
        _set_aside(self.folder)
        _begin(self.folder, text, self.shape)
    except OSError as error:
      raise CheckpointError(
        f'unfinished samples cannot be kept ({self.folder}: {error.strerror}); '
        'make that folder writable'
      ) from error
    self.done = done or 0

  @property
  def videos(self) -> np.memmap:
    """All frames `[count, frames, h, w, 3]` as they lie on disk, read-only."""
    return np.load(self.folder / _FRAMES, mmap_mode='r')

  def write(self, rows: Indices, numbers: Indices, videos: Videos):
    """Puts frames `numbers` of the videos `rows` in place.

    They are not finished before `commit`; frames of units that are committed
    must not be written again.
    """
    # A map of its own for each call: pages do not pile up in the process.
    videos_on_disk = np.load(self.folder / _FRAMES, mmap_mode='r+')
    videos_on_disk[np.ix_(rows, numbers)] = videos

  def read(self, rows: Indices, numbers: Indices) -> Videos:
    """Frames `numbers` of the videos `rows`, a copy."""
    return np.array(self.videos[np.ix_(rows, numbers)])

  def commit(self, done: int):
    """Notes that `done` units are finished, after all writes are on disk."""
    _check_commit(done, self.done)
    _sync(self.folder / _FRAMES)
    _replace(self.folder / _PROGRESS, json.dumps({'done': done}))
    self.done = done

  def remove(self):
    """Deletes the store; what others have put into its folder stays."""
    _remove(self.folder)
    _beside(self.folder).unlink(missing_ok=True)
    os.close(self._lock)


def _beside(folder: pathlib.Path) -> pathlib.Path:
  return folder.with_name(f'.{folder.name.lstrip(".")}.lock')


def _claim(folder: pathlib.Path) -> int:
  """Takes the lock of a folder for this process; the open file of it.

  A process that opens the folder again, after an error for example, still has
  it. The file stays open, since closing it once would end that.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  file = os.open(_beside(folder), os.O_RDWR | os.O_CREAT, 0o666)
  try:
    turns.claim(file, of_process=True)
  except BlockingIOError:
    raise CheckpointError(
      f'these samples are being made by another process ({folder}); wait for '
      'its end, or ask for others'
    ) from None
  return file


def _check_commit(done: int, before: int):
  if done < before:
    raise ValueError(
      f'{before} units are finished already, {done} cannot be committed'
    )


def _finished(folder: pathlib.Path, text: str, shape) -> int | None:
  """Units that are finished in a store of this request, None if it is none."""
  try:
    if (folder / _REQUEST).read_text() != text:
      return None
    videos = np.load(folder / _FRAMES, mmap_mode='r')
    if videos.shape != shape or videos.dtype != np.uint8:
      return None
    return _progress(folder)
  except (FileNotFoundError, EOFError, ValueError):
    return None


def _progress(folder: pathlib.Path) -> int | None:
  """Units that are finished there, of whatever request; None if unknown."""
  try:
    done = json.loads((folder / _PROGRESS).read_text())['done']
  except FileNotFoundError:
    # The request comes last: where there is none, nothing was begun.
    return None if (folder / _REQUEST).exists() else 0
  except (ValueError, KeyError, TypeError):
    return None
  return done if isinstance(done, int) and done >= 0 else None


def _begin(folder: pathlib.Path, text: str, shape):
  """A new store; the request comes last, so it vouches for the rest."""
  folder.mkdir(parents=True, exist_ok=True)
  size = math.prod(shape)
  free = shutil.disk_usage(folder).free
  full = CheckpointError(
    f'the disk is too full for the samples ({folder} has {free / 1e9:.1f} GB '
    f'free, they need {size / 1e9:.1f} GB); make room, or ask for fewer or '
    'shorter videos'
  )
  if size + _SPARE > free:
    raise full
  videos = np.lib.format.open_memmap(
    folder / _FRAMES, 'w+', np.uint8, shape=shape
  )
  del videos
  try:
    _reserve(folder / _FRAMES)
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      raise
    _remove(folder)
    raise full from error
  _sync(folder / _FRAMES)
  _replace(folder / _PROGRESS, json.dumps({'done': 0}))
  _replace(folder / _REQUEST, text)


def _reserve(path: pathlib.Path):
  """Takes the space of a file from the disk: a full one would kill later."""
  if not hasattr(os, 'posix_fallocate'):
    return
  with path.open('rb+') as file:
    try:
      os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
      if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
        raise


def _set_aside(folder: pathlib.Path):
  """Makes way for a new store, without loss of what was finished."""
  if not folder.exists():
    return
  if _progress(folder) == 0:
    _remove(folder)
  if not folder.exists():
    return
  aside = storage.unused(folder.with_name(f'{folder.name}.old'))
  folder.rename(aside)
  runtime.say(f'what is in {folder} is of other samples; it is now {aside}')


def _remove(folder: pathlib.Path):
  # The request goes first: without it, what is left is no store.
  for name in (_REQUEST, _PROGRESS, _FRAMES):
    (folder / name).unlink(missing_ok=True)
  for part in folder.glob('.*.json.*.tmp'):
    part.unlink(missing_ok=True)
  if folder.is_dir() and not any(folder.iterdir()):
    folder.rmdir()


def _replace(path: pathlib.Path, text: str):
  """Writes a file as a whole, and to the disk before it takes its place."""
  with writing.atomic_file(path) as part:
    part.write_text(text)
    _sync(part)
  _sync(path.parent)


def _sync(path: pathlib.Path):
  """Waits until a file or the entries of a folder are on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
