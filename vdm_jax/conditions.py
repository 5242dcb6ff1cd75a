"""What a model is told of a video: its class, its text, its frame stride.

Conditions are a dict of arrays, a column for each slot: the video is the first
slot, the independent images packed behind it are the others.

  label      int32 [b] or [b, s], −1 for the null condition
  text       int32 [b, s, l] of words, or float32 [b, s, l, d] of embeddings
  text_mask  bool [b, s, l], all False for the null condition
  stride     int32 [b], an index into the strides of the data

A model may be told embeddings of one text by two encoders (Ge23 Fig. 3: T5 and
CLIP). Those of the second are `text2` and `text2_mask`.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from vdm_jax.errors import CheckpointError

# What the names of a first text and of a second one end in, wherever there are
# two: `text` and `text2`, `text_mask` and `text2_mask`, `config.text.cache`
# and `cache2`, ….
TEXTS = ('', '2')
NAMES = ('label', 'text', 'text_mask', 'text2', 'text2_mask', 'stride')
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
    text2_dim: channels of the second encoder's; 0 for a model of one.
    encoder2: the hash of the second encoder.
    strides: the frame strides that the model is told apart.
    examples: some captions of the data, for samples without a prompt.
  """

  classes: tuple[str, ...] = ()
  text: str = 'none'
  words: tuple[str, ...] = ()
  text_dim: int = 0
  encoder: str = ''
  text2_dim: int = 0
  encoder2: str = ''
  strides: tuple[int, ...] = ()
  examples: tuple[str, ...] = ()

  @property
  def texts(self) -> tuple[str, ...]:
    """Those of TEXTS that there are."""
    there = {'': self.text != 'none', '2': self.text2_dim > 0}
    return tuple(n for n in TEXTS if there[n])

  @property
  def droppable(self) -> tuple[str, ...]:
    """What there is of the names in `config.train.drop`."""
    texts = tuple(f'text{n}' for n in self.texts)
    return ('label', *texts) if self.classes else texts

  def refuse_other_encoders(self, other: 'Conditions'):
    """Raises CheckpointError unless the encoders are the same."""
    for n in TEXTS:
      was, now = (getattr(told, f'encoder{n}') for told in (self, other))
      if was != now:
        raise CheckpointError(
          f'the model was trained with {_encoder(was)}, but '
          f'config.text.cache{n} is of {_encoder(now)}; name the old '
          'embeddings there, or choose another --workdir'
        )

  @classmethod
  def from_json(cls, values: Mapping) -> 'Conditions':
    """The inverse of `dataclasses.asdict`, whose tuples JSON makes lists."""
    return cls(
      **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )


def _encoder(digest: str) -> str:
  return f'the text encoder {digest[:12]}…' if digest else 'no text encoder'


def choose(batch: Mapping[str, Array]) -> dict[str, Array]:
  """The conditions among the arrays of a batch."""
  return {k: batch[k] for k in NAMES if k in batch}


def null(conditions: Mapping[str, Array]) -> dict[str, Array]:
  """The same without class and text: c = 0 (Ho22 below eq. 6)."""
  return _where(conditions, label=True, text=True, text2=True)


def drop(
  conditions: Mapping[str, Array],
  *,
  keys: Key[Array, ' b'],
  label: float,
  text: float,
  text2: float = 0.0,
) -> dict[str, Array]:
  """Leaves class and texts out at random, each slot and each by itself.

  What classifier-free guidance needs of training (Ho22 §3.1); of two texts it
  may be either one, both or none (Ge23 §4, after eDiff-I). A frame stride is
  never left out.

  Args:
    conditions: as above.
    keys: one per example.
    label: the probability that a class is left out.
    text: the probability that a text is left out.
    text2: likewise, of the second text.
  """

  def coins(stream, name, rate):
    if name not in conditions:
      return False
    shape = conditions[name].shape[1:2]
    drawn = jax.vmap(
      lambda key: jax.random.uniform(jax.random.fold_in(key, stream), shape)
    )(keys)
    return drawn < rate

  return _where(
    conditions,
    label=coins(0, 'label', label),
    text=coins(1, 'text', text),
    text2=coins(2, 'text2', text2),
  )


def _where(conditions, *, label, **texts) -> dict[str, Array]:
  """Null conditions where the masks, `[b]` or `[b, s]`, are True."""
  result = dict(conditions)
  if 'label' in conditions:
    result['label'] = jnp.where(label, -1, conditions['label'])
  for name, gone in texts.items():
    if name in conditions:
      gone = jnp.asarray(gone)[..., None] if jnp.ndim(gone) else gone
      there = conditions[f'{name}_mask'] & jnp.logical_not(gone)
      result[f'{name}_mask'] = there
  return result
