"""The machines that a plan is made for, with or without having them.

A target is `here`, the devices at hand, or a chip and a topology, `v4:4x4x8`:
libtpu, the TPU's compiler, describes its devices without having any.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re

import jax

from vdm_jax import errors

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a chip can do.

  Attributes:
    memory: bytes that the compiler gives to a program.
    flops: bfloat16 FLOP/s, peak.
    bandwidth: of its memory, bytes a second.
    rank: how many numbers name a topology of it.
    links: bytes a second to all neighbours together.
    options: of libtpu's description.
  """

  memory: int
  flops: float
  bandwidth: float
  rank: int = 0
  links: float = 0.0
  options: tuple[tuple[str, str], ...] = ()


# Peaks and bandwidths are of the makers' data sheets. The memory is what
# libtpu 0.0.42 says it has when a program does not fit, less than the sheets'
# 32, 16, 95 and 32 GB. Without 'megacore' libtpu makes two devices of each v4
# chip, which is not how JAX runs on one.
CHIPS = {
  'v4': Chip(
    memory=int(30.75 * GIB),
    flops=275e12,
    bandwidth=1228e9,
    rank=3,
    links=300e9,
    options=(('chip_config_name', 'megacore'),),
  ),
  'v5e': Chip(int(15.75 * GIB), 197e12, 819e9, 2, 200e9),
  'v5p': Chip(int(95.74 * GIB), 459e12, 2765e9, 3, 600e9),
  'v6e': Chip(int(31.25 * GIB), 918e12, 1640e9, 2, 448e9),
}
# By a part of `device_kind`, for `here`; their memory is asked of the device.
KINDS = {
  'TPU v4': CHIPS['v4'],
  'TPU v5 lite': CHIPS['v5e'],
  'TPU v5': CHIPS['v5p'],
  'TPU v6 lite': CHIPS['v6e'],
  'H100': Chip(0, 989e12, 3350e9),
  'H200': Chip(0, 989e12, 4800e9),
  'A100': Chip(0, 312e12, 2039e9),
}
HERE = 'here'
_TOPOLOGY = re.compile(r'(\w+):(\d+(?:x\d+)*)')
# libtpu asks Google's cloud what machine it is on; there is none to ask, and
# another process may have it loaded, too.
_ALONE = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v4-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


@dataclasses.dataclass(frozen=True)
class Target:
  """The devices to compile for.

  Attributes:
    name: as it was asked for.
    kind: what the devices call themselves.
    devices: of jax, for a mesh.
    memory: bytes of one; 0: not known.
    flops: bfloat16 FLOP/s of one, peak; 0: not known.
    bandwidth: of its memory, bytes a second; 0: not known.
    links: see `Chip`; 0: not known.
  """

  name: str
  kind: str
  devices: tuple
  memory: int
  flops: float
  bandwidth: float
  links: float

  @property
  def described(self) -> bool:
    """Whether libtpu describes it, rather than that it is here."""
    return self.name != HERE


def find(name: str) -> Target:
  """The target of a name; nothing may have touched a device before.

  Raises:
    ConfigError: no such chip or topology, or no libtpu.
  """
  return _here() if name == HERE else _described(name)


def _here() -> Target:
  devices = tuple(jax.devices())
  kind = devices[0].device_kind
  chip = next((c for k, c in KINDS.items() if k in kind), Chip(0, 0.0, 0.0))
  memory = (devices[0].memory_stats() or {}).get('bytes_limit', chip.memory)
  return _target(HERE, devices, dataclasses.replace(chip, memory=memory))


def _target(name: str, devices: tuple, chip: Chip) -> Target:
  return Target(
    name,
    devices[0].device_kind,
    devices,
    chip.memory,
    chip.flops,
    chip.bandwidth,
    chip.links,
  )


def _described(name: str) -> Target:
  chip, sizes = parse(name)
  if importlib.util.find_spec('libtpu') is None:
    raise errors.ConfigError(
      f'--target={name} needs the compiler of TPUs, which is not installed; '
      f"pip install '{libtpu_requirement()}', or use --target=here"
    )
  from jax.experimental import topologies

  for key, value in _ALONE.items():
    os.environ.setdefault(key, value)
  # The arrays of the host stay on the host, whatever libtpu could reach.
  jax.config.update('jax_platforms', 'cpu')
  options = dict(chip.options)
  if chip.rank == 2 and min(sizes) == 1:  # a part of a host
    options['chips_per_host_bounds'] = (*sizes, 1)
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=name, **options
    )
  except Exception as e:
    # libtpu's errors are of several types, and all mean this.
    text = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise errors.ConfigError(
      f'--target is {name!r}, which libtpu refuses ({text}); use a topology '
      'that is sold, such as v4:4x4x8 or v5e:16x16'
    ) from e
  return _target(name, tuple(found.devices), chip)


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the sizes of a topology's name, `v4:4x4x8`.

  Raises:
    ConfigError: it is none.
  """
  examples = ', '.join(
    f'{k}:{"x".join(["4"] * c.rank)}' for k, c in CHIPS.items()
  )
  found = _TOPOLOGY.fullmatch(name)
  if not found or found[1] not in CHIPS:
    raise errors.ConfigError(
      f'--target is {name!r}; it must be {HERE} or a chip and its topology, '
      f'such as {examples}'
    )
  chip = CHIPS[found[1]]
  sizes = tuple(map(int, found[2].split('x')))
  if len(sizes) != chip.rank or not math.prod(sizes):
    raise errors.ConfigError(
      f'--target is {name!r}, but a topology of {found[1]} has {chip.rank} '
      f'numbers above 0; write {found[1]}:{"x".join(["4"] * chip.rank)}, say'
    )
  return chip, sizes


def libtpu_requirement() -> str:
  """What pip is to be asked for: the libtpu that this jax is made for."""
  for line in importlib.metadata.requires('jax') or ():
    requirement, _, extra = line.partition(';')
    if requirement.startswith('libtpu') and 'tpu' in extra:
      return requirement.strip()
  return 'libtpu'
