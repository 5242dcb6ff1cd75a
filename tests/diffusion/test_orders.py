"""Deterministic samplers against the exact probability flow of Gaussian data.

On it (z − α mean)/√V is constant, V = α² std² + σ², so that the flow from any
z is known; several standard deviations are several modes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import host, keys
from vdm_jax.diffusion import heun, inversion, multistep, samplers, schedules
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import alpha_sigma, over_video

MEAN, STD = 0.3, np.array([0.2, 0.5, 1.5, 4.0]).reshape(1, 1, 2, 2, 1)
SHAPE, LONGEST = (1, 2, 2, 1), 512
# From where the flow is straight: the first steps of a multistep method have
# order 1, and then 2.
LOW, HIGH = -14.0, 2.0
CASES = {
  'ddim': (samplers.ddim(), 0.95, 1.05),
  'heun': (heun.heun(), 1.9, 2.1),
  'dpmpp_2m': (multistep.dpmpp_2m(), 1.8, 2.2),
} | {
  f'deis {order}, {variable}': (multistep.deis(order, variable), low, high)
  for order, low, high in ((1, 0.95, 1.05), (2, 1.8, 2.2), (3, 2.5, 3.5))
  for variable in multistep.VARIABLES
}


def denoise(z, logsnr):
  alpha, sigma = alpha_sigma(over_video(logsnr))
  variance = alpha**2 * STD**2 + sigma**2
  return MEAN + alpha * STD**2 / variance * (z - alpha * MEAN)


def flow(z, logsnr_t, logsnr_s):
  """The exact answer at s."""
  (alpha_t, sigma_t), (alpha_s, sigma_s) = host(logsnr_t), host(logsnr_s)
  ratio = np.sqrt(
    (alpha_s**2 * STD**2 + sigma_s**2) / (alpha_t**2 * STD**2 + sigma_t**2)
  )
  return alpha_s * MEAN + ratio * (np.asarray(z) - alpha_t * MEAN)


@functools.cache
def program(sampler):
  @jax.jit
  def go(z, grid, end):
    return samplers.advance(
      denoise,
      sampler,
      latent=samplers.Latent(z, jnp.zeros((sampler.memory, *z.shape))),
      keys=keys(len(z)),
      grid=grid,
      prior=NoisePrior(),
      begin=0,
      end=end,
    ).z

  return go


def reached(sampler, z, logsnrs):
  """Where the steps of a sampler lead; one program for all grids."""
  grid = sampler.grid(np.append(logsnrs, np.inf))
  more = [(0, LONGEST - len(grid.rows)), (0, 0)]
  padded = samplers.Grid(
    jnp.pad(grid.logsnr, (0, LONGEST + 2 - len(grid.logsnr))),
    jnp.pad(grid.rows, more),
  )
  return np.asarray(program(sampler)(z, padded, len(grid.rows)))


@pytest.mark.parametrize('case', CASES)
def test_samplers_converge_at_their_order(x64, case):
  sampler, low, high = CASES[case]
  z = jax.random.normal(jax.random.key(0), (2, *SHAPE))
  exact = flow(z, LOW, HIGH)

  def error(steps):
    levels = np.linspace(LOW, HIGH, steps + 1)
    return np.abs(reached(sampler, z, levels) - exact).max()

  errors = np.array([error(n) for n in (64, 128, 256, 512)])
  slopes = np.log2(errors[:-1] / errors[1:])
  print(f'{case}: orders', slopes.round(2), 'errors', errors)
  assert np.all((low < slopes) & (slopes < high)), slopes


def test_the_second_order_is_worth_its_calls(x64):
  """With the same calls of the denoiser, on the grid of Karras22."""
  z = jax.random.normal(jax.random.key(0), (2, *SHAPE))

  def error(sampler, steps):
    levels = schedules.karras_grid(steps, 0.02, 80.0).astype(np.float64)[:-1]
    exact = flow(z, levels[0], levels[-1])
    return np.abs(reached(sampler, z, levels) - exact).max()

  euler = error(samplers.ddim(), 63)
  assert error(heun.heun(), 32) < euler / 3
  for name, (sampler, low, _) in CASES.items():
    if name not in ('ddim', 'heun') and low > 1:
      assert error(sampler, 63) < euler / 5, name


@pytest.mark.parametrize(
  'sampler',
  [
    heun.heun(),
    multistep.dpmpp_2m(),
    *(multistep.deis(3, v) for v in multistep.VARIABLES),
  ],
)
@pytest.mark.parametrize('steps', [64, 256])
def test_float32_is_enough_over_the_whole_range(x64, sampler, steps):
  """Ho22's grid, λ from −20 to 20; the denoiser alone is in float64."""
  levels = schedules.logsnr_grid(steps, schedules.CosineSchedule())
  z = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float32)
  exact = reached(sampler, z.astype(jnp.float64), levels.astype(np.float64))
  got = rounded(sampler, z, levels)
  assert got.dtype == np.float32
  print(np.abs(got - exact).max())
  np.testing.assert_allclose(got, exact, atol=3e-5)


def rounded(sampler, z, levels):
  """The same steps in float32."""

  def denoise32(z, logsnr):
    wide = z.astype(jnp.float64), logsnr.astype(jnp.float64)
    return denoise(*wide).astype(jnp.float32)

  grid = sampler.grid(np.append(levels, np.inf))
  grid = jax.tree.map(lambda a: a.astype(jnp.float32), grid)
  return np.asarray(
    samplers.advance(
      denoise32,
      sampler,
      latent=samplers.Latent(
        z, jnp.zeros((sampler.memory, *z.shape), jnp.float32)
      ),
      keys=keys(len(z)),
      grid=grid,
      prior=NoisePrior(),
      begin=0,
      end=len(grid.rows),
    ).z
  )


def test_inversion_has_order_two_and_the_way_back_three(x64):
  """The error of order 2 is undone on the way back."""
  x = jax.random.normal(jax.random.key(1), (2, *SHAPE))
  low, high = -2 * np.log(80.0), -2 * np.log(0.02)
  exact = flow(host(high)[0] * x, high, low)
  back, off = [], []
  for steps in (64, 128, 256):
    # The last level is not finite, and so not used.
    levels = schedules.karras_grid(steps, 0.02, 80.0).astype(np.float64)
    eps = inversion.encode(denoise, x, logsnrs=levels)
    off.append(np.abs(eps - exact).max())
    again = inversion.decode(denoise, eps, logsnrs=levels)
    back.append(np.abs(again - x).max())
  print('encode', off, 'round trip', back)
  for errors, order in ((off, 2), (back, 3)):
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(slopes - order) < 0.2), slopes


def test_what_is_encoded_is_noise_of_the_prior(x64):
  """Videos of the model's law become ε of covariance Σ, and only those."""
  from tests.diffusion.gaussian_video import dense_covariance, smooth_video

  video = smooth_video((6, 1, 2, 1))
  levels = schedules.karras_grid(96).astype(np.float64)
  n, priors = len(video.mean), [NoisePrior(), NoisePrior('progressive', 2.0)]
  rows = np.concatenate([np.zeros((1, n)), np.eye(n)])

  def covariance(prior):
    basis = jnp.asarray(rows.reshape(-1, *video.shape))
    encode = jax.jit(
      functools.partial(inversion.encode, video.denoiser(prior), logsnrs=levels)
    )
    offset, *columns = np.asarray(encode(basis)).reshape(n + 1, n)
    a = (np.array(columns) - offset).T
    return a @ video.covariance @ a.T

  for prior, other in (priors, priors[::-1]):
    got = covariance(prior)
    noise = dense_covariance(prior, video.shape)
    np.testing.assert_allclose(got, noise, atol=0.02)
    assert np.abs(got - dense_covariance(other, video.shape)).max() > 0.5


def test_a_decoded_noise_is_a_sample(x64):
  """`decode` takes the steps of the sampler, but for its last one."""
  levels = schedules.karras_grid(9, 0.02, 80.0).astype(np.float64)
  how = {'keys': keys(2), 'shape': SHAPE, 'prior': NoisePrior()}
  start = samplers.begin(heun.heun(), **how).z
  y = inversion.decode(denoise, start, logsnrs=levels)
  alpha, _ = host(levels[-2])
  x_hat = denoise(alpha * y, jnp.full(2, levels[-2]))
  expected = samplers.sample(denoise, heun.heun(), logsnrs=levels, **how)
  np.testing.assert_allclose(x_hat, expected, atol=1e-12)
  with pytest.raises(ValueError, match='must increase'):
    inversion.encode(denoise, y, logsnrs=levels[::-1])
