"""What is known of the videos to be sampled, before any sampling.

Frames of a video of the user's, completely or at a lower resolution, which
Ho22 §3.1 conditions on. A frame has one number here, its place in the sampled
video; only `Given.observe` turns numbers into positions in a window.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vdm_jax import step
from vdm_jax.data import frames as frames_lib
from vdm_jax.diffusion import observation
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.media import reading, writing

Videos = UInt8[np.ndarray, '_b _k _h _w 3']
# (videos, rows, places) -> these frames of these videos
Take = Callable[[np.ndarray, Any, Sequence[int]], np.ndarray]

_NUMBER = r'(-?[0-9]{1,9})'
_RANGE = re.compile(f'{_NUMBER}|{_NUMBER}?:{_NUMBER}?(?::{_NUMBER}?)?')


def take(videos: np.ndarray, rows, places) -> Videos:
  """Frames `places` of the videos `rows`; one video serves all rows."""
  rows = np.asarray(rows)
  rows = np.zeros_like(rows) if len(videos) == 1 else rows
  return videos[np.ix_(rows, places)]


@dataclasses.dataclass(frozen=True)
class Given:
  """Frames that are known, of all the videos alike or of each its own.

  Attributes:
    full: uint8 `[n, k, h, w, 3]`, what is known completely; n is the number
      of videos, or 1 where it is the same for all of them.
    frames: the k numbers of these frames, increasing.
    low: uint8 `[n, j, h/factor, w/factor, 3]`, what is known coarsely.
    low_frames: the j numbers of these frames, increasing; they may be among
      `frames`, where they say nothing new.
    factor: pixels per side of a block whose mean is a pixel of `low`.
  """

  full: Videos | None = None
  frames: tuple[int, ...] = ()
  low: Videos | None = None
  low_frames: tuple[int, ...] = ()
  factor: int = 1

  def observe(
    self,
    numbers: Sequence[int],
    rows: Sequence[int] | np.ndarray,
    *,
    made: Sequence[int] = (),
    videos: Videos | None = None,
    read: Take = take,
  ) -> observation.Observation | None:
    """What is known of some frames of some of the videos.

    A frame that is known completely, from here or because it is made, is in
    the observation's one part of factor 1, in the order of the positions; of
    a frame that is both given and made the given one counts. So the same
    positions make the same program, wherever their frames come from.

    Args:
      numbers: frames of the video that a window makes, in its order: the
        window's position i is frame `numbers[i]`.
      rows: which of the videos the batch holds, from 0.
      made: positions in the window, 0 … len(numbers) − 1, of frames that
        exist because they were sampled before.
      videos: these frames, uint8 `[b, len(made), h, w, 3]`.
      read: reads the frames that are known, as `take` does.

    Returns:
      The observation in positions of the window, its values in [−1, 1] and
      one example per row; None if nothing of these frames is known.
    """
    frames = functools.partial(_frames, read, rows)
    full = frames(self.full, _found(self.frames, numbers))
    for k, i in enumerate(made):
      full.setdefault(i, videos[:, k])
    coarse = _found(self.low_frames, numbers)
    low = frames(self.low, {i: k for i, k in coarse.items() if i not in full})
    parts = [
      observation.downsampled(
        factor, step.to_float(_stack(known)), sorted(known)
      )
      for factor, known in ((1, full), (self.factor, low))
      if known
    ]
    return observation.union(*parts) if parts else None


def ranges(text: str, frames: int) -> tuple[int, ...]:
  """The numbers in index ranges such as '0:5', '0:16:4', '0,15' or '-4:'.

  Args:
    text: Python's slices and numbers, separated by commas; '' is no frame.
    frames: of the video they are of.

  Returns:
    The numbers, 0 … frames − 1, each once and increasing.

  Raises:
    ConfigError: a part that is none of these, reaches out of the video, or
      selects no frame.
  """
  chosen = set()
  for part in text.split(',') if text.strip() else ():
    chosen.update(_range(part.strip(), frames))
  return tuple(sorted(chosen))


def check(
  *, frames: int, size: int, known: str, factor: int, start: int = 0
) -> tuple[int, ...]:
  """Checks what can be checked of `from_video` before the video is read.

  Args:
    frames: of the sampled video.
    size: height and width of its frames.
    known: ranges of the frames that are known completely.
    factor: the whole video is seen at 1/factor of its size; 1: it is not.
    start: the frame of the file that is the first of the sampled video.

  Returns:
    The numbers of the frames that are known completely.

  Raises:
    ConfigError: something that cannot work.
  """
  indices = ranges(known, frames)
  if factor < 1:
    raise ConfigError(
      f'config.sample.factor must be 1 or more (got {factor}); use 1 for a '
      'video that is not seen at a lower resolution'
    )
  if size % factor:
    raise ConfigError(
      f'{size} pixels do not fall into blocks of config.sample.factor '
      f'({factor}); use a divisor of {size}'
    )
  if start < 0:
    raise ConfigError(
      f'config.sample.start is negative ({start}); count the frames of the '
      'video from 0'
    )
  if not indices and factor == 1:
    raise ConfigError(
      'a video is given, but nothing of it is used; set config.sample.known to '
      "the frames that are kept, such as '0:4', or config.sample.factor to 2 "
      'or more'
    )
  if len(indices) == frames:
    raise ConfigError(
      f'config.sample.known leaves nothing to sample ({known!r} is all of '
      f'{frames} frames); name fewer frames'
    )
  return indices


def from_video(
  video: str | os.PathLike | np.ndarray,
  *,
  frames: int,
  size: int,
  stride: int,
  start: int = 0,
  known: str = '',
  factor: int = 1,
  resize: str = 'crop',
) -> Given:
  """What is known from a video; of a file only the frames needed are held.

  Args:
    video: the file, or pixels uint8 `[n, t, h, w, 3]`, of each of the videos
      to sample or, with n = 1, of all of them.
    frames: of the sampled video; frame k of it is frame `start + k stride` of
      the video that is given.
    size: height and width of the sampled video, pixels.
    stride: see `frames`.
    start: see `frames`.
    known: ranges of the sampled video, see `ranges`: these frames are kept.
    factor: above 1, all frames that the file has are seen at size/factor.
    resize: how frames get their size, one of `data.frames.RESIZES`.

  Raises:
    ConfigError: options that cannot work, see `check`.
    DataError: the file is missing, is no video, or is too short; or what is
      no file are no such pixels.
  """
  frames_lib.validate(frames=frames, size=size, stride=stride, resize=resize)
  indices = check(
    frames=frames, size=size, known=known, factor=factor, start=start
  )
  film = _film(video)
  last = indices[-1] if indices else 0
  if film.frames <= start + last * stride:
    raise DataError(
      f'the video is too short ({film.name} has {film.frames} frames, and '
      f'frame {last} of the sample, at start {start} and stride {stride}, '
      f'needs {start + last * stride + 1}); use a longer one or less of it'
    )

  def read(numbers, fit, **options) -> np.ndarray:
    fit = functools.partial(fit, size=size, resize=resize, **options)
    return film.read([start + stride * n for n in numbers], fit)

  has = math.ceil((film.frames - start) / stride)
  seen = tuple(range(min(frames, has))) if factor > 1 else ()
  return Given(
    full=read(indices, frames_lib.fit) if indices else None,
    frames=indices,
    low=read(seen, _fit_coarsely, factor=factor) if seen else None,
    low_frames=seen,
    factor=factor,
  )


def read(
  path: str | os.PathLike,
  *,
  size: int,
  stride: int,
  start: int = 0,
  resize: str = 'crop',
) -> UInt8[np.ndarray, '1 t s s 3']:
  """All frames of a file from `start` on, every stride-th; see `from_video`.

  Raises:
    DataError: the file is missing, is no video, or has no such frame.
  """
  film = _file(path)
  numbers = range(start, film.frames, stride)
  if start < 0 or not numbers:
    raise DataError(
      f'the video has no frame {start} ({film.name} has {film.frames}); start '
      f'at 0 to {film.frames - 1}'
    )
  return film.read(
    numbers, functools.partial(frames_lib.fit, size=size, resize=resize)
  )


def length(video: str | os.PathLike | np.ndarray) -> int:
  """How many frames a video has: a file, or pixels `[n, t, h, w, 3]`.

  Raises:
    DataError: the file is missing or is no video; or what is no file are no
      such pixels.
  """
  return _film(video).frames


@dataclasses.dataclass(frozen=True)
class _Film:
  """A video to read from.

  Attributes:
    name: what messages call it.
    frames: how many it has.
    read: (numbers, fit) -> uint8 `[n, k, …]`, each frame brought to its size.
  """

  name: str
  frames: int
  read: Callable[[Sequence[int], Callable], np.ndarray]


def _film(video: str | os.PathLike | np.ndarray) -> _Film:
  return _pixels(video) if isinstance(video, np.ndarray) else _file(video)


def _file(path: str | os.PathLike) -> _Film:
  """A file, decoded once to know its length."""
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise DataError(
      f'there is no such video ({path}); set config.sample.video to a file'
    )
  index = reading.scan(path)

  def read(numbers, fit):
    return reading.read(path, numbers, index=index, fit=fit)[None]

  return _Film(str(path), index.frames, read)


def _pixels(videos: np.ndarray) -> _Film:
  """Videos in memory."""
  check_pixels(videos)

  def read(numbers, fit):
    return np.stack([[fit(video[n]) for n in numbers] for video in videos])

  return _Film('the array', videos.shape[1], read)


def check_pixels(videos: np.ndarray):
  """Raises DataError unless these are videos, uint8 `[n, t, h, w, 3]`."""
  try:
    writing.check_uint8(videos, 'videos', 'n t h w 3')
  except ValueError as e:
    raise DataError(
      f'{e}; give whole numbers from 0 to 255, frames first, RGB last'
    ) from e


def _fit_coarsely(
  picture: UInt8[np.ndarray, 'h w 3'],
  *,
  size: int,
  factor: int,
  resize: str,
  aspect: float = 1.0,
) -> UInt8[np.ndarray, 's s 3']:
  """Brings a frame to size/factor, so that its pixels are means of blocks.

  That is what the model is told they are; a bicubic reduction is sharper. A
  picture that is smaller than `size` is taken to be a coarse one already.
  """
  fit = functools.partial(frames_lib.fit, resize=resize, aspect=aspect)
  side = size // factor
  if min(picture.shape[:2]) < size:
    return fit(picture, size=side)
  blocks = fit(picture, size=size).reshape(side, factor, side, factor, 3)
  return np.round(blocks.mean((1, 3))).astype(np.uint8)


def _range(part: str, frames: int) -> range:
  """One number or slice, as a range within the video."""
  match = _RANGE.fullmatch(part)
  legal = f'use numbers and slices within −{frames} to {frames}'
  if not match:
    raise ConfigError(
      f"a range of frames is none ({part!r}); write such as '0:5', '0:16:4', "
      f"'0,15' or '-4:'"
    )
  number, *bounds = (None if g is None else int(g) for g in match.groups())
  if number is not None:
    if not -frames <= number < frames:
      raise ConfigError(
        f'frame {part} is not in a video of {frames} frames; use −{frames} to '
        f'{frames - 1}'
      )
    return range(number % frames, number % frames + 1)
  if any(b is not None and abs(b) > frames for b in bounds[:2]):
    raise ConfigError(
      f'{part!r} reaches out of a video of {frames} frames; {legal}'
    )
  if bounds[2] == 0:
    raise ConfigError(f'{part!r} has a step of 0; use another step')
  found = range(frames)[slice(*bounds)]
  if not found:
    raise ConfigError(
      f'{part!r} selects none of {frames} frames; {legal}, the end excluded'
    )
  return found


def _found(known: Sequence[int], numbers: Sequence[int]) -> dict[int, int]:
  """Positions in `numbers` of known frames, with their places in `known`."""
  place = {frame: k for k, frame in enumerate(known)}
  return {i: place[n] for i, n in enumerate(numbers) if n in place}


def _frames(read: Take, rows, videos, found: dict[int, int]):
  """Frames of the videos of a batch, `[b, h, w, 3]`, by their positions."""
  taken = read(videos, rows, [*found.values()]) if found else None
  return {i: taken[:, k] for k, i in enumerate(found)}


def _stack(known: dict[int, np.ndarray]):
  return jnp.asarray(np.stack([known[i] for i in sorted(known)], 1))
