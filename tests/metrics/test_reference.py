import dataclasses
import io
import json
import pathlib
import zipfile

import numpy as np
import pytest

from vdm_jax.errors import DataError
from vdm_jax.metrics import reference
from vdm_jax.metrics.moments import Accumulator
from vdm_jax.metrics.reference import Provenance, Reference, load, save

PROVENANCE = Provenance(
  data='ucf101',
  split='train',
  protocol='tats',
  preprocessing='centre crop 128, bilinear 224',
  network='i3d',
  sha256='ab' * 32,
  feature='logits',
  counts={'samples': 40, 'frames': 16},
)


@pytest.fixture
def statistics():
  stream = Accumulator(3, keep=10)
  stream.add(np.random.default_rng(0).normal(size=(40, 3)))
  return Reference.of(stream, PROVENANCE)


@pytest.fixture
def path(tmp_path, statistics):
  save(tmp_path / 'folder' / 'reference.npz', statistics)
  return tmp_path / 'folder' / 'reference.npz'


def same(a, b):
  return (
    a.provenance == b.provenance
    and a.moments.n == b.moments.n
    and all(
      np.array_equal(x, y)
      for x, y in (
        (a.moments.mean, b.moments.mean),
        (a.moments.scatter, b.moments.scatter),
        (a.rows, b.rows),
        (a.indices, b.indices),
      )
    )
  )


def test_rows_know_the_videos_of_their_clips(statistics):
  assert statistics.videos == 40
  np.testing.assert_array_equal(statistics.clusters, np.arange(10))
  # Ten clips of four samples each, of seven videos.
  video_of = np.array([8, 8, 2, 3, 8, 5, 6, 7, 0, 2])
  told = dataclasses.replace(statistics, video_of=video_of)
  assert told.videos == 7
  found = video_of[statistics.indices // 4]
  same_video = told.clusters[:, None] == told.clusters
  np.testing.assert_array_equal(same_video, found[:, None] == found)
  with pytest.raises(ValueError, match='40 samples are not of 9 clips'):
    dataclasses.replace(statistics, video_of=video_of[:9])


def test_what_was_saved_is_loaded_bit_for_bit(path, statistics):
  assert same(load(path), statistics)
  assert same(load(path, PROVENANCE), statistics)
  assert [p.name for p in path.parent.iterdir()] == ['reference.npz']


def test_counts_that_are_not_asked_for_do_not_matter(path, statistics):
  wanted = dataclasses.replace(PROVENANCE, counts={'frames': 16})
  assert same(load(path, wanted), statistics)


@pytest.mark.parametrize(
  'field', [f.name for f in dataclasses.fields(Provenance)][:-1]
)
def test_another_provenance_is_refused_by_name(path, field):
  wanted = dataclasses.replace(PROVENANCE, **{field: 'other'})
  with pytest.raises(DataError) as caught:
    load(path, wanted)
  text = str(caught.value)
  assert f"{field} '{getattr(PROVENANCE, field)}', not 'other'" in text
  assert '\n' not in text
  assert text.count(', not ') == 1


def test_every_difference_is_named(path):
  wanted = dataclasses.replace(
    PROVENANCE, split='test', counts={'frames': 11, 'height': 64}
  )
  with pytest.raises(DataError) as caught:
    load(path, wanted)
  text = str(caught.value)
  assert "split 'train', not 'test'" in text
  assert 'number of frames 16, not 11' in text
  assert 'number of height None, not 64' in text


def test_a_missing_file_is_told(tmp_path):
  with pytest.raises(DataError, match='no statistics of the reference'):
    load(tmp_path / 'none.npz')
  with pytest.raises(DataError, match='damaged'):
    load(tmp_path)


def test_every_damaged_byte_is_seen_or_harmless(path, statistics):
  whole = path.read_bytes()
  refused = 0
  for at in range(0, len(whole), 13):
    damaged = bytearray(whole)
    damaged[at] ^= 0x15
    path.write_bytes(damaged)
    try:
      assert same(load(path), statistics), at
    except DataError as error:
      assert '\n' not in str(error)
      refused += 1
  assert refused > len(whole) / 13 / 2


def test_a_file_cut_short_is_seen(path):
  whole = path.read_bytes()
  for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(DataError, match='damaged'):
      load(path)


def rewritten(path, **changes):
  """The file with some arrays replaced; None removes one."""
  with np.load(path) as archive:
    arrays = dict(archive) | changes
  buffer = io.BytesIO()
  np.savez(buffer, **{k: v for k, v in arrays.items() if v is not None})
  path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
  'changes',
  [
    {'mean': None},
    {'mean': np.zeros(4)},
    {'mean': np.zeros(3, np.float32)},
    {'scatter': np.full((3, 3), np.nan)},
    {'n': np.int64(2)},
    {'indices': np.arange(3)},
    {'provenance': np.frombuffer(b'{"format": 2}', np.uint8)},
    {'provenance': np.frombuffer(b'{"format": 1}', np.uint8)},
    {'provenance': np.frombuffer(b'nonsense', np.uint8)},
    {'provenance': np.frombuffer(b'[1]', np.uint8)},
  ],
)
def test_arrays_that_contradict_each_other_are_refused(path, changes):
  rewritten(path, **changes)
  with pytest.raises(DataError, match='damaged'):
    load(path)


class Touch:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def test_nothing_is_ever_unpickled(path, tmp_path):
  trap = tmp_path / 'unpickled'
  rewritten(path, mean=np.array([Touch(trap)], object))
  with pytest.raises(DataError, match='damaged'):
    load(path)
  assert not trap.exists()
  with np.load(path, allow_pickle=True) as archive:
    _ = archive['mean']
  assert trap.exists()  # the control


def test_the_file_says_in_json_what_it_is_of(path):
  with zipfile.ZipFile(path) as archive:
    text = np.load(io.BytesIO(archive.read('provenance.npy'))).tobytes()
  described = json.loads(text)
  assert described.pop('format') == reference.FORMAT
  assert described == dataclasses.asdict(PROVENANCE)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, statistics):
  (tmp_path / 'file').write_text('')
  with pytest.raises(DataError, match='cannot be written'):
    save(tmp_path / 'file' / 'reference.npz', statistics)
  (tmp_path / 'taken.npz').mkdir()
  with pytest.raises(DataError, match='cannot be written'):
    save(tmp_path / 'taken.npz', statistics)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'taken.npz']
