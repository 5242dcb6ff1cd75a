"""What training carries from step to step, and nothing else."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

PyTree = Any


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes.

  Attributes:
    step: int32 scalar, the number of steps taken, also of those that were not
      finite and left the rest as it was: data and noise are functions of it.
    params: float32 parameters of the network.
    ema_params: their exponential moving average, which is what is sampled.
    opt_state: the optimizer's state.
  """

  step: PyTree
  params: PyTree
  ema_params: PyTree
  opt_state: PyTree


def init_params(model, key, *, frames: int, size: int) -> PyTree:
  """Parameters of a network; they do not depend on frames or labels."""
  shape = (1, frames, size, size)
  video, conditions = jnp.zeros((*shape, 3)), {}
  if model.num_strides:
    conditions['stride'] = jnp.zeros((1,), jnp.int32)
  if model.extra_channels:
    conditions['extra'] = jnp.zeros((*shape, model.extra_channels))
  if model.augmented:
    conditions['augment'] = jnp.zeros((1,))
  return model.init(key, video, jnp.zeros((1,)), **conditions)['params']


def create(params: PyTree, tx: optax.GradientTransformation) -> TrainState:
  """The state before the first step; the average starts at the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=tx.init(params),
  )


def ema(old: PyTree, new: PyTree, decay: float) -> PyTree:
  """decay · old + (1 − decay) · new, leaf by leaf."""
  return jax.tree.map(lambda o, n: o + (1 - decay) * (n - o), old, new)
