"""What the videos to sample are told: a choice per video, each text kept once.

Conditions are those of `conditions.py`, of one slot. Ten thousand videos may
share a hundred prompts, and the embeddings of one take a megabyte: a batch gets
its rows when it is made.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int

from vdm_jax import errors
from vdm_jax.conditions import Conditions
from vdm_jax.text import prompts


@dataclasses.dataclass(frozen=True)
class Told:
  """What the model is told of each of n videos.

  Attributes:
    own: arrays of a row per video, by the names of `conditions.NAMES`.
    texts: the different texts, under the name of their arrays: 'text', 'text2'.
    chosen: which of the texts each video has; None without any.
  """

  own: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  texts: Mapping[str, prompts.Table] = dataclasses.field(default_factory=dict)
  chosen: Int[np.ndarray, ' n'] | None = None

  def of(self, rows: Int[np.ndarray, ' b']) -> dict[str, np.ndarray]:
    """The conditions of a batch of these videos, a row for each."""
    found = {name: array[rows] for name, array in self.own.items()}
    for name, table in self.texts.items():
      array, mask = table.read(self.chosen[rows])
      found |= {name: array[:, None], f'{name}_mask': mask[:, None]}
    return found

  def identity(self) -> bytes:
    """What tells these conditions of these videos from others."""
    parts = [array.tobytes() for array in self.own.values()]
    if self.texts:
      parts += [self.chosen.tobytes()]
      parts += [table.digest.encode() for table in self.texts.values()]
    return b''.join(parts)


def of_config(
  config,
  trained: Conditions,
  *,
  mesh=None,
  labels: tuple[int, ...] = (),
  captions: tuple[str, ...] = (),
  encode: Callable[..., prompts.Table] = prompts.encode,
) -> tuple[Told, list[str], np.ndarray | None]:
  """What `config.sample.count` videos are told: (it, captions, labels).

  Args:
    config: the whole config.
    trained: what the model was trained with.
    mesh: the devices that encode prompts.
    labels: classes, in turn, in place of `config.sample.label`.
    captions: prompts, in turn, in place of `config.sample.prompt`.
    encode: makes the tables; `prompts.shared()` for several models.

  Raises:
    UserError: for a condition that the model was not trained with.
  """
  classes = _labels(config, trained, labels)
  own = {} if classes is None else {'label': classes}
  texts, cut = _prompts(config, trained, captions)
  if trained.text == 'none':
    return Told(own), [], classes
  count = config.sample.count
  texts = [texts[i % len(texts)] for i in range(count)]
  places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
  tables = {
    f'text{n}': encode(
      tuple(places),
      kind=trained.text,
      max_length=config.text.max_length,
      vocabulary=trained.words,
      encoder_hash=getattr(trained, f'encoder{n}'),
      cache=config.text[f'cache{n}'],
      encoder=config.text[f'encoder{n}'],
      ending=n,
      mesh=mesh,
      cut=cut,
    )
    for n in trained.texts
  }
  chosen = np.array([places[text] for text in texts])
  return Told(own, tables, chosen), texts, classes


def _labels(config, trained: Conditions, labels: tuple[int, ...]):
  """A class per video; None of a model without classes."""
  c, classes = config.sample, len(trained.classes)
  asked = labels or (() if c.label < 0 else (c.label,))
  for label in asked:
    if not 0 <= label < classes:
      raise errors.ConfigError(
        f'config.sample.label is {label}, but the model knows {classes} '
        'classes; use a number below that, or −1 for all of them in turn'
      )
  if not classes:
    return None
  return np.resize(asked or range(classes), c.count).astype(np.int32)


def _prompts(
  config, trained: Conditions, captions: tuple[str, ...]
) -> tuple[list[str], bool]:
  """The prompts in turn, none of a model without text; whether to cut them."""
  c = config.sample
  texts = [text for p in captions for text in prompts.read(p or ' ', '')]
  texts = texts or prompts.read(c.prompt, c.prompts)
  if texts and trained.text == 'none':
    raise errors.ConfigError(
      'a prompt is given, but the model was trained without text; leave out '
      'config.sample.prompt and prompts'
    )
  if texts or trained.text == 'none':
    return texts, False
  return list(trained.examples), True
