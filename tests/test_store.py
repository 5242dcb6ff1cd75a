"""Frames on disk: what is committed stays, whatever happens after."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from vdm_jax import store as store_lib
from vdm_jax.errors import CheckpointError

SHAPE = (3, 10, 4, 4, 3)
REQUEST = {'steps': 4, 'seed': 0, 'known': (0, 1)}
# Units of work: (rows, frames) that each of them makes.
UNITS = [
  (rows, range(start, start + 5)) for start in (0, 5) for rows in ((0, 1), (2,))
]


def opened(folder, **options):
  return store_lib.FrameStore(
    folder, **({'shape': SHAPE, 'request': REQUEST} | options)
  )


def sampled(store, unit):
  """Frames that depend on those made before, as a sampler's do."""
  rows, frames = UNITS[unit]
  known = store.read(rows, range(frames[0])).astype(int).sum((1, 2, 3, 4))
  seed = int(known.sum()) * 10 + unit
  rng = np.random.default_rng(seed)
  return rng.integers(1, 256, (len(rows), len(frames), *SHAPE[2:]), np.uint8)


def work(store, until=None):
  for unit in range(store.done, len(UNITS) if until is None else until):
    store.write(*UNITS[unit], sampled(store, unit))
    store.commit(unit + 1)
  return np.array(store.videos)


@pytest.fixture
def expected():
  return work(store_lib.MemoryStore(SHAPE))


@pytest.mark.parametrize('kind', ['disk', 'memory'])
def test_frames_lie_where_they_are_written(kind, tmp_path):
  store = (
    opened(tmp_path / 's') if kind == 'disk' else store_lib.MemoryStore(SHAPE)
  )
  assert store.done == 0 and store.videos.shape == SHAPE
  assert not np.asarray(store.videos).any()
  mirror = np.zeros(SHAPE, np.uint8)
  rng = np.random.default_rng(0)
  for _ in range(20):
    rows = rng.permutation(3)[: rng.integers(1, 4)]
    frames = rng.permutation(10)[: rng.integers(1, 11)]
    videos = rng.integers(
      0, 256, (len(rows), len(frames), *SHAPE[2:]), np.uint8
    )
    store.write(rows, frames, videos)
    for i, row in enumerate(rows):
      for k, frame in enumerate(frames):
        mirror[row, frame] = videos[i, k]
    assert (np.asarray(store.videos) == mirror).all()
    found = store.read(rows.tolist(), tuple(frames.tolist()))
    assert (found == videos).all() and found.dtype == np.uint8
    found[:] = 0  # a copy
    assert (np.asarray(store.videos) == mirror).all()
  with pytest.raises(ValueError, match='read-only'):
    store.videos[0] = 0
  assert store.read([0], ()).shape == (1, 0, *SHAPE[2:])


def test_an_interrupted_store_continues_to_the_same_frames(tmp_path, expected):
  # After every number of commits, the frames of the next unit are half there,
  # as rubbish. Who trusts them, as below, gets something else.
  for done in range(len(UNITS)):
    folder = tmp_path / str(done)
    store = opened(folder)
    work(store, until=done)
    rows, frames = UNITS[done]
    rubbish = np.full((1, 3, *SHAPE[2:]), 7, np.uint8)
    store.write(rows[:1], frames[:3], rubbish)
    del store
    again = opened(folder)
    assert again.done == done
    assert (work(again) == expected).all()
  trusting = opened(tmp_path / 'trusting')
  trusting.write(rows[:1], frames[:3], rubbish)
  trusting.commit(len(UNITS))
  assert not (work(opened(tmp_path / 'trusting')) == expected).all()


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[3])
import test_store, vdm_jax.store
calls = 0
def counted(function):
  def call(*args, **options):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
      os.kill(os.getpid(), 9)
    return function(*args, **options)
  return call
for name in ('fsync', 'replace', 'open', 'posix_fallocate'):
  if hasattr(os, name):
    setattr(os, name, counted(getattr(os, name)))
test_store.work(test_store.opened(sys.argv[1]))
"""


@pytest.mark.parametrize('call', [1, 2, 4, 7, 10, 16, 24])
def test_a_killed_process_leaves_what_another_finishes(
  tmp_path, expected, call
):
  folder = tmp_path / 's'
  here = os.path.dirname(__file__)
  process = subprocess.run(
    [sys.executable, '-c', KILLED, str(folder), str(call), here],
    cwd=os.path.dirname(here),
    capture_output=True,
  )
  assert process.returncode == -signal.SIGKILL, process.stderr.decode()
  store = opened(folder)
  assert store.done < len(UNITS)
  assert (work(store) == expected).all()
  store.remove()
  assert not list(tmp_path.iterdir())


def test_data_reaches_the_disk_before_progress_does(tmp_path, monkeypatch):
  store = opened(tmp_path / 's')
  order = []
  sync, replace = os.fsync, os.replace

  def fsync(handle):
    order.append(os.path.basename(os.readlink(f'/proc/self/fd/{handle}')))
    sync(handle)

  def moved(source, target):
    order.append(f'-> {os.path.basename(target)}')
    replace(source, target)

  monkeypatch.setattr(os, 'fsync', fsync)
  monkeypatch.setattr(os, 'replace', moved)
  work(store, until=1)
  part = f'.progress.json.{os.getpid()}.tmp'
  assert order == ['frames.npy', part, '-> progress.json', 's']


def test_the_same_request_is_known_again(tmp_path):
  work(opened(tmp_path / 's'), until=2)
  other_order = {'known': [0, 1], 'seed': 0, 'steps': 4}
  assert opened(tmp_path / 's', request=other_order).done == 2
  assert opened(tmp_path / 's', shape=list(SHAPE)).done == 2


@pytest.mark.parametrize(
  'change',
  [
    {'request': REQUEST | {'seed': 1}},
    {'request': {}},
    {'shape': (4, *SHAPE[1:])},
  ],
)
def test_another_request_begins_anew_and_loses_nothing(
  tmp_path, capsys, change
):
  half = work(opened(tmp_path / 's'), until=2)
  for number in (1, 2):
    store = opened(tmp_path / 's', **(change if number == 1 else {}))
    assert store.done == 0 and not np.asarray(store.videos).any()
    aside = tmp_path / f's.old{number}'
    assert str(aside) in capsys.readouterr().out
    store.commit(1)
  kept = np.load(tmp_path / 's.old1' / 'frames.npy')
  assert (kept == half).all()
  kept = json.loads((tmp_path / 's.old1' / 'progress.json').read_text())
  assert kept == {'done': 2}


HOLDER = """
import sys
sys.path.insert(0, sys.argv[2])
import test_store
store = test_store.opened(sys.argv[1])
print('mine', flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_has_a_store(tmp_path):
  folder, here = tmp_path / 's', os.path.dirname(__file__)
  holder = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(folder), here],
    cwd=os.path.dirname(here),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  assert holder.stdout.readline() == b'mine\n'
  for options in ({}, {'request': {}}):  # nor is it moved aside meanwhile
    with pytest.raises(CheckpointError, match='another process'):
      opened(folder, **options)
  assert opened(tmp_path / 'other').done == 0
  holder.kill()
  holder.communicate()
  assert opened(folder).done == opened(folder).done == 0
  assert [p.name for p in tmp_path.glob('s*')] == ['s']


def test_what_was_never_finished_is_replaced_without_a_word(tmp_path, capsys):
  store = opened(tmp_path / 's')
  store.write(*UNITS[0], sampled(store, 0))
  opened(tmp_path / 's', request={})
  assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ['s']
  assert not capsys.readouterr().out


@pytest.mark.parametrize('damage', ['{', '{"done": "2"}', '[]', None])
def test_a_damaged_store_is_kept_but_not_continued(tmp_path, capsys, damage):
  work(opened(tmp_path / 's'), until=2)
  progress = tmp_path / 's' / 'progress.json'
  progress.unlink() if damage is None else progress.write_text(damage)
  assert opened(tmp_path / 's').done == 0
  assert (tmp_path / 's.old1' / 'frames.npy').exists()
  assert 's.old1' in capsys.readouterr().out


@pytest.mark.parametrize('length', [0, 50, 400])
def test_a_cut_file_is_not_continued(tmp_path, length):
  work(opened(tmp_path / 's'), until=2)
  os.truncate(tmp_path / 's' / 'frames.npy', length)
  assert opened(tmp_path / 's').done == 0


def test_files_of_others_survive(tmp_path):
  folder = tmp_path / 's'
  folder.mkdir()
  (folder / 'mine.txt').write_text('mine')
  store = opened(folder)
  assert (tmp_path / 's.old1' / 'mine.txt').read_text() == 'mine'
  (folder / 'mine.txt').write_text('mine')
  store.remove()
  assert [p.name for p in folder.iterdir()] == ['mine.txt']


def test_units_do_not_become_unfinished(tmp_path):
  for store in (opened(tmp_path / 's'), store_lib.MemoryStore(SHAPE)):
    store.commit(2)
    with pytest.raises(ValueError, match='2 units'):
      store.commit(1)
    assert store.done == 2
    store.remove()
  assert not (tmp_path / 's').exists()


def test_a_full_disk_is_one_line_before_any_work(tmp_path, monkeypatch):
  huge = (10**6, 10**4, 64, 64, 3)
  with pytest.raises(CheckpointError, match=r'GB free.*122880\.0 GB') as caught:
    opened(tmp_path / 's', shape=huge)
  assert '\n' not in str(caught.value)
  usage = collections.namedtuple('usage', 'total used free')
  size = int(np.prod(SHAPE))

  def disk(free):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(0, 0, free))

  disk(size)
  with pytest.raises(CheckpointError, match='too full'):
    opened(tmp_path / 's')
  disk(size + 2**27)
  assert opened(tmp_path / 's').done == 0


def test_space_that_cannot_be_had_leaves_nothing_behind(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'posix_fallocate', refuse)
  with pytest.raises(CheckpointError, match='too full'):
    opened(tmp_path / 's')
  assert [p.name for p in tmp_path.iterdir()] == ['.s.lock']


def test_the_space_is_taken_at_once(tmp_path):
  shape = (1, 64, 64, 64, 3)
  opened(tmp_path / 's', shape=shape)
  file = tmp_path / 's' / 'frames.npy'
  assert file.stat().st_blocks * 512 >= np.prod(shape)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  for folder in (tmp_path / 'file', tmp_path / 'file' / 's'):
    with pytest.raises(CheckpointError, match='file'):
      opened(folder)


def test_memory_does_not_grow_with_the_video(tmp_path):
  # 96 MiB pass through; what the process holds of them at the end is little.
  shape = (1, 512, 256, 256, 3)
  store = opened(tmp_path / 's', shape=shape)
  block = np.ones((1, 8, *shape[2:]), np.uint8)
  before = resident()
  for start in range(0, shape[1], 8):
    store.write([0], range(start, start + 8), block)
    assert store.read([0], range(start, start + 8)).all()
    store.commit(start + 8)
  assert resident() - before < 2**24
  videos = store.videos  # a map that stays open does hold what it has shown
  assert videos.all()
  assert resident() - before > 2**26


def resident():
  """Bytes of memory that this process occupies."""
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
