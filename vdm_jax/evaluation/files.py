"""Videos of any program, in a folder."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vdm_jax import errors, runtime
from vdm_jax.data import frames as frames_lib
from vdm_jax.data import index as index_lib
from vdm_jax.media import listing, reading

ARRAYS = ('.npy',)


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
  """Videos of any program, in a folder, in random order.

  Folders are often sorted by classes: their first videos would be of a few
  classes, and so would every split of an Inception score.

  A video file is a video, an array `.npy` one or several: uint8
  `[t, h, w, 3]` or `[n, t, h, w, 3]`. Of longer ones the first frames count.

  Attributes:
    root: the folder.
    places: of each video its file and, in an array of several, its row.
    frames: that are read of each.
    size: that frames are brought to; 0 to leave them.
    resize: how.
    shape: (frames, height, width) of the first video as it is.
    resized: whether some are brought to another size.
    longer: how many are longer.
    there: how many videos the folder has.
    seed: of the choice and the order.
    workers: threads that decode.
  """

  root: pathlib.Path
  places: tuple[tuple[str, int], ...]
  frames: int
  size: int
  resize: str
  shape: tuple[int, int, int]
  resized: bool
  longer: int
  there: int
  seed: int
  workers: int = 2

  def __len__(self) -> int:
    return len(self.places)

  def read(self, numbers: np.ndarray) -> UInt8[np.ndarray, 'n t h w 3']:
    """Videos by their numbers."""
    with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
      return np.stack(list(pool.map(self._video, numbers.tolist())))

  def _video(self, number: int) -> np.ndarray:
    name, row = self.places[number]
    fit = None
    if self.size:
      fit = functools.partial(
        frames_lib.fit, size=self.size, resize=self.resize
      )
    if not name.endswith(ARRAYS):
      return reading.read(self.root / name, range(self.frames), fit=fit)
    video = _array(self.root / name)[row, : self.frames]
    return np.stack([fit(f) for f in video]) if fit else np.array(video)

  def signature(self) -> str:
    """What tells these videos from others, as JSON."""
    stamps = {}
    for name, _ in self.places:
      status = (self.root / name).stat()
      stamps[name] = [status.st_size, status.st_mtime_ns]
    about = [list(self.places), stamps, self.frames, self.size, self.resize]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def open_files(
  folder: str | os.PathLike,
  *,
  count: int,
  frames: int,
  size: int,
  resize: str,
  seed: int,
  workers: int = 2,
) -> Files:
  """The videos of a folder, at most `count` of them, all looked at.

  Args:
    folder: of the videos; sub-folders are searched.
    count: videos.
    frames: of each; 0 for those of the shortest.
    size: of their frames; 0 for that of all, which must be one.
    resize: how frames get their size.
    seed: of the permutation whose first videos are taken.
    workers: threads that decode.

  Raises:
    DataError: there are no videos, one cannot be read or is too short, or
      they are of several sizes and no size is asked for.
  """
  root = pathlib.Path(folder).expanduser()
  names, _ = listing.find(root, reading.SUFFIXES + ARRAYS)
  shapes_of = _shapes_of(root, names, workers)
  everything = [(n, row) for n in names for row in range(shapes_of[n][0])]
  # Real clips are drawn by the seed alone: of one folder, not the same videos.
  order = np.random.default_rng((seed, 1)).permutation(len(everything))
  places = [everything[i] for i in order[:count]]
  used = {name: shapes_of[name][1:] for name, _ in places}
  if not used:
    raise errors.DataError(
      f'no videos ({root}); put files with the endings '
      f'{", ".join(reading.SUFFIXES + ARRAYS)} there'
    )
  frames = frames or min(t for t, _, _ in used.values())
  short = [n for n, (t, _, _) in used.items() if t < frames]
  if short:
    raise errors.DataError(
      f'{len(short)} videos have fewer than {frames} frames (the first: '
      f'{short[0]} of {root}, {used[short[0]][0]} frames); make longer ones, '
      'or take them away'
    )
  sizes = sorted({shape[1:] for shape in used.values()})
  square = (size, size)
  if not size and (len(sizes) > 1 or sizes[0][0] != sizes[0][1]):
    raise errors.DataError(
      f'videos are not of one size, or not square ({root}: {sizes[0]} and '
      f'{sizes[-1]}); make them so'
    )
  resized = bool(size) and any(s != square for s in sizes)
  return Files(
    root=root,
    places=tuple(places),
    frames=frames,
    size=size if resized else 0,
    resize=resize,
    shape=next(iter(used.values())),
    resized=resized,
    longer=sum(used[name][0] > frames for name, _ in places),
    there=len(everything),
    seed=seed,
    workers=workers,
  )


def _shapes_of(root: pathlib.Path, names, workers: int) -> dict[str, tuple]:
  """(videos, frames, height, width) of each file."""
  films = [n for n in names if not n.endswith(ARRAYS)]
  known, problems = index_lib.index(
    root, films, cache=runtime.cache_folder(), workers=workers
  )
  if problems:
    name, reason = problems[0]
    raise errors.DataError(
      f'{len(problems)} videos cannot be read (the first: {root / name}: '
      f'{reason}); make them again, or take them away'
    )
  found: dict[str, Any] = {
    name: (1, i.frames, i.height, i.width) for name, i in known.items()
  }
  arrays = [n for n in names if n.endswith(ARRAYS)]
  return found | {n: _array(root / n).shape[:4] for n in arrays}


def _array(file: pathlib.Path) -> np.ndarray:
  """Videos of an array, `[n, t, h, w, 3]`, as they lie on disk."""
  try:
    array = np.load(file, mmap_mode='r', allow_pickle=False)
    if not isinstance(array, np.ndarray):
      raise ValueError('it is an archive')
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise errors.DataError(
      f'an array cannot be read ({file}: {error}); write it with numpy.save'
    ) from error
  array = array[None] if array.ndim == 4 else array
  if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3:
    raise errors.DataError(
      f'an array is no videos ({file}: {array.dtype} {list(array.shape)}); '
      'write uint8 [t, h, w, 3] or [n, t, h, w, 3]'
    )
  return array
