"""UCF-101 in miniature: real clips in the official layout, the real builder."""

import functools
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from vdm_jax import config as config_lib
from vdm_jax import request
from vdm_jax.data import frames as frames_lib
from vdm_jax.data import ucf101
from vdm_jax.data.benchmark import measure
from vdm_jax.data.pipeline import batches
from vdm_jax.data.source import Source
from vdm_jax.data.ucf101 import UCF101
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.media import reading

CLIPS = Path(__file__).parents[3] / 'shared/data/clips'
CONFIGS = Path(__file__).parents[2] / 'configs'
SIZE = 32
VIDEOS = {
  'v_ApplyEyeMakeup_g01_c01.avi': 'ucf_a.avi',
  'v_HandStandPushups_g01_c01.avi': 'ucf_b.avi',
}


@pytest.fixture(scope='module')
def needs_tfds():
  pytest.importorskip('tensorflow')
  pytest.importorskip('tensorflow_datasets')


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """The layout of the official archive, with a list that names one too many."""
  if not CLIPS.is_dir():
    pytest.skip(f'no real clips in {CLIPS}')
  if shutil.which('ffmpeg') is None:
    pytest.importorskip('imageio_ffmpeg')
  root = tmp_path_factory.mktemp('official')
  for name, clip in VIDEOS.items():
    place = root / 'UCF-101' / name.split('_')[1].replace('dS', 'ds') / name
    place.parent.mkdir(parents=True)
    place.symlink_to(CLIPS / clip)
  lists = root / 'ucfTrainTestlist'
  lists.mkdir()
  (lists / 'trainlist01.txt').write_text(
    'ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n'
    'Archery/v_Archery_g01_c01.avi 3\n'
  )
  (lists / 'testlist01.txt').write_text(
    'HandstandPushups/v_HandStandPushups_g01_c01.avi\n'
  )
  return root


@pytest.fixture(scope='module')
def source(needs_tfds, videos, tmp_path_factory):
  """Prepared from the videos, then opened."""
  data_dir = tmp_path_factory.mktemp('tfds')
  return UCF101(data_dir, frames=16, size=SIZE, videos=videos)


def test_both_splits_are_there_with_their_labels(source):
  assert isinstance(source, Source)
  assert len(source) == 2
  assert len(source.classes) == 101
  labels = {
    source.classes[source.clip(i, np.random.default_rng(0))['label']]
    for i in range(2)
  }
  assert labels == {'ApplyEyeMakeup', 'HandstandPushups'}
  ((_, reason),) = source.problems
  assert reason.startswith('2 of the 13320')


def test_clips_are_the_frames_of_the_videos(source):
  """Up to JPEG and the reduction, and better than any other start."""
  label = source.classes.index('HandstandPushups')
  squash = functools.partial(frames_lib.fit, size=SIZE, resize='squash')
  truth = reading.read(CLIPS / 'ucf_b.avi', range(131), fit=squash)
  for seed in range(4):
    clips = [source.clip(i, np.random.default_rng(seed)) for i in range(2)]
    (clip,) = (c['video'] for c in clips if c['label'] == label)
    assert clip.shape == (16, SIZE, SIZE, 3)
    errors = [
      np.square(clip.astype(float) - truth[s : s + 16]).mean()
      for s in range(131 - 15)
    ]
    start = int(np.random.default_rng(seed).integers(116))
    assert int(np.argmin(errors)) == start
    assert errors[start] < 100  # more than 28 dB


def test_a_video_that_is_given_looks_as_in_training(source):
  """What sampling makes of a file, against what training makes of it."""
  label = source.classes.index('HandstandPushups')
  (clip,) = (
    c['video']
    for c in (source.clip(i, np.random.default_rng(0)) for i in range(2))
    if c['label'] == label
  )
  start = int(np.random.default_rng(0).integers(116))
  asked = {'sample.video': str(CLIPS / 'ucf_b.avi'), 'sample.known': ':15'}
  asked |= {'data.frames': 16, 'data.size': SIZE, 'sample.start': start}
  config = config_lib.beside(str(CONFIGS / 'x'), 'ucf101.py')
  config = config_lib.varied(config, asked)

  def error(config):
    given = request.given_video(config, 16).full[0]
    return np.square(given.astype(float) - clip[:15]).mean()

  assert error(config) < 100  # more than 28 dB
  # Negative control: another part of the picture.
  assert error(config_lib.varied(config, {'data.resize': 'crop'})) > 400


def test_crops_are_refused(source):
  with pytest.raises(ConfigError, match="resize to 'squash'"):
    UCF101(source.data_dir, frames=4, size=SIZE, resize='crop')


def test_a_stride_and_a_split_are_taken(source):
  options = {'size': SIZE, 'frames': 4}
  whole = UCF101(source.data_dir, **options | {'frames': 131}, split='test')
  assert len(whole) == 1
  every = whole.clip(0, np.random.default_rng(0))['video']
  part = UCF101(source.data_dir, **options, split='test', stride=5)
  found = part.clip(0, np.random.default_rng(3))['video']
  start = int(np.random.default_rng(3).integers(131 - 15))
  np.testing.assert_array_equal(found, every[start : start + 16 : 5])


def test_it_feeds_the_pipeline(source):
  batch = next(batches(source, batch_size=3, seed=0, workers=2))
  assert batch['video'].shape == (3, 16, SIZE, SIZE, 3)
  assert measure(source, seconds=0.1) > 10


def test_it_can_be_sent_to_another_process(source):
  copy = pickle.loads(pickle.dumps(source))
  for index in range(2):
    one, two = (s.clip(index, np.random.default_rng(0)) for s in (source, copy))
    np.testing.assert_array_equal(one['video'], two['video'])


def test_the_signature_holds_what_decides_the_clips(source):
  signature = source.signature()
  assert json.loads(json.dumps(signature)) == signature
  other = UCF101(source.data_dir, frames=8, size=SIZE)
  assert other.signature() != signature


def test_a_smaller_size_than_is_stored(source):
  small = UCF101(source.data_dir, frames=16, size=8, stored_size=SIZE)
  one, two = (
    s.clip(0, np.random.default_rng(0))['video'] for s in (source, small)
  )
  assert two.shape == (16, 8, 8, 3)
  means = one.reshape(16, 8, 4, 8, 4, 3).mean(axis=(2, 4))
  assert np.abs(means - two).mean() < 8


def test_what_is_not_prepared_says_how_to(needs_tfds, tmp_path):
  with pytest.raises(DataError, match=r'ucf101\.prepare') as caught:
    UCF101(tmp_path, frames=4, size=8)
  assert repr(str(tmp_path)) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_folders_in_another_layout_are_refused(needs_tfds, videos, tmp_path):
  with pytest.raises(DataError, match='no folder ucfTrainTestlist'):
    ucf101.prepare(tmp_path / 'data', tmp_path, size=8)
  shutil.copytree(videos / 'ucfTrainTestlist', tmp_path / 'ucfTrainTestlist')
  with pytest.raises(DataError, match='no videos'):
    ucf101.prepare(tmp_path / 'data', tmp_path, size=8)


def test_a_damaged_video_is_reported_in_one_line(needs_tfds, videos, tmp_path):
  shutil.copytree(videos, tmp_path / 'bad')
  (tmp_path / 'bad/UCF-101/ApplyEyeMakeup').joinpath(
    'v_ApplyEyeMakeup_g01_c01.avi'
  ).write_bytes(b'not a video')
  with pytest.raises(DataError, match='v_ApplyEyeMakeup_g01_c01') as caught:
    ucf101.prepare(tmp_path / 'data', tmp_path / 'bad', size=8)
  assert '\n' not in str(caught.value)


def test_data_in_another_format_is_refused(source, tmp_path):
  shutil.copytree(source.data_dir, tmp_path, dirs_exist_ok=True)
  (info,) = tmp_path.rglob('dataset_info.json')
  text = info.read_text()
  assert '"array_record"' in text
  info.write_text(text.replace('"array_record"', '"tfrecord"'))
  with pytest.raises(DataError, match='another data_dir'):
    UCF101(tmp_path, frames=4, size=SIZE)


def test_an_unknown_split_is_refused(source):
  with pytest.raises(DataError, match='validation'):
    UCF101(source.data_dir, frames=4, size=SIZE, split='validation')
  with pytest.raises(ConfigError, match='split_number'):
    UCF101(source.data_dir, frames=4, size=SIZE, split_number=4)


@pytest.mark.parametrize('module', ['tensorflow', 'tensorflow_datasets'])
def test_without_tensorflow_the_extra_is_named(monkeypatch, tmp_path, module):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ConfigError, match=r'pip install "vdm_jax\[tfds\]"'):
    UCF101(tmp_path, frames=4, size=8)


def test_without_ffmpeg_it_is_named(monkeypatch, videos, tmp_path):
  monkeypatch.setenv('PATH', '')
  monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
  with pytest.raises(ConfigError, match='ffmpeg'):
    ucf101.prepare(tmp_path, videos, size=8)
