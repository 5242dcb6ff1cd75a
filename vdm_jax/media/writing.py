"""Videos to files: MP4, GIF, contact sheets, grids and raw arrays.

Every function takes uint8 numpy arrays and raises ValueError for any other
type or shape. Files appear whole or not at all: each is written under another
name in the same folder and then moved into place. An MP4 takes the memory of
a few frames however long it is, so a video may be a map of a file.

Arguments are annotated as plain arrays and checked by hand, so that the
message names the shape that was given, also without a type checker.
"""

import contextlib
import io
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

MIN_SIDE = 128  # hardware decoders refuse, and eyes do, much smaller pictures
MAX_SIDE = 1024  # no upscaling beyond this
_BT709 = 1  # the number of primaries, transfer and matrix alike in H.264
_BACKGROUND = 255


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
  """Yields a path to write to, moved to `path` unless the block raises.

  Missing parent folders are made. Whatever was at `path` stays whole until the
  very end, and nothing is left behind by a block that raises.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    yield part
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def display_scale(height: int, width: int, *, min_side: int = MIN_SIDE) -> int:
  """The whole factor that brings the shorter side to `min_side` or more.

  A factor never takes the longer side beyond `MAX_SIDE`, and is at least 1.
  """
  wanted = math.ceil(min_side / min(height, width))
  return max(1, min(wanted, MAX_SIDE // max(height, width)))


def encode_mp4(
  video: np.ndarray,
  fps: float | Fraction,
  *,
  crf: int = 16,
  min_side: int = MIN_SIDE,
) -> bytes:
  """Encodes a video as an MP4 file that every browser plays.

  H.264 in yuv420p with BT.709 colours (tagged as such), the index in front of
  the frames. The picture is enlarged by `display_scale`, each pixel becoming a
  square; an even factor also keeps the colour of each pixel whole in spite of
  4:2:0. A side that is still odd gets one more line, a copy of its last one.

  Args:
    video: uint8 `[t, h, w, 3]`, RGB.
    fps: frames per second, positive.
    crf: x264's quality from 0 (lossless) to 51; 16 looks like the original.
    min_side: the shorter side's least length in pixels; 1 keeps the size.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: `video` is not uint8 `[t, h, w, 3]`, has no pixel, or `fps` is
      not a positive number.
  """
  # The muxer moves the index to the front by reopening the file by its name.
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, 'video.mp4')
    write_mp4(path, video, fps, crf=crf, min_side=min_side)
    return path.read_bytes()


def write_mp4(
  path: str | os.PathLike,
  video: np.ndarray,
  fps: float | Fraction,
  *,
  crf: int = 16,
  min_side: int = MIN_SIDE,
) -> None:
  """Writes `encode_mp4(video, fps)` to `path`; see there."""
  check_uint8(video, 'video', 't h w 3')
  scale = display_scale(*video.shape[1:3], min_side=min_side)
  size, rate = video.shape[1:3], frame_rate(fps)
  _encode(path, video, size=size, rate=rate, scale=scale, crf=crf)


def write_gif(
  path: str | os.PathLike,
  video: np.ndarray,
  fps: float | Fraction,
  *,
  min_side: int = MIN_SIDE,
) -> None:
  """Writes an endless GIF with 256 colours of its own for each frame.

  The picture is enlarged as in `encode_mp4`. GIF counts time in hundredths of
  a second: frames are rounded so that the total is right, but none lasts less
  than 0.02 s, below which browsers slow down to 10 frames per second. Equal
  frames in a row are stored once, for their joint time.

  Args:
    path: where to write.
    video: uint8 `[t, h, w, 3]`, RGB.
    fps: frames per second, positive.
    min_side: the shorter side's least length in pixels; 1 keeps the size.

  Raises:
    ValueError: as `encode_mp4`.
  """
  check_uint8(video, 'video', 't h w 3')
  rate = frame_rate(fps)
  # The palette is found at the original size: enlarging adds no colour.
  scale = display_scale(*video.shape[1:3], min_side=min_side)
  size = (video.shape[2] * scale, video.shape[1] * scale)
  frames = [
    Image.fromarray(frame)
    .quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    .resize(size, Image.Resampling.NEAREST)
    for frame in video
  ]
  ends = [round(100 * i / rate) for i in range(len(video) + 1)]
  durations = [10 * max(2, b - a) for a, b in itertools.pairwise(ends)]
  data = io.BytesIO()
  frames[0].save(
    data,
    format='GIF',
    save_all=True,
    append_images=frames[1:],
    duration=durations,
    loop=0,
  )
  write_bytes(path, data.getvalue())


def contact_sheet(
  videos: np.ndarray, *, gap: int = 2
) -> UInt8[np.ndarray, 'H W 3']:
  """Lays out clips on one white picture: a row per clip, a column per frame.

  Args:
    videos: uint8 `[n, t, h, w, 3]`, RGB.
    gap: pixels between frames and around them.

  Returns:
    uint8 `[n (h + gap) + gap, t (w + gap) + gap, 3]`.

  Raises:
    ValueError: `videos` is not uint8 `[n, t, h, w, 3]` or has no pixel.
  """
  check_uint8(videos, 'videos', 'n t h w 3')
  n, t, h, w, _ = videos.shape
  sheet = np.full(
    (n * (h + gap) + gap, t * (w + gap) + gap, 3), _BACKGROUND, np.uint8
  )
  for i, j in np.ndindex(n, t):
    top, left = gap + i * (h + gap), gap + j * (w + gap)
    sheet[top : top + h, left : left + w] = videos[i, j]
  return sheet


def grid(
  videos: np.ndarray, *, columns: int | None = None, gap: int = 2
) -> UInt8[np.ndarray, 't H W 3']:
  """Lays out clips side by side as one video, row after row on white.

  Args:
    videos: uint8 `[n, t, h, w, 3]`, RGB.
    columns: clips in a row; as many as make the grid about square if None.
    gap: pixels between clips and around them.

  Returns:
    uint8 `[t, H, W, 3]` with `H = rows (h + gap) + gap` and
    `W = columns (w + gap) + gap`.

  Raises:
    ValueError: `videos` is not uint8 `[n, t, h, w, 3]`, has no pixel, or
      `columns` is not positive.
  """
  check_uint8(videos, 'videos', 'n t h w 3')
  rows, columns = _layout(videos, columns)
  return np.stack([*_grid_frames(videos, rows, columns, gap=gap)])


def _layout(videos: np.ndarray, columns: int | None) -> tuple[int, int]:
  """Rows and columns of a grid."""
  n, _, h, w, _ = videos.shape
  columns = math.ceil(math.sqrt(n * h / w)) if columns is None else columns
  if columns < 1:
    raise ValueError(f'columns must be positive, got {columns}')
  columns = min(columns, n)
  return math.ceil(n / columns), columns


def _grid_frames(
  videos: np.ndarray, rows: int, columns: int, *, gap: int
) -> Iterator[np.ndarray]:
  """The frames of `grid`, one after the other."""
  n, t, h, w, _ = videos.shape
  table = np.full((rows * columns, h, w, 3), _BACKGROUND, np.uint8)
  for i in range(t):
    table[:n] = videos[:, i]
    yield contact_sheet(table.reshape(rows, columns, h, w, 3), gap=gap)


def grid_capacity(height: int, width: int) -> int:
  """How many clips of that size fit in a grid that every device decodes."""
  side = 2 * MAX_SIDE
  return max(1, side // (height + 2)) * max(1, side // (width + 2))


def write_grid_mp4(
  path: str | os.PathLike,
  videos: np.ndarray,
  fps: float | Fraction,
  *,
  columns: int | None = None,
  min_side: int = MIN_SIDE,
) -> None:
  """Writes all clips `[n, t, h, w, 3]` as one MP4, laid out by `grid`.

  Each clip is enlarged by `display_scale` as long as the grid's longer side
  stays within `MAX_SIDE`. Raises ValueError as `grid` and `encode_mp4`.
  """
  check_uint8(videos, 'videos', 'n t h w 3')
  rows, columns = _layout(videos, columns)
  h, w = videos.shape[2:4]
  size = rows * (h + 2) + 2, columns * (w + 2) + 2
  scale = display_scale(h, w, min_side=min_side)
  _encode(
    path,
    _grid_frames(videos, rows, columns, gap=2),
    size=size,
    rate=frame_rate(fps),
    scale=max(1, min(scale, MAX_SIDE // max(size))),
    crf=20,
  )


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes a uint8 `[h, w, 3]` picture as PNG; ValueError if it is not one."""
  check_uint8(image, 'image', 'h w 3')
  data = io.BytesIO()
  Image.fromarray(image).save(data, format='PNG')
  write_bytes(path, data.getvalue())


def write_array(path: str | os.PathLike, videos: np.ndarray) -> None:
  """Writes raw uint8 `[n, t, h, w, 3]` in numpy's format: nothing is lost.

  Raises ValueError for another type or shape. `numpy.load` reads it back.
  """
  check_uint8(videos, 'videos', 'n t h w 3')
  with atomic_file(path) as part, part.open('wb') as file:
    np.save(file, videos, allow_pickle=False)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes JSON; array elements become numbers, other objects their text."""

  def plain(value: Any) -> Any:
    return value.item() if hasattr(value, 'item') else str(value)

  write_bytes(path, json.dumps(value, indent=1, default=plain).encode())


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a whole file at once, or nothing."""
  with atomic_file(path) as part:
    part.write_bytes(data)


def _encode(
  path: str | os.PathLike,
  frames: Iterable[np.ndarray],
  *,
  size: tuple[int, int],
  rate: Fraction,
  scale: int,
  crf: int,
) -> None:
  """Writes frames `[h, w, 3]` of one size as an MP4, enlarged one by one."""
  options = {'movflags': '+faststart'}
  with (
    atomic_file(path) as part,
    # FFmpeg takes what stands before a colon for a protocol, but not here.
    av.open(str(part.absolute()), 'w', 'mp4', options=options) as container,
  ):
    stream = container.add_stream('libx264', rate=rate)
    stream.height, stream.width = (n * scale + n * scale % 2 for n in size)
    stream.pix_fmt = 'yuv420p'
    stream.options = {'crf': str(crf), 'preset': 'medium'}
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = av.video.reformatter.ColorRange.MPEG
    for pixels in frames:
      frame = av.VideoFrame.from_ndarray(
        _enlarge(pixels, scale), format='rgb24'
      )
      frame = frame.reformat(
        format='yuv420p',
        dst_colorspace=av.video.reformatter.Colorspace.ITU709,
        dst_color_range=av.video.reformatter.ColorRange.MPEG,
      )
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
  """Makes pixels squares, and odd sides even by one more line."""
  large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
  h, w = large.shape[:2]
  return np.pad(large, ((0, h % 2), (0, w % 2), (0, 0)), mode='edge')


def frame_rate(fps: float | Fraction) -> Fraction:
  """The rate as files hold it; ValueError unless positive and finite."""
  if not (math.isfinite(fps) and fps > 0):
    raise ValueError(f'fps must be a positive number, got {fps}')
  rate = Fraction(fps).limit_denominator(1001)
  if not rate:
    raise ValueError(f'fps must be at least 1/1001, got {fps}')
  return rate


def check_uint8(array: np.ndarray, name: str, shape: str) -> None:
  """Raises ValueError unless `array` is uint8, of axes as in 't h w 3'."""
  if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
    kind = getattr(array, 'dtype', type(array).__name__)
    raise ValueError(f'{name} must be a numpy array of uint8, got {kind}')
  wanted = shape.split()
  if array.ndim != len(wanted) or array.shape[-1] != 3 or not array.size:
    raise ValueError(f'{name} must be [{shape}], got {list(array.shape)}')
