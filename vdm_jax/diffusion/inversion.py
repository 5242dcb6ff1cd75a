"""Inversion: from a video to the noise that makes it, and back.

The probability flow has no randomness, so it runs both ways: a video and its
noise determine each other (Song21, SDE, §4.3), to the order of the solver.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.diffusion import process
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.heun import heun
from vdm_jax.diffusion.process import Video
from vdm_jax.diffusion.samplers import per_example

Grid = Float[Array | np.ndarray, ' n']


def encode(denoise: Denoiser, x: Video, *, logsnrs: Grid) -> Video:
  """The ε from which the probability flow reaches x, by Heun's method.

  Starts from z = α x at the last finite level, and goes up to the first one,
  where z is returned: it has unit variance in every pixel, and is of the prior
  if the model is of the data. Two calls of the denoiser a step.

  Args:
    denoise: the denoiser, unclipped: a clipped one is no flow.
    x: videos, in [−1, 1].
    logsnrs: the levels, as a sampler takes them: increasing, the last perhaps
      +∞, which is left out. They must be known to the host.
  """
  levels = _finite(logsnrs)
  alpha, _ = process.alpha_sigma(per_example(jnp.asarray(levels[-1]), len(x)))
  return _flow(denoise, process.over_video(alpha) * x, levels[::-1])


def decode(denoise: Denoiser, eps: Video, *, logsnrs: Grid) -> Video:
  """The video at the end of the probability flow from ε, by Heun's method.

  `encode` backwards, along the same levels: the steps of `heun.heun()` from
  z = ε, as a sampler's, but z/α at the last finite level in place of x̂, which
  would be no inverse.

  Args:
    denoise: the denoiser that encoded.
    eps: the noise at the first level.
    logsnrs: the levels, see `encode`.
  """
  levels = _finite(logsnrs)
  alpha, _ = process.alpha_sigma(per_example(jnp.asarray(levels[-1]), len(eps)))
  return _flow(denoise, eps, levels) / process.over_video(alpha)


def _finite(logsnrs: Grid) -> np.ndarray:
  levels = np.asarray(logsnrs)
  levels = levels[:-1] if np.isinf(levels[-1]) else levels
  if not np.all(np.diff(levels) > 0):
    raise ValueError('the log-SNR of the levels of a flow must increase')
  return levels


def _flow(denoise: Denoiser, z: Video, levels: np.ndarray) -> Video:
  """z along the levels, up or down."""
  sampler = heun()
  exact = levels.astype(np.float64)
  rows = sampler.coefficients(exact[:-1], exact[1:])
  past = jnp.zeros((0, *z.shape), z.dtype)

  def body(z, of):
    row, logsnr_t, logsnr_s = (per_example(a, len(z)) for a in of)
    z, _, _ = sampler.step(
      denoise,
      keys=None,
      z=z,
      past=past,
      row=row,
      logsnr_t=logsnr_t,
      logsnr_s=logsnr_s,
      prior=None,
    )
    return z, None

  steps = (jnp.asarray(a) for a in (rows, levels[:-1], levels[1:]))
  return jax.lax.scan(body, z, tuple(steps))[0]
