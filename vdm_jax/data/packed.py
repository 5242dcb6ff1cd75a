"""Videos with independent images behind them, for joint training."""

from typing import Any

import numpy as np

from vdm_jax.data.source import Source
from vdm_jax.errors import DataError


class Packed:
  """Clips of `[t + K, h, w, 3]`: a video, then K images from random videos.

  Ho22 §3: joint training on images lowers the variance of the gradient. The
  images are drawn anew each time and have nothing to do with the video; each
  keeps its own label, so that `label` is `[t + K]`.

  Args:
    videos: the source of the videos.
    images: a source of videos with one frame.
    count: K, how many images follow a video.

  Raises:
    DataError: there is nothing to draw images from.
  """

  def __init__(self, videos: Source, images: Source, count: int):
    if not len(images):
      raise DataError('no images to pack behind the videos (0); add some')
    self.videos, self.images, self.count = videos, images, count
    self.classes = videos.classes
    self.problems = getattr(videos, 'problems', ())

  def __len__(self) -> int:
    return len(self.videos)

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """The clip `index` and K images; see `Source.clip`."""
    clip = self.videos.clip(index, rng)
    chosen = rng.integers(len(self.images), size=self.count)
    images = [self.images.clip(int(i), rng) for i in chosen]
    frames = len(clip['video'])
    labels = [clip['label']] * frames + [i['label'] for i in images]
    return {
      'video': np.concatenate([clip['video'], *(i['video'] for i in images)]),
      'label': np.array(labels, np.int32),
      'id': clip['id'],
    }

  def signature(self) -> dict[str, Any]:
    """What tells these clips from others, as JSON."""
    return {
      'videos': self.videos.signature(),
      'images': self.images.signature(),
      'count': self.count,
    }
