"""Captions and classes of files, and captions as what a model reads."""

import functools
import hashlib
import json
import os
import posixpath
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.data.source import Source, Wrapper
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.text import captions as captions_lib
from vdm_jax.text import words

_PORTION = 4096  # captions checked at a time


def captions_of(
  path: str | os.PathLike, root: str | os.PathLike
) -> dict[str, list[str]]:
  """The captions of a file or folder, by path of the video below `root`.

  Args:
    path: see `captions.read`; a file must name its videos.
    root: the folder of the videos, to which their names are relative; absolute
      names below it are understood too.

  Raises:
    DataError: the captions cannot be read, or do not say of which video.
  """
  root = os.path.abspath(Path(root).expanduser())
  found: dict[str, list[str]] = {}
  for video, text in captions_lib.read(path):
    if not video:
      raise DataError(
        f'a caption does not say of which video it is ({path}: {text[:60]!r}); '
        'use a .csv or .jsonl file with the columns '
        f'{" and ".join(captions_lib.COLUMNS)}'
      )
    if os.path.isabs(video):
      video = os.path.relpath(video, root)
    name = posixpath.normpath(video.replace(os.sep, '/'))
    if name.split('/')[0] == '..':
      raise DataError(
        f'a caption is of a video outside of the folder ({path}: {video!r}, '
        f'{root}); name videos by their paths below it'
      )
    found.setdefault(name, []).append(text)
  return found


def vocabulary(*sources: Source | None) -> tuple[str, ...]:
  """All words of all captions of the sources that have any, sorted."""
  lists = [getattr(source, 'words', ()) for source in sources]
  return tuple(sorted({word for words in lists for word in words}))


class Classes:
  """Which class each file has: by a list, by its first folder, or none.

  Attributes:
    names: of the classes, sorted; they are labels also where no file of theirs
      can be used.
  """

  def __init__(
    self,
    root: Path,
    files: Sequence[str],
    *,
    folders: bool = False,
    labels: Mapping[str, str] | None = None,
    what: str = 'videos',
  ):
    """Reads off the classes.

    Args:
      root: the folder, for messages.
      files: paths relative to it.
      folders: whether the first sub-folder of a path is its class.
      labels: the class of each path; not together with `folders`.
      what: the files are, in messages.

    Raises:
      ConfigError: both ways at once.
      DataError: no file has a class.
    """
    if folders and labels is not None:
      raise ConfigError(
        'classes come from sub-folders or from a list (both are given); '
        'set classes to False'
      )
    self._of: dict[str, str] | None = None
    self._reason, self._hash = '', None
    if folders:
      self._reason = 'in no class folder'
      self._of = {name: name.split('/')[0] for name in files if '/' in name}
      if not self._of:
        raise DataError(
          f'classes are asked for, but there are no sub-folders with {what} '
          f'({root}); make one per class, or set classes to False'
        )
    if labels is not None:
      self._reason = 'not in the list'
      self._of = {name: labels[name] for name in files if name in labels}
      if not self._of:
        raise DataError(
          f'no {what} of the list are there ({root}, {len(labels)} in the '
          'list); check the paths in the list'
        )
      self._hash = _hash(self._of)
    every = labels if labels is not None else self._of or {}
    self.names = tuple(sorted(set(every.values())))
    self._numbers = {name: i for i, name in enumerate(self.names)}

  def reason_against(self, name: str) -> str | None:
    """Why a file is left out; None if it is not."""
    return self._reason if self._of and name not in self._of else None

  def label(self, name: str) -> np.int32:
    """Of a file; 0 if there are no classes."""
    return np.int32(self._numbers[self._of[name]] if self._of else 0)

  def signature(self) -> dict[str, Any]:
    """What it adds to the identity of a source."""
    added = {'labels': self._hash} if self._hash else {}
    return {'classes': list(self.names)} | added


class Captions:
  """The captions of files; `captions(n)` of the sources that have some.

  Args:
    captions: of each path, one or more.
    files: those of which they are wanted.

  Raises:
    DataError: a path has an empty list of captions.
  """

  def __init__(
    self, captions: Mapping[str, Sequence[str]], files: Sequence[str]
  ):
    self._of = {name: tuple(captions[name]) for name in sorted(files)}
    for name, texts in self._of.items():
      if isinstance(captions[name], str) or not texts:
        raise DataError(
          f'a list of captions is none ({name}: {captions[name]!r}); give one '
          'caption or more'
        )

  def __call__(self, n: int | None = None) -> list[str]:
    """`n` captions, of files far apart; all, each once, if n is None."""
    if n is None:
      return sorted({text for texts in self._of.values() for text in texts})
    first = [texts[0] for texts in self._of.values()]
    step = max(len(first) / max(n, 1), 1.0)
    return [first[int(i * step) % len(first)] for i in range(n)]

  @functools.cached_property
  def words(self) -> tuple[str, ...]:
    """All words of all captions, sorted."""
    return words.words_of(self())

  def draw(self, name: str, rng: np.random.Generator) -> str:
    """One of a file's captions; each is as likely."""
    texts = self._of[name]
    return texts[int(rng.integers(len(texts)))]

  def signature(self) -> dict[str, Any]:
    """What it adds to the identity of a source."""
    return {'captions': _hash(self._of)}


def choose(
  files: Sequence[str],
  classes: Classes,
  captions: Mapping[str, Sequence[str]] | None,
) -> tuple[list[str], list[tuple[str, str]]]:
  """The files that have what is asked for, and (path, reason) of the others.

  Captions of files that are not there are among the others too.

  Args:
    files: all that there are.
    classes: of these.
    captions: of each path, if captions are asked for.
  """
  chosen, left_out = [], []
  for name in files:
    silent = captions is not None and name not in captions
    reason = 'no caption' if silent else classes.reason_against(name)
    if reason:
      left_out.append((name, reason))
    else:
      chosen.append(name)
  absent = set(captions or ()).difference(files)
  reason = 'named by the captions, but not there'
  return chosen, left_out + [(name, reason) for name in sorted(absent)]


def _hash(table: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


class Captioned(Wrapper):
  """Adds to each clip its caption as `text` `[1, l…]` and `text_mask` `[1, l]`.

  Once more around the result, it adds the same caption by a second encoder.

  Args:
    source: one with captions.
    encode: from n captions to an array `[n, l…]` and a mask `[n, l]`:
      `Words.encode` or `EmbeddingCache.lookup`.
    name: of the vocabulary or encoder, a hash say; part of the signature.
    known: all captions that can be encoded, such as the cache itself. Without
      it all captions are encoded once, to see that they can be.
    ending: of the names; '2' adds `text2` and `text2_mask`.

  Raises:
    DataError: the source has no captions, or some are not known.
    ConfigError: `encode` refuses a caption.
  """

  def __init__(
    self,
    source: Source,
    encode: Callable[[list[str]], tuple[np.ndarray, np.ndarray]],
    name: str,
    *,
    known: Container[str] | None = None,
    ending: str = '',
  ):
    super().__init__(source)
    self._encode, self._name, self._ending = encode, name, ending
    if not hasattr(source, 'captions'):
      raise DataError(
        'the data has no captions (none are given with it); name a file of '
        "captions, or set text.kind to 'none'"
      )
    every = source.captions()
    if known is None:
      self._try(every)
      return
    missing = [text for text in every if text not in known]
    if missing:
      raise DataError(
        f'captions have no embedding in config.text.cache{ending} '
        f'({len(missing)} of {len(every)}, the first: {missing[0][:60]!r}); '
        'make them with --mode=embed'
      )

  def _try(self, every):
    for start in range(0, len(every), _PORTION):
      part = every[start : start + _PORTION]
      _, mask = self._encode(part)
      if not mask.any(axis=1).all():
        empty = part[int(mask.any(axis=1).argmin())]
        raise DataError(
          f'a caption has no words ({empty[:60]!r}); write one, or remove it'
        )

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """The clip with its text; see `Source.clip`."""
    clip = self.source.clip(index, rng)
    text, mask = self._encode([clip['caption']])
    name = f'text{self._ending}'
    return clip | {name: text, f'{name}_mask': mask}

  def signature(self) -> dict[str, Any]:
    """What tells these clips from others, as JSON."""
    name = f'text{self._ending}'
    return {name: self._name, 'clips': self.source.signature()}
