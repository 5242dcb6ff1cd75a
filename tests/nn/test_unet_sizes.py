"""Sizes without a config: those of Ge23, and what text adds to a network."""

import math

import jax
import jax.numpy as jnp
import pytest

from vdm_jax.nn.efficient import EfficientUNet
from vdm_jax.nn.unet import UNet


def millions(net, shape):
  """Millions of parameters, without allocating any."""
  told = {}
  if net.extra_channels:
    told['extra'] = jnp.zeros((1, *shape, net.extra_channels))
  if net.augmented:
    told['augment'] = jnp.zeros((1,))
  z = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
  logsnr = jax.ShapeDtypeStruct((1,), jnp.float32)
  tree = jax.eval_shape(
    lambda key, z, logsnr: net.init(key, z, logsnr, **told),
    jax.random.key(0),
    z,
    logsnr,
  )
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6


def count(shape, **kwargs):
  """Of a U-Net with what is common to those here."""
  arguments = {
    'attention_resolutions': (8, 16, 32),
    'head_dim': 64,
    'emb_dim': 1024,
    'num_classes': 0,
    'groups': 32,
  }
  return millions(UNet(**(arguments | kwargs)), shape)


def test_text_adds_its_pooling():
  """LayerNorm, keys, values, a query of 16 × 64, and the way out."""
  small = {'channels': 128, 'multipliers': (1, 2, 4, 8), 'blocks': 1}
  without = count((16, 64, 64), **small)
  size = count((16, 64, 64), text_dim=768, **small)
  pooling = 2 * 768 + 2 * 768 * 1024 + 1024 + (1024 + 1) * 1024
  assert size - without == pytest.approx(pooling / 1e6, abs=1e-9)


@pytest.mark.parametrize(
  ('size', 'channels', 'multipliers'),
  [
    (69, 128, (1, 2, 2, 3)),
    (112, 128, (1, 2, 3, 4)),
    (253, 192, (1, 2, 3, 4)),
  ],
)
def test_sizes_of_ge23(size, channels, multipliers):
  counted = count(
    (16, 64, 64),
    channels=channels,
    multipliers=multipliers,
    blocks=2,
    emb_dim=4 * channels,
    resample='residual',
    image_mode='bypass',
  )
  assert counted == pytest.approx(size, rel=1e-2)


# T5-XXL and CLIP-L/14, and cross-attention to both.
TEXTS = {'text_dim': 4096, 'text2_dim': 768, 'cross_attention': True}


@pytest.mark.slow
@pytest.mark.parametrize('extra_channels', [0, 4])
def test_base_and_interpolation_of_ge23(extra_channels):
  """1.08 B parameters (Ge23 §5.1); the layout is ours."""
  counted = count(
    (2, 64, 64),
    channels=384,
    multipliers=(1, 2, 3, 4),
    blocks=2,
    emb_dim=1024,
    resample='residual',
    image_mode='bypass',
    extra_channels=extra_channels,
    augmented=bool(extra_channels),
    **TEXTS,
  )
  assert counted == pytest.approx(1080, rel=1e-2)


@pytest.mark.parametrize('attention_resolutions', [(16,), ()])
def test_super_resolution_of_ge23(attention_resolutions):
  """313 M parameters (Ge23 §5.1), to 256² and 1024²; the layout is ours."""
  net = EfficientUNet(
    channels=128,
    multipliers=(1, 2, 4, 8),
    blocks=(2, 2, 4, 4),
    attention_resolutions=attention_resolutions,
    head_dim=64,
    emb_dim=512,
    extra_channels=3,
    augmented=True,
    **TEXTS,
  )
  assert millions(net, (2, 256, 256)) == pytest.approx(313, rel=3e-2)
