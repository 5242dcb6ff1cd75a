"""Experts: who denoises which noise levels, and what is refused."""

import itertools
import math

import jax
import numpy as np
import pytest

from tests import quick, saved, tiny
from vdm_jax import ensemble, errors, generate, sample, train
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion import experts, schedules

ONE = jax.devices()[:1]
NAMES = ['a', 'b', 'c']


def config(**overrides):
  base = {
    'diffusion__schedule': 'lognormal',
    'sample__count': 2,
    'sample__batch_size': 2,
    'sample__steps': 6,
    'train__steps': 1,
  }
  return tiny.config(**(base | overrides))


@pytest.mark.parametrize('own', [(0.0, 1.0), (0.25, 0.75), (0.2, 0.5)])
@pytest.mark.parametrize('count', range(4))
def test_pieces_tile_the_whole_mass(own, count):
  """Each level has one model, that was trained on it, in any order."""
  given = [(0.5, 1.0), (0.0, 0.25), (0.25, 0.4)][:count]
  known = [*given, own]
  levels = np.linspace(0.005, 0.995, 100)
  if not all(any(low <= u <= high for low, high in known) for u in levels):
    with pytest.raises(errors.ConfigError, match='no model knows'):
      ensemble.tiled(own, given, NAMES)
    return
  pieces = ensemble.tiled(own, given, NAMES)
  assert pieces[0][0] == 0 and pieces[-1][1] == 1
  assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
  for low, high, who in pieces:
    assert (low, high) == given[who] if who >= 0 else own[0] <= low < high
  by_experts = sum(high - low for low, high, who in pieces if who >= 0)
  assert math.isclose(by_experts, sum(b - a for a, b in given))


@pytest.mark.parametrize(
  'own, given, message',
  [
    ((0.0, 1.0), [(0.0, 0.5), (0.4, 1.0)], 'a and b both know .* 0.4 to 0.5'),
    ((0.0, 1.0), [(0.3, 0.4), (0.0, 1.0)], 'both know'),
    ((0.0, 0.5), [], 'no model knows all .* 0 to 1'),
    ((0.0, 0.5), [(0.6, 1.0)], '0 to 0.6'),
    ((0.5, 1.0), [(0.5, 1.0)], '0 to 0.5'),
  ],
)
def test_experts_that_overlap_or_leave_gaps(own, given, message):
  with pytest.raises(errors.ConfigError, match=message):
    ensemble.tiled(own, given, NAMES)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """A model of all levels, and experts that are it, or that are not."""
  folder = tmp_path_factory.mktemp('runs')
  for name, options in {
    'base': {},
    'low': {'interval': (0.0, 0.5)},
    'high': {'interval': (0.5, 1.0)},
    'other_high': {'interval': (0.5, 1.0), 'scale': 0.5},
  }.items():
    mass = options.get('interval', (0.0, 1.0))
    c = config(diffusion__interval=mass)
    saved.run(folder / name, c, scale=options.get('scale', 1.0), step=3)
  return folder


def restored(runs, *names, workdir='base', **overrides):
  """What sampling a workdir restores, with experts."""
  c = config(sample__experts=tuple(str(runs / n) for n in names), **overrides)
  checkpoints = train.checkpoint.Checkpoints(runs / workdir, read_only=True)
  mesh = train.sharding.make_mesh(devices=ONE)
  return sample.restore(c, checkpoints, Conditions(), mesh)


def test_experts_stand_side_by_side_in_noise_levels(runs, capsys):
  """Level 1 of eDiff-I splits at the median of s, e^−1.2."""
  found = restored(runs, 'high', 'low')
  assert 'σ/α from 0.3012 to inf: step 3 of' in capsys.readouterr().out
  assert isinstance(found.params, experts.Experts)
  split = math.exp(-1.2)
  expected = ((0.0, split), (split, math.inf))
  np.testing.assert_allclose(found.params.intervals, expected)
  assert found.expert_steps == (3, 3)
  one = restored(runs, 'other_high').params
  scales = [np.asarray(p['conv_in']['kernel']) for p in one.params]
  np.testing.assert_array_equal(scales[1], 0.5 * scales[0])
  assert one.intervals == found.params.intervals
  by_own = restored(runs, 'high', workdir='low', diffusion__interval=(0.0, 0.5))
  assert by_own.params.intervals == found.params.intervals


def test_interval_of_mass_becomes_interval_of_levels(runs):
  """An expert is asked for the levels that it was trained on."""
  schedule = schedules.LogNormalSchedule(low=0.5, high=1.0)
  s = np.exp(-schedule(np.linspace(0, 1, 101)) / 2)
  low, high = restored(runs, 'high').params.intervals[1]
  assert ((low * (1 - 1e-9) <= s) & (s < high)).all()


def test_experts_equal_to_the_model_sample_what_it_samples(
  runs, monkeypatch, capsys
):
  made = {}

  def shared(*_):  # compiled once
    return made.setdefault('generator', generate.Generator(*_))

  monkeypatch.setattr(sample, 'Generator', shared)

  def drawn(*names):
    experts = tuple(str(runs / n) for n in names)
    c = config(sample__experts=experts, sample__arrays=True)
    sample.run(c, runs / 'base', ONE)
    folder = capsys.readouterr().out.split(' samples in ')[1].split(': open')[0]
    return np.load(folder + '/videos.npy').astype(int)

  whole = drawn()
  np.testing.assert_array_equal(drawn('low', 'high'), whole)
  np.testing.assert_array_equal(drawn('low'), whole)
  assert np.abs(drawn('other_high') - whole).max() > 10


@pytest.mark.parametrize(
  'options, error, message',
  [
    ({'diffusion__schedule': 'cosine'}, errors.ConfigError, 'no intervals'),
    ({'model__channels': 16}, errors.CheckpointError, r'channels: 8 → 16'),
    (
      {'diffusion__prior': 'mixed', 'diffusion__prior_alpha': 1.0},
      errors.CheckpointError,
      'prior: independent → mixed',
    ),
    ({'diffusion__p_std': 1.0}, errors.CheckpointError, r'p_std: 1.2 → 1.0'),
    ({'data__frames': 4}, errors.CheckpointError, r'frames: 3 → 4'),
    (
      {'sample__experts': ('nowhere',)},
      errors.CheckpointError,
      'no checkpoint',
    ),
  ],
)
def test_experts_that_are_refused(runs, options, error, message):
  c = config(**({'sample__experts': (str(runs / 'high'),)} | options))
  with pytest.raises(error, match=message):
    ensemble.find(c, Conditions())


def test_experts_of_other_conditions_are_refused(runs):
  c = config(sample__experts=(str(runs / 'high'),))
  with pytest.raises(errors.CheckpointError, match='classes: none → 2'):
    ensemble.find(c, Conditions(classes=('a', 'b')))


def test_an_expert_alone_is_not_sampled(runs):
  c = config(diffusion__interval=(0.0, 0.5))
  with pytest.raises(errors.ConfigError, match=r'sample\.experts'):
    sample.run(c, runs / 'low', ONE)


def test_names_in_one_text():
  c = config(sample__experts=('runs/a, runs/b', 'c', ''))
  assert ensemble.listed(c) == ['runs/a', 'runs/b', 'c']


def test_training_an_expert_makes_no_samples(
  runs, tmp_path, monkeypatch, capsys
):
  """From a model of all levels; it could not sample by itself."""
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  options = {'init__workdir': str(runs / 'base'), 'sample__count': 2}
  c = config(**options, diffusion__interval=(0.0, 0.5), train__batch_size=2)
  train.run(c, tmp_path, ONE)
  out = capsys.readouterr().out
  assert 'an expert of the mass 0 to 0.5' in out and '0 new' in out
  assert not list((tmp_path / 'samples').glob('*'))
  named = config(sample__experts=('runs/a',))
  with pytest.raises(errors.ConfigError, match='--mode=sample'):
    train.run(named, tmp_path / 'named', ONE)
