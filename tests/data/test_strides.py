"""Clips at several strides: each is what its own source would give."""

import json
import pickle

import numpy as np
import pytest

from vdm_jax.data import pipeline, shapes
from vdm_jax.data.source import Source, checked
from vdm_jax.data.strides import Strides
from vdm_jax.errors import ConfigError, DataError

LENGTHS = {1: 7, 2: 5, 4: 3}


def make(lengths=LENGTHS, **options):
  options = {'frames': 3, 'size': 8} | options
  return Strides(
    {
      stride: shapes.Shapes(stride=stride, length=length, **options)
      for stride, length in lengths.items()
    }
  )


def test_a_clip_is_that_of_its_stride_and_all_are_as_frequent():
  source = make()
  counts = np.zeros(3, int)
  for seed in range(600):
    index = seed % 7
    clip = checked(source, index, np.random.default_rng(seed))
    stride = list(LENGTHS)[clip['stride']]
    assert (clip['stride'].dtype, clip['stride'].shape) == (np.int32, ())
    alone = shapes.Shapes(stride=stride, frames=3, size=8, length=7)
    expected = alone.clip(index % LENGTHS[stride])
    np.testing.assert_array_equal(clip['video'], expected['video'])
    assert clip['caption'] == expected['caption']
    counts[clip['stride']] += 1
  assert (np.square(counts - 200) / 200).sum() < 13.8  # p = 0.001


def test_it_is_as_long_as_the_longest():
  assert len(make()) == len(make({4: 3, 1: 7})) == 7
  assert isinstance(make(), Source)


def test_the_number_of_a_stride_is_its_place():
  one, other = make({1: 4, 4: 4}), make({4: 4, 1: 4})
  for seed in range(9):
    clips = [s.clip(2, np.random.default_rng(seed)) for s in (one, other)]
    assert clips[0]['stride'] == clips[1]['stride']
    assert not np.array_equal(clips[0]['video'], clips[1]['video'])
  assert one.signature() != other.signature()


def test_signatures_tell_the_sources():
  signature = make().signature()
  assert json.loads(json.dumps(signature)) == signature == make().signature()
  for other in (make({1: 7, 2: 5}), make(frames=4), make({1: 7, 2: 5, 3: 3})):
    assert other.signature() != signature


def test_batches_carry_the_stride():
  source = pickle.loads(pickle.dumps(make()))
  batch = next(pipeline.batches(source, batch_size=16, seed=0))
  assert batch['stride'].shape == (16,) and batch['stride'].dtype == np.int32
  assert set(batch['stride'].tolist()) == {0, 1, 2}


def test_words_and_captions_are_those_of_the_videos():
  source = make()
  assert source.words == source.source.words
  assert source.captions(3) == source.source.captions(3)


class Other(shapes.Shapes):
  @property
  def classes(self):
    return ('a', 'b')


class Pink(shapes.Shapes):
  def captions(self, n=None):
    return [text.replace('red', 'pink') for text in super().captions(n)]


def test_sources_that_do_not_fit():
  with pytest.raises(ConfigError, match='no strides'):
    Strides({})
  with pytest.raises(ConfigError, match='got 0'):
    Strides({0: shapes.Shapes(frames=2, size=8)})
  for kind in (Other, Pink):
    with pytest.raises(DataError, match=r'at stride 4.*same videos'):
      Strides(
        {
          1: shapes.Shapes(frames=2, size=8, length=9),
          4: kind(frames=2, size=8, length=8),
        }
      )
