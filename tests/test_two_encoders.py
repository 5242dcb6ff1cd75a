"""Two encoders: made by one command, told per slot, left out one by one."""

import dataclasses
import json
import pathlib
import shlex

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from tests import quick, saved, tiny
from tests.text import tiny_encoder
from vdm_jax import (
  build,
  cascade,
  checkpoint,
  embed,
  errors,
  identity,
  request,
  rng,
  sample,
  sharding,
  train,
)
from vdm_jax import config as config_lib
from vdm_jax import step as step_lib
from vdm_jax.data import pipeline, shapes
from vdm_jax.text import cache as cache_lib
from vdm_jax.text import encoder as encoder_lib

ONE = jax.devices()[:1]
LENGTH = 12
DIMS = {'': 8, '2': 12}
GRAYS = {40: 'a dark wall', 200: 'a bright wall'}  # images and their captions


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Two encoders, and images of one gray each."""
  root = tmp_path_factory.mktemp('two')
  for i, (n, dim) in enumerate(DIMS.items()):
    tiny_encoder.write(root / f'encoder{n}', seed=i, dim=dim)
  (root / 'images').mkdir()
  for gray, text in GRAYS.items():
    Image.new('RGB', (8, 8), (gray,) * 3).save(root / f'images/{gray}.png')
    (root / f'images/{gray}.txt').write_text(text)
  return root


@pytest.fixture(scope='module')
def settings(root):
  """A function: overrides to a config of both encoders, and packed images."""

  def make(**overrides):
    names = [f'{kind}{n}' for kind in ('encoder', 'cache') for n in DIMS]
    folders = {f'text__{name}': str(root / name) for name in names}
    base = {
      'text__kind': 'embeddings',
      'text__max_length': LENGTH,
      'data__images': 2,
      'data__image_path': str(root / 'images'),
    }
    return tiny.config(**(folders | base | overrides))

  return make


@pytest.fixture(scope='module')
def caches(root, settings):
  """Made by one command."""
  embed.run(settings(), root)
  return {n: cache_lib.open_cache(root / f'cache{n}') for n in DIMS}


def every_caption():
  return shapes.Shapes(frames=3, size=8).captions()


def test_one_command_embeds_all_captions_by_both(root, caches):
  texts = [*every_caption(), *GRAYS.values()]
  for n, cache in caches.items():
    coder = encoder_lib.load(root / f'encoder{n}')
    assert (cache.encoder, cache.dim) == (coder.hash, DIMS[n])
    assert len(cache) == len(set(texts)) and not cache.missing(texts)
    some = texts[-3:]
    expected, mask = coder.encode(some, LENGTH)
    x, same = cache.lookup(some)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(mask, same)


@pytest.mark.parametrize('made', ['', '2'])
def test_either_alone_and_what_to_type_next(
  root, caches, settings, tmp_path, capsys, made
):
  other = {'': '2', '2': ''}[made]
  new = {f'text__encoder{other}': '', f'text__cache{made}': str(tmp_path)}
  embed.run(settings(text__captions=str(captions(tmp_path)), **new), tmp_path)
  assert len(cache_lib.open_cache(tmp_path)) == 3
  typed = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
  folders = {made: tmp_path, other: caches[other].folder}
  for n, folder in folders.items():
    assert f'--config.text.cache{n}={folder}' in typed
  assert caches[other].folder != tmp_path


def captions(folder):
  path = folder / 'captions.txt'
  path.write_text('a red disc')
  return path


# Refused by embed: what is set, and what to say of it.
NOT_EMBEDDED = {
  'no cache of the second': (
    {'text__cache2': ''},
    '--config.text.cache2=embeddings/tiny2',
  ),
  'no encoder': (
    {'text__encoder': '', 'text__encoder2': ''},
    '--config.text.encoder=FOLDER',
  ),
}


@pytest.mark.parametrize('case', NOT_EMBEDDED)
def test_what_cannot_be_embedded_is_refused_first(settings, tmp_path, case):
  overrides, match = NOT_EMBEDDED[case]
  refused(settings(text__cache=str(tmp_path / 'cache'), **overrides), match)
  assert not (tmp_path / 'cache').exists()


def refused(config, match):
  with pytest.raises(errors.UserError, match=match) as caught:
    embed.run(config, pathlib.Path())
  assert '\n' not in str(caught.value)


def test_the_second_is_looked_at_before_the_first_begins(settings, tmp_path):
  short = tiny_encoder.write(tmp_path / 'short', positions=LENGTH - 1)
  for name, value, match in (
    ('cache2', f'{tmp_path}/a/../cache', 'the same folder'),
    ('encoder2', str(tmp_path), 'no configuration'),
    ('encoder2', str(short), 'up to 11'),
  ):
    options = {'cache': str(tmp_path / 'cache'), name: value}
    refused(settings(**{f'text__{k}': v for k, v in options.items()}), match)
  assert not (tmp_path / 'cache').exists()


def test_every_slot_has_its_own_text_by_both(caches, settings):
  config = settings()
  source, told = build.data(config)
  assert (told.text_dim, told.text2_dim) == (DIMS[''], DIMS['2'])
  assert told.encoder == caches[''].encoder
  assert told.encoder2 == caches['2'].encoder
  seen = set()
  for index in range(4):
    clip = source.clip(index, np.random.default_rng(index))
    grays = clip['video'][3:, 0, 0, 0].tolist()
    seen |= set(grays)
    texts = [clip['caption'], *(GRAYS[gray] for gray in grays)]
    for n, cache in caches.items():
      x, mask = cache.lookup(texts)
      np.testing.assert_array_equal(clip[f'text{n}'], x)
      np.testing.assert_array_equal(clip[f'text{n}_mask'], mask)
  assert seen == set(GRAYS)


def test_batches_are_of_the_shapes_that_are_compiled(caches, settings):
  config = settings()
  source, told = build.data(config)
  batch = next(pipeline.batches(source, batch_size=8, seed=0))
  expected = train.batch_shapes(config, told, sharding.make_mesh(devices=ONE))
  assert batch.keys() - {'index', 'label'} == expected.keys()
  for name, shape in expected.items():
    assert batch[name].shape == shape.shape, name
    assert batch[name].dtype == shape.dtype, name


def test_the_data_tell_the_second_encoder(caches, settings):
  both, _ = build.data(settings())
  one, _ = build.data(settings(text__encoder2='', text__cache2=''))
  swapped, _ = build.data(
    settings(
      text__cache=str(caches['2'].folder), text__cache2=str(caches[''].folder)
    )
  )
  signatures = [json.dumps(s.signature()) for s in (both, one, swapped)]
  assert len(set(signatures)) == 3


# Refused by training: what is set, and what to say of it.
NOT_TRAINED = {
  'second without first': ({'text__cache': ''}, r'config\.text\.cache is emp'),
  'encoder without cache': (
    {'text__cache2': ''},
    r'config\.text\.cache2 is empty.*--config\.text\.cache2=FOLDER',
  ),
  'words and a cache': (
    {'text__kind': 'words', 'text__encoder2': ''},
    'takes no second encoder',
  ),
  'words and an encoder': (
    {'text__kind': 'words', 'text__cache2': ''},
    'takes no second encoder',
  ),
  'one encoder twice': ({'text__cache2': '{root}/cache'}, 'the same encoder'),
  'no captions of the images': (
    {'text__cache2': '{root}/few'},
    r'config\.text\.cache2 .2 of 2, the first: .a ',
  ),
  'no captions of the videos': (
    {'text__cache': '{root}/none', 'text__cache2': '{root}/few'},
    r'config\.text\.cache .84 of 84',
  ),
}


@pytest.fixture(scope='module')
def lacking(root, caches):
  """Caches that lack the captions of the images, and all."""
  for name, n, texts in (('few', '2', every_caption()), ('none', '', [])):
    coder = encoder_lib.load(root / f'encoder{n}')
    cache_lib.build(root / name, coder, texts, max_length=LENGTH)


@pytest.mark.parametrize('case', NOT_TRAINED)
def test_what_cannot_be_trained_on_is_refused(root, lacking, settings, case):
  overrides, match = NOT_TRAINED[case]
  overrides = {k: v.format(root=root) for k, v in overrides.items()}
  with pytest.raises(errors.UserError, match=match) as caught:
    build.data(settings(**overrides))
  assert '\n' not in str(caught.value)


def told_of(wanted, *names):
  found = wanted.told.of(np.arange(len(wanted.items)))
  return [found[name] for name in names]


def test_prompts_are_encoded_by_both(root, caches, settings):
  _, told = build.data(settings())
  options = {'sample__count': 3, 'sample__prompts': str(root / 'prompts.txt')}
  known = every_caption()[7]
  (root / 'prompts.txt').write_text(f'{known}\na cat')
  wanted = request.make(settings(**options), told)
  assert wanted.prompts == (known, 'a cat', known)
  for n, cache in caches.items():
    x, mask = told_of(wanted, f'text{n}', f'text{n}_mask')
    assert x.shape == (3, 1, LENGTH, DIMS[n])
    expected, same = cache.lookup([known])
    np.testing.assert_array_equal(x[[0, 2]], np.stack(2 * [expected]))
    np.testing.assert_array_equal(mask[0], same)
    coder = encoder_lib.load(root / f'encoder{n}')
    expected, _ = coder.encode(['a cat'], LENGTH)
    np.testing.assert_allclose(x[1], expected, rtol=1e-5, atol=1e-5)
  # Of a model of one encoder only the first is asked.
  one = dataclasses.replace(told, text2_dim=0, encoder2='')
  alone = request.make(settings(**options, text__cache2='no such'), one)
  assert alone.told.of(np.arange(3)).keys() == {'text', 'text_mask'}
  np.testing.assert_array_equal(
    *(*told_of(alone, 'text'), *told_of(wanted, 'text'))
  )


# Refused at sampling: what is set, and what to say of it.
NOT_SAMPLED = {
  'no encoder': ({'text__encoder2': ''}, r'text\.cache2.*--config\.text\.enc'),
  'another encoder': (
    {'text__encoder2': '{root}/encoder'},
    r'another than the one.*--config\.text\.encoder2$',
  ),
  'another cache': (
    {'text__encoder2': '', 'text__cache2': '{root}/cache'},
    'another encoder',
  ),
}


@pytest.mark.parametrize('case', NOT_SAMPLED)
def test_prompts_that_one_cannot_encode_are_refused(
  root, caches, settings, case
):
  _, told = build.data(settings())
  overrides, match = NOT_SAMPLED[case]
  overrides = {k: v.format(root=root) for k, v in overrides.items()}
  config = settings(sample__count=1, sample__prompt='a cat', **overrides)
  with pytest.raises(errors.UserError, match=match) as caught:
    request.make(config, told)
  assert '\n' not in str(caught.value)


def test_a_step_leaves_each_text_out_by_its_own_rate(caches, settings):
  config = settings(train__drop__text=0.0, train__drop__text2=0.5)
  source, _ = build.data(config)
  batch = next(pipeline.batches(source, batch_size=8, seed=0))
  batch = {k: jnp.asarray(v) for k, v in batch.items()}
  batch |= {'logsnr': jnp.zeros(8), 'index': jnp.arange(8)}

  @jax.jit
  def told_in(batch):
    told = {}

    def network(variables, z, logsnr, **options):
      told.update({k: v for k, v in options.items() if 'mask' in k})
      return z

    step_lib.part_loss(
      None,
      network,
      build.objective(config),
      batch,
      noise=rng.stream(0, 'noise'),
      drop=rng.stream(0, 'drop'),
      dropout=rng.stream(0, 'dropout'),
    )
    return told

  told = told_in(batch)
  np.testing.assert_array_equal(told['text_mask'], batch['text_mask'])
  there = told['text2_mask'].any(-1)
  assert 0 < there.sum() < there.size == 24
  np.testing.assert_array_equal(
    told['text2_mask'], batch['text2_mask'] & there[..., None]
  )


def test_a_run_keeps_to_its_encoders(
  root, caches, settings, tmp_path, monkeypatch
):
  def traced(step, state, batch):
    jax.eval_shape(step, state, batch)
    return quick.no_step()

  monkeypatch.setattr(train, 'compile_step', traced)
  options = {'train__steps': 1}
  train.run(settings(**options), tmp_path, ONE)
  checkpoints = checkpoint.Checkpoints(tmp_path, read_only=True)
  trained = sample.trained_with(checkpoints, settings(**options))
  assert trained.texts == ('', '2')
  assert trained.encoder2 == caches['2'].encoder
  # Another second encoder ends a later start.
  folder = tiny_encoder.write(tmp_path / 'encoder', seed=5, dim=4)
  other = {
    'text__encoder2': str(folder),
    'text__cache2': str(tmp_path / 'cache'),
  }
  embed.run(settings(text__encoder='', **other), tmp_path)
  match = r'with the text encoder .*, but config\.text\.cache2 is of'
  with pytest.raises(errors.CheckpointError, match=match):
    train.run(settings(**other, **options), tmp_path, ONE)


def test_a_cascade_fills_in_both(tmp_path):
  saved = tiny.config(text__cache='old', text__encoder2='old 2')
  (tmp_path / 'config.json').write_text(identity.to_json(saved))
  c = tiny.config(text__encoder='a', text__cache2='b').unlock()
  stage = config_lib.stage()
  stage.workdir, stage.size, stage.frames = str(tmp_path), 8, 3
  c.cascade = ml_collections.ConfigDict({'order': ('base',), 'base': stage})
  text = cascade._config_of(c, 'base', 1).text
  assert (text.encoder, text.cache) == ('a', 'old')
  assert (text.encoder2, text.cache2) == ('old 2', 'b')


def test_a_cascade_loads_each_encoder_once(
  root, caches, settings, tmp_path, monkeypatch
):
  """Two stages by both encoders, of one prompt that no cache has."""
  c = tiny.config(
    sample__count=2,
    sample__prompt='a cat',
    text__encoder=str(root / 'encoder'),
    text__encoder2=str(root / 'encoder2'),
  ).unlock()
  c.cascade = ml_collections.ConfigDict({'order': ('base', 'more')})
  for name, stride, frames in (('base', 2, 3), ('more', 1, 5)):
    of_run = settings(data__stride=stride, data__images=0, sample__overlap=1)
    saved.run(tmp_path / name, of_run, build.data(of_run)[1])
    stage = config_lib.stage(overlap=1)
    stage.workdir, stage.size = str(tmp_path / name), 8
    stage.frames, stage.stride = frames, stride
    c.cascade[name] = stage
  loaded, load = [], encoder_lib.load

  def counted(folder, **options):
    loaded.append(pathlib.Path(folder).name)
    return load(folder, **options)

  monkeypatch.setattr(encoder_lib, 'load', counted)
  stages = cascade.check(c, sharding.make_mesh(devices=ONE))
  assert loaded == ['encoder', 'encoder2']
  for n, dim in DIMS.items():
    base, more = (told_of(stage.wanted, f'text{n}')[0] for stage in stages)
    np.testing.assert_array_equal(base, more)
    assert base.shape == (2, 1, LENGTH, dim)
