import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.nn.blocks import (
  GroupNorm,
  Resample,
  ResBlock,
  downsample_mean,
  upsample_nearest,
)


def video(seed=0, shape=(2, 3, 4, 4, 8)):
  return jax.random.normal(jax.random.key(seed), shape)


def test_norm_equals_the_reference_on_each_frame(randomize):
  x = 3 + 2 * video()
  norm = GroupNorm(4)
  params = randomize(norm, x)
  reference = nn.GroupNorm(4, use_fast_variance=False)
  expected = reference.apply(params, x.reshape(-1, 4, 4, 8)).reshape(x.shape)
  np.testing.assert_allclose(norm.apply(params, x), expected, atol=2e-5)
  # Negative control: statistics over time are another function.
  leaky = reference.apply(params, x)
  assert np.abs(leaky - expected).max() > 0.01


def test_norm_then_scale_shift_and_swish(randomize):
  x, scale, shift = video(), video(1, (2, 3, 8)), video(2, (2, 1, 8))
  params = randomize(GroupNorm(2), x)
  y = GroupNorm(2).apply(params, x)
  y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
  z = GroupNorm(2, swish=True).apply(params, x, scale, shift)
  np.testing.assert_allclose(z, y * jax.nn.sigmoid(y), atol=1e-5)


def test_norm_of_more_groups_than_channels_is_one_group_a_channel():
  x = video()
  params = GroupNorm(32).init(jax.random.key(0), x)
  y = GroupNorm(32).apply(params, x)
  expected = (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True)
  np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize('offset', [0.0, 300.0])
def test_variance_survives_channel_offsets(offset):
  """Offsets that differ by channel, as biases make them."""
  x = video() + offset * jnp.arange(8.0).reshape(1, 1, 1, 1, 8)
  y = GroupNorm(2).apply(GroupNorm(2).init(jax.random.key(0), x), x)
  x = np.asarray(x, np.float64).reshape(2, 3, 4, 4, 2, 4)
  mean = x.mean((2, 3, 5), keepdims=True)
  expected = (x - mean) / x.std((2, 3, 5), keepdims=True)
  np.testing.assert_allclose(y, expected.reshape(y.shape), atol=1e-4)


def test_bf16_norm_keeps_float32_statistics():
  """256 + noise: bfloat16 sums would lose the noise altogether."""
  x = (256 + 8 * video()).astype(jnp.bfloat16)
  params = GroupNorm(2).init(jax.random.key(0), x)
  y = GroupNorm(2, dtype=jnp.bfloat16).apply(params, x)
  expected = GroupNorm(2).apply(params, x.astype(jnp.float32))
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    y.astype(jnp.float32), expected, rtol=2**-8, atol=1e-4
  )


def test_upsampling_repeats_and_averaging_undoes_it():
  x = video()
  y = upsample_nearest(x)
  np.testing.assert_array_equal(y, x.repeat(2, 2).repeat(2, 3))
  np.testing.assert_array_equal(downsample_mean(y), x)


def test_averaging_takes_the_mean_of_each_square():
  x = jnp.arange(16.0).reshape(1, 1, 4, 4, 1)
  expected = np.array([[2.5, 4.5], [10.5, 12.5]])
  np.testing.assert_array_equal(downsample_mean(x)[0, 0, :, :, 0], expected)


@pytest.mark.parametrize('features', [8, 16])
def test_residual_block_starts_as_its_shortcut(features):
  x, emb = video(), video(1, (2, 1, 5))
  block = ResBlock(features, 4)
  params = block.init(jax.random.key(0), x, emb)
  y = block.apply(params, x, emb)
  if features == 8:
    assert 'shortcut' not in params['params']
    np.testing.assert_array_equal(y, x)
  else:
    kernel = params['params']['shortcut']['kernel'][0, 0]
    np.testing.assert_allclose(y, x @ kernel, atol=1e-5)


def test_block_conditions_each_frame_by_its_own_vector(randomize):
  x, emb = video(), video(1, (2, 3, 5))
  block = ResBlock(8, 4)
  params = randomize(block, x, emb)
  y = block.apply(params, x, emb)
  changed = block.apply(params, x, emb.at[:, 1].add(1.0))
  np.testing.assert_array_equal(y[:, ::2], changed[:, ::2])
  assert np.abs(y[:, 1] - changed[:, 1]).max() > 0.01


def test_dropout_runs_in_training_only(randomize):
  x, emb = video(), video(1, (2, 1, 5))
  params = randomize(ResBlock(8, 4), x, emb)
  quiet = ResBlock(8, 4, dropout=0.5).apply(params, x, emb)
  np.testing.assert_array_equal(quiet, ResBlock(8, 4).apply(params, x, emb))
  noisy = ResBlock(8, 4, dropout=0.5, train=True).apply(
    params, x, emb, rngs={'dropout': jax.random.key(1)}
  )
  assert np.abs(noisy - quiet).max() > 0.01


@pytest.mark.parametrize('kind', ['plain', 'residual'])
@pytest.mark.parametrize(('direction', 'side'), [('up', 8), ('down', 2)])
def test_resampling_halves_or_doubles_each_frame(
  randomize, kind, direction, side
):
  x, emb = video(), video(1, (2, 1, 5))
  module = Resample(kind, direction, 4)
  params = randomize(module, x, emb)
  y = module.apply(params, x, emb)
  assert y.shape == (2, 3, side, side, 8)
  one = module.apply(params, x[:, 1:2], emb)
  np.testing.assert_allclose(y[:, 1:2], one, atol=1e-5)


def test_residual_resampling_starts_as_plain_resampling():
  x, emb = video(), video(1, (2, 1, 5))
  up, down = (Resample('residual', way, 4) for way in ('up', 'down'))
  y = up.apply(up.init(jax.random.key(0), x, emb), x, emb)
  np.testing.assert_array_equal(y, upsample_nearest(x))
  y = down.apply(down.init(jax.random.key(0), x, emb), x, emb)
  np.testing.assert_array_equal(y, downsample_mean(x))
