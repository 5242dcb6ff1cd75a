"""Which frames a clip has, and how a frame is brought to its size."""

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from vdm_jax.errors import ConfigError

RESIZES = ('crop', 'squash')
SHORT = ('skip', 'loop', 'error')


def span(frames: int, stride: int) -> int:
  """Frames of a video that a clip covers: (frames - 1) * stride + 1."""
  return (frames - 1) * stride + 1


def window(
  length: int,
  *,
  frames: int,
  stride: int,
  rng: np.random.Generator,
) -> Int[np.ndarray, ' t']:
  """Numbers of the frames of a clip that starts at random.

  Every start at which the clip fits is as likely. In a video that is too short
  for the clip the clip runs through the end and on from the first frame.

  Args:
    length: frames of the video, at least 1.
    frames: frames of the clip.
    stride: distance between them, in frames of the video.
    rng: where the start comes from.
  """
  starts = length - span(frames, stride) + 1
  start = int(rng.integers(starts if starts > 0 else length))
  return (start + stride * np.arange(frames)) % length


def fit(
  picture: UInt8[np.ndarray, 'h w 3'],
  *,
  size: int,
  resize: str,
  aspect: float = 1.0,
) -> UInt8[np.ndarray, 's s 3']:
  """Brings a frame to `size` by `size` pixels.

  Bicubic with a support that grows with the reduction, so without aliasing.

  Args:
    picture: RGB.
    size: in pixels.
    resize: 'crop' takes the largest square in the middle; 'squash' takes the
      whole, whatever its shape.
    aspect: width of a pixel over its height; 'crop' takes what is square to
      the eye.
  """
  height, width = picture.shape[:2]
  box = (0.0, 0.0, float(width), float(height))
  if resize == 'crop':
    side = min(width * aspect, height)
    x, y = (width - side / aspect) / 2, (height - side) / 2
    box = (x, y, width - x, height - y)
  if (height, width) == (size, size) and box[:2] == (0.0, 0.0):
    return picture
  return np.asarray(
    Image.fromarray(picture).resize(
      (size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0
    )
  )


def validate(
  *, frames: int, size: int, stride: int, resize: str, short: str = 'skip'
) -> None:
  """Raises ConfigError for options of a clip that cannot work."""
  for name, value in (('frames', frames), ('size', size), ('stride', stride)):
    if value < 1:
      raise ConfigError(f'{name} must be at least 1 (got {value}); raise it')
  for name, value, legal in (
    ('resize', resize, RESIZES),
    ('short', short, SHORT),
  ):
    if value not in legal:
      raise ConfigError(
        f'{name} is unknown (got {value!r}); use one of {", ".join(legal)}'
      )
