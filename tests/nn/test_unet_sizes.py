"""Sizes without a config: those of Ge23, and what text adds to a network."""

import math

import jax
import jax.numpy as jnp
import pytest

from vdm_jax.nn.unet import UNet


def count(shape, **kwargs):
  """Millions of parameters, without allocating any."""
  arguments = {
    'attention_resolutions': (8, 16, 32),
    'head_dim': 64,
    'emb_dim': 1024,
    'num_classes': 0,
    'groups': 32,
  }
  net = UNet(**(arguments | kwargs))
  z = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
  logsnr = jax.ShapeDtypeStruct((1,), jnp.float32)
  tree = jax.eval_shape(net.init, jax.random.key(0), z, logsnr)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6


def test_text_adds_its_pooling():
  """LayerNorm, keys, values, a query of 16 × 64, and the way out."""
  small = {'channels': 128, 'multipliers': (1, 2, 4, 8), 'blocks': 1}
  without = count((16, 64, 64), **small)
  size = count((16, 64, 64), text_dim=768, **small)
  pooling = 2 * 768 + 2 * 768 * 1024 + 1024 + (1024 + 1) * 1024
  assert size - without == pytest.approx(pooling / 1e6, abs=1e-9)


@pytest.mark.parametrize(
  ('millions', 'channels', 'multipliers'),
  [
    (69, 128, (1, 2, 2, 3)),
    (112, 128, (1, 2, 3, 4)),
    (253, 192, (1, 2, 3, 4)),
  ],
)
def test_sizes_of_ge23(millions, channels, multipliers):
  size = count(
    (16, 64, 64),
    channels=channels,
    multipliers=multipliers,
    blocks=2,
    emb_dim=4 * channels,
    resample='residual',
    image_mode='bypass',
  )
  assert size == pytest.approx(millions, rel=1e-2)
