"""Guidance against exact conditional means of Gaussian videos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import GaussianVideo, smooth_video
from vdm_jax.diffusion import (
  denoiser,
  guidance,
  observation,
  process,
  replacement,
  samplers,
  schedules,
)
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import over_video

SHAPE = (4, 4, 2, 1)
SIGMAS = np.array([0.01, 0.02, 0.1, 0.3, 0.6, 0.9])
FRAMES = {'first': (0, 1), 'last': (2, 3), 'every_2nd': (0, 2)}
KINDS = (*FRAMES, 'low_res', 'key_frames', 'union', 'frame+low_res')


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def logsnr_of(sigma):
  return jnp.asarray(np.log1p(-(sigma**2)) - 2 * np.log(sigma))


def observe(kind, x):
  """What is observed of the videos x."""
  b, t, h, w, c = x.shape
  low = x.reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))
  ends = observation.downsampled(2, low[:, np.array([0, 3])], indices=(0, 3))
  if kind in FRAMES:
    return observation.frames(FRAMES[kind], x[:, np.array(FRAMES[kind])])
  one = observation.frames([1], x[:, 1:2])
  return {
    'low_res': lambda: observation.downsampled(2, low),
    'key_frames': lambda: ends,
    'union': lambda: observation.union(one, ends),
    'frame+low_res': lambda: observation.union(
      one, observation.downsampled(2, low)
    ),
  }[kind]()


def problem(prior, batch=8):
  """The same videos and noise at every σ: z of σ k at k · batch onwards."""
  video = smooth_video(SHAPE)
  rng = np.random.default_rng(0)
  x = rng.multivariate_normal(video.mean, video.covariance, batch)
  x = jnp.tile(x.reshape(-1, *SHAPE), (len(SIGMAS), 1, 1, 1, 1))
  eps = jnp.tile(prior.sample(keys(batch), SHAPE), (len(SIGMAS), 1, 1, 1, 1))
  logsnr = logsnr_of(np.repeat(SIGMAS, batch))
  return video, x, process.diffuse(x=x, eps=eps, logsnr=logsnr), logsnr


def errors(kind, prior, variants):
  """‖x̃ − E[x|z, y]‖ / ‖x̂ − E[x|z, y]‖ per σ, on frames that are not known.

  A variant is the prior that the guidance is told of, and its weight.
  """
  video, x, z, logsnr = problem(prior)
  seen = observe(kind, x)
  plain = video.denoiser(prior)
  others = np.array([i for i in range(SHAPE[0]) if i not in seen.known])

  @jax.jit
  def distances(z, logsnr):
    exact = video.denoiser(prior, seen)(z, logsnr)

    def norm(denoise):
      off = (denoise(z, logsnr) - exact)[:, others]
      return jnp.sum(off**2, (1, 2, 3, 4)).reshape(len(SIGMAS), -1).sum(1)

    return [
      jnp.sqrt(
        norm(
          guidance.reconstruction(plain, seen, prior=believed, weight=weight)
        )
        / norm(plain)
      )
      for believed, weight in variants
    ]

  return [np.asarray(e) for e in distances(z, logsnr)]


TABLE, SAMPLED = [], {}


@pytest.fixture(scope='module', autouse=True)
def table():
  """Prints what the tests of this file measured; seen with `pytest -s`."""
  yield
  head = ''.join(f'{sigma:8g}' for sigma in SIGMAS)
  print('\nerror of the guidance term, relative to its size; 1 is no guidance')
  print(f'{"observation":15}{"noise":7}{"w_r":13}σ ={head[3:]}')
  for kind, noise, weight, error in TABLE:
    row = ''.join(f'{e:8.4f}' for e in error)
    print(f'{kind:15}{noise:7}{weight:13}{row}')
  print('mean of a last frame, sampled with a corrector; 0.648 is right')
  print(', '.join(f'{name}: {mean:.3f}' for name, mean in SAMPLED.items()))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('correlated', [False, True])
def test_guidance_tends_to_the_exact_conditional_mean(
  x64, ar1, kind, correlated
):
  prior, name = (ar1, 'ar1') if correlated else (NoisePrior(), 'white')
  variants = {
    '1': (prior, 1.0),
    '2': (prior, 2.0),
    'ΠGDM': (prior, guidance.pigdm_weight(0.5)),
  }
  if correlated:
    variants['1, Σ dropped'] = NoisePrior(), 1.0
  measured = dict(
    zip(variants, errors(kind, prior, variants.values()), strict=True)
  )
  TABLE.extend((kind, name, *item) for item in measured.items())
  error, twice, better = (measured[k] for k in ('1', '2', 'ΠGDM'))
  # Cov(x|z) = (σ²/α²) Σ + O(σ⁴): second order in σ.
  for e in (error, better):
    assert abs(np.log2(e[1] / e[0]) - 2) < 0.05, e
    assert e[0] < 0.002
  # Too little guidance far from the data, but never the wrong way.
  assert np.all(np.diff(error) > 0) and error[-1] < 1, error
  assert np.all((better < error)[:4])
  # Negative control: a larger constant is wrong near the data, by w_r − 1, and
  # helps far from it.
  assert abs(twice[0] - 1) < 0.01 and np.all((twice < error)[4:]), twice
  if correlated:
    # Negative control: without Σ an error stays. Not where every frame is seen
    # alike, since Σ (HΣHᵀ)⁻¹ then does not depend on Σ.
    wrong = measured['1, Σ dropped'][0]
    assert wrong < 0.002 if kind == 'low_res' else wrong > 0.5


@pytest.mark.parametrize('kind', ['low_res', 'every_2nd'])
def test_pigdm_weight_is_exact_for_white_data(x64, kind):
  std = 0.5
  white = GaussianVideo(SHAPE, np.full(32, 0.1), std**2 * np.eye(32))
  x = jax.random.normal(jax.random.key(0), (4, *SHAPE))
  logsnr = jnp.array([-15.0, -3.0, 0.0, 5.0])
  z = jax.random.normal(jax.random.key(1), x.shape)
  seen, prior = observe(kind, x), NoisePrior()
  plain = white.denoiser(prior)

  def guided(weight):
    return jax.jit(
      guidance.reconstruction(plain, seen, prior=prior, weight=weight)
    )

  exact = jax.jit(white.denoiser(prior, seen))(z, logsnr)
  got = guided(guidance.pigdm_weight(std))(z, logsnr)
  np.testing.assert_allclose(got, exact, atol=1e-12)
  if kind == 'low_res':  # negative control: a constant, a limit, another σ_d
    for weight in (
      1.0,
      guidance.pigdm_weight(std, limit=2.0),
      guidance.pigdm_weight(2 * std),
    ):
      assert np.abs(guided(weight)(z, logsnr) - exact).max() > 0.1


def frame_video(shape, correlation=0.9):
  """Pixels that are independent of each other, frames that are not."""
  i = np.arange(shape[0])
  frames = 0.25 * correlation ** np.abs(i[:, None] - i)
  pixels = int(np.prod(shape[1:]))
  covariance = np.kron(frames, np.eye(pixels))
  return GaussianVideo(shape, np.zeros(len(covariance)), covariance)


def test_the_norm_is_a_sum_over_pixels_and_per_example(x64):
  # Pixels and examples that do not know each other are guided alone: what a
  # mean over pixels or over the batch would mix up.
  wide, narrow, prior = (4, 2, 4, 1), (4, 2, 2, 1), NoisePrior()
  x = jax.random.normal(jax.random.key(0), (3, *wide))
  z = jax.random.normal(jax.random.key(1), x.shape)
  logsnr = jnp.array([0.0, 1.0, -1.0])

  @jax.jit
  def guided(x, z, logsnr, weight=3.0):
    return guidance.reconstruction(
      frame_video(z.shape[1:]).denoiser(prior),
      observation.frames([0], x[:, :1]),
      prior=prior,
      weight=weight,
    )(z, logsnr)

  whole = guided(x, z, logsnr)
  part = guided(x[1:2, :, :, :2], z[1:2, :, :, :2], logsnr[1:2])
  assert part.shape == (1, *narrow)
  np.testing.assert_allclose(part, whole[1:2, :, :, :2], rtol=1e-12)
  # Negative control: w_r divided by the pixel count is seen.
  mean = guided(x, z, logsnr, 3.0 / 8)
  assert np.abs(mean - whole)[:, 1:].max() > 0.1


def curved(z, logsnr):
  """A denoiser that is not linear and joins frames and pixels."""
  mixed = z + 0.5 * jnp.roll(z, 1, 1) * jnp.roll(z, 1, 2)
  return jnp.tanh(mixed) + 0.1 * over_video(logsnr)


def curved_problem():
  x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
  z = jax.random.normal(jax.random.key(1), x.shape)
  logsnr = jnp.array([0.5, -1.0])
  alpha, _ = process.alpha_sigma(over_video(logsnr))
  return x, z, logsnr, alpha


def test_equation_7_as_printed(x64):
  """x̂^b − (w_r α/2) ∇_{z^b} ‖x^a − x̂^a‖², for Σ = I and any denoiser."""
  x, z, logsnr, alpha = curved_problem()
  a, b = np.array([0, 2]), np.array([1, 3])

  def loss(z_b):
    return jnp.sum((x - curved(z.at[:, b].set(z_b), logsnr))[:, a] ** 2)

  x_b = curved(z, logsnr)[:, b] - 9.0 * alpha / 2 * jax.grad(loss)(z[:, b])
  got = guidance.reconstruction(
    curved, observe('every_2nd', x), prior=NoisePrior(), weight=9.0
  )(z, logsnr)
  np.testing.assert_allclose(got[:, b], x_b, rtol=1e-12)
  np.testing.assert_array_equal(got[:, a], x[:, a])


def test_equation_8_as_printed(x64):
  """x̂ − (w_r α/2) ∇_z ‖x^a − x̂^a‖²: its w_r is f² times ours."""
  x, z, logsnr, alpha = curved_problem()
  seen = observe('low_res', x)

  def loss(z):
    return sum(jnp.sum(r**2) for r in seen.residual(curved(z, logsnr)))

  exact = curved(z, logsnr) - 9.0 * alpha / 2 * jax.grad(loss)(z)
  got = guidance.reconstruction(
    curved, seen, prior=NoisePrior(), weight=9.0 / 4
  )(z, logsnr)
  np.testing.assert_allclose(got, exact, rtol=1e-12)


def test_clipping_comes_last():
  """The derivative is that of the unclipped x̂; clipping cuts it off."""
  x, z, logsnr, _ = curved_problem()
  how = {'observation': observe('low_res', x), 'prior': NoisePrior()}
  guided = guidance.reconstruction(curved, weight=1.0, **how)
  last = denoiser.clipped(guided, -0.5, 0.5)(z, logsnr)
  np.testing.assert_array_equal(last, np.clip(guided(z, logsnr), -0.5, 0.5))
  first = guidance.reconstruction(
    denoiser.clipped(curved, -0.5, 0.5), weight=1.0, **how
  )(z, logsnr)
  assert np.abs(np.clip(first, -0.5, 0.5) - last).max() > 0.1


def test_the_conditional_model_alone_can_be_differentiated(x64):
  x, z, logsnr, alpha = curved_problem()
  null, scale, w_r = affine(0.5, -0.2), 3.0, 2.0
  seen, prior = observe('every_2nd', x), NoisePrior()
  inner = guidance.reconstruction(curved, seen, prior=prior, weight=w_r / scale)
  got = replacement.conditional(
    guidance.classifier_free(inner, null, scale), seen
  )(z, logsnr)

  def loss(z):
    return sum(jnp.sum(r**2) for r in seen.residual(curved(z, logsnr)))

  x_tilde = guidance.classifier_free(curved, null, scale)(z, logsnr)
  exact = x_tilde - w_r * alpha / 2 * jax.grad(loss)(z)
  np.testing.assert_allclose(got, seen.pin(exact), rtol=1e-11, atol=1e-12)


def test_an_observation_that_does_not_fit_is_refused():
  seen = observation.frames([7], jnp.zeros((1, 1, 4, 2, 1)))
  guided = guidance.reconstruction(
    lambda z, logsnr: z, seen, prior=NoisePrior()
  )
  with pytest.raises(ValueError, match='frame 7 is observed'):
    guided(jnp.zeros((1, *SHAPE)), jnp.zeros(1))
  with pytest.raises(ValueError, match='data_std 0'):
    guidance.pigdm_weight(0.0)


def test_predictor_corrector_with_guidance_extends_a_video():
  """x^b given x^a has the mean K_ba K_aa⁻¹ x^a: which sampler comes near?"""
  shape, batch, prior = (3, 2, 2, 1), 128, NoisePrior()
  levels = schedules.logsnr_grid(
    24, schedules.CosineSchedule(logsnr_min=-12.0, logsnr_max=12.0)
  )
  video = frame_video(shape)
  known = jnp.full((batch, 1, *shape[1:]), 0.8)
  seen = observation.frames([0], known)
  plain = video.denoiser(prior)

  def guided(weight):
    return guidance.reconstruction(plain, seen, prior=prior, weight=weight)

  denoisers = {
    'exact': video.denoiser(prior, seen),
    'ΠGDM': guided(guidance.pigdm_weight(0.5)),
    'w_r = 1': guided(1.0),
    'replaced': replacement.conditional(plain, seen),
    'plain': plain,
  }

  @jax.jit
  def go(keys):
    return [
      samplers.sample(
        denoise,
        samplers.predictor_corrector(samplers.ancestral(0.0)),
        keys=keys,
        shape=shape,
        logsnrs=levels,
        prior=prior,
      )
      for denoise in denoisers.values()
    ]

  videos = dict(zip(denoisers, go(keys(batch)), strict=True))
  mean = {name: np.mean(v, (0, 2, 3, 4)) for name, v in videos.items()}
  off = {name: 0.8 * 0.9**2 - m[2] for name, m in mean.items()}
  SAMPLED.update((name, m[2]) for name, m in mean.items())
  noise = 5 * 0.5 / np.sqrt(batch * 4)  # five standard errors
  assert abs(off['exact']) < noise
  # Guidance lies between replacement, which hardly conditions, and the truth.
  order = [off[n] for n in ('exact', 'ΠGDM', 'w_r = 1', 'replaced', 'plain')]
  assert np.all(np.diff(order) > [0, 0.05, 0.05, 0.05]), off
  for name in ('ΠGDM', 'w_r = 1', 'replaced'):
    np.testing.assert_array_equal(videos[name][:, :1], known)


def affine(slope, offset):
  return lambda z, logsnr: slope * jnp.tanh(z) + offset + over_video(logsnr) / 9


def counted(denoise, calls):
  def counting(z, logsnr):
    calls.append(z.shape[0])
    return denoise(z, logsnr)

  return counting


@pytest.mark.parametrize('prediction', process.PREDICTIONS)
def test_classifier_free_guidance_is_eq_6_in_every_parameterisation(
  x64, prediction
):
  z = jax.random.normal(jax.random.key(0), (2, *SHAPE))
  logsnr = jnp.array([-2.0, 3.0])

  def raw(x):
    eps = process.eps_from_x(z=z, x=x, logsnr=logsnr)
    return process.target(prediction, x=x, eps=eps, logsnr=logsnr)

  cond, null = affine(0.9, 0.1), affine(0.5, -0.2)
  c, n = raw(cond(z, logsnr)), raw(null(z, logsnr))
  got = []
  for w in (0.0, 1.0, 4.0):
    guided = guidance.classifier_free(cond, null, 1 + w)(z, logsnr)
    np.testing.assert_allclose(raw(guided), (1 + w) * c - w * n, atol=1e-11)
    got.append(guided)
  # Linear in w.
  np.testing.assert_allclose(got[2] - got[0], 4 * (got[1] - got[0]), atol=1e-12)
  assert np.abs(got[1] - got[0]).max() > 0.1


def test_a_scale_of_one_is_one_call_of_the_conditional_model():
  z, logsnr = jnp.ones((2, *SHAPE)), jnp.zeros(2)
  cond, null = affine(0.9, 0.1), affine(0.5, -0.2)
  for scale, expected in ((1.0, [2]), (1, [2]), (0.0, [2, 2]), (2.0, [2, 2])):
    calls = []
    got = guidance.classifier_free(
      counted(cond, calls), counted(null, calls), scale
    )(z, logsnr)
    assert calls == expected
    if scale == 1:
      np.testing.assert_array_equal(got, cond(z, logsnr))


def test_one_batched_call_is_the_same_as_two():
  z = jax.random.normal(jax.random.key(0), (8, *SHAPE))
  logsnr = jnp.linspace(-3, 3, 8)
  condition = {'slope': jnp.linspace(0.1, 0.8, 8), 'offset': jnp.ones(8)}
  null = jax.tree.map(jnp.zeros_like, condition)
  calls = []

  def denoise(z, logsnr, condition):
    calls.append(z.shape[0])
    slope, offset = (
      over_video(condition[k].astype(z.dtype)) for k in ('slope', 'offset')
    )
    return slope * jnp.tanh(z) + offset + over_video(logsnr)

  def two(scale):
    return guidance.classifier_free(
      lambda z, logsnr: denoise(z, logsnr, condition),
      lambda z, logsnr: denoise(z, logsnr, null),
      scale,
    )(z, logsnr)

  def one(scale):
    return guidance.classifier_free_batched(
      denoise, cond=condition, null=null, guidance_scale=scale
    )(z, logsnr)

  for scale, expected in ((1.0, [8]), (3.0, [16])):
    separate = two(scale)
    calls.clear()
    np.testing.assert_array_equal(one(scale), separate)
    assert calls == expected
