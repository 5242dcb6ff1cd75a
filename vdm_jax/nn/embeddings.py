"""Conditioning vectors: log-SNR, classes, text, and the MLP over their sum.

A condition belongs to a slot: slot 0 is the video, slot k the k-th of the
images packed behind it.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vdm_jax.errors import ConfigError

# Of products that are promised in float32: by default TPUs round what they
# multiply to bfloat16, and GPUs may to TF32.
FLOAT32 = jax.lax.Precision.HIGHEST
Dense = functools.partial(nn.Dense, precision=FLOAT32)
DenseGeneral = functools.partial(nn.DenseGeneral, precision=FLOAT32)
einsum = functools.partial(jnp.einsum, precision=FLOAT32)


def inv_cos(logsnr: Float[Array, '*s']) -> Float[Array, '*s']:
  """u = arctan(exp(-λ/2)) / (π/2): log-SNR as time of the cosine schedule.

  The inverse of the schedule without truncation (Salimans22, the authors'
  public code), with λ clipped to [-20, 20].

  Args:
    logsnr: log-SNR λ, any shape.

  Returns:
    u in [0, 1], 0 where the data are clean.
  """
  return jnp.arctan(jnp.exp(-jnp.clip(logsnr, -20, 20) / 2)) * (2 / math.pi)


def sinusoidal(positions: Float[Array, '*s'], dim: int) -> Float[Array, '*s d']:
  """[sin(p ω_k), cos(p ω_k)], ω_k = 10000^(-k / (dim/2 - 1)).

  Args:
    positions: any shape, any range.
    dim: length of the vectors, even and at least 4.

  Raises:
    ValueError: if dim is odd or below 4.
  """
  if dim < 4 or dim % 2:
    raise ValueError(f'dim must be even and at least 4, got {dim}')
  half = dim // 2
  rates = jnp.exp(jnp.arange(half) * (-math.log(10000.0) / (half - 1)))
  angles = positions[..., None] * rates.reshape((1,) * positions.ndim + (half,))
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ClassEmbedding(nn.Module):
  """One learned vector a class; label -1, the null condition, gives c = 0.

  A label outside [-1, num_classes) gives NaN: traced code cannot raise, and a
  loss that is not finite stops the run.
  """

  num_classes: int  # labels are 0 … num_classes - 1
  dim: int  # length of the vectors
  null: bool = True  # False: -1 is out of range like any other

  @nn.compact
  def __call__(self, label: Int[Array, 'b s']) -> Float[Array, 'b s d']:
    """Looks the labels up, in float32."""
    init = nn.initializers.normal(1.0)  # ours
    table = self.param('embedding', init, (self.num_classes, self.dim))
    rows = _take(table, label)
    if not self.null:
      return rows
    return jnp.where(label[..., None] == -1, 0.0, rows)


class AttentionPooling(nn.Module):
  """c = W_o Σ_i p_i W_v y_i, p = softmax_i(q·W_k y_i / √d), y = LayerNorm(x).

  Text as one vector: Ho22 §4.3 processes the token embeddings of BERT-large
  by attention pooling; the form of it is ours. q is learned, with heads of 64
  channels. Tokens are a set: nothing tells their order but the encoder that
  made them. A slot without tokens is the null condition, c = 0 exactly. It
  all runs in float32.
  """

  dim: int  # length of the vectors
  vocabulary: int = 0  # word ids 1 … vocabulary; 0 = tokens are embeddings

  @nn.compact
  def __call__(
    self,
    text: Int[Array, 'b s l'] | Float[Array, 'b s l d'],
    mask: Bool[Array, 'b s l'] | None = None,
  ) -> Float[Array, 'b s e']:
    """Pools the tokens of every slot.

    Args:
      text: word ids, 0 is padding, or embeddings of tokens. An id above the
        vocabulary or below 0 gives NaN.
      mask: True for a token; what stands where it is False never matters.
        None for word ids where all but padding count.

    Returns:
      `[b, s, dim]` float32.
    """
    init = nn.initializers.normal(1.0)  # ours
    tokens, mask = _tokens(self, text, mask)
    width = min(64, self.dim)
    heads = (max(1, self.dim // 64), width)
    tokens = nn.LayerNorm(name='norm')(tokens)
    # The softmax ignores a bias of the keys; `out` has that of the values.
    k = DenseGeneral(heads, use_bias=False, name='key')(tokens)
    v = DenseGeneral(heads, use_bias=False, name='value')(tokens)
    q = self.param('query', init, heads)
    logits = einsum('bslnd,nd->bsln', k, q) * width**-0.5
    # Finite even where all is masked, so that gradients are.
    lowest = jnp.finfo(logits.dtype).min
    p = jax.nn.softmax(jnp.where(mask[..., None], logits, lowest), axis=2)
    pooled = einsum('bsln,bslnd->bsnd', p, v)
    c = DenseGeneral(self.dim, axis=(-2, -1), name='out')(pooled)
    return jnp.where(mask.any(-1)[..., None], c, 0.0)


class TextTokens(nn.Module):
  """W LayerNorm(x): the tokens of one encoder, for cross-attention.

  Tokens of any encoder, or word ids by a table, come out with the same number
  of channels, so that those of several can stand in one row. It all runs in
  float32.
  """

  dim: int  # channels of the result
  vocabulary: int = 0  # word ids 1 … vocabulary; 0 = tokens are embeddings

  @nn.compact
  def __call__(
    self,
    text: Int[Array, 'b s l'] | Float[Array, 'b s l d'],
    mask: Bool[Array, 'b s l'] | None = None,
  ) -> tuple[Float[Array, 'b s l e'], Bool[Array, 'b s l']]:
    """The tokens, and which of them count; text and mask as for pooling."""
    tokens, mask = _tokens(self, text, mask)
    tokens = nn.LayerNorm(name='norm')(tokens)
    return Dense(self.dim, name='out')(tokens), mask


def _tokens(module, text, mask):
  """Vectors of the tokens, and their mask: from a table, or as they are.

  Called within the module, whose parameter `embedding` the table is.
  """
  if not module.vocabulary:
    return jnp.where(mask[..., None], text.astype(jnp.float32), 0.0), mask
  mask = text != 0 if mask is None else mask & (text != 0)
  init = nn.initializers.normal(1.0)  # ours
  shape = (module.vocabulary + 1, module.dim)
  table = module.param('embedding', init, shape)
  return _take(table, jnp.where(mask, text, 0)), mask


def null_text(batch: int, text_dim: int) -> tuple[Array, Bool[Array, 'b s l']]:
  """Text and mask of one slot without tokens: word ids, or embeddings."""
  shape = (batch, 1, 1)
  text = jnp.zeros((*shape, text_dim)) if text_dim else jnp.zeros(shape, int)
  return text, jnp.zeros(shape, bool)


def check_text(
  text: Array | None,
  mask: Array | None,
  vocabulary: int,
  text_dim: int,
  name: str = 'text',
) -> None:
  """Raises ConfigError for text that is not of the form of the network's.

  Args:
    text: as the network got it, or None.
    mask: its mask, or None.
    vocabulary: number of words; 0 for a network of embeddings.
    text_dim: channels of embeddings; 0 for a network of words.
    name: what the text is called.
  """
  if text is None:
    if mask is not None:
      raise ConfigError(
        f'{name}_mask without {name}; give both, or leave out both'
      )
    return
  kind, form, dims = jnp.floating, f'embeddings [b, s, l, {text_dim}]', 4
  if vocabulary:
    kind, form, dims = jnp.integer, 'word ids [b, s, l]', 3
  fits = text.ndim == dims and jnp.issubdtype(text.dtype, kind)
  if not fits or (text_dim and text.shape[3] != text_dim):
    raise ConfigError(
      f'{name} of another form than the network was made for'
      f' ({text.dtype} {text.shape}); give {form}'
    )
  if mask is None and text_dim:
    raise ConfigError(
      f'{name}_mask is missing (None); give it, embeddings do not show padding'
    )
  if mask is not None and mask.shape != text.shape[:3]:
    raise ConfigError(
      f'{name}_mask does not fit {name} {text.shape} (got {mask.shape}); give'
      f' {text.shape[:3]}'
    )


def _take(table, index):
  """Rows of a table `[n, d]`; NaN for an index outside [0, n)."""
  # A negative index would wrap around: send it out of range instead.
  index = jnp.where(index < 0, table.shape[0], index)
  return jnp.take(table, index, axis=0, mode='fill')


def expand_slots(
  rows: Shaped[Array, 'b s *d'], *, frames: int, image_frames: int, name: str
) -> Shaped[Array, 'b _ *d']:
  """A row for each frame from a row for each slot.

  Args:
    rows: s = 1, one slot for all frames, or s = 1 + image_frames.
    frames: of the video and the images together.
    image_frames: how many of the last frames are images of their own.
    name: what the rows are, for the message.

  Returns:
    `[b, 1, …]` for one slot, otherwise `[b, frames, …]`: slot 0 for each frame
    of the video, slot k for image k.

  Raises:
    ConfigError: for any other number of slots.
  """
  b, s, *rest = rows.shape
  if s == 1:
    return rows
  if s != 1 + image_frames:
    legal = ' or '.join(str(n) for n in sorted({1, 1 + image_frames}))
    raise ConfigError(
      f'{name} must have a slot for the video and for each of {image_frames}'
      f' images (got {s}); use {legal}'
    )
  video = jnp.broadcast_to(rows[:, :1], (b, frames - image_frames, *rest))
  return jnp.concatenate([video, rows[:, 1:]], axis=1)


class ConditioningMLP(nn.Module):
  """Dense(sinusoidal(1000 u)) + c, then (swish, Dense) `layers - 1` times.

  Ho22 §3: several MLP layers process the embedding before the blocks use it.
  The condition c joins after the first Dense layer, so that all conditions
  share the others, and c = 0 is no condition. It all runs in float32: a few
  vectors an example, and 1000 u has no room in bfloat16.
  """

  features: int  # of the sinusoidal embedding of the log-SNR
  dim: int  # of the result
  layers: int  # Dense layers, at least 1

  @nn.compact
  def __call__(
    self,
    logsnr: Float[Array, ' b #t'],
    conditions: tuple[Float[Array, ' b #t d'], ...] = (),
  ) -> Float[Array, ' b #t d']:
    """Embeds the log-SNR and adds the conditions.

    Args:
      logsnr: a row an example, a column a frame; one column serves all frames.
      conditions: vectors to add, `[b, 1 or t, dim]`.

    Returns:
      `[b, 1 or t, dim]` float32, one row if every argument had one.
    """
    vector = sinusoidal(1000 * inv_cos(logsnr), self.features)
    vector = Dense(self.dim, name='dense_0')(vector)
    for condition in conditions:
      vector = vector + condition
    for layer in range(1, self.layers):
      vector = Dense(self.dim, name=f'dense_{layer}')(jax.nn.swish(vector))
    return vector
