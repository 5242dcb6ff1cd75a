"""T5's encoder (Raffel et al. 2020; version 1.1), PYoCo's main encoder."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.text.layers import ACTIVATIONS, SelfAttention


class T5(nn.Module):
  """Tokens to the states after the last norm.

  Versions 1.0 and 1.1 differ in the feed-forward networks alone, as far as
  the encoder goes: what ties or scales the outputs belongs to the decoder.
  """

  vocab: int  # number of token ids
  dim: int  # width; 4096 in XXL
  layers: int  # 24 in XXL
  heads: int  # 64 in XXL
  head_dim: int  # channels of a head; heads times this may differ from dim
  ff_dim: int  # hidden width of the feed-forward networks
  activation: str = 'relu'  # a name in ACTIVATIONS; 1.1: 'gelu_new'
  gated: bool = False  # activation(W_0 x) W_1 x; 1.1: True
  buckets: int = 32  # rows of the table of relative positions
  max_distance: int = 128  # tokens from which on all share a row
  eps: float = 1e-6  # of the norms

  @nn.compact
  def __call__(
    self, ids: Int[Array, 'b l'], mask: Bool[Array, 'b l']
  ) -> Float[Array, 'b l d']:
    """The last hidden state; ids in [0, vocab), mask False at padding."""
    x = nn.Embed(self.vocab, self.dim, name='token')(ids)
    rows = relative_buckets(ids.shape[1], self.buckets, self.max_distance)
    # One table serves all layers; without scaling of the dot products.
    bias = nn.Embed(self.buckets, self.heads, name='position')(rows)
    bias = jnp.moveaxis(bias, -1, 0)
    for i in range(self.layers):
      x = T5Layer(
        heads=self.heads,
        head_dim=self.head_dim,
        ff_dim=self.ff_dim,
        activation=self.activation,
        gated=self.gated,
        eps=self.eps,
        name=f'layer_{i}',
      )(x, mask, bias)
    return nn.RMSNorm(epsilon=self.eps, name='norm')(x)


class T5Layer(nn.Module):
  """x + attention(norm(x)), then x + feed-forward(norm(x)), without biases."""

  heads: int  # number of heads
  head_dim: int  # channels of a head
  ff_dim: int  # hidden width of the feed-forward network
  activation: str  # a name in ACTIVATIONS
  gated: bool  # activation(W_0 x) W_1 x rather than activation(W x)
  eps: float  # of the norms

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l d'],
    mask: Bool[Array, 'b l'],
    bias: Float[Array, 'h l l'],
  ) -> Float[Array, 'b l d']:
    """Maps `[b, l, d]` to its shape; tokens attend where mask is True."""
    y = nn.RMSNorm(epsilon=self.eps, name='attention_norm')(x)
    x = x + SelfAttention(
      self.heads, self.head_dim, scale=1.0, use_bias=False, name='attention'
    )(y, mask[:, None], bias)
    dense = lambda n, name: nn.Dense(n, use_bias=False, name=name)  # noqa: E731
    y = nn.RMSNorm(epsilon=self.eps, name='norm')(x)
    h = ACTIVATIONS[self.activation](dense(self.ff_dim, 'up')(y))
    if self.gated:
      h = h * dense(self.ff_dim, 'linear')(y)
    return x + dense(x.shape[-1], 'down')(h)


def relative_buckets(
  length: int, buckets: int, max_distance: int
) -> np.ndarray:
  """Rows of T5's table of relative positions, int32 `[l, l]`, query first.

  Half the rows are for keys after the query. Of each half n, distances below
  n/2 have a row each, and the others share rows of which the bounds grow
  geometrically up to `max_distance`.
  """
  place = np.arange(length)
  distance = place[None, :] - place[:, None]
  n = buckets // 2
  exact = n // 2
  far = np.abs(distance)
  # In float32 and in this order, since it decides at the bounds.
  ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
  ratio = ratio / np.float32(math.log(max_distance / exact))
  log = exact + (ratio * np.float32(n - exact)).astype(np.int32)
  row = np.where(far < exact, far, np.minimum(log, n - 1))
  return (row + np.where(distance > 0, n, 0)).astype(np.int32)
