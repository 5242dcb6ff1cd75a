"""Sampling from a workdir: what it writes, and what a sample depends on."""

import jax
import numpy as np
import pytest

from tests import tiny
from vdm_jax import build, errors, request, sample, sharding, train

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


def videos(params, devices=ONE, trained=None, **overrides):
  c = config(**overrides)
  mesh = sharding.make_mesh(devices=devices)
  trained = trained or build.data(c)[1]
  network = build.model(c, trained)
  generate = sample.Generator(c, network, mesh)
  model = sample.Model(c, params, generate, trained, 0)
  return sample.in_memory(model, request.make(c, trained), quiet=True)


@pytest.fixture(scope='module')
def params():
  """Random parameters: those of a new network all give the same picture."""
  c = config()
  model = build.model(c, build.data(c)[1])
  shapes = sample.abstract_params(c, model, sharding.make_mesh(devices=ONE))
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return tree.unflatten(
    [
      0.2 * jax.random.normal(k, a.shape)
      for k, a in zip(keys, leaves, strict=True)
    ]
  )


def test_sample_does_not_depend_on_batch_size_or_devices(params):
  whole = videos(params).videos.astype(int)
  assert whole.std() > 10 and np.abs(whole[0] - whole[1]).max() > 10
  split = videos(params, sample__batch_size=2).videos.astype(int)
  spread = videos(params, devices=jax.devices()[:4]).videos.astype(int)
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
    ({'sample__count': 0}, errors.ConfigError, 'sample.count'),
    ({'sample__label': 21}, errors.ConfigError, '21'),
  ],
)
def test_what_does_not_fit_the_checkpoint(trained, override, error, message):
  with pytest.raises(error, match=message):
    sample.run(config(**override), trained, ONE)


def test_class_for_a_model_without_classes():
  with pytest.raises(errors.ConfigError, match='knows 0 classes'):
    videos({}, model__labels=False, sample__label=3)
