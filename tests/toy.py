"""A training of a few lines around the same checkpoints as the real one."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vdm_jax import checkpoint, distributed, lock, sharding
from vdm_jax.state import TrainState

META = {'config': {}, 'data': {'elements': 3}}
TX = optax.adam(1e-2)


def first() -> TrainState:
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((256, 512)).astype(np.float32)
  params = {'conv': {'kernel': jnp.asarray(kernel), 'bias': jnp.zeros(7)}}
  return TrainState(jnp.int32(0), params, params, TX.init(params))


def advance(state: TrainState) -> TrainState:
  key = jax.random.key(state.step)
  grads = jax.tree.map(
    lambda p: p + jax.random.normal(key, p.shape), state.params
  )
  updates, opt = TX.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  ema = jax.tree.map(lambda e, p: e + 0.1 * (p - e), state.ema_params, params)
  return TrainState(state.step + 1, params, ema, opt)


def run(
  workdir,
  mesh,
  *,
  steps,
  every,
  keep=2,
  begun=lambda n: None,
  stepped=lambda n: None,
  save=lambda checkpoints, state: checkpoints.save(state, META),
):
  """Trains on a mesh and saves; all processes together.

  Args:
    workdir: of the run.
    mesh: the devices.
    steps: how many.
    every: so many it saves.
    keep: so many checkpoints.
    begun: called with the step that it begins with.
    stepped: called after every step.
    save: saves.
  """
  shapes = jax.eval_shape(first)
  shardings = sharding.tree_shardings(mesh, shapes)
  abstract = checkpoint.abstract_like(shapes, shardings)
  place = {'out_shardings': shardings}
  init = jax.jit(first, **place).lower().compile()
  step = jax.jit(advance, donate_argnums=0, **place).lower(abstract).compile()
  distributed.barrier('compiled')
  with lock.hold(workdir), checkpoint.Checkpoints(workdir, keep=keep) as found:
    restored = found.restore(abstract)
    state = restored[0] if restored else init()
    begun(int(state.step))
    for n in range(int(state.step) + 1, steps + 1):
      state = step(state)
      jax.block_until_ready(state)
      stepped(n)
      found.poll()
      if n % every == 0:
        save(found, state)
      time.sleep(0.002)
  return state
