"""Clips that are wrong in one known way each, to try a metric with.

A metric that is worth its name puts real clips first, real clips with a little
noise next, and everything else far behind.
"""

import numpy as np
from jaxtyping import Int, UInt8

from vdm_jax.errors import DataError

Videos = UInt8[np.ndarray, 'n t h w 3']

NOISE = 8.0  # standard deviation, of values from 0 to 255
# R, G and B are halved and leak into each other: every colour of the shapes
# turns into one that none of them has, and the dark ground stays dark.
MIXTURE = np.array([[0.5, 0.2, 0.0], [0.0, 0.5, 0.2], [0.2, 0.0, 0.5]])


def controlled(
  videos: Videos,
  rng: np.random.Generator,
  frames: int | None = None,
) -> dict[str, UInt8[np.ndarray, 'n _ h w 3']]:
  """The clips as they are, and spoilt in every way there is.

  Args:
    videos: real clips, of 4 frames or more.
    rng: what is random comes of it.
    frames: of each clip that is returned, the first ones; None takes all.
      Where `videos` have twice as many, there are clips of twice the speed too.

  Returns:
    By name: `real`; `noised`, by white noise of σ = 8 of 255; `shuffled`, the
    frames in random order; `frozen`, the first frame all the time; `slowed`,
    every frame twice; `hurried`, every other frame, if there are enough;
    `flickering`, R, G and B exchanged anew in every frame; `recoloured`, the
    same wrong colours in all frames.

  Raises:
    DataError: the clips are shorter than `frames`, or than 4 frames.
  """
  t = videos.shape[1] if frames is None else frames
  if not 4 <= t <= videos.shape[1]:
    raise DataError(
      f'controls of {t} frames cannot be made of clips of {videos.shape[1]}; '
      'ask for 4 frames or more, and give clips that have them'
    )
  real, n = videos[:, :t], np.arange(len(videos))[:, None]
  made = {
    'real': real,
    'noised': to_uint8(real + NOISE * rng.normal(size=real.shape)),
    'shuffled': real[n, shuffles(len(real), t, rng)],
    'frozen': np.repeat(real[:, :1], t, axis=1),
    'slowed': real[:, np.arange(t) // 2],
  }
  if videos.shape[1] >= 2 * t - 1:
    made['hurried'] = videos[:, : 2 * t - 1 : 2]
  channels = rng.permuted(np.tile(np.arange(3), (len(real), t, 1)), axis=-1)
  channels = channels[:, :, None, None]
  made['flickering'] = np.take_along_axis(real, channels, axis=-1)
  made['recoloured'] = to_uint8(real @ MIXTURE)
  return made


def shuffles(
  n: int, t: int, rng: np.random.Generator
) -> Int[np.ndarray, 'n t']:
  """`n` orders of `t` frames, none of which is time's own or its reverse."""
  orders = rng.permuted(np.tile(np.arange(t), (n, 1)), axis=-1)
  straight = (np.abs(np.diff(orders, axis=-1)) == 1).all(axis=-1)
  # Even numbers first: no step of it is that of time.
  orders[straight] = np.argsort(np.arange(t) % 2, kind='stable')
  return orders


def to_uint8(values: np.ndarray) -> Videos:
  """Rounded and cut to what a byte holds."""
  return np.clip(np.rint(values), 0, 255).astype(np.uint8)
