"""What a source of clips is, and the error of a clip that cannot be read."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from vdm_jax.errors import DataError


@runtime_checkable
class Source(Protocol):
  """Clips with random access; safe to call from many threads at once.

  Attributes:
    classes: the names of the classes, in the order of their labels; `()`
      where the source has none (every label is then 0).

  Sources of files also have `problems`, (path, reason) of what is left out,
  and most sources `name(index)`, the `id` of a clip without reading it.
  Sources with captions, and no others, also have
    words: all words of all captions, sorted; see `words.words_of`.
    captions(n): n captions as examples, always the same; without n all that
      there are, each once, sorted.
  """

  classes: tuple[str, ...]

  def __len__(self) -> int: ...

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reads one clip.

    Args:
      index: which element, `0 <= index < len(self)`.
      rng: all that is random in the clip (its first frame, …) comes from here.

    Returns:
      `video` uint8 `[t, h, w, 3]`;
      `label` int32 `[]`, or `[s]` where images are packed behind the video:
      s = 1 + K slots of one condition each; −1 is the null condition;
      `id` str: a name that lets a person find the element (a path, say);
      and where the source has them
      `caption` str;
      `text` int32 `[s, l]` (numbers of words) or float32 `[s, l, d]`
      (embeddings) and `text_mask` bool `[s, l]`, all False for the null
      condition;
      `text2`, `text2_mask`: the same by a second encoder;
      `stride` int32 `[]`, which of the model's strides it has.

    Raises:
      DataError: the element cannot be read; the message names it.
    """
    ...

  def signature(self) -> dict[str, Any]:
    """JSON-able identity of the data: equal if and only if the clips are."""
    ...


def checked(source: Source, index: int, rng: np.random.Generator):
  """`source.clip(index, rng)` with every failure turned into a DataError."""
  try:
    clip = source.clip(index, rng)
  except DataError:
    raise
  except Exception as error:
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
    raise DataError(
      f'{named(source, index)} cannot be read ({reason}); remove or replace it'
    ) from error
  wrong = _what_is_wrong(clip)
  if wrong:
    raise DataError(f'{wrong} for {clip["id"]}); mend the source')
  return clip


def named(source: Source, index: int) -> str:
  """How a message calls an element: by its name, if the source has names."""
  name = getattr(source, 'name', None)
  return name(index) if name else f'element {index} of the data'


def _what_is_wrong(clip) -> str:
  """What is not as `Source.clip` says; the empty text if all is."""
  video, label = clip['video'], np.asarray(clip['label'])
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
    return f'a clip must be uint8 [t, h, w, 3] (got {_kind(video)}'
  if label.dtype.kind != 'i' or label.ndim > 1:
    return f'a label must be int32 [] or [s] (got {_kind(label)}'
  stride = np.asarray(clip.get('stride', np.int32(0)))
  if stride.dtype.kind != 'i' or stride.ndim:
    return f'a stride must be int32 [] (got {_kind(stride)}'
  return _what_is_wrong_of(clip, 'text') or _what_is_wrong_of(clip, 'text2')


def _what_is_wrong_of(clip, name: str) -> str:
  """The same of a text."""
  label = np.asarray(clip['label'])
  if (name in clip) != (f'{name}_mask' in clip):
    return 'text and its mask go together (got one of them'
  if name not in clip:
    return ''
  text, mask = clip[name], clip[f'{name}_mask']
  if (text.ndim, text.dtype) not in ((2, np.int32), (3, np.float32)):
    return f'text must be int32 [s, l] or float32 [s, l, d] (got {_kind(text)}'
  slots = (label.size, *text.shape[1:2])
  if mask.dtype != bool or mask.shape != slots or len(text) != label.size:
    return (
      f'labels {list(label.shape)}, text {list(text.shape)} and its mask '
      f'must be of the same slots (got {_kind(mask)}'
    )
  if text.dtype == np.float32 and not np.isfinite(text).all():
    return f'text must be finite (got {_kind(text)} with NaN or infinity'
  return ''


def _kind(array) -> str:
  return f'{array.dtype} {list(array.shape)}'


class Wrapper:
  """A source made of another; what it does not define is the other's.

  Attributes:
    source: the other.
  """

  def __init__(self, source: Source):
    self.source = source
    # Not left to __getattr__, which `isinstance(…, Source)` does not ask.
    self.classes = source.classes

  def __len__(self) -> int:
    return len(self.source)

  def __getattr__(self, name: str) -> Any:
    # While it is being unpickled there is no `source` yet.
    if name == 'source' or name.startswith('__'):
      raise AttributeError(name)
    return getattr(self.source, name)


def all_problems(*sources: Source) -> list[tuple[str, str]]:
  """(path, reason) of everything that is left out, each once, sorted."""
  lists = [getattr(source, 'problems', ()) for source in sources]
  return sorted({tuple(problem) for problems in lists for problem in problems})
