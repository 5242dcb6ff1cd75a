"""Captions as numbers of words, for small closed vocabularies.

A table of learned vectors then takes the place of a text encoder: enough where
captions are few words again and again, and nothing to download.
"""

import dataclasses
import difflib
import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int32

from vdm_jax.errors import ConfigError

_INSIDE = "'-"  # part of a word, but not at its ends


def split(text: str) -> list[str]:
  """The words of a text, in lower case.

  Words are what letters, digits, apostrophes and hyphens make up, in any
  script; apostrophes and hyphens at the ends of a word do not belong to it.
  """
  text = unicodedata.normalize('NFC', text.lower().replace('’', "'"))
  parts = ''.join(c if _belongs(c) else ' ' for c in text).split()
  return [word for part in parts if (word := part.strip(_INSIDE))]


@functools.lru_cache(maxsize=4096)
def _belongs(character: str) -> bool:
  # Marks (M) are vowels and accents that have a code of their own.
  return character in _INSIDE or unicodedata.category(character)[0] in 'LNM'


def words_of(texts: Iterable[str]) -> tuple[str, ...]:
  """All words of the texts, each once, sorted."""
  return tuple(sorted({word for text in texts for word in split(text)}))


@dataclasses.dataclass(frozen=True)
class Words:
  """A vocabulary, and texts as numbers in it.

  Attributes:
    vocabulary: the known words; word i has the id i + 1.
    max_length: l, the most words of a text.

  Raises:
    ConfigError: no words, one of them twice or not as `split` gives it, or a
      length below 1.
  """

  vocabulary: tuple[str, ...]
  max_length: int

  def __post_init__(self):
    if self.max_length < 1:
      raise ConfigError(
        f'max_length must be at least 1 (got {self.max_length}); raise it'
      )
    if not self.vocabulary:
      raise ConfigError('the vocabulary has no words (0); give captions')
    if len(self._ids) < len(self.vocabulary):
      twice = next(w for w in self._ids if self.vocabulary.count(w) > 1)
      raise ConfigError(f'a word is there twice ({twice!r}); remove one')
    odd = [word for word in self.vocabulary if split(word) != [word]]
    if odd:
      raise ConfigError(
        f'the vocabulary holds what is not a word ({odd[0]!r}); make it with '
        'words_of'
      )

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {word: i for i, word in enumerate(self.vocabulary, start=1)}

  @property
  def hash(self) -> str:
    """Identity of the vocabulary and the length, as an encoder has one."""
    text = '\n'.join((str(self.max_length), *self.vocabulary))
    return hashlib.sha256(text.encode()).hexdigest()

  def encode(
    self, texts: Sequence[str], *, cut: bool = False
  ) -> tuple[Int32[np.ndarray, 'n l'], Bool[np.ndarray, 'n l']]:
    """Ids, 0 at padding, and True where there is a word.

    A text without words has no True: it is the null condition.

    Args:
      texts: any number.
      cut: leave out the words beyond `max_length`.

    Raises:
      ConfigError: a word is not in the vocabulary, or a text is too long.
    """
    ids = np.zeros((len(texts), self.max_length), np.int32)
    for row, text in zip(ids, texts, strict=True):
      words = split(text)[: self.max_length if cut else None]
      if len(words) > self.max_length:
        raise ConfigError(
          f'a text has too many words ({_short(text)}: {len(words)}, at most '
          f'{self.max_length}); shorten it, or train with a higher max_length'
        )
      for place, word in enumerate(words):
        row[place] = self._ids.get(word) or self._refuse(word, text)
    return ids, ids > 0

  def _refuse(self, word: str, text: str):
    near = difflib.get_close_matches(word, self.vocabulary, n=3)
    hint = f'did you mean {" or ".join(near)}?' if near else self._some()
    raise ConfigError(
      f'a text has a word that the model does not know ({word!r} in '
      f'{_short(text)}); {hint}'
    )

  def _some(self, most: int = 20) -> str:
    more = len(self.vocabulary) - most
    end = f' and {more} more' if more > 0 else ''
    return f'it knows {", ".join(self.vocabulary[:most])}{end}'


def _short(text: str) -> str:
  return repr(text if len(text) <= 60 else text[:59] + '…')
