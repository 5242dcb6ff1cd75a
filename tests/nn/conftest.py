"""Networks whose zero-initialised layers have been given random values."""

import jax
import jax.numpy as jnp
import pytest


def _randomize(params, seed=7, scale=1.0):
  """Replaces each parameter by noise that keeps activations of order 1."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))

  def draw(key, leaf):
    noise = scale * jax.random.normal(key, leaf.shape)
    if leaf.ndim == 1:
      return leaf + 0.1 * noise
    return noise / jnp.sqrt(leaf.size / leaf.shape[-1])

  return jax.tree.unflatten(tree, list(map(draw, keys, leaves)))


@pytest.fixture(scope='session')
def randomize():
  return _randomize
