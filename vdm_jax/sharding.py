"""The mesh, and where each array lies on it.

Three axes: `data` splits the batch; `fsdp` splits the batch and, besides, every
parameter, its average and its optimizer moments (fully sharded data
parallelism); `space` splits the rows of videos, for those whose activations do
not fit one device. `jax.jit` with these shardings inserts the communication.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import errors

PyTree = Any
AXES = ('data', 'fsdp', 'space')
# The fsdp axis is data parallel too. Whatever is small lies whole along space.
BATCH = P(('data', 'fsdp'))
VIDEO = P(('data', 'fsdp'), None, 'space')

# First match wins. 'largest': the largest axis that fsdp divides is split over
# it, later axes first among equals; an array without one is replicated. Vectors
# and tables are, too: they are less than a hundredth of the numbers, and
# gathering them would be most of the exchanges.
RULES = (
  (r'(^|/)(step|count)$', 'replicated'),
  (r'/(bias|scale|query|rel_k|rel_v)$', 'replicated'),
  # Looked up by examples, which lie over `fsdp` too.
  (r'(^|/)(label|stride|text|tokens)/embedding$', 'replicated'),
  (r'/(kernel|embedding)$', 'largest'),
)


def make_mesh(
  data: int = -1, fsdp: int = 1, devices=None, *, space: int = 1
) -> Mesh:
  """A mesh with the axes `data`, `fsdp` and `space`.

  Args:
    data: devices along `data`; −1 takes what the others leave.
    fsdp: devices along `fsdp`; −1 takes what the others leave.
    devices: the devices to lay out, all by default.
    space: devices along `space`.

  Raises:
    ConfigError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  if space < 1 or count % space:
    legal = ', '.join(map(str, _divisors(count)))
    raise errors.ConfigError(
      f'config.mesh.space is {space}, which does not divide {count} '
      f'device(s); set it to one of {legal}'
    )
  rest = count // space
  sizes = [data, fsdp]
  if sizes.count(-1) == 1 and min(s for s in sizes if s != -1) > 0:
    sizes[sizes.index(-1)] = rest // max(sizes)
  if min(sizes) < 1 or np.prod(sizes) != rest:
    legal = ', '.join(f'{rest // n}×{n}' for n in _divisors(rest))
    beside = f' with space {space}' if space > 1 else ''
    raise errors.ConfigError(
      f'a mesh data×fsdp of {data}×{fsdp}{beside} does not fit {count} '
      'device(s); set config.mesh.data and config.mesh.fsdp to one of '
      f'{legal}'
    )
  mesh = _lay_out((*sizes, space), devices)
  for sharing in mesh.devices.reshape(-1, space):
    if len({d.process_index for d in sharing}) > 1:
      raise errors.ConfigError(
        f'config.mesh.space is {space}, for which devices of two hosts would '
        'have to share a video; set it to a divisor of the devices of a host'
      )
  return mesh


def _lay_out(sizes: tuple[int, ...], devices) -> Mesh:
  """The mesh whose later axes are the nearer devices.

  What XLA numbers as slices are slices of TPUs, between which only `data` goes;
  of GPUs they are hosts, whose devices are kept together.
  """
  types = {'axis_types': (AxisType.Auto,) * len(AXES)}
  slices = len({_slice(d) for d in devices})
  if slices == 1:
    return _lay_out_one(sizes, devices, types)
  if devices[0].platform != 'tpu':
    near = sorted(devices, key=lambda d: (_slice(d), d.id))
    return Mesh(np.array(near).reshape(sizes), AXES, **types)
  if sizes[0] % slices:
    raise errors.ConfigError(
      f'config.mesh.data is {sizes[0]}, which {slices} slices do not '
      'divide; take a multiple of them: only data goes from slice to slice'
    )
  within = (sizes[0] // slices, *sizes[1:])
  found = mesh_utils.create_hybrid_device_mesh(
    within, (slices, 1, 1), devices, allow_split_physical_axes=True
  )
  return Mesh(found, AXES, **types)


def _lay_out_one(sizes: tuple[int, ...], devices, types: dict) -> Mesh:
  try:
    return jax.make_mesh(sizes, AXES, devices=devices, **types)
  except NotImplementedError:
    # Eight of 4×4×4 chips are one axis and half of another.
    found = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
    return Mesh(found, AXES, **types)


def _slice(device) -> int:
  return getattr(device, 'slice_index', 0)


def of_config(config, devices=None) -> Mesh:
  """The mesh that `config.mesh` describes; see `make_mesh`."""
  c = config.mesh
  return make_mesh(c.data, c.fsdp, devices, space=c.space)


def batch_shards(mesh: Mesh) -> int:
  """Into how many parts a batch is split."""
  return mesh.size // mesh.shape['space']


def whole_batch(mesh: Mesh, examples: int) -> int:
  """The least batch of so many examples or more that fills every device."""
  shards = batch_shards(mesh)
  return -(-examples // shards) * shards


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1):
  """Raises ConfigError unless the mesh and the accumulation divide a batch."""
  shards = batch_shards(mesh)
  unit = shards * accumulate
  if batch_size % unit:
    raise errors.ConfigError(
      f'a batch of {batch_size} does not split over {shards} device(s) '
      f'times {accumulate} accumulation step(s); make it a multiple of {unit}, '
      f'such as {-(-batch_size // unit) * unit}'
    )


def check_space(mesh: Mesh, network: Any, size: int):
  """Raises ConfigError unless the rows of each map split over `space`.

  Args:
    mesh: a mesh of `make_mesh`.
    network: a U-Net with `validate`.
    size: height and width of the videos.
  """

  def fits(space):
    try:
      network.validate((1, size // space, size, 3))
    except errors.ConfigError:
      return False
    return size % space == 0

  space = mesh.shape['space']
  if space > 1 and not fits(space):
    legal = ', '.join(str(n) for n in _divisors(size) if fits(n))
    raise errors.ConfigError(
      f'config.mesh.space is {space}, but the rows of {size} pixels and of the '
      f"network's maps do not split into so many slabs; use one of {legal}"
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Examples split over `data` and `fsdp`."""
  return NamedSharding(mesh, BATCH)


def own_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
  """The examples of a batch that this process's devices hold, ascending.

  A mesh may follow the wires of a pod: they need not be neighbours.
  """
  parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  rows = np.arange(batch_size)
  return tuple(
    int(i) for i in np.unique(np.concatenate([rows[p] for p in parts.values()]))
  )


def video_sharding(mesh: Mesh) -> NamedSharding:
  """Examples of `[b, t, h, …]` likewise, and their rows over `space`."""
  return NamedSharding(mesh, VIDEO)


def by_example(apply: Callable, mesh: Mesh) -> Callable:
  """The network's `apply` with activations that lie as the batch does.

  Left to itself, the partitioner lets some follow the parameters that they
  were made with, and exchanges activations, which are large, instead of
  parameters, which are small. Here the result of every convolution and dense
  layer is told its place: what begins with a whole batch is split by examples,
  and rows of videos over `space`.
  """
  if mesh.size == 1:
    return apply
  layers = nn.Conv | nn.Dense | nn.Embed

  def told_its_place(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if not isinstance(context.module, layers):
      return result
    if result.ndim < 2 or result.shape[0] % batch_shards(mesh):
      return result
    place = video_sharding if result.ndim == 5 else batch_sharding
    return jax.lax.with_sharding_constraint(result, place(mesh))

  @functools.wraps(apply)
  def placed(*args, **kwargs):
    with nn.intercept_methods(told_its_place):
      return apply(*args, **kwargs)

  return placed


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, P())


def spread(tree: PyTree, place: NamedSharding) -> PyTree:
  """Lays out arrays that every process has whole; none asks another."""
  if jax.process_count() == 1:
    return jax.device_put(tree, place)

  def leaf(x):
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    return jax.make_array_from_callback(x.shape, place, lambda i: x[i])

  return jax.tree.map(leaf, tree)


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
