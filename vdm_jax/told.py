"""What the videos to sample are told: a choice per video, each text kept once.

Conditions are those of `conditions.py`, of one slot. Ten thousand videos may
share a hundred prompts, and the embeddings of one take a megabyte: a batch gets
its rows when it is made.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int

from vdm_jax import errors, runtime
from vdm_jax.conditions import Conditions
from vdm_jax.text import prompts

# How messages call a condition, and the setting that asks for it.
_WORDS = {'label': ('a class', 'label'), 'text': ('a prompt', 'prompt')}


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
  known: bool = False,
  encode: Callable[..., prompts.Table] = prompts.encode,
) -> tuple[Told, list[str], np.ndarray | None]:
  """What `config.sample.count` videos are told: (it, captions, labels).

  If no class is asked for, all classes in turn; if no prompt is, captions of
  the training data. Videos that are known in part may show anything else: of
  these the model is told nothing that is not asked for.

  Args:
    config: the whole config.
    trained: what the model was trained with.
    mesh: the devices that encode prompts.
    labels: classes, in turn, in place of `config.sample.label`.
    captions: prompts, in turn, in place of `config.sample.prompt`.
    known: whether parts of the videos are known that were not made of the same
      conditions.
    encode: makes the tables; `prompts.shared()` for several models.

  Raises:
    UserError: for a condition that the model was not trained with, which may
      be the null condition.
  """
  count = config.sample.count
  asked = _labels(config, trained, labels)
  texts = _prompts(config, trained, captions)
  if known:
    _tell_nothing(config, trained, asked, texts)
  own, classes = {}, None
  if trained.classes and known and not asked:
    own['label'] = np.full(count, -1, np.int32)
  elif trained.classes:
    classes = np.resize(asked or range(len(trained.classes)), count)
    own['label'] = classes = classes.astype(np.int32)
  if trained.text == 'none':
    return Told(own), [], classes
  if known and not texts:
    length = config.text.max_length
    tables = {
      f'text{n}': prompts.nothing(
        max_length=length, dim=getattr(trained, f'text{n}_dim')
      )
      for n in trained.texts
    }
    return Told(own, tables, np.zeros(count, int)), [], classes
  cut, texts = not texts, texts or trained.examples
  texts = [texts[i % len(texts)] for i in range(count)]
  places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
  chosen = np.array([places[text] for text in texts])
  encode = functools.partial(encode, mesh=mesh, cut=cut)
  tables = _tables(config, trained, tuple(places), encode)
  return Told(own, tables, chosen), texts, classes


def _tables(
  config, trained: Conditions, texts: tuple[str, ...], encode
) -> dict[str, prompts.Table]:
  """The texts by each of the model's encoders, under the names of arrays."""
  return {
    f'text{n}': encode(
      texts,
      kind=trained.text,
      max_length=config.text.max_length,
      vocabulary=trained.words,
      encoder_hash=getattr(trained, f'encoder{n}'),
      cache=config.text[f'cache{n}'],
      encoder=config.text[f'encoder{n}'],
      ending=n,
    )
    for n in trained.texts
  }


def _tell_nothing(config, trained: Conditions, labels, texts):
  """Says what the model is not told; ConfigError if it cannot do without."""
  asked = {'label'} if labels else set()
  asked |= {f'text{n}' for n in trained.texts if texts}
  missing = [name for name in trained.droppable if name not in asked]
  if not missing:
    return
  kept = [name for name in missing if not config.train.drop[name]]
  if kept:
    what, key = _WORDS['label' if kept[0] == 'label' else 'text']
    raise errors.ConfigError(
      f'the known video is given without {what}, and the model was trained '
      f'with config.train.drop.{kept[0]} = 0 and does not know videos without '
      f'one; set config.sample.{key}, or give {key}s from Python'
    )
  names = [_WORDS[k] for k in ('label', 'text') if k in missing]
  guided = config.sample.guidance_scale != 1 and not asked
  runtime.say(
    f'the known video is given without {" and ".join(w for w, _ in names)}: '
    'the model is told the null condition'
    + (', and guidance does nothing' if guided else '')
    + f'; set {" or ".join(f"config.sample.{key}" for _, key in names)}'
    ' to tell it more'
  )


def _labels(
  config, trained: Conditions, labels: tuple[int, ...]
) -> tuple[int, ...]:
  """The classes that are asked for, in turn."""
  c, classes = config.sample, len(trained.classes)
  asked = labels or (() if c.label < 0 else (c.label,))
  for label in asked:
    if not 0 <= label < classes:
      raise errors.ConfigError(
        f'config.sample.label is {label}, but the model knows {classes} '
        'classes; use a number below that, or −1 for all of them in turn'
      )
  return asked


def _prompts(
  config, trained: Conditions, captions: tuple[str, ...]
) -> list[str]:
  """The prompts that are asked for, in turn."""
  c = config.sample
  texts = [text for p in captions for text in prompts.read(p or ' ', '')]
  texts = texts or prompts.read(c.prompt, c.prompts)
  if texts and trained.text == 'none':
    raise errors.ConfigError(
      'a prompt is given, but the model was trained without text; leave out '
      'config.sample.prompt and prompts'
    )
  return texts
