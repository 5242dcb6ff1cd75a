"""Settings: round trips, ranges, variants, and every file of configs/."""

import contextlib
import importlib.util
import itertools
import json
import pathlib

import jax
import pytest

from tests import tiny
from vdm_jax import build, errors, identity, sample, train, validation
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.schedules import LogNormalSchedule
from vdm_jax.planning import programs

CONFIGS = sorted(pathlib.Path('configs').rglob('*.py'))


def told(config):
  """What a model of the config could be told."""
  kind = config.text.kind
  return Conditions(
    classes=('a', 'b') if config.model.labels else (),
    text=kind,
    words=('red', 'disc') if kind == 'words' else (),
    text_dim=1024 if kind == 'embeddings' else 0,
    strides=tuple(config.data.strides),
  )


def load(path, variant=''):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize('small', [False, True])
def test_every_config_builds(path, small):
  tiny_name = 'shapes' if path.stem == 'cascade' else 'tiny'
  config = load(path, tiny_name if small else '')
  validation.validate(config)
  build.model(config, told(config))
  build.optimizer(config)
  build.objective(config)
  build.sampler(config)


SQUASHED = ('ucf101', 'bair')


@pytest.mark.parametrize('source', SQUASHED)
def test_what_is_stored_squashed_is_not_said_to_be_cropped(source):
  with pytest.raises(errors.ConfigError, match="resize to 'squash'"):
    build.data(tiny.config(data__source=source, data__resize='crop'))


def test_configs_know_what_is_stored_squashed():
  """Else videos that are given would be cropped, unlike those trained on."""
  found = set()
  for path, variant in itertools.product(CONFIGS, ('', 'tiny', 'paper')):
    with contextlib.suppress(errors.ConfigError):
      c = load(path, variant)
      known = c.data.source not in SQUASHED or c.data.resize == 'squash'
      assert known, (path, variant)
      found.add(c.data.source)
  assert found >= set(SQUASHED)


# As `--mode=plan --config=configs/papers.py` plans them. The paper: 1.08 B for
# the first two, 313 M for the others, of which the last is our layout's.
@pytest.mark.parametrize(
  'name, millions',
  [
    ('pyoco_base', 1082.3),
    ('pyoco_interpolation', 1082.6),
    ('pyoco_sr256', 313.4),
    ('pyoco_sr1024', 305.0),
  ],
)
def test_pyocos_models_have_their_parameters(name, millions):
  config = load(pathlib.Path('configs/papers.py')).plan.models[name]
  assert abs(parameters(config, programs.told(config)[0]) - millions) < 0.05


def parameters(config, told):
  """Millions of them."""
  model = build.model(config, told)
  mesh = train.sharding.make_mesh(devices=jax.devices()[:1])
  shapes = sample.abstract_params(config, model, mesh)
  return train.parameter_count(shapes) / 1e6


# Without the text's share: attention pooling of 1024 channels, and for a model
# of two strides their vectors.
TEXT, STRIDES = 3.15, 2 * 1024 / 1e6


@pytest.mark.parametrize(
  'name, millions',
  [
    ('ucf101', 1167.7),
    ('bair', 148.4),
    ('kinetics600', 1165.6),
    ('text_small', 306.4 + TEXT),
    ('text_large', 1167.7 + TEXT + STRIDES),
    ('text_large_sr', 1171.2 + TEXT),
  ],
)
def test_papers_models_have_their_parameters(name, millions):
  config = load(pathlib.Path(f'configs/{name}.py'))
  assert abs(parameters(config, told(config)) / millions - 1) < 0.005


def test_json_round_trip():
  config = tiny.config(model__multipliers=(1, 2), train__steps=7)
  again = identity.from_json(identity.to_json(config))
  assert again == config
  assert isinstance(again.model.multipliers, tuple)


@pytest.mark.parametrize(
  'text, message',
  [
    ('{', 'not readable JSON'),
    ('{"optim": {"learning_rat": 1.0}}', 'did you mean optim.learning_rate'),
  ],
)
def test_saved_config_that_does_not_fit(text, message):
  with pytest.raises(errors.ConfigError, match=message):
    identity.from_json(text)


@pytest.mark.parametrize(
  'key, value',
  [
    ('optim.learning_rate', float('nan')),
    ('optim.learning_rate', -1.0),
    ('optim.ema', 1.0),
    ('model.dropout', 1.0),
    ('model.multipliers', ()),
    ('model.multipliers', (1, 0)),
    ('model.dtype', 'float16'),
    ('data.frames', 0),
    ('train.image_weight', -1.0),
    ('train.image_weight', float('inf')),
    ('text.dims', (0,)),
    ('text.dims', (1024, 768, 768)),
    ('data.resize', 'stretch'),
    ('train.steps', 0),
    ('sample.gamma', 1.5),
    ('diffusion.logsnr_max', -30.0),
    ('diffusion.p_std', 0.0),
    ('diffusion.p_mean', float('nan')),
    ('diffusion.interval', (0.5, 0.5)),
    ('diffusion.interval', (0.0, 0.5, 1.0)),
    ('seed', -1),
    ('seed', 2**32),
    ('sample.seed', 2**64),
    ('analyze.seed', 10**400),
    ('train.steps', -(10**400)),
  ],
)
def test_values_out_of_range_are_named(key, value):
  validation.validate(tiny.config())
  with pytest.raises(errors.ConfigError, match=key.split('.')[-1]):
    validation.validate(tiny.config(**{key: value}))


def test_seeds_that_are_taken_are_all_different():
  key = lambda seed: jax.random.key_data(jax.random.key(seed)).tolist()  # noqa: E731
  last = validation.SEEDS - 1
  for name in validation.SEED:
    validation.validate(tiny.config(**{name: last}))
  assert key(last) not in (key(0), key(5))
  assert key(validation.SEEDS + 5) == key(5)  # of those that are not


@pytest.mark.parametrize(
  'key, value, owner',
  [
    ('shift', -4.0, 'cosine'),
    ('logsnr_min', -15.0, 'cosine'),
    ('logsnr_max', 5.0, 'cosine'),
    ('p_mean', 3.0, 'lognormal'),
    ('p_std', 1.5, 'lognormal'),
    ('interval', (0.5, 1.0), 'lognormal'),
  ],
)
def test_numbers_of_another_schedule_are_refused(key, value, owner):
  other = {'cosine': 'lognormal', 'lognormal': 'cosine'}[owner]
  given = {f'diffusion.{key}': value}
  validation.validate(tiny.config(diffusion__schedule=owner, **given))
  with pytest.raises(errors.ConfigError, match=f'{other}.*{owner}') as e:
    validation.validate(tiny.config(diffusion__schedule=other, **given))
  assert f'config.diffusion.{key}' in str(e.value)


REFINES = {'refine__kind': 'interpolate', 'refine__factor': 2}


def test_a_weight_of_images_that_are_not_there_is_refused():
  weight = {'train__image_weight': 0.5}
  given = tiny.config(data__images=2, **weight)
  validation.validate(given)
  assert build.objective(given).image_weight == 0.5
  assert identity.differences(tiny.config(data__images=2), given) == [
    'train.image_weight: 1.0 → 0.5'
  ]
  with pytest.raises(errors.ConfigError, match='no images are packed'):
    validation.validate(tiny.config(**weight))


def test_a_level_of_noise_that_nothing_has_is_refused():
  level = {'refine__augment_level': 0.1}
  validation.validate(tiny.config(**REFINES, **level))
  for other in ({}, REFINES | {'refine__augment': False}):
    validation.validate(tiny.config(**other))
    with pytest.raises(errors.ConfigError, match='no noise is added'):
      validation.validate(tiny.config(**other, **level))


@pytest.mark.parametrize(
  'make, key, table',
  [
    (build.data, 'data.source', build.SOURCES),
    (build.sampler, 'sample.sampler', build.SAMPLERS),
    (build.objective, 'diffusion.prediction', ()),
    (build.objective, 'diffusion.weight', ()),
    (build.objective, 'diffusion.prior', ()),
    (build.objective, 'diffusion.schedule', build.SCHEDULES),
  ],
)
def test_unknown_names_list_what_there_is(make, key, table):
  with pytest.raises(errors.ConfigError, match='must be one of') as e:
    make(tiny.config(**{key: 'nonesuch'}))
  assert f'config.{key}' in str(e.value)
  assert all(name in str(e.value) for name in table)


def test_the_objective_of_a_correlated_prior_and_an_expert():
  config = tiny.config(
    diffusion__prior='progressive',
    diffusion__prior_alpha=2.0,
    diffusion__prediction='edm',
    diffusion__weight='edm',
    diffusion__schedule='lognormal',
    diffusion__interval=(0.5, 1.0),
  )
  validation.validate(config)
  objective = build.objective(config)
  assert objective.prior == NoisePrior('progressive', 2.0)
  assert objective.schedule == LogNormalSchedule(-1.2, 1.2, 0.5, 1.0)
  assert objective.prediction == objective.weight == 'edm'
  stronger = config.copy_and_resolve_references()
  stronger.diffusion.prior_alpha = 5.0
  assert identity.differences(config, stronger) == [
    'diffusion.prior_alpha: 2.0 → 5.0'
  ]


@pytest.mark.parametrize(
  'kind, alpha, message',
  [
    ('progressive', float('inf'), 'singular'),
    ('mixed', float('nan'), 'at least 0'),
    ('mixed', -1.0, 'at least 0'),
    ('independent', 1.0, 'has alpha 0'),
    ('progressive', 0.0, 'no noise is shared; set'),
  ],
)
def test_priors_that_cannot_be_are_refused_in_one_line(kind, alpha, message):
  config = tiny.config(diffusion__prior=kind, diffusion__prior_alpha=alpha)
  with pytest.raises(errors.ConfigError, match=message) as e:
    build.objective(config)
  assert 'config.diffusion.prior' in str(e.value)
  assert '\n' not in str(e.value)


def test_the_nearest_name_is_offered():
  with pytest.raises(errors.ConfigError, match="did you mean 'ancestral'"):
    build.sampler(tiny.config(sample__sampler='ancestal'))


def test_variants():
  config = config_lib.default()
  with pytest.raises(errors.ConfigError, match='one of tiny'):
    config_lib.variant(config, 'tyni', tiny={})
  config_lib.variant(config, 'tiny', tiny={'data.frames': 2})
  assert config.data.frames == 2 and config.name == 'vdm_tiny'
  with pytest.raises(AttributeError):
    config.data.framse = 3


def test_only_what_ties_a_checkpoint_counts_as_a_difference():
  base = tiny.config()
  free = tiny.config(
    train__steps=99, sample__steps=9, mesh__fsdp=2, model__remat='block'
  )
  assert identity.differences(base, free) == []
  tied = tiny.config(optim__ema=0.5, data__frames=4)
  assert identity.differences(base, tied) == [
    'data.frames: 3 → 4',
    'optim.ema: 0.9 → 0.5',
  ]


def test_every_setting_is_read_somewhere():
  """An option that nothing reads would be accepted and ignored."""
  code = '\n'.join(
    p.read_text()
    for p in pathlib.Path('vdm_jax').rglob('*.py')
    if p.name != 'config.py'
  )
  settings = json.loads(identity.to_json(config_lib.default()))
  for section, values in settings.items():
    names = values if isinstance(values, dict) else [section]
    for name in names:
      assert f'.{name}' in code, f'{section}.{name} is never read'
