"""Learning rates by parameter path: exact factors, frozen to the bit."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.standins import random_params
from vdm_jax import build, command, errors, identity, optim
from vdm_jax import state as state_lib
from vdm_jax.conditions import Conditions


def params():
  return {
    'down': {
      'kernel': jnp.array([[0.3, -0.0], [1e-30, -2.0]]),
      'bias': jnp.array([-0.0, 0.5]),
    },
    'temporal': {'kernel': jnp.full((2, 3), 0.7), 'bias': jnp.zeros(3)},
  }


def optimizer(**overrides):
  c = tiny.config(optim__weight_decay=0.1, optim__warmup=1, **overrides)
  return build.optimizer(c)


def grads(step, scale=1.0):
  key = jax.random.fold_in(jax.random.key(0), step)
  leaves, tree = jax.tree.flatten(params())
  keys = jax.random.split(key, len(leaves))
  return tree.unflatten(
    [
      scale * jax.random.normal(k, p.shape)
      for k, p in zip(keys, leaves, strict=True)
    ]
  )


def trained(tx, steps=3, make=grads):
  """A state after some steps; the average starts elsewhere than at zero."""
  state = state_lib.create(params(), tx)
  for step in range(steps):
    updates, opt_state = tx.update(make(step), state.opt_state, state.params)
    new = jax.tree.map(jnp.add, state.params, updates)
    ema = state_lib.ema(state.ema_params, new, 0.9)
    state = state_lib.TrainState(state.step + 1, new, ema, opt_state)
  return state


def bits(tree):
  return jax.tree.map(lambda a: np.asarray(a).view(np.uint32), tree)


def assert_bitwise(a, b):
  jax.tree.map(np.testing.assert_array_equal, bits(a), bits(b))


def test_a_frozen_parameter_changes_no_bit():
  """Not by its gradient, not by weight decay, not even the sign of zero."""
  state = trained(optimizer(optim__rates=(('^down/', 0.0),)))
  before = params()
  assert_bitwise(state.params['down'], before['down'])
  np.testing.assert_array_equal(
    state.ema_params['down']['kernel'], before['down']['kernel']
  )
  free = trained(optimizer())
  for name in ('kernel', 'bias'):
    moved = free.params['down'][name] != before['down'][name]
    assert moved.all()  # it would have moved otherwise
    assert (state.params['temporal'][name] != before['temporal'][name]).all()


def test_a_factor_is_that_of_the_whole_update():
  """Of weight decay too: half the rate is half of each update, to the bit."""
  tx, half = optimizer(), optimizer(optim__rates=(('temporal', 0.5),))
  state = tx.init(params())
  whole, _ = tx.update(grads(0), state, params())
  halved, _ = half.update(grads(0), state, params())
  assert_bitwise(
    halved['temporal'], jax.tree.map(lambda u: u / 2, whole['temporal'])
  )
  assert_bitwise(halved['down'], whole['down'])


def test_the_first_rule_that_matches_wins():
  rates = (('kernel', 0.0), ('temporal', 0.25))
  found = optim.rules(params(), rates)
  assert found == {
    'down': {'kernel': 0, 'bias': 2},
    'temporal': {'kernel': 0, 'bias': 1},
  }
  turned = optim.rules(params(), rates[::-1])
  assert turned['temporal'] == {'kernel': 0, 'bias': 0}


def test_what_is_frozen_does_not_count_in_the_clipping():
  frozen = optimizer(optim__rates=(('^down/', 0.0),), optim__clip=1.0)

  def huge(step):
    return grads(step) | {'down': grads(step, scale=1e6)['down']}

  a, b = trained(frozen), trained(frozen, make=huge)
  assert_bitwise(a.params, b.params)
  free = optimizer(optim__clip=1.0)
  apart = trained(free).params['temporal']['kernel']
  assert (apart != trained(free, make=huge).params['temporal']['kernel']).any()


def test_the_state_has_one_tree_for_all_rates():
  plain = optimizer().init(params())
  rated = optimizer(optim__rates=(('down', 0.0), ('.', 2.0))).init(params())
  assert jax.tree.structure(plain) == jax.tree.structure(rated)


@pytest.mark.parametrize(
  'rates, message',
  [
    ((('nonesuch', 0.5),), 'nonesuch'),
    ((('.', 1.0), ('kernel', 0.5)), "'kernel'.*rule before it"),
    ((('(', 0.5),), 'regular expression'),
    (('temporal', 0.5), 'pairs of a pattern'),
    ((('temporal', -1.0),), 'pairs of a pattern'),
    ((('temporal', float('nan')),), 'pairs of a pattern'),
    ((('temporal', True),), 'pairs of a pattern'),
  ],
)
def test_rules_that_are_refused(rates, message):
  with pytest.raises(errors.ConfigError, match=message):
    optimizer(optim__rates=rates).init(params())


def test_every_parameter_is_accounted_for_once():
  c = tiny.config()
  tree = random_params(build.model(c, Conditions()))
  rates = (('temporal', 1.0), ('kernel$', 0.5), ('.', 0.0))
  rows = optim.accounting(tree, rates)
  names = [
    optim.sharding.path_name(p)
    for p, _ in jax.tree_util.tree_leaves_with_path(tree)
  ]
  temporal = sum('temporal' in n for n in names)
  kernels = sum('temporal' not in n and n.endswith('kernel') for n in names)
  assert [arrays for arrays, _ in rows] == [
    temporal,
    kernels,
    len(names) - temporal - kernels,
    0,
  ]
  assert min(temporal, kernels) > 0
  assert sum(n for _, n in rows) == sum(a.size for a in jax.tree.leaves(tree))
  lines = optim.table(tree, rates).splitlines()
  assert len(lines) == 1 + len(rates) + 2
  assert '× 0.5' in lines[2] and 'frozen' in lines[3]
  assert f'{len(names)} arrays' in lines[-1]


def test_rates_survive_json_and_tie_a_checkpoint():
  c = tiny.config(optim__rates=(('temporal', 1.0), ('.', 0)))
  again = identity.from_json(identity.to_json(c))
  assert again == c and isinstance(again.optim.rates[0], tuple)
  assert identity.differences(again, c) == []
  other = tiny.config(optim__rates=(('temporal', 1.0), ('.', 0.5)))
  assert identity.differences(again, other)[0].startswith('optim.rates')


def test_rates_and_intervals_on_the_command_line(monkeypatch):
  argv = [
    'main.py',
    '--config=configs/shapes.py',
    "--config.optim.rates=(('temporal', 1.0), ('.', 0.1))",
    '--config.diffusion.schedule=lognormal',
    '--config.diffusion.shift=0',
    '--config.diffusion.interval=0,0.5',
    '--config.sample.experts=runs/a,runs/b',
  ]
  monkeypatch.setattr(sys, 'argv', argv)
  config, *_ = command.parse(argv)
  assert config.optim.rates == (('temporal', 1.0), ('.', 0.1))
  assert config.diffusion.interval == (0, 0.5)
  assert identity.from_json(identity.to_json(config)) == config


def test_the_rate_rises_stays_and_falls():
  rate = optim.schedule(2.0, 4, 5, 20)
  found = [float(rate(n)) for n in range(20)]
  up, down = [0.5, 1.0, 1.5, 2.0], [2.0, 1.6, 1.2, 0.8, 0.4]
  np.testing.assert_allclose(found, up + 11 * [2.0] + down, rtol=1e-6)
  constant = optim.schedule(2.0, 4, 0, 20)
  assert [float(constant(n)) for n in (3, 19, 1000)] == 3 * [2.0]


def test_a_cooldown_ends_with_the_training():
  """Its last step is the smallest; without it, that is as large as any."""

  def last(**overrides):
    tx = optimizer(train__steps=8, **overrides)
    state = tx.init(params())
    for _ in range(8):
      updates, state = tx.update(grads(0), state, params())
    return np.abs(updates['temporal']['kernel']).max()

  np.testing.assert_allclose(last(optim__cooldown=0.5) * 4, last(), rtol=1e-5)
