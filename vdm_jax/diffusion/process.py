"""The forward process: Gaussian, variance preserving, timed by the log-SNR.

λ = log(α²/σ²) is the only time variable, with α² + σ² = 1. Levels are named
as in Ho22: t is the noisier one, s the cleaner one, λ_s ≥ λ_t. A level is
given per example, `[b]`, or per frame, `[b, t]`.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# σ_data of Karras22: their standard deviation of data in [−1, 1].
DATA_STD = 0.5

Video = Float[Array, 'b t h w c']
LogSnr = Float[Array, ' b'] | Float[Array, 'b t']


def over_video(
  values: LogSnr,
) -> Float[Array, 'b 1 1 1 1'] | Float[Array, 'b t 1 1 1']:
  """Gives `[b]` or `[b, t]` the rank of a video, to multiply one with."""
  return values.reshape(values.shape + (1,) * (5 - values.ndim))


def alpha_sigma(
  logsnr: Float[Array, '*shape'],
) -> tuple[Float[Array, '*shape'], Float[Array, '*shape']]:
  """α = √sigmoid(λ), σ = √sigmoid(−λ), so that α² + σ² = 1 (Ho22 §2)."""
  return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def diffuse(*, x: Video, eps: Video, logsnr: LogSnr) -> Video:
  """z_t = α_t x + σ_t ε, a draw of q(z_t|x) (Ho22 eq. 1, left).

  `eps` comes from the noise prior and has unit variance in every pixel.
  """
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return alpha * x + sigma * eps


def transition(
  *, z_s: Video, logsnr_s: LogSnr, logsnr_t: LogSnr
) -> tuple[Video, Array]:
  """q(z_t|z_s) = N((α_t/α_s) z_s, (1 − e^{λt−λs}) σ_t²) (Ho22 eq. 1, right).

  Returns the mean, and the standard deviation broadcastable to it.
  """
  logsnr_s, logsnr_t = over_video(logsnr_s), over_video(logsnr_t)
  log_ratio = _log_alpha2(logsnr_t) - _log_alpha2(logsnr_s)
  variance = -jnp.expm1(logsnr_t - logsnr_s) * jax.nn.sigmoid(-logsnr_t)
  return jnp.exp(0.5 * log_ratio) * z_s, jnp.sqrt(variance)


def posterior(
  *,
  x: Video,
  z_t: Video,
  logsnr_s: LogSnr,
  logsnr_t: LogSnr,
  gamma: float = 0.0,
) -> tuple[Video, Array]:
  """μ̃ = r (α_s/α_t) z_t + (1 − r) α_s x, r = e^{λt−λs} (Ho22 eq. 3).

  The variance is ((1 − r) σ_s²)^{1−γ} ((1 − r) σ_t²)^γ (Ho22 eq. 4): `gamma`
  in [0, 1] interpolates the logarithms of the lower and of the upper bound,
  and γ = 0 is q(z_s|z_t, x) itself.

  Returns the mean, and the standard deviation broadcastable to it.
  """
  logsnr_s, logsnr_t = over_video(logsnr_s), over_video(logsnr_t)
  difference = logsnr_t - logsnr_s
  log_alpha2_s = _log_alpha2(logsnr_s)
  log_ratio = difference + 0.5 * (log_alpha2_s - _log_alpha2(logsnr_t))
  one_minus_r = -jnp.expm1(difference)
  mean = (
    jnp.exp(log_ratio) * z_t + one_minus_r * jnp.exp(0.5 * log_alpha2_s) * x
  )
  log_sigma2 = gamma * _log_sigma2(logsnr_t) + (1 - gamma) * _log_sigma2(
    logsnr_s
  )
  return mean, jnp.sqrt(one_minus_r) * jnp.exp(0.5 * log_sigma2)


def x_from_eps(*, z: Video, eps: Video, logsnr: LogSnr) -> Video:
  """x = (z − σ ε) / α (Ho22 §2, the ε-parameterisation)."""
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return (z - sigma * eps) / alpha


def x_from_v(*, z: Video, v: Video, logsnr: LogSnr) -> Video:
  """x = α z − σ v (Salimans22 §4, the v-parameterisation)."""
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return alpha * z - sigma * v


def eps_from_x(*, z: Video, x: Video, logsnr: LogSnr) -> Video:
  """ε = (z − α x) / σ, the inverse of Ho22 eq. 1 at a known x."""
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return (z - alpha * x) / sigma


def v_from_x(*, z: Video, x: Video, logsnr: LogSnr) -> Video:
  """v = (α z − x) / σ, the inverse of `x_from_v`."""
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return (alpha * z - x) / sigma


def v_from_x_eps(*, x: Video, eps: Video, logsnr: LogSnr) -> Video:
  """v = α ε − σ x (Salimans22 §4)."""
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return alpha * eps - sigma * x


def x_from_edm(*, z: Video, raw: Video, logsnr: LogSnr) -> Video:
  """x = c_skip y + c_out F with y = z/α and s = σ/α (Karras22 eq. 7).

  c_skip = σ_d²/(s² + σ_d²) and c_out = s σ_d/√(s² + σ_d²). On the network's own
  input this is x/σ_d = α' z' + σ' F: v-prediction of x/σ_d with F = −v.
  """
  z, logsnr = network_input('edm', z=z, logsnr=logsnr)
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return DATA_STD * (alpha * z + sigma * raw)


def edm_from_x_eps(*, x: Video, eps: Video, logsnr: LogSnr) -> Video:
  """F = (x − c_skip y)/c_out, an EDM network's target (Karras22 eq. 8).

  F = σ' x/σ_d − α' ε with α', σ' at the log-SNR of x/σ_d: unit variance.
  """
  alpha, sigma = alpha_sigma(over_video(data_logsnr(logsnr)))
  return sigma * x / DATA_STD - alpha * eps


def data_logsnr(logsnr: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """log(σ_d² α²/σ²): the log-SNR of x/σ_d, which has unit variance."""
  return logsnr + 2 * math.log(DATA_STD)


def network_input(
  prediction: str, *, z: Video, logsnr: LogSnr
) -> tuple[Video, LogSnr]:
  """(z, λ) as the network meets them; (c_in z/α, λ + 2 ln σ_d) for 'edm'.

  c_in = 1/√(s² + σ_d²), s = σ/α (Karras22 eq. 7) makes z' = α' x/σ_d + σ' ε of
  unit variance for data of variance σ_d². The network's own embedding of the
  log-SNR takes the place of c_noise (ours).

  Raises:
    ValueError: the prediction is not one of `PREDICTIONS`.
  """
  check_prediction(prediction)
  if prediction != 'edm':
    return z, logsnr
  scaled = data_logsnr(logsnr)
  log_ratio = 0.5 * (_log_alpha2(scaled) - _log_alpha2(logsnr))
  return over_video(jnp.exp(log_ratio) / DATA_STD) * z, scaled


_X_FROM = {
  'eps': lambda z, raw, logsnr: x_from_eps(z=z, eps=raw, logsnr=logsnr),
  'v': lambda z, raw, logsnr: x_from_v(z=z, v=raw, logsnr=logsnr),
  'x': lambda z, raw, logsnr: raw,
  'edm': lambda z, raw, logsnr: x_from_edm(z=z, raw=raw, logsnr=logsnr),
}
_TARGET = {
  'eps': lambda x, eps, logsnr: eps,
  'v': lambda x, eps, logsnr: v_from_x_eps(x=x, eps=eps, logsnr=logsnr),
  'x': lambda x, eps, logsnr: x,
  'edm': lambda x, eps, logsnr: edm_from_x_eps(x=x, eps=eps, logsnr=logsnr),
}
PREDICTIONS = tuple(_X_FROM)


def check_prediction(prediction: str) -> None:
  """Raises ValueError unless the name is one of `PREDICTIONS`."""
  if prediction not in PREDICTIONS:
    raise ValueError(
      f'unknown prediction {prediction!r}; use one of {", ".join(PREDICTIONS)}'
    )


def x_from(prediction: str, *, z: Video, raw: Video, logsnr: LogSnr) -> Video:
  """x̂ from the output of a network that predicts 'eps', 'v', 'x' or 'edm'.

  `z` and `logsnr` are those of the diffusion, not of `network_input`.

  Raises:
    ValueError: the prediction is not one of `PREDICTIONS`.
  """
  check_prediction(prediction)
  return _X_FROM[prediction](z, raw, logsnr)


def target(prediction: str, *, x: Video, eps: Video, logsnr: LogSnr) -> Video:
  """What a network that predicts 'eps', 'v', 'x' or 'edm' should answer.

  Raises:
    ValueError: the prediction is not one of `PREDICTIONS`.
  """
  check_prediction(prediction)
  return _TARGET[prediction](x, eps, logsnr)


def _log_alpha2(logsnr: Array) -> Array:
  return jax.nn.log_sigmoid(logsnr)


def _log_sigma2(logsnr: Array) -> Array:
  return jax.nn.log_sigmoid(-logsnr)
