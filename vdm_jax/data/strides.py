"""Clips at several frame strides, for a model that is told which."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vdm_jax.data.source import Source, Wrapper, all_problems, named
from vdm_jax.errors import ConfigError, DataError


class Strides(Wrapper):
  """Clips whose frame stride is drawn at random; they carry it as `stride`.

  `stride` int32 `[]` counts the strides in the order they are given. Fewer
  videos may be long enough for a large stride: there are as many elements as
  the largest source has, and element i of a smaller one is i mod its length.

  Args:
    sources: one for each stride, of the same videos.

  Raises:
    ConfigError: no strides, or one below 1.
    DataError: a source without clips, or with classes or captions that the
      largest does not have.
  """

  def __init__(self, sources: Mapping[int, Source]):
    if not sources:
      raise ConfigError('no strides (0 are given); give at least one')
    super().__init__(max(sources.values(), key=len))
    self.strides, self.sources = tuple(sources), tuple(sources.values())
    every = _captions(self.source)
    for stride, source in sources.items():
      if stride < 1:
        raise ConfigError(
          f'strides must be at least 1 (got {stride}); raise it'
        )
      if not len(source):
        raise DataError(f'no clips at stride {stride} (0); leave it out')
      if source.classes != self.classes or _captions(source) - every:
        raise DataError(
          f'classes or captions are other ones at stride {stride}; give all '
          'strides the same videos'
        )
    self.problems = all_problems(*self.sources)

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """A clip at one of the strides; see `Source.clip`."""
    stride = int(rng.integers(len(self.sources)))
    source = self.sources[stride]
    return source.clip(index % len(source), rng) | {'stride': np.int32(stride)}

  def name(self, index: int) -> str:
    """What the clip may be called: its stride decides where they differ."""
    names = [named(source, index % len(source)) for source in self.sources]
    return ' or '.join(dict.fromkeys(names))

  def signature(self) -> dict[str, Any]:
    """What tells these clips from others, as JSON; the order counts."""
    signatures = [source.signature() for source in self.sources]
    return {'strides': list(self.strides), 'sources': signatures}


def _captions(source: Source) -> set[str]:
  return set(source.captions()) if hasattr(source, 'captions') else set()
