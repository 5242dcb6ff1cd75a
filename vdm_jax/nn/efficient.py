"""The Efficient U-Net of Imagen, with temporal convolutions for video."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.errors import ConfigError
from vdm_jax.nn import checks, conditioning
from vdm_jax.nn.blocks import (
  GroupNorm,
  Video,
  conv3x3,
  upsample_nearest,
)
from vdm_jax.nn.layer import Layer


class EfficientUNet(nn.Module):
  """The Efficient U-Net (Imagen, App. B) for super-resolution of videos.

  Each level first halves the side, by a strided 3×3 convolution, and last
  doubles it, by nearest neighbours and a 3×3: the blocks of the first level
  work at half the resolution already. One skip connection a level, scaled by
  1/√2. Attention follows the last block of a level, over space where
  attention_resolutions says so, to the text there and at the lowest level.
  Without attention_resolutions nothing depends on the size of the frames, so
  that a network of crops serves whole frames.

  For videos a temporal convolution follows each 3×3 of the blocks (Ge23 §5.1:
  efficient U-Net with temporal convolution layers); temporal attention, where
  there is spatial attention, is an option. The layout for the 313 M parameters
  of Ge23 is ours, the paper gives none: 128 channels, multipliers 1, 2, 4, 8,
  blocks 2, 2, 4, 4. So is the rest that App. B leaves open: no skip connection
  at the lowest level, where it would be x itself.

  Called like `UNet`, with its conditions. Paths as there, but for `down_L_in`
  and `up_L_out`, the resampling convolutions, and no `mid_I`.
  """

  channels: int  # width of the first level, even
  multipliers: tuple[int, ...]  # width of each level / channels
  blocks: tuple[int, ...]  # residual blocks of each level, down as up
  attention_resolutions: tuple[int, ...]  # larger sides of maps with attention
  head_dim: int  # channels of an attention head
  emb_dim: int  # length of the conditioning vectors
  emb_layers: int = 2  # Dense layers of their MLP
  num_classes: int = 0  # of the labels; 0 = no labels
  vocabulary: int = 0  # text is word ids 1 … vocabulary; 0 = it is not
  text_dim: int = 0  # text is embeddings of so many channels; 0 = it is not
  text2_dim: int = 0  # likewise of a second encoder
  cross_attention: bool = False  # to the tokens, at the lowest level at least
  num_strides: int = 0  # frame strides to tell apart; 0 = none
  extra_channels: int = 0  # of what is concatenated to z
  augmented: bool = False  # whether it is told the noise in a condition
  dropout: float = 0.0  # rate in the residual blocks
  out_channels: int = 3  # of the result
  image_mode: str = 'bypass'  # of temporal attention, or 'self_attend'
  max_distance: int = 15  # clip of relative positions; ours: 16 frames' all
  frame_positions: bool = False  # tell each frame its number; ours
  groups: int = 32  # of the norms, at most one a channel
  temporal: bool = False  # temporal attention after the spatial one
  temporal_convolution: bool = True  # False: a network of images
  remat: str = 'none'  # recomputed going back: 'none', 'attention', 'block'
  implementation: str | None = None  # of the attentions, 'xla' or 'cudnn'
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(
    self,
    z: Video,
    logsnr: Float[Array, ' b'] | Float[Array, 'b t'],
    *,
    label: Int[Array, ' b'] | Int[Array, 'b s'] | None = None,
    text: Int[Array, 'b _ l'] | Float[Array, 'b _ l d'] | None = None,
    text_mask: Bool[Array, 'b _ l'] | None = None,
    text2: Float[Array, 'b _ l2 d2'] | None = None,
    text2_mask: Bool[Array, 'b _ l2'] | None = None,
    stride: Int[Array, ' b'] | None = None,
    extra: Float[Array, 'b _ _ _ k'] | None = None,
    augment: Float[Array, ' b'] | None = None,
    image_frames: int = 0,
    train: bool = False,
  ) -> Float[Array, 'b t h w o']:
    """The raw prediction for z_t, zero at initialisation; see `UNet`.

    For super-resolution, extra is the low-resolution video brought to z's
    size, and augment the log-SNR of the noise that was added to it.

    Returns:
      `[b, t, h, w, out_channels]` float32.

    Raises:
      ConfigError: as `UNet` does.
    """
    self.validate(z.shape[1:], image_frames=image_frames)
    told = {'label': label, 'stride': stride, 'extra': extra}
    told |= {'text': text, 'text_mask': text_mask, 'augment': augment}
    told |= {'text2': text2, 'text2_mask': text2_mask}
    conditioning.check(self, told, z=z)
    slots = {'frames': z.shape[1], 'image_frames': image_frames}
    emb = conditioning.vectors(self, logsnr, told, **slots)
    tokens = conditioning.tokens(self, told, batch=z.shape[0])
    level_of_blocks = self._level(image_frames=image_frames, train=train)
    x = conditioning.convolve_in(self, z, extra)
    skips = []
    for level, width in enumerate(self._widths()):
      x = self._conv(width, f'down_{level}_in', strides=2)(x)
      x = level_of_blocks(x, emb, tokens, level=level, way='down')
      skips.append(x)
    skips.pop()
    for level, width in reversed(
      list(enumerate((self.channels, *self._widths()[:-1])))
    ):
      if level < len(self.multipliers) - 1:
        skip = skips.pop() * jnp.asarray(math.sqrt(0.5), self.dtype)
        x = jnp.concatenate([x, skip], axis=-1)
      x = level_of_blocks(x, emb, tokens, level=level, way='up')
      x = upsample_nearest(x)
      x = self._conv(width, f'up_{level}_out')(x)
    # The result meets float32 data: the last convolution is float32 too.
    x = GroupNorm(self.groups, swish=True, name='norm_out')(x)
    zeros = nn.initializers.zeros
    return conv3x3(self.out_channels, kernel_init=zeros, name='conv_out')(x)

  def _widths(self):
    return tuple(self.channels * m for m in self.multipliers)

  def _conv(self, width, name, **kwargs):
    return conv3x3(width, dtype=self.dtype, name=name, **kwargs)

  def _level(self, *, image_frames, train):
    """The blocks of one level, going down or up."""
    layer = nn.remat(Layer) if self.remat == 'block' else Layer

    def level_of_blocks(x, emb, tokens, *, level, way):
      last = self.blocks[level] - 1
      attend = max(x.shape[2:4]) in self.attention_resolutions
      lowest = level == len(self.multipliers) - 1
      for i in range(self.blocks[level]):
        x = layer(
          self._widths()[level],
          attend=attend and i == last,
          cross=self.cross_attention and (attend or lowest) and i == last,
          temporal=self.temporal,
          temporal_convolution=self.temporal_convolution,
          head_dim=self.head_dim,
          groups=self.groups,
          dropout=self.dropout,
          train=train,
          max_distance=self.max_distance,
          image_frames=image_frames,
          image_mode=self.image_mode,
          implementation=self.implementation,
          remat_attention=self.remat == 'attention',
          dtype=self.dtype,
          name=f'{way}_{level}_{i}',
        )(x, emb, tokens)
      return x

    return level_of_blocks

  def validate(self, shape: tuple[int, ...], *, image_frames: int = 0) -> None:
    """Checks the arguments, and that videos of this shape go through.

    Needs no parameters.

    Args:
      shape: `(t, h, w, c)` of z without the batch, images included.
      image_frames: how many of the t frames are images of their own.

    Raises:
      ConfigError: for what cannot work, with values that would.
    """
    checks.check_arguments(self, blocks=self.blocks)
    levels = len(self.multipliers)
    if len(self.blocks) != levels:
      raise ConfigError(
        f'blocks must have a number for each of {levels} levels'
        f' (got {self.blocks}); use {(2,) * levels}, say'
      )
    if self.temporal and not self.attention_resolutions:
      raise ConfigError(
        'temporal attention follows spatial attention, and there is none'
        ' (attention_resolutions is ()); set temporal to False'
      )
    checks.check_shape(self, shape, image_frames=image_frames, stride=2**levels)
    sides = [max(shape[1:3]) >> (level + 1) for level in range(levels)]
    checks.check_resolutions(self, sides, shape)
    widths = self._widths()
    attended = {
      width
      for side, width in zip(sides, widths, strict=True)
      if side in self.attention_resolutions
    }
    if self.cross_attention:
      attended.add(widths[-1])
    normed = {self.channels, *widths}
    # Going up, a level meets its own width twice: what comes, and the skip.
    normed |= {2 * width for width in widths[:-1]}
    checks.check_widths(self, attended=attended, normed=normed)
