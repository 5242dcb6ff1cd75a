"""One process does what all need, and the others wait for it alone."""

import collections
import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import subprocess
import sys
import threading
import time

import pytest

from vdm_jax import errors
from vdm_jax.data import bair, index, tfds_frames, turns, ucf101
from vdm_jax.media import reading

HOLDER = """
import sys, time
from vdm_jax.data import turns
with turns.turn(sys.argv[1], 'work'):
  print('held', flush=True)
  time.sleep(600)
"""


@contextlib.contextmanager
def no_turn(*_):
  yield


def together(count, call):
  """What threads that begin at once return; each opens files of its own."""
  begin = threading.Barrier(count)

  def run(_):
    begin.wait()
    return call()

  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    return [*pool.map(run, range(count))]


@pytest.mark.parametrize('locked', [True, False])
def test_one_at_a_time(tmp_path, capsys, locked):
  inside, most = [], []
  turn = turns.turn if locked else no_turn

  def work():
    with turn(tmp_path / 'new' / 'lock', 'count'):
      inside.append(1)
      most.append(len(inside))
      time.sleep(0.1)
      inside.pop()

  together(3, work)
  assert (max(most) == 1) == locked
  said = capsys.readouterr().out.count('waiting for another process to count\n')
  assert said == 2 * locked


def test_a_lock_goes_with_its_process(tmp_path):
  path = tmp_path / 'lock'
  command = [sys.executable, '-c', HOLDER, str(path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == b'held\n'
    with path.open('a') as file, pytest.raises(BlockingIOError):
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    kill = threading.Timer(0.3, holder.kill)
    kill.start()
    begin = time.monotonic()
    with turns.turn(path, 'work'):
      assert 0.2 < time.monotonic() - begin < 60


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, capsys):
  def flock(*_):
    raise OSError(number, 'no locks')

  monkeypatch.setattr(fcntl, 'flock', flock)
  number = errno.ENOLCK
  for path in (tmp_path / 'lock', 'gs://bucket/lock'):
    with turns.turn(path, 'work'):
      pass
  assert capsys.readouterr().err.count('knows no locks') == 2
  number = errno.EIO
  with (
    pytest.raises(OSError, match='no locks'),
    turns.turn(tmp_path / 'lock', 'work'),
  ):
    pass


@pytest.mark.parametrize('locked', [True, False])
def test_a_folder_is_indexed_once(tmp_path, monkeypatch, capsys, locked):
  scanned = collections.Counter()

  def scan(path):
    scanned[path.name] += 1
    time.sleep(0.1)
    if path.name == 'broken.mp4':
      raise reading.VideoError(path, 'damaged')
    return reading.Index(8, 16, 32, 25.0)

  names = ['a.mp4', 'b.mp4', 'broken.mp4']
  for name in names:
    (tmp_path / name).write_bytes(b'a video')
  monkeypatch.setattr(index.reading, 'scan', scan)
  if not locked:
    monkeypatch.setattr(turns, 'turn', no_turn)
  run = functools.partial(
    index.index, tmp_path, [*names, 'gone.mp4'], cache=tmp_path, workers=2
  )
  one, *others = together(3, run)
  assert all(other == one for other in others) and len(one[0]) == 2
  assert [name for name, _ in one[1]] == ['broken.mp4', 'gone.mp4']
  assert (set(scanned.values()) == {1}) == locked
  said = capsys.readouterr()
  assert said.out.count('waiting for another process to index') == 2 * locked
  before = dict(scanned)
  assert run() == one  # the next start tries what could not be read again
  assert scanned == before | {'broken.mp4': before['broken.mp4'] + 1}


class Builder:
  """Stands in for TFDS': its folder, and whether it was prepared."""

  def __init__(self, folder):
    self.data_dir = str(folder / 'name' / '1.0.0')
    self._done = folder / 'done'
    self._was = self._done.exists()

  def is_prepared(self):
    return self._was

  def fill(self):
    time.sleep(0.1)
    self._done.touch()


@pytest.mark.parametrize('locked', [True, False])
@pytest.mark.parametrize('module', [ucf101, bair])
def test_data_are_prepared_once(module, tmp_path, monkeypatch, locked):
  filled = []

  def prepare(builder, **_):
    filled.append(1)
    builder.fill()

  monkeypatch.setattr(module, '_builder', lambda *_: Builder(tmp_path))
  monkeypatch.setattr(tfds_frames, 'prepare', prepare)
  if module is ucf101:
    monkeypatch.setattr(ucf101, '_ffmpeg', contextlib.nullcontext)
  options = {'size': 8} if module is ucf101 else {}
  if not locked:
    monkeypatch.setattr(turns, 'turn', no_turn)
  together(3, functools.partial(module.prepare, tmp_path, None, **options))
  assert len(filled) == (1 if locked else 3)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'name').write_text('in the way')
  builder = Builder(tmp_path / 'name')
  with (
    pytest.raises(errors.DataError, match=r'config\.data\.path'),
    tfds_frames.turn(builder, 'UCF-101'),
  ):
    pass
