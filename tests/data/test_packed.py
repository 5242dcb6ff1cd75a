"""Images packed behind videos: independent of them, and told apart."""

import numpy as np
import pytest

from vdm_jax.data import captioned, packed, pipeline, shapes, strides
from vdm_jax.data.source import checked
from vdm_jax.errors import DataError
from vdm_jax.text.words import Words


def source(count=3, length=50):
  videos = shapes.Shapes(frames=4, size=8, length=length)
  images = shapes.Shapes(frames=1, size=8, length=length, seed=1)
  return packed.Packed(videos, images, count)


def test_video_comes_first_and_every_slot_has_its_label():
  clip = source().clip(7, np.random.default_rng(0))
  alone = source().source.clip(7)
  assert clip['video'].shape == (7, 8, 8, 3)
  np.testing.assert_array_equal(clip['video'][:4], alone['video'])
  assert clip['label'][0] == alone['label']
  images = [source().images.clip(i) for i in range(50)]
  for frame, label in zip(clip['video'][4:], clip['label'][1:], strict=True):
    found = [i for i in images if np.array_equal(i['video'][0], frame)]
    assert found and found[0]['label'] == label


def test_images_are_drawn_anew_for_every_position_and_the_same_again():
  def batch(step):
    return next(
      pipeline.batches(source(), batch_size=4, seed=0, start_step=step)
    )

  first, again, later = batch(0), batch(0), batch(50)
  np.testing.assert_array_equal(first['video'], again['video'])
  assert first['label'].shape == (4, 4)
  assert not np.array_equal(first['video'][:, 4:], later['video'][:, 4:])


def test_signature_tells_the_number_of_images():
  assert source(2).signature() != source(3).signature()


def test_no_images_is_an_error():
  class Empty(shapes.Shapes):
    def __len__(self):
      return 0

  with pytest.raises(DataError, match='no images'):
    packed.Packed(source().source, Empty(frames=1, size=8), 2)


class Fixed:
  """One class and caption per element, and as many frames as are wanted."""

  def __init__(self, classes, *, frames=1, length=6):
    self.classes, self.frames, self.length = tuple(classes), frames, length

  def __len__(self):
    return self.length

  def clip(self, index, rng):
    return {
      'video': np.full((self.frames, 4, 4, 3), index, np.uint8),
      'label': np.int32(index % max(len(self.classes), 1)),
      'id': f'e{index}',
    }

  def signature(self):
    return {'frames': self.frames, 'classes': list(self.classes)}


def test_every_slot_has_its_own_text():
  videos, images = source().source, source().images
  words = Words(videos.words, 6)

  def read(s):
    return captioned.Captioned(s, words.encode, words.hash)

  clip = packed.Packed(read(videos), read(images), 3).clip(
    7, np.random.default_rng(0)
  )
  assert clip['text'].shape == clip['text_mask'].shape == (4, 6)
  # The same clip without text shows which images these are.
  plain = source().clip(7, np.random.default_rng(0))
  np.testing.assert_array_equal(clip['video'], plain['video'])
  for label, ids in zip(clip['label'], clip['text'], strict=True):
    colour, shape = videos.classes[label].split()
    said = [words.vocabulary[i - 1] for i in ids[ids > 0]]
    assert said[1:3] == [colour, shape]
  assert clip['caption'] == videos.clip(7)['caption']


@pytest.mark.parametrize('silent', ['videos', 'images'])
def test_slots_without_text_have_the_null_condition(silent):
  parts = {'videos': source().source, 'images': source().images}
  words = Words(parts['videos'].words, 6)
  for name in {'videos', 'images'} - {silent}:
    parts[name] = captioned.Captioned(parts[name], words.encode, words.hash)
  joint = packed.Packed(parts['videos'], parts['images'], 2)
  clip = checked(joint, 0, np.random.default_rng(0))
  told = [silent != 'videos', silent != 'images', silent != 'images']
  assert clip['text_mask'].any(axis=1).tolist() == told
  assert clip['text'].any(axis=1).tolist() == told


def test_a_second_text_is_packed_like_the_first():
  videos, images = source().source, source().images
  words = Words(videos.words, 6)
  read = captioned.Captioned(images, words.encode, words.hash)
  read = captioned.Captioned(
    read, Words(videos.words, 7).encode, 'second', ending='2'
  )
  clip = checked(packed.Packed(videos, read, 2), 0, np.random.default_rng(0))
  assert clip['text2'].shape == clip['text2_mask'].shape == (3, 7)
  np.testing.assert_array_equal(clip['text2'][:, :6], clip['text'])
  assert clip['text2_mask'].any(axis=1).tolist() == [False, True, True]


def test_the_second_text_is_checked_like_the_first(monkeypatch):
  clip = checked(source(), 0, np.random.default_rng(0))
  mask, text = np.zeros((4, 6), bool), np.zeros((4, 6, 2), np.float32)
  for more, match in (
    ({'text2': text}, 'go together'),
    ({'text2': text[:2], 'text2_mask': mask}, 'same slots'),
    ({'text2': text[0], 'text2_mask': mask}, 'text must be'),
    ({'text2': text, 'text2_mask': mask}, None),
  ):
    monkeypatch.setattr(packed.Packed, 'clip', lambda *_, m=more: clip | m)
    if match is None:
      checked(source(), 0, np.random.default_rng(0))
      return
    with pytest.raises(DataError, match=match):
      checked(source(), 0, np.random.default_rng(0))


def test_without_text_there_is_none():
  assert 'text' not in source().clip(0, np.random.default_rng(0))


def test_the_stride_is_the_videos():
  videos = strides.Strides(
    {s: shapes.Shapes(frames=2, size=8, length=9, stride=s) for s in (1, 2)}
  )
  images = strides.Strides({5: shapes.Shapes(frames=1, size=8, length=9)})
  joint = packed.Packed(videos, images, 2)
  seen = set()
  for seed in range(20):
    clip = checked(joint, 3, np.random.default_rng(seed))
    alone = videos.clip(3, np.random.default_rng(seed))
    assert clip['stride'] == alone['stride']
    seen.add(int(clip['stride']))
  assert seen == {0, 1}


def test_images_are_independent_of_the_video_and_of_each_other():
  joint = packed.Packed(Fixed('ab', frames=2, length=3), Fixed('ab'), 2)
  counts = np.zeros((3, 6, 6))
  for seed in range(1800):
    video = joint.clip(seed % 3, np.random.default_rng(seed))['video']
    _, _, one, two = video[:, 0, 0, 0]
    counts[seed % 3, one, two] += 1
  expected = 1800 / counts.size
  # Chi-squared of 107 degrees of freedom: beyond 153 is one in a thousand.
  assert (np.square(counts - expected) / expected).sum() < 153


def test_classes_of_images_are_found_by_name():
  joint = packed.Packed(Fixed('abc', frames=2), Fixed('ca'), 4)
  clip = joint.clip(1, np.random.default_rng(0))
  assert clip['label'][0] == 1
  for frame, label in zip(clip['video'][2:], clip['label'][1:], strict=True):
    assert label == (0 if frame[0, 0, 0] % 2 else 2)
  with pytest.raises(DataError, match="1, the first: 'x'"):
    packed.Packed(Fixed('abc', frames=2), Fixed('cx'), 4)


def test_images_without_classes_have_the_null_condition():
  clip = packed.Packed(Fixed('ab', frames=2), Fixed(''), 2).clip(
    1, np.random.default_rng(0)
  )
  assert clip['label'].tolist() == [1, -1, -1]
  # And nothing has a class where the videos have none.
  clip = packed.Packed(Fixed('', frames=2), Fixed('ab'), 2).clip(
    1, np.random.default_rng(0)
  )
  assert clip['label'].tolist() == [0, 0, 0]


def test_an_image_with_two_frames_is_refused():
  joint = packed.Packed(Fixed('a', frames=2), Fixed('a', frames=2), 1)
  with pytest.raises(DataError, match=r'more than one frame \(e'):
    joint.clip(0, np.random.default_rng(0))


def test_problems_of_both_are_told_once():
  videos, images = Fixed('a', frames=2), Fixed('a')
  videos.problems = [('b.mp4', 'damaged'), ('c.mp4', 'short')]
  images.problems = [('b.mp4', 'damaged'), ('a.png', 'no image')]
  assert packed.Packed(videos, images, 1).problems == [
    ('a.png', 'no image'),
    ('b.mp4', 'damaged'),
    ('c.mp4', 'short'),
  ]
