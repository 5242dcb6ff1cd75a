"""Kernel distances between features: KID of images, KVD of videos.

MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y) (Gretton et al. 2012, eq. 2) with
the kernel k(x, y) = (γ xᵀy + c)^p; γ = 1/d, c = 1, p = 3 are those of KID
(Bińkowski et al. 2018). Unlike a Fréchet distance it has an estimate without
bias, so that numbers of different sample sizes can be compared.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from vdm_jax.errors import DataError
from vdm_jax.metrics import clusters as clusters_lib
from vdm_jax.metrics.moments import check_finite

_TILE = 1024  # rows and columns of the kernel matrix that exist at a time


@dataclasses.dataclass(frozen=True)
class Kernel:
  """k(x, y) = (γ xᵀy + c)^p.

  JEDi's is `Kernel(degree=2, coef=0.0)`, in its biased estimate, times 100.

  Attributes:
    degree: p.
    gamma: γ; None for 1/d.
    coef: c.
  """

  degree: int = 3
  gamma: float | None = None
  coef: float = 1.0

  def of(self, products: np.ndarray, dim: int) -> np.ndarray:
    """Its values, of inner products xᵀy of d features."""
    gamma = 1 / dim if self.gamma is None else self.gamma
    base = gamma * products + self.coef
    value = base.copy()
    for _ in range(self.degree - 1):
      value *= base
    return value


@dataclasses.dataclass(frozen=True)
class KernelDistance:
  """MMD² and how certain it is.

  Attributes:
    value: without bias, of all samples; below zero by chance where the two
      distributions are equal.
    standard_error: of `block_mean`; that of `value` is not larger.
    block_mean: mean of the estimates of the blocks.
    blocks: disjoint parts that the samples were split into.
    n: samples on either side.
  """

  value: float
  standard_error: float
  block_mean: float
  blocks: int
  n: tuple[int, int]


def kernel_distance(
  x: Float[np.ndarray, 'n d'],
  y: Float[np.ndarray, 'm d'],
  *,
  kernel: Kernel = Kernel(),
  blocks: int = 10,
  seed: int = 0,
  clusters: clusters_lib.Pair = (None, None),
) -> KernelDistance:
  """The unbiased MMD² with its standard error.

  The error is that of the mean over disjoint blocks of both sides, which are
  independent. Memory is that of the features in float64 and of some tiles of
  1024 × 1024; 10,000 against 10,000 of d = 400 take 0.25 Tflop.

  Args:
    x: features of the samples.
    y: features of the reference.
    kernel: k.
    blocks: at least 2, each of at least two clusters on both sides.
    seed: of the permutation by which blocks are made.
    clusters: of the rows of `x` and `y`: a block has wholes, and no pair of
      rows is of one. None: every row is one.

  Raises:
    DataError: too few samples, or features that are not finite.
  """
  sides = [
    (side, clusters_lib.given(own, len(side)))
    for side, own in zip((x, y), clusters, strict=True)
  ]
  least = min(clusters_lib.count(own) for _, own in sides)
  if blocks < 2 or least < 2 * blocks:
    raise DataError(
      f'too few samples for {blocks} blocks ({least}); give at least two per '
      'block, and two blocks'
    )
  rng = np.random.default_rng(seed)
  parts = [_blocks(*side, blocks, rng) for side in sides]
  estimates = [
    mmd2(one, other, kernel=kernel, clusters=(mine, theirs))
    for (one, mine), (other, theirs) in zip(*parts, strict=True)
  ]
  return KernelDistance(
    value=mmd2(x, y, kernel=kernel, clusters=clusters),
    standard_error=float(np.std(estimates, ddof=1) / np.sqrt(blocks)),
    block_mean=float(np.mean(estimates)),
    blocks=blocks,
    n=(len(x), len(y)),
  )


def _blocks(side, clusters, blocks: int, rng) -> list[tuple]:
  """Disjoint random parts of a side, each with the clusters of its rows."""
  order = rng.permutation(clusters_lib.count(clusters))
  parts = [
    clusters_lib.rows_of(clusters, chosen)
    for chosen in np.array_split(order, blocks)
  ]
  return [(side[rows], clusters_lib.of(clusters[rows])) for rows in parts]


def mmd2(
  x: Float[np.ndarray, 'n d'],
  y: Float[np.ndarray, 'm d'],
  *,
  kernel: Kernel = Kernel(),
  unbiased: bool = True,
  clusters: clusters_lib.Pair = (None, None),
) -> float:
  """MMD² of two sets (Gretton et al. 2012, eq. 3; biased: eq. 5).

  The unbiased estimate leaves out k(x, x), of a sample with itself, which is
  never of two independent draws, and with `clusters` (of the rows of `x` and
  `y`) all pairs of one of them.

  Raises:
    DataError: fewer than two samples or clusters, or features that are not
      finite.
  """
  mine = clusters_lib.given(clusters[0], len(x))
  theirs = clusters_lib.given(clusters[1], len(y))
  if min(clusters_lib.count(mine), clusters_lib.count(theirs)) < 2:
    raise DataError('too few samples for a kernel distance; give at least two')
  for side in (x, y):
    check_finite(side)
  x, y = x.astype(np.float64), y.astype(np.float64)
  n, m = len(x), len(y)
  xx, yy = _sum(x, x, kernel), _sum(y, y, kernel)
  if unbiased:
    xx, yy = xx - _within(x, mine, kernel), yy - _within(y, theirs, kernel)
    xx, yy = xx * n / _others(mine), yy * m / _others(theirs)
  return xx / n**2 + yy / m**2 - 2 * _sum(x, y, kernel) / (n * m)


def _sum(x, y, kernel: Kernel) -> float:
  """Σᵢⱼ k(xᵢ, yⱼ), a tile at a time; half of the tiles if x is y."""
  total = 0.0
  for i in range(0, len(x), _TILE):
    for j in range(i if x is y else 0, len(y), _TILE):
      tile = x[i : i + _TILE] @ y[j : j + _TILE].T
      twice = 2 if x is y and j > i else 1
      total += twice * float(kernel.of(tile, x.shape[1]).sum())
  return total


def _within(x, clusters, kernel: Kernel) -> float:
  """Σ k(xᵢ, xⱼ) over all pairs of one cluster, i = j among them."""
  total = _diagonal(x, kernel)
  for cluster in np.flatnonzero(np.bincount(clusters) > 1):
    rows = x[clusters == cluster]
    total += _sum(rows, rows, kernel) - _diagonal(rows, kernel)
  return total


def _others(clusters) -> float:
  """How many rows are of other clusters than a row is, on average."""
  n = len(clusters)
  return (n * n - int(np.square(np.bincount(clusters)).sum())) / n


def _diagonal(x, kernel: Kernel) -> float:
  return float(kernel.of(np.square(x).sum(axis=1), x.shape[1]).sum())
