"""What the text encoders have in common: attention, layers, activations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def quick_gelu(x: Float[Array, '*s']) -> Float[Array, '*s']:
  """x sigmoid(1.702 x), the activation of the first CLIP."""
  return x * jax.nn.sigmoid(1.702 * x)


def gelu_erf(x: Float[Array, '*s']) -> Float[Array, '*s']:
  """x Φ(x), exactly."""
  return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Float[Array, '*s']) -> Float[Array, '*s']:
  """x Φ(x) with the tanh approximation."""
  return jax.nn.gelu(x, approximate=True)


# By the names that configurations of Hugging Face use.
ACTIVATIONS = {
  'gelu': gelu_erf,
  'gelu_new': gelu_tanh,
  'gelu_pytorch_tanh': gelu_tanh,
  'quick_gelu': quick_gelu,
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
}


class SelfAttention(nn.Module):
  """softmax(scale q·k + bias) v over tokens, in float32."""

  heads: int  # number of heads
  head_dim: int  # channels of a head
  scale: float  # of the dot products; T5 uses 1
  use_bias: bool = True  # in the four projections; T5 has none

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l d'],
    mask: Bool[Array, 'b q l'],
    bias: Float[Array, 'h l l'] | None = None,
  ) -> Float[Array, 'b l d']:
    """Attends from each token to those of `mask`, one row for all if q = 1.

    A row without any token to attend to gives the mean of all values.
    """
    b, n, d = x.shape

    def project(name):
      y = nn.Dense(
        self.heads * self.head_dim, use_bias=self.use_bias, name=name
      )(x)
      return y.reshape(b, n, self.heads, self.head_dim)

    q, k, v = project('query'), project('key'), project('value')
    logits = self.scale * jnp.einsum('bqhd,bkhd->bhqk', q, k)
    if bias is not None:
      logits = logits + bias[None]
    mask = jnp.broadcast_to(mask[:, None], logits.shape)
    logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    y = jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(logits, axis=-1), v)
    return nn.Dense(d, use_bias=self.use_bias, name='out')(y.reshape(b, n, -1))


class Layer(nn.Module):
  """A layer of BERT and of CLIP: attention, then a feed-forward network.

  BERT: norm(x + f(x)) for each of the two; CLIP: x + f(norm(x)).
  """

  heads: int  # divides the width
  ff_dim: int  # hidden width of the feed-forward network
  activation: str  # a name in ACTIVATIONS
  eps: float  # of the layer norms
  norm_first: bool  # as in CLIP, rather than after the sums

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b l d'], mask: Bool[Array, 'b q l']
  ) -> Float[Array, 'b l d']:
    """Maps `[b, l, d]` to its shape; `mask` is that of SelfAttention."""
    dim = x.shape[-1]
    head_dim = dim // self.heads
    attention = SelfAttention(
      self.heads, head_dim, head_dim**-0.5, name='attention'
    )
    up, down = nn.Dense(self.ff_dim, name='up'), nn.Dense(dim, name='down')
    feed_forward = lambda x: down(ACTIVATIONS[self.activation](up(x)))  # noqa: E731
    first = layer_norm(self.eps, 'attention_norm')
    second = layer_norm(self.eps, 'norm')
    if self.norm_first:
      x = x + attention(first(x), mask)
      return x + feed_forward(second(x))
    x = first(x + attention(x, mask))
    return second(x + feed_forward(x))


def layer_norm(eps: float, name: str) -> nn.LayerNorm:
  """A layer norm whose variance is that of centred values."""
  return nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)
