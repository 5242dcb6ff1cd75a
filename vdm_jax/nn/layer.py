"""A layer of both U-Nets: a residual block and its attentions."""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm_jax.nn.attention import (
  CrossAttention,
  SpatialAttention,
  TemporalAttention,
  Tokens,
)
from vdm_jax.nn.blocks import ResBlock, Vectors, Video


class Layer(nn.Module):
  """Residual block; attention over space, text and time (Ho22 §3, Ge23 §4)."""

  features: int  # channels of the result
  attend: bool  # whether spatial attention follows the residual block
  cross: bool  # whether attention to the tokens of the text follows
  temporal: bool  # whether temporal attention follows the spatial one
  temporal_convolution: bool  # after the convolutions of the residual block
  head_dim: int  # channels of an attention head
  groups: int  # of the norms
  dropout: float  # rate in the residual block
  train: bool  # whether dropout runs
  max_distance: int  # relative positions are clipped to ±this
  image_frames: int  # frames at the end that are images of their own
  image_mode: str  # what temporal attention does with images
  remat_attention: bool  # recompute the attentions in the backward pass
  dtype: DTypeLike  # of the computation

  @nn.compact
  def __call__(
    self, x: Video, emb: Vectors, tokens: Tokens | None = None
  ) -> Float[Array, 'b t h w _']:
    """Maps x `[b, t, h, w, c]` by emb `[b, 1 or t, d]` and the text."""
    x = ResBlock(
      self.features,
      self.groups,
      dropout=self.dropout,
      train=self.train,
      temporal_convolution=self.temporal_convolution,
      image_frames=self.image_frames,
      dtype=self.dtype,
      name='res',
    )(x, emb)
    lift = nn.remat if self.remat_attention else lambda module: module
    shared = {
      'head_dim': self.head_dim,
      'groups': self.groups,
      'dtype': self.dtype,
    }
    if self.attend:
      x = lift(SpatialAttention)(name='spatial', **shared)(x)
    if self.cross:
      x = lift(CrossAttention)(
        image_frames=self.image_frames, name='cross', **shared
      )(x, tokens)
    if self.attend and self.temporal:
      x = lift(TemporalAttention)(
        max_distance=self.max_distance,
        image_frames=self.image_frames,
        image_mode=self.image_mode,
        name='temporal',
        **shared,
      )(x)
    return x
