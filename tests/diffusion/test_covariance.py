"""Every sampler gives Gaussian videos their covariance, under every prior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import dense_covariance, keys, smooth_video
from tests.diffusion.propagation import propagate
from vdm_jax.diffusion import churn, heun, multistep, samplers, schedules
from vdm_jax.diffusion.noise import NoisePrior, mix_frames

PRIORS = {
  'independent': NoisePrior(),
  'mixed': NoisePrior('mixed', 1.0),
  'progressive': NoisePrior('progressive', 2.0),
}
VIDEO = smooth_video((8, 1, 2, 1))
churned = functools.partial(churn.churned, amount=40.0, noise=1.0)
# Per sampler: its draws a step, and bounds of the relative error of the
# covariance after 64 and 256 steps. What γ < 1 lacks of variance is Ho22's.
COSINE = {
  'ancestral, γ = 0': (samplers.ancestral(0.0), 1, 0.12, 0.036),
  'ancestral, γ = 0.1': (samplers.ancestral(0.1), 1, 0.11, 0.032),
  'ancestral, γ = 0.3': (samplers.ancestral(0.3), 1, 0.1, 0.03),
  'ancestral, γ = 1': (samplers.ancestral(1.0), 1, 0.1, 0.03),
  'predictor-corrector': (
    samplers.predictor_corrector(samplers.ancestral(0.0)),
    2,
    0.1,
    0.03,
  ),
  'ddim': (samplers.ddim(), 0, 0.1, 0.03),
}
KARRAS = {
  'ddim': (samplers.ddim(), 0, 0.1, 0.03),
  'heun': (heun.heun(), 0, 0.01, 0.001),
  'heun, churned': (churned(heun.heun()), 1, 0.05, 0.01),
  'dpmpp_2m': (multistep.dpmpp_2m(), 0, 0.01, 0.001),
  'dpmpp_2m, churned': (churned(multistep.dpmpp_2m()), 1, 0.05, 0.01),
  'deis 2, churned': (churned(multistep.deis(2)), 1, 0.05, 0.01),
} | {
  f'deis {order}, {variable}': (
    multistep.deis(order, variable),
    0,
    0.02 if order == 2 else 0.01,
    0.002 if order == 2 else 0.001,
  )
  for order in (2, 3)
  for variable in multistep.VARIABLES
}
ALL = {
  f'{grid}: {name}': (grid, *case)
  for grid, cases in (('cosine', COSINE), ('karras', KARRAS))
  for name, case in cases.items()
}
MEASURED = {}


def levels(grid, steps):
  if grid == 'karras':
    return schedules.karras_grid(steps).astype(np.float64)
  return schedules.logsnr_grid(steps, schedules.CosineSchedule())


def error(*how, **options):
  """The relative error of the covariance, in Frobenius' norm."""
  mean, covariance = propagate(*how, **options)
  np.testing.assert_allclose(mean, VIDEO.mean, atol=0.05)
  off = np.linalg.norm(covariance - VIDEO.covariance)
  return off / np.linalg.norm(VIDEO.covariance)


@pytest.mark.parametrize('case', ALL)
def test_samples_have_the_covariance_of_the_data(x64, case):
  grid, sampler, draws, few, many = ALL[case]
  for name, prior in PRIORS.items():
    noise = dense_covariance(prior, VIDEO.shape)
    coarse, fine = (
      error(sampler, VIDEO, prior, levels(grid, steps), *[noise] * draws)
      for steps in (64, 256)
    )
    MEASURED[case, name] = coarse, fine
    assert coarse < few and fine < many, (coarse, fine)
    # Down to what it costs to begin with z = ε.
    assert fine < max(coarse / 3, 2e-4), (coarse, fine)
    if name == 'independent':
      continue
    # Negative control: white noise in the place of the prior's.
    white = np.eye(len(noise))
    wrong = {'first': white} if not draws else {}
    spoilt = propagate(
      sampler, VIDEO, prior, levels(grid, 256), *[white] * draws, **wrong
    )[1]
    off = np.linalg.norm(spoilt - VIDEO.covariance)
    assert off > 8 * many * np.linalg.norm(VIDEO.covariance)


@pytest.mark.parametrize(
  'kind, sampler',
  [
    ('progressive', samplers.ancestral(0.3)),
    ('progressive', samplers.predictor_corrector(samplers.ancestral(0.0))),
    ('progressive', samplers.ddim()),
    ('progressive', heun.heun()),
    ('progressive', churned(heun.heun())),
    ('mixed', churned(heun.heun())),
    ('progressive', multistep.dpmpp_2m()),
    ('progressive', churned(multistep.deis(2))),
    ('mixed', multistep.deis(3)),
  ],
)
def test_a_sampler_is_the_white_one_in_whitened_coordinates(x64, kind, sampler):
  """Under Σ it is L ∘ (the sampler of L⁻¹ ∘ D ∘ L under I), draw for draw."""
  prior, shape = PRIORS[kind], (5, 1, 2, 1)

  def whiten(z):
    return mix_frames(prior.whitening(shape[0]), z)

  class White(NoisePrior):
    def sample(self, keys, shape, image_frames=0):
      return whiten(prior.sample(keys, shape))

  def colour(z):
    return mix_frames(prior.cholesky(shape[0]), z)

  def denoise(z, logsnr):
    # Of frames and of values: what nothing but the coordinates commutes with.
    at = jnp.exp(logsnr / 4)[:, None, None, None, None]
    return jnp.tanh(0.8 * z + at * jnp.roll(z, 1, 1))

  def whitened(z, logsnr):
    return whiten(denoise(colour(z), logsnr))

  @functools.partial(jax.jit, static_argnums=(0, 2))
  def go(denoise, keys, prior):
    return samplers.sample(
      denoise,
      sampler,
      keys=keys,
      shape=shape,
      logsnrs=schedules.karras_grid(6, 0.1, 20.0).astype(np.float64),
      prior=prior,
    )

  exact = go(denoise, keys(3), prior)
  got = colour(go(whitened, keys(3), White()))
  np.testing.assert_allclose(got, exact, atol=1e-9)
  # Negative control: the same draws, but the denoiser in other coordinates.
  assert np.abs(colour(go(denoise, keys(3), White())) - exact).max() > 0.01


@pytest.fixture(scope='module', autouse=True)
def table():
  """Prints what was measured; see it with `-s`."""
  yield
  for (case, name), errors in MEASURED.items():
    print(f'{case:32} {name:12}', *(f'{e:.4f}' for e in errors))
