"""The factorised space-time U-Net of both papers, and what it accepts."""

import functools
import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.errors import ConfigError
from vdm_jax.nn.attention import (
  IMAGE_MODES,
  SpatialAttention,
  TemporalAttention,
)
from vdm_jax.nn.blocks import (
  GroupNorm,
  Resample,
  ResBlock,
  Vectors,
  Video,
  conv3x3,
)
from vdm_jax.nn.embeddings import (
  AttentionPooling,
  ClassEmbedding,
  ConditioningMLP,
  check_text,
  expand_slots,
  null_text,
  sinusoidal,
)

RESAMPLES = ('plain', 'residual')
REMATS = ('none', 'attention', 'block')


class Layer(nn.Module):
  """Residual block, spatial attention, temporal attention (Ho22 §3)."""

  features: int  # channels of the result
  attend: bool  # whether attention follows the residual block
  head_dim: int  # channels of an attention head
  groups: int  # of the norms
  dropout: float  # rate in the residual block
  train: bool  # whether dropout runs
  temporal: bool  # whether temporal attention follows the spatial one
  max_distance: int  # relative positions are clipped to ±this
  image_frames: int  # frames at the end that are images of their own
  image_mode: str  # what temporal attention does with images
  implementation: str | None  # of spatial attention
  remat_attention: bool  # recompute the attentions in the backward pass
  dtype: DTypeLike  # of the computation

  @nn.compact
  def __call__(self, x: Video, emb: Vectors) -> Float[Array, 'b t h w _']:
    """Maps x `[b, t, h, w, c]` by emb `[b, 1 or t, d]`."""
    x = ResBlock(
      self.features,
      self.groups,
      dropout=self.dropout,
      train=self.train,
      dtype=self.dtype,
      name='res',
    )(x, emb)
    if not self.attend:
      return x
    lift = nn.remat if self.remat_attention else lambda module: module
    x = lift(SpatialAttention)(
      self.head_dim,
      self.groups,
      implementation=self.implementation,
      dtype=self.dtype,
      name='spatial',
    )(x)
    if not self.temporal:
      return x
    return lift(TemporalAttention)(
      self.head_dim,
      self.groups,
      self.max_distance,
      image_frames=self.image_frames,
      image_mode=self.image_mode,
      dtype=self.dtype,
      name='temporal',
    )(x)


class UNet(nn.Module):
  """The 3-D U-Net of Ho22 §3 and Fig. 1, and with other options that of Ge23.

  Parameters are float32 and do not depend on frames or image_frames. Paths:
  `conv_in`, `emb/dense_I`, `label/embedding`, `text` (`embedding`, `norm`,
  `key`, `value`, `query`, `out`), `stride/embedding`, `frame`, `down_L_I`,
  `mid_I`, `up_L_I` (each with `res`, `spatial`, `temporal`), `down_L_resample`,
  `up_L_resample`, `norm_out`, `conv_out`; L counts from full resolution.
  """

  channels: int  # width of the first level, even
  multipliers: tuple[int, ...]  # width of each level / channels
  blocks: int  # layers a level going down; going up there is one more
  attention_resolutions: tuple[int, ...]  # larger sides of maps with attention
  head_dim: int  # channels of an attention head
  emb_dim: int  # length of the conditioning vectors
  emb_layers: int = 2  # Dense layers of their MLP
  num_classes: int = 0  # of the labels; 0 = no labels
  vocabulary: int = 0  # text is word ids 1 … vocabulary; 0 = it is not
  text_dim: int = 0  # text is embeddings of so many channels; 0 = it is not
  num_strides: int = 0  # frame strides to tell apart; 0 = none
  dropout: float = 0.0  # rate in the residual blocks
  out_channels: int = 3  # of the result
  resample: str = 'plain'  # 'plain' convolutions (Ho22), 'residual' (Ge23)
  image_mode: str = 'self_attend'  # (Ho22), or 'bypass' (Ge23)
  max_distance: int = 15  # clip of relative positions; ours: 16 frames' all
  frame_positions: bool = False  # tell each frame its number; ours
  groups: int = 32  # of the norms, at most one a channel
  temporal: bool = True  # False: a network of images, frame by frame
  remat: str = 'none'  # recomputed going back: 'none', 'attention', 'block'
  implementation: str | None = None  # of spatial attention, 'xla' or 'cudnn'
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
    stride: Int[Array, ' b'] | None = None,
    image_frames: int = 0,
    train: bool = False,
  ) -> Float[Array, 'b t h w o']:
    """The raw prediction for z_t, zero at initialisation.

    Labels and text have s slots: one for all frames, or one for the video and
    one for each image. Where there are none (None) the condition is null.

    Args:
      z: noisy video, and behind it on the frame axis image_frames images.
      logsnr: log-SNR λ, of an example or of each frame.
      label: class of an example or of each slot; -1 is null, c = 0.
      text: word ids, 0 is padding, or embeddings, as the network was made.
      text_mask: True for a token; a slot without any is null. With word ids
        it may be None.
      stride: index of the frame stride, 0 … num_strides - 1; images share it.
      image_frames: how many of the last frames are images of their own.
      train: whether dropout runs; it needs the rng 'dropout'.

    Returns:
      `[b, t, h, w, out_channels]` float32.

    Raises:
      ConfigError: where `validate` does; for a condition that the network has
        no parameters for, for one of another form, or a missing stride.
    """
    self.validate(z.shape[1:], image_frames=image_frames)
    given = {'label': label, 'text': text, 'stride': stride}
    _check_conditions(self, text_mask=text_mask, **given)
    rows = self._conditions(z.shape[0], text_mask=text_mask, **given)
    emb = self._embed(logsnr, rows, z.shape[1], image_frames)
    layer, resample = self._factories(image_frames=image_frames, train=train)
    x = conv3x3(self.channels, dtype=self.dtype, name='conv_in')(z)
    x, skips = self._down(x, emb, layer, resample)
    width = x.shape[-1]
    x = layer(width, attend=True, name='mid_0')(x, emb)
    x = layer(width, attend=False, name='mid_1')(x, emb)
    x = self._up(x, emb, skips, layer, resample)
    # The result meets float32 data: the last convolution is float32 too.
    x = GroupNorm(self.groups, swish=True, name='norm_out')(x)
    zeros = nn.initializers.zeros
    return conv3x3(self.out_channels, kernel_init=zeros, name='conv_out')(x)

  def _factories(self, *, image_frames, train):
    """Layer and Resample with all the arguments that layers share."""
    lift = nn.remat if self.remat == 'block' else lambda module: module
    shared = {
      'groups': self.groups,
      'dropout': self.dropout,
      'train': train,
      'dtype': self.dtype,
    }
    layer = functools.partial(
      lift(Layer),
      head_dim=self.head_dim,
      temporal=self.temporal,
      max_distance=self.max_distance,
      image_frames=image_frames,
      image_mode=self.image_mode,
      implementation=self.implementation,
      remat_attention=self.remat == 'attention',
      **shared,
    )
    return layer, functools.partial(lift(Resample), self.resample, **shared)

  def _conditions(self, batch, *, label, text, text_mask, stride):
    """Vectors `[b, s, d]` to add, by name; missing ones are null."""
    rows = {}
    if self.num_classes:
      label = jnp.full((batch,), -1) if label is None else label
      label = label[:, None] if label.ndim == 1 else label
      embed = ClassEmbedding(self.num_classes, self.emb_dim, name='label')
      rows['label'] = embed(label)
    if self.vocabulary or self.text_dim:
      if text is None:
        text, text_mask = null_text(batch, self.text_dim)
      pool = AttentionPooling(self.emb_dim, self.vocabulary, name='text')
      rows['text'] = pool(text, text_mask)
    if self.num_strides:
      sizes = (self.num_strides, self.emb_dim)
      embed = ClassEmbedding(*sizes, null=False, name='stride')
      rows['stride'] = embed(stride[:, None])
    return rows

  def _embed(self, logsnr, rows, frames, image_frames):
    """Conditioning vectors, one for all frames if each argument has one."""
    if logsnr.ndim == 1:
      logsnr = logsnr[:, None]
    conditions = tuple(
      expand_slots(row, frames=frames, image_frames=image_frames, name=name)
      for name, row in rows.items()
    )
    if self.frame_positions:
      # An image is a video of one frame, so its number is 0.
      numbers = jnp.pad(jnp.arange(frames - image_frames), (0, image_frames))
      waves = sinusoidal(numbers.astype(jnp.float32), self.channels)
      row = nn.Dense(self.emb_dim, name='frame')(waves)
      conditions += (jnp.tile(row[None], (logsnr.shape[0], 1, 1)),)
    mlp = ConditioningMLP(
      self.channels, self.emb_dim, self.emb_layers, name='emb'
    )
    return mlp(logsnr.astype(jnp.float32), conditions)

  def _down(self, x, emb, layer, resample):
    skips = [x]
    for level, multiplier in enumerate(self.multipliers):
      if level:
        down = resample(direction='down', name=f'down_{level}_resample')
        x = down(x, emb)
        skips.append(x)
      attend = max(x.shape[2:4]) in self.attention_resolutions
      for i in range(self.blocks):
        width = self.channels * multiplier
        x = layer(width, attend=attend, name=f'down_{level}_{i}')(x, emb)
        skips.append(x)
    return x, skips

  def _up(self, x, emb, skips, layer, resample):
    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      attend = max(x.shape[2:4]) in self.attention_resolutions
      for i in range(self.blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        width = self.channels * multiplier
        x = layer(width, attend=attend, name=f'up_{level}_{i}')(x, emb)
      if level:
        x = resample(direction='up', name=f'up_{level}_resample')(x, emb)
    assert not skips
    return x

  def validate(self, shape: tuple[int, ...], *, image_frames: int = 0) -> None:
    """Checks the arguments, and that videos of this shape go through.

    Needs no parameters: `UNet(...).validate((16, 64, 64, 3))`.

    Args:
      shape: `(t, h, w, c)` of z without the batch, images included.
      image_frames: how many of the t frames are images of their own.

    Raises:
      ConfigError: for what cannot work, with values that would.
    """
    _check_arguments(self)
    t, h, w, _ = shape
    if not 0 <= image_frames <= t:
      raise ConfigError(
        f'image_frames out of range ({image_frames} of {t} frames);'
        f' use 0 to {t}'
      )
    stride = unet_stride(self.multipliers)
    if h % stride or w % stride or not h * w:
      legal = 'x'.join(
        str(max(stride, round(side / stride) * stride)) for side in (h, w)
      )
      raise ConfigError(
        f'height and width must be multiples of {stride} for'
        f' {len(self.multipliers)} levels (got {h}x{w}); use {legal}'
      )
    sides = [max(h, w) >> level for level in range(len(self.multipliers))]
    unused = sorted(set(self.attention_resolutions) - set(sides))
    if unused:
      raise ConfigError(
        f'attention_resolutions that no level has ({unused} at {h}x{w});'
        f' choose from {sides}'
      )
    attended = [self.multipliers[-1]] + [
      multiplier
      for side, multiplier in zip(sides, self.multipliers, strict=True)
      if side in self.attention_resolutions
    ]
    _check_widths(self, {self.channels * m for m in attended})


def unet_stride(multipliers: tuple[int, ...]) -> int:
  """What height and width must be divisible by: 2^(levels - 1)."""
  return 2 ** (len(multipliers) - 1)


def _check_arguments(net: UNet) -> None:
  """Raises ConfigError for arguments that no video could use."""
  for name, allowed in (
    ('resample', RESAMPLES),
    ('image_mode', IMAGE_MODES),
    ('remat', REMATS),
    ('implementation', (None, 'xla', 'cudnn')),
  ):
    value = getattr(net, name)
    if value not in allowed:
      raise ConfigError(f'unknown {name} ({value!r}); use one of {allowed}')
  for name, least in (
    ('channels', 4),
    ('blocks', 1),
    ('head_dim', 1),
    ('emb_dim', 1),
    ('emb_layers', 1),
    ('num_classes', 0),
    ('vocabulary', 0),
    ('text_dim', 0),
    ('num_strides', 0),
    ('out_channels', 1),
    ('max_distance', 0),
    ('groups', 1),
  ):
    value = getattr(net, name)
    if value < least:
      raise ConfigError(f'{name} too small ({value}); use {least} or more')
  if net.channels % 2:
    raise ConfigError(
      f'channels must be even ({net.channels}); use {net.channels + 1}'
    )
  if net.vocabulary and net.text_dim:
    raise ConfigError(
      'text is either words or embeddings (got'
      f' vocabulary={net.vocabulary}, text_dim={net.text_dim}); set one to 0'
    )
  if not net.multipliers or min(net.multipliers) < 1:
    raise ConfigError(
      f'multipliers must be positive ({net.multipliers}); use (1, 2, 4), say'
    )
  if not 0 <= net.dropout < 1:
    raise ConfigError(
      f'dropout out of range ({net.dropout}); use 0 or more, less than 1'
    )


def _check_conditions(net: UNet, *, label, text, text_mask, stride) -> None:
  """Raises ConfigError for conditions that are not those of the network."""
  for name, value, size, option in (
    ('label', label, net.num_classes, 'num_classes'),
    ('text', text, net.vocabulary or net.text_dim, 'vocabulary or text_dim'),
    ('stride', stride, net.num_strides, 'num_strides'),
  ):
    if value is not None and not size:
      raise ConfigError(
        f'the network has no parameters for {name} ({option} is 0); set'
        f' {option}, or leave out {name}'
      )
  if net.num_strides and stride is None:
    legal = f'0 to {net.num_strides - 1}'
    raise ConfigError(f'stride is missing (None); give {legal}')
  check_text(text, text_mask, net.vocabulary, net.text_dim)


def _check_widths(net: UNet, attended: set[int]) -> None:
  """Raises ConfigError where heads or groups do not divide a width."""
  widths = sorted(attended)
  if any(width % net.head_dim for width in widths):
    raise ConfigError(
      f'head_dim must divide the widths with attention {widths}'
      f' (got {net.head_dim}); use a divisor of {math.gcd(*widths)}'
    )
  widths = sorted(_norm_widths(net.channels, net.multipliers, net.blocks))
  legal = [
    groups
    for groups in range(1, net.groups + 1)
    if not any(width % min(groups, width) for width in widths)
  ]
  if net.groups not in legal:
    raise ConfigError(
      f'groups must divide the widths of the norms {widths}'
      f' (got {net.groups}); use {legal[-1]}'
    )


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
