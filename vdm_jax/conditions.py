"""What a model is told of a video: its class, its text, its frame stride.

Conditions are a dict of arrays, a column for each slot: the video is the first
slot, the independent images packed behind it are the others.

  label      int32 [b] or [b, s], −1 for the null condition
  text       int32 [b, s, l] of words, or float32 [b, s, l, d] of embeddings
  text_mask  bool [b, s, l], all False for the null condition
  stride     int32 [b], an index into the strides of the data
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

NAMES = ('label', 'text', 'text_mask', 'stride')
TEXT_KINDS = ('none', 'words', 'embeddings')


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What a model was trained with; a checkpoint keeps it.

  Attributes:
    classes: the names of the classes; empty for a model without labels.
    text: one of TEXT_KINDS.
    words: the closed vocabulary of 'words'.
    text_dim: channels of 'embeddings'.
    encoder: the hash of their encoder.
    strides: the frame strides that the model is told apart.
    examples: some captions of the data, for samples without a prompt.
  """

  classes: tuple[str, ...] = ()
  text: str = 'none'
  words: tuple[str, ...] = ()
  text_dim: int = 0
  encoder: str = ''
  strides: tuple[int, ...] = ()
  examples: tuple[str, ...] = ()

  @classmethod
  def from_json(cls, values: Mapping) -> 'Conditions':
    """The inverse of `dataclasses.asdict`, whose tuples JSON makes lists."""
    return cls(
      **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )


def choose(batch: Mapping[str, Array]) -> dict[str, Array]:
  """The conditions among the arrays of a batch."""
  return {k: batch[k] for k in NAMES if k in batch}


def null(conditions: Mapping[str, Array]) -> dict[str, Array]:
  """The same without class and text: c = 0 (Ho22 below eq. 6)."""
  return _where(conditions, label=True, text=True)


def drop(
  conditions: Mapping[str, Array],
  *,
  keys: Key[Array, ' b'],
  label: float,
  text: float,
) -> dict[str, Array]:
  """Leaves class and text out at random, each slot and each by itself.

  What classifier-free guidance needs of training (Ho22 §3.1). A frame stride
  is never left out.

  Args:
    conditions: as above.
    keys: one per example.
    label: the probability that a class is left out.
    text: the probability that a text is left out.
  """

  def coins(stream, rate, array):
    shape = array.shape[1:2]
    drawn = jax.vmap(
      lambda key: jax.random.uniform(jax.random.fold_in(key, stream), shape)
    )(keys)
    return drawn < rate

  return _where(
    conditions,
    label='label' in conditions and coins(0, label, conditions['label']),
    text='text' in conditions and coins(1, text, conditions['text']),
  )


def _where(conditions, *, label, text) -> dict[str, Array]:
  """Null conditions where the masks, `[b]` or `[b, s]`, are True."""
  result = dict(conditions)
  if 'label' in conditions:
    result['label'] = jnp.where(label, -1, conditions['label'])
  if 'text' in conditions:
    gone = jnp.asarray(text)[..., None] if jnp.ndim(text) else text
    result['text_mask'] = conditions['text_mask'] & jnp.logical_not(gone)
  return result
