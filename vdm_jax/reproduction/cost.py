"""What training and sampling cost, counted from the programs themselves.

The network is traced on shapes alone: nothing is allocated and nothing is
compiled. Counted are the multiplications and additions of all convolutions and
matrix products, two for each product; the rest, a few per cent, is not. What
is computed twice to save memory (`config.model.remat`) counts once, except in
reconstruction guidance, which always does so.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax import build, refine, windows
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions
from vdm_jax.planning.flops import count

# The gradient of a layer by its input and by its parameters costs what the
# layer costs, each.
BACKWARD = 2
# The gradient by the input alone, and the forward pass of which it is.
GUIDED = 3
PEAK = 989e12  # FLOP/s of an H100 in bfloat16, dense
UTILISATION = 0.4


@dataclasses.dataclass(frozen=True)
class Forward:
  """A forward pass of one example.

  Attributes:
    flops: of it.
    parameters: of the network.
  """

  flops: float
  parameters: int


def training(config, told: Conditions) -> float:
  """FLOPs of a whole training."""
  c = config.train
  pass_ = forward(config, told, images=config.data.images)
  return (1 + BACKWARD) * pass_.flops * c.batch_size * c.steps


def sampling(config, told: Conditions, *, frames: int = 0, known: int = 0):
  """FLOPs of sampling one video.

  Args:
    config: of the model, with its section `sample`.
    told: what the model is told of a video.
    frames: of the video; 0 for those that the model makes at once.
    known: its first frames, which are given.
  """
  c, own = config.sample, config.data.frames
  plan = windows.plan(
    frames or own,
    own,
    order=c.order,
    overlap=c.overlap,
    key_stride=c.key_stride,
    given=range(known),
  )
  once = forward(config, told, whole=True).flops
  calls = build.CALLS.get(c.sampler, 1) * c.steps
  calls *= 2 if c.guidance_scale != 1 else 1
  towards = c.conditioning == 'reconstruction'
  return sum(
    once * calls * (GUIDED if towards and window.known else 1)
    for window in plan
  )


def forward(
  config, told: Conditions, *, images: int = 0, whole: bool = False
) -> Forward:
  """Counts a forward pass of one example.

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
  slots = 1 + images
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
  video = (1, frames, size, size)
  if network.extra_channels:
    given['extra'] = jax.ShapeDtypeStruct(
      (*video, network.extra_channels), jnp.float32
    )
  level = jax.ShapeDtypeStruct((1,), jnp.float32)
  if network.augmented:
    given['augment'] = level
  z = jax.ShapeDtypeStruct((*video, 3), jnp.float32)

  def both(key, z, level, given):
    return network.init_with_output(key, z, level, image_frames=images, **given)

  # One tracing for the shapes of the parameters and for the pass.
  traced, (_, variables) = jax.make_jaxpr(both, return_shape=True)(
    jax.random.key(0), z, level, given
  )
  sizes = [math.prod(p.shape) for p in jax.tree.leaves(variables['params'])]
  return Forward(flops(traced.jaxpr), sum(sizes))


def flops(jaxpr: Any) -> float:
  """FLOPs of the convolutions and matrix products of a traced program."""
  return count(jaxpr, padded=True)


def hours(flops: float) -> float:
  """Hours of one H100 at the utilisation that is assumed."""
  return flops / (UTILISATION * PEAK) / 3600


def short(value: float) -> str:
  """FLOPs as 12.3 EFLOP; a dash for none."""
  if not value:
    return '–'
  for unit, scale in (('ZFLOP', 1e21), ('EFLOP', 1e18), ('PFLOP', 1e15)):
    if value >= scale:
      return f'{value / scale:.3g} {unit}'
  return f'{value / 1e12:.3g} TFLOP'
