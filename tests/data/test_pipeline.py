import itertools
import json
import threading
import time

import numpy as np
import pytest

from vdm_jax.data.benchmark import measure
from vdm_jax.data.pipeline import Order, batches, data_signature
from vdm_jax.errors import ConfigError, DataError


class Numbers:
  """Clips that hold their own index, and one number drawn at random."""

  classes = ('even', 'odd')

  def __init__(self, length, *, bad=None, error=None):
    self.length, self.bad, self.error = length, bad, error
    self.read = []

  def __len__(self):
    return self.length

  def clip(self, index, rng):
    self.read.append(index)
    if index == self.bad:
      raise self.error
    video = np.full((2, 4, 4, 3), index, np.uint8)
    video[1] = rng.integers(256, size=(4, 4, 3))
    return {'video': video, 'label': np.int32(index % 2), 'id': f'n{index}'}

  def signature(self):
    return {'length': self.length}


def take(source, count, **options):
  iterator = batches(source, **({'seed': 0, 'workers': 0} | options))
  found = list(itertools.islice(iterator, count))
  iterator.close()
  return found


def assert_equal(ours, theirs):
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_holds_what_its_index_says():
  for batch in take(Numbers(10), 5, batch_size=4):
    assert batch['video'].dtype == np.uint8
    assert batch['video'].shape == (4, 2, 4, 4, 3)
    assert batch['label'].dtype == np.int32
    assert batch['index'].dtype == np.int64
    np.testing.assert_array_equal(batch['video'][:, 0, 0, 0, 0], batch['index'])
    np.testing.assert_array_equal(batch['label'], batch['index'] % 2)


@pytest.mark.parametrize('length', [1, 2, 7, 100])
def test_an_epoch_has_every_element_once(length):
  order = Order(length, batch_size=4, seed=3)
  for epoch in range(3):
    places = range(epoch * length, (epoch + 1) * length)
    assert sorted(map(order.element, places)) == list(range(length))


def test_epochs_and_seeds_have_orders_of_their_own():
  orders = [
    tuple(Order(50, 1, seed).element(epoch * 50 + i) for i in range(50))
    for seed in range(4)
    for epoch in range(4)
  ]
  assert len(set(orders)) == len(orders)
  assert tuple(range(50)) not in orders


def test_every_place_is_as_likely():
  # 3 elements have 6 orders: 600 seeds give each 100 times, ± 9 at one sigma.
  orders = [
    tuple(Order(3, 1, seed).element(i) for i in range(3)) for seed in range(600)
  ]
  counts = [orders.count(p) for p in itertools.permutations(range(3))]
  assert sum(counts) == 600
  assert sum((count - 100) ** 2 / 100 for count in counts) < 20.5  # p = 0.001


@pytest.mark.parametrize('workers', [0, 3])
def test_a_run_starts_at_any_step(workers):
  whole = take(Numbers(10), 8, batch_size=4)
  for start in (0, 1, 5):
    part = take(Numbers(10), 3, batch_size=4, start_step=start, workers=workers)
    assert_equal(part, whole[start : start + 3])


def test_a_late_start_reads_nothing_of_what_came_before():
  source = Numbers(100)
  take(source, 1, batch_size=4, start_step=10**9)
  assert len(source.read) == 4


@pytest.mark.parametrize('count', [2, 4])
def test_processes_share_one_global_batch(count):
  whole = take(Numbers(10), 4, batch_size=8)
  parts = [
    take(Numbers(10), 4, batch_size=8, process_index=i, process_count=count)
    for i in range(count)
  ]
  joined = [
    {name: np.concatenate([p[name] for p in step]) for name in step[0]}
    for step in zip(*parts, strict=True)
  ]
  assert_equal(joined, whole)


def test_other_seeds_and_epochs_give_other_clips():
  first, second = take(Numbers(1), 2, batch_size=1)
  (other,) = take(Numbers(1), 1, batch_size=1, seed=1)
  clips = [b['video'][0, 1].tobytes() for b in (first, second, other)]
  assert len(set(clips)) == 3
  assert_equal([first], take(Numbers(1), 1, batch_size=1))


def test_the_order_tells_the_batches_without_reading():
  source, order = Numbers(10), Order(10, batch_size=4, seed=0)
  for step, batch in enumerate(take(source, 6, batch_size=4)):
    np.testing.assert_array_equal(order.step(step), batch['index'])
    for i, video in enumerate(batch['video']):
      clip = order.clip(source, step * 4 + i)
      np.testing.assert_array_equal(clip['video'], video)


def test_fewer_elements_than_a_batch_repeat():
  (batch,) = take(Numbers(3), 1, batch_size=8)
  assert np.bincount(batch['index'], minlength=3).tolist() in (
    [3, 3, 2],
    [3, 2, 3],
    [2, 3, 3],
  )
  clips = {video[1].tobytes() for video in batch['video']}
  assert len(clips) == 8  # each time with new randomness


def test_reading_ahead_starts_at_once_and_is_bounded():
  source = Numbers(1000)
  iterator = batches(source, batch_size=4, seed=0, workers=2, ahead=3)
  deadline = time.monotonic() + 10
  while len(source.read) < 12 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.1)
  assert len(source.read) == 12
  iterator.close()


@pytest.mark.parametrize('workers', [0, 2])
def test_a_clip_that_fails_is_named_and_ends_the_stream(workers):
  error = DataError('a video cannot be read (a.mp4: damaged); remove it')
  source = Numbers(20, bad=7, error=error)
  step = next(s for s in range(5) if 7 in Order(20, 4, 0).step(s))
  iterator = batches(source, batch_size=4, seed=0, workers=workers)
  assert_equal(
    list(itertools.islice(iterator, step)),
    take(Numbers(20), step, batch_size=4),
  )
  with pytest.raises(DataError, match=r'a\.mp4'):
    next(iterator)
  assert list(iterator) == []


def test_a_failure_of_another_kind_becomes_one_line():
  source = Numbers(4, bad=2, error=KeyError('x'))
  with pytest.raises(DataError, match=r'element 2 .*KeyError') as caught:
    take(source, 1, batch_size=4)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'video',
  [
    np.zeros((2, 4, 4, 3), np.float32),
    np.zeros((4, 4, 3), np.uint8),
    np.zeros((2, 4, 4, 1), np.uint8),
  ],
)
def test_what_is_not_a_clip_is_refused(video):
  class Wrong(Numbers):
    def clip(self, index, rng):
      return super().clip(index, rng) | {'video': video}

  with pytest.raises(DataError, match='uint8'):
    take(Wrong(3), 1, batch_size=1)


MASK = np.zeros((2, 5), bool)
MASK[:, :3] = True
TEXT = {'text': MASK.astype(np.int32), 'text_mask': MASK}


class Extended(Numbers):
  """Numbers with fields of the test's choice."""

  def __init__(self, length, fields):
    super().__init__(length)
    self.fields = fields

  def clip(self, index, rng):
    return super().clip(index, rng) | self.fields


def test_batches_hold_all_arrays_and_nothing_else():
  fields = {
    'label': np.array([1, -1], np.int32),
    'stride': np.int32(3),
    'caption': 'not an array',
    **TEXT,
  }
  (batch,) = take(Extended(4, fields), 1, batch_size=3)
  names = {'video', 'label', 'text', 'text_mask', 'stride', 'index'}
  assert set(batch) == names
  for name in names - {'video', 'index'}:
    one = np.asarray(fields[name])
    assert batch[name].dtype == one.dtype
    np.testing.assert_array_equal(batch[name], np.stack([one] * 3))
  float_text = {'text': np.ones((2, 5, 3), np.float32)}
  (batch,) = take(Extended(4, fields | float_text), 1, batch_size=3)
  assert batch['text'].shape == (3, 2, 5, 3)


@pytest.mark.parametrize(
  ('fields', 'match'),
  [
    ({'label': np.float32(1)}, 'label'),
    ({'label': np.zeros((1, 1), np.int32)}, 'label'),
    ({'stride': np.zeros(1, np.int32)}, 'stride'),
    ({'stride': np.float32(1)}, 'stride'),
    ({'text': TEXT['text']}, 'mask'),
    ({'text_mask': MASK}, 'mask'),
    (TEXT, 'slots'),  # two texts, one label
    (TEXT | {'label': np.zeros(3, np.int32)}, 'slots'),
    (TEXT | {'text_mask': MASK[:, :4]}, 'text'),
    (TEXT | {'text_mask': MASK.astype(int)}, 'text'),
    (TEXT | {'text': np.ones((2, 5), np.float32)}, 'text'),
    (TEXT | {'text': np.ones((2, 5, 3), np.float64)}, 'text'),
  ],
)
def test_conditions_that_do_not_fit_are_refused(fields, match):
  fields = {'label': np.zeros(2 if match == 'text' else (), np.int32)} | fields
  with pytest.raises(DataError, match=f'{match}.*for n') as caught:
    take(Extended(3, fields), 1, batch_size=1)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'options',
  [
    {'batch_size': 0},
    {'batch_size': 6, 'process_count': 4},
    {'batch_size': 4, 'process_index': 2, 'process_count': 2},
    {'batch_size': 4, 'process_count': 0},
    {'batch_size': 4, 'seed': -1},
    {'batch_size': 4, 'start_step': -1},
    {'batch_size': 4, 'workers': -1},
    {'batch_size': 4, 'ahead': 0},
  ],
)
def test_sizes_that_cannot_work_are_refused_at_the_call(options):
  with pytest.raises(ConfigError):
    batches(Numbers(10), **({'seed': 0} | options))


def test_a_batch_that_does_not_divide_names_those_that_do():
  with pytest.raises(ConfigError, match='use 4 or 8'):
    batches(Numbers(10), batch_size=6, seed=0, process_count=4)


def test_an_empty_source_is_refused_at_the_call():
  with pytest.raises(DataError):
    batches(Numbers(0), batch_size=1, seed=0)


def test_closing_ends_the_threads():
  before = set(threading.enumerate())
  iterator = batches(Numbers(10), batch_size=2, seed=0, workers=3)
  next(iterator)
  new = set(threading.enumerate()) - before
  assert new
  iterator.close()
  for thread in new:
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_the_signature_changes_with_what_decides_the_data():
  base = {'source': Numbers(10), 'batch_size': 4, 'seed': 0}
  signature = data_signature(**base)
  assert json.loads(json.dumps(signature)) == signature
  assert data_signature(**base | {'source': Numbers(10)}) == signature
  for change in ({'source': Numbers(11)}, {'batch_size': 8}, {'seed': 1}):
    assert data_signature(**base | change) != signature


def test_the_benchmark_counts_processor_time():
  class Slow(Numbers):
    def clip(self, index, rng):
      end = time.process_time() + 0.01
      while time.process_time() < end:
        pass
      time.sleep(0.02)  # waiting costs no core
      return super().clip(index, rng)

  assert 60 < measure(Slow(3), seconds=0.1) <= 100
