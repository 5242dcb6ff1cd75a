"""Images packed behind videos: independent of them, and told apart."""

import numpy as np
import pytest

from vdm_jax.data import packed, pipeline, shapes
from vdm_jax.errors import DataError


def source(count=3, length=50):
  videos = shapes.Shapes(frames=4, size=8, length=length)
  images = shapes.Shapes(frames=1, size=8, length=length, seed=1)
  return packed.Packed(videos, images, count)


def test_video_comes_first_and_labels_follow_their_frames():
  clip = source().clip(7, np.random.default_rng(0))
  alone = source().videos.clip(7)
  assert clip['video'].shape == (7, 8, 8, 3)
  np.testing.assert_array_equal(clip['video'][:4], alone['video'])
  assert set(clip['label'][:4]) == {int(alone['label'])}
  images = [source().images.clip(i) for i in range(50)]
  for frame, label in zip(clip['video'][4:], clip['label'][4:], strict=True):
    found = [i for i in images if np.array_equal(i['video'][0], frame)]
    assert found and found[0]['label'] == label


def test_images_are_drawn_anew_for_every_position_and_the_same_again():
  def batch(step):
    return next(
      pipeline.batches(source(), batch_size=4, seed=0, start_step=step)
    )

  first, again, later = batch(0), batch(0), batch(50)
  np.testing.assert_array_equal(first['video'], again['video'])
  assert first['label'].shape == (4, 7)
  assert not np.array_equal(first['video'][:, 4:], later['video'][:, 4:])


def test_signature_tells_the_number_of_images():
  assert source(2).signature() != source(3).signature()


def test_no_images_is_an_error():
  class Empty(shapes.Shapes):
    def __len__(self):
      return 0

  with pytest.raises(DataError, match='no images'):
    packed.Packed(source().videos, Empty(frames=1, size=8), 2)
