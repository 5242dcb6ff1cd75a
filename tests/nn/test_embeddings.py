import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.nn.embeddings import (
  ClassEmbedding,
  ConditioningMLP,
  inv_cos,
  sinusoidal,
)


def test_inv_cos_inverts_the_cosine_schedule():
  u = jnp.linspace(0.01, 0.99, 50)
  logsnr = -2 * jnp.log(jnp.tan(math.pi / 2 * u))
  np.testing.assert_allclose(inv_cos(logsnr), u, atol=1e-6)


def test_inv_cos_stays_within_zero_and_one():
  u = inv_cos(jnp.array([jnp.inf, 20.0, -20.0, -jnp.inf]))
  assert u[0] == u[1] > 0
  assert u[2] == u[3] <= 1


def test_sinusoidal_is_sine_then_cosine_from_rate_1_to_1e4():
  x = sinusoidal(jnp.array([0.7]), 6)[0]
  np.testing.assert_allclose(x[0], math.sin(0.7), rtol=1e-6)
  np.testing.assert_allclose(x[2], math.sin(0.7e-4), rtol=1e-5)
  np.testing.assert_allclose(x[:3] ** 2 + x[3:] ** 2, np.ones(3), rtol=1e-6)


@pytest.mark.parametrize('dim', [2, 7])
def test_sinusoidal_refuses_dim(dim):
  with pytest.raises(ValueError, match='even'):
    sinusoidal(jnp.zeros(1), dim)


def test_null_label_is_exactly_zero_and_others_are_their_rows():
  embed = ClassEmbedding(3, 4)
  labels = jnp.array([[0, 1, 2, -1]])
  params = embed.init(jax.random.key(0), labels)
  rows = embed.apply(params, labels)
  table = params['params']['embedding']
  np.testing.assert_array_equal(rows[0, :3], table)
  np.testing.assert_array_equal(rows[0, 3], np.zeros(4))
  assert np.abs(table).min() > 0


@pytest.mark.parametrize('label', [3, -2])
def test_label_out_of_range_is_nan_but_its_gradient_is_not(label):
  embed = ClassEmbedding(3, 4)
  labels = jnp.array([[0, label]])
  params = embed.init(jax.random.key(0), labels)
  rows = embed.apply(params, labels)
  assert np.isfinite(rows[0, 0]).all()
  assert np.isnan(rows[0, 1]).all()


def test_gradient_of_the_table_skips_null_labels():
  embed = ClassEmbedding(3, 4)
  labels = jnp.array([[0, -1, 2]])
  params = embed.init(jax.random.key(0), labels)
  grads = jax.grad(lambda p: embed.apply(p, labels).sum())(params)
  expected = np.array([1, 0, 1])[:, None] * np.ones(4)
  np.testing.assert_array_equal(grads['params']['embedding'], expected)


@pytest.mark.parametrize('layers', [1, 2, 4])
def test_mlp_has_the_layers_asked_for(layers):
  mlp = ConditioningMLP(8, 16, layers)
  params = mlp.init(jax.random.key(0), jnp.zeros((2, 1)))['params']
  assert sorted(params) == [f'dense_{i}' for i in range(layers)]
  assert params['dense_0']['kernel'].shape == (8, 16)


def test_zero_condition_is_no_condition():
  mlp = ConditioningMLP(8, 16, 3)
  logsnr = jnp.array([[1.0], [-2.0]])
  params = mlp.init(jax.random.key(0), logsnr)
  plain = mlp.apply(params, logsnr)
  zero = mlp.apply(params, logsnr, (jnp.zeros((2, 1, 16)),))
  one = mlp.apply(params, logsnr, (jnp.ones((2, 1, 16)),))
  np.testing.assert_array_equal(plain, zero)
  assert np.abs(plain - one).max() > 0.01


def test_mlp_broadcasts_log_snr_and_conditions_over_frames():
  mlp = ConditioningMLP(8, 16, 2)
  logsnr = jnp.array([[1.0], [-2.0]])
  condition = jax.random.normal(jax.random.key(1), (2, 3, 16))
  params = mlp.init(jax.random.key(0), logsnr)
  y = mlp.apply(params, logsnr, (condition,))
  assert y.shape == (2, 3, 16)
  for t in range(3):
    row = mlp.apply(params, logsnr, (condition[:, t : t + 1],))
    np.testing.assert_allclose(y[:, t : t + 1], row, atol=1e-5)
