"""Pickles read as data: nothing that they name is imported or called.

A pickle is a program for a small machine, and Python's own machine calls
whatever the program names. This one knows the few operations that state dicts
are written with. Names become inert values, of which a table here says what
they may do; any other name ends the reading before anything happens.
"""

import dataclasses
import pickletools
from io import BufferedIOBase
from typing import Any

import ml_dtypes
import numpy as np

from vdm_jax.metrics.archives import Refused, shown

MAX_STEPS = 5_000_000  # a state dict of 100 000 tensors takes 3 million
MAX_RANK = 16

STORAGES = {
  'DoubleStorage': np.dtype('<f8'),
  'FloatStorage': np.dtype('<f4'),
  'HalfStorage': np.dtype('<f2'),
  'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'LongStorage': np.dtype('<i8'),
  'IntStorage': np.dtype('<i4'),
  'ShortStorage': np.dtype('<i2'),
  'CharStorage': np.dtype('i1'),
  'ByteStorage': np.dtype('u1'),
  'BoolStorage': np.dtype('?'),
}
_MODULES = ('torch', 'torch.cuda')  # of the storages


class Module(dict):
  """The attributes of an object of a TorchScript class, and nothing else."""


@dataclasses.dataclass(frozen=True)
class Class:
  """A name that a pickle may say; it stands for itself."""

  name: str


@dataclasses.dataclass(frozen=True)
class Storage:
  """Numbers that lie outside of the pickle.

  Attributes:
    key: under which they lie.
    dtype: of the numbers.
    count: how many there are.
  """

  key: str
  dtype: np.dtype
  count: int


@dataclasses.dataclass(frozen=True)
class View:
  """A tensor: where its elements are in a storage, in elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def evaluate(file: BufferedIOBase) -> Any:
  """The value that a pickle describes, read from where the file stands.

  Returns:
    A tree of dicts, lists, tuples, strings, numbers, `Module` and `View`. It
    may hold a value several times, and itself.

  Raises:
    Refused: the pickle names something that is not a tensor's, uses an
      operation that state dicts do not need, or is damaged.
  """
  machine = _Machine()
  try:
    _execute(machine, file)
  except Refused:
    raise
  except Exception as error:
    # Whatever is raised by bytes that make no sense.
    raise Refused('its pickle is damaged or truncated') from error
  return machine.value()


class _Machine:
  """The state of a pickle's program: stacks, and values kept by number."""

  def __init__(self):
    self.stack, self.outer, self.memo, self.steps = [], [], {}, 0

  def count(self, steps: int):
    self.steps += steps
    if self.steps > MAX_STEPS:
      raise Refused('its pickle does not come to an end')

  def take(self, number: int) -> list:
    """The last values of the stack, which lose their place on it."""
    if len(self.stack) < number:
      raise Refused('its pickle is damaged')
    values = self.stack[-number:]
    del self.stack[-number:]
    return values

  def marked(self) -> list:
    """The values since the last mark."""
    values, self.stack = self.stack, self.outer.pop()
    return values

  def value(self):
    if self.outer or len(self.stack) != 1:
      raise Refused('its pickle is damaged')
    return self.stack[0]


def _execute(machine: _Machine, file: BufferedIOBase):
  """Runs the program; `genops` reads operations, and does nothing else."""
  for code, argument, _ in pickletools.genops(file):
    operation = code.name
    machine.steps += 1
    if machine.steps > MAX_STEPS:
      machine.count(0)
    if operation in _LITERALS:
      machine.stack.append(argument)
    elif operation in _PUT:
      machine.memo[argument] = machine.stack[-1]
    elif operation in _GET:
      machine.stack.append(machine.memo[argument])
    elif operation in _CONSTANTS:
      machine.stack.append(_CONSTANTS[operation])
    elif operation in _EMPTY:
      machine.stack.append(_EMPTY[operation]())
    elif operation in _OPERATIONS:
      _OPERATIONS[operation](machine, argument)
    else:
      if operation == 'INST':
        _allowed(argument)
      raise Refused(f'its pickle uses the operation {operation}')


def _mark(machine: _Machine, _):
  machine.outer.append(machine.stack)
  machine.stack = []


def _tuple(number: int | None):
  def make(machine: _Machine, _):
    values = machine.marked() if number is None else machine.take(number)
    machine.stack.append(tuple(values))

  return make


def _append(machine: _Machine, _):
  _extend(machine, [machine.stack.pop()])


def _appends(machine: _Machine, _):
  _extend(machine, machine.marked())


def _extend(machine: _Machine, values: list):
  target = machine.stack[-1]
  if type(target) is not list:
    raise Refused('its pickle is damaged (it appends to what is no list)')
  target.extend(values)


def _setitem(machine: _Machine, _):
  _update(machine, machine.take(2))


def _setitems(machine: _Machine, _):
  _update(machine, machine.marked())


def _update(machine: _Machine, values: list):
  target = machine.stack[-1]
  if type(target) is not dict:
    raise Refused('its pickle is damaged (it sets items of what is no dict)')
  _fill(target, zip(values[::2], values[1::2], strict=True))


def _fill(target: dict, pairs):
  for key, value in pairs:
    # Other keys would have to be hashed, which deep tuples make dangerous.
    if not isinstance(key, str | int):
      raise Refused(f'its pickle has a key of type {type(key).__name__}')
    target[key] = value


def _global(machine: _Machine, argument: str):
  machine.stack.append(_allowed(argument))


def _stack_global(machine: _Machine, _):
  module, name = machine.take(2)
  machine.stack.append(_allowed(f'{module} {name}'))


def _allowed(argument: str) -> Class:
  """The name as an inert value, if it is one of those that may be said."""
  module, _, name = argument.partition(' ')
  full = f'{module}.{name}'
  storage = module in _MODULES and name in STORAGES
  script = module == '__torch__' or module.startswith('__torch__.')
  if not (storage or script or full in _CALLS):
    raise Refused(
      f'its pickle names {shown(full)}, and only tensors are read',
      'save its state_dict alone, by code that you trust',
    )
  return Class(name if storage else full)


def _reduce(machine: _Machine, _):
  function, arguments = machine.take(2)
  if not isinstance(function, Class) or function.name not in _CALLS:
    raise Refused('its pickle calls what is no function')
  if not isinstance(arguments, tuple):
    raise Refused('its pickle is damaged')
  machine.stack.append(_CALLS[function.name](machine, *arguments))


def _newobj(machine: _Machine, _):
  kind, arguments = machine.take(2)
  if not isinstance(kind, Class) or not kind.name.startswith('__torch__.'):
    raise Refused('its pickle makes an object of what is no class')
  if arguments != ():
    raise Refused('its pickle is damaged')
  machine.stack.append(Module())


def _build(machine: _Machine, _):
  (state,) = machine.take(1)
  target = machine.stack[-1]
  if type(target) is Module and type(state) is dict:
    _fill(target, state.items())
    machine.count(len(state))
  elif type(target) is not dict:
    # A dict's is `_metadata`, of which there is no need.
    raise Refused('its pickle gives attributes to what has none')


def _persistent(machine: _Machine, _):
  (name,) = machine.take(1)
  if not isinstance(name, tuple) or len(name) < 5 or name[0] != 'storage':
    raise Refused('it is a whole model, not a state dict', STATE_DICT)
  _, kind, key, _, count, *view = name
  if not isinstance(kind, Class) or kind.name not in STORAGES:
    raise Refused('its pickle has a storage of no known type')
  if any(v is not None for v in view):
    raise Refused('its storages are parts of others', STATE_DICT)
  if not isinstance(key, str) or not _whole(count):
    raise Refused('its pickle is damaged (a storage)')
  machine.stack.append(Storage(key, STORAGES[kind.name], count))


STATE_DICT = 'save its state_dict alone, with a new PyTorch'


def _whole(value) -> bool:
  return type(value) is int and 0 <= value < 2**62


def _rebuild_tensor(machine: _Machine, *arguments) -> View:
  storage, offset, shape, strides, *_ = arguments
  if not isinstance(storage, Storage) or not _whole(offset):
    raise Refused('its pickle has a tensor without a storage')
  for sizes in (shape, strides):
    if not isinstance(sizes, tuple | list) or len(sizes) > MAX_RANK:
      raise Refused('its pickle has a tensor of no usable shape')
    if not all(_whole(n) for n in sizes):
      raise Refused('its pickle has a tensor of no usable shape')
  if len(shape) != len(strides):
    raise Refused('its pickle has a tensor of no usable shape')
  return View(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(machine: _Machine, value, *_):
  return value


def _ordered_dict(machine: _Machine, pairs=()) -> dict:
  if not isinstance(pairs, tuple | list):
    raise Refused('its pickle is damaged (a dict)')
  machine.count(len(pairs))
  made = {}
  if not all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs):
    raise Refused('its pickle is damaged (a dict)')
  _fill(made, pairs)
  return made


_CALLS = {
  'collections.OrderedDict': _ordered_dict,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_parameter': _rebuild_parameter,
  # Lists of TorchScript, with their type.
  'torch.jit._pickle.build_intlist': _rebuild_parameter,
  'torch.jit._pickle.build_tensorlist': _rebuild_parameter,
  'torch.jit._pickle.build_doublelist': _rebuild_parameter,
  'torch.jit._pickle.build_boollist': _rebuild_parameter,
  'torch.jit._pickle.restore_type_tag': _rebuild_parameter,
}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_LITERALS = {
  *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4'),
  *('FLOAT', 'BINFLOAT', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE'),
  *('BINUNICODE8', 'STRING', 'BINSTRING', 'SHORT_BINSTRING'),
  *('BINBYTES', 'SHORT_BINBYTES'),
}
_EMPTY = {'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict}
_PUT = {'PUT', 'BINPUT', 'LONG_BINPUT'}
_GET = {'GET', 'BINGET', 'LONG_BINGET'}
_OPERATIONS = {
  'PROTO': lambda machine, _: None,
  'FRAME': lambda machine, _: None,
  'STOP': lambda machine, _: None,
  'MARK': _mark,
  'TUPLE': _tuple(None),
  'TUPLE1': _tuple(1),
  'TUPLE2': _tuple(2),
  'TUPLE3': _tuple(3),
  'APPEND': _append,
  'APPENDS': _appends,
  'SETITEM': _setitem,
  'SETITEMS': _setitems,
  'MEMOIZE': lambda machine, _: machine.memo.update(
    {len(machine.memo): machine.stack[-1]}
  ),
  'GLOBAL': _global,
  'STACK_GLOBAL': _stack_global,
  'REDUCE': _reduce,
  'NEWOBJ': _newobj,
  'BUILD': _build,
  'BINPERSID': _persistent,
}
