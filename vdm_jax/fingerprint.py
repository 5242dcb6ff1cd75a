"""Fingerprints of arrays: 32 bits for each, the same on any mesh.

Storage returns a wrong bit without a word, and so does Orbax. A fingerprint is

  Σ_i h(b_i ⊕ c i)  mod 2³²

of the bits b_i of the elements, where h is a bijection of 32-bit words that
mixes them (the finalizer of MurmurHash3) and c is odd. It is computed where
the array lies, in one pass and without a copy. Another value of one element of
at most 32 bits always changes it, for h is a bijection; any other change, such
as a swap of two elements, is missed once in 2³² times.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, UInt32

from vdm_jax import distributed, sharding

PyTree = Any
_STRIDE = 0x9E3779B9  # odd: 2³² over the golden ratio


@dataclasses.dataclass(frozen=True)
class Found:
  """What was found out about some arrays.

  Attributes:
    values: the fingerprint of each by its path.
    not_finite: the paths of those that hold a NaN or an infinity.
  """

  values: dict[str, int]
  not_finite: tuple[str, ...]


class Fingerprints:
  """Computes fingerprints; keeps the programs that do, one for each shape."""

  def __init__(self):
    self._programs = {}

  def __call__(self, items: Mapping[str, PyTree]) -> Found:
    """Fingerprints of all arrays; several processes call it together.

    Args:
      items: trees of arrays by name; the names begin the paths.
    """
    arrays = {
      path: a if isinstance(a, jax.Array) else jnp.asarray(a)
      for path, a in flat(items).items()
    }
    if not arrays:
      return Found({}, ())
    known = len(self._programs)
    programs = [self._program(_of_array, a) for a in arrays.values()]
    if len(self._programs) > known:
      distributed.barrier('fingerprints')  # before the first collective
    pending = []
    for program, array in zip(programs, arrays.values(), strict=True):
      pending.append(program(array))
      if jax.default_backend() == 'cpu':
        # Its few threads would all wait in exchanges that none completes.
        pending[-1].block_until_ready()
    # One small vector goes to the host.
    words = np.asarray(self._program(_stack, *pending)(*pending))
    values = {p: int(w) for p, w in zip(arrays, words[:, 0], strict=True)}
    bad = tuple(p for p, n in zip(arrays, words[:, 1], strict=True) if n)
    return Found(values, bad)

  def _program(self, function, *arrays):
    key = tuple((a.shape, a.dtype, a.sharding) for a in arrays)
    if key not in self._programs:
      place = arrays[0].sharding
      if isinstance(place, NamedSharding):
        place = sharding.replicated(place.mesh)
      program = jax.jit(function, out_shardings=place)
      self._programs[key] = program.lower(*arrays).compile()
    return self._programs[key]


def flat(items: Mapping[str, PyTree]) -> dict[str, Any]:
  """Arrays, or what stands for them, by paths such as 'ema/conv_in/bias'."""
  found = {}
  for name, tree in items.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      found['/'.join(filter(None, (name, sharding.path_name(path))))] = leaf
  return found


def _stack(*words):
  return jnp.stack(words)


def _of_array(x) -> UInt32[Array, '2']:
  """The fingerprint, and 1 if there is a NaN or an infinity, in one pass."""
  bad = jnp.zeros(x.shape, bool)
  if jnp.issubdtype(x.dtype, jnp.inexact):
    bad = ~jnp.isfinite(x)
  bits = _bits(x)
  bad = bad.reshape(bad.shape + (1,) * (bits.ndim - bad.ndim))
  zero = np.uint32(0)
  total, any_bad = jax.lax.reduce(
    (
      _mix(bits ^ (_positions(bits.shape) * np.uint32(_STRIDE))),
      jnp.broadcast_to(bad, bits.shape).astype(jnp.uint32),
    ),
    (zero, zero),
    lambda a, b: (a[0] + b[0], a[1] | b[1]),
    tuple(range(bits.ndim)),
  )
  return jnp.stack([total, any_bad])


def _bits(x):
  """The bits as uint32; what is larger has them in a last axis of its own."""
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(x)
  if jnp.iscomplexobj(x):
    parts = _bits(x.real), _bits(x.imag)
    return jnp.stack(parts, -1).reshape(*x.shape, -1)
  if x.dtype == bool:
    return x.astype(jnp.uint32)
  if x.dtype.itemsize < 4:
    whole = {1: jnp.uint8, 2: jnp.uint16}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, whole).astype(jnp.uint32)
  return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _positions(shape) -> UInt32[Array, '...']:
  """The place of each element in the flattened array, modulo 2³²."""
  place = jnp.zeros(shape, jnp.uint32)
  for axis in range(len(shape)):
    stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
    place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
  return place


def _mix(h):
  h ^= h >> np.uint32(16)
  h *= np.uint32(0x85EBCA6B)
  h ^= h >> np.uint32(13)
  h *= np.uint32(0xC2B2AE35)
  return h ^ (h >> np.uint32(16))
