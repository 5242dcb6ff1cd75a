"""Sampling from a workdir: what it writes, and what a sample depends on."""

import functools
import sys

import jax
import numpy as np
import pytest

from tests import tiny
from tests.standins import random_params
from vdm_jax import (
  build,
  claims,
  errors,
  main,
  request,
  sample,
  sharding,
  train,
)
from vdm_jax.generate import Generator

ONE = jax.devices()[:1]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A workdir with a checkpoint, and the config it was trained with."""
  workdir = tmp_path_factory.mktemp('trained')
  config = tiny.config(train__steps=2, model__labels=True)
  train.run(config, workdir, ONE)
  return workdir


def config(**overrides):
  base = {'model__labels': True, 'sample__count': 5, 'train__steps': 2}
  return tiny.config(**(base | overrides))


@functools.cache
def generator(batch_size, devices):
  """A generator that is compiled once for all tests."""
  c = config(sample__batch_size=batch_size)
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  return Generator(c, build.model(c, build.data(c)[1]), mesh)


def videos(params, devices=1, **overrides):
  c = config(**overrides)
  trained = build.data(c)[1]
  wanted = request.make(c, trained)
  generate = generator(c.sample.batch_size, devices)
  model = sample.Model(c, params, generate, trained, 0)
  return sample.in_memory(model, wanted, quiet=True)


@pytest.fixture(scope='module')
def params():
  c = config()
  return random_params(build.model(c, build.data(c)[1]))


def test_sample_does_not_depend_on_batch_size_or_devices(params):
  whole = videos(params).videos.astype(int)
  assert whole.std() > 10 and np.abs(whole[0] - whole[1]).max() > 10
  split = videos(params, sample__batch_size=2).videos.astype(int)
  spread = videos(params, devices=4).videos.astype(int)
  assert np.abs(split - whole).max() <= 1
  assert np.abs(spread - whole).max() <= 1


def test_sample_depends_on_seed_and_class(params):
  whole = videos(params)
  assert [i['class'] for i in whole.items[:2]] == ['red disc', 'green disc']
  assert [i['index'] for i in whole.items] == list(range(5))
  seeded = videos(params, sample__seed=1)
  assert np.abs(seeded.videos - whole.videos).max() > 10
  one_class = videos(params, sample__label=2)
  assert set(one_class.labels) == {2}
  assert np.array_equal(one_class.videos[2], whole.videos[2])
  assert not np.array_equal(one_class.videos[0], whole.videos[0])


def test_sampling_from_a_workdir_writes_the_gallery(trained, capsys):
  sample.run(config(mesh__data=1, sample__arrays=True), trained, ONE)
  (folder,) = (trained / 'samples').glob('sample_step_2_seed_0_*')
  names = {p.name for p in folder.iterdir()}
  assert {'0000.mp4', '0004.gif', 'sheet.png', 'videos.npy'} <= names
  assert np.load(folder / 'videos.npy').shape == (5, 3, 8, 8, 3)
  assert 'red disc' in (trained / 'index.html').read_text()
  assert 'success' in capsys.readouterr().out


@pytest.mark.parametrize(
  'override, error, message',
  [
    ({'model__channels': 16}, errors.CheckpointError, 'another config'),
    (
      {'diffusion__prior': 'progressive', 'diffusion__prior_alpha': 2.0},
      errors.CheckpointError,
      r'prior: independent → progressive; .*prior_alpha: 0.0 → 2.0\); undo',
    ),
    ({'sample__count': 0}, errors.ConfigError, 'sample.count'),
    ({'sample__label': 21}, errors.ConfigError, '21'),
    ({'sample__prompt': 'a disc'}, errors.ConfigError, 'without text'),
    ({'sample__frames': 2}, errors.ConfigError, 'ask for 3'),
    ({'sample__frames': 5, 'sample__overlap': 3}, errors.ConfigError, '0 to 2'),
    ({'sample__known': ':1'}, errors.ConfigError, 'no video'),
  ],
)
def test_what_does_not_fit_the_checkpoint(
  trained, override, error, message, monkeypatch
):
  """It is said before any parameter is read, and so before compiling."""
  monkeypatch.setattr(sample, 'restore', None)
  with pytest.raises(error, match=message):
    sample.run(config(**override), trained, ONE)


def test_training_does_not_begin_if_its_samples_cannot_be_made(tmp_path):
  c = config(sample__count=1, sample__prompt='a disc')
  with pytest.raises(errors.ConfigError, match='without text'):
    train.run(c, tmp_path / 'run', ONE)
  assert not (tmp_path / 'run').exists()


def test_class_for_a_model_without_classes():
  with pytest.raises(errors.ConfigError, match='knows 0 classes'):
    videos({}, model__labels=False, sample__label=3)


@pytest.mark.slow
def test_a_long_sample_does_not_depend_on_its_batch(params):
  """To the rounding of one grey level, as that of a single window."""
  options = {'sample__frames': 7, 'sample__overlap': 1}
  whole = videos(params, **options).videos.astype(int)
  split = videos(params, sample__batch_size=2, **options).videos.astype(int)
  assert whole.shape == (5, 7, 8, 8, 3) and whole[:, 3:].std() > 10
  assert np.abs(split - whole).max() <= 1


@pytest.mark.slow
def test_from_a_prompt_to_the_gallery(tmp_path, monkeypatch, capsys):
  """Training on captions and sampling one, both by the command."""
  c = tiny.config(text__kind='words', text__max_length=8, train__steps=2)
  claims.claim(tmp_path, c)
  on = sharding.make_mesh
  monkeypatch.setattr(
    sharding, 'make_mesh', lambda data, fsdp, _, **__: on(data, fsdp, ONE)
  )

  def run(*options):
    argv = ['main.py', f'--workdir={tmp_path}', *options]
    monkeypatch.setattr(sys, 'argv', argv)
    status = main.main(argv)
    out = capsys.readouterr()
    assert status == 0, out.err
    return out.out

  run()
  text = run(
    '--mode=sample',
    '--config.sample.count=2',
    '--config.sample.prompt=a red disc moving left',
    '--config.sample.guidance_scale=3',
  )
  assert 'guidance scale 3 (w = 2)' in text
  page = (tmp_path / 'index.html').read_text()
  assert page.count('a red disc moving left') >= 2
  assert '3 (w = 2)' in page
