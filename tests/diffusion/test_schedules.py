"""The cosine schedule, training times and sampling grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import schedules
from vdm_jax.diffusion.schedules import CosineSchedule


@pytest.mark.parametrize('ends', [(-20.0, 20.0), (-10.0, 14.0)])
def test_endpoints_order_and_inverse(ends):
  schedule = CosineSchedule(*ends)
  t = np.linspace(0, 1, 1001)
  logsnr = schedule(t)
  assert logsnr.dtype == np.float64
  np.testing.assert_allclose(logsnr[[-1, 0]], ends, rtol=1e-14)
  assert np.all(np.diff(logsnr) < 0)
  np.testing.assert_allclose(schedule.inverse(logsnr), t, atol=1e-14)
  inner = np.linspace(*ends, 101)
  np.testing.assert_allclose(
    schedule(schedule.inverse(inner)), inner, atol=1e-8
  )


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
  np.testing.assert_allclose(shifted.inverse(shifted(t)), t, atol=1e-12)
  assert abs(CosineSchedule().inverse(shifted(t)) - t).max() > 0.1
