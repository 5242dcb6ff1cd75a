"""Guidance: denoisers made of denoisers, towards a condition or observation.

Compose from the inside out: classifier-free guidance, then reconstruction
guidance, which differentiates the x̂ that it gets, and clipping last:

  clipped(reconstruction(classifier_free(…), observation, …))
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vdm_jax.diffusion import process
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.observation import Observation
from vdm_jax.diffusion.process import LogSnr, Video

Weight = float | Float[Array, ''] | Callable[[LogSnr], LogSnr]


def classifier_free(
  denoise_cond: Denoiser, denoise_null: Denoiser, guidance_scale: float
) -> Denoiser:
  """x̃ = (1 + w) x̂(z, c) − w x̂(z), 1 + w = guidance_scale (Ho22 eq. 6).

  The weights sum to one, so that the same holds for ε̂ and v̂. Ho22's tables
  list 1 + w: a scale of 1 does not guide, and calls `denoise_cond` only.
  """
  if guidance_scale == 1:
    return denoise_cond

  def denoise(z: Video, logsnr: LogSnr) -> Video:
    return _extrapolate(
      cond=denoise_cond(z, logsnr),
      null=denoise_null(z, logsnr),
      guidance_scale=guidance_scale,
    )

  return denoise


def classifier_free_batched(
  denoise: Callable[[Video, LogSnr, Any], Video],
  *,
  cond: Any,
  null: Any,
  guidance_scale: float,
) -> Denoiser:
  """Ho22 eq. 6 with one call of the network, on twice the batch.

  Faster than two calls where a batch does not fill the accelerator, at twice
  the memory. Each example lies beside its unconditional twin, so that a batch
  spread over devices stays where it is. A scale of 1 does not double.

  Args:
    denoise: `denoise(z, logsnr, condition) -> x_hat`.
    cond: the condition, a tree of arrays `[b, …]`.
    null: the absence of a condition, a tree of the same shapes.
    guidance_scale: 1 + w.
  """
  if guidance_scale == 1:
    return lambda z, logsnr: denoise(z, logsnr, cond)

  def guided(z: Video, logsnr: LogSnr) -> Video:
    x_hat = denoise(
      jnp.repeat(z, 2, 0),
      jnp.repeat(logsnr, 2, 0),
      jax.tree.map(_interleave, cond, null),
    )
    return _extrapolate(
      cond=x_hat[::2], null=x_hat[1::2], guidance_scale=guidance_scale
    )

  return guided


def reconstruction(
  denoise: Denoiser,
  observation: Observation,
  *,
  prior: NoisePrior,
  weight: Weight = 1.0,
) -> Denoiser:
  """x̃ = x̂ − (w_r α/2) Σ ∇_z ‖y − H x̂(z)‖²_{(HΣHᵀ)⁻¹} (Ho22 eqs. 7 and 8).

  Known frames are replaced by their value, so they come out to the bit (of a
  `clipped` denoiser: if they are in its range). Close to the data
  Cov(x|z) → (σ²/α²) Σ, and then w_r = 1 is E[x|z, y] exactly; farther away it
  guides too little, for which Ho22 take w_r > 1.

  With Σ = I and known frames this is eq. 7: of the gradient only the rows b
  matter. With correlated noise ∇_{z^a} reaches x̃^b through Σ_ba. Eq. 8 does
  not divide by H Hᵀ = I/f²: its w_r is f² times this one.

  The norm is a sum over the pixels of an example. The gradient is that of
  `denoise` as it is given: without clipping, which would cut it off, and with
  classifier-free guidance where it is inside. To differentiate the
  conditional model alone, guide the other way round, with the weight divided
  by s, and fix the known frames again, if there are any:
  `replacement.conditional(classifier_free(reconstruction(cond, …), null, s),
  observation)`.

  Costs one forward and one backward pass for z, and 0.9 of the memory of a
  training step's activations. `jax.checkpoint` around `denoise` would only
  repeat the forward pass: rematerialise blocks inside the network, as in
  training.

  Args:
    denoise: an unclipped denoiser.
    observation: H and y.
    prior: the prior that the denoiser was trained with.
    weight: w_r, a number, traced or not, or a function of the log-SNR, as
      `pigdm_weight`.

  Raises:
    ValueError: when called, if the observation does not fit the video.
  """

  def guided(z: Video, logsnr: LogSnr) -> Video:
    observation.check(z.shape[1:])

    def residual(z: Video):
      x_hat = denoise(z, logsnr)
      return observation.residual(x_hat), x_hat

    y, pull_back, x_hat = jax.vjp(residual, z, has_aux=True)
    whitened = observation.solve(y, prior=prior, frames=z.shape[1])
    (half_gradient,) = pull_back(whitened)
    alpha, _ = process.alpha_sigma(logsnr)
    w = weight(logsnr) if callable(weight) else weight
    change = process.over_video(w * alpha) * prior.apply_covariance(
      half_gradient
    )
    return observation.pin(x_hat - change)

  return guided


def pigdm_weight(
  data_std: float = 0.5, limit: float = math.inf
) -> Callable[[LogSnr], LogSnr]:
  """w_r(λ) = 1 + σ²/(α² σ_d²) (Song23, ΠGDM), for `reconstruction`.

  Exact at every λ for white data of standard deviation `data_std` and white
  noise, for which Cov(x|z) = (σ²/α²) / (1 + σ²/(α² σ_d²)). Otherwise nearer
  to E[x|z, y] than w_r = 1 at small and moderate noise, and at large noise
  able to overshoot. Not of Ho22, who keep w_r constant.

  Args:
    data_std: σ_d, in units of the video, as of an average pixel.
    limit: the largest w_r (ours); it grows like e^{−λ}, and with it the errors
      of a network's derivative.

  Raises:
    ValueError: data_std is not positive, or the limit is below 1.
  """
  if not data_std > 0 or not limit >= 1:
    raise ValueError(
      f'data_std {data_std} must be positive and the limit {limit} 1 or more'
    )

  def weight(logsnr: LogSnr) -> LogSnr:
    return jnp.minimum(1 + jnp.exp(-logsnr) / data_std**2, limit)

  return weight


def _extrapolate(*, cond: Video, null: Video, guidance_scale: float) -> Video:
  return cond + (guidance_scale - 1) * (cond - null)


def _interleave(
  cond: Shaped[Array, 'b ...'], null: Shaped[Array, 'b ...']
) -> Shaped[Array, 'two_b ...']:
  return jnp.stack([cond, null], 1).reshape(-1, *cond.shape[1:])
