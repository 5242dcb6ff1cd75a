"""The forward process against its own algebra, in float64 at λ = ±20."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import process

LEVELS = np.array([-20.0, -7.3, -0.4, 0.0, 2.1, 9.8, 20.0])
# (λ_s, λ_t) with s cleaner than t.
PAIRS = np.array([p[::-1] for p in itertools.combinations(LEVELS, 2)])
SHAPE = (2, 3, 2, 1)


def normal(seed, batch):
  return jax.random.normal(jax.random.key(seed), (batch, *SHAPE))


def ones(batch):
  return jnp.ones((batch, 1, 1, 1, 1))


def first(x):
  return np.asarray(x)[:, 0, 0, 0, 0]


def test_variance_is_preserved_and_lambda_is_the_log_snr(x64):
  alpha, sigma = process.alpha_sigma(jnp.array(LEVELS))
  np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-15)
  np.testing.assert_allclose(
    np.log(alpha**2 / sigma**2), LEVELS, rtol=1e-14, atol=1e-15
  )


def test_float32_keeps_the_smaller_coefficient():
  alpha, sigma = process.alpha_sigma(jnp.array([-20.0, 20.0]))
  exact = 1 / np.sqrt(1 + np.exp(20))
  np.testing.assert_allclose([alpha[0], sigma[1]], exact, rtol=1e-6)
  # Negative control: 1 − α² has lost it.
  assert abs(np.sqrt(1 - np.float32(alpha[1]) ** 2) / exact - 1) > 0.5


def test_conversions_are_inverse_to_each_other(x64):
  b = len(LEVELS)
  logsnr = jnp.array(LEVELS)
  x, eps = normal(0, b), normal(1, b)
  z = process.diffuse(x=x, eps=eps, logsnr=logsnr)
  v = process.v_from_x_eps(x=x, eps=eps, logsnr=logsnr)
  at = {'z': z, 'logsnr': logsnr}
  # Divisions by α or σ = 4.5e-5 leave 1e-16 · 2e4.
  close = {'rtol': 0, 'atol': 1e-10}
  np.testing.assert_allclose(process.x_from_eps(eps=eps, **at), x, **close)
  np.testing.assert_allclose(process.eps_from_x(x=x, **at), eps, **close)
  np.testing.assert_allclose(process.v_from_x(x=x, **at), v, **close)
  # Of a rotation: nothing is amplified.
  np.testing.assert_allclose(process.x_from_v(v=v, **at), x, atol=1e-14)


def test_v_is_the_derivative_of_z_along_the_angle(x64):
  x, eps, phi = normal(0, 1), normal(1, 1), jnp.array([0.7])

  def z(phi):
    logsnr = -2 * jnp.log(jnp.tan(phi))
    return process.diffuse(x=x, eps=eps, logsnr=logsnr)

  _, dz = jax.jvp(z, (phi,), (jnp.ones(1),))
  logsnr = -2 * jnp.log(jnp.tan(phi))
  v = process.v_from_x_eps(x=x, eps=eps, logsnr=logsnr)
  np.testing.assert_allclose(dz, v, rtol=1e-12)


@pytest.mark.parametrize('prediction', process.PREDICTIONS)
def test_the_target_converts_back_to_x(x64, prediction):
  logsnr = jnp.array(LEVELS)
  x, eps = normal(0, len(LEVELS)), normal(1, len(LEVELS))
  z = process.diffuse(x=x, eps=eps, logsnr=logsnr)
  raw = process.target(prediction, x=x, eps=eps, logsnr=logsnr)
  back = process.x_from(prediction, z=z, raw=raw, logsnr=logsnr)
  np.testing.assert_allclose(back, x, rtol=0, atol=1e-10)


# Levels of s = σ/α from the end of a sampler's grid to its beginning.
STDS = np.array([0.002, 0.1, 0.5, 1.0, 10.0, 80.0])


def karras():
  """c_in, c_skip, c_out of Karras22 table 1 at `STDS`, as videos."""
  s, data = STDS[:, None, None, None, None], 0.5
  total = s**2 + data**2
  return 1 / np.sqrt(total), data**2 / total, s * data / np.sqrt(total)


def test_edm_is_the_preconditioning_of_the_paper(x64):
  logsnr = jnp.array(-2 * np.log(STDS))
  x, eps, raw = (normal(seed, len(STDS)) for seed in range(3))
  c_in, c_skip, c_out = karras()
  y = x + STDS[:, None, None, None, None] * eps
  z = process.diffuse(x=x, eps=eps, logsnr=logsnr)
  seen, level = process.network_input('edm', z=z, logsnr=logsnr)
  close = {'rtol': 0, 'atol': 1e-12}
  np.testing.assert_allclose(seen, c_in * y, **close)
  np.testing.assert_allclose(level, 2 * np.log(0.5 / STDS), **close)
  x_hat = process.x_from('edm', z=z, raw=raw, logsnr=logsnr)
  np.testing.assert_allclose(x_hat, c_skip * y + c_out * raw, **close)
  target = process.target('edm', x=x, eps=eps, logsnr=logsnr)
  np.testing.assert_allclose(c_out * target, x - c_skip * y, **close)
  for other in ('eps', 'v', 'x'):
    same, level = process.network_input(other, z=z, logsnr=logsnr)
    assert same is z and level is logsnr


def test_edm_is_v_prediction_of_data_of_unit_variance(x64):
  logsnr = jnp.array(LEVELS)
  x, eps = normal(0, len(LEVELS)), normal(1, len(LEVELS))
  z = process.diffuse(x=x, eps=eps, logsnr=logsnr)
  seen, level = process.network_input('edm', z=z, logsnr=logsnr)
  scaled = {'x': x / 0.5, 'eps': eps, 'logsnr': level}
  np.testing.assert_allclose(seen, process.diffuse(**scaled), atol=1e-14)
  target = process.target('edm', x=x, eps=eps, logsnr=logsnr)
  v = process.v_from_x_eps(**scaled)
  np.testing.assert_allclose(target, -v, atol=1e-14)


def test_edm_gives_the_network_unit_variance_on_both_sides(x64):
  logsnr, one = jnp.array(-2 * np.log(STDS)), ones(len(STDS))

  def variances(data):
    """Of input and target, which are linear in x and in ε."""
    total = np.zeros((2, len(STDS)))
    for x, eps, std in ((one, 0 * one, data), (0 * one, one, 1.0)):
      z = process.diffuse(x=x, eps=eps, logsnr=logsnr)
      seen, _ = process.network_input('edm', z=z, logsnr=logsnr)
      target = process.target('edm', x=x, eps=eps, logsnr=logsnr)
      total += (std * np.stack([first(seen), first(target)])) ** 2
    return total

  np.testing.assert_allclose(variances(0.5), 1, rtol=1e-13)
  # Negative control: data of another variance.
  assert np.abs(variances(1.0) - 1).max(1).min() > 0.5


def test_float32_edm_is_accurate_at_the_ends():
  def computed():
    logsnr, one = jnp.array(LEVELS), ones(len(LEVELS))
    z = process.diffuse(x=one, eps=0.7 * one, logsnr=logsnr)
    seen, level = process.network_input('edm', z=z, logsnr=logsnr)
    target = process.target('edm', x=one, eps=0.7 * one, logsnr=logsnr)
    x_hat = process.x_from('edm', z=z, raw=target, logsnr=logsnr)
    np.testing.assert_allclose(x_hat, one, rtol=2e-6)
    return seen, level, target

  single = computed()
  with jax.enable_x64(True):
    double = computed()
  for got, exact in zip(single, double, strict=True):
    np.testing.assert_allclose(got, exact, rtol=5e-6, atol=1e-6)


def test_unknown_predictions_name_the_known_ones():
  x = jnp.zeros((1, *SHAPE))
  with pytest.raises(ValueError, match="'epsilon'; use one of eps, v, x"):
    process.x_from('epsilon', z=x, raw=x, logsnr=jnp.zeros(1))
  with pytest.raises(ValueError, match='use one of eps, v, x'):
    process.target('score', x=x, eps=x, logsnr=jnp.zeros(1))


def coefficients(gamma=0.0):
  """(from z_t, from x, standard deviation) of the posterior at PAIRS."""
  logsnr_s, logsnr_t = jnp.array(PAIRS.T)
  one = ones(len(PAIRS))
  at = {'logsnr_s': logsnr_s, 'logsnr_t': logsnr_t, 'gamma': gamma}
  from_z, std = process.posterior(x=0 * one, z_t=one, **at)
  from_x, _ = process.posterior(x=one, z_t=0 * one, **at)
  return first(from_z), first(from_x), first(std)


def test_posterior_after_forward_is_forward(x64):
  (alpha_s, alpha_t), (sigma_s, sigma_t) = process.alpha_sigma(
    jnp.array(PAIRS.T)
  )
  from_z, from_x, std = coefficients()
  np.testing.assert_allclose(from_z * alpha_t + from_x, alpha_s, rtol=1e-13)
  variance = from_z**2 * sigma_t**2 + std**2
  np.testing.assert_allclose(variance, sigma_s**2, rtol=1e-13)
  # Negative control: the upper bound of the variance is not the posterior's.
  *_, upper = coefficients(gamma=1.0)
  variance = from_z**2 * sigma_t**2 + upper**2
  assert np.all(variance / sigma_s**2 > 1 + 1e-4)


def test_two_forward_steps_are_one(x64):
  logsnr_s, logsnr_t = jnp.array(PAIRS.T)
  (alpha_s, alpha_t), (sigma_s, sigma_t) = process.alpha_sigma(
    jnp.array(PAIRS.T)
  )
  scale, std = process.transition(
    z_s=ones(len(PAIRS)), logsnr_s=logsnr_s, logsnr_t=logsnr_t
  )
  scale, std = first(scale), first(std)
  np.testing.assert_allclose(scale * alpha_s, alpha_t, rtol=1e-13)
  np.testing.assert_allclose(
    scale**2 * sigma_s**2 + std**2, sigma_t**2, rtol=1e-13
  )


def test_posterior_is_bayes_rule(x64):
  logsnr_s, logsnr_t = jnp.array(PAIRS.T)
  alpha_s, sigma_s = process.alpha_sigma(logsnr_s)
  scale, std = process.transition(
    z_s=ones(len(PAIRS)), logsnr_s=logsnr_s, logsnr_t=logsnr_t
  )
  scale, std = first(scale), first(std)
  variance = 1 / (1 / sigma_s**2 + scale**2 / std**2)
  from_z, from_x, posterior_std = coefficients()
  np.testing.assert_allclose(posterior_std**2, variance, rtol=1e-12)
  np.testing.assert_allclose(from_z, variance * scale / std**2, rtol=1e-12)
  np.testing.assert_allclose(
    from_x, variance * alpha_s / sigma_s**2, rtol=1e-12
  )


def test_gamma_interpolates_log_variances(x64):
  logsnr_s, logsnr_t = jnp.array(PAIRS.T)
  _, forward = process.transition(
    z_s=ones(len(PAIRS)), logsnr_s=logsnr_s, logsnr_t=logsnr_t
  )
  lower, middle, upper = (coefficients(g)[2] for g in (0.0, 0.3, 1.0))
  np.testing.assert_allclose(upper, first(forward), rtol=1e-13)
  np.testing.assert_allclose(middle, lower**0.7 * upper**0.3, rtol=1e-13)


def test_float32_posterior_is_finite_and_accurate_at_the_ends():
  single = coefficients(0.3)
  with jax.enable_x64(True):
    double = coefficients(0.3)
  for got, exact in zip(single, double, strict=True):
    np.testing.assert_allclose(got, exact, rtol=2e-5)


def test_a_step_of_no_length_stays_where_it_is():
  z, level = normal(0, 2), jnp.array([-20.0, 20.0])
  mean, std = process.posterior(
    x=normal(1, 2), z_t=z, logsnr_s=level, logsnr_t=level, gamma=0.3
  )
  np.testing.assert_array_equal(mean, z)
  np.testing.assert_array_equal(std, jnp.zeros_like(std))


def test_levels_per_frame_act_on_their_frame_alone():
  x, eps = normal(0, 2), normal(1, 2)
  levels = jnp.array([[-3.0, 5.0], [0.5, -1.0]])
  per_frame = process.diffuse(x=x, eps=eps, logsnr=levels)
  for frame in range(2):
    one = process.diffuse(x=x, eps=eps, logsnr=levels[:, frame])
    np.testing.assert_array_equal(per_frame[:, frame], one[:, frame])
    assert not np.array_equal(per_frame[:, 1 - frame], one[:, 1 - frame])
