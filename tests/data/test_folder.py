import itertools
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from vdm_jax.data import frames as frames_lib
from vdm_jax.data import index as index_lib
from vdm_jax.data.benchmark import measure
from vdm_jax.data.folder import Folder
from vdm_jax.data.pipeline import batches
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.media import reading

CLIPS = Path(__file__).parents[3] / 'shared/data/clips'
STEP = 6  # gray levels between frames of `write`


def write(path, count, *, height=16, width=32):
  """A video whose frame i is a flat gray of level 10 + STEP i."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=25)
    stream.height, stream.width = height, width
    stream.pix_fmt, stream.gop_size = 'yuv444p', 8
    stream.options = {'qp': '4', 'preset': 'ultrafast'}
    for i in range(count):
      picture = np.full((height, width, 3), 10 + STEP * i, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
    container.mux(stream.encode())
  return path


def levels(video):
  """Numbers of the frames that `write` has drawn."""
  return np.rint((video.mean(axis=(1, 2, 3)) - 10) / STEP).astype(int).tolist()


@pytest.fixture
def tree(tmp_path):
  """Two classes, an outsider, a short and a damaged video."""
  root = tmp_path / 'videos'
  write(root / 'run/a.mp4', 30)
  write(root / 'run/deep/b.MKV', 20)
  write(root / 'jump/c.mov', 12)
  write(root / 'jump/short.mp4', 3)
  write(root / 'outside.mp4', 9)
  (root / 'run/broken.mp4').write_bytes(b'not a video')
  (root / 'run/notes.txt').write_text('not looked at')
  write(root / 'run/.hidden.mp4', 9)
  write(root / '.trash/gone.mp4', 9)
  return root


@pytest.fixture
def open_folder(tmp_path):
  """Opens folders with a cache of the test's own."""

  def make(path, **options):
    defaults = {'frames': 4, 'size': 8, 'cache': tmp_path / 'cache'}
    return Folder(path, **(defaults | options))

  return make


def clip(source, name, seed=0):
  return source.clip(source.files.index(name), np.random.default_rng(seed))


def test_what_is_found_and_what_is_left_out(tree, open_folder):
  source = open_folder(tree)
  assert source.files == [
    'jump/c.mov',
    'outside.mp4',
    'run/a.mp4',
    'run/deep/b.MKV',
  ]
  assert [path for path, _ in source.problems] == [
    'jump/short.mp4',
    'run/broken.mp4',
  ]
  assert source.problems[0][1] == '3 frames, a clip needs 4'
  assert source.classes == ()
  found = clip(source, 'run/a.mp4')
  assert found['video'].shape == (4, 8, 8, 3)
  assert found['video'].dtype == np.uint8
  assert (found['label'], found['id']) == (0, 'run/a.mp4')


def test_sub_folders_are_classes(tree, open_folder):
  (tree / 'walk').mkdir()
  (tree / 'walk/damaged.mp4').write_bytes(b'')
  source = open_folder(tree, classes=True)
  assert source.classes == ('jump', 'run', 'walk')
  labels = {name: int(clip(source, name)['label']) for name in source.files}
  assert labels == {'jump/c.mov': 0, 'run/a.mp4': 1, 'run/deep/b.MKV': 1}
  assert ('outside.mp4', 'in no class folder') in source.problems


def test_classes_from_a_list(tree, open_folder):
  labels = {'run/a.mp4': 'zoo', 'outside.mp4': 'art', 'gone.mp4': 'far'}
  source = open_folder(tree, labels=labels)
  assert source.classes == ('art', 'far', 'zoo')
  assert source.files == ['outside.mp4', 'run/a.mp4']
  assert [int(clip(source, n)['label']) for n in source.files] == [0, 2]
  assert ('jump/c.mov', 'not in the list') in source.problems
  # What the list does not name is not even opened.
  assert ('run/broken.mp4', 'not in the list') in source.problems
  with pytest.raises(ConfigError, match='both'):
    open_folder(tree, labels=labels, classes=True)
  with pytest.raises(DataError, match=r'no videos of the list.*1 in the list'):
    open_folder(tree, labels={'gone.mp4': 'far'})


def test_captions(tree, open_folder):
  captions = {
    'run/a.mp4': ['a man runs', 'a race'],
    'run/deep/b.MKV': ['a dog'],
    'run/broken.mp4': ['a bird'],
    'gone.mp4': ['a cat'],
  }
  source = open_folder(tree, captions=captions)
  assert source.files == ['run/a.mp4', 'run/deep/b.MKV']
  problems = dict(source.problems)
  assert problems['jump/c.mov'] == 'no caption'
  assert problems['gone.mp4'] == 'named by the captions, but not there'
  assert problems['run/broken.mp4'] not in ('no caption', '')
  plain = open_folder(tree)
  seen = set()
  for seed in range(20):
    found = clip(source, 'run/a.mp4', seed)
    np.testing.assert_array_equal(
      found['video'], clip(plain, 'run/a.mp4', seed)['video']
    )
    assert found['caption'] == clip(source, 'run/a.mp4', seed)['caption']
    seen.add(found['caption'])
  assert seen == {'a man runs', 'a race'}
  assert source.words == ('a', 'dog', 'man', 'race', 'runs')  # no bird, no cat
  assert source.captions(2) == ['a man runs', 'a dog']
  assert source.captions() == ['a dog', 'a man runs', 'a race']
  assert not hasattr(plain, 'captions') and not hasattr(plain, 'words')
  with pytest.raises(DataError, match=r'no usable video.*no caption'):
    open_folder(tree, captions={})


def test_captions_and_classes_together(tree, open_folder):
  captions = {n: [n] for n in ('run/a.mp4', 'jump/c.mov', 'outside.mp4')}
  source = open_folder(tree, captions=captions, classes=True)
  assert source.classes == ('jump', 'run')
  assert source.files == ['jump/c.mov', 'run/a.mp4']
  problems = dict(source.problems)
  assert problems['outside.mp4'] == 'in no class folder'
  assert problems['run/deep/b.MKV'] == 'no caption'


@pytest.mark.parametrize('stride', [1, 3])
def test_a_clip_starts_anywhere_and_keeps_its_stride(tree, open_folder, stride):
  source = open_folder(tree, stride=stride)
  starts = set()
  for seed in range(60):
    found = levels(clip(source, 'jump/c.mov', seed)['video'])
    assert np.diff(found).tolist() == [stride] * 3
    starts.add(found[0])
  assert starts == set(range(12 - 3 * stride))


def test_the_same_generator_gives_the_same_clip(tree, open_folder):
  source = open_folder(tree)
  one, two, other = (clip(source, 'run/a.mp4', s)['video'] for s in (1, 1, 2))
  np.testing.assert_array_equal(one, two)
  assert levels(one) != levels(other)


def test_short_videos_run_on_if_wanted(tree, open_folder):
  source = open_folder(tree, short='loop', frames=5)
  assert [path for path, _ in source.problems] == ['run/broken.mp4']
  seen = set()
  for seed in range(20):
    found = levels(clip(source, 'jump/short.mp4', seed)['video'])
    assert {(b - a) % 3 for a, b in itertools.pairwise(found)} == {1}
    seen.add(found[0])
  assert seen == {0, 1, 2}


def test_short_videos_are_an_error_if_wanted(tree, open_folder):
  with pytest.raises(DataError, match=r'jump/short\.mp4: 3 frames'):
    open_folder(tree, short='error')
  assert len(open_folder(tree, short='error', frames=3)) == 5


def test_what_was_scanned_is_not_scanned_again(tree, open_folder, monkeypatch):
  first = open_folder(tree)
  scanned = []

  def scan(path):
    scanned.append(path.name)
    if path.name == 'broken.mp4':
      raise reading.VideoError(path, 'damaged')
    return reading.Index(8, 16, 32, 25.0)

  monkeypatch.setattr(index_lib.reading, 'scan', scan)
  again = open_folder(tree, frames=5, stride=2)  # other clips, the same index
  assert scanned == ['broken.mp4']
  assert again.files == [n for n in first.files if n != 'jump/short.mp4']
  os.utime(tree / 'run/a.mp4', (1, 1))
  write(tree / 'new.mp4', 9)
  open_folder(tree)
  assert sorted(scanned[1:]) == ['a.mp4', 'broken.mp4', 'new.mp4']


def test_nothing_is_written_into_the_folder(tree, open_folder):
  before = sorted(tree.rglob('*'))
  open_folder(tree)
  assert sorted(tree.rglob('*')) == before


def test_the_cache_is_the_users(tree, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  Folder(tree, frames=4, size=8)
  (file,) = (tmp_path / 'xdg/vdm_jax').rglob('*.json')
  assert json.loads(file.read_text())['folder'] == str(tree)


@pytest.mark.parametrize('damage', ['{', '[]', '{"format": 1}', 'null'])
def test_a_damaged_cache_is_made_anew(tree, tmp_path, open_folder, damage):
  signature = open_folder(tree).signature()
  (file,) = (tmp_path / 'cache').rglob('*.json')
  whole = file.read_text()
  file.write_text(damage)
  assert open_folder(tree).signature() == signature
  assert json.loads(file.read_text()) == json.loads(whole)


def test_a_cache_that_cannot_be_written_is_done_without(tree, tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('in the way')
  assert len(Folder(tree, frames=4, size=8, cache=blocked)) == 4


def test_the_signature_is_that_of_the_clips(tree, tmp_path, open_folder):
  signature = open_folder(tree).signature()
  assert json.loads(json.dumps(signature)) == signature
  shutil.copytree(tree, tmp_path / 'elsewhere')  # other path, other times
  assert open_folder(tmp_path / 'elsewhere').signature() == signature
  changes = [{'frames': 3}, {'size': 16}, {'stride': 2}, {'resize': 'squash'}]
  for change in [*changes, {'short': 'loop'}, {'classes': True}]:
    assert open_folder(tree, **change).signature() != signature
  write(tree / 'run/a.mp4', 29)
  assert open_folder(tree).signature() != signature


def test_captions_and_classes_are_part_of_the_signature(tree, open_folder):
  one, two = {'run/a.mp4': ['a', 'b']}, {'run/a.mp4': ['a', 'c']}
  changes = [{}, {'captions': one}, {'captions': two}]
  for pair in (('x', 'y'), ('y', 'x'), ('x', 'x')):
    names = ('run/a.mp4', 'outside.mp4')
    changes.append({'labels': dict(zip(names, pair, strict=True))})
  signatures = [open_folder(tree, **c).signature() for c in changes]
  assert len({json.dumps(s) for s in signatures}) == len(changes)
  # Captions of what is not there change nothing.
  more = open_folder(tree, captions=one | {'gone.mp4': ['d']}).signature()
  assert more == signatures[1]


def test_folders_that_cannot_be_used(tmp_path, open_folder):
  cases = {'missing': 'no such folder', 'file': 'not a folder'}
  cases |= {'empty': 'no videos', 'useless': 'no usable video'}
  (tmp_path / 'file').write_text('')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'useless').mkdir()
  for i in range(5):
    (tmp_path / f'useless/{i}.mp4').write_text('')
  for name, message in cases.items():
    with pytest.raises(DataError, match=message) as caught:
      open_folder(tmp_path / name)
    assert name in str(caught.value)
    assert '\n' not in str(caught.value)
  assert '0.mp4: ' in str(caught.value)
  assert 'and 2 more' in str(caught.value)
  write(tmp_path / 'flat/a.mp4', 5)
  with pytest.raises(DataError, match='no sub-folders'):
    open_folder(tmp_path / 'flat', classes=True)


def test_a_folder_that_may_not_be_listed(tree, open_folder, monkeypatch):
  real = os.scandir

  def scandir(path):
    if Path(path).name == denied:
      raise PermissionError(13, 'Permission denied', path)
    return real(path)

  monkeypatch.setattr(os, 'scandir', scandir)
  denied = 'deep'
  source = open_folder(tree)
  assert ('run/deep', 'Permission denied') in source.problems
  assert 'run/a.mp4' in source.files
  denied = tree.name
  with pytest.raises(DataError, match='Permission denied'):
    open_folder(tree)


def test_links_are_followed_but_not_in_circles(tree, tmp_path, open_folder):
  write(tmp_path / 'far/d.mp4', 9)
  (tree / 'linked').symlink_to(tmp_path / 'far')
  (tree / 'run/circle').symlink_to(tree)
  (tree / 'dangling.mp4').symlink_to(tmp_path / 'nowhere')
  source = open_folder(tree)
  assert 'linked/d.mp4' in source.files
  assert len(source) == 5
  assert 'dangling.mp4' in dict(source.problems)


@pytest.mark.parametrize(
  'options',
  [{'frames': 0}, {'size': 0}, {'stride': 0}, {'resize': 'x'}, {'short': 'x'}],
)
def test_options_that_cannot_work(tree, open_folder, options):
  with pytest.raises(ConfigError, match=next(iter(options))):
    open_folder(tree, **options)


def test_a_video_that_vanishes_is_named(tree, open_folder):
  source = open_folder(tree)
  (tree / 'run/a.mp4').unlink()
  with pytest.raises(DataError, match=r'run/a\.mp4'):
    list(batches(source, batch_size=4, seed=0))


@pytest.mark.parametrize('processes', [0, 1])
def test_threads_and_processes_give_the_same_batches(
  tree, open_folder, processes
):
  source = open_folder(tree)
  found = []
  for options in ({'workers': 0}, {'workers': 4, 'processes': processes}):
    iterator = batches(source, batch_size=6, seed=0, **options)
    found.append(list(itertools.islice(iterator, 4)))
    iterator.close()
  for one, two in zip(*found, strict=True):
    for name in one:
      np.testing.assert_array_equal(one[name], two[name])


def is_gray(picture):
  """Level 100, but for what the filter sees beyond the edge."""
  error = np.abs(picture.astype(int) - 100)
  return error[2:-2, 2:-2].max() == 0 and error.max() < 10


def test_crop_keeps_the_middle_and_squash_the_whole():
  picture = np.zeros((40, 80, 3), np.uint8)
  picture[:, 20:60] = 100
  picture[:, 60:] = 200
  cropped = frames_lib.fit(picture, size=20, resize='crop')
  assert cropped.shape == (20, 20, 3)
  assert is_gray(cropped)
  squashed = frames_lib.fit(picture, size=20, resize='squash')
  assert squashed[10, [1, 10, 18], 0].tolist() == [0, 100, 200]
  tall = frames_lib.fit(picture.transpose(1, 0, 2), size=20, resize='crop')
  assert is_gray(tall)
  assert not is_gray(frames_lib.fit(picture, size=20, resize='squash'))


def test_crop_is_square_to_the_eye():
  """With pixels twice as wide as high, 40 rows are as long as 20 columns."""
  picture = np.zeros((40, 60, 3), np.uint8)
  picture[:, 20:40] = 100
  wide = frames_lib.fit(picture, size=8, resize='crop', aspect=2.0)
  assert is_gray(wide)
  assert not is_gray(frames_lib.fit(picture, size=8, resize='crop'))


def test_a_frame_of_the_right_size_is_left_alone():
  picture = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype='u1')
  for resize in frames_lib.RESIZES:
    same = frames_lib.fit(picture, size=8, resize=resize)
    np.testing.assert_array_equal(same, picture)


@pytest.mark.parametrize('size', [64, 512])
def test_reduction_does_not_alias(size):
  """A board of single pixels becomes gray; every n-th pixel would not."""
  board = np.indices((size, size)).sum(axis=0) % 2 * 255
  picture = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
  small = frames_lib.fit(picture, size=16, resize='crop')
  assert np.abs(small.astype(int) - 127).max() <= 2
  step = size // 16
  assert np.abs(picture[::step, ::step].astype(int) - 127).min() > 100


@pytest.mark.parametrize(('length', 'expected'), [(7, 1), (8, 2), (10, 4)])
def test_every_start_is_as_likely(length, expected):
  starts = [
    int(
      frames_lib.window(
        length, frames=4, stride=2, rng=np.random.default_rng(seed)
      )[0]
    )
    for seed in range(400)
  ]
  counts = np.bincount(starts)
  assert len(counts) == expected
  assert ((counts - 400 / expected) ** 2 / (400 / expected)).sum() < 16.3


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f'no real clips in {CLIPS}')
def test_real_clips(tmp_path):
  source = Folder(CLIPS, frames=16, size=64, cache=tmp_path)
  assert len(source) == 12
  assert [path for path, _ in source.problems] == [
    'corrupted.mp4',
    'short_10_frames.gif',
  ]
  iterator = batches(source, batch_size=12, seed=0)
  video = next(iterator)['video']
  iterator.close()
  assert video.shape == (12, 16, 64, 64, 3)
  assert video.reshape(12, -1).std(axis=1).min() > 10  # pictures, not gray
  assert measure(source, seconds=0.2) > 2
