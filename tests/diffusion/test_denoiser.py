"""Conversion of a network to a denoiser, and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import denoiser, process

LEVELS = np.array([-20.0, -1.0, 3.0, 20.0])


def estimate(z, logsnr):
  """Any function of z and λ will do for x̂."""
  return jnp.tanh(2 * z) + process.over_video(logsnr) / 40


def networks():
  """The same x̂ as a network of each prediction type.

  A network of 'edm' meets z' = α' x/σ_d + σ' ε and the log-SNR of x/σ_d; it
  finds z and λ again by the coefficients of Karras22.
  """

  def eps(z, logsnr):
    return process.eps_from_x(z=z, x=estimate(z, logsnr), logsnr=logsnr)

  def v(z, logsnr):
    return process.v_from_x(z=z, x=estimate(z, logsnr), logsnr=logsnr)

  def edm(seen, level):
    logsnr = level - 2 * np.log(0.5)
    s, alpha = jnp.exp(-logsnr / 2), jnp.sqrt(jax.nn.sigmoid(logsnr))
    s, alpha = (process.over_video(u) for u in (s, alpha))
    y = jnp.sqrt(s**2 + 0.25) * seen
    x = estimate(alpha * y, logsnr)
    c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / jnp.sqrt(s**2 + 0.25)
    return (x - c_skip * y) / c_out

  return {'eps': eps, 'v': v, 'x': estimate, 'edm': edm}


@pytest.mark.parametrize('prediction', process.PREDICTIONS)
def test_every_prediction_type_becomes_x_hat(x64, prediction):
  z = jax.random.normal(jax.random.key(0), (4, 2, 3, 3, 1))
  logsnr = jnp.array(LEVELS)
  denoise = denoiser.from_network(networks()[prediction], prediction)
  exact = estimate(z, logsnr)
  np.testing.assert_allclose(denoise(z, logsnr), exact, atol=1e-10)
  # Negative control: taken for another type, the output is another x̂.
  other = {'eps': 'v', 'v': 'x', 'x': 'edm', 'edm': 'eps'}[prediction]
  wrong = denoiser.from_network(networks()[prediction], other)(z, logsnr)
  assert np.abs(wrong - exact).max() > 0.1


def test_low_precision_output_is_converted_in_float32():
  z = jax.random.normal(jax.random.key(0), (1, 1, 2, 2, 1))
  logsnr = jnp.array([4.0])
  raw = z.astype(jnp.bfloat16)
  denoise = denoiser.from_network(lambda z, logsnr: raw, 'v')
  exact = process.x_from_v(z=z, v=raw.astype(jnp.float32), logsnr=logsnr)
  assert denoise(z, logsnr).dtype == jnp.float32
  np.testing.assert_array_equal(denoise(z, logsnr), exact)


def test_clipping_bounds_x_hat_and_changes_nothing_inside():
  z = 3 * jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))
  logsnr = jnp.zeros(2)
  clipped = denoiser.clipped(lambda z, logsnr: z)(z, logsnr)
  inside = np.abs(z) <= 1
  assert 0 < inside.sum() < inside.size
  np.testing.assert_array_equal(clipped[inside], z[inside])
  np.testing.assert_array_equal(clipped[~inside], np.sign(z[~inside]))
  half = denoiser.clipped(lambda z, logsnr: z, low=0.0, high=0.5)(z, logsnr)
  assert half.min() == 0 and half.max() == 0.5


def test_an_unknown_prediction_is_refused_at_once():
  with pytest.raises(ValueError, match='use one of eps, v, x'):
    denoiser.from_network(estimate, 'noise')
