"""The sampler and the levels that a config names."""

import numpy as np
import pytest

from tests import tiny
from vdm_jax import build, errors, validation
from vdm_jax.diffusion import schedules


def options(**values):
  return tiny.config(**{f'sample__{k}': v for k, v in values.items()})


@pytest.mark.parametrize('name', build.SAMPLERS)
def test_churn_is_used_or_refused(name):
  plain = build.sampler(options(sampler=name, deis_order=2))
  c = options(sampler=name, deis_order=2, churn=6.0, churn_min=0.5)
  starts = -2 * np.log(np.array([60.0, 2.0, 0.6, 0.4]))
  if name not in build.CHURNED:
    with pytest.raises(errors.ConfigError, match='has no churn') as e:
      build.sampler(c)
    assert 'heun, deis, dpmpp_2m' in str(e.value)
    return
  np.testing.assert_array_equal(plain.asked(starts), starts)
  raised = starts - build.sampler(c).asked(starts)
  low = -2 * np.log(np.sqrt(2))
  np.testing.assert_allclose(raised, [0, -low, -low, 0], atol=1e-12)


@pytest.mark.parametrize(
  'values, message',
  [
    ({'sampler': 'deis', 'churn': 1.0}, 'deis_order to 2'),
    ({'sampler': 'deis', 'deis_order': 4}, 'orders 1, 2 and 3, not 4'),
    (
      {'sampler': 'heun', 'churn': 1.0, 'churn_min': 2.0, 'churn_max': 1.0},
      'churn',
    ),
  ],
)
def test_samplers_that_do_not_exist_are_refused_in_one_line(values, message):
  with pytest.raises(errors.ConfigError, match=message) as e:
    build.sampler(options(**values))
  assert 'config.sample' in str(e.value) and '\n' not in str(e.value)
  # The order of DEIS is nothing to the others.
  build.sampler(options(sampler='heun', deis_order=4))


@pytest.mark.parametrize(
  'key, value',
  [
    ('grid', 'edm'),
    ('deis_variable', 't'),
    ('rho', 0.0),
    ('sigma_min', 0.0),
    ('sigma_max', float('inf')),
    ('churn', -1.0),
    ('churn_noise', 0.0),
  ],
)
def test_values_out_of_range_are_named(key, value):
  with pytest.raises(errors.ConfigError, match=f'sample.{key}'):
    validation.validate(options(**{key: value}))


def test_levels_are_those_of_the_schedule_or_of_karras():
  cosine = schedules.logsnr_grid(5, schedules.CosineSchedule())
  np.testing.assert_array_equal(build.levels(options(), 5), cosine)
  c = options(grid='karras', sigma_min=0.1, sigma_max=10.0, rho=3.0)
  got = np.exp(-build.levels(c, 5) / 2)
  np.testing.assert_allclose(got[[0, -2, -1]], [10, 0.1, 0], rtol=1e-6)
  np.testing.assert_allclose(np.diff(np.cbrt(got[:-1]), n=2), 0, atol=1e-6)
  with pytest.raises(errors.ConfigError, match=r'sample\.grid'):
    build.levels(options(grid='karras', sigma_min=2.0, sigma_max=1.0), 5)


def test_the_levels_of_an_expert_are_all_levels():
  named = {'diffusion__schedule': 'lognormal'}
  whole = build.levels(tiny.config(**named), 6)
  expert = tiny.config(**named, diffusion__interval=(0.5, 1.0))
  np.testing.assert_array_equal(build.levels(expert, 6), whole)
