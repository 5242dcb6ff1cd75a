"""Replacement: the law of the noise that the model is then asked about."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import smooth_video
from vdm_jax.diffusion import (
  denoiser,
  guidance,
  heun,
  multistep,
  observation,
  process,
  replacement,
  samplers,
  schedules,
)
from vdm_jax.diffusion.churn import churned
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import alpha_sigma, over_video

SHAPE = (4, 16, 16, 2)
KNOWN = (0, 2)
LEVELS = {'logsnr_t': jnp.full(32, -1.0), 'logsnr_s': jnp.full(32, 0.5)}
RETAINED = np.exp(-0.75)  # e^{(λt − λs)/2}: correlation of ε_s with ε_t
WIDER = (1 + np.exp(0.5)) / (1 + np.exp(-1.0))  # σ_t²/σ_s²
# A sampler, and its c and f of Cov(ε_t, ε_s) = c Σ and Cov(ε_s) = f Σ, where
# x̂ = x: γ = 1 has the noise of σ_{t|s}, and the corrector's drift is −δ/2 ε̂.
SAMPLERS = {
  'γ = 0': (samplers.ancestral(0.0), RETAINED, 1.0),
  'γ = 1': (
    samplers.ancestral(1.0),
    RETAINED,
    RETAINED**2 + (1 - RETAINED**2) * WIDER,
  ),
  'ddim': (samplers.ddim(), 1.0, 1.0),
  'heun': (heun.heun(), 1.0, 1.0),
  'deis': (multistep.deis(3), 1.0, 1.0),
  'dpmpp_2m': (multistep.dpmpp_2m(), 1.0, 1.0),
  'churn': (churned(heun.heun(), 0.5, noise=1.0), 1 / 1.25, 1.0),
  'corrector': (
    samplers.predictor_corrector(samplers.ancestral(0.0), delta=1.0),
    RETAINED / 2,
    1 / 4 + 1,
  ),
}


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def clean(batch=32, shape=SHAPE):
  return jax.random.uniform(jax.random.key(7), (batch, *shape), minval=-1)


def seen(x):
  return observation.frames(KNOWN, x[:, np.array(KNOWN)])


def naive(sampler, x):
  """z_s^a ~ q(z_s^a|x^a) without regard to z_s^b: what not to do."""

  def replaced(denoise, *, keys, prior, logsnr_s, **how):
    how |= {'prior': prior, 'logsnr_s': logsnr_s}
    z, *rest = sampler.step(denoise, keys=samplers.fold(keys, 0), **how)
    eps = prior.sample(samplers.fold(keys, 1), z.shape[1:])
    fresh = process.diffuse(x=x, eps=eps, logsnr=logsnr_s)
    a = np.array(KNOWN)
    return z.at[:, a].set(fresh[:, a]), *rest

  return dataclasses.replace(sampler, step=replaced)


def one_step(sampler, denoise, *, z, **how):
  """z_s and x̂ of the step of LEVELS."""
  row = jnp.asarray(sampler.coefficients(np.array([-1.0]), np.array([0.5])))
  z, x_hat, _ = sampler.step(
    denoise,
    z=z,
    past=jnp.zeros((sampler.memory, *z.shape)),
    row=jnp.repeat(row, len(z), 0),
    **how,
    **LEVELS,
  )
  return z, x_hat


def noise_of(form, prior, sampler='γ = 0'):
  """Covariance of (ε_t, ε_s) over frames, 8 × 8, of one step, x̂^b = x^b."""
  x = clean()

  def denoise(z, logsnr):
    # The known frames are left to the replacement.
    return x.at[:, np.array(KNOWN)].set(0.0)

  sampler, _, _ = SAMPLERS[sampler]
  if form == 'conditional':
    denoise = replacement.conditional(denoise, seen(x))
  elif form == 'marginal':
    sampler = replacement.marginal(sampler, seen(x))
  else:
    sampler = naive(sampler, x)

  @jax.jit
  def go(keys):
    eps_t = prior.sample(samplers.fold(keys, 0), SHAPE)
    z = process.diffuse(x=x, eps=eps_t, logsnr=LEVELS['logsnr_t'])
    z_s, _ = one_step(
      sampler, denoise, keys=samplers.fold(keys, 1), z=z, prior=prior
    )
    eps_s = process.eps_from_x(z=z_s, x=x, logsnr=LEVELS['logsnr_s'])
    both = jnp.concatenate([eps_t, eps_s], 1)
    rows = jnp.moveaxis(both, 1, 0).reshape(8, -1)
    return rows @ rows.T / rows.shape[1]

  return np.asarray(go(keys(32)))


# Five standard deviations of a sample (co)variance, at most √(2/n).
ATOL = 5 * np.sqrt(2 / (32 * 16 * 16 * 2))


def exact_covariance(form, prior, sampler='γ = 0'):
  """The law that noise at both levels should have, by frames."""
  _, c, f = SAMPLERS[sampler]
  sigma = prior.covariance(4)
  cross, after = c * sigma, f * sigma
  if form != 'conditional':
    # ε_s^a knows ε_t through ε_s^b alone.
    a, b = np.ix_(KNOWN, (1, 3)), np.ix_((1, 3), (1, 3))
    gain = sigma[a] @ np.linalg.inv(sigma[b])
    cross[:, KNOWN] = cross[:, (1, 3)] @ gain.T
    # What ε_s^b has too much of, ε_s^a has as far as it follows.
    after[np.ix_(KNOWN, KNOWN)] = (
      sigma[np.ix_(KNOWN, KNOWN)] + (f - 1) * gain @ sigma[b] @ gain.T
    )
  return np.block([[sigma, cross], [cross.T, after]])


@pytest.mark.parametrize('form', ['conditional', 'marginal'])
@pytest.mark.parametrize('correlated', [False, True])
def test_replaced_noise_has_its_exact_law(ar1, form, correlated):
  prior = ar1 if correlated else NoisePrior()
  got = noise_of(form, prior)
  np.testing.assert_allclose(got, exact_covariance(form, prior), atol=ATOL)
  # Negative control: the two forms have different laws.
  other = {'conditional': 'marginal', 'marginal': 'conditional'}[form]
  assert np.abs(got - exact_covariance(other, prior)).max() > 2 * ATOL


@pytest.mark.parametrize('form', ['conditional', 'marginal'])
@pytest.mark.parametrize('sampler', [s for s in SAMPLERS if s != 'γ = 0'])
def test_every_sampler_keeps_known_and_other_frames_correlated(
  ar1, form, sampler
):
  got = noise_of(form, ar1, sampler)
  exact = exact_covariance(form, ar1, sampler)
  np.testing.assert_allclose(got, exact, atol=ATOL * exact.max())
  # Negative control: known frames that ignore the others.
  torn = exact.copy()
  torn[4 + np.array([[0], [2]]), 4 + np.array([1, 3])] = 0.0
  assert np.abs(got - torn).max() > 5 * ATOL * exact.max()


# How known frames reach the sampler: around the denoiser, and the step.
FORMS = {
  'conditional': lambda plain, sampler, seen, prior: (
    replacement.conditional(plain, seen),
    sampler,
  ),
  'marginal': lambda plain, sampler, seen, prior: (
    replacement.conditional(plain, seen),
    replacement.marginal(sampler, seen),
  ),
  'reconstruction': lambda plain, sampler, seen, prior: (
    denoiser.clipped(guidance.reconstruction(plain, seen, prior=prior)),
    sampler,
  ),
  'reconstruction, of classifier-free': lambda plain, sampler, seen, prior: (
    guidance.reconstruction(
      guidance.classifier_free(plain, lambda z, logsnr: 0.1 * z, 2.0),
      seen,
      prior=prior,
      weight=guidance.pigdm_weight(0.5, limit=5.0),
    ),
    sampler,
  ),
}


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_every_form_works_with_every_sampler(ar1, sampler):
  shape, (sampler, _, _) = (4, 2, 2, 1), SAMPLERS[sampler]
  x = clean(4, shape)
  plain = smooth_video(shape).denoiser(ar1)
  levels = schedules.logsnr_grid(4, schedules.CosineSchedule())
  ways = {'none': (plain, sampler)}
  for name, form in FORMS.items():
    ways[name] = form(plain, sampler, seen(x), ar1)

  @jax.jit
  def go(keys):
    return {
      name: samplers.sample(
        *way, keys=keys, shape=shape, logsnrs=levels, prior=ar1
      )
      for name, way in ways.items()
    }

  videos = go(keys(4))
  free = videos.pop('none')
  for name, video in videos.items():
    np.testing.assert_array_equal(video[:, KNOWN], x[:, KNOWN], err_msg=name)
    # The other frames are the sampler's, but not as if nothing were known.
    assert np.abs(video - x)[:, [1, 3]].min() > 0, name
    assert np.abs(video - free)[:, [1, 3]].max() > 0.01, name
  # Negative control: without a form nothing is known.
  assert np.abs(free - x)[:, KNOWN].max() > 0.1


def seam(covariance):
  """Variance of the difference of the noise of frames 0 and 1, at s."""
  return covariance[4, 4] + covariance[5, 5] - 2 * covariance[4, 5]


def test_independent_noise_tears_the_seam(ar1):
  """Negative control: drawn on its own, ε^a is not what the model knows."""
  expected = 2 * (1 - 0.8)
  for form in ('conditional', 'marginal'):
    assert abs(seam(noise_of(form, ar1)) - expected) < 4 * ATOL
  assert abs(seam(noise_of('naive', ar1)) - 2) < 4 * ATOL
  # Of white noise it is the marginal form.
  white = NoisePrior()
  np.testing.assert_allclose(
    noise_of('naive', white), exact_covariance('marginal', white), atol=ATOL
  )


@pytest.mark.parametrize('form', ['conditional', 'marginal'])
def test_known_frames_come_out_to_the_bit_and_the_others_do_not_tear(form, ar1):
  shape = (4, 2, 2, 1)
  x = clean(3, shape)

  def denoise(z, logsnr):
    alpha, _ = alpha_sigma(over_video(logsnr))
    return 0.5 * alpha * (z + 0.3 * jnp.roll(z, 1, 1))

  sampler = samplers.ancestral(0.3)
  pinned = replacement.conditional(denoise, seen(x))
  if form == 'marginal':
    sampler = replacement.marginal(sampler, seen(x))
  got = samplers.sample(
    pinned,
    sampler,
    keys=keys(3),
    shape=shape,
    logsnrs=np.array([-8.0, -2.0, 2.0, 8.0], np.float32),
    prior=ar1,
  )
  np.testing.assert_array_equal(got[:, [0, 2]], x[:, [0, 2]])
  # Negative control: the other frames are the sampler's.
  assert np.abs(got - x)[:, [1, 3]].min() > 0


def test_the_marginal_form_leaves_the_other_frames_alone(ar1):
  x = clean()
  z = clean() + 1
  sampler = samplers.ddim()

  def denoise(z, logsnr):
    return 0.5 * z

  at = {'keys': keys(32), 'z': z, 'prior': ar1}
  plain, _ = one_step(sampler, denoise, **at)
  marginal = replacement.marginal(sampler, seen(x))
  got, x_hat = one_step(marginal, denoise, **at)
  np.testing.assert_array_equal(got[:, [1, 3]], plain[:, [1, 3]])
  np.testing.assert_array_equal(x_hat[:, [0, 2]], x[:, [0, 2]])
  assert np.abs(got - plain)[:, [0, 2]].mean() > 0.1


@pytest.mark.parametrize('frames', [(), (1,), (0, 3), (0, 1, 2, 3)])
def test_noise_given_noise_is_the_conditional_law(ar1, frames):
  """Redrawing some frames of ε given the others keeps the joint law."""
  eps = ar1.sample(keys(32), SHAPE)
  got = ar1.sample_given(keys(32, seed=1), eps=eps, frames=frames)
  rows = np.moveaxis(np.asarray(got), 1, 0).reshape(4, -1)
  np.testing.assert_allclose(
    rows @ rows.T / rows.shape[1], ar1.covariance(4), atol=ATOL
  )
  for i in range(4):
    assert np.array_equal(got[:, i], eps[:, i]) == (i in frames)
  # Given fixed noise, the rest has the regression as its mean.
  if frames == (0, 3):
    ones = jnp.ones((32, *SHAPE))
    drawn = ar1.sample_given(keys(32), eps=ones, frames=frames)
    # The bridge of an AR(1) chain, (ρ + ρ²)/(1 + ρ³) at both frames.
    bridge = (0.8 + 0.8**2) / (1 + 0.8**3)
    mean = np.mean(drawn, (0, 2, 3, 4))
    np.testing.assert_allclose(mean, [1, bridge, bridge, 1], atol=ATOL)


def test_replacement_needs_known_frames():
  low = observation.downsampled(2, jnp.zeros((1, 4, 2, 2, 1)))
  for make in (
    lambda: replacement.conditional(lambda z, logsnr: z, low),
    lambda: replacement.marginal(samplers.ddim(), low),
  ):
    with pytest.raises(ValueError, match='use reconstruction guidance'):
      make()
  known = observation.frames([5], jnp.zeros((1, 1, 2, 2, 1)))
  pinned = replacement.conditional(lambda z, logsnr: z, known)
  with pytest.raises(ValueError, match='frame 5 is observed'):
    pinned(jnp.zeros((1, 4, 2, 2, 1)), jnp.zeros(1))
