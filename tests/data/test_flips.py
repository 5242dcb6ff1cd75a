"""Mirror images: half of the clips, whole, and nothing else changed."""

import numpy as np
import pytest

from tests.data.test_pipeline import Numbers, assert_equal, take
from vdm_jax.data import flips
from vdm_jax.data.source import Source


def test_a_clip_is_the_inner_one_or_its_mirror_image():
  inner, source = Numbers(5), flips.Flipped(Numbers(5))
  mirrored = 0
  for seed in range(400):
    clip = source.clip(seed % 5, np.random.default_rng(seed))
    plain = inner.clip(seed % 5, np.random.default_rng(seed))
    mirror = plain['video'][:, :, ::-1]
    assert not np.array_equal(plain['video'], mirror)
    same = np.array_equal(clip['video'], plain['video'])
    assert same or np.array_equal(clip['video'], mirror)
    assert {k: v for k, v in clip.items() if k != 'video'} == {
      k: v for k, v in plain.items() if k != 'video'
    }
    mirrored += not same
  assert abs(mirrored - 200) < 40  # four sigma


def test_the_rest_is_the_inner_source():
  source = flips.Flipped(Numbers(5))
  assert isinstance(source, Source)
  assert len(source) == 5 and source.classes == ('even', 'odd')
  assert source.length == 5
  assert not hasattr(source, 'captions')
  with pytest.raises(AttributeError, match='nothing'):
    _ = source.nothing
  assert source.signature() != Numbers(5).signature()
  assert source.signature() != flips.Flipped(Numbers(6)).signature()


def test_processes_share_one_global_batch():
  (whole,) = take(flips.Flipped(Numbers(5)), 1, batch_size=8)
  parts = [
    take(
      flips.Flipped(Numbers(5)),
      1,
      batch_size=8,
      process_index=i,
      process_count=2,
    )[0]
    for i in range(2)
  ]
  joined = {k: np.concatenate([part[k] for part in parts]) for k in whole}
  assert_equal([joined], [whole])
