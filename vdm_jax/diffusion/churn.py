"""Churn: noise that is added before each step of a sampler (Karras22 alg. 2).

Written for y = z/α with the noise level s = σ/α = e^{−λ/2}.
"""

import dataclasses
import math

import numpy as np

from vdm_jax.diffusion import process
from vdm_jax.diffusion.coefficients import scales
from vdm_jax.diffusion.samplers import Levels, Rows, Sampler, fold

LARGEST_CHURN = math.sqrt(2) - 1  # ŝ² − s² is s² at most


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
    alpha = scales(raised)[0]
    std = alpha * np.exp(-starts / 2) * np.sqrt(gamma * (2 + gamma)) * noise
    ours = np.stack([raised, alpha / scales(starts)[0], std], 1)
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
