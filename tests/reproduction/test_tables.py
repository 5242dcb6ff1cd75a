"""Tables of the papers as data: numbers, rows, configs, needs and costs."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vdm_jax import build, command, errors, reproduce, sharding, validation
from vdm_jax import config as config_lib
from vdm_jax import state as state_lib
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion import observation
from vdm_jax.generate import Generator
from vdm_jax.metrics.protocols import PROTOCOLS
from vdm_jax.planning import flops
from vdm_jax.planning.forward import Forward, forward
from vdm_jax.reproduction import bench as bench_lib
from vdm_jax.reproduction import cells, cost, needs
from vdm_jax.reproduction.paper_numbers import PRINTED
from vdm_jax.reproduction.paper_tables import PAPER_TABLES
from vdm_jax.reproduction.tables import REAL, TABLES

NAMES = sorted(command.table_files())
PAPER = sorted(PAPER_TABLES)
NUMBER = r'\d+(\.\d+)?'
CELL = re.compile(rf'{NUMBER}(/{NUMBER}| ± \d*(\.\d+)?)?')


def table_config(name, variant=''):
  path = command.table_files()[name]
  return config_lib.beside(str(path), path.name, variant)


def bench(name, scale='paper', config=None, workdir=pathlib.Path('none')):
  config = config or table_config(name, 'paper' if scale == 'paper' else '')
  table = reproduce.SCALES[scale][name]
  return bench_lib.Bench(config.lock(), table, scale, workdir)


# The papers' own numbers.


def test_printed_numbers_are_numbers():
  for found in PRINTED.values():
    assert found.paper in ('Ho22', 'Ge23') and found.note
    for row in found.rows.values():
      assert len(row) == len(found.columns)
      assert any(row) and all(CELL.fullmatch(text) for text in row if text)
  assert not CELL.fullmatch('12.3.4') and not CELL.fullmatch('1 / 2')


def test_printed_numbers_agree_with_what_the_papers_say_of_them():
  def column(name, heading):
    found = PRINTED[name]
    at = found.columns.index(heading)
    texts = [row[at] for row in found.rows.values() if row[at]]
    return [[float(t) for t in re.findall(NUMBER, s) if t] or s for s in texts]

  def firsts(name, heading):
    found = PRINTED[name]
    at = found.columns.index(heading)
    texts = [row[at] for row in found.rows.values() if row[at]]
    return [float(re.match(NUMBER, text)[0]) for text in texts]

  assert column('vdm4', 'FVD↓')
  for heading in PRINTED['vdm4'].columns:  # more images are better
    values = firsts('vdm4', heading)
    assert values == sorted(values, reverse=heading.endswith('↓'))
  scores = firsts('vdm5', 'IS-avg↑')  # grow with the guidance
  assert scores[:3] == sorted(scores[:3]) and scores[3:] == sorted(scores[3:])
  for name in ('vdm2', 'vdm3'):  # the second sampler is better
    fvd = firsts(name, 'FVD↓')
    assert fvd[1] < fvd[0]
  by_extension = firsts('vdm6', 'FVD↓')
  assert by_extension[0] < by_extension[1] / 3
  assert by_extension[2] < by_extension[3] / 3
  clip = firsts('pyoco3', 'CLIP-FID↓')  # the more experts the better
  assert clip == sorted(clip, reverse=True)
  assert firsts('pyoco5', 'FVD↓') == [903.37, 566.67, 337.4, 339.67]


@pytest.mark.parametrize('scale', ['small', 'paper'])
def test_printed_rows_are_rows(scale):
  for name, table in reproduce.SCALES[scale].items():
    rows = {*table.rows, REAL}
    assert set(table.printed) <= rows
    if name in PRINTED:
      named = set(table.printed.values())
      assert named <= set(PRINTED[name].rows)
      if scale == 'paper':  # all that the paper prints
        assert named == set(PRINTED[name].rows)


# Rows and configs.


def test_every_table_has_a_config_and_every_config_a_table():
  assert set(NAMES) == set(TABLES)
  assert set(PAPER) == set(NAMES) - {'samplers'} == set(PRINTED)


@pytest.mark.parametrize('name', NAMES)
def test_configs_resolve(name):
  for variant in ('', 'tiny', 'paper'):
    if variant == 'paper' and name == 'samplers':
      with pytest.raises(errors.ConfigError, match='no variant'):
        table_config(name, variant)
      continue
    config = table_config(name, variant).lock()
    validation.validate(config)
    scale = 'paper' if variant == 'paper' else 'small'
    assert config.reproduce.get('scale', 'small') == scale
    assert config.reproduce.table == name
    made = bench(name, scale, config)
    for row in made.table.rows:
      made.row(row, 0)  # every override is of a setting that there is
    assert all(p in PROTOCOLS for p in [made.table.protocol] if p)


def test_rows_are_the_papers():
  steps = {
    name: [row['sample.steps'] for row in PAPER_TABLES[name].rows.values()]
    for name in ('vdm2', 'vdm3')
  }
  assert steps == {'vdm2': [512, 256], 'vdm3': [256, 128]}
  # Calls of the network, of either sampler and at either scale.
  for tables in reproduce.SCALES.values():
    for name in steps:
      ancestral, corrected = tables[name].rows.values()
      assert ancestral['sample.steps'] == 2 * corrected['sample.steps']
  rows = PAPER_TABLES['pyoco3'].rows.values()
  counts = [len(row['reproduce.experts']) for row in rows]
  assert counts == [0, 1, 2, 3]


# What a table needs.


@pytest.fixture
def quick_cost(monkeypatch):
  """A stand-in for tracing: every network costs the same."""
  same = Forward(flops=1e12, padded=1e12, parameters=10)
  monkeypatch.setattr(cost, 'forward', lambda *a, **k: same)


@pytest.mark.parametrize('name', PAPER)
def test_needs_are_listed_before_anything_starts(
  name, quick_cost, tmp_path, capsys
):
  config = table_config(name, 'paper').lock()
  with pytest.raises(errors.ConfigError, match='missing') as caught:
    reproduce.run(config, tmp_path / 'out', jax.devices()[:1])
  text = str(caught.value)
  assert '\n' not in text and '; ' in text and 'data.path' in text
  assert not (tmp_path / 'out').exists()
  out = capsys.readouterr().out
  assert re.search(r'missing +\S.*config\.data\.path = \(empty\)', out)
  for row in PAPER_TABLES[name].rows:
    assert re.search(rf'\| {re.escape(row)} .*FLOP', out.replace(r'\|', '|'))
  protocol = PAPER_TABLES[name].protocol
  if protocol:
    networks = {m.feature.network for m in PROTOCOLS[protocol].measures}
    for network in networks:
      assert f'config.evaluate.weights.{network}' in out
      assert f'evaluate.weights.{network}' in text


def test_what_is_there_is_told_from_what_is_missing(
  quick_cost, tmp_path, capsys
):
  data = tmp_path / 'data' / 'ucf101' / 'ucf101_1_64' / '2.0.0'
  config = table_config('vdm1', 'paper')
  config.data.path = str(tmp_path / 'data')
  config.evaluate.weights.c3d = str(tmp_path / 'c3d.safetensors')

  def status():
    with pytest.raises(errors.UserError) as caught:
      reproduce.run(config.lock(), tmp_path / 'out', jax.devices()[:1])
    out = capsys.readouterr().out
    return caught.value.status, out

  code, out = status()  # named, but not there
  assert code == 3 and len(re.findall('^  missing', out, re.M)) == 2
  data.mkdir(parents=True)
  (data / 'dataset_info.json').write_text('{}')
  code, out = status()
  assert code == 6
  assert 'there    UCF-101' in out and 'missing  weights of c3d' in out
  (tmp_path / 'c3d.safetensors').write_text('damaged')
  code, out = status()
  assert code == 6 and '  missing' not in out
  assert not (tmp_path / 'out').exists()


def test_a_model_that_rows_share_is_paid_once(quick_cost):
  def paid(name):
    return [w.training for w in needs.work(bench(name)).values()]

  assert [bool(t) for t in paid('vdm5')] == [True] + [False] * 5
  assert all(paid('vdm4'))
  images, scratch, *tuned = paid('pyoco5')
  c = table_config('pyoco5', 'paper')
  per_step = 3e12 * c.train.batch_size * c.train.steps
  assert scratch == pytest.approx(per_step)
  assert tuned == pytest.approx([per_step] * 3)
  stills = c.reproduce.images.train
  assert images == pytest.approx(3e12 * stills.batch_size * stills.steps)
  a, *more = paid('pyoco3')
  expert = 3e12 * c.reproduce.get('expert_steps', 50_000)
  assert a > 0 and min(more) == pytest.approx(2 * expert * 128)


def test_seeds_are_paid_each(quick_cost):
  once, thrice = (
    needs.work(bench('pyoco_fig7', config=c))['independent']
    for c in (fig7((0,)), fig7((0, 1, 2)))
  )
  assert thrice.training == pytest.approx(3 * once.training)
  assert thrice.sampling == pytest.approx(3 * once.sampling)


def fig7(seeds):
  config = table_config('pyoco_fig7', 'paper')
  config.reproduce.training_seeds = seeds
  return config


# What it costs.


def test_products_are_counted():
  def program(a, b, image, kernel):
    c, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ b), None), a, None, 5)
    out = jax.lax.conv_general_dilated(
      image, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return c, jax.checkpoint(jnp.sin)(out)

  traced = jax.make_jaxpr(program)(
    jnp.ones((3, 7)),
    jnp.ones((7, 7)),
    jnp.ones((2, 8, 8, 4)),
    jnp.ones((3, 3, 4, 6)),
  )
  wanted = 5 * 2 * 3 * 7 * 7 + 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)
  assert flops.count(traced.jaxpr, padded=True) == wanted


def small(**changes):
  return tiny.config(
    **{
      'data__frames': 6,
      'data__size': 16,
      'model__channels': 16,
      'model__multipliers': (1,),
      'model__attention_resolutions': (),
      'model__dropout': 0.0,
    }
    | changes
  )


def test_training_costs_three_passes():
  """Counted against the program that trains."""
  config = small(data__images=2, train__batch_size=4)
  model = build.model(config, Conditions())
  params = jax.eval_shape(
    lambda key: state_lib.init_params(model, key, frames=6, size=16),
    jax.random.key(0),
  )
  tx = build.optimizer(config)
  step = step_lib.make_train_step(
    model.apply, tx, build.objective(config), seed=0, ema_decay=0.9
  )
  state = jax.eval_shape(lambda p: state_lib.create(p, tx), params)
  batch = {'video': jax.ShapeDtypeStruct((4, 8, 16, 16, 3), jnp.uint8)}
  found = flops.count(jax.make_jaxpr(step)(state, batch).jaxpr, padded=True)
  wanted = cost.training(config, Conditions()) / config.train.steps
  assert found == pytest.approx(wanted, rel=0.06)
  assert abs(found / (wanted * 2 / 3) - 1) > 0.3  # and not two


@pytest.mark.parametrize(
  ('changes', 'known', 'calls'),
  [
    ({}, 1, 3),
    ({'sample__sampler': 'predictor_corrector'}, 0, 2),
    ({'sample__conditioning': 'replacement'}, 2, 1),
  ],
)
def test_sampling_costs_what_its_program_does(changes, known, calls):
  """A step of the program that samples is counted."""
  config = small(**changes)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  model = build.model(config, Conditions())
  one = config_lib.varied(config, {'sample.batch_size': 1})
  generate = Generator(one, model, mesh)
  params = jax.eval_shape(
    lambda key: state_lib.init_params(model, key, frames=6, size=16),
    jax.random.key(0),
  )
  keys = jax.random.split(jax.random.key(0), 1)
  seen = None
  if known:
    values = jnp.zeros((1, known, 16, 16, 3))
    seen = observation.downsampled(1, values, list(range(known)))
  latent = jax.eval_shape(generate._begin, keys)
  grid = generate.sampler.grid(build.levels(config, 3))
  traced = jax.make_jaxpr(generate._step)(
    params, latent, keys, grid, 0, {}, seen
  )
  found = flops.count(traced.jaxpr, padded=True)
  told = cost.sampling(config, Conditions(), known=known)
  wanted = told / config.sample.steps
  assert wanted == calls * forward(config, Conditions()).padded
  assert found == pytest.approx(wanted, rel=0.12)


def test_windows_cost_each():
  config = small(sample__overlap=2)
  one = cost.sampling(config, Conditions())
  # Frames 0–5, then 4 new ones a window, guided by the two before.
  assert cost.sampling(config, Conditions(), frames=14) == 7 * one
  told = Conditions(text='words', words=('a',))
  guided = small(text__kind='words', sample__guidance_scale=2.0)
  plain = config_lib.varied(guided, {'sample.guidance_scale': 1.0})
  assert cost.sampling(guided, told) == 2 * cost.sampling(plain, told)


def test_the_model_of_ucf101_costs_what_it_is_known_to():
  """30.8 TFLOP a video with 8 images, 1168 M parameters: counted by hand."""
  config = table_config('vdm1', 'paper').lock()
  found = forward(config, Conditions(), images=8)
  assert 15.4e12 < 3 * found.padded < 61.6e12
  assert found.parameters == pytest.approx(1168e6, rel=0.01)
  everything = cost.training(config, Conditions())
  assert everything == 3 * found.padded * 128 * 60_000
  days = cost.hours(everything) / 24
  assert 4 < days < 14  # 0.24 ZFLOP


@pytest.mark.slow
@pytest.mark.parametrize('name', PAPER)
def test_costs_of_every_table(name):
  for row, found in needs.work(bench(name)).items():
    assert found.training >= 0 and found.sampling > 0, row
    assert 0.01 < found.hours < 1e7 and math.isfinite(found.hours), row
  first = next(iter(needs.work(bench(name)).values()))
  assert first.training > 1e18


# Cells.


def test_a_cell_is_made_once(tmp_path):
  kept, made = cells.Cells(tmp_path / 'cells'), []

  def score(about, value=0.5):
    def make():
      made.append(about)
      return {'success': value, 'fvd': 1 / 3}

    return kept.score('1 row, α_seed_0', about, make)

  first = score({'settings': {'a': 1}, 'seed': 0})
  assert score({'seed': 0, 'settings': {'a': 1}}, value=0.7) == first
  assert len(made) == 1 and first['fvd'] == 1 / 3
  (path,) = (tmp_path / 'cells').iterdir()
  text = path.read_text()
  assert score({'settings': {'a': 2}, 'seed': 0}, 0.6)['success'] == 0.6
  assert len(made) == 2
  for damage in ('', '{}', '[]', text[: len(text) // 2], '{"digest": 1}'):
    path.write_text(damage)
    score({'settings': {'a': 1}, 'seed': 0})
  assert len(made) == 7
  assert np.isclose(score({'settings': {'a': 1}, 'seed': 0})['success'], 0.5)
  assert len(made) == 7


def test_what_a_cell_depends_on():
  config = small()
  settings = cells.settings(config)

  def changes(**values):
    return cells.settings(small(**values)) != settings

  assert changes(sample__steps=7) and changes(optim__learning_rate=1e-4)
  assert changes(train__steps=11) and changes(data__frames=5)
  assert not changes(train__log_every=3)
  assert not changes(mesh__data=2) and not changes(sample__batch_size=2)
  paper = table_config('pyoco3', 'paper')
  before = cells.settings(paper, 'paper')
  paper.reproduce.runs.base.train.steps = 3
  after = cells.settings(paper, 'paper')
  assert before != after
  paper.reproduce.runs.base.train.log_every = 3
  paper.evaluate.weights.clip = 'elsewhere'
  assert cells.settings(paper, 'paper') == after
