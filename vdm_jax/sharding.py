"""The mesh, and where each array lies on it.

Two axes: `data` splits the batch; `fsdp` splits the batch and, besides, every
parameter, its average and its optimizer moments (fully sharded data
parallelism). `jax.jit` with these shardings inserts the communication.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import errors

PyTree = Any
AXES = ('data', 'fsdp')
# The batch is split over every device: the fsdp axis is data parallel too.
BATCH = P(AXES)

# First match wins. 'largest': the largest axis that fsdp divides is split over
# it, later axes first among equals; an array without one is replicated.
RULES = (
  (r'(^|/)(step|count)$', 'replicated'),
  (r'/(kernel|embedding|bias|scale|query|rel_k|rel_v)$', 'largest'),
)


def make_mesh(data: int = -1, fsdp: int = 1, devices=None) -> Mesh:
  """A mesh with the axes `data` and `fsdp`.

  Args:
    data: devices along `data`; −1 takes what `fsdp` leaves.
    fsdp: devices along `fsdp`; −1 takes what `data` leaves.
    devices: the devices to lay out, all by default.

  Raises:
    ConfigError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  sizes = [data, fsdp]
  if sizes.count(-1) == 1 and min(s for s in sizes if s != -1) > 0:
    sizes[sizes.index(-1)] = count // max(sizes)
  if min(sizes) < 1 or np.prod(sizes) != count:
    legal = ', '.join(f'{count // n}×{n}' for n in _divisors(count))
    raise errors.ConfigError(
      f'a mesh data×fsdp of {data}×{fsdp} does not fit {count} device(s); '
      f'set config.mesh.data and config.mesh.fsdp to one of {legal}'
    )
  return jax.make_mesh(
    sizes, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices
  )


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1):
  """Raises ConfigError unless the mesh and the accumulation divide a batch."""
  unit = mesh.size * accumulate
  if batch_size % unit:
    raise errors.ConfigError(
      f'a batch of {batch_size} does not split over {mesh.size} device(s) '
      f'times {accumulate} accumulation step(s); make it a multiple of {unit}, '
      f'such as {-(-batch_size // unit) * unit}'
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Examples split over every device of the mesh."""
  return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, P())


def tree_shardings(mesh: Mesh, shapes: PyTree) -> PyTree:
  """The sharding of every leaf of a state, by the first rule that matches.

  Args:
    mesh: a mesh of `make_mesh`.
    shapes: a tree of arrays or `ShapeDtypeStruct`s.

  Raises:
    ValueError: if a leaf's path matches no rule.
  """

  def leaf(path, shape):
    name = path_name(path)
    for pattern, placement in RULES:
      if re.search(pattern, name):
        spec = P()
        if placement == 'largest':
          spec = split_largest(shape.shape, mesh.shape['fsdp'])
        return NamedSharding(mesh, spec)
    raise ValueError(f'no sharding rule matches the parameter {name!r}')

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def split_largest(shape: tuple[int, ...], parts: int) -> P:
  """P with 'fsdp' at the largest axis that `parts` divides, or P()."""
  fitting = [i for i, n in enumerate(shape) if n % parts == 0 and n >= parts]
  if parts == 1 or not fitting:
    return P()
  axis = max(fitting, key=lambda i: (shape[i], i))
  return P(*(None,) * axis, 'fsdp')


def path_name(path) -> str:
  """A tree path as 'down_0/conv/kernel'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]
