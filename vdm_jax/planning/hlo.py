"""What a compiled program does, read from the text of its optimised HLO.

The text is a list of computations; a computation is a list of instructions
`name = type opcode(operands), attributes`, some of which call others. What is
counted here is what runs: the entry, whatever it calls, and the bodies of
loops as often as they go round.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BYTES = {'pred': 1, 'token': 0, 'opaque': 0}
_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$')
_NAME = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = ')
_ARRAY = re.compile(r'\b(pred|token|opaque|bf\d+|[sufc]\d+\w*)\[([\d,<=]*)\]')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_CALLED = re.compile(
  r'\b(?:calls|to_apply|body|true_computation|false_computation)='
  r'%?([\w.\-]+)'
)
_BRANCHES = re.compile(r'\b(?:branch|called)_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Between the sizes of the axes and those that are joined may stand how the
# devices are ordered.
_MESH = re.compile(r'mesh\[([^\]]*)\](?:, device_ids=\S+)? ?\{([^}]*)\}')
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of a computation.

  Attributes:
    name: of its result.
    type: of its result, as written.
    opcode: such as 'fusion'.
    inside: what is in its parentheses.
    attributes: the rest of the line.
  """

  name: str
  type: str
  opcode: str
  inside: str
  attributes: str

  @property
  def operands(self) -> tuple[str, ...]:
    """Their names."""
    marked = re.findall(r'%([\w.\-]+)', self.inside)
    return tuple(marked or re.findall(r'[\w.\-]+', self.inside))


@dataclasses.dataclass(frozen=True)
class Module:
  """A program.

  Attributes:
    computations: by name, instructions in order.
    entry: the name of the first one.
    devices: how many run it together.
  """

  computations: dict[str, tuple[Instruction, ...]]
  entry: str
  devices: int


@dataclasses.dataclass(frozen=True)
class Collective:
  """Devices exchange something.

  Attributes:
    kind: one of KINDS.
    bytes: of the whole that a group of devices shares, as each of them holds
      it before (all-reduce, reduce-scatter, all-to-all, permute) or after
      (all-gather).
    group: how many devices a group has.
    times: how often it runs.
    overlaps: whether it runs beside other work: it has a start and a done.
    source: the operation of the program that it belongs to.
  """

  kind: str
  bytes: float
  group: int
  times: int
  overlaps: bool
  source: str

  @property
  def sent(self) -> float:
    """Bytes that each device sends at least, each time."""
    share = (self.group - 1) / max(self.group, 1)
    return {'all-reduce': 2 * share, 'collective-permute': 1.0}.get(
      self.kind, share
    ) * self.bytes


def parse(text: str) -> Module:
  """Reads the text of a module."""
  computations, entry, lines, name = {}, '', [], None
  header = text[: text.find('\n')]
  for line in text.splitlines():
    if name is None:
      found = _HEAD.match(line)
      if found and not line.startswith('HloModule'):
        name, lines = found[2], []
        entry = name if found[1] else entry
    elif line.startswith('}'):
      computations[name], name = tuple(lines), None
    else:
      instruction = _instruction(line)
      if instruction is not None:
        lines.append(instruction)
  counts = re.findall(r'(?:num_partitions|replica_count)=(\d+)', header)
  return Module(computations, entry, math.prod(map(int, counts)))


def _instruction(line: str) -> Instruction | None:
  found = _NAME.match(line)
  if not found:
    return None
  begin = found.end()
  end = _closing(line, begin) if line[begin] == '(' else line.find(' ', begin)
  opcode = _OPCODE.match(line, end)
  if not opcode:
    return None
  close = _closing(line, opcode.end() - 1)
  inside = line[opcode.end() : close - 1]
  return Instruction(found[1], line[begin:end], opcode[1], inside, line[close:])


def _closing(line: str, begin: int) -> int:
  """The place behind the parenthesis that closes the one at `begin`."""
  depth = 0
  for found in re.compile(r'[()]').finditer(line, begin):
    depth += 1 if found[0] == '(' else -1
    if not depth:
      return found.end()
  return len(line)


def size(shape: str) -> float:
  """Bytes of the arrays of a type as written, without padding."""
  return sum(
    bits(kind) / 8 * math.prod(int(n.strip('<=')) for n in dims.split(',') if n)
    for kind, dims in _ARRAY.findall(shape)
  )


def bits(kind: str) -> int:
  """Bits of a number of a type: 16 of bf16, 8 of f8e4m3fn, 32 of u32."""
  if kind in _BYTES:
    return 8 * _BYTES[kind]
  width = int(re.match(r'[a-z]+(\d+)', kind)[1])
  return width


def executed(module: Module) -> Iterator[tuple[str, Instruction, int]]:
  """(computation, instruction, times) of all that runs, calls included.

  A loop whose count the compiler does not know is taken to go round once.
  Of the branches of a condition each one is listed.
  """

  def walk(name, times):
    for instruction in module.computations.get(name, ()):
      yield name, instruction, times
      if instruction.opcode.endswith(('-done', '-update')):
        continue
      often = times
      if instruction.opcode == 'while':
        often *= trips(module, instruction)
      for called in called_by(instruction):
        yield from walk(called, often)

  yield from walk(module.entry, 1)


def called_by(instruction: Instruction) -> list[str]:
  """The computations that an instruction runs, but for those of reductions."""
  if instruction.opcode.startswith(
    ('all-reduce', 'reduce', 'scatter', 'sort', 'select-and-scatter', 'map')
  ):
    return []
  names = _CALLED.findall(instruction.attributes)
  for group in _BRANCHES.findall(instruction.attributes):
    names += re.findall(r'[\w.\-]+', group)
  return names


def trips(module: Module, loop: Instruction) -> int:
  """How often a loop goes round; 1 where the text does not say it."""
  known = _TRIPS.search(loop.attributes)
  if known:
    return int(known[1])
  condition = re.search(r'\bcondition=%?([\w.\-]+)', loop.attributes)
  lines = module.computations.get(condition[1], ()) if condition else ()
  bounds = [
    int(line.inside)
    for line in lines
    if line.opcode == 'constant' and line.type.startswith('s32[]')
  ]
  return bounds[0] if len(bounds) == 1 else 1


def collectives(module: Module) -> list[Collective]:
  """The exchanges of a program, in order.

  The TPU compiler works on an exchange within the kernels that run meanwhile:
  the same one, of the same channel, then stands in each of them. And it has no
  reduce-scatter, but kernels of that name: an all-reduce, and a slice of it.
  """
  types = {
    (name, line.name): line.type
    for name, lines in module.computations.items()
    for line in lines
  }
  found, places = [], {}
  for name, line, times in executed(module):
    kind = line.opcode.removesuffix('-start')
    if kind not in KINDS:
      continue
    if channel := _CHANNEL.search(line.attributes):
      # Of two that were joined from others either may have either's channel.
      shapes = tuple(_ARRAY.findall(line.type))
      place = places.setdefault((channel[1], shapes), len(found))
      if place < len(found):
        found[place] = dataclasses.replace(found[place], overlaps=True)
        continue
    if name.startswith('all-reduce-scatter'):
      kind = 'reduce-scatter'
    group = group_size(line.attributes, module.devices)
    given = sum(size(types.get((name, o), '')) for o in line.operands)
    found.append(
      Collective(
        kind,
        given * group if kind == 'all-gather' else given,
        group,
        times,
        line.opcode.endswith('-start'),
        source(line),
      )
    )
  return found


def group_size(attributes: str, devices: int) -> int:
  """How many devices a collective joins, of any of the ways to write it."""
  text = attributes.partition('replica_groups=')[2]
  if text.startswith('{{'):
    return text[2 : text.find('}')].count(',') + 1
  if found := re.match(r'\[\d+,(\d+)\]<=', text):
    return int(found[1])
  if found := _MESH.match(text):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    axes = re.findall(r"'(\w+)'", found[2])
    return math.prod(int(sizes[a]) for a in axes)
  return devices


def source(line: Instruction) -> str:
  """The place in the program that an instruction belongs to, or ''."""
  found = _SOURCE.search(line.attributes)
  return found[1] if found else ''


def totals(found: list[Collective]) -> dict[str, dict[str, float]]:
  """By kind: how many run, their bytes, those sent, and those overlapped."""
  table = {}
  for c in found:
    if c.group < 2 and c.kind != 'collective-permute':
      continue
    row = table.setdefault(
      c.kind, {'count': 0, 'bytes': 0.0, 'sent': 0.0, 'overlapped': 0.0}
    )
    row['count'] += c.times
    row['bytes'] += c.times * c.bytes
    row['sent'] += c.times * c.sent
    row['overlapped'] += c.times * c.bytes * c.overlaps
  return table
