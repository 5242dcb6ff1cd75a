"""The Efficient U-Net of Imagen, with temporal convolutions for video."""

import math

import jax.numpy as jnp

from vdm_jax.errors import ConfigError
from vdm_jax.nn import checks
from vdm_jax.nn.blocks import conv3x3, upsample_nearest
from vdm_jax.nn.network import Network


class EfficientUNet(Network):
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

  Paths, besides those of `Network`: `down_L_I` and `up_L_I` as in `UNet`, and
  `down_L_in` and `up_L_out`, the resampling convolutions.
  """

  blocks: tuple[int, ...]  # residual blocks of each level, down as up
  cross_attention: bool = False  # to the tokens, at the lowest level at least
  image_mode: str = 'bypass'  # of temporal attention, or 'self_attend'
  temporal: bool = False  # temporal attention after the spatial one
  temporal_convolution: bool = True  # False: a network of images

  def _levels(self, x, emb, tokens, *, image_frames, train):
    level_of_blocks = self._level(image_frames=image_frames, train=train)
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
    return x

  def _widths(self):
    return tuple(self.channels * m for m in self.multipliers)

  def _conv(self, width, name, **kwargs):
    return conv3x3(width, dtype=self.dtype, name=name, **kwargs)

  def _level(self, *, image_frames, train):
    """The blocks of one level, going down or up."""
    layer = self._layer(image_frames=image_frames, train=train)

    def level_of_blocks(x, emb, tokens, *, level, way):
      last = self.blocks[level] - 1
      attend = max(x.shape[2:4]) in self.attention_resolutions
      cross = self.cross_attention and (
        attend or level == len(self.multipliers) - 1
      )
      for i in range(self.blocks[level]):
        x = layer(
          self._widths()[level],
          attend=attend and i == last,
          cross=cross and i == last,
          name=f'{way}_{level}_{i}',
        )(x, emb, tokens)
      return x

    return level_of_blocks

  def validate(self, shape, *, image_frames=0):
    """See `Network`."""
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
