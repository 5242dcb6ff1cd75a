"""The sampler of Karras22 alg. 2 without its churn: Heun's method.

Written for y = z/α with the noise level s = σ/α = e^{−λ/2}, where the
probability flow is dy/ds = (y − x̂)/s. With correlated noise that holds as it
stands, for x̂ = E[x|z]: Σ cancels between the flow and Tweedie's formula.
"""

import numpy as np

from vdm_jax.diffusion import process
from vdm_jax.diffusion.coefficients import exponential_euler, scales
from vdm_jax.diffusion.samplers import Levels, Rows, Sampler


def heun() -> Sampler:
  """y' = y + (s' − s)(d + d')/2, d = (y − x̂)/s (Karras22 alg. 2, lines 6–11).

  Written as the Euler step and what the second estimate adds to it,
  ½ (s/s' − 1)(x̂' − x̂): on the line of the Euler step d' − d is (x̂ − x̂')/s',
  so that no difference is divided by a small σ. Calls the denoiser twice.
  Draws no noise.

  For the grid of Karras22. The slope at s' counts as much as that at s, however
  far s is: the first of 64 steps of Ho22's grid, from s = 2e4 to 40, spoils
  the covariance by an eighth to a half, that of 256 steps by 1 % at most.
  """

  def step(denoise, *, keys, z, past, row, logsnr_t, logsnr_s, prior):
    del keys, prior
    keep, move, correct = (process.over_video(c) for c in row.T)
    x_hat = denoise(z, logsnr_t)
    z = keep * z + move * x_hat
    x_next = denoise(z, logsnr_s)
    return z + correct * (x_next - x_hat), x_next, past

  return Sampler(step, heun_rows)


def heun_rows(starts: Levels, ends: Levels) -> Rows:
  """σ'/σ, α'(1 − s'/s) and α'(s/s' − 1)/2 of every step."""
  keep, move = exponential_euler(starts, ends)
  alpha, _ = scales(ends)
  correct = alpha * np.expm1((ends - starts) / 2) / 2
  return np.stack([keep, move, correct], 1)
