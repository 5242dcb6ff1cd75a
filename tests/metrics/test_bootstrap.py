import numpy as np
import pytest

from tests.metrics.frames import correlated
from vdm_jax.errors import DataError
from vdm_jax.metrics import bootstrap
from vdm_jax.metrics.bootstrap import (
  counts,
  frechet_draws,
  interval,
  score_draws,
)
from vdm_jax.metrics.frechet import frechet_distance
from vdm_jax.metrics.inception_score import inception_score, softmax
from vdm_jax.metrics.moments import Moments


def features(seed, n=50, dim=6, shift=0.0):
  return np.random.default_rng(seed).normal(size=(n, dim)) + shift


def copies(rows, seed):
  return np.repeat(rows, counts(len(rows), seed), axis=0)


@pytest.mark.parametrize('divisor', ['n-1', 'n'])
@pytest.mark.parametrize('n, m, dim', [(50, 40, 6), (9, 40, 12), (40, 9, 12)])
def test_a_draw_is_the_distance_of_the_rows_drawn(n, m, dim, divisor):
  x, y = features(1, n, dim), features(2, m, dim, 0.5).astype(np.float32)
  both = frechet_draws(x, y, repeats=3, seed=5, divisor=divisor)
  known = Moments.of(y)
  one = frechet_draws(x, known, repeats=3, seed=5, divisor=divisor)
  for r in range(3):
    a, b = copies(x, (5, r, 0)), copies(y, (5, r, 1))
    expected = frechet_distance(a, b, divisor=divisor).value
    assert both[r] == pytest.approx(expected, rel=1e-6)
    expected = frechet_distance(a, known, divisor=divisor).value
    assert one[r] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('divisor', ['n-1', 'n'])
def test_a_draw_of_videos_has_all_their_rows(divisor):
  x, y = features(1, 12, 5), features(2, 9, 5, 0.5)
  mine = np.array([0, 0, 1, 2, 2, 2, 3, 1, 4, 4, 5, 5])  # of unequal sizes
  found = frechet_draws(
    x, y, repeats=4, seed=5, divisor=divisor, clusters=(mine, None)
  )
  for r in range(4):
    drawn = np.repeat(np.arange(6), counts(6, (5, r, 0)))
    a = np.concatenate([x[mine == c] for c in drawn])
    b = copies(y, (5, r, 1))
    expected = frechet_distance(a, b, divisor=divisor).value
    assert found[r] == pytest.approx(expected, rel=1e-6)


def test_rows_of_a_video_each_are_drawn_as_if_there_were_no_videos():
  x, y = features(1, 40), features(2, 30)
  plain = frechet_draws(x, y, repeats=3)
  told = frechet_draws(x, y, repeats=3, clusters=(np.arange(40), np.arange(30)))
  np.testing.assert_array_equal(plain, told)


def test_draws_of_videos_spread_as_sets_of_videos_do():
  size = {'videos': 100, 'frames': 8, 'dim': 4}
  distances, by_videos, by_rows = [], [], []
  for seed in range(100):
    x, videos = correlated((seed, 0), **size)
    y, _ = correlated((seed, 1), **size, shift=0.4)
    distances.append(frechet_distance(Moments.of(x), Moments.of(y)).value)
    if seed >= 12:
      continue
    options = {'repeats': 40, 'seed': seed}
    drawn = frechet_draws(x, y, clusters=(videos, videos), **options)
    by_videos.append(drawn.std())
    by_rows.append(frechet_draws(x, y, **options).std())
  own = np.std(distances)
  assert 0.85 < np.mean(by_videos) / own < 1.4  # 1.1 was measured
  assert np.mean(by_rows) < own / 2  # the control


def test_draws_of_scores_are_scores_of_the_rows_drawn():
  p = softmax(3 * features(0, 40))
  weights = np.linspace(1, 2, 40)
  draws = score_draws(p, weights=weights, repeats=20, seed=3)
  for r in (0, 15, 16, 19):
    drawn, w = copies(p, (3, r)), copies(weights, (3, r))
    expected = inception_score(drawn, weights=w).mean
    assert draws[r] == pytest.approx(expected, rel=1e-12)


def test_draws_of_splits_are_means_of_their_scores():
  p = softmax(3 * features(0, 41))
  weights = np.linspace(1, 2, 41)
  parts = [13, 14, 14]
  draws = score_draws(p, weights=weights, parts=parts, repeats=18, seed=3)
  for r in (0, 15, 16, 17):
    drawn = np.random.default_rng((3, r)).integers(41, size=41)
    expected = inception_score(p[drawn], weights=weights[drawn], splits=3).mean
    assert draws[r] == pytest.approx(expected, rel=1e-12)
  whole = score_draws(p, parts=[41], repeats=3)
  np.testing.assert_array_equal(whole, score_draws(p, repeats=3))


def test_draws_depend_on_the_seed_and_their_number_alone():
  x, y = features(1), features(2)
  long = frechet_draws(x, y, repeats=5, seed=1)
  np.testing.assert_array_equal(
    long[:2], frechet_draws(x, y, repeats=2, seed=1)
  )
  assert (long != frechet_draws(x, y, repeats=5, seed=2)).all()
  assert len(set(long)) == 5


def test_counts_are_those_of_drawing_with_replacement():
  drawn = np.stack([counts(20, (0, r)) for r in range(2000)])
  assert (drawn.sum(1) == 20).all()
  np.testing.assert_allclose(drawn.mean(0), 1, atol=4 / np.sqrt(2000))
  assert drawn.var() == pytest.approx(0.95, rel=0.05)  # 1 − 1/n


def test_the_three_methods():
  draws = np.linspace(3, 5, 201) ** 2  # lopsided, of mean 16.34
  found = {
    m: interval(10.0, draws, method=m, level=0.9) for m in bootstrap.METHODS
  }
  low, high = np.quantile(draws, [0.05, 0.95])
  bias = draws.mean() - 10
  ends = {m: (i.low, i.high) for m, i in found.items()}
  assert ends['percentile'] == pytest.approx((low, high))
  assert ends['basic'] == pytest.approx((20 - high, 20 - low))
  assert ends['centred'] == pytest.approx(
    (10 + low - draws.mean(), 10 + high - draws.mean())
  )
  for result in found.values():
    assert result.bias == pytest.approx(bias)
    assert result.repeats == 201
    assert result.standard_error == pytest.approx(draws.std(ddof=1))


def test_resampling_raises_a_frechet_distance_and_lowers_a_score():
  x, y = features(1, 100), features(2, 100, shift=0.3)
  draws = frechet_draws(x, y, repeats=40)
  assert interval(frechet_distance(x, y).value, draws).bias > 0
  p = softmax(3 * features(3, 100, dim=30))
  draws = score_draws(p, repeats=40)
  assert interval(inception_score(p).mean, draws).bias < 0


def test_what_makes_no_interval_is_refused():
  draws = np.arange(5.0)
  with pytest.raises(ValueError, match='jackknife'):
    interval(0.0, draws, method='jackknife')
  with pytest.raises(ValueError, match='level'):
    interval(0.0, draws, level=1.0)
  with pytest.raises(ValueError, match='1 draws'):
    interval(0.0, draws[:1])
  x = features(1)
  with pytest.raises(DataError):
    frechet_draws(x[:1], x, repeats=2)


def test_frechet_intervals_cover_what_they_say():
  dim, n, sets = 5, 200, 80
  scales = np.sqrt([1, 1.5, 0.8, 1.3, 0.7])
  true = 5 * 0.15**2 + np.square(scales - 1).sum()
  estimates, draws = [], []
  for seed in range(sets):
    x = features(2 * seed, n, dim)
    y = features(2 * seed + 1, n, dim) * scales + 0.15
    estimates.append(frechet_distance(Moments.of(x), Moments.of(y)).value)
    draws.append(frechet_draws(x, y, repeats=30, seed=seed))
  expected = np.mean(estimates)

  def coverage(method, target):
    found = [
      interval(e, d, method=method)
      for e, d in zip(estimates, draws, strict=True)
    ]
    return np.mean([i.low <= target <= i.high for i in found])

  # 95 %, to within the chance of 80 sets; 30 draws make it some 2 % less.
  assert coverage('centred', expected) >= 0.88
  assert coverage('basic', true) >= 0.88
  assert expected > 1.1 * true
  assert coverage('percentile', true) < 0.6  # the control
  assert coverage('percentile', expected) < 0.88


def test_draws_of_splits_are_of_the_number_that_is_printed():
  rng = np.random.default_rng(0)
  found, by_splits, as_one = [], [], []
  for seed in range(60):
    p = softmax(3 * rng.normal(size=(200, 20)))
    found.append(inception_score(p, splits=10).mean)
    by_splits.append(score_draws(p, parts=[20] * 10, repeats=20, seed=seed))
    as_one.append(score_draws(p, repeats=20, seed=seed))
  own, mean = np.std(found), np.mean(found)
  assert np.std(by_splits, axis=1).mean() == pytest.approx(own, rel=0.3)
  assert abs(np.mean(by_splits) - mean) < 0.5 * own
  assert abs(np.mean(as_one) - mean) > 3 * own  # the control


def test_score_intervals_cover_what_they_say():
  rng = np.random.default_rng(0)
  estimates, draws = [], []
  for seed in range(200):
    p = softmax(2 * rng.normal(size=(60, 20)))
    estimates.append(inception_score(p).mean)
    draws.append(score_draws(p, repeats=40, seed=seed))
  many = softmax(2 * rng.normal(size=(50_000, 20)))
  targets = {
    'centred': np.mean(estimates),
    'basic': inception_score(many).mean,
    'percentile': inception_score(many).mean,
  }
  held = {
    method: np.mean(
      [
        (i := interval(e, d, method=method)).low <= target <= i.high
        for e, d in zip(estimates, draws, strict=True)
      ]
    )
    for method, target in targets.items()
  }
  # .90, .89 and .61 were measured with 100 draws.
  assert held['centred'] >= 0.8
  assert held['basic'] >= 0.8
  assert held['percentile'] < held['basic'] - 0.1  # the control
