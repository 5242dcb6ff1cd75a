"""How long the kernels of a compiled program take at least.

The optimised program says which arrays lie in the chip's large memory, and
which in the small ones beside the arithmetic units, by the layout's S(n). A
kernel takes as long as its multiplications at the peak, or its traffic with
the large memory at the bandwidth, whichever is longer.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from vdm_jax.planning import hlo
from vdm_jax.planning.flops import pairs

_LABELS = re.compile(r'dim_labels=(\w+)_(\w+)->(\w+)')
_WINDOW = re.compile(r'window=\{([^}]*)\}')
_TYPED = re.compile(r'(\w+\[[\d,]*\])(\{[^{}]*\})?')
_CONTRACTED = re.compile(r'lhs_contracting_dims=\{([\d,]*)\}')
_FREE = (
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'while',
  'conditional',
  'call',
  'after-all',
)


class Kernel(NamedTuple):
  """What runs as one.

  Attributes:
    source: the place in the program that it belongs to.
    flops: of its multiplications.
    bytes: from and to the large memory.
    times: how often it runs.
    waits: whether the chip has nothing else to do meanwhile; copies that have
      a start and a done run beside other kernels.
  """

  source: str
  flops: float
  bytes: float
  times: int
  waits: bool


def kernels(module: hlo.Module) -> Iterator[Kernel]:
  """The kernels of a program, in order."""
  inner = {
    name
    for lines in module.computations.values()
    for line in lines
    if line.opcode == 'fusion'
    for name in hlo.called_by(line)
  }
  shapes = {
    name: {line.name: line.type for line in lines}
    for name, lines in module.computations.items()
  }
  for name, line, times in hlo.executed(module):
    kind = line.opcode
    if name in inner or kind in _FREE or kind.endswith(('-done', '-update')):
      continue
    if kind.removesuffix('-start') in hlo.KINDS or kind == 'async-start':
      continue
    here = shapes[name]
    moved = sum(large(here.get(o, '')) for o in line.operands)
    moved += 0 if kind == 'copy-start' else large(line.type)
    yield Kernel(
      hlo.source(line) or kind,
      sum(_flops(module, shapes, name, line)),
      moved,
      times,
      not kind.endswith('-start'),
    )


def large(shape: str) -> float:
  """Bytes of the arrays of a type that lie in the large memory."""
  return sum(
    hlo.size(array)
    for array, layout in _TYPED.findall(shape)
    if not re.search(r'S\([1-9]', layout)
  )


def _flops(module, shapes, name, line) -> Iterator[float]:
  """Of the products of an instruction, and of what it calls."""
  if line.opcode == 'convolution':
    yield 2.0 * _convolution(shapes[name], line)
  elif line.opcode == 'dot':
    contracted = _CONTRACTED.search(line.attributes)
    sides = dims(shapes[name].get(line.operands[0], ''))
    axes = [int(i) for i in contracted[1].split(',')] if contracted else []
    yield 2.0 * math.prod(dims(line.type)) * math.prod(sides[i] for i in axes)
  elif line.opcode == 'fusion':
    for called in hlo.called_by(line):
      for inside in module.computations.get(called, ()):
        yield from _flops(module, shapes, called, inside)


def _convolution(here, line) -> float:
  """Multiplications of a convolution, with numbers that are there."""
  given, kernel, result = _LABELS.search(line.attributes).groups()
  x, w = (dims(here.get(o, '')) for o in line.operands[:2])
  y = dims(line.type)
  window = _window(line.attributes)
  total = y[result.index('b')] * y[result.index('f')] * w[kernel.index('i')]
  for axis in (c for c in result if c.isdigit()):
    i = int(axis)
    total *= pairs(
      inputs=x[given.index(axis)],
      outputs=y[result.index(axis)],
      taps=w[kernel.index(axis)],
      stride=window('stride', i, 1),
      before=window('pad', i, 0),
      spread=window('lhs_dilate', i, 1),
      apart=window('rhs_dilate', i, 1),
    )
  return total


def _window(attributes: str):
  """`window(name, axis, default)`: of pads the first."""
  found = _WINDOW.search(attributes)
  values = dict(part.split('=') for part in (found[1].split() if found else ()))

  def window(name, axis, default):
    if name not in values:
      return default
    return int(values[name].split('x')[axis].split('_')[0])

  return window


def dims(shape: str) -> tuple[int, ...]:
  """The sizes of the first array of a type."""
  found = _TYPED.search(shape)
  inside = found[1].partition('[')[2][:-1] if found else ''
  return tuple(int(n) for n in inside.split(',') if n)


def bound(
  module: hlo.Module, *, flops: float, bandwidth: float
) -> dict[str, float | dict[str, float]]:
  """The least time of a program's kernels, in seconds.

  Args:
    module: the program.
    flops: of the chip, a second.
    bandwidth: of its large memory, bytes a second.

  Returns:
    `serial`, one kernel after the other; `overlapped`, if arithmetic and
    traffic never waited for each other; `flops` and `bytes` of it all;
    `sources`, the serial seconds by place in the program.
  """
  total = {'flops': 0.0, 'bytes': 0.0, 'serial': 0.0}
  sources = {}
  for k in kernels(module):
    total['flops'] += k.times * k.flops
    total['bytes'] += k.times * k.bytes
    if k.waits:
      seconds = k.times * max(k.flops / flops, k.bytes / bandwidth)
      total['serial'] += seconds
      sources[k.source] = sources.get(k.source, 0.0) + seconds
  busy = max(total['flops'] / flops, total['bytes'] / bandwidth)
  serial = max(total['serial'], busy)
  return total | {'serial': serial, 'overlapped': busy, 'sources': sources}
