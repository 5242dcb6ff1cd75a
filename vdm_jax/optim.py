"""The optimizer: Adam with warm-up, clipping, decay, and rates by path."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vdm_jax import errors, sharding

PyTree = Any

# Decay pulls on kernels only: biases, norm scales and position tables set
# offsets and gains, for which zero is not a better default.
DECAYED = re.compile(r'/kernel$')


def make_optimizer(
  *,
  learning_rate: float,
  warmup: int,
  cooldown: float,
  steps: int,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip: float,
  rates: tuple = (),
) -> optax.GradientTransformation:
  """Adam as in VDM's appendix, with what it leaves unsaid made explicit.

  Args:
    learning_rate: the rate after warm-up; it stays constant from there on.
    warmup: steps of linear warm-up from zero.
    cooldown: the last share of the steps, in which the rate falls linearly to
      zero; 0: it does not. VDM's is constant.
    steps: of the whole training, for the cooldown alone.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled decay of kernels, times the learning rate.
    clip: the largest global norm of a gradient; 0 turns clipping off. What is
      frozen does not count.
    rates: (pattern, factor) of the learning rate, first match wins,
      see `rules`. A parameter of factor 0 changes no bit.

  Returns:
    A transformation whose state has the same tree for any values above.

  Raises:
    ConfigError: on `init`, if a rule covers no parameter.
  """
  rate = schedule(learning_rate, warmup, round(cooldown * steps), steps)
  adam = optax.chain(
    optax.clip_by_global_norm(clip if clip > 0 else float('inf')),
    optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    optax.add_decayed_weights(weight_decay, mask=decay_mask),
    optax.scale_by_learning_rate(rate),
  )
  return with_rates(adam, rates) if rates else adam


def schedule(
  learning_rate: float, warmup: int, cooldown: int, steps: int
) -> optax.Schedule:
  """The learning rate by step: linear up, constant, linear down.

  Args:
    learning_rate: between the two.
    warmup: steps until it is reached, the first of them at 1/warmup of it.
    cooldown: steps at the end, the last of them at 1/cooldown of it; 0: none.
    steps: all of them.
  """
  up = optax.linear_schedule(
    learning_rate / max(warmup, 1), learning_rate, max(warmup - 1, 1)
  )
  if not cooldown:
    return up
  down = optax.linear_schedule(1.0, 0.0, cooldown, steps - cooldown)
  return lambda step: up(step) * down(step)


def with_rates(
  tx: optax.GradientTransformation, rates: tuple
) -> optax.GradientTransformation:
  """The same optimizer, with updates times the factors; its state stays."""

  def init(params):
    rules(params, rates)
    return tx.init(params)

  def update(grads, state, params=None):
    own = rules(grads, rates)
    numbers = [*(float(factor) for _, factor in rates), 1.0]
    scale = jax.tree.map(lambda i: numbers[i], own)
    grads = jax.tree.map(
      lambda g, f: g if f else jnp.zeros_like(g), grads, scale
    )
    updates, state = tx.update(grads, state, params)
    # Adding −0 changes no number, not even −0 itself.
    updates = jax.tree.map(
      lambda u, f: f * u if f else jnp.full_like(u, -0.0), updates, scale
    )
    return updates, state

  return optax.GradientTransformation(init, update)


def rules(params: PyTree, rates: tuple) -> PyTree:
  """For every parameter, which rule is its own: a tree of whole numbers.

  Args:
    params: arrays or their shapes.
    rates: (pattern, factor): the first pattern that is found in the path
      ('down_0_0/temporal/query/kernel') has the parameter. Where none is, the
      number is that of one more rule, whose factor is 1.

  Raises:
    ConfigError: a rule is no pair, its pattern is not a regular expression, or
      it has no parameter.
  """
  patterns = [_pattern(rule) for rule in rates]

  def leaf(path, _):
    name = sharding.path_name(path)
    found = (i for i, p in enumerate(patterns) if p.search(name))
    return next(found, len(rates))

  tree = jax.tree_util.tree_map_with_path(leaf, params)
  unused = set(range(len(rates))) - set(jax.tree.leaves(tree))
  if unused:
    path, _ = jax.tree_util.tree_leaves_with_path(params)[0]
    raise errors.ConfigError(
      f'config.optim.rates has the pattern {rates[min(unused)][0]!r}, which '
      'covers no parameter that a rule before it leaves; remove it, or write '
      f'it for paths such as {sharding.path_name(path)}'
    )
  return tree


def accounting(params: PyTree, rates: tuple) -> list[tuple[int, int]]:
  """(arrays, numbers) that each rule covers, and last, what none covers.

  Every parameter is counted once: the rows sum to all there is.
  """
  rows = [[0, 0] for _ in range(len(rates) + 1)]
  own = jax.tree.leaves(rules(params, rates))
  for i, leaf in zip(own, jax.tree.leaves(params), strict=True):
    rows[i][0] += 1
    rows[i][1] += math.prod(leaf.shape)
  return [(arrays, numbers) for arrays, numbers in rows]


def table(params: PyTree, rates: tuple) -> str:
  """The accounting as lines of text."""
  rows = accounting(params, rates)
  names = [*rates, ('the rest', 1.0)]
  lines = ['learning rates, by parameter path:']
  for (name, factor), (arrays, numbers) in zip(names, rows, strict=True):
    how = f'× {factor:g}' if factor else 'frozen'
    lines.append(_line(name, how, arrays, numbers))
  return '\n'.join(
    [*lines, _line('all', '', *map(sum, zip(*rows, strict=True)))]
  )


def _line(name: str, how: str, arrays: int, numbers: int) -> str:
  return f'  {name:<24}{how:>8}{arrays:>6} arrays{numbers / 1e6:>10.2f} M'


def decay_mask(params):
  """True for the leaves that weight decay applies to."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: bool(DECAYED.search('/' + sharding.path_name(path))), params
  )


def _pattern(rule) -> re.Pattern:
  """The pattern of a rule that a user wrote."""
  if not (
    isinstance(rule, tuple)
    and tuple(map(type, rule)) in ((str, float), (str, int))
    and 0 <= rule[1] < math.inf
  ):
    raise errors.ConfigError(
      f'config.optim.rates has {rule!r}; it must hold pairs of a pattern and a '
      "number of at least 0: (('temporal', 1.0), ('.', 0.1))"
    )
  try:
    return re.compile(rule[0])
  except re.error as e:
    raise errors.ConfigError(
      f'config.optim.rates has the pattern {rule[0]!r}, which is not a regular '
      f'expression ({e}); mend it'
    ) from e
