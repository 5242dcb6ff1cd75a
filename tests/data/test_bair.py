"""BAIR in miniature: noise in the official layout, the real builder."""

import functools
import json
import pickle
import shutil
import sys
import tarfile

import numpy as np
import pytest

from vdm_jax.data import bair
from vdm_jax.data.bair import BAIR
from vdm_jax.data.pipeline import batches
from vdm_jax.data.source import Source
from vdm_jax.errors import ConfigError, DataError

COUNTS = {'train': 3, 'test': 2}
CAMERAS = ('image_main', 'image_aux1')


@functools.cache
def pixels(split, video, camera='image_main'):
  """What the frames of a video are: noise, `[30, 64, 64, 3]`."""
  place = (list(COUNTS).index(split), video, CAMERAS.index(camera))
  rng = np.random.default_rng(place)
  return rng.integers(256, size=(30, 64, 64, 3), dtype=np.uint8)


def record(split, video, frames=30):
  """A video as the official files have it: a SequenceExample."""
  train = pytest.importorskip('tensorflow').train
  features = {}
  for i in range(frames):
    for camera in CAMERAS:
      raw = pixels(split, video, camera)[i].tobytes()
      features[f'{i}/{camera}/encoded'] = train.Feature(
        bytes_list=train.BytesList(value=[raw])
      )
    for name, size in (('action', 4), ('endeffector_pos', 3)):
      features[f'{i}/{name}'] = train.Feature(
        float_list=train.FloatList(value=[0.5] * size)
      )
  context = train.Features(feature=features)
  return train.SequenceExample(context=context).SerializeToString()


def write(path, records):
  tf = pytest.importorskip('tensorflow')
  path.parent.mkdir(parents=True, exist_ok=True)
  with tf.io.TFRecordWriter(str(path)) as writer:
    for data in records:
      writer.write(data)


@pytest.fixture(scope='module')
def needs_tfds():
  pytest.importorskip('tensorflow')
  pytest.importorskip('tensorflow_datasets')


@pytest.fixture(scope='module')
def official(needs_tfds, tmp_path_factory):
  """The unpacked archive, the training videos in two files."""
  root = tmp_path_factory.mktemp('official')
  place = root / 'softmotion30_44k'
  first, *others = (record('train', i) for i in range(COUNTS['train']))
  write(place / 'train/traj_0_to_255.tfrecords', [first])
  write(place / 'train/traj_256_to_511.tfrecords', others)
  tests = [record('test', i) for i in range(COUNTS['test'])]
  write(place / 'test/traj_0_to_255.tfrecords', tests)
  (place / 'train/.DS_Store').write_bytes(b'what file managers leave')
  return root


@pytest.fixture(scope='module')
def data_dir(official, tmp_path_factory):
  """Prepared from it."""
  folder = tmp_path_factory.mktemp('tfds')
  bair.prepare(folder, official)
  return folder


@pytest.mark.parametrize('split', COUNTS)
def test_clips_are_the_frames_of_the_videos(data_dir, split):
  """Bit by bit, of the main camera, from the start that was drawn."""
  source = BAIR(data_dir, split=split)
  assert isinstance(source, Source)
  assert (len(source), source.classes) == (COUNTS[split], ())
  seen = set()
  for index in range(len(source)):
    for seed in range(3):
      clip = source.clip(index, np.random.default_rng(seed))
      start = int(np.random.default_rng(seed).integers(30 - 15))
      found = [
        video
        for video in range(COUNTS[split])
        if np.array_equal(
          clip['video'], pixels(split, video)[start : start + 16]
        )
      ]
      assert len(found) == 1
      seen.update(found)
      assert clip['label'] == 0 and clip['label'].dtype == np.int32
      assert clip['id'] == f'bair {split} {index}'
  assert seen == set(range(COUNTS[split]))


def test_the_default_is_the_training_split(data_dir):
  source = BAIR(data_dir)
  assert len(source) == COUNTS['train']
  (problem,) = source.problems
  assert problem[1] == '5 of the 43520 videos were there to be prepared'


def test_strides_and_sizes(data_dir):
  clip = functools.partial(BAIR, data_dir, split='test[:1]', frames=4)
  rng = np.random.default_rng
  every = BAIR(data_dir, split='test[:1]', frames=30).clip(0, rng(0))['video']
  found = clip(stride=9).clip(0, rng(3))['video']
  start = int(rng(3).integers(30 - 27))
  np.testing.assert_array_equal(found, every[start : start + 28 : 9])
  small = clip(size=16, stride=9).clip(0, rng(3))['video']
  assert small.shape == (4, 16, 16, 3)
  means = found.reshape(4, 16, 4, 16, 4, 3).mean(axis=(2, 4))
  assert np.abs(means - small).mean() < 16
  assert np.abs(means[::-1] - small).mean() > 16  # the frames in another order
  assert clip(size=128).clip(0, rng(0))['video'].shape == (4, 128, 128, 3)


def test_only_the_frames_of_the_clip_are_decoded(data_dir, monkeypatch):
  decoded = []
  decode = bair.tfds_frames.decode

  def note(picture, size):
    decoded.append(picture)
    return decode(picture, size)

  monkeypatch.setattr(bair.tfds_frames, 'decode', note)
  BAIR(data_dir, frames=5).clip(0, np.random.default_rng(0))
  assert len(decoded) == 5


def test_it_feeds_the_pipeline_from_any_process(data_dir):
  source = BAIR(data_dir)
  copy = pickle.loads(pickle.dumps(source))
  batch = next(batches(source, batch_size=5, seed=0, workers=2))
  again = next(batches(copy, batch_size=5, seed=0, workers=1))
  assert batch['video'].shape == (5, 16, 64, 64, 3)
  np.testing.assert_array_equal(batch['video'], again['video'])
  other = next(batches(copy, batch_size=5, seed=1, workers=1))
  assert (batch['video'] != other['video']).any()


def test_the_signature_holds_what_decides_the_clips(data_dir):
  signature = BAIR(data_dir).signature()
  assert json.loads(json.dumps(signature)) == signature
  assert BAIR(data_dir).signature() == signature
  for change in (
    {'frames': 8},
    {'size': 32},
    {'split': 'test'},
    {'frames': 8, 'stride': 2},
  ):
    assert BAIR(data_dir, **change).signature() != signature


@pytest.mark.parametrize('given', ['archive', 'its folder', 'inner folder'])
def test_every_form_of_the_official_files(official, data_dir, tmp_path, given):
  """Prepared when the source is opened, and the same as ever."""
  videos = official / 'softmotion30_44k'
  if given != 'inner folder':
    (tmp_path / 'raw').mkdir()
    videos = tmp_path / 'raw' / bair.ARCHIVE
    with tarfile.open(videos, 'w') as tar:
      tar.add(official / 'softmotion30_44k', 'softmotion30_44k')
  if given == 'its folder':
    videos = videos.parent
  source = BAIR(tmp_path / 'data', videos=videos)
  same = BAIR(data_dir)
  assert source.signature() == same.signature()
  for index in range(len(source)):
    one, two = (
      s.clip(index, np.random.default_rng(0))['video'] for s in (source, same)
    )
    np.testing.assert_array_equal(one, two)
  assert not list((tmp_path / 'data').glob('unpacked_*'))


def test_nothing_is_downloaded_unasked(needs_tfds, tmp_path, monkeypatch):
  tfds = pytest.importorskip('tensorflow_datasets')
  asked = []

  def download(self, urls):
    asked.append(urls)
    raise OSError('no network\nand more')

  monkeypatch.setattr(
    tfds.download.DownloadManager, 'download_and_extract', download
  )
  with pytest.raises(DataError, match=r'bair\.prepare') as caught:
    BAIR(tmp_path)
  assert repr(str(tmp_path)) in str(caught.value)
  assert '\n' not in str(caught.value)
  assert not asked
  with pytest.raises(DataError, match='by download: no network') as caught:
    BAIR(tmp_path, download=True)
  assert '\n' not in str(caught.value)
  (url,) = asked
  assert url.endswith(bair.ARCHIVE)
  # TFDS checks what it downloads against the sum that it ships.
  assert bair._builder(tmp_path).url_infos[url].checksum


def damaged(official, tmp_path, name):
  root = tmp_path / 'damaged'
  shutil.copytree(official, root)
  file = root / 'softmotion30_44k/train/traj_0_to_255.tfrecords'
  if name == 'cut off':
    file.write_bytes(file.read_bytes()[:-100])
  if name == 'too few frames':
    write(file, [record('train', 0, frames=20)])
  if name == 'nothing in them':
    for every in file.parent.glob('*.tfrecords'):
      every.write_bytes(b'')
  return root


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('whole', ''),
    ('cut off', 'truncated record'),
    ('too few frames', 'index out of range'),
    ('nothing in them', 'No examples'),
  ],
)
def test_damaged_files_are_reported_in_one_line(
  official, tmp_path, name, message
):
  root = damaged(official, tmp_path, name)
  if name == 'whole':  # the others fail for their damage alone
    return bair.prepare(tmp_path / 'data', root)
  with pytest.raises(DataError, match=message) as caught:
    bair.prepare(tmp_path / 'data', root)
  assert str(root) in str(caught.value)
  assert '\n' not in str(caught.value)
  with pytest.raises(DataError, match='not prepared'):
    BAIR(tmp_path / 'data')


def test_folders_in_another_layout_are_refused(official, tmp_path):
  with pytest.raises(DataError, match='neither softmotion30_44k/ nor'):
    bair.prepare(tmp_path / 'data', tmp_path)
  half = tmp_path / 'half'
  shutil.copytree(official, half)
  shutil.rmtree(half / 'softmotion30_44k/test')
  with pytest.raises(DataError, match=r'no videos test/\*\.tfrecords'):
    bair.prepare(tmp_path / 'data', half)
  archive = tmp_path / bair.ARCHIVE
  archive.write_bytes(b'no archive')
  with pytest.raises(DataError, match='cannot be unpacked') as caught:
    bair.prepare(tmp_path / 'data', archive)
  assert '\n' not in str(caught.value)
  with tarfile.open(archive, 'w') as tar:
    tar.add(half / 'softmotion30_44k/train', 'another')
  with pytest.raises(DataError, match='holds no folder softmotion30_44k'):
    bair.prepare(tmp_path / 'data', tmp_path)


def test_data_in_another_format_is_refused(data_dir, tmp_path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  (info,) = tmp_path.rglob('dataset_info.json')
  text = info.read_text()
  assert '"array_record"' in text
  info.write_text(text.replace('"array_record"', '"tfrecord"'))
  with pytest.raises(DataError, match='another data_dir'):
    BAIR(tmp_path)


def test_options_that_cannot_work_are_refused(data_dir):
  with pytest.raises(DataError, match='validation'):
    BAIR(data_dir, split='validation')
  for options in ({'frames': 31}, {'frames': 16, 'stride': 2}, {'frames': 0}):
    with pytest.raises(ConfigError, match='frames'):
      BAIR(data_dir, **options)
  with pytest.raises(ConfigError, match="resize to 'squash'"):
    BAIR(data_dir, resize='crop')
  assert len(BAIR(data_dir, frames=15, stride=2)) == COUNTS['train']


@pytest.mark.parametrize('module', ['tensorflow', 'tensorflow_datasets'])
def test_without_tensorflow_the_extra_is_named(monkeypatch, tmp_path, module):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ConfigError, match=r'BAIR.*pip install "vdm_jax\[tfds\]"'):
    BAIR(tmp_path)
