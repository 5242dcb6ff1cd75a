"""Denoisers: the only thing that a sampler sees.

A `Denoiser` is a function `denoise(z, logsnr) -> x_hat`, an estimate of
E[x | z]: z is a noisy video `[b, t, h, w, c]` at the log-SNR `[b]`, x_hat has
z's shape and the range of data, about [−1, 1]. Conditions, parameters and
dropout keys are closed over. Clipping, guidance and replacement are functions
from denoiser to denoiser.

A `Network` is the same before conversion: `network(z, logsnr) -> raw`, where
raw estimates ε, v, x or the F of EDM, whatever it was trained for, and z and
logsnr are what `process.network_input` makes of them.
"""

from collections.abc import Callable

import jax.numpy as jnp

from vdm_jax.diffusion import process
from vdm_jax.diffusion.process import LogSnr, Video

Denoiser = Callable[[Video, LogSnr], Video]
Network = Callable[[Video, LogSnr], Video]


def from_network(network: Network, prediction: str) -> Denoiser:
  """The denoiser of a network that predicts 'eps', 'v', 'x' or 'edm'.

  The one place where a prediction type is converted for sampling.

  Raises:
    ValueError: the prediction is not one of `process.PREDICTIONS`.
  """
  process.check_prediction(prediction)

  def denoise(z: Video, logsnr: LogSnr) -> Video:
    seen, level = process.network_input(prediction, z=z, logsnr=logsnr)
    raw = network(seen, level).astype(z.dtype)
    return process.x_from(prediction, z=z, raw=raw, logsnr=logsnr)

  return denoise


def clipped(
  denoise: Denoiser, low: float = -1.0, high: float = 1.0
) -> Denoiser:
  """Clips x̂ to the range of the data, [−1, 1] by default.

  Ho22 do not mention it; their earlier public code does it. A sampler derives
  ε̂ from the clipped x̂. Clip last: after guidance.
  """

  def denoise_clipped(z: Video, logsnr: LogSnr) -> Video:
    return jnp.clip(denoise(z, logsnr), low, high)

  return denoise_clipped
