"""Stand-ins for trained networks: exact ones, and random parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import state as state_lib
from vdm_jax.diffusion import process


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """A network that predicts E[x|z] of Gaussian videos, pixel by pixel.

  The frames of a pixel are a Markov chain of standard deviation 0.3 whose
  neighbours have the correlation `rho`; the mean is 0.2 (label + 1), so 0 for
  the null condition.

  Attributes:
    rho: the correlation.
    remat: as the network's.
    calls: the batch size and `remat` of every call that was traced.
  """

  rho: float = 0.9
  remat: str = 'none'
  calls: list = dataclasses.field(default_factory=list)

  def clone(self, *, remat):
    return dataclasses.replace(self, remat=remat)

  def apply(self, variables, z, logsnr, *, label=None, stride=None):
    del variables, stride
    self.calls.append((len(z), self.remat))
    mean = jnp.zeros(len(z)) if label is None else 0.2 * (label + 1.0)
    mean = process.over_video(mean)
    apart = np.abs(np.subtract.outer(*2 * [np.arange(z.shape[1])]))
    variances, basis = np.linalg.eigh(0.3**2 * self.rho**apart)
    alpha, sigma = (a[:, None] for a in process.alpha_sigma(logsnr))
    variances = jnp.asarray(variances)[None]
    gain = alpha * variances / (alpha**2 * variances + sigma**2)
    gains = jnp.einsum('ik,bk,jk->bij', basis, gain, basis)
    centred = z - process.over_video(alpha[:, 0]) * mean
    return mean + jnp.einsum('bij,bjhwc->bihwc', gains, centred)


def random_params(network, *, frames=3, size=8):
  """Random parameters: those of a new network all give the same picture."""
  shapes = jax.eval_shape(
    lambda key: state_lib.init_params(network, key, frames=frames, size=size),
    jax.random.key(0),
  )
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return tree.unflatten(
    [
      0.2 * jax.random.normal(k, a.shape)
      for k, a in zip(keys, leaves, strict=True)
    ]
  )
