"""Frames out of video files, exactly those that are asked for, with PyAV.

A file is decoded whole once, by `scan`: so damage is found, frames are counted
rather than believed, and the places are noted from which decoding may start.
`read` then decodes from the nearest such place before the first wanted frame.
Frame i is the i-th that the decoder puts out. Where the time stamps are
irregular, an index makes it the frame nearest to tick i of a regular clock that
has as many ticks as the file has frames: so frames are equally far apart.
"""

import contextlib
import dataclasses
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from vdm_jax.errors import DataError

SUFFIXES = ('.avi', '.gif', '.mkv', '.mov', '.mp4', '.webm')
MAX_PIXELS = 2**26  # of a frame; more is damage, or an attack on the memory
MAX_FRAMES = 2**22  # of a file, two days of video; likewise
_APART = 8  # frames between places to start from; closer ones save nothing
_CHECKED = 4  # frames compared after a jump


class VideoError(DataError):
  """A file that cannot be read as video, and the reason."""

  def __init__(self, path: str | os.PathLike, reason: str):
    # Both are arguments, so that the error survives a trip between processes.
    super().__init__(os.fspath(path), reason)
    self.reason = reason

  def __str__(self) -> str:
    path, reason = self.args
    return (
      f'a video cannot be read ({path}: {reason}); remove or replace the file'
    )


@dataclasses.dataclass(frozen=True)
class Index:
  """What a whole decoding told about a file.

  Attributes:
    frames: number of frames.
    height: of a frame as displayed (after rotation), in pixels.
    width: likewise.
    frame_rate: average frames per second; 0 where the file does not say.
    jumps: places to start from, as (number of the decoder's, time stamp in
      units of the stream), in order.
    ticks: where time stamps are irregular, the decoder's number of each frame;
      () where it is the frame's own.
  """

  frames: int
  height: int
  width: int
  frame_rate: float
  jumps: tuple[tuple[int, int], ...] = ()
  ticks: tuple[int, ...] = ()


def scan(path: str | os.PathLike) -> Index:
  """Decodes a file from end to end.

  Raises:
    VideoError: the file cannot be opened, has no video or no frame, or some
      part of it does not decode.
  """
  stamps, keys, prints = [], [], []
  with _video(path) as (container, stream):
    for number, frame in enumerate(container.decode(stream)):
      if frame.is_corrupt:
        raise VideoError(path, f'frame {number} is damaged')
      if number == MAX_FRAMES:
        raise VideoError(path, f'more than {MAX_FRAMES} frames')
      if not number:
        height, width = frame.height, frame.width
        if frame.rotation % 180:
          height, width = width, height
      stamps.append(frame.pts)
      keys.append(frame.key_frame)
      prints.append(_fingerprint(frame))
    rate = float(stream.average_rate or 0)
  if not stamps:
    raise VideoError(path, 'no frames')
  jumps = _jumps(stamps, keys)
  # Some files need more than the key frames that they declare. Try two.
  tried = {*jumps[-1:], *jumps[len(jumps) // 2 :][:1]}
  if not all(_lands(path, jump, prints) for jump in tried):
    jumps = ()
  return Index(len(stamps), height, width, rate, jumps, _ticks(stamps))


def read(
  path: str | os.PathLike,
  numbers: Sequence[int] | np.ndarray,
  *,
  index: Index | None = None,
  fit: Callable[..., np.ndarray] | None = None,
) -> UInt8[np.ndarray, 't h w 3']:
  """Reads frames by number, in any order, with repetitions if wanted.

  Gray, palette, deep and transparent pictures become 8-bit RGB (alpha is
  dropped), and a rotation noted in the file is carried out.

  Args:
    path: the file.
    numbers: which frames, from 0.
    index: what `scan` said of the file; without it, decoding starts at the
      first frame, and time stamps do not count.
    fit: applied to every frame at once, so that no more than one is held at
      full size: `fit(rgb, aspect=width of a pixel over its height)`, with rgb
      uint8 `[h, w, 3]`.

  Raises:
    VideoError: the file cannot be read, or has fewer frames.
    ValueError: no frame or a negative one is asked for.
  """
  wanted = sorted({int(n) for n in numbers})
  if not wanted or wanted[0] < 0:
    raise ValueError(f'frame numbers must be 0 or more (got {wanted[:1]})')
  if index and index.ticks:
    if wanted[-1] >= index.frames:
      raise VideoError(path, f'there is no frame {wanted[-1]}')
    numbers = [index.ticks[int(n)] for n in numbers]
    wanted = sorted(set(numbers))
  jumps = [j for j in (index.jumps if index else ()) if j[0] <= wanted[0]]
  found = _collect(path, wanted, jumps[-1], fit) if jumps else None
  if found is None:
    found = _collect(path, wanted, None, fit)
  if len(found) < len(wanted):
    missing = next(n for n in wanted if n not in found)
    raise VideoError(path, f'there is no frame {missing}')
  return np.stack([found[int(n)] for n in numbers])


def _collect(path, wanted, jump, fit) -> dict[int, np.ndarray] | None:
  """The wanted frames by number, or None where the jump missed."""
  found, left = {}, set(wanted)
  with _video(path) as (container, stream):
    aspect = _pixel_aspect(stream)
    for number, frame in _numbered(container, stream, jump):
      if number is None:
        return None
      if number in left:
        found[number] = _picture(frame, aspect, fit)
        left.remove(number)
        if not left:
          break
  return found


def _numbered(
  container, stream, jump
) -> Iterator[tuple[int | None, av.VideoFrame | None]]:
  """Frames with their numbers, from `jump` on; Nones where it missed."""
  if jump is None:
    yield from enumerate(container.decode(stream))
    return
  number, stamp = jump
  landed = False
  try:
    container.seek(stamp, stream=stream, backward=True)
  except av.FFmpegError:
    yield None, None
    return
  for frame in container.decode(stream):
    if not landed:
      # What precedes the key frame here may lack its references.
      if frame.pts is not None and frame.pts < stamp:
        continue
      if frame.pts != stamp:
        break
      landed = True
    yield number, frame
    number += 1
  if not landed:
    yield None, None


def _jumps(stamps, keys) -> tuple[tuple[int, int], ...]:
  """Key frames whose time stamp names them and no other frame."""
  if None in stamps or len(set(stamps)) < len(stamps):
    return ()
  if stamps != sorted(stamps):
    return ()
  jumps = []
  for number in np.flatnonzero(keys).tolist():
    if number >= (jumps[-1][0] if jumps else 0) + _APART:
      jumps.append((number, stamps[number]))
  return tuple(jumps)


def _ticks(stamps) -> tuple[int, ...]:
  """The frame nearest to each tick of a regular clock; () if that is its own.

  The clock has the mean rate, so that there are as many ticks as frames.
  """
  if None in stamps or len(stamps) < 3:
    return ()
  times = np.array([stamp - stamps[0] for stamp in stamps], np.float64)
  if not (np.diff(times) > 0).all():
    return ()  # the stamps are damaged; the order is all there is
  own = np.arange(len(times))
  clock = own * (times[-1] / (len(times) - 1))
  later = np.searchsorted(times, clock).clip(1, len(times) - 1)
  nearer = clock - times[later - 1] <= times[later] - clock
  nearest = later - nearer
  return () if (nearest == own).all() else tuple(nearest.tolist())


def _lands(path, jump, prints) -> bool:
  expected, found = prints[jump[0] :][:_CHECKED], []
  try:
    with _video(path) as (container, stream):
      frames = _numbered(container, stream, jump)
      for number, frame in itertools.islice(frames, len(expected)):
        found.append(None if number is None else _fingerprint(frame))
  except VideoError:
    return False
  return found == expected


def _fingerprint(frame) -> int:
  """A checksum of every fourth row of the first plane."""
  plane = frame.planes[0]
  rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
  return zlib.crc32(np.ascontiguousarray(rows[::4, : frame.width]))


def _picture(frame, aspect, fit) -> UInt8[np.ndarray, 'h w 3']:
  picture = frame.reformat(format='rgb24', threads=1).to_ndarray()
  quarters = round(frame.rotation / 90)  # anticlockwise, as in np.rot90
  if quarters:
    picture = np.ascontiguousarray(np.rot90(picture, quarters))
  if fit is None:
    return picture
  return fit(picture, aspect=1 / aspect if quarters % 2 else aspect)


def _pixel_aspect(stream) -> float:
  """Width of a pixel over its height; 1 where the file talks nonsense."""
  aspect = float(stream.sample_aspect_ratio or 1)
  return aspect if 0.25 <= aspect <= 4 else 1.0


@contextlib.contextmanager
def _video(path) -> Iterator[tuple[Any, Any]]:
  """An open container and its video stream; errors become VideoErrors."""
  try:
    with av.open(os.fspath(path), metadata_errors='ignore') as container:
      stream = container.streams.best('video')
      if stream is None:
        raise VideoError(path, 'no video stream')
      # Clips are read in parallel, so a decoder needs one thread, no more.
      stream.codec_context.thread_count = 1
      stream.codec_context.options = {'max_pixels': str(MAX_PIXELS)}
      yield container, stream
  except (av.FFmpegError, OSError) as error:
    raise VideoError(path, error.strerror or type(error).__name__) from error
