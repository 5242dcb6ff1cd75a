"""Coefficients of steps, which do not depend on data: on the host, in float64.

Here are those that several samplers share, for y = z/α with s = σ/α = e^{−λ/2}.
"""

import numpy as np

from vdm_jax.diffusion.samplers import Levels


def scales(logsnr: Levels) -> tuple[Levels, Levels]:
  """α and σ, as of `process.alpha_sigma`."""
  return (
    np.exp(-np.logaddexp(0, -logsnr) / 2),
    np.exp(-np.logaddexp(0, logsnr) / 2),
  )


def exponential_euler(starts: Levels, ends: Levels) -> tuple[Levels, Levels]:
  """σ'/σ and α'(1 − s'/s): the DDIM step z' = (σ'/σ) z + α'(1 − s'/s) x̂."""
  (_, sigma), (alpha_next, sigma_next) = scales(starts), scales(ends)
  return sigma_next / sigma, -alpha_next * np.expm1((starts - ends) / 2)
