"""The factorised space-time U-Net of both papers, and what it accepts."""

import functools

import jax.numpy as jnp

from vdm_jax.nn import checks
from vdm_jax.nn.blocks import Resample
from vdm_jax.nn.network import Network

RESAMPLES = ('plain', 'residual')


class UNet(Network):
  """The 3-D U-Net of Ho22 §3 and Fig. 1, and with other options that of Ge23.

  Paths, besides those of `Network`: `down_L_I`, `mid_I`, `up_L_I` (each with
  `res`, `spatial`, `cross`, `temporal`), `down_L_resample`, `up_L_resample`; L
  counts from full resolution. In a `res`, `temporal_0` and `temporal_1` are
  the temporal convolutions.
  """

  blocks: int  # layers a level going down; going up there is one more
  image_mode: str = 'self_attend'  # (Ho22), or 'bypass' (Ge23)
  resample: str = 'plain'  # 'plain' convolutions (Ho22), 'residual' (Ge23)

  def _levels(self, x, emb, tokens, *, image_frames, train):
    called = {'image_frames': image_frames, 'train': train}
    full = self._layer(cross=self.cross_attention, attend=True, **called)
    bare = self._layer(cross=False, attend=False, **called)

    def layer(features, attend, name):
      return (full if attend else bare)(features, name=name)

    resample = functools.partial(
      self._lifted(Resample),
      self.resample,
      groups=self.groups,
      dropout=self.dropout,
      temporal_convolution=self.temporal_convolution,
      dtype=self.dtype,
      **called,
    )
    x, skips = self._down(x, emb, tokens, layer, resample)
    width = x.shape[-1]
    x = layer(width, attend=True, name='mid_0')(x, emb, tokens)
    x = layer(width, attend=False, name='mid_1')(x, emb, tokens)
    return self._up(x, emb, tokens, skips, layer, resample)

  def _down(self, x, emb, tokens, layer, resample):
    skips = [x]
    for level, multiplier in enumerate(self.multipliers):
      if level:
        down = resample(direction='down', name=f'down_{level}_resample')
        x = down(x, emb)
        skips.append(x)
      attend = max(x.shape[2:4]) in self.attention_resolutions
      for i in range(self.blocks):
        width = self.channels * multiplier
        x = layer(width, attend, f'down_{level}_{i}')(x, emb, tokens)
        skips.append(x)
    return x, skips

  def _up(self, x, emb, tokens, skips, layer, resample):
    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      attend = max(x.shape[2:4]) in self.attention_resolutions
      for i in range(self.blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        width = self.channels * multiplier
        x = layer(width, attend, f'up_{level}_{i}')(x, emb, tokens)
      if level:
        x = resample(direction='up', name=f'up_{level}_resample')(x, emb)
    assert not skips
    return x

  def validate(self, shape, *, image_frames=0):
    """See `Network`."""
    checks.check_arguments(self, blocks=(self.blocks,), resample=RESAMPLES)
    stride = unet_stride(self.multipliers)
    checks.check_shape(self, shape, image_frames=image_frames, stride=stride)
    side = max(shape[1:3])
    sides = [side >> level for level in range(len(self.multipliers))]
    checks.check_resolutions(self, sides, shape)
    attended = {self.channels * self.multipliers[-1]} | {
      self.channels * multiplier
      for side, multiplier in zip(sides, self.multipliers, strict=True)
      if side in self.attention_resolutions
    }
    normed = _norm_widths(self.channels, self.multipliers, self.blocks)
    checks.check_widths(self, attended=attended, normed=normed)


def unet_stride(multipliers: tuple[int, ...]) -> int:
  """What height and width must be divisible by: 2^(levels - 1)."""
  return 2 ** (len(multipliers) - 1)


def _norm_widths(
  channels: int, multipliers: tuple[int, ...], blocks: int
) -> set[int]:
  """Widths that meet a GroupNorm, the concatenations going up included."""
  skips = [channels]
  for level, multiplier in enumerate(multipliers):
    skips += [skips[-1]] * bool(level) + [channels * multiplier] * blocks
  widths, x = set(skips), skips[-1]
  for multiplier in reversed(multipliers):
    for _ in range(blocks + 1):
      widths.add(x + skips.pop())
      x = channels * multiplier
  return widths
