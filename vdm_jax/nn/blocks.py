"""Convolutions, norms, residual blocks and resampling, frame by frame.

Frames are a batch axis in this file: `[b, t, h, w, c]` runs as 2-D operations
over b·t images, which is what a 1×3×3 convolution means (Ho22 §3). Only
`TemporalConvolution`, an option, mixes the frames of a video.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Video = Float[Array, 'b t h w c']
# Conditioning vectors; a single row serves all the frames.
Vectors = Float[Array, ' b #t d']

conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3))
conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1))


class GroupNorm(nn.Module):
  """GroupNorm with statistics of one frame, then (1 + scale), shift, swish.

  Frames never see each other here: statistics over time would leak between a
  video and the images packed behind it. Statistics are float32. All of it is
  one pass over x after the statistics, y = a x + b with a, b `[b, t, c]`.
  """

  groups: int  # at most this many groups, fewer channels have one each
  swish: bool = False  # apply x·sigmoid(x) at the end
  dtype: DTypeLike = jnp.float32  # of the result
  eps: float = 1e-6  # added to the variance

  @nn.compact
  def __call__(
    self,
    x: Video,
    scale: Vectors | None = None,
    shift: Vectors | None = None,
  ) -> Video:
    """Normalises x; scale and shift are `[b, 1 or t, c]`."""
    channels = x.shape[-1]
    gamma = self.param('scale', nn.initializers.ones, (channels,))
    beta = self.param('bias', nn.initializers.zeros, (channels,))
    mean, rstd = frame_statistics(x, min(self.groups, channels), self.eps)
    factor = rstd * gamma[None, None]
    offset = beta[None, None] - mean * factor
    if scale is not None:
      factor, offset = factor * (1 + scale), offset * (1 + scale) + shift
    return _affine(x, factor, offset, self.swish).astype(self.dtype)


@functools.partial(jax.checkpoint, static_argnums=(3,))
def _affine(x, factor, offset, swish):
  """Recomputed in the backward pass, which keeps x but no float32 copy."""
  y = x.astype(jnp.float32) * factor[:, :, None, None]
  y = y + offset[:, :, None, None]
  return jax.nn.swish(y) if swish else y


def frame_statistics(
  x: Video, groups: int, eps: float
) -> tuple[Float[Array, 'b t c'], Float[Array, 'b t c']]:
  """Mean and 1/√(variance + eps) of each frame's groups, one a channel.

  The variance is that within the channels plus that of their means, so that
  E[x²] - E[x]² only cancels where all channels share one large mean.
  """
  x = x.astype(jnp.float32)
  mean = jnp.mean(x, axis=(2, 3))
  variance = jnp.maximum(jnp.mean(x * x, axis=(2, 3)) - mean * mean, 0)
  grouped = (*mean.shape[:2], groups, mean.shape[-1] // groups)
  mean, variance = mean.reshape(grouped), variance.reshape(grouped)
  center = jnp.mean(mean, axis=-1, keepdims=True)
  variance = jnp.mean(variance + (mean - center) ** 2, -1, keepdims=True)
  rstd = jnp.broadcast_to(jax.lax.rsqrt(variance + eps), mean.shape)
  center = jnp.broadcast_to(center, mean.shape)
  shape = (*x.shape[:2], x.shape[-1])
  return center.reshape(shape), rstd.reshape(shape)


def upsample_nearest(x: Video) -> Float[Array, 'b t 2*h 2*w c']:
  """Repeats every pixel 2×2 times: `[b, t, 2h, 2w, c]`."""
  b, t, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, :, None, :, None], (b, t, h, 2, w, 2, c))
  return x.reshape(b, t, 2 * h, 2 * w, c)


def downsample_mean(x: Video) -> Float[Array, 'b t h//2 w//2 c']:
  """Averages 2×2 pixels: `[b, t, h/2, w/2, c]`."""
  b, t, h, w, c = x.shape
  return x.reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))


RESAMPLE = {None: lambda x: x, 'up': upsample_nearest, 'down': downsample_mean}


class TemporalConvolution(nn.Module):
  """y + W y over three frames of each pixel; W starts at zero.

  The temporal half of Make-A-Video's pseudo-3D convolution: 3×1×1, zeros
  beyond the first and the last frame, the identity at initialisation; as a
  residual it is so to the bit, and decay pulls it there. Images pass by it,
  and so does a video of one frame.
  """

  image_frames: int = 0  # frames at the end that are images of their own
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, y: Video) -> Video:
    """Maps `[b, t, h, w, c]` to its shape, each pixel by itself."""
    c, zeros = y.shape[-1], nn.initializers.zeros
    kernel = self.param('kernel', zeros, (3, c, c))
    bias = self.param('bias', zeros, (c,))
    frames = y.shape[1] - self.image_frames
    if frames < 2:
      return y
    video = y[:, :frames]
    change = jax.lax.conv_general_dilated(
      rearrange(video, 'b t h w c -> b t (h w) c'),
      kernel[:, None].astype(self.dtype),
      window_strides=(1, 1),
      padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    change = change + bias.astype(self.dtype)[None, None, None]
    video = video + change.reshape(video.shape)
    return jnp.concatenate([video, y[:, frames:]], axis=1)


class ResBlock(nn.Module):
  """The residual block of DDPM++ and ADM, conditioned by scale and shift.

  GN, swish, [resample], 3×3; GN·(1 + scale) + shift, swish, dropout, 3×3
  initialised to zero; plus x, through a 1×1 convolution if the width changes.
  As an option, a temporal convolution follows each 3×3.
  """

  features: int  # channels of the result
  groups: int  # of the norms
  dropout: float = 0.0  # rate before the last convolution
  train: bool = False  # whether dropout runs
  resample: str | None = None  # 'up', 'down' or None
  temporal_convolution: bool = False  # after each 3×3 convolution
  image_frames: int = 0  # frames at the end that are images of their own
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Video, emb: Vectors) -> Float[Array, 'b t _ _ _']:
    """Maps x `[b, t, h, w, c]` by emb `[b, 1 or t, d]`."""
    resample = RESAMPLE[self.resample]
    norm = functools.partial(
      GroupNorm, self.groups, swish=True, dtype=self.dtype
    )
    y = resample(norm(name='norm_0')(x))
    y = conv3x3(self.features, dtype=self.dtype, name='conv_0')(y)
    y = self._over_time(y, 'temporal_0')
    affine = nn.Dense(2 * self.features, dtype=self.dtype, name='emb')
    affine = affine(jax.nn.swish(emb)).astype(jnp.float32)
    scale, shift = jnp.split(affine, 2, axis=-1)
    y = norm(name='norm_1')(y, scale, shift)
    y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
    y = conv3x3(
      self.features,
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros,
      name='conv_1',
    )(y)
    y = self._over_time(y, 'temporal_1')
    x = resample(x)
    if x.shape[-1] != self.features:
      x = conv1x1(self.features, dtype=self.dtype, name='shortcut')(x)
    return x + y

  def _over_time(self, y, name):
    if not self.temporal_convolution:
      return y
    convolve = TemporalConvolution(self.image_frames, self.dtype, name=name)
    return convolve(y)


class Resample(nn.Module):
  """Half or twice the side, by a convolution or by a residual block.

  'plain': strided 3×3 convolution down; nearest neighbours, then 3×3, up.
  'residual': the resampling `ResBlock` of ADM, which alone uses emb.
  """

  kind: str  # 'plain' or 'residual'
  direction: str  # 'up' or 'down'
  groups: int  # of the residual block's norms
  dropout: float = 0.0  # rate in the residual block
  train: bool = False  # whether dropout runs
  temporal_convolution: bool = False  # in the residual block
  image_frames: int = 0  # frames at the end that are images of their own
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Video, emb: Vectors) -> Float[Array, 'b t _ _ c']:
    """Maps `[b, t, h, w, c]` to half or twice h and w."""
    if self.kind == 'residual':
      return ResBlock(
        x.shape[-1],
        self.groups,
        dropout=self.dropout,
        train=self.train,
        resample=self.direction,
        temporal_convolution=self.temporal_convolution,
        image_frames=self.image_frames,
        dtype=self.dtype,
        name='res',
      )(x, emb)
    conv = functools.partial(
      conv3x3, x.shape[-1], dtype=self.dtype, name='conv'
    )
    if self.direction == 'down':
      return conv(strides=2)(x)
    return conv()(upsample_nearest(x))
