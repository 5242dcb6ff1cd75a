"""Plans of many models: what fits stands, what does not gets a setting."""

import dataclasses
import json

import ml_collections
import pytest

from tests import tiny
from vdm_jax import errors, survey
from vdm_jax.planning import programs, targets

MIB = 2**20


@pytest.fixture
def config():
  """Two models, of which the second has a batch for four times the chip."""
  c = ml_collections.ConfigDict({'plan': {'targets': ('here',)}})
  c.plan.order = ('small', 'large')
  c.plan.models = {
    'small': tiny.config(train__batch_size=8),
    'large': tiny.config(train__batch_size=32, model__remat='block'),
  }
  return c.lock()


@pytest.fixture
def compiled(monkeypatch):
  """Stands in for the compiler: an example takes a MiB; the cases it got."""
  found = dataclasses.replace(
    targets.find('here'), memory=4 * MIB, flops=1e12, bandwidth=1e9
  )
  monkeypatch.setattr(targets, 'find', lambda name: found)
  seen = []

  def compile_case(config, target, case, seconds):
    del seconds
    seen.append((config.train.batch_size, case))
    state = programs.state_bytes(config, target, [case.fsdp])[case.fsdp]
    needed = state['state'] + case.batch * MIB
    return {
      'needed': needed,
      'fits': needed <= target.memory,
      'seconds': 1.0,
      'bound': {'serial': 0.5},
    }

  monkeypatch.setattr(programs, 'compile_case', compile_case)
  return seen


def test_what_does_not_fit_gets_a_setting(config, compiled, tmp_path, capsys):
  survey.run(config, tmp_path)
  small, large = json.loads((tmp_path / 'plans.json').read_text())['rows']
  assert small['here']['setting'] is None
  assert [case.batch for size, case in compiled if size == 8] == [1]
  # More fsdp could not help, as the state is small: that is not compiled.
  tried = [case for size, case in compiled if size == 32]
  assert [(case.batch, case.accumulate) for case in tried] == [(4, 1), (2, 2)]
  assert [case.fsdp for case in tried] == [1, 8]
  assert '--config.train.accumulate=2' in large['here']['setting']
  assert large['here']['bytes'] <= 4 * MIB
  # 32 clips in half a second, of three forward passes each, on eight devices.
  flops = programs.forward_flops(config.plan.models.large)['training']
  assert large['here']['clips_per_second'] == 64
  assert large['here']['utilisation'] == pytest.approx(
    3 * flops * 4 / (0.5 * 1e12)
  )
  table = (tmp_path / 'plans.md').read_text().splitlines()
  assert table[0] == '| model | parameters | batch | here |'
  assert table[2].startswith('| small |') and '2 parts' in table[3]
  assert table[3] in capsys.readouterr().out
  count = len(compiled)
  survey.run(config, tmp_path)
  assert len(compiled) == count  # all of it was kept


def test_rates_are_written_without_an_exponent():
  cell = {'bytes': 2.0**30, 'seconds': 1.0, 'utilisation': 0.5}
  cell['setting'] = None
  found = [
    survey.text(cell | {'clips_per_second': rate})
    for rate in (0.1234, 12.34, 1234.5)
  ]
  assert found == [
    f'1.00 GiB · 50% · {rate} clips/s' for rate in ('0.123', '12.3', '1,234')
  ]


def test_a_batch_that_cannot_be_split_is_said(config, compiled, tmp_path):
  c = config.copy_and_resolve_references().unlock()
  c.plan.models.small.train.batch_size = 9
  survey.run(c.lock(), tmp_path)
  small, _ = json.loads((tmp_path / 'plans.json').read_text())['rows']
  assert 'bytes' not in small['here'] and 'batch' in small['here']['why']
  assert {size for size, _ in compiled} == {32}


def test_a_wrong_model_ends_it_before_anything_compiles(
  config, compiled, tmp_path
):
  c = config.copy_and_resolve_references().unlock()
  c.plan.models.large.train.steps = 0
  with pytest.raises(errors.ConfigError, match=r'train\.steps'):
    survey.run(c.lock(), tmp_path)
  assert compiled == []
