"""Gaussian videos, of which every conditional mean is known exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.process import alpha_sigma


@dataclasses.dataclass(frozen=True)
class GaussianVideo:
  """x ~ N(mean, covariance) over all (t, h, w, c) of `shape`, flattened."""

  shape: tuple
  mean: np.ndarray
  covariance: np.ndarray

  def modes(self, prior):
    """The mean, W, k, W⁻¹: W diag(k) Wᵀ = Cov(x), W Wᵀ that of the noise."""
    root = np.linalg.cholesky(dense_covariance(prior, self.shape))
    white = np.linalg.solve(root, np.linalg.solve(root, self.covariance).T)
    k, rotation = np.linalg.eigh(white)
    w = root @ rotation
    return self.mean, w, k, np.linalg.inv(w)

  def denoiser(self, prior, observation=None):
    """E[x|z], or E[x|z, y] of an observation, by dense linear algebra."""
    _, w, k, inverse = self.modes(prior)

    def one(z, logsnr, seen):
      alpha, sigma = alpha_sigma(logsnr)
      # Var(x|z) in the coordinates of W, where it is diagonal.
      variance = sigma**2 * k / (alpha**2 * k + sigma**2)
      gain = alpha / sigma**2 * variance
      x = self.mean + w @ (gain * (inverse @ (z.ravel() - alpha * self.mean)))
      if seen is not None:
        h = dense_map(observation, self.shape)
        hw = h @ w
        spread = hw * variance[None]
        x += w @ (spread.T @ jnp.linalg.solve(spread @ hw.T, seen - h @ x))
      return x.reshape(self.shape)

    def denoise(z, logsnr):
      seen = None if observation is None else flat(values(observation))
      return jax.vmap(one)(z, logsnr, seen)

    return denoise


def smooth_video(shape, seed=0):
  """Correlated over frames and pixels, and of full rank."""
  n = int(np.prod(shape))
  rng = np.random.default_rng(seed)
  mixing = rng.normal(size=(n, n)) / np.sqrt(n)
  frames = 0.9 ** np.abs(np.subtract.outer(*(np.arange(shape[0]),) * 2))
  smooth = np.kron(frames, np.eye(n // shape[0]))
  covariance = 0.1 * (smooth + mixing @ mixing.T) + 0.02 * np.eye(n)
  return GaussianVideo(shape, 0.3 * rng.normal(size=n), covariance)


def dense_covariance(prior, shape):
  """Σ ⊗ I over all of a video."""
  return np.kron(prior.covariance(shape[0]), np.eye(int(np.prod(shape[1:]))))


def dense_map(observation, shape):
  """The matrix of H, entry by entry from its definition, not through it."""
  index = np.arange(int(np.prod(shape))).reshape(shape)
  rows = []
  for part in observation.parts:
    f = part.factor
    for i in part.indices:
      for y in range(0, shape[1], f):
        for x in range(0, shape[2], f):
          for c in range(shape[3]):
            row = np.zeros(index.size)
            row[index[i, y : y + f, x : x + f, c].ravel()] = 1 / f**2
            rows.append(row)
  return np.array(rows)


def values(observation):
  return tuple(part.values for part in observation.parts)


def flat(parts):
  """One row per example, in the order of `dense_map`."""
  return jnp.concatenate([u.reshape(u.shape[0], -1) for u in parts], 1)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def host(logsnr):
  """α and σ in float64, by other formulas than the library's."""
  alpha2 = 1 / (1 + np.exp(-np.float64(logsnr)))
  return np.sqrt(alpha2), np.sqrt(1 / (1 + np.exp(np.float64(logsnr))))
