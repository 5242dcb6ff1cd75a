"""Kinetics-600 in miniature: tiny videos, and lists as the official ones."""

import itertools
import json
import pickle

import numpy as np
import pytest

from vdm_jax.data import kinetics
from vdm_jax.data.kinetics import Kinetics600
from vdm_jax.data.pipeline import batches
from vdm_jax.data.source import Source
from vdm_jax.errors import DataError
from vdm_jax.media import writing

HEADER = 'label,youtube_id,time_start,time_end,split\n'
LIST = (
  HEADER + 'abseiling,-3B32lodo2M,59,69,train\n'
  '"dancing, charleston",_dbcJuKJQ_1,40,50,train\n'
  'yodelling,a_000001_22,0,10,train\n'
  'yodelling,missing0000,1,11,train\n'
  'abseiling,of_the_test,7,17,test\n'
  'zumba,of_validate,7,17,val\n'
)
# The gray level of each of the three videos of the split.
LEVELS = {
  'abseiling/-3B32lodo2M_000059_000069.mp4': 40,
  '_dbcJuKJQ_1_000040_000050.mp4': 120,
  'a_000001_22.mp4': 200,
}


def write(path, level=128, frames=6):
  video = np.full((frames, 16, 16, 3), level, np.uint8)
  writing.write_mp4(path, video, 25, min_side=1)
  return path


@pytest.fixture
def folder(tmp_path):
  """All but one of the split, and files of the others and of none."""
  root = tmp_path / 'videos'
  for name, level in LEVELS.items():
    write(root / name, level)
  write(root / 'of_the_test_000007_000017.mp4')
  write(root / 'abseiling/of_validate.mp4')
  write(root / '-3B32lodo2M_000060_000070.mp4')
  write(root / 'holiday.mp4')
  return root


@pytest.fixture
def csv_file(tmp_path):
  def make(text=LIST):
    path = tmp_path / 'list.csv'
    path.write_text(text)
    return path

  return make


@pytest.fixture
def open_source(folder, csv_file, tmp_path):
  def make(text=LIST, **options):
    options = {'frames': 4, 'size': 8, 'cache': tmp_path / 'cache'} | options
    return Kinetics600(folder, csv_file(text), **options)

  return make


def reasons(source):
  return [reason for _, reason in source.problems]


def test_the_videos_of_the_split_have_the_classes_of_the_list(open_source):
  source = open_source()
  assert isinstance(source, Source)
  assert source.files == sorted(LEVELS)
  # Of all splits, so that labels are the same in each; also without a video.
  classes = ('abseiling', 'dancing, charleston', 'yodelling', 'zumba')
  assert source.classes == classes
  found = {}
  for index in range(len(source)):
    clip = source.clip(index, np.random.default_rng(0))
    assert clip['video'].shape == (4, 8, 8, 3)
    assert clip['label'].dtype == np.int32
    assert abs(clip['video'].mean() - LEVELS[clip['id']]) < 4
    found[clip['id']] = classes[clip['label']]
  assert [found[name] for name in LEVELS] == list(classes[:3])


def test_what_is_missing_is_counted_not_listed(open_source, csv_file):
  source = open_source()
  assert source.problems == [
    (str(csv_file()), "3 of 4 videos of the list are there (split 'train')"),
    (str(source.source.path), '4 files are of no video of the split'),
  ]
  (whole,) = reasons(
    open_source(LIST.replace('missing0000,1,11', 'holiday,1,2'))
  )
  assert whole == '3 files are of no video of the split'


def test_a_video_that_cannot_be_used_is_named(open_source, folder):
  (folder / 'a_000001_22.mp4').write_bytes(b'damaged')
  write(folder / 'abseiling/-3B32lodo2M_000059_000069.mp4', frames=2)
  source = open_source()
  assert source.files == ['_dbcJuKJQ_1_000040_000050.mp4']
  names = [name for name, _ in source.problems[2:]]
  assert names == ['a_000001_22.mp4', 'abseiling/-3B32lodo2M_000059_000069.mp4']


@pytest.mark.parametrize(
  ('split', 'file'),
  [
    ('test', 'of_the_test_000007_000017.mp4'),
    ('validate', 'abseiling/of_validate.mp4'),
    ('val', 'abseiling/of_validate.mp4'),
  ],
)
def test_other_splits(open_source, split, file):
  source = open_source(split=split)
  assert source.files == [file]
  assert source.classes == open_source().classes
  assert reasons(source) == ['6 files are of no video of the split']


def test_the_older_lists(open_source, folder, csv_file):
  """With is_cc; in another order; with decimals; the test list, unlabelled."""
  rows = [line.split(',') for line in LIST.replace(', ', ' ').splitlines()]
  with_cc = '\n'.join(','.join([*row, '0']) for row in rows)
  with_cc = '\ufeff' + with_cc.replace('split,0', 'split, is_cc')
  assert open_source(with_cc).files == open_source().files
  turned = '\n'.join(','.join(row[::-1]) for row in rows)
  assert open_source(turned.replace('59', '59.0')).files == open_source().files
  bare = '\r\n'.join(','.join(row[1:]) for row in rows)
  source = open_source(bare, split='test')
  assert (source.classes, len(source)) == ((), 1)
  assert source.clip(0, np.random.default_rng(0))['label'] == 0


def test_names_without_times_count_if_there_is_no_doubt(csv_file, folder):
  write(folder / 'twice.mkv')
  write(folder / 'twice_3_13.mp4')
  write(folder / 'once.mp4')
  rows = 'x,twice,3,13,train\nx,twice,50,60,test\nx,once,3,13,train\n'
  found = kinetics.find(csv_file(HEADER + rows), folder)
  assert dict(found.labels) == {'twice_3_13.mp4': 'x', 'once.mp4': 'x'}
  assert found.problems[1:] == [
    ('twice.mkv', 'the list has 2 clips of this video')
  ]
  assert kinetics.labels(csv_file(), folder) == {
    name: label
    for name, label in zip(
      LEVELS, ('abseiling', 'dancing, charleston', 'yodelling'), strict=True
    )
  }


def test_duplicates_count_once(open_source, folder):
  for copy in ('-3B32lodo2M.mp4', 'z/-3B32lodo2M_000059_000069.mp4'):
    write(folder / copy)
  rows = 'abseiling,-3B32lodo2M,59,69,train\nzumba,a_000001_22,0,10,train\n'
  source = open_source(LIST + rows)
  assert source.files == sorted(LEVELS)
  first = 'abseiling/-3B32lodo2M_000059_000069.mp4'
  assert source.problems[3:] == [
    ('z/-3B32lodo2M_000059_000069.mp4', f'the same video as {first}'),
    ('-3B32lodo2M.mp4', f'the same video as {first}'),
  ]
  assert reasons(source)[:2] == [
    "3 of 4 videos of the list are there (split 'train')",
    '1 videos of the list are in several classes; the first counts',
  ]
  index = source.files.index('a_000001_22.mp4')
  label = source.clip(index, np.random.default_rng(0))['label']
  assert source.classes[label] == 'yodelling'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'line 1: youtube_id, time_start, time_end, split'),
    ('yodelling,missing0000,1,11,train\n', 'a column of the list is missing'),
    (HEADER.replace('time_end', 'end'), r'missing \(.*line 1: time_end\)'),
    (HEADER + 'a,b,1,11,train\na,b,1,11\n', r'number of columns.*line 3\)'),
    (HEADER + 'a, b,c,1,11,train\n', r'number of columns.*line 2\)'),
    (HEADER + 'a,b,one,11,train\n', r"time_start is no time.*line 2: 'one'"),
    (HEADER + '\na,b,1,nan,train\n', r"time_end is no time.*line 3: 'nan'"),
    (HEADER + 'a,b,-1,9,train\n', r"time_start is no time.*line 2: '-1'"),
    (HEADER + 'a,,1,11,train\n', r'youtube_id is empty.*line 2\)'),
    (HEADER + ' ,b,1,11,train\n', r'label is empty.*line 2\)'),
    (HEADER + 'a,b,1,11,\n', r'split is empty.*line 2\)'),
    (HEADER + 'a,b,1,2,x\na,"b,1,2,x\na,b,1,2,x\n', r'no CSV.*line 3: '),
  ],
)
def test_bad_lists_are_refused_with_the_line(csv_file, text, message):
  assert len(kinetics.read_list(csv_file(HEADER + 'a,b,1,11,train\n'))) == 1
  with pytest.raises(DataError, match=message) as caught:
    kinetics.read_list(csv_file(text))
  assert '\n' not in str(caught.value)


def test_lists_that_cannot_be_read(tmp_path, csv_file):
  with pytest.raises(DataError, match=r'cannot be read \(.*none\.csv: No such'):
    kinetics.read_list(tmp_path / 'none.csv')
  path = csv_file()
  path.write_bytes(LIST.encode() + b'caf\xe9,b,1,11,train\n')
  with pytest.raises(DataError, match=r'not UTF-8 \(.*line 8\)'):
    kinetics.read_list(path)


def test_lists_of_something_else_are_refused(open_source):
  with pytest.raises(DataError, match='has test, train, validate'):
    open_source(split='holdout')
  other = HEADER + 'abseiling,another_one,59,69,train\n'
  with pytest.raises(DataError, match='none of the 1 videos') as caught:
    open_source(other)
  assert 'another_one_000059_000069.mp4' in str(caught.value)


def test_the_signature_holds_what_decides_the_clips(open_source, folder):
  signature = open_source().signature()
  assert json.loads(json.dumps(signature)) == signature
  write(folder / 'more.mp4')  # of no video: nothing changes
  assert open_source().signature() == signature
  assert open_source(LIST + 'a,b,1,11,test\n').signature() != signature
  relabelled = LIST.replace('yodelling,a_', 'zumba,a_')
  assert open_source(relabelled).signature() != signature
  write(folder / 'missing0000_000001_000011.mp4')
  assert open_source().signature() != signature
  every = [signature, open_source(split='test').signature()]
  every += [open_source(frames=3).signature(), open_source().signature()]
  assert all(a != b for a, b in itertools.combinations(every, 2))


def test_it_feeds_the_pipeline_from_any_process(open_source):
  source = pickle.loads(pickle.dumps(open_source()))
  batch = next(batches(source, batch_size=4, seed=0, workers=1))
  again = next(batches(open_source(), batch_size=4, seed=0, workers=2))
  for name in ('video', 'label'):
    np.testing.assert_array_equal(batch[name], again[name])
  assert batch['video'].shape == (4, 4, 8, 8, 3)
