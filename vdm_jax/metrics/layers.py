"""Layers that the feature networks share, in inference only."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class FrozenBatchNorm(nn.Module):
  """Batch normalisation by the statistics of training.

  scale · (x − mean) / √(var + ε) + bias, per channel. All four are parameters,
  so that a file of weights fills them like any other.

  Attributes:
    eps: ε, which no file of weights holds.
  """

  eps: float = 1e-3

  @nn.compact
  def __call__(self, x: Float[Array, '*s c']) -> Float[Array, '*s c']:
    """The normalised features, of the same shape."""

    def param(name, init):
      value = self.param(name, init, (x.shape[-1],))
      return value.reshape((1,) * (x.ndim - 1) + (-1,))

    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    factor = param('scale', ones) * jax.lax.rsqrt(
      param('var', ones) + jnp.float32(self.eps)
    )
    return (x - param('mean', zeros)) * factor + param('bias', zeros)
