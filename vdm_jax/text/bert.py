"""BERT (Devlin et al. 2018): the encoder of VDM's text-to-video models."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.text.layers import Layer, layer_norm


class Bert(nn.Module):
  """Tokens to the states of the last layer; norms come after the sums."""

  vocab: int  # number of token ids
  dim: int  # width; 1024 in BERT-large
  layers: int  # 24 in BERT-large
  heads: int  # 16 in BERT-large; divides the width
  ff_dim: int  # hidden width of the feed-forward networks
  positions: int  # the longest text, tokens
  types: int = 2  # sentence kinds in the table; all tokens are of kind 0
  activation: str = 'gelu'  # a name in ACTIVATIONS
  eps: float = 1e-12  # of the layer norms

  @nn.compact
  def __call__(
    self, ids: Int[Array, 'b l'], mask: Bool[Array, 'b l']
  ) -> Float[Array, 'b l d']:
    """The last hidden state; ids in [0, vocab), mask False at padding."""
    embed = lambda n, name: nn.Embed(n, self.dim, name=name)  # noqa: E731
    kinds = embed(self.types, 'kind')(jnp.zeros((1, 1), jnp.int32))
    places = embed(self.positions, 'position')(jnp.arange(ids.shape[1])[None])
    x = embed(self.vocab, 'token')(ids)
    x = x + jnp.broadcast_to(kinds, x.shape)
    x = x + jnp.broadcast_to(places, x.shape)
    x = layer_norm(self.eps, 'norm')(x)
    for i in range(self.layers):
      x = Layer(
        heads=self.heads,
        ff_dim=self.ff_dim,
        activation=self.activation,
        eps=self.eps,
        norm_first=False,
        name=f'layer_{i}',
      )(x, mask[:, None])
    return x
