import numpy as np
import pytest

from tests.metrics.frames import correlated
from vdm_jax.errors import DataError
from vdm_jax.metrics import frechet
from vdm_jax.metrics.frechet import expected_bias, fd_infinity, frechet_distance
from vdm_jax.metrics.moments import Moments


def gaussian(rng, n, values, shift=0.0):
  return rng.normal(size=(n, len(values))) * np.sqrt(values) + shift


def mixed(seed, n, dim=12, shift=0.3):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + shift * seed


def population(values, n=10**9):
  dim = len(values)
  return Moments(n, np.zeros(dim), np.diag(values) * (n - 1.0))


def by_square_root(x, y):
  """The definition, √(Σ₁Σ₂) by eigenvectors of a matrix without symmetry."""
  one, two = np.cov(x.T), np.cov(y.T)
  values, vectors = np.linalg.eig(one @ two)
  root = vectors @ np.diag(np.sqrt(values.astype(complex)))
  root = root @ np.linalg.inv(vectors)
  np.testing.assert_allclose(root @ root, one @ two, atol=1e-8)
  mean = np.square(x.mean(0) - y.mean(0)).sum()
  return mean + np.trace(one + two - 2 * root.real)


def by_moments(x, y, **options):
  return frechet_distance(Moments.of(x), Moments.of(y), **options)


def test_three_formulas_agree():
  x, y = mixed(1, 200), mixed(2, 150)
  expected = by_square_root(x, y)
  for a in (x, Moments.of(x)):
    for b in (y, Moments.of(y)):
      value = frechet_distance(a, b).value
      assert value == pytest.approx(expected, rel=1e-10)
  one, two = np.cov(x.T), np.cov(y.T)
  values, vectors = np.linalg.eigh(one)
  symmetric = vectors * np.sqrt(values) @ vectors.T
  for root in (symmetric, np.linalg.cholesky(one), frechet.root_of(one)):
    last = frechet.trace_root(root=root, covariance=two)
    whole = np.trace(one + two) - 2 * last
    mean = np.square(x.mean(0) - y.mean(0)).sum()
    assert mean + whole == pytest.approx(expected, rel=1e-10)


def test_the_parts_are_the_whole_and_a_swap_changes_nothing():
  x, y = mixed(1, 200), mixed(2, 150)
  result, swapped = frechet_distance(x, y), frechet_distance(y, x)
  assert result.value == pytest.approx(result.mean + result.covariance)
  assert result.value == pytest.approx(swapped.value, rel=1e-12)
  assert (result.n, result.dim, result.ranks) == ((200, 150), 12, (12, 12))
  assert result.note == ''


def test_equal_sets_are_at_distance_zero():
  x = mixed(1, 100)
  assert frechet_distance(x, x).value < 1e-10
  assert by_moments(x, x).value < 1e-5


def test_a_translation_has_the_square_of_its_length():
  x = mixed(1, 60)
  shift = np.arange(12.0)
  for result in (frechet_distance(x, x + shift), by_moments(x, x + shift)):
    assert result.value == pytest.approx(np.square(shift).sum(), rel=1e-8)
    assert abs(result.covariance) < 1e-5


def test_commuting_covariances_have_a_closed_form():
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(9, 9)))[0]
  one, two = rng.uniform(0.1, 4, size=(2, 9))
  sides = [
    Moments(11, np.zeros(9), 10 * (basis * values) @ basis.T)
    for values in (one, two)
  ]
  expected = np.square(np.sqrt(one) - np.sqrt(two)).sum()
  assert frechet_distance(*sides).value == pytest.approx(expected, rel=1e-10)


def test_the_divisor_scales_the_covariances():
  x, y = mixed(1, 40), mixed(2, 40)
  one, other = (frechet_distance(x, y, divisor=d) for d in ('n-1', 'n'))
  assert other.covariance == pytest.approx(one.covariance * 39 / 40)
  assert other.mean == one.mean
  moments = by_moments(x, y, divisor='n')
  assert moments.value == pytest.approx(other.value)
  with pytest.raises(ValueError, match='divisor'):
    frechet_distance(x, y, divisor='unbiased')


@pytest.mark.parametrize('n, m', [(10, 10), (10, 300), (300, 10), (40, 41)])
def test_fewer_samples_than_features_are_exact_and_told(n, m):
  x, y = mixed(1, n, dim=40), mixed(2, m, dim=40)
  rows, moments = frechet_distance(x, y), by_moments(x, y)
  assert rows.value == pytest.approx(moments.value, rel=1e-6)
  # A third way, in a basis of both spans where nothing is singular but zeros.
  one, two = np.cov(x.T), np.cov(y.T)
  values, vectors = np.linalg.eigh(one)
  root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
  last = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ two @ root), 0)).sum()
  mean = np.square(x.mean(0) - y.mean(0)).sum()
  expected = mean + np.trace(one + two) - 2 * last
  assert rows.value == pytest.approx(expected, rel=1e-5)
  for result in (rows, moments):
    assert result.ranks == (min(n - 1, 40), min(m - 1, 40))
    assert ('too few' in result.note) == (min(n, m) <= 40)


def test_features_that_depend_on_others_are_told():
  x, y = mixed(1, 100), mixed(2, 100)
  x[:, 3] = x[:, 2]
  y[:, 5] = 0  # such as a unit that never fires
  for result in (frechet_distance(x, y), by_moments(x, y)):
    assert result.ranks == (11, 11)
    assert result.note.count('dependent features') == 2
  expected = by_moments(x, y).value
  assert frechet_distance(x, y).value == pytest.approx(expected, rel=1e-6)


def test_constant_features_have_no_covariance():
  x, y = np.ones((5, 4)), np.zeros((6, 4))
  for result in (frechet_distance(x, y), by_moments(x, y)):
    assert result.value == pytest.approx(4)
    assert result.ranks == (0, 0)


def test_float32_features_are_computed_in_float64():
  x, y = (mixed(s, 2000, shift=50).astype(np.float32) for s in (1, 2))
  exact = frechet_distance(x.astype(np.float64), y.astype(np.float64)).value
  assert frechet_distance(x, y).value == pytest.approx(exact, rel=1e-12)
  assert by_moments(x, y).value == pytest.approx(exact, rel=1e-9)


def test_single_precision_would_show():
  """The control: the same formula, of sums that were kept in float32."""
  rng = np.random.default_rng(0)
  values = 1 / np.arange(1.0, 61)
  x, y = (gaussian(rng, 1000, values, 10).astype(np.float32) for _ in range(2))
  exact = frechet_distance(x, y).value
  assert by_moments(x, y).value == pytest.approx(exact, rel=1e-9)
  sides = []
  for side in (x, y):
    mean = side.sum(0) / np.float32(1000)
    second = side.T @ side - np.float32(1000) * np.outer(mean, mean)
    sides.append(Moments(1000, mean.astype(float), second.astype(float)))
  single = frechet_distance(*sides).value
  assert abs(single / exact - 1) > 1e-3


def test_bad_features_are_refused():
  x = mixed(1, 20)
  with pytest.raises(ValueError, match='12 features against 5'):
    frechet_distance(x, mixed(1, 20, dim=5))
  with pytest.raises(DataError, match='too few'):
    frechet_distance(x[:1], x)
  x[3] = np.inf
  with pytest.raises(DataError, match='not finite'):
    frechet_distance(x, mixed(1, 20))


@pytest.mark.parametrize('kind', ['flat', 'falling'])
def test_the_bias_is_one_over_n_and_the_one_of_the_formula(kind):
  values = np.ones(48) if kind == 'flat' else 1 / np.arange(1, 49)
  rng = np.random.default_rng(0)
  products = []
  for n, repeats in ((192, 16), (384, 12), (768, 8)):
    distances = [
      by_moments(gaussian(rng, n, values), gaussian(rng, n, values)).value
      for _ in range(repeats)
    ]
    error = np.std(distances) / np.sqrt(repeats)
    expected = expected_bias(population(values), n, n)
    assert abs(np.mean(distances) - expected) < 3.5 * error + 0.01 * expected
    products.append(n * np.mean(distances))
  assert max(products) / min(products) < 1.15  # of n times 4


def test_few_real_samples_keep_half_of_the_bias():
  values = np.ones(32)
  rng = np.random.default_rng(1)
  few = [
    by_moments(gaussian(rng, 256, values), gaussian(rng, 256, values)).value
    for _ in range(8)
  ]
  many = [
    by_moments(gaussian(rng, 256, values), gaussian(rng, 25_600, values)).value
    for _ in range(5)
  ]
  # 0.505 to the second order, to which the next adds a little.
  assert 0.49 < np.mean(many) / np.mean(few) < 0.56
  known = expected_bias(population(values), 256, np.inf)
  assert np.mean(many) == pytest.approx(known, rel=0.1)


def test_the_extrapolated_distance_has_no_bias():
  rng = np.random.default_rng(2)
  values = np.ones(16)
  whole, infinite = [], []
  for seed in range(12):
    x, y = gaussian(rng, 512, values), gaussian(rng, 512, values, 0.3)
    result = fd_infinity(x, y, points=8, seed=seed)
    assert result.distances[-1] == pytest.approx(frechet_distance(x, y).value)
    assert result.n == (512, 512)
    whole.append(result.distances[-1])
    infinite.append(result.value)
  true = 16 * 0.09
  error = np.std(infinite) / np.sqrt(12)
  assert abs(np.mean(infinite) - true) < 3.5 * error
  assert np.mean(whole) - true > 5 * error  # the control


def test_frames_of_a_video_are_thinned_out_together():
  infinite, by_rows, whole = [], [], []
  for seed in range(60):
    size = {'videos': 60, 'frames': 6, 'dim': 3}
    x, videos = correlated((seed, 0), **size)
    y, _ = correlated((seed, 1), **size)
    both = (videos, videos)
    infinite.append(fd_infinity(x, y, points=6, clusters=both).value)
    result = fd_infinity(x, y, points=6)
    by_rows.append(result.value)
    whole.append(result.distances[-1])
  error = np.std(infinite) / np.sqrt(60)
  assert abs(np.mean(infinite)) < 3.5 * error
  # The control: thinned out by rows, nearly all of the bias is left.
  assert np.mean(by_rows) > max(0.7 * np.mean(whole), 4 * error)


def test_the_bias_of_frames_is_at_most_that_of_their_videos():
  size = {'videos': 60, 'frames': 6, 'dim': 3}
  distances = []
  for seed in range(60):
    x, y = (correlated((seed, i), **size)[0] for i in range(2))
    distances.append(by_moments(x, y).value)
  by_videos, by_rows = (
    expected_bias(population(np.ones(3)), n, n) for n in (60, 360)
  )
  assert 0.7 * by_videos < np.mean(distances) < by_videos
  assert np.mean(distances) > 3 * by_rows  # the control


def test_moments_of_the_reference_are_not_thinned_out():
  rng = np.random.default_rng(3)
  values = np.ones(16)
  biased, known = [], []
  for seed in range(8):
    x, y = gaussian(rng, 2048, values), gaussian(rng, 128, values)
    biased.append(fd_infinity(x, Moments.of(y), points=6, seed=seed).value)
    known.append(fd_infinity(x, population(values), points=6, seed=seed).value)
  left = expected_bias(population(values), np.inf, 128)
  assert np.mean(biased) == pytest.approx(left, rel=0.15)
  assert abs(np.mean(known)) < 0.05 * left


def test_an_extrapolation_needs_points_and_a_fraction():
  x = mixed(1, 60)
  for options in ({'points': 1}, {'least': 0.0}, {'least': 1.0}):
    with pytest.raises(ValueError, match='points'):
      fd_infinity(x, x, **options)


def test_an_extrapolation_may_have_fewer_samples_than_features():
  x, y = mixed(1, 20, dim=30), mixed(2, 200, dim=30)
  result = fd_infinity(x, y, points=3)
  assert result.distances[-1] == pytest.approx(frechet_distance(x, y).value)
