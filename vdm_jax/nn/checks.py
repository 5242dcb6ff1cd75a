"""What the two U-Nets refuse, with what would work."""

import math

from vdm_jax.errors import ConfigError
from vdm_jax.nn.attention import IMAGE_MODES

REMATS = ('none', 'attention', 'block')
LEAST = {
  'channels': 4,
  'head_dim': 1,
  'emb_dim': 1,
  'emb_layers': 1,
  'num_classes': 0,
  'vocabulary': 0,
  'text_dim': 0,
  'text2_dim': 0,
  'num_strides': 0,
  'extra_channels': 0,
  'out_channels': 1,
  'max_distance': 0,
  'groups': 1,
}


def check_arguments(net, *, blocks: tuple[int, ...], **choices) -> None:
  """Raises ConfigError for arguments that no video could use.

  Args:
    net: a U-Net.
    blocks: its numbers of layers.
    **choices: by name, what further arguments must be one of.
  """
  choices |= {'image_mode': IMAGE_MODES, 'remat': REMATS}
  for name, allowed in choices.items():
    value = getattr(net, name)
    if value not in allowed:
      raise ConfigError(f'unknown {name} ({value!r}); use one of {allowed}')
  values = {name: (getattr(net, name), least) for name, least in LEAST.items()}
  values['blocks'] = (min(blocks, default=1), 1)
  for name, (value, least) in values.items():
    if value < least:
      raise ConfigError(f'{name} too small ({value}); use {least} or more')
  if net.channels % 2:
    raise ConfigError(
      f'channels must be even ({net.channels}); use {net.channels + 1}'
    )
  if not net.multipliers or min(net.multipliers) < 1:
    raise ConfigError(
      f'multipliers must be positive ({net.multipliers}); use (1, 2, 4), say'
    )
  if not 0 <= net.dropout < 1:
    raise ConfigError(
      f'dropout out of range ({net.dropout}); use 0 or more, less than 1'
    )
  _check_text(net)


def _check_text(net) -> None:
  if net.vocabulary and net.text_dim:
    raise ConfigError(
      'text is either words or embeddings (got'
      f' vocabulary={net.vocabulary}, text_dim={net.text_dim}); set one to 0'
    )
  texts = net.vocabulary or net.text_dim or net.text2_dim
  if net.cross_attention and not texts:
    raise ConfigError(
      'cross_attention without text (vocabulary, text_dim and text2_dim are'
      ' 0); set one of them, or cross_attention to False'
    )


def check_shape(
  net, shape: tuple[int, ...], *, image_frames: int, stride: int
) -> None:
  """Raises ConfigError for a video that does not go through.

  Args:
    net: a U-Net.
    shape: `(t, h, w, c)` of the video.
    image_frames: how many of the t frames are images of their own.
    stride: what height and width must be divisible by.
  """
  t, h, w, _ = shape
  if not 0 <= image_frames <= t:
    raise ConfigError(
      f'image_frames out of range ({image_frames} of {t} frames); use 0 to {t}'
    )
  if h % stride or w % stride or not h * w:
    near = [
      (side // stride * stride, -(-side // stride) * stride) for side in (h, w)
    ]
    legal = ' or '.join(
      dict.fromkeys(f'{a}x{b}' for a, b in zip(*near, strict=True) if a * b)
    )
    raise ConfigError(
      f'height and width must be multiples of {stride} for'
      f' {len(net.multipliers)} levels (got {h}x{w}); use {legal}'
    )


def check_resolutions(net, sides: list[int], shape: tuple[int, ...]) -> None:
  """Raises ConfigError for attention where no level is.

  Args:
    net: a U-Net.
    sides: the larger side of the maps of each level.
    shape: `(t, h, w, c)` of the video.
  """
  unused = sorted(set(net.attention_resolutions) - set(sides))
  if unused:
    raise ConfigError(
      f'attention_resolutions that no level has ({unused} at'
      f' {shape[1]}x{shape[2]}); choose from {sides}'
    )


def check_widths(net, *, attended: set[int], normed: set[int]) -> None:
  """Raises ConfigError where heads or groups do not divide a width.

  Args:
    net: a U-Net.
    attended: the widths that meet an attention.
    normed: the widths that meet a GroupNorm.
  """
  widths = sorted(attended)
  if any(width % net.head_dim for width in widths):
    raise ConfigError(
      f'head_dim must divide the widths with attention {widths}'
      f' (got {net.head_dim}); use a divisor of {math.gcd(*widths)}'
    )
  widths = sorted(normed)
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
