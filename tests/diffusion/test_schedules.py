"""Schedules, training times and sampling grids."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import schedules
from vdm_jax.diffusion.schedules import CosineSchedule, LogNormalSchedule


def time_of(logsnr, low=-20.0, high=20.0, shift=0.0):
  """t(λ) = (arctan e^{(shift−λ)/2} − b) / a, of the cosine schedule."""
  first, last = (np.arctan(np.exp((shift - end) / 2)) for end in (high, low))
  return (np.arctan(np.exp((shift - logsnr) / 2)) - first) / (last - first)


@pytest.mark.parametrize('ends', [(-20.0, 20.0), (-10.0, 14.0)])
def test_endpoints_order_and_inverse(ends):
  schedule = CosineSchedule(*ends)
  t = np.linspace(0, 1, 1001)
  logsnr = schedule(t)
  assert logsnr.dtype == np.float64
  np.testing.assert_allclose(logsnr[[-1, 0]], ends, rtol=1e-14)
  assert np.all(np.diff(logsnr) < 0)
  np.testing.assert_allclose(time_of(logsnr, *ends), t, atol=1e-14)
  inner = np.linspace(*ends, 101)
  np.testing.assert_allclose(schedule(time_of(inner, *ends)), inner, atol=1e-8)


def test_the_authors_formula():
  t = np.linspace(0, 1, 101)
  b = np.arctan(np.exp(-20 / 2))
  a = np.arctan(np.exp(20 / 2)) - b
  # Its tangent of nearly π/2 is what limits the agreement.
  np.testing.assert_allclose(
    CosineSchedule()(t), -2 * np.log(np.tan(a * t + b)), atol=1e-10
  )


def test_float32_is_as_good_as_its_time():
  schedule = CosineSchedule()
  t = np.concatenate(
    [
      np.linspace(0, 1, 101),
      1 - np.logspace(-7, -2, 50),
      np.logspace(-7, -2, 50),
    ]
  ).astype(np.float32)
  exact = schedule(t.astype(np.float64))
  got = jax.jit(schedule)(jnp.asarray(t))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, exact, atol=1e-5)
  # Negative control: the formula as printed, in float32.
  b = np.float32(np.arctan(np.exp(-10)))
  a = np.float32(np.arctan(np.exp(10)) - np.arctan(np.exp(-10)))
  printed = -2 * np.log(np.tan(a * t + b))
  assert np.nanmax(np.abs(printed - exact)) > 1e-3


def test_uniform_time_gives_the_hyperbolic_secant_density():
  # p(λ) = sech(λ/2) / 2π: mean 0, standard deviation π.
  t = (np.arange(100_000) + 0.5) / 100_000
  logsnr = CosineSchedule()(t)
  assert abs(logsnr.mean()) < 1e-9
  assert abs(logsnr.std() - np.pi) < 0.01


def test_an_empty_range_is_refused():
  with pytest.raises(ValueError, match='not below'):
    CosineSchedule(5.0, 5.0)


def test_grid_runs_uniformly_from_noise_to_data():
  times = schedules.times_grid(4)
  np.testing.assert_array_equal(times, [1, 0.75, 0.5, 0.25, 0])
  grid = schedules.logsnr_grid(256, CosineSchedule())
  assert grid.shape == (257,) and grid.dtype == np.float32
  assert grid[0] == -20 and grid[-1] == 20
  assert np.all(np.diff(grid) > 0)
  with pytest.raises(ValueError, match='at least one step'):
    schedules.times_grid(0)


@pytest.mark.parametrize('n', [1, 7, 64])
def test_every_stratum_is_hit_once(n):
  def strata(times):
    return np.sort(np.floor(np.asarray(times) * n).astype(int))

  for seed in range(20):
    times = schedules.low_discrepancy_times(jax.random.key(seed), n)
    assert times.shape == (n,)
    np.testing.assert_array_equal(strata(times), np.arange(n))
  # Negative control: independent times leave strata empty.
  if n > 1:
    times = jax.random.uniform(jax.random.key(0), (n,))
    assert not np.array_equal(strata(times), np.arange(n))


def test_each_time_is_uniform_by_itself():
  keys = jax.random.split(jax.random.key(3), 4000)
  times = jax.vmap(lambda key: schedules.low_discrepancy_times(key, 8))(keys)
  times = np.sort(np.asarray(times, np.float64), axis=0)
  assert times.min() >= 0 and times.max() < 1
  # Kolmogorov-Smirnov at the level 1e-6, for each of the eight columns.
  empirical = (np.arange(4000) + 0.5)[:, None] / 4000
  assert np.abs(times - empirical).max() < 2.7 / np.sqrt(4000)


def test_shift_moves_the_schedule_between_its_bounds():
  t = np.linspace(0, 1, 33)
  plain, shifted = CosineSchedule(-17, 23), CosineSchedule(-20, 20, -3.0)
  np.testing.assert_allclose(shifted(t), plain(t) - 3, rtol=1e-12)
  np.testing.assert_allclose(shifted(t)[[0, -1]], [20, -20], rtol=1e-12)
  np.testing.assert_allclose(time_of(shifted(t), shift=-3), t, atol=1e-12)
  assert abs(time_of(shifted(t)) - t).max() > 0.1


# The middles of 100,000 equal parts of time.
MIDDLES = (np.arange(100_000) + 0.5) / 100_000
NORMAL = statistics.NormalDist(-1.2, 1.2)


def test_uniform_time_gives_a_normal_law_of_the_log_of_the_noise():
  log_std = -LogNormalSchedule()(MIDDLES) / 2
  assert np.all(np.diff(log_std) > 0)
  exact = [NORMAL.inv_cdf(u) for u in MIDDLES[::1000]]
  np.testing.assert_allclose(log_std[::1000], exact, rtol=1e-12, atol=1e-13)
  assert abs(log_std.mean() + 1.2) < 1e-9
  assert abs(log_std.std() - 1.2) < 1e-4
  other = -LogNormalSchedule(0.3, 0.7)(MIDDLES) / 2
  np.testing.assert_allclose(other, 0.3 + 0.7 * (log_std + 1.2) / 1.2)


def test_experts_tile_the_mass():
  half = (np.arange(50_000) + 0.5) / 50_000
  lower = LogNormalSchedule(high=0.5)(half)
  upper = LogNormalSchedule(low=0.5)(half)
  # Equal parts of the time of each are equal parts of the mass of all.
  whole = LogNormalSchedule()(MIDDLES)
  np.testing.assert_allclose(np.concatenate([lower, upper]), whole, atol=1e-13)
  split = -2 * np.log(schedules.expert_split())
  assert lower.min() > split > upper.max()
  # Negative control: another interval.
  other = LogNormalSchedule(high=0.4)(half)
  assert np.abs(other - lower).max() > 0.1


def test_where_experts_split():
  assert schedules.expert_split() == pytest.approx(np.exp(-1.2), rel=1e-15)
  assert round(schedules.expert_split(), 4) == 0.3012
  # The outermost experts of eDiff-I's base model, E_0^3 and E_511^9.
  assert round(schedules.expert_split(1 / 8), 4) == 0.0757
  assert round(schedules.expert_split(511 / 512), 2) == 9.61
  for mass in (0.1, 0.5, 0.9):
    split = schedules.expert_split(mass, 0.3, 0.7)
    law = statistics.NormalDist(0.3, 0.7)
    np.testing.assert_allclose(law.cdf(np.log(split)), mass, rtol=1e-12)
    lower = LogNormalSchedule(0.3, 0.7, high=mass)
    upper = LogNormalSchedule(0.3, 0.7, low=mass)
    level = -2 * np.log(split)
    np.testing.assert_allclose(lower(np.ones(1)), level, rtol=1e-12)
    np.testing.assert_allclose(upper(np.zeros(1)), level, rtol=1e-12)
  with pytest.raises(ValueError, match='between 0 and 1'):
    schedules.expert_split(1.0)


@pytest.mark.parametrize('interval', [(0, 1), (0, 0.5), (0.5, 1), (0.875, 1)])
def test_lognormal_float32_is_as_good_as_its_time(interval):
  schedule = LogNormalSchedule(low=interval[0], high=interval[1])
  t = np.concatenate(
    [
      np.linspace(0, 1, 101),
      1 - np.logspace(-7, -2, 50),
      np.logspace(-7, -2, 50),
    ]
  ).astype(np.float32)
  exact = schedule(t.astype(np.float64))
  got = jax.jit(schedule)(jnp.asarray(t))
  assert got.dtype == jnp.float32 and exact.dtype == np.float64
  np.testing.assert_allclose(got, exact, atol=2e-5)
  # To no more than the mass beyond the last levels, 1e-6 at either end.
  width = interval[1] - interval[0]

  def back(logsnr):
    return [(NORMAL.cdf(-x / 2) - interval[0]) / width for x in logsnr.tolist()]

  np.testing.assert_allclose(back(got), t, atol=1.1e-6 / width + 1e-6)
  inner = np.linspace(0.01, 0.99, 99)
  np.testing.assert_allclose(back(schedule(inner)), inner)


def test_lognormal_tails_are_cut():
  ends = LogNormalSchedule()(np.array([0.0, 1.0]))
  exact = [-2 * NORMAL.inv_cdf(u) for u in (1e-6, 1 - 1e-6)]
  np.testing.assert_allclose(ends, exact, rtol=1e-9)
  inside = LogNormalSchedule()(np.array([2e-6, 1 - 2e-6]))
  assert ends[0] > inside[0] and ends[1] < inside[1]
  grid = schedules.logsnr_grid(50, LogNormalSchedule())
  assert grid.dtype == np.float32 and np.all(np.isfinite(grid))
  assert np.all(np.diff(grid) > 0)


@pytest.mark.parametrize(
  'options',
  [
    {'std': 0.0},
    {'mean': np.inf},
    {'low': 0.5, 'high': 0.5},
    {'low': -0.1},
    {'high': 1.1},
    {'high': np.nan},
    {'high': 1e-7},
  ],
)
def test_a_schedule_without_levels_is_refused(options):
  with pytest.raises(ValueError, match=r'interval|normal'):
    LogNormalSchedule(**options)


def test_the_grid_of_karras():
  logsnr = schedules.karras_grid(18)
  assert logsnr.shape == (19,) and logsnr.dtype == np.float32
  assert logsnr[-1] == np.inf
  got = np.exp(-logsnr[:-1].astype(np.float64) / 2)
  i, rho = np.arange(18), 7
  first, last = 80 ** (1 / rho), 0.002 ** (1 / rho)
  exact = (first + i / 17 * (last - first)) ** rho
  np.testing.assert_allclose(got, exact, rtol=1e-6)
  assert logsnr[0] == np.float32(-2 * np.log(80))
  assert logsnr[-2] == np.float32(-2 * np.log(0.002))
  # ρ = 1 is uniform in s.
  uniform = np.exp(-schedules.karras_grid(5, 1.0, 5.0, 1.0)[:-1] / 2)
  np.testing.assert_allclose(uniform, [5, 4, 3, 2, 1], rtol=1e-6)
  one = schedules.karras_grid(1)
  np.testing.assert_array_equal(one, np.float32([-2 * np.log(80), np.inf]))


@pytest.mark.parametrize(
  'options',
  [
    {'steps': 0},
    {'sigma_min': 0.0},
    {'sigma_min': 80.0},
    {'sigma_max': np.inf},
    {'rho': 0.0},
  ],
)
def test_grids_of_nothing_are_refused(options):
  with pytest.raises(ValueError, match=r'at least one step|make no grid'):
    schedules.karras_grid(**({'steps': 4} | options))
