"""The sampler of Karras22 alg. 2: Heun's method, and churn, apart.

Written for y = z/α with the noise level s = σ/α = e^{−λ/2}, where the
probability flow is dy/ds = (y − x̂)/s. With correlated noise that holds as it
stands, for x̂ = E[x|z]: Σ cancels between the flow and Tweedie's formula.
"""

import dataclasses
import math

import numpy as np

from vdm_jax.diffusion import process
from vdm_jax.diffusion.samplers import Levels, Rows, Sampler, fold

LARGEST_CHURN = math.sqrt(2) - 1  # ŝ² − s² is s² at most


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
  alpha, _ = alpha_sigma(ends)
  correct = alpha * np.expm1((ends - starts) / 2) / 2
  return np.stack([keep, move, correct], 1)


def exponential_euler(starts: Levels, ends: Levels) -> tuple[Levels, Levels]:
  """σ'/σ and α'(1 − s'/s): the DDIM step z' = (σ'/σ) z + α'(1 − s'/s) x̂."""
  (_, sigma), (alpha_next, sigma_next) = alpha_sigma(starts), alpha_sigma(ends)
  return sigma_next / sigma, -alpha_next * np.expm1((starts - ends) / 2)


def alpha_sigma(logsnr: Levels) -> tuple[Levels, Levels]:
  """α and σ on the host, in float64."""
  return (
    np.exp(-np.logaddexp(0, -logsnr) / 2),
    np.exp(-np.logaddexp(0, logsnr) / 2),
  )


def churned(
  sampler: Sampler,
  amount: float,
  low: float = 0.05,
  high: float = 50.0,
  noise: float = 1.003,
) -> Sampler:
  """ŷ = y + √(ŝ² − s²) S_noise ε, ŝ = s (1 + γ) (Karras22 alg. 2, lines 4–6).

  Before every step noise of the prior is added, and the step then starts at ŝ:
  γ = min(S_churn/N, √2 − 1) where S_min ≤ s ≤ S_max, and 0 elsewhere; N counts
  the last step too, which has no churn. With S_noise = 1 the law of z stays
  that of the forward process.

  Args:
    sampler: `heun()`, or a multistep one of order 1 or 2.
    amount: S_churn, 0 or more; over all steps.
    low: S_min, in units of s = σ/α.
    high: S_max.
    noise: S_noise; Karras22 take 1.003 for what a network removes too much.

  Raises:
    ValueError: values out of range, or a sampler that remembers more than one
      estimate: they are of different trajectories.
  """
  if not (0 <= amount < math.inf and 0 <= low <= high and noise > 0):
    raise ValueError(
      f'churn {amount} from {low} to {high} with noise {noise}: no part may be '
      'negative, and the first bound not above the second'
    )
  if sampler.memory > 1:
    raise ValueError(
      f'a multistep sampler of order {sampler.memory + 1} has no churn: the '
      'estimates that it extrapolates would be of different trajectories; use '
      'order 2 or less'
    )

  def growth(starts: Levels) -> Levels:
    s = np.exp(-starts / 2)
    gamma = min(amount / (len(starts) + 1), LARGEST_CHURN)
    return np.where((low <= s) & (s <= high), gamma, 0.0)

  def asked(starts: Levels) -> Levels:
    return starts - 2 * np.log1p(growth(starts))

  def coefficients(starts: Levels, ends: Levels) -> Rows:
    raised, gamma = asked(starts), growth(starts)
    alpha = alpha_sigma(raised)[0]
    std = alpha * np.exp(-starts / 2) * np.sqrt(gamma * (2 + gamma)) * noise
    ours = np.stack([raised, alpha / alpha_sigma(starts)[0], std], 1)
    return np.concatenate([ours, sampler.coefficients(raised, ends)], 1)

  def step(denoise, *, keys, z, row, logsnr_t, prior, **how):
    del logsnr_t
    _, keep, std = (process.over_video(c) for c in row[:, :3].T)
    eps = prior.sample(fold(keys, 1), z.shape[1:])
    return sampler.step(
      denoise,
      keys=fold(keys, 0),
      z=keep * z + std * eps,
      row=row[:, 3:],
      logsnr_t=row[:, 0],
      prior=prior,
      **how,
    )

  return dataclasses.replace(
    sampler, step=step, coefficients=coefficients, asked=asked
  )
