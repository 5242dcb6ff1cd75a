"""Samplers: a step from level t to level s, and a scan over a grid of levels.

A `Step` is `step(denoise, *, keys, z, logsnr_t, logsnr_s, prior)
-> (z_s, x_hat)`: z `[b, t, h, w, c]` at the level logsnr_t `[b]` goes to the
cleaner level logsnr_s `[b]`, and x_hat is what the denoiser said on the way.
`keys` `[b]` belong to this step alone. All noise comes from the prior.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vdm_jax.diffusion import process
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import Video

Step = Callable[..., tuple[Array, Array]]


def sample(
  denoise: Denoiser,
  step: Step,
  *,
  keys: Key[Array, ' b'],
  shape: tuple[int, int, int, int],
  logsnrs: Float[Array | np.ndarray, ' n'],
  prior: NoisePrior,
) -> Video:
  """z_1 ~ N(0, Σ), then `step` along the levels; the last step returns x̂.

  The first latent is ε itself (Ho22 above eq. 4): at λ_min = −20, α is 5e-5
  and σ is 1. Noise at the last step would stay visible when γ > 0, so the
  answer is x̂ at the last level but one.

  Example i depends on `keys[i]` alone: its noise has the same bits for any
  batch size and mesh. The sample follows it to the bit for any batch size, if
  the denoiser's own arithmetic does, and to rounding on a mesh, for which the
  compiler makes another program. N + 1 levels
  cost N calls of the denoiser (2 N − 1 with a corrector).

  Args:
    denoise: the denoiser, with guidance and clipping inside.
    step: `ancestral(…)`, `ddim()`, `predictor_corrector(…)`, …
    keys: one per example.
    shape: (t, h, w, c) of one example.
    logsnrs: the levels, increasing, N + 1 of them (`schedules.logsnr_grid`).
    prior: the prior that the denoiser was trained with.

  Raises:
    ValueError: fewer than two levels.
  """
  if len(logsnrs) < 2:
    raise ValueError(f'a sampler needs two levels or more, not {len(logsnrs)}')
  levels = jnp.asarray(logsnrs)
  z = first_latent(keys=keys, shape=shape, prior=prior)
  z = advance(
    denoise,
    step,
    z=z,
    keys=keys,
    logsnrs=levels,
    prior=prior,
    begin=0,
    end=levels.size - 2,
  )
  return denoise(z, _per_example(levels[-2], keys))


def first_latent(
  *,
  keys: Key[Array, ' b'],
  shape: tuple[int, int, int, int],
  prior: NoisePrior,
) -> Video:
  """z_1 ~ N(0, Σ); stream 0 of each key."""
  return prior.sample(fold(keys, 0), shape)


def advance(
  denoise: Denoiser,
  step: Step,
  *,
  z: Video,
  keys: Key[Array, ' b'],
  logsnrs: Float[Array, ' n'],
  prior: NoisePrior,
  begin: int | Int[Array, ''],
  end: int | Int[Array, ''],
) -> Video:
  """Takes z from the level `begin` to the level `end`, step by step.

  Several calls give what one call over the whole range gives, so a caller may
  stop in between to report or to save. The range may be traced: one compiled
  program serves all parts. With a static range the loop is a scan. For N + 1
  levels, 0 ≤ begin ≤ end ≤ N − 1: the last step belongs to `sample`.
  """

  def body(i, z: Video) -> Video:
    z_s, _ = step(
      denoise,
      keys=fold(keys, i + 1),
      z=z,
      logsnr_t=_per_example(logsnrs[i], keys),
      logsnr_s=_per_example(logsnrs[i + 1], keys),
      prior=prior,
    )
    return z_s

  return jax.lax.fori_loop(begin, end, body, z)


def ancestral(gamma: float) -> Step:
  """z_s = μ̃(z_t, x̂) + √((σ̃²)^{1−γ} (σ_{t|s}²)^γ) ε (Ho22 eq. 4).

  Raises:
    ValueError: `gamma` is not in [0, 1].
  """
  if not 0 <= gamma <= 1:
    raise ValueError(f'gamma {gamma} is not in [0, 1]')

  def step(denoise, *, keys, z, logsnr_t, logsnr_s, prior):
    x_hat = denoise(z, logsnr_t)
    mean, std = process.posterior(
      x=x_hat, z_t=z, logsnr_s=logsnr_s, logsnr_t=logsnr_t, gamma=gamma
    )
    return mean + std * prior.sample(keys, z.shape[1:]), x_hat

  return step


def ddim() -> Step:
  """z_s = α_s x̂ + σ_s ε̂, the probability flow to first order (Song20 eq. 12).

  Written as z_s = (σ_s/σ_t) z_t + α_s (1 − e^{(λt−λs)/2}) x̂, which nowhere
  divides a difference by a small σ. Draws no noise.
  """

  def step(denoise, *, keys, z, logsnr_t, logsnr_s, prior):
    del keys, prior
    x_hat = denoise(z, logsnr_t)
    half = process.over_video(logsnr_t - logsnr_s) / 2
    _, sigma_t = process.alpha_sigma(process.over_video(logsnr_t))
    alpha_s, sigma_s = process.alpha_sigma(process.over_video(logsnr_s))
    return sigma_s / sigma_t * z - alpha_s * jnp.expm1(half) * x_hat, x_hat

  return step


def predictor_corrector(predictor: Step, delta: float = 0.1) -> Step:
  """Follows every step of `predictor` by one Langevin step (Ho22 eq. 5).

  The corrector acts at the level s that the predictor arrives at. `sample`
  splits the last step off, so none follows it. Ho22 fix `delta` to 0.1.

  Raises:
    ValueError: `delta` is not in (0, 4), where the Langevin step is stable.
  """
  if not 0 < delta < 4:
    raise ValueError(f'delta {delta} is not in (0, 4)')

  def step(denoise, *, keys, z, logsnr_t, logsnr_s, prior):
    levels = {'logsnr_t': logsnr_t, 'logsnr_s': logsnr_s}
    z, x_hat = predictor(
      denoise, keys=fold(keys, 0), z=z, prior=prior, **levels
    )
    noise = prior.sample(fold(keys, 1), z.shape[1:])
    return langevin(
      denoise, z=z, eps=noise, logsnr=logsnr_s, delta=delta
    ), x_hat

  return step


def langevin(
  denoise: Denoiser,
  *,
  z: Video,
  eps: Video,
  logsnr: Float[Array, ' b'],
  delta: float,
) -> Video:
  """z ← z − ½ δ σ ε̂(z) + √δ σ ε′ (Ho22 eq. 5), with σ ε̂ = z − α x̂.

  `eps` is ε′, fresh noise of the prior; for a correlated prior the same line
  is Langevin preconditioned by Σ. With an exact score the variance of pure
  noise settles at 1/(1 − δ/4) of the true one, 2.6 % above it at δ = 0.1.
  """
  alpha, sigma = process.alpha_sigma(process.over_video(logsnr))
  drift = z - alpha * denoise(z, logsnr)
  return z - 0.5 * delta * drift + np.sqrt(delta) * sigma * eps


def _per_example(
  logsnr: Float[Array, ''], keys: Key[Array, ' b']
) -> Float[Array, ' b']:
  # Without the barrier the coefficients of a level are fused into scalar or
  # vector code as the batch size has it, which moves samples by a rounding.
  return jax.lax.optimization_barrier(jnp.broadcast_to(logsnr, keys.shape))


def fold(
  keys: Key[Array, ' b'], stream: int | Int[Array, '']
) -> Key[Array, ' b']:
  """One key per example for a stream; every stream is independent."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, stream)
