"""The multiplications of a program, counted before any compiler sees it.

A matrix product [m, k]·[k, n] has m·k·n of them, a convolution as many as
there are pairs of an output and an input number that a weight joins: those
with padding and with the holes of a dilation are no work, unless they are
asked for. A FLOP is half a multiplication and addition.
"""

import functools
import math

import numpy as np
from jax.extend import core


def count(jaxpr: core.Jaxpr, *, padded: bool = False) -> float:
  """FLOPs of the products and convolutions of a jaxpr.

  A `scan` counts as often as it runs, a `while` once, and of the branches of
  a condition the dearest.

  Args:
    jaxpr: the program.
    padded: count all weights of a convolution for each of its outputs, as
      papers do, also those that meet padding.
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == 'dot_general':
      total += 2 * _product(eqn)
    elif name == 'conv_general_dilated':
      total += 2 * _convolution(eqn, padded)
    else:
      inner = [count(j, padded=padded) for j in _inner(eqn)]
      each = max(inner, default=0.0) if name == 'cond' else sum(inner)
      total += each * (eqn.params['length'] if name == 'scan' else 1)
  return total


def _inner(eqn):
  """The jaxprs among the parameters of an equation."""
  for value in eqn.params.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      one = getattr(one, 'jaxpr', one)
      if hasattr(one, 'eqns'):
        yield one


def _product(eqn) -> int:
  """Multiplications of a `dot_general`: outputs × contracted."""
  (contracted, _), _ = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  joined = math.prod(shape[i] for i in contracted)
  return joined * math.prod(eqn.outvars[0].aval.shape)


def _convolution(eqn, padded: bool) -> int:
  """Multiplications of a convolution; unless padded, with what is there."""
  p = eqn.params
  given, kernel, result = p['dimension_numbers']
  x, w = (v.aval.shape for v in eqn.invars)
  y = eqn.outvars[0].aval.shape
  total = y[result[0]] * y[result[1]] * w[kernel[1]]
  for i in range(len(y) - 2):
    outputs, taps = y[result[2 + i]], w[kernel[2 + i]]
    if padded:
      total *= outputs * taps
      continue
    total *= pairs(
      inputs=x[given[2 + i]],
      outputs=outputs,
      taps=taps,
      stride=p['window_strides'][i],
      before=p['padding'][i][0],
      spread=p['lhs_dilation'][i],
      apart=p['rhs_dilation'][i],
    )
  return total


@functools.lru_cache(1024)
def pairs(
  *,
  inputs: int,
  outputs: int,
  taps: int,
  stride: int,
  before: int,
  spread: int,
  apart: int,
) -> int:
  """(output, tap) of one axis of a convolution that meet an input.

  Args:
    inputs: numbers along the axis.
    outputs: likewise.
    taps: of the kernel.
    stride: of the outputs, in steps of the dilated input.
    before: zeros in front.
    spread: dilation of the input.
    apart: dilation of the kernel.
  """
  place = np.add.outer(np.arange(outputs) * stride, np.arange(taps) * apart)
  place = place - before
  there = (place >= 0) & (place <= (inputs - 1) * spread)
  return int(np.sum(there & (place % spread == 0)))
