"""What fails in the middle of an epoch costs one clip, and not the run."""

import itertools
import os
import signal
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data import faulty as faulty_module
from tests.data.faulty import Faulty
from vdm_jax.data import captioned, index, workers
from vdm_jax.data.faults import LINES, Faults
from vdm_jax.data.folder import Folder
from vdm_jax.data.pipeline import TRIES, Order, batches
from vdm_jax.data.source import checked
from vdm_jax.data.strides import Strides
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.media import reading

SIZE = 4  # clips of a batch


def take(source, count, **options):
  options = {'seed': 0, 'workers': 0, 'batch_size': SIZE} | options
  iterator = batches(source, **options)
  found = list(itertools.islice(iterator, count))
  iterator.close()
  return found


def assert_equal(ours, theirs):
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


BAD = {3: 'fail', 11: 'fail', 12: 'fail'}


def faulty(**options):
  return Faulty(20, BAD, **options)


def test_another_clip_takes_the_place():
  whole = take(Faulty(20), 10)
  faults = Faults(1.0)
  found = take(faulty(), 10, faults=faults)
  assert faults.drawn == 40 + faults.failed
  replaced = 0
  for ours, theirs in zip(found, whole, strict=True):
    bad = np.isin(theirs['index'], list(BAD))
    replaced += bad.sum()
    good = ours['index'] == theirs['index']
    np.testing.assert_array_equal(good, ~bad)
    assert not np.isin(ours['index'], list(BAD)).any()
    np.testing.assert_array_equal(ours['video'][good], theirs['video'][good])
    np.testing.assert_array_equal(ours['video'][:, 0, 0, 0, 0], ours['index'])
  assert faults.failed >= replaced == 6  # at times a second try
  # The control: where none may fail, the first one is the end.
  with pytest.raises(DataError, match='it is damaged'):
    take(faulty(), 10)


def test_which_one_is_a_function_of_the_position():
  whole = take(faulty(), 8, faults=Faults(1.0))
  for options in ({'workers': 3}, {'start_step': 3}):
    start = options.get('start_step', 0)
    part = take(faulty(), 8 - start, faults=Faults(1.0), **options)
    assert_equal(part, whole[start:])
  halves = [
    take(faulty(), 8, faults=Faults(1.0), process_index=i, process_count=2)
    for i in range(2)
  ]
  joined = [
    {k: np.concatenate([a[k], b[k]]) for k in a}
    for a, b in zip(*halves, strict=True)
  ]
  assert_equal(joined, whole)
  rows = take(faulty(), 8, faults=Faults(1.0), rows=[2, 0])
  assert_equal(rows, [{k: v[[2, 0]] for k, v in b.items()} for b in whole])


def test_every_clip_is_as_likely_to_take_the_place():
  order = Order(5, 1, seed=0)
  counts = np.bincount([order.element(p, 1) for p in range(500)], minlength=5)
  assert ((counts - 100) ** 2 / 100).sum() < 18.5  # p = 0.001
  again = [order.element(7, k) for k in range(1, 50)]
  assert len(set(again)) == 5


def test_a_file_is_named_once_and_the_rest_is_counted(capfd):
  faults = Faults(1.0)
  take(faulty(), 30, faults=faults)
  lines = capfd.readouterr().err.splitlines()
  assert sorted(line.split('clip ')[2].split()[0] for line in lines) == [
    '11.mp4',
    '12.mp4',
    '3.mp4',
  ]
  assert f'{faults.failed} of {faults.drawn} clips' in faults.summary()
  assert not Faults(1.0).summary()
  many = Faulty(200, {i: 'fail' for i in range(0, 200, 2)})
  take(many, 40, faults=Faults(1.0))
  lines = capfd.readouterr().err.splitlines()
  assert len(lines) == LINES + 1
  assert 'they are counted' in lines[-1]


def test_too_many_are_an_error():
  half = Faulty(200, {i: 'fail' for i in range(0, 200, 2)})
  faults = Faults(0.1)
  with pytest.raises(DataError, match=r'too many.*mp4.*bad_share') as caught:
    take(half, 100, faults=faults)
  assert caught.value.status == 3 and len(str(caught.value)) <= 300
  assert 10 < faults.failed < 20 and faults.drawn < 40
  # One in fifty is within a tenth, and not within a hundredth.
  few = Faulty(50, {7: 'fail'})
  take(few, 400, faults=Faults(0.1))
  with pytest.raises(DataError, match='too many'):
    take(few, 400, faults=Faults(0.01))


@pytest.mark.parametrize('length', [1, 500])
def test_where_nothing_can_be_read(length):
  source = Faulty(length, dict.fromkeys(range(length), 'fail'))
  with pytest.raises(DataError, match='too many'):
    take(source, 1, faults=Faults(0.01))
  faults = Faults(1.0)
  with pytest.raises(DataError):
    take(source, 1, faults=faults)
  assert faults.failed <= TRIES


def test_threads_tell_of_a_clip_that_takes_too_long():
  source = Faulty(20, {int(Order(20, SIZE, 0).element(5)): 'hang'})
  iterator = batches(
    source, batch_size=SIZE, seed=0, seconds=0.3, faults=Faults(1.0)
  )
  next(iterator)
  begin = time.monotonic()
  with pytest.raises(DataError, match=r'clip \d+.mp4 is being read for'):
    next(iterator)
  assert time.monotonic() - begin < 10
  assert list(iterator) == []


@pytest.fixture(scope='module')
def module_marks(tmp_path_factory):
  return str(tmp_path_factory.mktemp('marks') / 'marks')


def test_processes_survive_what_the_decoder_does(module_marks):
  """Hangs, dies, leaves, eats the memory: each costs its clip."""
  faults = ('hang', 'exit', 'crash', 'swallow', 'fail')
  source = Faulty(20, dict(zip((3, 6, 9, 12, 15), faults, strict=True)))
  account = Faults(1.0)
  options = {'faults': account, 'memory': 2**30, 'seconds': 0.5}
  found = take(source, 5, processes=2, **options)
  assert account.failed >= 5
  plain = Faulty(20, dict.fromkeys(source.faults, 'fail'))
  assert_equal(found, take(plain, 5, faults=Faults(1.0)))


def test_a_worker_says_how_it_ended():
  source = Faulty(9, {1: 'crash', 2: 'exit', 3: 'hang', 4: 'see jax'})
  pool = workers.Workers(Reader(source), 1)
  reasons = {1: 'SIGSEGV', 2: 'status 0', 3: 'no result after'}
  for number, reason in reasons.items():
    with pytest.raises(workers.Lost, match=reason):
      pool(number, np.random.default_rng(0), seconds=0.5)
    clip = pool(8, np.random.default_rng(0))
    assert clip['id'] == 'clip 8.mp4'
  # Workers start without JAX; and one killed while idle is nobody's fault.
  pool(4, np.random.default_rng(0))
  pool._all[0]._process.send_signal(signal.SIGKILL)
  pool._all[0]._process.wait()
  assert pool(5, np.random.default_rng(0))['id'] == 'clip 5.mp4'
  process = pool._all[0]._process
  pool.close()
  assert process.poll() is not None
  with pytest.raises(workers.Closed):
    pool(5, np.random.default_rng(0))


class Reader:
  """`checked`, as a function of the source's module alone."""

  def __new__(cls, source):
    import functools

    return functools.partial(checked, source)


def test_ctrl_c_leaves_the_workers_alone():
  pool = workers.Workers(Reader(Faulty(9)), 1)
  pool(1, np.random.default_rng(0))
  process = pool._all[0]._process
  for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(process.pid, number)
  assert pool(2, np.random.default_rng(0))['id'] == 'clip 2.mp4'
  assert pool._all[0]._process is process
  pool.close()


def test_a_source_that_cannot_travel_is_a_mistake_of_the_config():
  class Local(Faulty):
    pass

  with pytest.raises(ConfigError, match='processes'):
    take(Local(3), 1, processes=1)


def test_closing_ends_readers_that_hang():
  source = Faulty(4, dict.fromkeys(range(4), 'hang'))
  before = threading.active_count()
  iterator = batches(
    source, batch_size=2, seed=0, processes=1, faults=Faults(1.0)
  )
  assert not iterator.ready(0.2)
  iterator.close()
  deadline = time.monotonic() + 20
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.05)
  assert threading.active_count() <= before


def write(path, stamps, *, base=1000, size=16):
  """A video whose frame i has the gray level 10 + 5 i, and its time stamp."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=base)
    stream.height = stream.width = size
    stream.pix_fmt, stream.gop_size = 'yuv444p', 8
    stream.options = {'qp': '4', 'preset': 'ultrafast', 'bf': '0'}
    stream.codec_context.time_base = Fraction(1, base)
    for number, stamp in enumerate(stamps):
      picture = np.full((size, size, 3), 10 + 5 * number, np.uint8)
      frame = av.VideoFrame.from_ndarray(picture)
      frame.pts, frame.time_base = stamp, Fraction(1, base)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def numbers(video):
  """The numbers of the frames that `write` has drawn."""
  return np.rint((video.mean(axis=(1, 2, 3)) - 10) / 5).astype(int)


def test_irregular_frames_are_chosen_by_their_times(tmp_path):
  """Gaps of 14 to 53 ms, as telephones write them (mean 33)."""
  gaps = np.random.default_rng(1).integers(14, 54, size=47)
  gaps[20:24] = 53, 53, 14, 53
  stamps = np.concatenate([[0], np.cumsum(gaps)])
  path = write(tmp_path / 'irregular.mp4', stamps.tolist())
  known = reading.scan(path)
  assert known.frames == 48 and len(known.ticks) == 48
  clock = np.linspace(0, stamps[-1], 48)
  found = numbers(reading.read(path, range(48), index=known))
  nearest = np.abs(clock[:, None] - stamps[None]).argmin(axis=1)
  np.testing.assert_array_equal(found, nearest)
  # So every tick shows what was to be seen then, within half a gap.
  assert np.abs(stamps[found] - clock).max() <= 53 / 2
  # The control: in the order of the decoder they run far from the clock.
  plain = numbers(reading.read(path, range(48)))
  np.testing.assert_array_equal(plain, np.arange(48))
  assert np.abs(stamps[plain] - clock).max() > 2 * 53 / 2
  # Jumps lead to the same frames.
  part = reading.read(path, range(30, 34), index=known)
  np.testing.assert_array_equal(numbers(part), found[30:34])
  with pytest.raises(reading.VideoError, match='no frame 48'):
    reading.read(path, [48], index=known)


def test_regular_frames_are_those_of_the_decoder(tmp_path):
  # Rounded to milliseconds, as in Matroska.
  stamps = [round(1000 * i / 30) for i in range(40)]
  assert reading.scan(write(tmp_path / 'a.mp4', stamps)).ticks == ()
  assert reading._ticks([None, 1, 2]) == ()
  assert reading._ticks([0, -1, 5, 6]) == ()
  assert reading._ticks([0, 1]) == ()
  assert reading._ticks([0, 1, 4]) == ()
  assert reading._ticks([0, 1, 2, 9]) == (0, 2, 3, 3)  # the control


def test_a_folder_knows_irregular_files(tmp_path):
  root = tmp_path / 'videos'
  root.mkdir()
  write(root / 'a.mp4', [40 * i for i in range(30)])
  options = {'frames': 4, 'size': 8, 'cache': tmp_path / 'cache', 'stride': 3}
  regular = Folder(root, **options)
  stamps = np.cumsum([0, *([20, 60] * 15)][:30])
  stamps[10:] += 150
  write(root / 'a.mp4', stamps.tolist())
  for _ in range(2):  # the second time by the cache
    irregular = Folder(root, **options)
    for seed in range(5):
      clip = irregular.clip(0, np.random.default_rng(seed))['video']
      gaps = np.diff(stamps[numbers(clip)])
      # Each end is off by half of the largest gap at most.
      assert np.abs(gaps - 3 * stamps[-1] / 29).max() <= 210
      assert gaps.sum() == pytest.approx(9 * stamps[-1] / 29, abs=210)
  assert regular.signature() != irregular.signature()


def test_files_of_endless_frames_are_left_out(tmp_path, monkeypatch):
  path = write(tmp_path / 'a.mp4', [40 * i for i in range(9)])
  monkeypatch.setattr(reading, 'MAX_FRAMES', 9)
  assert reading.scan(path).frames == 9
  monkeypatch.setattr(reading, 'MAX_FRAMES', 8)
  with pytest.raises(DataError, match='more than 8 frames'):
    reading.scan(path)


def test_indexing_survives_crashes_and_hangs(tmp_path, monkeypatch):
  for name in ('a', 'crash', 'hang'):
    write(tmp_path / f'{name}.mp4', [40 * i for i in range(9)])
  monkeypatch.setattr(index, '_scan', faulty_module.scan)
  known, problems = index.index(
    tmp_path,
    ['a.mp4', 'crash.mp4', 'hang.mp4'],
    cache=None,
    workers=1,
    processes=2,
    seconds=1.0,
  )
  assert set(known) == {'a.mp4'}
  assert [name for name, _ in problems] == ['crash.mp4', 'hang.mp4']
  assert 'SIGSEGV' in problems[0][1] and 'no result' in problems[1][1]


def test_embeddings_that_are_not_finite_are_a_fault():
  mask = np.ones((1, 2), bool)

  class Texts(Faulty):
    def clip(self, number, rng):
      text = np.ones((1, 2, 3), np.float32)
      text[0, 0, 0] = np.nan if number == 2 else 1
      return super().clip(number, rng) | {'text': text, 'text_mask': mask}

  rng = np.random.default_rng(0)
  assert checked(Texts(3), 1, rng)
  with pytest.raises(DataError, match='text must be finite'):
    checked(Texts(3), 2, rng)


@pytest.mark.parametrize('name', ['../secret.mp4', '/etc/passwd', 'a/../../b'])
def test_captions_of_files_outside_the_folder_are_refused(tmp_path, name):
  root = tmp_path / 'videos'
  root.mkdir()
  path = tmp_path / 'captions.csv'
  path.write_text(f'video,caption\na.mp4,fine\n{root}/b.mp4,fine\n')
  assert set(captioned.captions_of(path, root)) == {'a.mp4', 'b.mp4'}
  path.write_text(f'video,caption\na.mp4,fine\n{name},a cat\n')
  with pytest.raises(DataError, match='outside'):
    captioned.captions_of(path, root)


def test_a_clip_of_another_length_costs_itself():
  """Never a short batch, whatever the source does."""

  class Short(Faulty):
    def clip(self, number, rng):
      clip = super().clip(number, rng)
      cut = 1 if number == 5 else 2
      return clip | {'video': clip['video'][:cut]}

  faults = Faults(1.0)
  found = take(Short(20), 5, faults=faults)
  assert faults.failed == 1
  assert_equal(found, take(Faulty(20, {5: 'fail'}), 5, faults=Faults(1.0)))


def test_names_of_elements_are_the_ids_of_their_clips():
  strides = Strides({1: Faulty(4), 2: Faulty(3)})
  rng = np.random.default_rng(0)
  assert strides.name(1) == 'clip 1.mp4'
  assert strides.name(3) == 'clip 3.mp4 or clip 0.mp4'
  for number in (1, 3):
    assert strides.clip(number, rng)['id'] in strides.name(number)
