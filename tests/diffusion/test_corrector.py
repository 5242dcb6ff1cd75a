"""The predictor-corrector over frames: covariances, by exact propagation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import (
  GaussianVideo,
  dense_covariance,
  host,
  keys,
  smooth_video,
)
from tests.diffusion.propagation import propagate
from vdm_jax.diffusion import samplers, schedules
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import alpha_sigma, over_video

CORRECTED = samplers.predictor_corrector(samplers.ancestral(0.0), delta=0.1)


@pytest.mark.parametrize('correlated', [False, True])
def test_predictor_corrector_samples_have_the_covariance_of_the_data(
  x64, ar1, correlated
):
  prior = ar1 if correlated else NoisePrior()
  video = smooth_video((4, 2, 2, 1))
  noise, white = dense_covariance(prior, video.shape), np.eye(16)
  schedule = schedules.CosineSchedule(logsnr_min=-12.0, logsnr_max=12.0)

  def errors(sampler, steps, *draws):
    grid = schedules.logsnr_grid(steps, schedule)
    mean, covariance = propagate(sampler, video, prior, grid, *draws)
    return np.abs(mean - video.mean).max(), (
      np.linalg.norm(covariance - video.covariance)
      / np.linalg.norm(video.covariance)
    )

  few, many = (errors(CORRECTED, n, noise, noise) for n in (64, 256))
  # The corrector's own bias is below σ² δ/4 where sampling ends.
  assert many[0] < 0.01 and many[1] < 0.02 and many[1] < few[1] / 2, (few, many)
  assert few[1] < errors(samplers.ancestral(0.0), 64, noise)[1]
  if correlated:  # negative control: a corrector with another noise
    assert errors(CORRECTED, 256, noise, white)[1] > 0.3


def test_a_corrected_sample_is_drawn_from_the_law_it_propagates(ar1):
  # Pixels alike and independent: each of them is one more sample.
  shape, pixels = (4, 8, 8, 1), 64
  small = smooth_video((4, 1, 1, 1))
  video = GaussianVideo(
    shape,
    np.repeat(small.mean, pixels),
    np.kron(small.covariance, np.eye(pixels)),
  )
  grid = schedules.logsnr_grid(8, schedules.CosineSchedule())

  @jax.jit
  def go(keys):
    return samplers.sample(
      video.denoiser(ar1),
      CORRECTED,
      keys=keys,
      shape=shape,
      logsnrs=grid,
      prior=ar1,
    )

  rows = np.moveaxis(np.asarray(go(keys(128)), np.float64), 1, 0).reshape(4, -1)
  sigma = ar1.covariance(4)

  def check(*draws):
    mean, covariance = propagate(CORRECTED, small, ar1, grid, *draws)
    variance = covariance.diagonal()
    sd = np.sqrt(variance / rows.shape[1])
    assert np.all(np.abs(rows.mean(1) - mean) < 5 * sd)
    scale = np.sqrt(np.outer(variance, variance) * 2 / rows.shape[1])
    assert np.all(np.abs(np.cov(rows) - covariance) < 5 * scale)

  check(sigma, sigma)
  for wrong in ((sigma, np.eye(4)), (sigma, 0 * sigma), (np.eye(4), sigma)):
    with pytest.raises(AssertionError):
      check(*wrong)


@pytest.mark.parametrize('delta', [0.1, 1.0])
@pytest.mark.parametrize('logsnr', [-20.0, -1.0, 3.0])
def test_langevin_has_its_stationary_covariance_over_frames(
  x64, ar1, delta, logsnr
):
  """In the coordinates in which V and Σ are diagonal, each on its own."""
  video = smooth_video((4, 2, 1, 1))
  n, noise = len(video.mean), dense_covariance(ar1, video.shape)
  alpha, sigma = host(logsnr)
  marginal = alpha**2 * video.covariance + sigma**2 * noise
  # V (1 − δσ²/4 V⁻¹Σ)⁻¹ is 1/(1 − δ/4) of Σ on pure noise.
  stationary = marginal @ np.linalg.inv(
    np.eye(n) - delta / 4 * sigma**2 * np.linalg.solve(marginal, noise)
  )
  if logsnr == -20:
    bound = 1e-6 * np.abs(noise).max()
    np.testing.assert_allclose(stationary, noise / (1 - delta / 4), atol=bound)

  def after(denoise, covariance, drawn):
    def one(z, eps):
      z, eps = (u.reshape(1, *video.shape) for u in (z, eps))
      level = jnp.full(1, logsnr)
      z = samplers.langevin(denoise, z=z, eps=eps, logsnr=level, delta=delta)
      return z.ravel()

    a, b = jax.jacfwd(one, (0, 1))(jnp.zeros(n), jnp.zeros(n))
    return a @ covariance @ a.T + b @ drawn @ b.T

  exact = video.denoiser(ar1)

  def backwards(z, logsnr):
    # z − α x̂ is turned round: a step of −δ, with the noise of δ.
    alpha, _ = alpha_sigma(over_video(logsnr))
    return 2 / alpha * z - exact(z, logsnr)

  np.testing.assert_allclose(
    after(exact, stationary, noise), stationary, atol=1e-10
  )
  # Negative controls: the marginal itself, white noise, the sign of the drift.
  change = delta * sigma**2 / 100
  for wrong in (
    after(exact, marginal, noise) - marginal,
    after(exact, stationary, np.eye(n)) - stationary,
    after(backwards, stationary, noise) - stationary,
  ):
    assert np.abs(wrong).max() > min(change, delta * change)
