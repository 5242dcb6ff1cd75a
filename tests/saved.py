"""Runs on disk that nobody trained: checkpoints of random parameters."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import build, checkpoint, claims, identity, sample, sharding
from vdm_jax import state as state_lib
from vdm_jax.conditions import Conditions


def run(workdir, config, told=None, *, step=1, scale=1.0):
  """Writes a checkpoint into a workdir; returns its averaged parameters.

  Args:
    workdir: of the run.
    config: its settings.
    told: what its network is told; what the data have to tell, if None.
    step: of the checkpoint.
    scale: of the averaged parameters; the others are twice as large.
  """
  told = told or Conditions()
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  shapes = sample.abstract_params(config, build.model(config, told), mesh)
  rng = np.random.default_rng(0)
  ema = jax.tree.map(
    lambda a: np.float32(0.2 * scale * rng.standard_normal(a.shape)), shapes
  )
  params = jax.tree.map(lambda a: 2 * a, ema)
  state = state_lib.TrainState(
    jnp.int32(step), params, ema, build.optimizer(config).init(params)
  )
  claims.claim(workdir, config)
  checkpoints = checkpoint.Checkpoints(workdir)
  checkpoints.save(
    state,
    {
      'config': json.loads(identity.to_json(config)),
      'conditions': dataclasses.asdict(told),
      'data': {},
    },
  )
  checkpoints.close()
  return ema
