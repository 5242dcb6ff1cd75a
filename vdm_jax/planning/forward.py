"""A forward pass of a network, counted on shapes alone.

Nothing is allocated and nothing is compiled. Counted are the products of
`flops.count`, two FLOPs for each; the rest, a few per cent, is not.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax import build, refine
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions
from vdm_jax.planning import flops


@dataclasses.dataclass(frozen=True)
class Forward:
  """A forward pass of one example, told all that the network can be told.

  Attributes:
    flops: of numbers that are there.
    padded: those with the padding of convolutions besides, as papers count.
    parameters: of the network.
  """

  flops: float
  padded: float
  parameters: int


def forward(
  config, told: Conditions, *, images: int = 0, whole: bool = False
) -> Forward:
  """Counts a forward pass; what remat computes twice counts once.

  Args:
    config: of the model.
    told: what it is told of a video.
    images: packed behind the video.
    whole: of whole frames, where the model is trained on crops.
  """
  changes = {'model.remat': 'none', 'model.dtype': 'float32'}
  config = config_lib.varied(config, changes)
  size = config.data.size if whole else refine.training_size(config)
  network = build.model(config, told)
  if whole:
    network = refine.for_whole_frames(config, network)
  frames = config.data.frames + images
  return _counted(network, told, frames, images, size, config.text.max_length)


@functools.cache
def _counted(
  network: Any, told: Conditions, frames: int, images: int, size: int, length
) -> Forward:
  """The same, once for each network and shape."""
  video = (1, frames, size, size)
  given = _told(told, 1 + images, length)
  if network.extra_channels:
    given['extra'] = jax.ShapeDtypeStruct(
      (*video, network.extra_channels), jnp.float32
    )
  level = jax.ShapeDtypeStruct((1,), jnp.float32)
  if network.augmented:
    given['augment'] = level
  z = jax.ShapeDtypeStruct((*video, 3), jnp.float32)

  def make(key, z, level, given):
    return network.init_with_output(key, z, level, image_frames=images, **given)

  # One tracing for the shapes of the parameters and for the pass.
  traced, (_, variables) = jax.make_jaxpr(make, return_shape=True)(
    jax.random.key(0), z, level, given
  )
  sizes = [math.prod(p.shape) for p in jax.tree.leaves(variables['params'])]
  both = (flops.count(traced.jaxpr, padded=p) for p in (False, True))
  return Forward(*both, sum(sizes))


def _told(told: Conditions, slots: int, length: int) -> dict[str, Any]:
  """Shapes of the conditions of one example."""
  given: dict[str, Any] = {}
  for n in told.texts:
    dim = getattr(told, f'text{n}_dim')
    words, kind = (1, slots, length), jnp.int32
    if told.text == 'embeddings':
      words, kind = (*words, dim), jnp.float32
    given[f'text{n}'] = jax.ShapeDtypeStruct(words, kind)
    given[f'text{n}_mask'] = jax.ShapeDtypeStruct((1, slots, length), bool)
  if told.classes:
    given['label'] = jax.ShapeDtypeStruct((1, slots), jnp.int32)
  if told.strides:
    given['stride'] = jax.ShapeDtypeStruct((1,), jnp.int32)
  return given
