import socket
import subprocess
import sys
import threading
import tracemalloc

import jax
import numpy as np
import pytest

from vdm_jax.errors import DataError
from vdm_jax.metrics import moments
from vdm_jax.metrics.moments import Accumulator, Moments


def features(n, dim=7, seed=0, offset=100.0):
  rng = np.random.default_rng(seed)
  mixing = rng.normal(size=(dim, dim))
  return rng.normal(size=(n, dim)) @ mixing + offset


def stream(rows, sizes, **options):
  result = Accumulator(rows.shape[1], **options)
  for part in np.split(rows, np.cumsum(sizes)[:-1]):
    result.add(part)
  return result


def assert_same(a, b, rtol=1e-12):
  assert a.n == b.n
  np.testing.assert_allclose(a.mean, b.mean, rtol=rtol)
  scale = np.abs(b.scatter).max()
  np.testing.assert_allclose(a.scatter, b.scatter, atol=rtol * scale)


@pytest.mark.parametrize('divisor', ['n-1', 'n'])
def test_the_covariance_is_that_of_numpy(divisor):
  rows = features(50)
  expected = np.cov(rows.T, ddof=1 if divisor == 'n-1' else 0)
  covariance = Moments.of(rows).covariance(divisor)
  np.testing.assert_allclose(covariance, expected, rtol=1e-12)


def test_another_divisor_and_too_few_samples_are_refused():
  with pytest.raises(ValueError, match='n-2'):
    Moments.of(features(5)).covariance('n-2')
  with pytest.raises(DataError, match=r'too few samples.*\(1\)'):
    Moments.of(features(1)).covariance()


@pytest.mark.parametrize('sizes', [[600], [1] * 600, [255, 1, 0, 300, 44]])
def test_a_stream_has_the_moments_of_the_whole(sizes):
  rows = features(600)
  assert_same(stream(rows, sizes).moments, Moments.of(rows))


def test_the_order_of_a_stream_does_not_matter():
  rows = features(600, offset=1e4)
  order = np.random.default_rng(1).permutation(600)
  a = Accumulator(7, keep=50)
  b = Accumulator(7, keep=50)
  a.add(rows, np.arange(600))
  for part in np.split(order, 20):
    b.add(rows[part], part)
  assert_same(a.moments, b.moments)
  np.testing.assert_array_equal(a.indices, b.indices)
  np.testing.assert_array_equal(a.rows, b.rows)


def test_parts_merge_to_the_whole():
  rows = features(90)
  parts = [Moments.of(p) for p in np.split(rows, [1, 1, 40])]  # one is empty
  assert_same(Moments.merged(parts), Moments.of(rows))


def test_merging_holds_far_from_zero_where_sums_of_squares_do_not():
  rows = features(400, offset=1e7)
  exact = Moments.of(rows - 1e7).scatter
  merged = Moments.merged([Moments.of(p) for p in np.split(rows, 4)])
  scale = np.abs(exact).max()
  assert np.abs(merged.scatter - exact).max() < 1e-7 * scale
  naive = rows.T @ rows - 400 * np.outer(rows.mean(0), rows.mean(0))
  assert np.abs(naive - exact).max() > 1e-3 * scale  # the control


def test_float32_would_not_do():
  rows = features(4000, offset=300.0).astype(np.float32)
  exact = np.cov(rows.astype(np.float64).T)
  ours = Moments.of(rows).covariance()
  np.testing.assert_allclose(ours, exact, rtol=1e-11)
  total, squares = np.zeros(7, np.float32), np.zeros((7, 7), np.float32)
  for batch in np.split(rows, 100):
    total += batch.sum(0)
    squares += batch.T @ batch
  single = (squares - np.outer(total, total) / np.float32(4000)) / 3999
  assert np.abs(single / exact - 1).max() > 1e-3  # the control


def test_moments_of_different_features_are_not_merged():
  with pytest.raises(ValueError, match='different features'):
    Moments.merged([Moments.of(features(5)), Moments.of(features(5, 3))])


def test_features_that_are_not_finite_are_refused():
  rows = features(4)
  rows[2, 1] = np.nan
  with pytest.raises(DataError, match=r'not finite \(1 of 4 samples\)'):
    Accumulator(7).add(rows)


def test_up_to_keep_rows_all_are_kept_and_in_order():
  rows = features(40)
  kept = stream(rows, [25, 15], keep=40)
  np.testing.assert_array_equal(kept.rows, rows.astype(np.float32))
  np.testing.assert_array_equal(kept.indices, np.arange(40))


def test_kept_rows_are_those_of_their_indices_however_they_are_cut():
  rows = features(500)
  kept = stream(rows, [500], keep=30)
  assert kept.rows.shape == (30, 7)
  np.testing.assert_array_equal(kept.rows, rows[kept.indices].astype('f'))
  again = stream(rows, [100] * 5, keep=30)
  np.testing.assert_array_equal(kept.indices, again.indices)
  other = stream(rows, [500], keep=30, seed=1)
  assert set(other.indices) != set(kept.indices)


def test_kept_rows_are_a_uniform_sample():
  counts = np.zeros(10)
  for seed in range(300):
    kept = Accumulator(1, keep=100, seed=seed)
    kept.add(np.zeros((1000, 1)))
    counts += np.histogram(kept.indices, 10, (0, 1000))[0]
  # 3,000 in each tenth, each with a standard deviation of √(3000 · 0.9 · 0.9).
  assert np.abs(counts - 3000).max() < 4 * np.sqrt(3000 * 0.81)


def test_memory_does_not_grow_with_the_samples():
  def peak(batches):
    tracemalloc.start()
    accumulator = Accumulator(32, keep=100)
    for seed in range(batches):
      accumulator.add(features(100, 32, seed))
    _ = accumulator.moments, accumulator.rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak

  peak(3)
  assert peak(60) < 1.1 * peak(6)


def test_a_sample_given_twice_is_seen():
  accumulator = Accumulator(7)
  accumulator.add(features(4), np.arange(4))
  with pytest.raises(ValueError, match='twice'):
    accumulator.add(features(4), np.arange(3, 7))
  with pytest.raises(ValueError, match='negative'):
    accumulator.add(features(1), np.array([-1]))


def test_absorbing_is_the_same_as_seeing():
  rows = features(300)
  whole = stream(rows, [300], keep=40)
  a, b = Accumulator(7, keep=40), Accumulator(7, keep=40)
  a.add(rows[:100], np.arange(100))
  b.add(rows[100:], np.arange(100, 300))
  a.absorb(b)
  assert_same(a.moments, whole.moments)
  np.testing.assert_array_equal(a.rows, whole.rows)
  a.add(rows[:0])
  assert a._next == 300
  with pytest.raises(ValueError, match='keep'):
    a.absorb(Accumulator(7, keep=41))


class Hosts:
  """Threads that stand for hosts, and gather through memory."""

  def __init__(self, monkeypatch, count):
    self.count, self.here = count, threading.local()
    self.barrier = threading.Barrier(count, timeout=20)
    self.slots = [None] * count
    monkeypatch.setattr(jax, 'process_count', lambda: count)
    monkeypatch.setattr(jax, 'process_index', lambda: self.here.index)
    monkeypatch.setattr(moments, '_gather', self.gather)

  def gather(self, value):
    self.slots[self.here.index] = value
    self.barrier.wait()
    gathered = np.stack(self.slots)
    self.barrier.wait()
    return gathered

  def run(self, function, arguments):
    results = [None] * self.count

    def work(index):
      self.here.index = index
      try:
        results[index] = function(arguments[index])
      except Exception as error:
        results[index] = error

    threads = [
      threading.Thread(target=work, args=(i,)) for i in range(self.count)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return results


@pytest.mark.parametrize('slab', [1 << 26, 200])
def test_hosts_get_what_one_host_would(monkeypatch, slab):
  monkeypatch.setattr(moments, '_SLAB', slab)
  rows = features(301)
  whole = stream(rows, [301], keep=40)
  parts = []
  for host in range(3):
    parts.append(Accumulator(7, keep=40))
    chosen = np.arange(host, 301, 3)
    parts[-1].add(rows[chosen], chosen)
  merged = Hosts(monkeypatch, 3).run(moments.merge_hosts, parts)
  for result in merged:
    assert_same(result.moments, whole.moments)
    np.testing.assert_array_equal(result.rows, whole.rows)
    np.testing.assert_array_equal(result.indices, whole.indices)
    np.testing.assert_array_equal(
      result.moments.scatter, merged[0].moments.scatter
    )


def test_hosts_that_count_alike_are_seen(monkeypatch):
  parts = [stream(features(10, seed=s), [10], keep=5) for s in range(2)]
  for error in Hosts(monkeypatch, 2).run(moments.merge_hosts, parts):
    assert isinstance(error, ValueError)
    assert 'two hosts' in str(error)


HOST = """
import sys
import jax
import numpy as np
port, index = map(int, sys.argv[1:])
jax.distributed.initialize(f'localhost:{port}', 2, index)
from vdm_jax.metrics import moments
moments._SLAB = 300
rows = np.random.default_rng(0).normal(size=(301, 7)) + 100
own, whole = (moments.Accumulator(7, keep=40) for _ in range(2))
own.add(rows[index::2], np.arange(index, 301, 2))
whole.add(rows)
merged = moments.merge_hosts(own)
np.testing.assert_array_equal(merged.rows, whole.rows)
a, b = merged.moments, whole.moments
assert a.n == b.n == 301
np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
np.testing.assert_allclose(a.scatter, b.scatter, atol=1e-12 * b.scatter.max())
"""


@pytest.mark.slow
def test_two_processes_get_what_one_would():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  command = [sys.executable, '-c', HOST, port]
  hosts = [subprocess.Popen([*command, str(i)]) for i in range(2)]
  assert [host.wait(timeout=120) for host in hosts] == [0, 0]


def test_an_exchange_keeps_every_bit():
  for value in (
    np.array([np.pi, 1e300]),
    np.array([2**60 + 1]),
    np.float32([2]),
  ):
    gathered = moments._gather(value)
    assert gathered.dtype == value.dtype
    np.testing.assert_array_equal(gathered.reshape(value.shape), value)
  # The control: what JAX does to float64 when it is asked directly.
  value = np.array([np.pi])
  assert (np.asarray(jax.numpy.asarray(value)) != value).all()


def test_one_host_has_nothing_to_exchange():
  accumulator = stream(features(10), [10])
  assert moments.merge_hosts(accumulator) is accumulator
