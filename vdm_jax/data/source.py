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
  """

  classes: tuple[str, ...]

  def __len__(self) -> int: ...

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reads one clip.

    Args:
      index: which element, `0 <= index < len(self)`.
      rng: all that is random in the clip (its first frame, …) comes from here.

    Returns:
      `video` uint8 `[t, h, w, 3]`, `label` np.int32, `id` str: a name that
      lets a person find the element (a path, say).

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
    raise DataError(
      f'element {index} of the data cannot be read '
      f'({type(error).__name__}: {error}); remove or replace it'
    ) from error
  video = clip['video']
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
    raise DataError(
      f'a clip must be uint8 [t, h, w, 3] (got {video.dtype} '
      f'{list(video.shape)} for {clip["id"]}); mend the source'
    )
  return clip
