"""Samplers on Gaussian data, whose denoiser and whose answers are exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import host, keys
from vdm_jax.diffusion import denoiser, heun, multistep, samplers, schedules
from vdm_jax.diffusion.churn import churned
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import alpha_sigma, over_video

MEAN, STD = 0.3, 0.5
PIXELS = (2, 64, 64, 2)  # enough of them for a variance to 1 %
# Whole vectors of pixels: what is tested is the sampler's arithmetic, and not
# whether the compiler rounds the remainder of a loop in the same way.
FEW = (2, 4, 4, 1)
SAMPLERS = {
  'ancestral': samplers.ancestral(0.3),
  'ddim': samplers.ddim(),
  'predictor_corrector': samplers.predictor_corrector(samplers.ancestral(0.0)),
  'heun': heun.heun(),
  'heun, churned': churned(heun.heun(), 4.0),
  'deis': multistep.deis(3),
  'deis, churned': churned(multistep.deis(2), 4.0),
  'dpmpp_2m': multistep.dpmpp_2m(),
}


def gaussian(mean=MEAN, std=STD):
  """E[x|z] of x ~ N(mean, std²): mean + α std² (z − α mean) / V."""

  def denoise(z, logsnr):
    alpha, sigma = alpha_sigma(over_video(logsnr))
    variance = alpha**2 * std**2 + sigma**2
    return mean + alpha * std**2 / variance * (z - alpha * mean)

  return denoise


def run(denoise, sampler, logsnrs, shape=(1, 2, 2, 1), batch=2, seed=0):
  def go(keys):
    return samplers.sample(
      denoise,
      sampler,
      keys=keys,
      shape=shape,
      logsnrs=logsnrs,
      prior=NoisePrior(),
    )

  return jax.jit(go)(keys(batch, seed))


def first(keys, shape=FEW):
  """The first latent; to the bit the same, jitted or not."""
  how = {'keys': keys, 'shape': shape, 'prior': NoisePrior()}
  return samplers.begin(samplers.ddim(), **how).z


def gain(logsnr, std=STD):
  """(k, V): x̂ − mean = k (z − α mean), and the marginal variance of z."""
  alpha, sigma = host(logsnr)
  variance = alpha**2 * std**2 + sigma**2
  return alpha * std**2 / variance, variance


# The last entry is not reached: the answer is x̂ at the last but one.
def grid(steps, low=-6.0, high=4.0):
  return np.append(np.linspace(low, high, steps + 1), high + 1)


def test_ddim_converges_to_the_exact_flow_at_order_one(x64):
  start = first(keys(2), (1, 2, 2, 1))
  # On the flow, (z − α mean) / √V is constant.
  alpha, _ = host(-6.0)
  scaled = (np.asarray(start) - alpha * MEAN) / np.sqrt(gain(-6.0)[1])
  k, variance = gain(4.0)
  exact = MEAN + k * np.sqrt(variance) * scaled

  def error(steps):
    got = run(gaussian(), samplers.ddim(), grid(steps))
    return np.abs(got - exact).max()

  errors = np.array([error(n) for n in (64, 128, 256)])
  slopes = np.log2(errors[:-1] / errors[1:])
  assert np.all(np.abs(slopes - 1) < 0.05), slopes
  assert errors[-1] < 0.01


def test_ddim_of_a_constant_estimate_is_exact(x64):
  # x̂ does not depend on z, so neither does the answer depend on the grid.
  logsnr_t, logsnr_s = jnp.array([-3.0]), jnp.array([2.0])
  z = jax.random.normal(jax.random.key(0), (1, 1, 2, 2, 1))
  constant = gaussian(0.7, 0.0)
  at = {'keys': keys(1), 'prior': NoisePrior(), 'past': None, 'row': None}
  step = samplers.ddim().step
  once, x_hat, _ = step(
    constant, z=z, logsnr_t=logsnr_t, logsnr_s=logsnr_s, **at
  )
  middle, *_ = step(
    constant, z=z, logsnr_t=logsnr_t, logsnr_s=jnp.zeros(1), **at
  )
  twice, *_ = step(
    constant, z=middle, logsnr_t=jnp.zeros(1), logsnr_s=logsnr_s, **at
  )
  np.testing.assert_allclose(once, twice, rtol=1e-13)
  np.testing.assert_allclose(x_hat, jnp.full_like(z, 0.7))
  (alpha_t, sigma_t), (alpha_s, sigma_s) = host(-3.0), host(2.0)
  eps = (z - alpha_t * 0.7) / sigma_t
  np.testing.assert_allclose(once, alpha_s * 0.7 + sigma_s * eps, rtol=1e-13)


def recursion(logsnrs, gamma, delta=0.0):
  """Mean and variance of the sampler's answer, exactly."""
  mean, variance = 0.0, 1.0
  for logsnr_t, logsnr_s in itertools.pairwise(logsnrs[:-1]):
    (alpha_t, sigma_t), (alpha_s, sigma_s) = host(logsnr_t), host(logsnr_s)
    r = np.exp(np.float64(logsnr_t) - np.float64(logsnr_s))
    from_z, from_x = r * alpha_s / alpha_t, (1 - r) * alpha_s
    k, _ = gain(logsnr_t)
    mean = from_z * mean + from_x * (MEAN + k * (mean - alpha_t * MEAN))
    noise = (1 - r) * sigma_s ** (2 * (1 - gamma)) * sigma_t ** (2 * gamma)
    variance = (from_z + from_x * k) ** 2 * variance + noise
    shrink = 1 - delta / 2 * sigma_s**2 / gain(logsnr_s)[1]
    mean = alpha_s * MEAN + shrink * (mean - alpha_s * MEAN)
    variance = shrink**2 * variance + delta * sigma_s**2
  k, _ = gain(logsnrs[-2])
  alpha, _ = host(logsnrs[-2])
  return MEAN + k * (mean - alpha * MEAN), k**2 * variance


def check_moments(samples, mean, variance):
  """Within five standard deviations of the estimates."""
  samples = np.asarray(samples, np.float64)
  n = samples.size
  assert abs(samples.mean() - mean) < 5 * np.sqrt(variance / n)
  assert abs(samples.var() / variance - 1) < 5 * np.sqrt(2 / n)


@pytest.mark.parametrize('gamma', [0.0, 0.3, 1.0])
def test_ancestral_variance_follows_the_exact_recursion(gamma):
  logsnrs = schedules.logsnr_grid(8, schedules.CosineSchedule())
  samples = run(gaussian(), samplers.ancestral(gamma), logsnrs, PIXELS, batch=4)
  mean, variance = recursion(logsnrs, gamma)
  check_moments(samples, mean, variance)
  # Negative control: the other choices of γ lie outside the tolerance.
  for other in {0.0, 0.3, 1.0} - {gamma}:
    with pytest.raises(AssertionError):
      check_moments(samples, *recursion(logsnrs, other))


def test_predictor_corrector_follows_the_exact_recursion():
  logsnrs = schedules.logsnr_grid(8, schedules.CosineSchedule())
  sampler = samplers.predictor_corrector(samplers.ancestral(0.0), delta=0.5)
  samples = run(gaussian(), sampler, logsnrs, PIXELS, batch=4)
  check_moments(samples, *recursion(logsnrs, 0.0, delta=0.5))
  with pytest.raises(AssertionError):
    check_moments(samples, *recursion(logsnrs, 0.0))
  # The corrector pulls the variance towards that of the data.
  target = gain(logsnrs[-2])[0] ** 2 * gain(logsnrs[-2])[1]
  plain, corrected = (recursion(logsnrs, 0.0, d)[1] for d in (0.0, 0.5))
  assert abs(corrected - target) < abs(plain - target)


@pytest.mark.parametrize('std', [0.0, 0.5])
def test_langevin_leaves_the_marginal_alone_up_to_its_bias(std):
  # z' = (1 − δσ²/2V) z + √δ σ n has the stationary variance
  # V / (1 − δσ²/4V), which is σ² / (1 − δ/4) on pure noise.
  delta, logsnr = 0.4, 1.0
  alpha, sigma = host(logsnr)
  _, marginal = gain(logsnr, std)
  stationary = marginal / (1 - delta * sigma**2 / (4 * marginal))
  denoise = gaussian(MEAN, std)
  level = jnp.full(4, logsnr)

  def correct(keys):
    def body(z, i):
      z = samplers.langevin(
        denoise,
        z=z,
        eps=NoisePrior().sample(samplers.fold(keys, i), PIXELS),
        logsnr=level,
        delta=delta,
      )
      return z, None

    z = NoisePrior().sample(samplers.fold(keys, 0), PIXELS)
    z = alpha * MEAN + np.sqrt(stationary) * z
    return jax.lax.scan(body, z, jnp.arange(1, 21))[0]

  z = jax.jit(correct)(keys(4))
  check_moments(z, alpha * MEAN, stationary)
  with pytest.raises(AssertionError):  # the bias is there, and seen
    check_moments(z, alpha * MEAN, marginal)


def test_the_answer_is_x_hat_of_the_last_level_but_one():
  levels = np.array([-4.0, -1.0, 1.0, 3.0], np.float32)

  def spy(z, logsnr):
    return jnp.zeros_like(z) + over_video(logsnr)

  for sampler in SAMPLERS.values():
    got = run(spy, sampler, levels)
    np.testing.assert_array_equal(got, jnp.full_like(got, 1.0))


def test_one_step_is_one_call():
  levels = np.array([-20.0, 20.0], np.float32)
  got = run(gaussian(), samplers.ancestral(0.3), levels)
  start = first(keys(2), (1, 2, 2, 1))
  expected = gaussian()(start, jnp.full(2, -20.0))
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  with pytest.raises(ValueError, match='two levels'):
    run(gaussian(), samplers.ddim(), levels[:1])
  with pytest.raises(ValueError, match='must increase'):
    run(gaussian(), samplers.ddim(), levels[::-1])


def test_clipping_keeps_the_samples_in_range():
  levels = schedules.logsnr_grid(4, schedules.CosineSchedule())
  wide = gaussian(0.0, 3.0)
  sampler = samplers.ancestral(0.3)
  assert np.abs(run(wide, sampler, levels)).max() > 1
  assert np.abs(run(denoiser.clipped(wide), sampler, levels)).max() <= 1


@pytest.mark.parametrize('sampler', SAMPLERS.values(), ids=SAMPLERS)
def test_a_sample_does_not_know_its_batch_or_mesh(sampler, optimised):
  levels = schedules.logsnr_grid(5, schedules.CosineSchedule())

  @jax.jit
  def go(keys):
    return samplers.sample(
      gaussian(),
      sampler,
      keys=keys,
      shape=FEW,
      logsnrs=levels,
      prior=NoisePrior(),
    )

  eight = go(keys(8))
  np.testing.assert_array_equal(go(keys(8)[5:6])[0], eight[5])
  np.testing.assert_array_equal(go(keys(8)[2:6]), eight[2:6])
  np.testing.assert_array_equal(go(keys(8)[::-1]), eight[::-1])
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((8,), ('data',), axis_types=auto)
  spec = jax.sharding.PartitionSpec('data')
  place = jax.sharding.NamedSharding(mesh, spec)
  spread = go(jax.device_put(keys(8), place))
  assert len(spread.sharding.device_set) == 8
  # Another program, so equal to rounding; the noise itself is exact.
  np.testing.assert_allclose(spread, eight, rtol=0, atol=1e-6)
  np.testing.assert_array_equal(
    first(jax.device_put(keys(8), place)), first(keys(8))
  )
  # Negative control: another key is another sample.
  assert not np.array_equal(go(keys(1, seed=1))[0], eight[0])


@pytest.mark.parametrize('sampler', SAMPLERS.values(), ids=SAMPLERS)
def test_sampling_in_parts_is_sampling_at_once(sampler):
  grid = sampler.grid(schedules.logsnr_grid(7, schedules.CosineSchedule()))

  @jax.jit
  def advance(latent, begin, end):
    return samplers.advance(
      gaussian(),
      sampler,
      latent=latent,
      keys=keys(2),
      grid=grid,
      prior=NoisePrior(),
      begin=begin,
      end=end,
    )

  def check_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)

  start = samplers.begin(sampler, keys=keys(2), shape=FEW, prior=NoisePrior())
  whole = advance(start, 0, 6)
  check_equal(advance(advance(advance(start, 0, 1), 1, 4), 4, 6), whole)
  check_equal(advance(start, 3, 3), start)
  assert whole.past.shape == (sampler.memory, 2, *FEW)
  assert np.all(np.any(whole.past, (1, 2, 3, 4, 5)))
  at_once = run(gaussian(), sampler, grid.logsnr, FEW)
  finished = gaussian()(whole.z, jnp.broadcast_to(grid.logsnr[-2], 2))
  np.testing.assert_allclose(finished, at_once, atol=1e-6)
  # Negative controls: a step left out is seen, and so is a lost memory.
  left_out = advance(advance(start, 0, 2), 3, 6)
  assert np.abs(left_out.z - whole.z).max() > 1e-3
  if sampler.memory:
    half = advance(start, 0, 3)
    lost = advance(samplers.Latent(half.z, 0 * half.past), 3, 6)
    assert np.abs(lost.z - whole.z).max() > 1e-3


@pytest.mark.parametrize(
  ('name', 'draws'),
  [('ancestral', 3), ('predictor_corrector', 5), ('heun, churned', 3)],
)
def test_all_noise_of_a_sample_is_drawn_from_distinct_streams(name, draws):
  """Three steps: no draw repeats another, within or across steps."""
  drawn = []

  class Recorder(NoisePrior):
    def sample(self, keys, shape, image_frames=0):
      eps = super().sample(keys, shape, image_frames)
      jax.debug.callback(lambda e: drawn.append(np.asarray(e).ravel()), eps)
      return eps

  out = samplers.sample(
    gaussian(),
    SAMPLERS[name],
    keys=keys(1),
    shape=(1, 8, 8, 1),
    logsnrs=np.array([-5.0, -2.0, 0.0, 5.0], np.float32),
    prior=Recorder(),
  )
  jax.block_until_ready(out)
  jax.effects_barrier()
  # The first latent, then once or twice per step but the last.
  assert len(drawn) == draws
  correlation = np.corrcoef(np.stack(drawn)) - np.eye(draws)
  assert np.abs(correlation).max() < 0.6


def test_arguments_out_of_range_are_refused():
  with pytest.raises(ValueError, match='gamma'):
    samplers.ancestral(1.5)
  with pytest.raises(ValueError, match='delta'):
    samplers.predictor_corrector(samplers.ddim(), delta=4.0)
