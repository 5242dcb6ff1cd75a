"""What a network is told, as conditioning vectors and as tokens.

The functions here are called within the `__call__` of a U-Net, `net`, whose
parameters theirs become: `label`, `text`, `text2`, `stride`, `augment`,
`frame`, `emb`, `tokens`, `tokens2`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_jax.errors import ConfigError
from vdm_jax.nn.attention import Tokens
from vdm_jax.nn.blocks import Vectors, Video, conv3x3
from vdm_jax.nn.embeddings import (
  AttentionPooling,
  ClassEmbedding,
  ConditioningMLP,
  Dense,
  TextTokens,
  check_text,
  expand_slots,
  inv_cos,
  null_text,
  sinusoidal,
)


def check(net, told: dict, *, z: Video) -> None:
  """Raises ConfigError for conditions that are not those of the network.

  Args:
    net: a U-Net.
    told: the conditions by name, None where there are none.
    z: the noisy video.
  """
  for name, size, option in (
    ('label', net.num_classes, 'num_classes'),
    ('text', net.vocabulary or net.text_dim, 'vocabulary or text_dim'),
    ('text2', net.text2_dim, 'text2_dim'),
    ('stride', net.num_strides, 'num_strides'),
    ('extra', net.extra_channels, 'extra_channels'),
    ('augment', net.augmented, 'augmented'),
  ):
    if told[name] is not None and not size:
      raise ConfigError(
        f'the network has no parameters for {name} ({option} is'
        f' {int(size)}); set {option}, or leave out {name}'
      )
  wanted = (*z.shape[:4], net.extra_channels)
  for name, needed, legal in (
    ('stride', net.num_strides, f'0 to {net.num_strides - 1}'),
    ('extra', net.extra_channels, f'an array {wanted}'),
    ('augment', net.augmented, 'a log-SNR for each example'),
  ):
    if needed and told[name] is None:
      raise ConfigError(f'{name} is missing (None); give {legal}')
  extra = told['extra']
  if extra is not None and extra.shape != wanted:
    raise ConfigError(
      f'extra does not fit z {z.shape} (got {extra.shape}); give {wanted}'
    )
  texts = {'text': (net.vocabulary, net.text_dim), 'text2': (0, net.text2_dim)}
  for name, sizes in texts.items():
    check_text(told[name], told[f'{name}_mask'], *sizes, name)


def convolve_in(
  net, z: Video, extra: Float[Array, 'b t h w k'] | None
) -> Float[Array, 'b t h w _']:
  """conv_in(z) + conv_extra(extra): one convolution of both, in two parts.

  The part of the extra channels starts at zero (ours), so that a network
  without them can be continued as one with them.
  """
  x = conv3x3(net.channels, dtype=net.dtype, name='conv_in')(z)
  if extra is None:
    return x
  zeros = nn.initializers.zeros
  convolve = conv3x3(
    net.channels,
    use_bias=False,
    kernel_init=zeros,
    dtype=net.dtype,
    name='conv_extra',
  )
  return x + convolve(extra)


def vectors(
  net,
  logsnr: Float[Array, ' b'] | Float[Array, 'b t'],
  told: dict,
  *,
  frames: int,
  image_frames: int,
) -> Vectors:
  """Conditioning vectors, one for all frames if each argument has one."""
  if logsnr.ndim == 1:
    logsnr = logsnr[:, None]
  conditions = tuple(
    expand_slots(row, frames=frames, image_frames=image_frames, name=name)
    for name, row in _slots(net, logsnr.shape[0], told).items()
  )
  if net.frame_positions:
    # An image is a video of one frame, so its number is 0.
    numbers = jnp.pad(jnp.arange(frames - image_frames), (0, image_frames))
    waves = sinusoidal(numbers.astype(jnp.float32), net.channels)
    row = Dense(net.emb_dim, name='frame')(waves)
    conditions += (jnp.tile(row[None], (logsnr.shape[0], 1, 1)),)
  if net.augmented:
    waves = sinusoidal(1000 * inv_cos(told['augment']), net.channels)
    zeros = nn.initializers.zeros  # ours
    embed = Dense(net.emb_dim, kernel_init=zeros, name='augment')
    conditions += (embed(waves)[:, None],)
  mlp = ConditioningMLP(net.channels, net.emb_dim, net.emb_layers, name='emb')
  return mlp(logsnr.astype(jnp.float32), conditions)


def tokens(net, told: dict, *, batch: int) -> Tokens | None:
  """The tokens of all texts in one row, or None without cross-attention."""
  if not net.cross_attention:
    return None
  rows, masks = [], []
  for n, vocabulary, dim in _texts(net):
    text, mask = told[f'text{n}'], told[f'text{n}_mask']
    if text is None:
      text, mask = null_text(batch, dim)
    embed = TextTokens(net.emb_dim, vocabulary, name=f'tokens{n}')
    row, mask = embed(text, mask)
    rows.append(row)
    masks.append(mask)
  slots = max(row.shape[1] for row in rows)

  def same_slots(array):
    if array.shape[1] == slots:
      return array
    return jnp.broadcast_to(array, (batch, slots, *array.shape[2:]))

  return (
    jnp.concatenate([same_slots(row) for row in rows], axis=2),
    jnp.concatenate([same_slots(mask) for mask in masks], axis=2),
  )


def _texts(net):
  """(ending of the name, vocabulary, channels) of each text there is."""
  texts = (('', net.vocabulary, net.text_dim), ('2', 0, net.text2_dim))
  return [text for text in texts if text[1] or text[2]]


def _slots(net, batch, told):
  """Vectors `[b, s, d]` to add, by name; missing ones are null."""
  rows = {}
  if net.num_classes:
    label = told['label']
    label = jnp.full((batch,), -1) if label is None else label
    label = label[:, None] if label.ndim == 1 else label
    embed = ClassEmbedding(net.num_classes, net.emb_dim, name='label')
    rows['label'] = embed(label)
  for n, vocabulary, dim in _texts(net):
    name = f'text{n}'
    text, mask = told[name], told[f'{name}_mask']
    if text is None:
      text, mask = null_text(batch, dim)
    pool = AttentionPooling(net.emb_dim, vocabulary, name=name)
    rows[name] = pool(text, mask)
  if net.num_strides:
    sizes = (net.num_strides, net.emb_dim)
    embed = ClassEmbedding(*sizes, null=False, name='stride')
    rows['stride'] = embed(told['stride'][:, None])
  return rows
