"""Plans: what a config takes on machines that need not be there."""

import dataclasses
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from tests import tiny
from vdm_jax import build, errors, plan, sharding, train
from vdm_jax.planning import flops, passes, programs, search, targets
from vdm_jax.planning.programs import Case

libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='the compiler of TPUs is not installed (pip install libtpu)',
)
FRAMES, SIDE, WIDTH, EMB = 3, 8, 8, 16


# What the network of tests/tiny.py multiplies, by hand; c is its width.


def convolution(inputs, outputs):
  """3×3 on frames with zeros around: an edge meets two of three taps."""
  return 2 * FRAMES * (3 * SIDE - 2) ** 2 * inputs * outputs


def dense(inputs, outputs, rows=FRAMES * SIDE**2):
  return 2 * rows * inputs * outputs


def residual(inputs, c):
  total = convolution(inputs, c) + convolution(c, c)
  shortcut = dense(inputs, c) if inputs != c else 0
  return total + shortcut + dense(EMB, 2 * c, rows=1)


def attentions(c):
  spatial = 2 * 2 * FRAMES * SIDE**4 * c
  temporal = 4 * 2 * FRAMES**2 * SIDE**2 * c  # two of them with positions
  return spatial + temporal + 2 * (dense(c, 3 * c) + dense(c, c))


def layers(c):
  """down_0_0, mid_0, up_0_0, up_0_1 with attentions; mid_1."""
  both = 2 * residual(c, c) + 2 * residual(2 * c, c) + 4 * attentions(c)
  return both + residual(c, c)


def first(c):
  return convolution(3, c) + dense(c, EMB, rows=1)


def forward(c=WIDTH):
  ends = first(c) + convolution(c, 3) + dense(EMB, EMB, rows=1)
  return layers(c) + ends


def training(c=WIDTH):
  """Backwards each product is two; nothing asks for the data's gradient."""
  return 3 * forward(c) - first(c)


def again(c=WIDTH):
  """What blocks run again: not their last products, for the next block."""
  return layers(c) - 4 * dense(c, c) - convolution(c, c)


def config(**overrides):
  return tiny.config(model__dropout=0.0, **overrides)


def here():
  return targets.find('here')


def traced(c, case):
  return programs.trace(c, here(), case).jaxpr.jaxpr


def test_a_network_multiplies_what_a_hand_counts():
  assert programs.forward_flops(config())['training'] == forward()


def test_a_forward_pass_is_told_whole_texts():
  """Each token costs the same; a network that is told none has fewer."""

  def flops_of(length):
    c = config(text__kind='words', text__max_length=length)
    return programs.forward_flops(c)['training']

  one, four, eight = map(flops_of, (1, 4, 8))
  assert one < four and (four - one) * 4 == (eight - four) * 3


@pytest.mark.parametrize('remat', ['none', 'block', 'attention'])
def test_training_is_three_forward_passes_and_what_is_run_again(remat):
  case = Case('training', remat, 1, 1)
  count = flops.count(traced(config(), case)) / len(jax.devices())
  if remat == 'attention':
    most = 4 * attentions(WIDTH)
    outputs = 2 * 4 * dense(WIDTH, WIDTH)
    assert most - outputs <= count - training() <= most
  else:
    assert count == training() + (again() if remat == 'block' else 0)
  assert again() > 0.9 * forward()  # the rule of thumb: one pass more


def test_a_batch_costs_as_much_in_parts():
  case = Case('training', 'none', 1, 1, accumulate=2)
  total = flops.count(traced(config(), case)) / len(jax.devices())
  assert total == 2 * training()


def counted(function, *args):
  return flops.count(jax.make_jaxpr(function)(*args).jaxpr)


@pytest.mark.parametrize('stride, spread', [(1, 1), (2, 1), (1, 2)])
def test_only_numbers_that_are_there_are_multiplied(stride, spread):
  """Against a convolution that counts its own products: of ones."""
  x, w = jnp.ones((2, 7, 6, 3)), jnp.ones((3, 3, 3, 5))

  def convolve(x, w):
    return jax.lax.conv_general_dilated(
      x,
      w,
      (stride, stride),
      [(1, 2), (0, 1)],
      lhs_dilation=(spread, spread),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  total = 2 * float(jnp.sum(convolve(x, w)))
  assert counted(convolve, x, w) == total


def test_loops_and_branches_count():
  a = jnp.ones((4, 4))

  def scanned(a):
    return jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=5)[0]

  def branched(a):
    return jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a @ a)

  assert counted(scanned, a) == 5 * 2 * 4**3
  assert counted(branched, a) == 2 * 2 * 4**3


# The memory model.

STATES = {1: 800, 4: 200, 8: 100, 32: 25}
LAW = search.Memory(
  STATES, whole=40.0, split=160.0, slopes={'none': 60, 'block': 20}
)


def compiled(case, memory=math.inf):
  needed = LAW.needed(case.remat, case.fsdp, case.batch)
  return {'needed': needed, 'fits': needed <= memory}


def test_few_compilations_give_the_law_of_the_memory():
  own = Case('training', 'block', 1, 1)
  design = search.design(own, STATES, 1000)
  assert design.pair[0].fsdp == 4  # the state leaves room there
  assert design.elsewhere.fsdp == 1
  found = {c: compiled(c) for c in design.cases if c.remat != 'attention'}
  model = search.fit(design, STATES, found)
  for remat in ('none', 'block'):
    for fsdp in STATES:
      for batch in (1, 5, 17):
        assert model.needed(remat, fsdp, batch) == pytest.approx(
          LAW.needed(remat, fsdp, batch)
        )
      most = model.largest(remat, fsdp, 1000)
      assert LAW.needed(remat, fsdp, most) <= 1000 or most == 0
      assert LAW.needed(remat, fsdp, most + 1) > 1000
  rows = search.rows(model, found, 1000)
  cells = {(r['remat'], r['fsdp']): r for r in rows}
  assert cells['attention', 4]['batch'] is None
  assert cells['block', 1]['batch'] == 0  # 800 + 200 + 20


def test_what_was_compiled_has_the_last_word():
  own = Case('training', 'block', 8, 1)
  design = search.design(own, STATES, 1000)
  found = {c: compiled(c) for c in design.cases if c.remat != 'attention'}
  model = search.fit(design, STATES, found)
  says = model.largest('none', 8, 1000)
  worse = {**found, Case('training', 'none', 8, says): compiled(own, 0)}
  row = next(
    r
    for r in search.rows(model, worse, 1000)
    if (r['remat'], r['fsdp']) == ('none', 8)
  )
  assert row['batch'] == says - 1
  assert search.fit(design, STATES, {own: None}) is None


def test_the_least_work_twice_comes_first_then_the_least_exchange():
  rows = [
    {'remat': 'none', 'fsdp': 8, 'batch': 2},
    {'remat': 'block', 'fsdp': 8, 'batch': 9},
    {'remat': 'block', 'fsdp': 4, 'batch': 6},
    {'remat': 'block', 'fsdp': 1, 'batch': 0},
    {'remat': 'attention', 'fsdp': 8, 'batch': None},
  ]
  best = search.candidates(rows, 6)
  assert best == [
    Case('training', 'block', 4, 6),
    Case('training', 'block', 8, 6),
    Case('training', 'none', 8, 2, 3),
  ]
  assert search.candidates(rows, 2)[0] == Case('training', 'none', 8, 2)


# Targets.


@pytest.mark.parametrize(
  'name, message',
  [
    ('v9:2x2', "'v9:2x2'; it must be here or a chip"),
    ('v4-256', 'such as v4:4x4x4, v5e:4x4'),
    ('', 'it must be here'),
    ('v4:4x4', 'a topology of v4 has 3 numbers'),
    ('v5e:0x4', 'has 2 numbers above 0; write v5e:4x4'),
  ],
)
def test_a_bad_target_is_one_line(name, message):
  with pytest.raises(errors.ConfigError, match=message) as caught:
    targets.find(name)
  assert '\n' not in str(caught.value)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.ConfigError, match="pip install 'libtpu==") as e:
    targets.find('v4:2x2x1')
  assert '\n' not in str(e.value)


@libtpu
def test_a_topology_that_is_not_sold_is_one_line():
  with pytest.raises(errors.ConfigError, match='which libtpu refuses') as e:
    targets.find('v4:3x5x1')
  assert '\n' not in str(e.value)


@libtpu
@pytest.mark.parametrize(
  'name, count', [('v4:4x4x8', 128), ('v5e:16x16', 256), ('v5p:2x2x1', 4)]
)
def test_a_chip_is_a_device(name, count):
  target = targets.find(name)
  assert len(target.devices) == count
  assert all(d.platform == 'tpu' for d in target.devices)
  assert jax.default_backend() == 'cpu'


@libtpu
def test_axes_that_are_none_of_the_torus_are_laid_out():
  devices = list(targets.find('v5p:4x4x4').devices)
  mesh = sharding.make_mesh(8, 8, devices)
  assert sorted(d.id for d in mesh.devices.flat) == sorted(
    d.id for d in devices
  )
  # Neighbours: each is one link from the one before, or one round the torus.
  first = np.array([d.coords for d in mesh.devices[0, :, 0]])
  apart = np.abs(first[:, None] - first[None])
  assert (np.minimum(apart, 4 - apart).sum(-1) == 1).any(1).all()


@libtpu
def test_only_data_goes_from_slice_to_slice():
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name='v5e:4x4', num_slices=2
  )
  devices = list(topology.devices)
  for fsdp in (1, 8, 16):
    mesh = sharding.make_mesh(-1, fsdp, devices)
    of = [{d.slice_index for d in row.flat} for row in mesh.devices]
    assert [len(s) for s in of] == [1] * (32 // fsdp)
    assert set.union(*of) == {0, 1}
  with pytest.raises(errors.ConfigError, match='2 slices') as e:
    sharding.make_mesh(1, 32, devices)
  assert '\n' not in str(e.value)


# What a model is told, without its data.


def test_the_config_alone_says_what_a_model_is_told():
  c = config(data__source='ucf101', model__labels=True, data__strides=(1, 2))
  known, assumed = programs.told(c)
  assert (len(known.classes), known.strides, assumed) == (101, (1, 2), [])
  c = config(model__labels=True)
  known, _ = programs.told(c)
  assert len(known.classes) == len(build.data(c)[1].classes)
  c = config(text__kind='embeddings', text__encoder2='clip')
  known, assumed = programs.told(c)
  assert (known.text_dim, known.text2_dim) == (1024, 768)
  assert len(assumed) == 2 and '1024' in assumed[0]
  for encoder2 in ('', 'clip'):
    c = config(
      text__kind='embeddings', text__encoder2=encoder2, text__dims=(4096, 768)
    )
    known, assumed = programs.told(c)
    assert (known.text_dim, known.text2_dim) == (4096, 768)
    assert len(assumed) == 2 and '4096' in assumed[0]


# Whole plans, on the eight CPU devices of the tests.


@pytest.fixture(scope='module')
def planned(tmp_path_factory):
  """A plan for devices that are said to have 2 MiB each."""
  folder = tmp_path_factory.mktemp('plan')
  patch = pytest.MonkeyPatch()
  found = here()
  patch.setattr(
    targets, 'find', lambda name: dataclasses.replace(found, memory=2 * 2**20)
  )
  patch.setattr(search, 'REMATS', ('none', 'block'))
  patch.setattr(search, 'SIZES', (1, 4))
  lines = []
  patch.setattr(plan.runtime, 'say', lines.append)
  plan.run(config(model__remat='block'), folder)
  patch.undo()
  return folder, lines, json.loads((folder / plan.FILE).read_text())


def facts(planned, **case):
  found = planned[2]['compilations'].values()
  return next(f for f in found if case.items() <= f.items())


def test_a_plan_says_what_there_is_and_what_to_do(planned):
  _, lines, kept = planned
  text = '\n'.join(lines)
  for word in ('the largest batch', 'recommended', 'sampling,', 'fsdp 4'):
    assert word in text
  assert len(kept['compilations']) >= 5
  assert [r for r in kept['table'] if r['shown']]
  flags = dict(f[len('--config.') :].split('=') for f in kept['recommended'])
  assert flags['train.batch_size'] == '8'


def test_memory_holds_the_state_and_grows_by_examples(planned):
  kept = planned[2]
  state = kept['states']['1']['state']
  one, two = (
    facts(planned, program='training', remat='block', fsdp=1, batch=b)
    for b in (1, 2)
  )
  video = FRAMES * SIDE**2 * 3
  assert one['memory']['arguments'] == pytest.approx(state + video, abs=64)
  assert one['needed'] > state
  assert two['memory']['arguments'] - one['memory']['arguments'] == video
  # Three examples lie on the line through one and two.
  three = programs.compile_case(
    config(model__remat='block'), here(), Case('training', 'block', 1, 3)
  )
  step = two['needed'] - one['needed']
  assert step > 0
  assert three['needed'] - two['needed'] == pytest.approx(step, rel=0.05)


def test_fsdp_divides_the_state(planned):
  states = {int(k): v['state'] for k, v in planned[2]['states'].items()}
  halves = programs.state_bytes(config(), here(), [2])[2]['state']
  whole = 2 * halves - states[1]  # vectors, tables of positions
  assert 0 < whole < 0.15 * states[1]
  quarters = whole + (states[1] - whole) / 4
  assert states[4] == pytest.approx(quarters, rel=0.02)


def parameters():
  c = config()
  model = build.model(c, programs.told(c)[0])
  mesh = programs.sharding.make_mesh()
  _, state, _ = train.pure_programs(c, model, mesh)
  return train.parameter_count(state.params)


def test_data_parallel_sums_each_gradient_once(planned):
  found = facts(planned, program='training', remat='block', fsdp=1, batch=1)
  summed = found['collectives'].pop('all-reduce')
  gradients = 4 * parameters()
  # Of the positions all pairs of frames are summed, before they are gathered
  # into a table: 9 rows for 5, twice in each of four temporal attentions.
  pairs = 4 * 8 * WIDTH * (FRAMES**2 - (2 * FRAMES - 1))
  report = 64  # the loss and its bands
  assert gradients <= summed['bytes'] <= gradients + pairs + report
  assert summed['sent'] == pytest.approx(2 * 7 / 8 * summed['bytes'])
  assert sum(r['bytes'] for r in found['collectives'].values()) < 1024


def test_fsdp_gathers_parameters(planned):
  found = facts(planned, program='training', remat='block', fsdp=4, batch=1)
  gathered = found['collectives']['all-gather']['bytes']
  assert gathered >= 0.9 * 4 * parameters()


def test_a_plan_goes_on_where_it_was(planned, tmp_path, monkeypatch):
  folder, _, kept = planned
  found = here()
  monkeypatch.setattr(
    targets, 'find', lambda name: dataclasses.replace(found, memory=2 * 2**20)
  )

  def never(*_):
    raise AssertionError('compiled again')

  monkeypatch.setattr(programs, 'compile_case', never)
  monkeypatch.setattr(search, 'REMATS', ('none', 'block'))
  monkeypatch.setattr(search, 'SIZES', (1, 4))
  c = config(model__remat='block')
  plan.run(c, folder)
  again = json.loads((folder / plan.FILE).read_text())
  assert again['recommended'] == kept['recommended']
  with pytest.raises(AssertionError, match='compiled again'):
    plan.run(c, tmp_path)
  # And where its time is over it says so, and what it knows.
  monkeypatch.setattr(plan, 'BUDGET', -1.0)
  said = []
  monkeypatch.setattr(plan.runtime, 'say', said.append)
  plan.run(c, tmp_path)
  assert 'the time is over' in '\n'.join(said)
  assert 'no setting was found' in said[-2]


def test_a_program_that_does_not_fit_is_an_answer(monkeypatch):
  for text, needed in (
    ('Used 33.50G of 30.75G hbm. Exceeded by 2.75G', 33.5 * 2**30),
    ('HLO temporaries (512.00G) exceeds available HBM (30.75G)', 2**39),
    ('no numbers', None),
  ):
    assert programs.wanted(text) == needed

  class Program:
    jaxpr = jax.make_jaxpr(jnp.sin)(1.0)

    def lower(self):
      return self

    def compile(self):
      raise jax.errors.JaxRuntimeError(
        'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 2.00K '
        'of 1.00K hbm.'
      )

  monkeypatch.setattr(programs, 'trace', lambda *_: Program())
  found = programs.compile_case(
    config(), here(), Case('training', 'none', 1, 1)
  )
  assert (found['fits'], found['needed']) == (False, 2048)


def test_allocations_of_the_large_memory_are_added_up():
  text = """\
BufferAssignment:
allocation 0: size 100, parameter 0, shape |f32[25]|, maybe-live-out:
allocation 1: size 40, parameter 1, shape |f32[10]| at ShapeIndex {}:
 value: <7 add.1 @0> (size=4000,offset=0): f32[1000]{0}
allocation 2: size 8, output shape is |(f32[2])|, maybe-live-out:
allocation 3: size 4, maybe-live-out:
allocation 4: size 1000, preallocated-temp:
allocation 5: size 5000, color 1, preallocated-temp:
allocation 6: size 16, constant:
"""
  assert passes.allocated(text) == {
    'arguments': 140,
    'outputs': 112,
    'aliased': 100,
    'temporaries': 1016,
    'code': 0,
    'total': 140 + 12 + 1016,
  }


# The compiler of TPUs.

BROAD = 128
FSDP = Case('training', 'none', 4, 2)


@pytest.fixture(scope='module')
def on_tpu():
  """(facts, config, target) of a broad network's step on four chips."""
  target = targets.find('v5e:2x2')
  c = config(model__channels=BROAD, model__head_dim=64)
  return programs.compile_case(c, target, FSDP), c, target


@libtpu
def test_the_tpu_compiler_multiplies_what_a_hand_counts(on_tpu):
  found, _, _ = on_tpu
  by_hand = 2 * training(BROAD)  # two examples a chip
  assert found['counted'] == by_hand
  assert found['bound']['flops'] == pytest.approx(by_hand, rel=0.05)


@libtpu
def test_a_tpu_holds_the_state_and_is_no_faster_than_it_can(on_tpu):
  found, c, target = on_tpu
  state = programs.state_bytes(c, target, [4])[4]['state']
  assert found['fits'] and found['memory']['arguments'] >= state
  assert found['needed'] > state
  bound = found['bound']
  assert 0 < bound['flops'] / target.flops <= bound['overlapped']
  assert bound['overlapped'] <= bound['serial'] < 1
  assert found['parts']['convolutions'] > 0


@libtpu
def test_fsdp_on_tpus_gathers_parameters_and_scatters_gradients(on_tpu):
  found, c, target = on_tpu
  numbers = programs.state_bytes(c, target, [4])[4]['parameters']
  kinds = found['collectives']
  gathered, scattered = (
    kinds.get(k, {'bytes': 0})['bytes']
    for k in ('all-gather', 'reduce-scatter')
  )
  # Kernels are gathered in bfloat16, which is what a TPU multiplies in, once
  # on the way there and once on the way back.
  assert 2 * numbers < gathered < 2 * 2 * 1.1 * numbers
  summed = kinds.get('all-reduce', {'bytes': 0})['bytes']
  assert 4 * 0.95 * numbers < scattered + summed < 4 * 1.1 * numbers


@libtpu
@pytest.mark.slow
def test_the_whole_compiler_says_the_same(on_tpu):
  """All of it, machine code included: memory, FLOPs, time."""
  found, c, target = on_tpu
  jax.config.update('jax_enable_compilation_cache', False)
  jax.config.update('jax_disable_most_optimizations', False)
  try:
    compiled = programs.trace(c, target, FSDP).lower().compile()
  finally:
    jax.config.update('jax_disable_most_optimizations', True)
    jax.config.update('jax_enable_compilation_cache', True)
  whole, cost = programs.memory(compiled), compiled.cost_analysis()
  assert whole['arguments'] == found['memory']['arguments']
  by_hand = 2 * training(BROAD)
  assert by_hand < cost['flops'] < 1.05 * by_hand
  # Its own bound is for a chip that is never faster than ours.
  assert cost['optimal_seconds'] > 0.5 * found['bound']['overlapped']


@libtpu
@pytest.mark.slow
def test_data_parallel_on_tpus_sums_each_gradient_once(on_tpu):
  _, c, target = on_tpu
  case = Case('training', 'none', 1, 1)
  found = programs.compile_case(c, target, case)
  numbers = programs.state_bytes(c, target, [1])[1]['parameters']
  summed = found['collectives']['all-reduce']['bytes']
  # In the precision in which a gradient leaves its product: 2 or 4 bytes.
  assert 2 * numbers <= summed <= 1.02 * 4 * numbers
