"""Videos with independent images behind them, for joint training."""

from typing import Any

import numpy as np

from vdm_jax.data.source import Source, Wrapper, all_problems
from vdm_jax.errors import DataError


class Packed(Wrapper):
  """Clips of `[t + K, h, w, 3]`: a video, then K images from random videos.

  Ho22 §3: joint training on images lowers the variance of the gradient. The
  images are drawn anew each time and have nothing to do with the video; each
  keeps its own conditions. There are s = 1 + K slots of them, the video's
  first: `label` `[s]`, and `text` `[s, l…]` with `text_mask` `[s, l]` where the
  videos or the images have text, and `text2` likewise. A slot has the null
  condition, label −1 or an empty mask, where its source has no classes or text
  and the other has.

  Words, captions, `stride` and `id` are those of the video.

  Args:
    videos: the source of the videos.
    images: a source of videos with one frame; its classes, if it has any, are
      found among those of the videos by their names.
    count: K, how many images follow a video.

  Raises:
    DataError: there is nothing to draw images from, or they have a class that
      the videos do not have.
  """

  def __init__(self, videos: Source, images: Source, count: int):
    super().__init__(videos)
    if not len(images):
      raise DataError('no images to pack behind the videos (0); add some')
    self.images, self.count = images, count
    self.problems = all_problems(videos, images)
    strange = [name for name in images.classes if name not in videos.classes]
    if videos.classes and strange:
      raise DataError(
        f'images are of classes that the videos do not have ({len(strange)}, '
        f'the first: {strange[0]!r}); rename or remove them'
      )
    self._labels = [
      videos.classes.index(name) if videos.classes else 0
      for name in images.classes
    ] or [-1 if videos.classes else 0]

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """The clip `index` and K images; see `Source.clip`."""
    video = self.source.clip(index, rng)
    chosen = rng.integers(len(self.images), size=self.count)
    images = [self.images.clip(int(i), rng) for i in chosen]
    long = [i['id'] for i in images if len(i['video']) != 1]
    if long:
      raise DataError(
        f'an image has more than one frame ({long[0]}); give a source of images'
      )
    labels = [video['label'], *(self._label(i['label']) for i in images)]
    slots = [video, *images]
    packed = {
      'video': np.concatenate([slot['video'] for slot in slots]),
      'label': np.array(labels, np.int32),
    }
    return video | packed | _texts(slots)

  def _label(self, label) -> int:
    """The number among the videos' classes of one of the images'."""
    return self._labels[int(label)] if label >= 0 else -1

  def signature(self) -> dict[str, Any]:
    """What tells these clips from others, as JSON."""
    return {
      'videos': self.source.signature(),
      'images': self.images.signature(),
      'count': self.count,
    }


def _texts(slots) -> dict[str, np.ndarray]:
  """Text and masks of the slots, empty where a slot has none."""
  found = {}
  for name in ('text', 'text_mask', 'text2', 'text2_mask'):
    like = next((slot[name] for slot in slots if name in slot), None)
    if like is not None:
      none = np.zeros_like(like)
      found[name] = np.concatenate([slot.get(name, none) for slot in slots])
  return found
