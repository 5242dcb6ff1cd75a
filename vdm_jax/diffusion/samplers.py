"""Samplers: a step from level t to level s, and a scan over a grid of levels.

A `Step` is `step(denoise, *, keys, z, past, row, logsnr_t, logsnr_s, prior)
-> (z_s, x_hat, past)`: z `[b, t, h, w, c]` at the level logsnr_t `[b]` goes to
the cleaner level logsnr_s `[b]`, and x_hat is the last that the denoiser said
on the way. `past` `[m, b, t, h, w, c]` holds what a multistep method remembers,
newest first, and `row` `[b, k]` the step's coefficients, which the host has
computed in float64. `keys` `[b]` belong to this step alone. All noise comes
from the prior.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Key

from vdm_jax.diffusion import process
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import Video

Step = Callable[..., tuple[Array, Array, Array]]
Levels = Float64[np.ndarray, ' m']
Rows = Float64[np.ndarray, 'm k']


class Grid(NamedTuple):
  """The levels of a sampling and what its sampler computed of them.

  Attributes:
    logsnr: `[N + 1]`, increasing; the last one is never computed with.
    rows: `[N − 1, k]`, the coefficients of the steps but the last.
  """

  logsnr: Array
  rows: Array


class Latent(NamedTuple):
  """What is carried from step to step.

  Attributes:
    z: `[b, t, h, w, c]`.
    past: `[m, b, t, h, w, c]`, earlier estimates, newest first.
  """

  z: Array
  past: Array


def _none(starts: Levels, ends: Levels) -> Rows:
  return np.zeros((len(starts), 0))


def _unchanged(starts: Levels) -> Levels:
  return starts


@dataclasses.dataclass(frozen=True)
class Sampler:
  """A way to go from noise to data; hashable, hence static.

  Attributes:
    step: see the module.
    coefficients: `(starts, ends) -> rows`: row i is of the step from the
      log-SNR starts[i] to ends[i], all in float64, on the host. Steps follow
      each other: starts[i + 1] is ends[i], or noisier after churn.
    memory: how many earlier estimates the step uses.
    asked: `starts -> levels`: where the step that starts there first asks the
      denoiser. With churn it is noisier than the start.
  """

  step: Step
  coefficients: Callable[[Levels, Levels], Rows] = _none
  memory: int = 0
  asked: Callable[[Levels], Levels] = _unchanged

  def grid(self, logsnrs: Float[Array | np.ndarray, ' n']) -> Grid:
    """The grid of N + 1 levels; they must be known to the host.

    Raises:
      ValueError: fewer than two levels, or levels that do not increase.
    """
    levels = np.asarray(logsnrs, np.float64)
    if len(levels) < 2:
      raise ValueError(f'a sampler needs two levels or more, not {len(levels)}')
    if not np.all(np.diff(levels) > 0):
      raise ValueError('the log-SNR of the levels of a sampler must increase')
    rows = self.coefficients(levels[:-2], levels[1:-1])
    return Grid(jnp.asarray(logsnrs), jnp.asarray(rows))


def sample(
  denoise: Denoiser,
  sampler: Sampler,
  *,
  keys: Key[Array, ' b'],
  shape: tuple[int, int, int, int],
  logsnrs: Float[Array | np.ndarray, ' n'],
  prior: NoisePrior,
) -> Video:
  """z_1 ~ N(0, Σ), then steps along the levels; the last step returns x̂.

  Noise at the last step would stay visible when γ > 0, so the answer is x̂ at
  the last level but one. The program itself samples by the same parts, `begin`
  and `take_step`, in a loop of its own (`generate.Generator`): it compiles one
  step for all, and reports and changes experts in between.

  Example i depends on `keys[i]` alone: its noise has the same bits for any
  batch size and mesh. The sample follows it to the bit for any batch size, if
  the denoiser's own arithmetic does, and to rounding on a mesh, for which the
  compiler makes another program. N + 1 levels
  cost N calls of the denoiser (2 N − 1 with Heun's method or a corrector).

  Args:
    denoise: the denoiser, with guidance and clipping inside.
    sampler: `ancestral(…)`, `ddim()`, `predictor_corrector(…)`, …
    keys: one per example.
    shape: (t, h, w, c) of one example.
    logsnrs: the levels, increasing, N + 1 of them (`schedules.logsnr_grid`).
    prior: the prior that the denoiser was trained with.

  Raises:
    ValueError: fewer than two levels, or levels that do not increase.
  """
  grid = sampler.grid(logsnrs)
  latent = advance(
    denoise,
    sampler,
    latent=begin(sampler, keys=keys, shape=shape, prior=prior),
    keys=keys,
    grid=grid,
    prior=prior,
    begin=0,
    end=grid.logsnr.size - 2,
  )
  return denoise(latent.z, per_example(grid.logsnr[-2], keys.size))


def begin(
  sampler: Sampler,
  *,
  keys: Key[Array, ' b'],
  shape: tuple[int, int, int, int],
  prior: NoisePrior,
) -> Latent:
  """z_1 ~ N(0, Σ) and an empty past; stream 0 of each key.

  The first latent is ε itself (Ho22 above eq. 4): at λ_min = −20, α is 5e-5
  and σ is 1; at σ/α = 80 they are 0.0125 and 0.9999.
  """
  z = prior.sample(fold(keys, 0), shape)
  return Latent(z, jnp.zeros((sampler.memory, *z.shape), z.dtype))


def advance(
  denoise: Denoiser,
  sampler: Sampler,
  *,
  latent: Latent,
  keys: Key[Array, ' b'],
  grid: Grid,
  prior: NoisePrior,
  begin: int | Int[Array, ''],
  end: int | Int[Array, ''],
) -> Latent:
  """Takes the latent from the level `begin` to the level `end`, step by step.

  Several calls give what one call over the whole range gives, so a caller may
  stop in between to report or to save. The range may be traced: one compiled
  program serves all parts. With a static range the loop is a scan. For N + 1
  levels, 0 ≤ begin ≤ end ≤ N − 1: the last step belongs to `sample`.
  """
  if not len(grid.rows):
    return latent

  def body(i, latent: Latent) -> Latent:
    return take_step(
      denoise,
      sampler,
      latent=latent,
      keys=keys,
      grid=grid,
      prior=prior,
      index=i,
    )

  return jax.lax.fori_loop(begin, end, body, latent)


def take_step(
  denoise: Denoiser,
  sampler: Sampler,
  *,
  latent: Latent,
  keys: Key[Array, ' b'],
  grid: Grid,
  prior: NoisePrior,
  index: int | Int[Array, ''],
) -> Latent:
  """Takes the latent from the level `index` to the next; one of `advance`."""
  z, _, past = sampler.step(
    denoise,
    keys=fold(keys, index + 1),
    z=latent.z,
    past=latent.past,
    row=per_example(grid.rows[index], keys.size),
    logsnr_t=per_example(grid.logsnr[index], keys.size),
    logsnr_s=per_example(grid.logsnr[index + 1], keys.size),
    prior=prior,
  )
  return Latent(z, past)


def ancestral(gamma: float) -> Sampler:
  """z_s = μ̃(z_t, x̂) + √((σ̃²)^{1−γ} (σ_{t|s}²)^γ) ε (Ho22 eq. 4).

  Raises:
    ValueError: `gamma` is not in [0, 1].
  """
  if not 0 <= gamma <= 1:
    raise ValueError(f'gamma {gamma} is not in [0, 1]')

  def step(denoise, *, keys, z, past, row, logsnr_t, logsnr_s, prior):
    del row
    x_hat = denoise(z, logsnr_t)
    mean, std = process.posterior(
      x=x_hat, z_t=z, logsnr_s=logsnr_s, logsnr_t=logsnr_t, gamma=gamma
    )
    return mean + std * prior.sample(keys, z.shape[1:]), x_hat, past

  return Sampler(step)


def ddim() -> Sampler:
  """z_s = α_s x̂ + σ_s ε̂, the probability flow to first order (Song20 eq. 12).

  Written as z_s = (σ_s/σ_t) z_t + α_s (1 − e^{(λt−λs)/2}) x̂, which nowhere
  divides a difference by a small σ. Draws no noise.
  """

  def step(denoise, *, keys, z, past, row, logsnr_t, logsnr_s, prior):
    del keys, prior, row
    x_hat = denoise(z, logsnr_t)
    half = process.over_video(logsnr_t - logsnr_s) / 2
    _, sigma_t = process.alpha_sigma(process.over_video(logsnr_t))
    alpha_s, sigma_s = process.alpha_sigma(process.over_video(logsnr_s))
    z_s = sigma_s / sigma_t * z - alpha_s * jnp.expm1(half) * x_hat
    return z_s, x_hat, past

  return Sampler(step)


def predictor_corrector(predictor: Sampler, delta: float = 0.1) -> Sampler:
  """Follows every step of `predictor` by one Langevin step (Ho22 eq. 5).

  The corrector acts at the level s that the predictor arrives at. `sample`
  splits the last step off, so none follows it. Ho22 fix `delta` to 0.1.

  Raises:
    ValueError: `delta` is not in (0, 4), where the Langevin step is stable.
  """
  if not 0 < delta < 4:
    raise ValueError(f'delta {delta} is not in (0, 4)')

  def step(denoise, *, keys, z, logsnr_s, prior, **how):
    how |= {'logsnr_s': logsnr_s, 'prior': prior}
    z, x_hat, past = predictor.step(denoise, keys=fold(keys, 0), z=z, **how)
    noise = prior.sample(fold(keys, 1), z.shape[1:])
    z = langevin(denoise, z=z, eps=noise, logsnr=logsnr_s, delta=delta)
    return z, x_hat, past

  return dataclasses.replace(predictor, step=step)


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


def per_example(
  values: Float[Array, '...'], examples: int
) -> Float[Array, 'b ...']:
  """Numbers of a step, repeated for every example."""
  # Without the barrier the coefficients of a level are fused into scalar or
  # vector code as the batch size has it, which moves samples by a rounding.
  return jax.lax.optimization_barrier(
    jnp.broadcast_to(values, (examples, *values.shape))
  )


def fold(
  keys: Key[Array, ' b'], stream: int | Int[Array, '']
) -> Key[Array, ' b']:
  """One key per example for a stream; every stream is independent."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, stream)
