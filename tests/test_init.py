"""Starting from another run: to the bit, on any mesh, once, or not at all."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests import quick, saved, tiny
from tests.test_config import load
from tests.test_train import truncate
from vdm_jax import (
  build,
  checkpoint,
  errors,
  identity,
  origin,
  sample,
  sharding,
  train,
)
from vdm_jax.conditions import Conditions
from vdm_jax.nn import inflation

TWO = jax.devices()[:2]


@pytest.fixture(scope='module', autouse=True)
def programs():
  with pytest.MonkeyPatch.context() as patch:
    quick.programs_once(patch)
    yield


IMAGE = {'model__temporal': False, 'data__frames': 1}


def video(source, **overrides):
  base = {'init__workdir': str(source), 'train__steps': 2}
  return tiny.config(**(base | overrides))


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """A run of single frames, and its averaged parameters."""
  workdir = tmp_path_factory.mktemp('images')
  return workdir, saved.run(workdir, tiny.config(**IMAGE), step=7)


def prepared(config, devices):
  """The run to start from, and the function that makes the first state."""
  told = Conditions()
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  model = build.model(config, told)
  init, abstract = train.make_init(config, model, build.optimizer(config), mesh)
  return origin.find(config, told, abstract.params, mesh), init


def begun(config, devices=TWO):
  """The first state of a run, and what it says of its origin."""
  found, init = prepared(config, devices)
  params, said = found.restore()
  return init(params), said


@pytest.fixture(scope='module')
def begun_video(images):
  """The same of a video run, whose origin is the image run."""
  return begun(video(images[0]))


@pytest.fixture(scope='module')
def fresh(images):
  """The first state of the video run as it is without an origin."""
  return jax.device_get(prepared(video(images[0]), TWO)[1]())


def paths(tree):
  return {
    sharding.path_name(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def assert_bitwise(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), b)


def newest(workdir, config):
  """The parameters, their average and the meta of the newest checkpoint."""
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, TWO)
  model = build.model(config, Conditions())
  _, abstract = train.make_init(config, model, build.optimizer(config), mesh)
  checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
  state, meta = checkpoints.restore(abstract)
  return jax.device_get((state.params, state.ema_params)), meta


def test_a_video_run_starts_from_the_average_of_an_image_run(
  images, begun_video, fresh
):
  workdir, ema = images
  state, said = begun_video
  image, new = paths(ema), paths(fresh.params)
  for tree in (state.params, state.ema_params):
    start = paths(tree)
    assert set(start) > set(image)
    for name, value in start.items():
      np.testing.assert_array_equal(value, image.get(name, new[name]), name)
  # What was taken is not what the network would have drawn by itself.
  assert sum((image[n] != new[n]).any() for n in image) > len(image) / 2
  assert int(state.step) == 0
  assert_bitwise(state.opt_state, fresh.opt_state)
  assert said == {'workdir': str(workdir), 'step': 7}


def test_it_says_what_it_takes(images, begun_video, capsys):
  workdir, ema = images
  prepared(video(workdir), TWO)[0].restore()
  taken, count = len(paths(ema)), len(paths(begun_video[0].params))
  assert (
    f'starting from step 7 of {workdir}: {taken} of {count} arrays taken, '
    f'{count - taken} new (temporal)\n' == capsys.readouterr().out
  )


def test_an_equal_network_takes_everything(images, capsys):
  workdir, ema = images
  params, _ = prepared(video(workdir, **IMAGE), TWO)[0].restore()
  assert_bitwise(params, ema)
  assert 'arrays taken, 0 new\n' in capsys.readouterr().out


def test_it_starts_split_over_devices(images, begun_video):
  """What is read arrives split, as the state that it becomes."""
  found, init = prepared(video(images[0], mesh__fsdp=4), jax.devices()[:4])
  read, _ = found.restore()
  state = init(read)
  mesh = sharding.make_mesh(1, 4, jax.devices()[:4])
  whole, image = paths(begun_video[0].params), paths(images[1])
  parted = 0
  for tree in (read, state):
    shardings = jax.tree.leaves(sharding.tree_shardings(mesh, tree))
    for a, s in zip(jax.tree.leaves(tree), shardings, strict=True):
      assert a.sharding.is_equivalent_to(s, a.ndim)
      parted += a.addressable_shards[0].data.size < a.size
  assert parted > 20
  for name, value in paths(state.params).items():
    if name in image:
      np.testing.assert_array_equal(value, image[name])
    else:  # drawn in place; the last bit is the compiler's
      np.testing.assert_allclose(value, whole[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_resumed_run_does_not_need_its_origin(
  images, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  source, workdir = tmp_path / 'source', tmp_path / 'run'
  shutil.copytree(images[0], source)
  train.run(video(source, train__steps=1), workdir, TWO)
  assert 'starting from step 7' in capsys.readouterr().out
  first, meta = newest(workdir, video(source))
  said = {'workdir': str(source), 'step': 7}
  assert meta['origin'] == said and meta['step'] == 1

  shutil.rmtree(source)
  train.run(video(source), workdir, TWO)
  out = capsys.readouterr().out
  assert 'continuing from step 1' in out and 'starting from' not in out
  again, meta = newest(workdir, video(source))
  assert meta['origin'] == said and meta['step'] == 2
  assert_bitwise(again, first)


def test_a_damaged_checkpoint_of_the_origin_is_passed_over(
  images, tmp_path, capsys
):
  shutil.copytree(images[0], tmp_path, dirs_exist_ok=True)
  saved.run(tmp_path, tiny.config(**IMAGE), step=9, scale=3.0)
  found, _ = prepared(video(tmp_path), TWO)
  assert found.restore()[1]['step'] == 9
  truncate(tmp_path / 'checkpoints' / '9' / 'ema')
  before = sorted(p for p in tmp_path.rglob('*'))
  params, said = found.restore()
  assert said['step'] == 7
  assert_bitwise(params, images[1])
  # It is opened to read: nothing was set aside.
  assert sorted(p for p in tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
  'override, message',
  [
    ({'init__workdir': 'nowhere'}, 'nowhere, which holds no checkpoint'),
    ({'model__channels': 16}, r'model\.channels: 8 → 16'),
    ({'model__groups': 2}, r'model\.groups: 4 → 2'),
    ({'diffusion__prediction': 'x'}, r'diffusion\.prediction: v → x'),
    ({'model__labels': True}, r'classes: none → 21'),
    (
      {'text__kind': 'words', 'text__max_length': 8},
      'text: none → words',
    ),
  ],
)
def test_runs_that_cannot_be_started_from(
  images, tmp_path, monkeypatch, override, message
):
  """It is said before anything is compiled or written."""
  monkeypatch.setattr(train, 'programs', None)
  monkeypatch.chdir(tmp_path)
  workdir = tmp_path / 'run'
  with pytest.raises(errors.CheckpointError, match=message):
    train.run(video(images[0], **override), workdir, TWO)
  assert not workdir.exists()


def test_a_network_that_has_less_is_refused(tmp_path):
  """From video to images there is no place for the temporal layers."""
  saved.run(tmp_path / 'videos', tiny.config())
  with pytest.raises(errors.CheckpointError, match='temporal'):
    prepared(video(tmp_path / 'videos', **IMAGE), TWO)


def test_a_run_that_began_by_itself_has_no_origin(
  images, tmp_path, monkeypatch
):
  """Naming one for it later would be without effect, so it is refused."""
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  train.run(video('', train__steps=1), tmp_path, TWO)
  with pytest.raises(errors.CheckpointError, match='begun from new'):
    train.run(video(images[0], train__steps=3), tmp_path, TWO)


def test_rates_are_checked_before_anything_is_written(tmp_path, capsys):
  workdir = tmp_path / 'run'
  config = tiny.config(optim__rates=(('nonesuch', 0.5),))
  with pytest.raises(errors.ConfigError, match='nonesuch'):
    train.run(config, workdir, TWO)
  assert not workdir.exists()


@pytest.mark.slow
def test_fine_tuning_the_new_layers_alone(images, fresh, tmp_path, capsys):
  """PYoCo's way in one setting: what the images taught stays to the bit."""
  workdir, ema = images
  rates = (('temporal', 1.0), ('.', 0.0))
  config = video(workdir, optim__rates=rates, optim__weight_decay=0.1)
  train.run(config, tmp_path, TWO)
  (params, average), _ = newest(tmp_path, config)
  image = paths(ema)
  for tree in (params, average):
    tuned, start = paths(tree), paths(fresh.params)
    for name in image:
      np.testing.assert_array_equal(tuned[name], image[name], name)
    new = set(tuned) - set(image)
    moved = {n for n in new if (tuned[n] != start[n]).any()}
    assert moved and moved <= {n for n in new if 'temporal' in n}
  assert 'frozen' in capsys.readouterr().out
  assert pathlib.Path(tmp_path, 'config.json').is_file()


@pytest.mark.parametrize(
  'size, millions', [('small', 69), ('medium', 112), ('large', 253)]
)
def test_the_papers_sizes(size, millions):
  """Ge23 §5.1, within 0.5 %; each image model goes into its video model."""
  shapes, configs = [], []
  for name in ('ucf101_image', 'ucf101_pyoco'):
    configs.append(load(pathlib.Path(f'configs/{name}.py'), size))
    model = build.model(configs[-1], Conditions())
    mesh = sharding.make_mesh(devices=TWO)
    shapes.append(sample.abstract_params(configs[-1], model, mesh))
  count = train.parameter_count(shapes[1])
  assert abs(count / 1e6 / millions - 1) < 0.005
  _, new = inflation.inflate(*shapes)
  assert new and all('/temporal/' in name for name in new)
  assert configs[1].init.workdir == f'runs/{configs[0].name}'
  assert identity.differences(*configs, origin.TIED, origin.FREE) == []
