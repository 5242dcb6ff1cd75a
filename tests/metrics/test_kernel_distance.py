import numpy as np
import pytest

from tests.metrics.frames import correlated
from vdm_jax.errors import DataError
from vdm_jax.metrics import kernel_distance as kd
from vdm_jax.metrics.kernel_distance import Kernel, kernel_distance, mmd2


def pair(seed, n=30, m=30, dim=8, shift=0.0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) + shift


def by_loops(x, y, k):
  def mean(a, b, same):
    values = [
      k(p, q)
      for i, p in enumerate(a)
      for j, q in enumerate(b)
      if not (same and i == j)
    ]
    return np.mean(values)

  return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_it_is_the_sum_over_pairs_of_different_samples(monkeypatch):
  x, y = pair(0, 13, 9, shift=0.5)
  expected = by_loops(x, y, lambda p, q: (p @ q / 8 + 1) ** 3)
  assert mmd2(x, y) == pytest.approx(expected, rel=1e-12)
  monkeypatch.setattr(kd, '_TILE', 4)
  assert mmd2(x, y) == pytest.approx(expected, rel=1e-12)
  assert mmd2(y, x) == pytest.approx(expected, rel=1e-12)


def test_other_kernels():
  x, y = pair(0, 13, 9, shift=0.5)
  kernel = Kernel(degree=2, gamma=0.7, coef=0.0)
  expected = by_loops(x, y, lambda p, q: (0.7 * p @ q) ** 2)
  assert mmd2(x, y, kernel=kernel) == pytest.approx(expected, rel=1e-12)


def test_a_linear_kernel_is_the_distance_of_means():
  x, y = pair(0, 20, 30, shift=1.0)
  kernel = Kernel(degree=1, gamma=1.0, coef=0.0)
  biased = mmd2(x, y, kernel=kernel, unbiased=False)
  square = np.square(x.mean(0) - y.mean(0)).sum()
  assert biased == pytest.approx(square, rel=1e-12)
  bias = sum(side.var(0, ddof=1).sum() / len(side) for side in (x, y))
  unbiased = mmd2(x, y, kernel=kernel)
  assert unbiased == pytest.approx(square - bias, rel=1e-12)


def test_it_has_no_bias_and_the_other_estimate_has():
  unbiased, biased = [], []
  for seed in range(300):
    x, y = pair(seed, 20, 25)
    unbiased.append(mmd2(x, y))
    biased.append(mmd2(x, y, unbiased=False))
  error = np.std(unbiased) / np.sqrt(300)
  assert abs(np.mean(unbiased)) < 3 * error
  assert np.mean(biased) > 20 * error  # the control


def test_pairs_of_one_video_are_left_out():
  x, y = pair(0, 13, 9, shift=0.5)
  mine, theirs = np.arange(13) // 3, np.arange(9) // 2

  def k(p, q):
    return (p @ q / 8 + 1) ** 3

  def mean(a, videos):
    return np.mean(
      [
        k(p, q)
        for i, p in enumerate(a)
        for j, q in enumerate(a)
        if videos[i] != videos[j]
      ]
    )

  expected = mean(x, mine) + mean(y, theirs)
  expected -= 2 * np.mean([k(p, q) for p in x for q in y])
  found = mmd2(x, y, clusters=(mine, theirs))
  assert found == pytest.approx(expected, rel=1e-12)
  alone = mmd2(x, y, clusters=(np.arange(13), np.arange(9)))
  assert alone == mmd2(x, y) != found
  with pytest.raises(DataError, match='too few'):
    mmd2(x, y, clusters=(np.zeros(13, int), theirs))


def test_it_has_no_bias_where_frames_of_a_video_are_alike():
  by_videos, by_rows, told = [], [], []
  for seed in range(150):
    size = {'videos': 24, 'frames': 4, 'dim': 4}
    x, videos = correlated((seed, 0), **size)
    y, _ = correlated((seed, 1), **size)
    found = kernel_distance(x, y, blocks=6, clusters=(videos, videos))
    by_videos.append(found.value)
    told.append(found.standard_error)
    by_rows.append(mmd2(x, y))
  own = np.std(by_videos)
  assert abs(np.mean(by_videos)) < 3 * own / np.sqrt(150)
  assert np.mean(by_rows) > 10 * own / np.sqrt(150)  # the control
  assert own < 1.05 * np.sqrt(np.mean(np.square(told)))


def test_it_does_not_depend_on_the_number_of_samples():
  means = []
  for n in (10, 40):
    values = [mmd2(*pair(s, n, n, shift=0.5)) for s in range(200)]
    means.append((np.mean(values), np.std(values) / np.sqrt(200)))
  (few, one), (many, two) = means
  assert abs(few - many) < 3 * np.hypot(one, two)


def test_the_standard_error_is_that_of_the_blocks_and_bounds_the_value():
  results = [kernel_distance(*pair(s, 60, 80, shift=0.4)) for s in range(80)]
  told = np.sqrt(np.mean([r.standard_error**2 for r in results]))
  blocks = np.std([r.block_mean for r in results])
  assert told == pytest.approx(blocks, rel=0.25)
  assert np.std([r.value for r in results]) < 1.05 * blocks
  assert results[0].n == (60, 80)
  assert results[0].blocks == 10
  error = blocks / np.sqrt(80)
  means = [
    np.mean([getattr(r, f) for r in results]) for f in ('value', 'block_mean')
  ]
  assert abs(means[0] - means[1]) < 3 * error


def test_the_value_is_that_of_all_samples_in_any_order():
  x, y = pair(0, 60, 60, shift=0.3)
  order = np.random.default_rng(1).permutation(60)
  one, other = kernel_distance(x, y), kernel_distance(x[order], y)
  assert one.value == pytest.approx(other.value, rel=1e-12)
  assert one.value == mmd2(x, y)
  single = mmd2(x.astype(np.float32), y.astype(np.float32))
  assert single == pytest.approx(one.value, rel=1e-5)


def test_bad_samples_are_refused():
  x, y = pair(0)
  with pytest.raises(DataError, match='10 blocks'):
    kernel_distance(x[:19], y)
  with pytest.raises(DataError, match='blocks'):
    kernel_distance(x, y, blocks=1)
  with pytest.raises(DataError, match='too few'):
    mmd2(x, y[:1])
  y[0] = np.nan
  with pytest.raises(DataError, match='not finite'):
    mmd2(x, y)
