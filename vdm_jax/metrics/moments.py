"""Mean and covariance of a stream of features, and a bounded sample of it.

A Fréchet distance needs the count, the mean and the scatter matrix alone:
d + d² numbers in float64, whatever the number of samples. What needs the
features themselves (kernel distances, bootstrap intervals, FD∞, distances by
nuclear norm) takes the rows that an `Accumulator` keeps: at most `keep` of
them, float32, a uniform sample of the stream without replacement. With the
10,000 of the default these are 16 MB for I3D's logits (d = 400), 82 MB for
Inception's pool3 (2048) and 164 MB for C3D's fc7 (4096); the scatter matrix
has 1.3, 34 and 134 MB. So 50,000 samples take as much memory as 10,000; with
`keep=0`, as much as one batch.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt64

from vdm_jax.errors import DataError

KEEP = 10_000
DIVISORS = ('n-1', 'n')
_FLUSH = 256  # rows that wait for one update of the scatter matrix
_SLAB = 1 << 26  # bytes that an exchange between hosts takes at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
  """What a Fréchet distance knows of a set of features.

  Attributes:
    n: samples.
    mean: their mean.
    scatter: Σ (x − mean)(x − mean)ᵀ, not divided.
  """

  n: int
  mean: Float64[np.ndarray, ' d']
  scatter: Float64[np.ndarray, 'd d']

  @classmethod
  def of(cls, features: Float[np.ndarray, 'n d']) -> 'Moments':
    """Moments of features in memory, in float64 from whatever they are."""
    n, dim = features.shape
    if n == 0:
      return cls(0, np.zeros(dim), np.zeros((dim, dim)))
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    return cls(n, mean, centred.T @ centred)

  @classmethod
  def merged(cls, parts: Sequence['Moments']) -> 'Moments':
    """Moments of all the samples of some parts.

    scatter = Σᵢ scatterᵢ + Σᵢ nᵢ (mᵢ − m)(mᵢ − m)ᵀ (Chan, Golub & LeVeque
    1979), which loses no digits however far the parts' means are from zero.

    Raises:
      ValueError: there are no parts, or their features differ in number.
    """
    if len({part.mean.shape for part in parts}) != 1:
      raise ValueError('moments of different features cannot be merged')
    n = sum(part.n for part in parts)
    counts = np.array([part.n for part in parts], np.float64)[:, None]
    means = np.stack([part.mean for part in parts])
    mean = (counts * means).sum(axis=0) / max(n, 1)
    between = np.sqrt(counts) * (means - mean)
    scatter = between.T @ between
    for part in parts:
      scatter += part.scatter
    return cls(n, mean, scatter)

  def covariance(self, divisor: str = 'n-1') -> Float64[np.ndarray, 'd d']:
    """Covariance, scatter / (n − 1) or scatter / n.

    n − 1 is `np.cov`'s (tgan2, TATS, pytorch-fid), n StyleGAN's.

    Raises:
      DataError: fewer than two samples.
      ValueError: another divisor.
    """
    return self.scatter / divide_by(self.n, divisor)


def divide_by(n: int, divisor: str) -> int:
  """What the scatter of n samples is divided by; errors of `covariance`."""
  if divisor not in DIVISORS:
    raise ValueError(f'unknown divisor ({divisor!r}); it is one of {DIVISORS}')
  if n < 2:
    raise DataError(
      f'too few samples for a covariance ({n}); give at least two'
    )
  return n - 1 if divisor == 'n-1' else n


class Accumulator:
  """Moments of a stream, and a bounded, uniform sample of its rows.

  A row is kept if the hash of its sample's index is among the `keep` smallest,
  so the kept set depends on neither the order of the stream nor how it is cut
  into batches and hosts, and is the same whenever the indices are.

  Attributes:
    dim: d, features.
    keep: rows that are kept at most.
    seed: of the hash.
  """

  def __init__(self, dim: int, keep: int = KEEP, seed: int = 0):
    self.dim, self.keep, self.seed = dim, keep, seed
    self._moments = Moments.of(np.zeros((0, dim)))
    self._waiting: list[np.ndarray] = []
    self._next = 0
    self._kept = 0
    self._indices = np.empty(keep, np.int64)
    self._ranks = np.empty(keep, np.uint64)
    self._rows = np.empty((keep, dim), np.float32)

  def add(
    self,
    features: Float[np.ndarray, 'n d'],
    indices: Int[np.ndarray, ' n'] | None = None,
  ) -> None:
    """Adds a batch.

    Args:
      features: of the batch.
      indices: of its samples in the whole set, not negative, each to be given
        once; by default they are counted from 0. On several hosts they must be
        global.

    Raises:
      DataError: features that are not finite.
      ValueError: another number of features, a negative index, or a sample that
        came before (as far as kept rows tell).
    """
    if features.shape[1] != self.dim:
      raise ValueError(f'{features.shape[1]} features, not {self.dim}')
    check_finite(features)
    if indices is None:
      indices = np.arange(self._next, self._next + len(features))
    if indices.min(initial=0) < 0:
      raise ValueError(f'a negative index of a sample ({indices.min()})')
    self._next = max(self._next, int(indices.max(initial=-1)) + 1)
    self._retain(features, indices.astype(np.int64))
    self._waiting.append(features.astype(np.float64))
    if sum(len(batch) for batch in self._waiting) >= _FLUSH:
      self._flush()

  def absorb(self, other: 'Accumulator') -> None:
    """Adds the samples of another accumulator, which stays as it is.

    Raises:
      ValueError: it keeps rows by another rule, or has a sample in common.
    """
    mine, theirs = ((side.dim, side.keep, side.seed) for side in (self, other))
    if mine != theirs:
      raise ValueError(f'other (dim, keep, seed): {theirs}, not {mine}')
    self._retain(other.rows, other.indices)
    self._moments = Moments.merged([self.moments, other.moments])
    self._next = max(self._next, other._next)

  @property
  def moments(self) -> Moments:
    """Of all samples so far."""
    self._flush()
    return self._moments

  @property
  def indices(self) -> Int[np.ndarray, ' m']:
    """Indices of the kept samples, ascending."""
    return np.sort(self._indices[: self._kept])

  @property
  def rows(self) -> Float32[np.ndarray, 'm d']:
    """The kept rows, m = min(n, keep), in the order of `indices`."""
    return self._rows[np.argsort(self._indices[: self._kept])]

  def _flush(self):
    if self._waiting:
      batch = Moments.of(np.concatenate(self._waiting))
      self._waiting = []
      self._moments = Moments.merged([self._moments, batch])

  def _retain(self, rows, indices):
    kept = self._indices[: self._kept]
    if len(np.unique(indices)) < len(indices) or np.isin(indices, kept).any():
      raise ValueError('a sample was given twice; indices must be global')
    ranks = priority(indices, self.seed)
    best = np.argsort(np.concatenate([self._ranks[: self._kept], ranks]))
    chosen = np.zeros(len(best), bool)
    chosen[best[: self.keep]] = True
    stay, enter = chosen[: self._kept], chosen[self._kept :]
    slots = np.flatnonzero(~stay).tolist() + list(range(self._kept, self.keep))
    slots = slots[: enter.sum()]
    self._rows[slots] = rows[enter]
    self._indices[slots], self._ranks[slots] = indices[enter], ranks[enter]
    self._kept = min(self.keep, self._kept + len(ranks))


def check_finite(features: np.ndarray) -> None:
  """Raises DataError if a sample has features that are not finite."""
  bad = ~np.isfinite(features).all(axis=1)
  if bad.any():
    raise DataError(
      f'features that are not finite ({bad.sum()} of {len(bad)} samples); look '
      'at the samples and at the weights of the feature network'
    )


def priority(
  indices: Int[np.ndarray, ' n'], seed: int
) -> UInt64[np.ndarray, ' n']:
  """A number that looks random for every index, different for each.

  The mixing function of SplitMix64 (Steele, Lea & Flood 2014), a bijection.
  """
  offset = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
  x = indices.astype(np.uint64) + np.uint64(offset)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def merge_hosts(own: Accumulator) -> Accumulator:
  """What all hosts have accumulated; to be called by all of them.

  The result is the same to the last bit on every host, and but for rounding
  the one that a single host would have got.

  Raises:
    ValueError: a sample was on two hosts (as far as kept rows tell).
  """
  if jax.process_count() == 1:
    return own
  result = Accumulator(own.dim, own.keep, own.seed)
  result._moments = _merge_moments(own.moments)
  result._next = int(_gather(np.array([own._next])).max())
  _merge_rows(own, result)
  return result


def _merge_moments(own: Moments) -> Moments:
  counts = _gather(np.array([own.n]))[:, 0]
  means = _gather(own.mean)
  empty = np.zeros_like(own.scatter)
  merged = Moments.merged(
    [
      Moments(int(n), mean, empty)
      for n, mean in zip(counts, means, strict=True)
    ]
  )
  for start, slab in _slabs(own.scatter):
    merged.scatter[start : start + len(slab)] += _gather(slab).sum(axis=0)
  return merged


def _merge_rows(own: Accumulator, result: Accumulator):
  """Finds out whose rows are kept, and sends around these alone."""
  padded = np.full(max(own.keep, 1), -1)
  padded[: own._kept] = own.indices
  indices = _gather(padded)
  hosts, slots = np.nonzero(indices >= 0)
  indices = indices[hosts, slots]
  if len(np.unique(indices)) < len(indices):
    raise ValueError('a sample was on two hosts; indices must be global')
  best = np.argsort(priority(indices, own.seed))[: own.keep]
  hosts, slots, indices = hosts[best], slots[best], indices[best]
  wanted = np.zeros((len(best), own.dim), np.float32)
  mine = hosts == jax.process_index()
  wanted[mine] = own.rows[slots[mine]]
  for start, slab in _slabs(wanted):
    chosen = slice(start, start + len(slab))
    rows = _gather(slab)[hosts[chosen], np.arange(len(slab))]
    result._retain(rows, indices[chosen])


def _slabs(value: np.ndarray):
  """Runs of rows that are small enough to be gathered at a time."""
  step = max(1, _SLAB // (jax.process_count() * value[:1].nbytes or 1))
  for start in range(0, len(value), step):
    yield start, value[start : start + step]


def _gather(value: np.ndarray) -> np.ndarray:
  """The arrays of all hosts, [hosts, ...], bit for bit.

  They travel as integers: JAX would round float64 to float32.
  """
  from jax.experimental import multihost_utils

  words = np.ascontiguousarray(value).view(np.uint32)
  gathered = np.asarray(multihost_utils.process_allgather(words))
  return np.ascontiguousarray(gathered).view(value.dtype)
