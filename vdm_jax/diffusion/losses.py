"""The weighted denoising loss, computed where the network predicts."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vdm_jax.diffusion import process
from vdm_jax.diffusion.denoiser import Network
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import LogSnr, Video

# Logarithms of the weights w(λ) on the squared error of x̂. The first four
# are the plain squared errors of ε, v, x and the F of EDM.
_LOG_WEIGHTS = {
  'eps': lambda logsnr: logsnr,  # SNR
  'v': jax.nn.softplus,  # SNR + 1 = 1/σ²
  'x': jnp.zeros_like,  # 1
  # SNR + 1/σ_d² = (s² + σ_d²)/(s σ_d)², s = σ/α (Karras22 table 1)
  'edm': lambda logsnr: (
    jax.nn.softplus(process.data_logsnr(logsnr)) - 2 * np.log(process.DATA_STD)
  ),
  'truncated_snr': lambda logsnr: jnp.maximum(logsnr, 0),  # max(SNR, 1)
  'min_snr_5': lambda logsnr: jnp.minimum(logsnr, np.log(5)),  # min(SNR, 5)
}
WEIGHTS = tuple(_LOG_WEIGHTS)


def denoising_loss(
  network: Network,
  *,
  x: Video,
  logsnr: LogSnr,
  keys: Key[Array, ' b'],
  prior: NoisePrior,
  prediction: str,
  weight: str,
  image_frames: int = 0,
) -> Float[Array, 'b t']:
  """w(λ) ‖x̂(z) − x‖² with z = α x + σ ε, one draw of Ho22 eq. 2.

  The mean over pixels and channels stands for the sum of the norm. The
  regression takes place in the space of the network's output, so that the
  error is never amplified by 1/α or 1/σ.

  Args:
    network: `network(z, logsnr) -> raw`, of z's shape; it meets what
      `process.network_input` makes of z and logsnr.
    x: clean video in [−1, 1]; packed images, if any, behind it.
    logsnr: per example or per frame.
    keys: one per example, for ε.
    prior: the law of ε.
    prediction: what the network predicts, one of `process.PREDICTIONS`.
    weight: w(λ), one of `WEIGHTS`; weight = prediction is the plain mean
      squared error of the network.
    image_frames: how many of the frames are independent images.

  Returns:
    The loss of each frame, not reduced.

  Raises:
    ValueError: an unknown prediction or weight.
  """
  eps = prior.sample(keys, x.shape[1:], image_frames)
  z = process.diffuse(x=x, eps=eps, logsnr=logsnr)
  seen, level = process.network_input(prediction, z=z, logsnr=logsnr)
  raw = network(seen, level).astype(x.dtype)
  target = process.target(prediction, x=x, eps=eps, logsnr=logsnr)
  mse = jnp.mean(jnp.square(raw - target), axis=(2, 3, 4))
  factor = output_weight(weight, prediction=prediction, logsnr=logsnr)
  return factor.reshape(factor.shape + (1,) * (2 - factor.ndim)) * mse


def mean_of_frames(
  loss: Float[Array, 'b t'], *, image_frames: int, image_weight: float
) -> Float[Array, '']:
  """(Σ_video + w Σ_images) / (T + w K), and the mean of that over examples.

  Of T frames of video and K packed images. With w = 1 all frames count alike,
  and it is the plain mean to the bit; with w = 0 images are not learned from.

  Args:
    loss: of each frame, those of packed images behind those of the video.
    image_frames: K, less than all frames unless w is above 0.
    image_weight: w, 0 or more.
  """
  if image_weight == 1 or not image_frames:
    return jnp.mean(loss)
  weights = np.ones(loss.shape[1], np.float32)
  weights[-image_frames:] = image_weight
  return jnp.mean(loss * jnp.asarray(weights / weights.mean())[None])


def output_weight(
  weight: str, *, prediction: str, logsnr: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """w(λ) of Ho22 eq. 2, divided by the weight of the network's own MSE.

  ε-MSE = SNR · x-MSE and v-MSE = (SNR + 1) · x-MSE, so a weight w on x̂
  becomes w/SNR on ε̂ and w/(SNR + 1) on v̂. Taken from logarithms: for
  weight 'eps' on a v-network it is sigmoid(λ), exact at both ends.

  Raises:
    ValueError: an unknown prediction or weight.
  """
  process.check_prediction(prediction)
  if weight not in WEIGHTS:
    raise ValueError(
      f'unknown weight {weight!r}; use one of {", ".join(WEIGHTS)}'
    )
  return jnp.exp(
    _LOG_WEIGHTS[weight](logsnr) - _LOG_WEIGHTS[prediction](logsnr)
  )


def banded(
  loss: Float[Array, 'b t'], logsnr: LogSnr, edges: Sequence[float]
) -> tuple[Float[Array, ' bands'], Float[Array, ' bands']]:
  """Sums and counts of frame losses by bands of log-SNR.

  n increasing edges make n + 1 bands that cover everything; band k holds
  edges[k−1] ≤ λ < edges[k]. Sums and counts, rather than means, add up over
  steps and hosts, and an empty band has count 0.

  Raises:
    ValueError: the edges do not increase.
  """
  if list(edges) != sorted(set(edges)):
    raise ValueError(f'the edges of bands must increase, not {list(edges)}')
  levels = logsnr.reshape(logsnr.shape + (1,) * (2 - logsnr.ndim))
  levels = jnp.broadcast_to(levels, loss.shape)
  band = jnp.searchsorted(
    jnp.asarray(edges, levels.dtype), levels, side='right'
  )
  inside = jax.nn.one_hot(band, len(edges) + 1, dtype=bool)
  sums = jnp.where(inside, loss[..., None], 0).sum((0, 1))
  return sums, inside.sum((0, 1)).astype(loss.dtype)
