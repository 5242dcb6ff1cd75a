"""A small network that sees what moving shapes do; ours, and no I3D.

The Fréchet distance of its features is called `shapes_fd`. It compares clips of
moving shapes with each other in seconds on a CPU. Its numbers have nothing to
do with those of FVD, whose network was trained on Kinetics.

The network is trained by `vdm_jax.train_features` to tell the truth about a
clip: shape, colour, size, places, movement, noise, and whether the frames come
in an order in which they could have been drawn.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vdm_jax.errors import DataError

PyTree = Any
NAME = 'shapes'
SIZE = 16  # the height and width that the network sees, in pixels
LEAST_FRAMES = 4  # the span of its two layers over time
FEATURES = 64
SHAPES = 3
ORDERS = ('played', 'shuffled', 'frozen', 'back and forth')
# What is estimated as numbers, and how many of them.
TRUTH: Mapping[str, int] = {
  'colour': 3,  # RGB in [−1, 1]
  'radius': 1,  # this and all below: as a share of the frame's side
  'place': 2,  # (x, y), mean over the frames
  'spread': 2,  # standard deviation over the frames
  'drift': 2,  # mean movement between two frames
  'speed': 2,  # mean absolute movement
  'turns': 2,  # mean absolute change of movement
  'noise': 1,  # standard deviation of white noise, of values in [−1, 1]
}
OUTPUTS: Mapping[str, int] = {
  'features': FEATURES,
  'shape': SHAPES,
  'order': len(ORDERS),
  'truth': sum(TRUTH.values()),
}


class ShapesNetwork(nn.Module):
  """Layers over each frame, layers over time, and means over time.

  Attributes:
    channels: of the layers over a frame.
    width: of the vectors that stand for a frame and for a few frames in a row.
    features: of the features.
  """

  channels: tuple[int, int, int] = (24, 32, 48)
  width: int = 64
  features: int = FEATURES

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n t h w 3']
  ) -> dict[str, Float[Array, 'n _']]:
    """Everything the network says of clips.

    Args:
      x: as of `prepare`.

    Returns:
      `features`, standardised by those of real clips: of zero mean and unit
      variance there. `shape` and `order`, logits over the three shapes and over
      ORDERS. `truth`, the numbers of TRUTH one after the other.
    """
    n, t = x.shape[:2]
    frames = x.reshape(n * t, *x.shape[2:])
    first, second, third = self.channels
    frames = nn.silu(nn.Conv(first, (4, 4), 2, name='conv_0')(frames))
    frames = nn.silu(nn.Conv(second, (3, 3), name='conv_1')(frames))
    frames = nn.silu(nn.Conv(third, (3, 3), 2, name='conv_2')(frames))
    # Flat, not averaged: a place is told by where it is.
    frames = nn.Dense(self.width, name='frame')(frames.reshape(n, t, -1))
    moves = nn.silu(nn.Dense(self.width, name='time_0')(windows(frames, 3)))
    moves = nn.silu(nn.Dense(self.width, name='time_1')(windows(moves, 2)))
    mean = frames.mean(axis=1)
    change = jnp.abs(frames - mean[:, None]).mean(axis=1)
    clip = jnp.concatenate(
      [mean, change, moves.mean(axis=1), moves.max(axis=1)], axis=-1
    )
    clip = nn.silu(nn.Dense(2 * self.width, name='clip')(clip))
    clip = nn.Dense(self.features, name='features')(clip)
    return {
      'features': self.standardised(clip),
      'shape': nn.Dense(SHAPES, name='shape')(clip),
      'order': nn.Dense(len(ORDERS), name='order')(clip),
      'truth': nn.Dense(sum(TRUTH.values()), name='truth')(clip),
    }

  def standardised(self, clip: Float[Array, 'n f']) -> Float[Array, 'n f']:
    """(features − mean) / deviation; both are set after training."""
    shape, constant = (self.features,), nn.initializers.constant
    mean = self.param('mean', constant(0.0), shape)
    deviation = self.param('deviation', constant(1.0), shape)
    return (clip - mean[None]) / deviation[None]


def windows(x: Float[Array, 'n t c'], length: int) -> Float[Array, 'n s d']:
  """All runs of `length` steps in a row, each as one vector."""
  count = x.shape[1] - length + 1
  return jnp.concatenate([x[:, i : i + count] for i in range(length)], axis=-1)


def prepare(
  videos: Float[Array, 'n t h w 3'],
) -> Float[Array, 'n t 16 16 3']:
  """What the network takes: frames of 16 by 16 pixels.

  Args:
    videos: RGB in [−1, 1]. Other sizes are made smaller by a triangle filter
      that is as wide as it must be, or larger linearly.

  Raises:
    DataError: clips of fewer than 4 frames.
  """
  n, t, h, w, _ = videos.shape
  if t < LEAST_FRAMES:
    raise DataError(
      f'clips are too short for the network of shapes ({t} frames); give '
      f'{LEAST_FRAMES} or more'
    )
  if (h, w) == (SIZE, SIZE):
    return videos
  return jax.image.resize(videos, (n, t, SIZE, SIZE, 3), 'linear')


def features(
  params: PyTree, videos: Float[Array, 'n t h w 3']
) -> Float[Array, 'n f']:
  """The features of clips, of which `shapes_fd` is the Fréchet distance.

  Args:
    params: of a trained `ShapesNetwork` of standard size.
    videos: RGB in [−1, 1], 4 frames or more.

  Raises:
    DataError: clips of fewer than 4 frames.
  """
  with jax.default_matmul_precision('highest'):
    said = ShapesNetwork().apply({'params': params}, prepare(videos))
  return said['features']
