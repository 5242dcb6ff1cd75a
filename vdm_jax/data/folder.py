"""A folder of videos as a source: any tree of mp4, avi, mkv, webm, mov, gif."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.data import captioned
from vdm_jax.data import frames as frames_lib
from vdm_jax.data import index as index_lib
from vdm_jax.errors import DataError
from vdm_jax.media import listing, reading


class Folder:
  """One element per video; a clip starts anywhere in it at random.

  Attributes:
    problems: (path, reason) of every file that is left out.
    classes: names of the classes, if there are any, sorted.
    files: paths of the elements, relative to the folder.
    captions, words: see `Source`; only with captions.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    frames: int,
    size: int,
    stride: int = 1,
    resize: str = 'crop',
    short: str = 'skip',
    classes: bool = False,
    labels: Mapping[str, str] | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    cache: str | os.PathLike | None = None,
    workers: int | None = None,
    processes: int = 0,
    seconds: float = 0.0,
  ):
    """Lists the folder, and decodes what the cache does not know.

    Args:
      path: the folder; sub-folders are searched, links followed.
      frames: frames of a clip.
      size: height and width of a frame, pixels.
      stride: every stride-th frame of the video is taken.
      resize: 'crop' keeps the aspect and cuts the largest square out of the
        middle, 'squash' keeps the whole.
      short: videos with fewer than (frames - 1) * stride + 1 frames are left
        out ('skip'), run on from their first frame ('loop'), or are an error
        ('error').
      classes: take the sub-folders of `path` as classes, in alphabetical
        order; they are labels also where none of their videos can be used.
      labels: the class of each video by its path below `path`; other videos
        are left out. Not together with `classes`.
      captions: one or more captions of each video by its path, of which a clip
        draws one; other videos are left out. See `captioned.captions_of`.
      cache: where the index is kept; the user's cache folder if None.
      workers: videos indexed at a time; one per core if None.
      processes, seconds: see `index.index`.

    Raises:
      ConfigError: options that cannot work.
      DataError: the folder cannot be listed, or holds nothing of use.
    """
    frames_lib.validate(
      frames=frames, size=size, stride=stride, resize=resize, short=short
    )
    self.path = Path(path).expanduser()
    self.frames, self.size, self.stride = frames, size, stride
    self.resize, self.short = resize, short
    names, barred = _find(self.path)
    self._classes = captioned.Classes(
      self.path, names, folders=classes, labels=labels
    )
    self.classes = self._classes.names
    names, left_out = captioned.choose(names, self._classes, captions)
    known, problems = index_lib.index(
      self.path,
      names,
      cache=Path(cache) if cache else _user_cache(),
      workers=workers or os.cpu_count() or 1,
      processes=processes,
      seconds=seconds,
    )
    self.problems = barred + left_out + problems
    self._index = self._choose_long_enough(known)
    self.problems.sort()
    self.files = sorted(self._index)
    self._check_files()
    if captions is not None:
      self.captions = captioned.Captions(captions, self.files)

  def __len__(self) -> int:
    return len(self.files)

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reads a clip; its `id` is the path. See `Source.clip`.

    Raises:
      DataError: the file cannot be read any more.
    """
    name = self.files[index]
    known = self._index[name]
    numbers = frames_lib.window(
      known.frames, frames=self.frames, stride=self.stride, rng=rng
    )
    video = reading.read(
      self.path / name,
      numbers,
      index=known,
      fit=functools.partial(frames_lib.fit, size=self.size, resize=self.resize),
    )
    clip = {'video': video, 'label': self._classes.label(name), 'id': name}
    if hasattr(self, 'captions'):
      clip['caption'] = self.captions.draw(name, rng)
    return clip

  @property
  def clips(self) -> int:
    """How many different ones there are, of any start in the videos."""
    need = frames_lib.span(self.frames, self.stride)
    known = self._index.values()
    return sum(max(1, entry.frames - need + 1) for entry in known)

  def name(self, index: int) -> str:
    """The `id` of a clip."""
    return self.files[index]

  def signature(self) -> dict[str, Any]:
    """JSON-able identity: the options and a hash of paths and lengths."""
    listing = '\n'.join(map(self._identity, self.files))
    captions = getattr(self, 'captions', None)
    return {
      'source': 'folder',
      'files': hashlib.sha256(listing.encode()).hexdigest(),
      'frames': self.frames,
      'size': self.size,
      'stride': self.stride,
      'resize': self.resize,
      'short': self.short,
      **self._classes.signature(),
      **(captions.signature() if captions else {}),
    }

  def _identity(self, name: str) -> str:
    known = self._index[name]
    ticks = f'\t{",".join(map(str, known.ticks))}' if known.ticks else ''
    return f'{name}\t{known.frames}{ticks}'

  @property
  def words(self) -> tuple[str, ...]:
    """All words of all captions, sorted; only with captions."""
    return self.captions.words

  def _choose_long_enough(self, known) -> dict[str, reading.Index]:
    need = frames_lib.span(self.frames, self.stride)
    short = [
      (name, f'{entry.frames} frames, a clip needs {need}')
      for name, entry in sorted(known.items())
      if entry.frames < need
    ]
    if self.short == 'loop' or not short:
      return known
    if self.short == 'error':
      raise DataError(
        f'videos are too short ({len(short)}: {summary(short)}); remove them '
        "or set short to 'skip' or 'loop'"
      )
    self.problems += short
    left_out = {name for name, _ in short}
    return {n: entry for n, entry in known.items() if n not in left_out}

  def _check_files(self):
    if not self.files:
      raise DataError(
        f'no usable video ({self.path}: {summary(self.problems)}); replace them'
      )
    small = [
      name
      for name, entry in self._index.items()
      if min(entry.height, entry.width) < self.size
    ]
    if small:
      from vdm_jax import runtime  # likewise

      runtime.warn(
        f'{len(small)} videos are smaller than {self.size} pixels and will be '
        f'enlarged, such as {small[0]}'
      )


def _user_cache() -> Path:
  from vdm_jax import runtime  # with JAX, which workers do without

  return runtime.cache_folder()


def _find(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
  """As `listing.find`, but no videos are an error."""
  names, barred = listing.find(root)
  if not names:
    raise DataError(
      f'no videos ({root}); put files with the endings '
      f'{", ".join(reading.SUFFIXES)} there'
    )
  return names, barred


def summary(problems, most: int = 3) -> str:
  """The first few problems in one line."""
  parts = [f'{name}: {reason}' for name, reason in problems[:most]]
  more = len(problems) - most
  return '; '.join(parts) + (f'; and {more} more' if more > 0 else '')
