"""The law of a sampler's answers on Gaussian data, without sampling.

With an exact denoiser of Gaussian data a step is affine in what it carries and
in what it draws, so that its derivatives say all about it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.diffusion.gaussian_video import dense_covariance, keys
from vdm_jax.diffusion.process import alpha_sigma

LONGEST = 256  # steps; shorter runs share their program


class Handed:
  """In a prior's place: hands out given noise, draw by draw."""

  def __init__(self, draws):
    self.draws = list(draws)

  def sample(self, keys, shape):
    return self.draws.pop(0)


def denoiser(modes, shape):
  """E[x|z], see `GaussianVideo.modes`."""
  mean, w, k, inverse = modes

  def denoise(z, logsnr):
    alpha, sigma = alpha_sigma(logsnr[:, None])
    gain = alpha * k[None] / (alpha**2 * k[None] + sigma**2)
    centred = z.reshape(len(z), -1) - alpha * mean[None]
    x_hat = mean[None] + (gain * (centred @ inverse.T)) @ w.T
    return x_hat.reshape(-1, *shape)

  return denoise


@functools.cache
def affine(sampler, shape, draws):
  """A program: the steps' offsets, and derivatives by state and by noise."""
  n = int(np.prod(shape))

  def one(state, noise, modes, row, logsnr_t, logsnr_s):
    z, *past = state.reshape(1 + sampler.memory, 1, *shape)
    handed = Handed(noise.reshape(draws, 1, *shape))
    z, _, past = sampler.step(
      denoiser(modes, shape),
      keys=keys(1),
      z=z,
      past=jnp.array(past).reshape(-1, 1, *shape),
      row=row[None],
      logsnr_t=logsnr_t[None],
      logsnr_s=logsnr_s[None],
      prior=handed,
    )
    assert not handed.draws
    return jnp.concatenate([z[None], past]).ravel()

  def both(modes, *at):
    zero = jnp.zeros(n * (1 + sampler.memory)), jnp.zeros(n * draws)
    return one(*zero, modes, *at), *jax.jacfwd(one, (0, 1))(*zero, modes, *at)

  return jax.jit(jax.vmap(both, (None, 0, 0, 0)))


def propagate(sampler, video, prior, logsnrs, *draws, first=None):
  """Mean and covariance of the samples of a sampler, exactly.

  Args:
    sampler: the sampler.
    video: a GaussianVideo.
    prior: what the denoiser knows of.
    logsnrs: the levels, at most LONGEST + 1.
    *draws: covariances over all pixels and frames, of each draw of a step.
    first: that of the first latent; the prior's by default.
  """
  grid, n, modes = sampler.grid(logsnrs), len(video.mean), video.modes(prior)
  steps = len(grid.rows)

  def padded(values):
    filled = np.ones((LONGEST, *values.shape[1:]))
    filled[:steps] = values
    return filled

  program = affine(sampler, video.shape, len(draws))
  offsets, from_state, from_noise = program(
    modes,
    padded(grid.rows),
    padded(grid.logsnr[:-2]),
    padded(grid.logsnr[1:-1]),
  )
  size = n * (1 + sampler.memory)
  mean, covariance = np.zeros(size), np.zeros((size, size))
  covariance[:n, :n] = (
    dense_covariance(prior, video.shape) if first is None else first
  )
  drawn = np.zeros((n * len(draws),) * 2)
  for i, draw in enumerate(draws):
    drawn[i * n : (i + 1) * n, i * n : (i + 1) * n] = draw
  for offset, a, b in zip(
    *(np.asarray(v)[:steps] for v in (offsets, from_state, from_noise)),
    strict=True,
  ):
    mean, covariance = offset + a @ mean, a @ covariance @ a.T + b @ drawn @ b.T

  def answer(z):
    level = jnp.full(len(z), grid.logsnr[-2])
    return denoiser(modes, video.shape)(z.reshape(-1, *video.shape), level)

  rows = np.concatenate([np.zeros((1, n)), mean[None, :n], np.eye(n)])
  offset, mean, *a = np.asarray(answer(rows)).reshape(n + 2, n)
  a = (np.array(a) - offset).T
  return mean, a @ covariance[:n, :n] @ a.T
