"""Karras22 alg. 2, line by line, against what is written for z and λ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import host, keys
from tests.diffusion.propagation import Handed
from vdm_jax.diffusion import heun, samplers, schedules
from vdm_jax.diffusion.churn import churned
from vdm_jax.diffusion.process import alpha_sigma, over_video

SHAPE = (2, 1, 2, 2, 1)
STEPS = 8


def denoise(z, logsnr):
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return jnp.tanh(1.5 * alpha * z + 0.2 * sigma)


def d(y, s):
  """D(y, s), in the paper's variables."""
  alpha, _ = host(-2 * np.log(s))
  level = jnp.full(len(y), -2 * np.log(s))
  return np.asarray(denoise(jnp.asarray(alpha * y), level))


def algorithm_2(y, s, noise, churn, low, high, s_noise):
  """Karras22 alg. 2, and its last step: s ends in 0."""
  n = len(s) - 1
  for i in range(n):
    gamma = min(churn / n, np.sqrt(2) - 1) if low <= s[i] <= high else 0.0
    s_hat = s[i] + gamma * s[i]
    y_hat = y + np.sqrt(s_hat**2 - s[i] ** 2) * s_noise * noise[i]
    d_i = (y_hat - d(y_hat, s_hat)) / s_hat
    y = y_hat + (s[i + 1] - s_hat) * d_i
    if s[i + 1]:
      d_next = (y - d(y, s[i + 1])) / s[i + 1]
      y = y_hat + (s[i + 1] - s_hat) * (d_i + d_next) / 2
  return y


def ours(z, logsnrs, noise, *churn):
  """The same draws, step by step."""
  sampler = churned(heun.heun(), *churn) if churn else heun.heun()
  grid = sampler.grid(logsnrs)
  for i, row in enumerate(grid.rows):
    handed = Handed([jnp.asarray(noise[i])])
    z, _, _ = sampler.step(
      denoise,
      keys=keys(2),
      z=z,
      past=jnp.zeros((0, *z.shape)),
      row=jnp.stack([row, row]),
      logsnr_t=jnp.full(2, grid.logsnr[i]),
      logsnr_s=jnp.full(2, grid.logsnr[i + 1]),
      prior=handed,
    )
    assert len(handed.draws) == (not churn)
  return denoise(z, jnp.full(2, grid.logsnr[-2]))


@pytest.mark.parametrize(
  'churn',
  [
    (0.0, 0.05, 50.0, 1.003),
    (2.0, 0.05, 50.0, 1.003),
    (40.0, 0.5, 10.0, 1.1),  # γ at its limit
  ],
)
def test_steps_are_those_of_algorithm_2(x64, churn):
  logsnrs = schedules.karras_grid(STEPS).astype(np.float64)
  s = np.exp(-logsnrs / 2)
  noise = np.random.default_rng(0).normal(size=(STEPS, *SHAPE))
  z = jax.random.normal(jax.random.key(0), SHAPE)
  alpha, _ = host(logsnrs[0])
  y = np.asarray(z) / alpha
  exact = algorithm_2(y, s, noise, *churn)
  got = ours(z, logsnrs, noise, *churn)
  np.testing.assert_allclose(got, exact, rtol=1e-9)
  if not churn[0]:
    np.testing.assert_allclose(ours(z, logsnrs, noise), exact, rtol=1e-9)
    return
  # Negative controls: every number of the churn is seen.
  for i in range(4):
    other = list(churn)
    other[i] = (other[i] + 1) * (0.3 if i == 2 else 1)
    wrong = algorithm_2(y, s, noise, *other)
    if i or churn[0] < 4:
      assert np.abs(wrong - exact).max() > 1e-6, i


def test_churn_keeps_the_law_of_the_forward_process():
  """α̂² Var(y) + std² is the variance at ŝ, where the denoiser is asked."""
  sampler = churned(heun.heun(), 20.0, 0.1, 10.0, 1.0)
  starts = -2 * np.log(np.geomspace(80, 0.01, 40))
  rows = sampler.coefficients(starts, starts + 0.1)
  raised, keep, std = rows[:, :3].T
  np.testing.assert_array_equal(raised, sampler.asked(starts))
  for data in (0.0, 0.5, 2.0):
    (alpha, sigma), (alpha_hat, sigma_hat) = host(starts), host(raised)
    z = alpha**2 * data**2 + sigma**2
    z_hat = alpha_hat**2 * data**2 + sigma_hat**2
    np.testing.assert_allclose(keep**2 * z + std**2, z_hat, rtol=1e-12)
  growth = np.exp((starts - raised) / 2) - 1
  s = np.exp(-starts / 2)
  inside = (s >= 0.1) & (s <= 10)
  np.testing.assert_allclose(
    growth, np.where(inside, 20 / 41, 0).clip(0, 2**0.5 - 1), atol=1e-12
  )
  np.testing.assert_array_equal(keep[~inside], 1.0)
  np.testing.assert_array_equal(std[~inside], 0.0)
  # The rest of a row is the sampler's own, from ŝ on.
  np.testing.assert_array_equal(
    rows[:, 3:], heun.heun().coefficients(raised, starts + 0.1)
  )


def test_numbers_out_of_range_are_refused():
  for wrong in ((-1.0,), (1.0, 2.0, 1.0), (1.0, 0.0, 1.0, 0.0), (np.inf,)):
    with pytest.raises(ValueError, match='churn'):
      churned(heun.heun(), *wrong)


def test_wrappers_keep_what_they_do_not_change():
  sampler = churned(heun.heun(), 4.0)
  wrapped = samplers.predictor_corrector(sampler)
  assert wrapped.asked is sampler.asked
  assert wrapped.coefficients is sampler.coefficients
  assert wrapped.step is not sampler.step
