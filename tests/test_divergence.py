"""Steps that are not finite: they change no bit, are told, and end a run."""

import itertools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import spoilt, tiny
from tests.spoilt import Spoilt
from vdm_jax import build, checkpoint, errors, logs, loop, meters, train
from vdm_jax import state as state_lib
from vdm_jax import step as step_lib
from vdm_jax.data import pipeline

TWO = jax.devices()[:2]
SPOILT = {'nan': np.nan, 'inf': np.inf, 'overflow': np.float32(3e38)}


class Micro(nn.Module):
  """The smallest network that can be trained."""

  num_strides: int = 0
  extra_channels: int = 0
  augmented: bool = False

  @nn.compact
  def __call__(self, z, logsnr, **options):
    del logsnr, options
    return nn.Dense(3)(z)


@pytest.fixture
def spoil(monkeypatch):
  """Makes white clips a number of the test's choice, inside the step."""

  def choose(value):
    monkeypatch.setattr(step_lib, 'to_float', spoilt.to_float(value))

  return choose


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def unguarded(monkeypatch):
  monkeypatch.setattr(step_lib, 'keep_if', lambda good, new, old: new)


def make_step(tx):
  config, model = tiny.config(), Micro()
  step = step_lib.make_train_step(
    model.apply, tx, build.objective(config), seed=0, ema_decay=0.9
  )
  params = state_lib.init_params(model, jax.random.key(0), frames=3, size=8)
  return jax.jit(step), state_lib.create(params, tx)


def walk(source, tx, steps=4):
  """The states and metrics of some steps, the first state included."""
  step, state = make_step(tx)
  states, rows = [jax.device_get(state)], []
  for batch in pipeline.batches(source, batch_size=8, seed=0):
    state, metrics = step(state, {'video': batch['video']})
    states.append(jax.device_get(state))
    rows.append(jax.device_get(metrics))
    if len(rows) == steps:
      return states, rows


def kept(before, after):
  """Whether a step changed no bit but its number."""
  same = (before.params, before.ema_params, before.opt_state)
  now = (after.params, after.ema_params, after.opt_state)
  assert after.step == before.step + 1
  return bits(same) == bits(now)


@pytest.mark.parametrize('kind', SPOILT)
@pytest.mark.parametrize('guard', [True, False])
def test_a_spoilt_clip_changes_no_bit(kind, guard, spoil, monkeypatch):
  spoil(SPOILT[kind])
  if not guard:
    unguarded(monkeypatch)  # the control
  order = pipeline.Order(1000, 8, 0)
  bad = {int(order.step(n)[3]) for n in (1, 2)}
  states, rows = walk(Spoilt(bad), build.optimizer(tiny.config()))
  assert [bool(r['finite']) for r in rows] == [True, False, False, guard]
  same = [kept(a, b) for a, b in itertools.pairwise(states)]
  assert same == [False, guard, guard, False]
  assert np.isfinite(optax.global_norm(states[-1].params)) == guard


def test_a_step_goes_on_as_if_there_had_been_no_bad_one(spoil):
  """Apart from the noise and the clips, which are of the step's number."""
  spoil(np.nan)
  order = pipeline.Order(1000, 8, 0)
  states, _ = walk(
    Spoilt({int(order.step(1)[0])}), build.optimizer(tiny.config())
  )
  step, _ = make_step(build.optimizer(tiny.config()))
  second = next(pipeline.batches(Spoilt(), batch_size=8, seed=0, start_step=2))
  skipped = states[1].replace(step=np.int32(2))
  after, _ = step(skipped, {'video': second['video']})
  assert bits(after) == bits(states[3])


def exploding():
  """An optimizer whose own numbers overflow at the second step."""

  def update(grads, state, params=None):
    del params
    return jax.tree.map(jnp.zeros_like, grads), state * jnp.float32(1e30)

  return optax.GradientTransformation(lambda params: jnp.float32(1e8), update)


OVERFLOWS = {
  'parameters': (
    optax.chain(optax.scale(1e38), optax.scale(1e38)),
    [False] * 4,
  ),
  'optimizer': (exploding(), [True, False, False, False]),
}


@pytest.mark.parametrize('kind', OVERFLOWS)
def test_what_a_step_would_leave_behind_is_looked_at(kind, monkeypatch):
  tx, good = OVERFLOWS[kind]
  states, rows = walk(Spoilt(), tx)
  assert [bool(r['finite']) for r in rows] == good
  assert all(np.isfinite(r['loss'] + r['grad_norm']) for r in rows)
  for (before, after), ok in zip(itertools.pairwise(states), good, strict=True):
    assert ok or kept(before, after)
  monkeypatch.setattr(step_lib, 'all_finite', lambda tree: jnp.bool_(True))
  states, rows = walk(Spoilt(), tx, steps=good.index(False) + 1)
  assert rows[-1]['finite'] and not kept(*states[-2:])


def test_an_average_that_overflows_is_looked_at():
  tx = optax.sgd(0.0)
  step, state = make_step(tx)
  huge = jax.tree.map(lambda p: jnp.full_like(p, -3e38), state.ema_params)
  params = jax.tree.map(lambda p: jnp.full_like(p, 1e10), state.params)
  batch = next(pipeline.batches(Spoilt(), batch_size=8, seed=0))
  state = state.replace(params=params, ema_params=huge)
  after, metrics = step(state, {'video': batch['video']})
  assert metrics['finite']  # the control
  far = jax.tree.map(lambda p: jnp.full_like(p, 1e38), state.params)
  state = state.replace(params=far)
  after, metrics = step(state, {'video': batch['video']})
  assert not metrics['finite'] and kept(state, after)


def row(finite=True, loss=1.0):
  ones = np.ones(6)
  found = {'loss': np.float32(loss), 'grad_norm': np.float32(1)}
  bands = {'band_sum': ones, 'band_count': ones}
  return found | bands | {'finite': np.bool_(finite)}


def test_only_bad_steps_in_a_row_end_a_run():
  told = []
  guard = meters.Guard(
    3, lambda *of: told.append(of[::2]), lambda: 'lower the rate'
  )
  window = meters.Window(guard)
  goods = [1, 0, 0, 1, 0, 0, 1, 0, 0, 0]
  for n, good in enumerate(goods[:-1]):
    window.add(n, row(good, 1.0 if good else np.nan), index=10 * n)
  found = window.close()
  assert (found['loss'], found['bad_steps']) == (1.0, 6.0)
  assert told == [(n, 10 * n) for n, good in enumerate(goods[:-1]) if not good]
  window.add(9, row(False))
  with pytest.raises(errors.DivergedError, match=r'3 step.*step 9 .*lower'):
    window.close()


def test_a_window_of_bad_steps_has_no_loss():
  window = meters.Window(meters.Guard(10))
  window.add(1, row(False, np.nan))
  assert not window.changed()
  found = window.close()
  assert np.isnan(found['loss']) and found['bad_steps'] == 1
  window.add(2, row())
  assert window.changed() and not window.changed()


@pytest.fixture
def run(monkeypatch, spoil, tmp_path):
  """Trains the micro network on spoilt clips, in a folder by name."""
  spoil(np.nan)
  monkeypatch.setattr(build, 'model', lambda config, told: Micro())

  def start(name, bad, **options):
    config = tiny.config(
      **{'train__checkpoint_every': 2, 'train__keep': 9} | options
    )
    _, told = build_data(tiny.config())
    monkeypatch.setattr(build, 'data', lambda config: (Spoilt(bad), told))
    train.run(config, tmp_path / name, TWO)
    return config, tmp_path / name

  build_data = build.data
  return start


def states(config, workdir):
  """All states on disk, by step."""
  mesh = train.sharding.of_config(config, TWO)
  _, abstract = train.make_init(config, Micro(), build.optimizer(config), mesh)
  steps = checkpoint.Checkpoints(workdir, read_only=True).steps()
  found = {}
  for n in steps:
    one = checkpoint.Checkpoints(workdir, read_only=True, step=n)
    found[n] = jax.device_get(one.restore(abstract)[0])
  return found


ORDER = pipeline.Order(1000, 8, 0)


def clips_of(*steps):
  """One clip of each of these steps, numbered from 1."""
  return [int(ORDER.step(n - 1)[5]) for n in steps]


def lines(path: pathlib.Path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_goes_on_and_tells(run, capsys):
  config, workdir = run('whole', clips_of(2, 5, 6))
  told = [t for t in capsys.readouterr().err.splitlines() if 'not finite' in t]
  assert [t.split('step ')[1].split()[0] for t in told] == ['2', '5', '6']
  assert 'loss nan' in told[0] and 'shapes-0-' in told[0] and len(told[0]) < 300
  bad = lines(workdir / loop.BAD_STEPS)
  assert [b['step'] for b in bad] == [2, 5, 6]
  for entry in bad:
    expected = [f'shapes-0-{i}' for i in ORDER.step(entry['step'] - 1)]
    assert entry['clips'] == expected
  rows = logs.read(workdir / 'metrics.jsonl')
  assert [r['bad_steps'] for r in rows] == [0, 1, 0, 0, 1, 1, 0, 0, 0, 0]
  assert [r['loss'] is None for r in rows] == [
    bool(r['bad_steps']) for r in rows
  ]
  # Nothing had changed at step 6 since step 4.
  found = states(config, workdir)
  assert sorted(found) == [2, 4, 8, 10]
  assert all(step_lib.all_finite(s) for s in found.values())
  # Stopped at a bad step and continued, it is the same run to the bit.
  run('parts', clips_of(2, 5, 6), train__steps=5)
  config, parts = run('parts', clips_of(2, 5, 6))
  assert bits(states(config, parts)[10]) == bits(found[10])
  assert [r['loss'] for r in logs.read(parts / 'metrics.jsonl')] == [
    r['loss'] for r in rows
  ]


def test_too_many_bad_steps_end_a_run(run, tmp_path, monkeypatch):
  bad = clips_of(*range(4, 11))
  with pytest.raises(errors.DivergedError) as caught:
    run('bad', bad, train__bad_steps=3, train__steps=20)
  text = str(caught.value)
  for part in ('3 step', 'step 6', 'shapes-0-', 'checkpoint 4 is good', 'init'):
    assert part in text
  assert len(text) <= 300 and '\n' not in text
  assert caught.value.status == 5
  config = tiny.config()
  assert sorted(states(config, tmp_path / 'bad')) == [2, 4]
  # With a longer patience the run gets through, and keeps what was good.
  _, workdir = run('bad', bad, train__bad_steps=8, train__steps=20)
  found = states(config, workdir)
  assert step_lib.all_finite(found[20])
  assert {2, 4} < set(found) and not {6, 8, 10} & set(found)
  # The control: without the guard the state is spoilt, and not saved either.
  unguarded(monkeypatch)
  with pytest.raises(errors.DivergedError):
    run('spoilt', bad, train__steps=6)
  assert sorted(states(config, tmp_path / 'spoilt')) == [2]
