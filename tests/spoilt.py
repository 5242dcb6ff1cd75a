"""Clips that spoil a training: white ones, and ones that cannot be read."""

import jax.numpy as jnp
import numpy as np

from vdm_jax import errors
from vdm_jax.data import shapes


class Spoilt(shapes.Shapes):
  """Shapes, of which some are white: `to_float` makes these not finite."""

  def __init__(self, white=(), broken=(), *, length=1000):
    super().__init__(frames=3, size=8, length=length)
    self._white, self._broken = frozenset(white), frozenset(broken)

  def clip(self, index, rng):
    if index in self._broken:
      raise errors.DataError(f'clip {index} is damaged; mend it')
    clip = super().clip(index, rng)
    if index in self._white:
      clip['video'] = np.full_like(clip['video'], 255)
    return clip

  def signature(self):
    spoilt = {'white': sorted(self._white), 'broken': sorted(self._broken)}
    return super().signature() | spoilt


def to_float(value):
  """Stands in for `step.to_float`: white clips become a number."""

  def convert(video):
    white = jnp.all(video == 255, axis=(1, 2, 3, 4), keepdims=True)
    return jnp.where(white, value, video / jnp.float32(127.5) - 1)

  return convert
