"""Models that refine a video: more frames of it, or more pixels.

Ge23 §4, Fig. 3: behind the base model stand one that interpolates in time and
two that super-resolve. Such a network sees what the stage before has made
beside the noisy video, as further channels, `extra`; reconstruction guidance,
which asks nothing of training, is `diffusion.guidance`. In training a clip is
made coarse; in sampling there is the video of the stage before, which `lower`
makes of a clip to the bit.

Noise is added to what is seen, in training of a random level and in sampling
of a fixed one (Ho21, Saharia22): the flaws of the stage before are then not
taken for content. The network is told the level. Ge23 say nothing of this;
all of it is the practice of Imagen and Make-A-Video, but for the noise, which
is the stage's own prior and so as coherent in time as its z (ours).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from vdm_jax import errors, step
from vdm_jax.diffusion import process, samplers, schedules
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import Video
from vdm_jax.given import Given, Take, take

Pixels = UInt8[Array | np.ndarray, 'b t h w c']
Lower = UInt8[Array | np.ndarray, 'b _t _h _w c']
Corners = Int[Array, 'b 2']

# From the level of the added noise, uniform in training, to its log-SNR.
AUGMENTATION = schedules.CosineSchedule()
# What is random in an example: streams of its key.
_LEVEL, _NOISE, _CORNER = range(3)


@dataclasses.dataclass(frozen=True)
class Upsample:
  """Frames of factor × factor as many pixels.

  What is seen is the lower video, brought to the size of the frames by
  bilinear interpolation.

  Attributes:
    factor: pixels a side of the block whose mean is a pixel of `lower`.
  """

  factor: int

  channels = 3
  in_images = True  # whether images have a lower one too
  key_stride = 1  # from one frame of the lower video to the next

  @property
  def grid(self) -> int:
    """Crops begin at multiples of this."""
    return self.factor

  def lower(self, video: Pixels) -> Lower:
    """Means of blocks, rounded as in a file: `[b, t, h/f, w/f, c]`."""
    b, t, h, w, c = video.shape
    f = self.factor
    blocks = video.reshape(b, t, h // f, f, w // f, f, c)
    return blocks.mean((3, 5), dtype=np.float32).round().astype(np.uint8)

  def extra(
    self,
    low: Float[Array, 'b t _h _w c'],
    *,
    frames: int,
    corners: Corners | None = None,
    crop: int = 0,
  ) -> Float[Array, 'b {frames} _H _W c']:
    """The further channels, of whole frames or of crops of them.

    Args:
      low: the lower video, perhaps with noise.
      frames: of the result, packed images included; those of `low`.
      corners: (y, x) of each example's crop, in pixels of the result.
      crop: its side.
    """
    del frames
    edge = (1, 1)
    low = jnp.pad(low, ((0, 0), (0, 0), edge, edge, (0, 0)), 'edge')
    if corners is not None:
      low = cut(low, corners // self.factor, crop // self.factor + 2)
    return _bilinear(_bilinear(low, 2, self.factor), 3, self.factor)


@dataclasses.dataclass(frozen=True)
class Interpolate:
  """Frames between key frames, which are every factor-th one from the first.

  What is seen has four channels: the key frames in their places, zeros in
  between, and whether a frame is a key frame (Singer22, Make-A-Video; Ge23 do
  not say). Packed images have no key frames.

  Attributes:
    factor: from one key frame to the next.
  """

  factor: int

  channels = 4
  in_images = False
  grid = 1

  @property
  def key_stride(self) -> int:
    """From one frame of the lower video to the next."""
    return self.factor

  def lower(self, video: Pixels) -> Lower:
    """The key frames, `[b, ⌈t/factor⌉, h, w, c]`."""
    return video[:, :: self.factor]

  def extra(
    self,
    low: Float[Array, 'b _t h w c'],
    *,
    frames: int,
    corners: Corners | None = None,
    crop: int = 0,
  ) -> Float[Array, 'b {frames} _H _W c+1']:
    """The further channels; see `Upsample.extra`."""
    if corners is not None:
      low = cut(low, corners, crop)
    low = jnp.pad(low, (*[(0, 0)] * 4, (0, 1)), constant_values=1)
    b, keys, h, w, c = low.shape
    end = (keys - 1) * self.factor + 1
    video = jnp.zeros((b, frames, h, w, c), low.dtype)
    return video.at[:, : end : self.factor].set(low)


@dataclasses.dataclass(frozen=True)
class Refine:
  """How a model refines: what it sees, in training and in sampling.

  Attributes:
    form: what the stage before makes of a clip, and what is seen of it.
    augment: whether noise is added to what is seen, and its level told.
    level: of that noise in sampling, in [0, 1]; 0 adds none.
    crop: the side of the crops that are trained on; 0 for whole frames.
  """

  form: Upsample | Interpolate
  augment: bool = True
  level: float = 0.0
  crop: int = 0

  @property
  def keeps(self) -> bool:
    """Whether what it is given is a part of its videos, to the bit.

    Key frames to which noise is added are made again, in harmony with the
    frames between them.
    """
    clean = not (self.augment and self.level)
    return isinstance(self.form, Interpolate) and clean

  def given(self, videos: np.ndarray | None, frames: int) -> Given:
    """What is known of videos to sample: what `keeps` keeps of the lower ones.

    Args:
      videos: of the stage before; None while they are not made.
      frames: of the videos to sample.
    """
    if not self.keeps:
      return Given()
    return Given(
      full=videos, frames=tuple(range(0, frames, self.form.key_stride))
    )

  def training(
    self,
    video: UInt8[Array, 'b t h w c'],
    *,
    keys: Key[Array, ' b'],
    prior: NoisePrior,
    image_frames: int = 0,
  ) -> tuple[UInt8[Array, 'b t _h _w c'], dict[str, Array]]:
    """What is trained on: (the clips or crops of them, what the network sees).

    A crop of what is seen is the same crop of the clip: what is seen of whole
    frames, cut out.

    Args:
      video: clips, packed images behind them.
      keys: one per example, for the level, the noise and the crop.
      prior: the law of the noise.
      image_frames: how many frames are packed images.

    Returns:
      Clips, and `extra` `[b, t, h, w, k]` with, if noise is added, its log-SNR
      `augment` `[b]`.
    """
    frames = video.shape[1]
    images = image_frames if self.form.in_images else 0
    clip = video[:, : frames - image_frames + images]
    low, seen = step.to_float(self.form.lower(clip)), {}
    if self.augment:
      levels = jax.vmap(jax.random.uniform)(samplers.fold(keys, _LEVEL))
      low, seen['augment'] = add_noise(
        low, levels=levels, keys=keys, prior=prior, image_frames=images
      )
    corners = None
    if self.crop:
      corners = self._corners(keys, video.shape)
      video = cut(video, corners, self.crop)
    extra = self.form.extra(low, frames=frames, corners=corners, crop=self.crop)
    return video, seen | {'extra': extra}

  def sampling(
    self,
    low: UInt8[Array, 'b _t _h _w c'],
    *,
    keys: Key[Array, ' b'],
    prior: NoisePrior,
    frames: int,
  ) -> dict[str, Array]:
    """What the network sees of the videos of the stage before.

    Args:
      low: these videos.
      keys: one per example, for the noise.
      prior: the law of the noise.
      frames: of the videos to sample.

    Returns:
      `extra` and perhaps `augment`, as of `training`.
    """
    low, seen = step.to_float(low), {}
    if self.augment:
      levels = jnp.full(len(low), self.level)
      low, seen['augment'] = add_noise(
        low, levels=levels, keys=keys, prior=prior
      )
    return seen | {'extra': self.form.extra(low, frames=frames)}

  def _corners(self, keys, shape) -> Corners:
    """A corner for each example, uniform among those that crops may have."""
    grid = self.form.grid
    places = jnp.array([(side - self.crop) // grid + 1 for side in shape[2:4]])
    return grid * jax.vmap(
      lambda key: jax.random.randint(key, (2,), 0, places)
    )(samplers.fold(keys, _CORNER))


FORMS = {'interpolate': Interpolate, 'upsample': Upsample}


def of_config(config) -> Refine | None:
  """What `config.refine` describes; None for a model that refines nothing.

  Raises:
    ConfigError: sizes that do not fit together.
  """
  c, size = config.refine, config.data.size
  if c.kind == 'none':
    return None
  form = FORMS[c.kind](c.factor)
  if c.factor < 2:
    raise errors.ConfigError(
      f'config.refine.factor is {c.factor}, which refines nothing; use 2 or '
      'more'
    )
  if config.data.frames <= form.key_stride and c.kind == 'interpolate':
    raise errors.ConfigError(
      f'{config.data.frames} frames have no second key frame at '
      f'config.refine.factor {c.factor}; set config.data.frames to '
      f'{c.factor + 1} or more'
    )
  for name, side in (('data.size', size), ('refine.crop', c.crop)):
    if side % form.grid:
      raise errors.ConfigError(
        f'config.{name} is {side}, no multiple of config.refine.factor '
        f'({c.factor}); use {max(1, side // form.grid) * form.grid}'
      )
  if c.crop > size:
    raise errors.ConfigError(
      f'config.refine.crop is {c.crop}, more than config.data.size ({size}); '
      'use 0 for whole frames'
    )
  return Refine(form, c.augment, c.augment_level, c.crop)


def training_size(config) -> int:
  """The height and width of what the network is trained on."""
  if config.refine.kind == 'none':
    return config.data.size
  return config.refine.crop or config.data.size


def for_whole_frames(config, network: Any) -> Any:
  """The network for whole frames, of one that is trained on crops.

  Parameters do not depend on the size, but which levels have attention does:
  `config.model.attention_resolutions` are sides of maps in training. Here they
  become those of the same levels.

  Raises:
    ConfigError: whole frames do not go through the network.
  """
  size, side = config.data.size, training_size(config)
  if side == size:
    return network
  sides = network.attention_resolutions
  if sides and size % side:
    raise errors.ConfigError(
      f'config.data.size is {size}, no multiple of config.refine.crop ({side}) '
      'by which the levels with attention would be found; use a divisor of '
      f'{size}, or no attention_resolutions'
    )
  network = network.clone(
    attention_resolutions=tuple(r * size // side for r in sides)
  )
  network.validate((config.data.frames, size, size, 3))
  return network


@dataclasses.dataclass(frozen=True)
class Low:
  """The videos that are refined.

  Attributes:
    videos: uint8 `[n, k, h, w, 3]`, perhaps on disk; n is the number of videos
      to sample, or 1 where they all refine the same one.
    key_stride: frame i of these is frame i · key_stride of what is sampled.
  """

  videos: np.ndarray
  key_stride: int

  def of(
    self, rows, numbers, read: Take = take
  ) -> UInt8[np.ndarray, '_b _k _h _w 3']:
    """What there is of the frames `numbers` of the videos `rows`.

    Args:
      rows: which of the videos.
      numbers: of frames of what is sampled.
      read: reads the videos, as `given.take` does.
    """
    places = [n // self.key_stride for n in numbers if not n % self.key_stride]
    return read(self.videos, rows, places)


def add_noise(
  low: Video,
  *,
  levels: Float[Array, ' b'],
  keys: Key[Array, ' b'],
  prior: NoisePrior,
  image_frames: int = 0,
) -> tuple[Video, Float[Array, ' b']]:
  """α low + σ ε with α² + σ² = 1, and the log-SNR (Ho21; VP as in Imagen).

  Level 0 is the video to the bit, though its log-SNR is finite; level 1 is
  noise. Between them the log-SNR is the cosine schedule's.
  """
  logsnr = AUGMENTATION(levels)
  eps = prior.sample(samplers.fold(keys, _NOISE), low.shape[1:], image_frames)
  noisy = process.diffuse(x=low, eps=eps, logsnr=logsnr)
  return jnp.where(process.over_video(levels) > 0, noisy, low), logsnr


def cut(video: Array, corners: Corners, side: int) -> Array:
  """A square of each example: rows y … y + side, columns x … x + side.

  Args:
    video: `[b, t, h, w, c]`.
    corners: (y, x) of each example.
    side: of the square.
  """

  def one(frames, corner):
    shape = (frames.shape[0], side, side, frames.shape[3])
    return jax.lax.dynamic_slice(frames, (0, corner[0], corner[1], 0), shape)

  return jax.vmap(one)(video, corners)


def _bilinear(x: Array, axis: int, factor: int) -> Array:
  """Linear interpolation along an axis whose ends are one pixel of padding.

  n + 2 pixels become factor · n, where pixel i of the n is the centre of its
  block of `factor` ones: what `jax.image.resize` gives, but by shifts, so that
  it stays where it is when the axis is spread over devices.
  """
  count = x.shape[axis] - 2
  before, here, after = (
    jax.lax.slice_in_dim(x, i, i + count, axis=axis) for i in range(3)
  )
  phases = []
  for i in range(factor):
    offset = (i + 0.5) / factor - 0.5
    other = before if offset < 0 else after
    phases.append(here + abs(offset) * (other - here))
  shape = (*x.shape[:axis], count * factor, *x.shape[axis + 1 :])
  return jnp.stack(phases, axis + 1).reshape(shape)
