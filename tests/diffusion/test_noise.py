"""The noise prior; a correlated kind stands in for those to come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.conftest import RHO
from vdm_jax.diffusion import noise
from vdm_jax.diffusion.noise import NoisePrior


def moments(eps):
  """The covariance over frames, pooled over everything else."""
  rows = np.moveaxis(np.asarray(eps, np.float64), 1, 0).reshape(
    eps.shape[1], -1
  )
  return rows @ rows.T / rows.shape[1], rows.shape[1]


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def test_independent_noise_is_white():
  eps = NoisePrior().sample(keys(16), (4, 16, 16, 3))
  covariance, n = moments(eps)
  # Five standard deviations of a sample (co)variance, at most √(2/n).
  np.testing.assert_allclose(covariance, np.eye(4), atol=5 * np.sqrt(2 / n))


def test_correlated_noise_has_its_covariance(ar1):
  eps = ar1.sample(keys(16), (6, 16, 16, 3), image_frames=2)
  covariance, n = moments(eps)
  exact = np.eye(6)
  exact[:4, :4] = RHO ** np.abs(np.arange(4)[:, None] - np.arange(4))
  atol = 5 * np.sqrt(2 / n)
  np.testing.assert_allclose(covariance, exact, atol=atol)
  np.testing.assert_array_equal(ar1.covariance(4, 2), exact)
  # Negative control: the images are not part of the chain.
  assert abs(covariance[3, 4] - RHO) > 10 * atol


def test_an_example_depends_on_its_key_alone():
  many = NoisePrior().sample(keys(4), (2, 3, 3, 1))
  for i in range(4):
    one = NoisePrior().sample(keys(4)[i : i + 1], (2, 3, 3, 1))
    np.testing.assert_array_equal(one[0], many[i])
  assert not np.array_equal(many[0], many[1])


@pytest.mark.parametrize('image_frames', [0, 2])
def test_factor_covariance_and_whitening_agree(x64, ar1, image_frames):
  cholesky = ar1.cholesky(4, image_frames)
  np.testing.assert_allclose(
    cholesky @ cholesky.T, ar1.covariance(4, image_frames), atol=1e-15
  )
  np.testing.assert_array_equal(cholesky, np.tril(cholesky))
  y = jax.random.normal(jax.random.key(1), (2, 4 + image_frames, 2, 1, 3))
  colored = noise.mix_frames(cholesky, y)
  np.testing.assert_allclose(ar1.whiten(colored, image_frames), y, atol=1e-13)
  # yᵀ Σ y = |Lᵀ y|².
  np.testing.assert_allclose(
    jnp.sum(y * ar1.apply_covariance(y, image_frames)),
    jnp.sum(noise.mix_frames(cholesky.T.copy(), y) ** 2),
    rtol=1e-13,
  )


def test_independence_costs_nothing():
  y = jnp.ones((1, 3, 1, 1, 1))
  prior = NoisePrior()
  assert prior.apply_covariance(y) is y
  assert prior.whiten(y) is y
  np.testing.assert_array_equal(prior.covariance(2, 1), np.eye(3))


def test_a_prior_is_a_static_value():
  assert hash(NoisePrior()) == hash(NoisePrior('independent'))
  assert NoisePrior() == NoisePrior('independent')
  with pytest.raises(ValueError, match="'pink'; use one of independent"):
    NoisePrior('pink')
