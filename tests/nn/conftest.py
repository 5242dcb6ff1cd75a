"""Networks whose zero-initialised layers have been given random values."""

import jax
import numpy as np
import pytest


def _randomize(module, *args, **kwargs):
  """Parameters of order 1/√fan_in, whatever the initialisers say.

  Drawn on the host: compiling `init` costs more than the tests.
  """
  rng = np.random.default_rng(7)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape, np.float32)
    if path[-1].key == 'scale':
      return 1 + 0.1 * noise
    if leaf.ndim == 1:
      return 0.1 * noise
    return noise / np.float32(leaf.size / leaf.shape[-1]) ** 0.5

  shapes = jax.eval_shape(module.init, jax.random.key(0), *args, **kwargs)
  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope='session')
def randomize():
  return _randomize
