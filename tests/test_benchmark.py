"""The benchmark measures what it says, on the smallest model."""

import json

import pytest

from tests import tiny
from vdm_jax import benchmark, build, sharding


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  folder = tmp_path_factory.mktemp('benchmark')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(benchmark, 'SECONDS', 0.2)
    few = {k: build.SAMPLERS[k] for k in ('ddim', 'heun')}
    patch.setattr(build, 'SAMPLERS', few)
    benchmark.run(tiny.config(data__source='shapes'), folder)
  return json.loads((folder / 'benchmark.json').read_text())


def test_everything_is_measured(table):
  for part in ('training', 'data', 'sampling'):
    assert table[part]
  t = table['training']
  assert t['compile_seconds'] > t['step_seconds'] > 0
  assert t['clips_per_second'] == pytest.approx(8 / t['step_seconds'])
  # Small maps keep no device as busy as large products do.
  assert 0 < t['utilisation'] < 0.5
  assert table['data']['pipeline_clips_per_second'] > 0
  assert set(table['sampling']) == {'ddim', 'heun'}
  assert table['sampling']['heun']['first_seconds'] > 0


def test_utilisation_is_flops_over_the_peak(table):
  t = table['training']
  rate = t['model_flops_per_clip'] * t['clips_per_second']
  assert t['utilisation'] == pytest.approx(rate / table['peak_flops'])


def test_the_table_names_every_sampler(table):
  text = '\n'.join(benchmark.lines(table))
  for word in ('TFLOP/s', 'clips/s', 'ddim', 'heun', 'GiB', 'compiled'):
    assert word in text


def test_the_peak_is_of_all_devices_together():
  """Virtual devices share the cores: eight of them are no faster than one."""
  one = benchmark.peak_flops(sharding.make_mesh(devices=_devices(1)), 'float32')
  two = benchmark.peak_flops(sharding.make_mesh(devices=_devices(2)), 'float32')
  assert 0.2 < two / one < 5


def _devices(count):
  import jax

  return jax.devices()[:count]
