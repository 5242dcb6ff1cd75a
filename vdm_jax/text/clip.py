"""CLIP's text encoder (Radford et al. 2021), one of PYoCo's two encoders."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.text.layers import Layer, layer_norm


class ClipText(nn.Module):
  """Tokens to the states after the last norm; each sees only those before."""

  vocab: int  # number of token ids
  dim: int  # width; 768 in ViT-L/14
  layers: int  # 12 in ViT-L/14
  heads: int  # 12 in ViT-L/14; divides the width
  ff_dim: int  # hidden width of the feed-forward networks
  positions: int  # the longest text, tokens; 77 in all published models
  activation: str = 'quick_gelu'  # a name in ACTIVATIONS
  eps: float = 1e-5  # of the layer norms

  @nn.compact
  def __call__(
    self, ids: Int[Array, 'b l'], mask: Bool[Array, 'b l']
  ) -> Float[Array, 'b l d']:
    """The last hidden state; ids in [0, vocab), mask False at padding."""
    x = nn.Embed(self.vocab, self.dim, name='token')(ids)
    places = nn.Embed(self.positions, self.dim, name='position')(
      jnp.arange(ids.shape[1])[None]
    )
    x = x + jnp.broadcast_to(places, x.shape)
    causal = jnp.tri(ids.shape[1], dtype=bool)[None]
    visible = jnp.logical_and(causal, mask[:, None, :])
    for i in range(self.layers):
      x = Layer(
        heads=self.heads,
        ff_dim=self.ff_dim,
        activation=self.activation,
        eps=self.eps,
        norm_first=True,
        name=f'layer_{i}',
      )(x, visible)
    return layer_norm(self.eps, 'norm')(x)


def pool(
  x: Float[Array, 'b l d'], mask: Bool[Array, 'b l']
) -> Float[Array, 'b d']:
  """The state of the end-of-text token, which stands for the whole text.

  It is the last token before the padding: tokenizers write it also where they
  cut a text. The token id cannot tell, since CLIP pads with the same id.

  Args:
    x: last hidden states.
    mask: False at padding, which follows the text; not all False.
  """
  last = jnp.sum(mask, axis=1) - 1
  return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
