"""How the noises of frames correlate, and which prior would correlate likewise.

Ge23 Table 1 and Fig. 2: an image model carries the frames of videos to noise,
by the probability flow, and the noises of one video turn out alike. From their
similarity follows the α of either prior that has the same. It need not be the
best one to train with: Ge23 measure 0.206 and find priors of a mean
correlation of 0.50 (mixed, α = 1) and, over 16 frames, 0.57 (progressive,
α = 2) best. All of it is on the host, in float64.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float, Float64

Cosines = Float64[np.ndarray, 'm n m n']
Lags = Float64[np.ndarray, ' k']
ByLag = Float64[np.ndarray, 'm k']


class Mean(NamedTuple):
  """A mean similarity and its spread.

  Attributes:
    mean: over all pairs.
    over_videos: the standard deviation of the videos' means.
    over_pairs: the standard deviation of single pairs.
    pairs: how many there are.
  """

  mean: float
  over_videos: float
  over_pairs: float
  pairs: int


class Fit(NamedTuple):
  """A prior that is fitted to correlations by frame lag.

  Attributes:
    alpha: of the prior; inf where no finite one correlates as much.
    correlation: between neighbours: r of 'mixed', ρ of 'progressive'.
    misfit: root mean square over pairs of what the prior does not match.
  """

  alpha: float
  correlation: float
  misfit: float


class Similarity(NamedTuple):
  """How alike noises are.

  Attributes:
    within: of two frames of the same video.
    between: of frames of different videos.
    by_lag: `[m, n − 1]`, of each video's frames 1, 2, … n − 1 apart.
  """

  within: Mean
  between: Mean
  by_lag: ByLag


def similarity(eps: Float[np.ndarray, 'm n *shape']) -> Similarity:
  """The cosine similarities of n frames of each of m videos, two or more."""
  cos = cosines(eps)
  return Similarity(within(cos), between(cos), by_lag(cos))


def cosines(eps: Float[np.ndarray, 'm n *shape']) -> Cosines:
  """⟨ε, ε′⟩/(‖ε‖ ‖ε′‖) of every two frames (Ge23 Table 1).

  Args:
    eps: the noises of n frames of each of m videos.
  """
  flat = eps.reshape(eps.shape[0] * eps.shape[1], -1).astype(np.float64)
  flat /= np.linalg.norm(flat, axis=1, keepdims=True)
  return (flat @ flat.T).reshape(2 * eps.shape[:2])


def within(cos: Cosines) -> Mean:
  """The similarity of two frames of the same video (Ge23 Table 1 (a))."""
  videos = np.arange(len(cos))
  rows, columns = np.triu_indices(cos.shape[1], 1)
  return _mean(cos[videos, :, videos][:, rows, columns])


def between(cos: Cosines) -> Mean:
  """The similarity of frames of different videos (Ge23 Table 1 (b)).

  A video's mean is that of its frames with those of all others.
  """
  m = len(cos)
  others = [np.delete(cos[i], i, axis=1).ravel() for i in range(m)]
  every = _mean(np.array(others))
  return every._replace(pairs=every.pairs // 2)


def _mean(pairs: Float64[np.ndarray, 'm p']) -> Mean:
  return Mean(
    float(pairs.mean()),
    float(pairs.mean(1).std(ddof=1)),
    float(pairs.std(ddof=1)),
    pairs.size,
  )


def by_lag(cos: Cosines) -> ByLag:
  """Each video's mean similarity of frames that are 1, 2, … n − 1 apart."""
  n = cos.shape[1]
  own = [cos[i, :, i] for i in range(len(cos))]
  return np.array(
    [[np.diagonal(c, k).mean() for k in range(1, n)] for c in own]
  )


def mixed(lags: Lags) -> Fit:
  """α = √(r/(1 − r)), from r = α²/(1 + α²) (Ge23 eq. 3).

  r is the mean over all pairs of frames, which is the constant nearest to all
  of them in least squares; 0 if it is negative.

  Args:
    lags: the mean correlation of frames 1, 2, … k apart, of k + 1 frames.
  """
  weights = _pairs(lags)
  r = min(max(float(weights @ lags / weights.sum()), 0.0), 1.0)
  alpha = math.sqrt(r / (1 - r)) if r < 1 else math.inf
  return Fit(alpha, r, _misfit(lags, np.full_like(lags, r)))


def progressive(lags: Lags) -> Fit:
  """α = ρ/√(1 − ρ²), from ρ = α/√(1 + α²) (Ge23 eq. 4).

  ρ in [0, 1] is that of which ρ^lag is nearest to the correlations in least
  squares, each pair of frames counting once: the best point of a fine grid,
  then the zero of the derivative beside it.

  Args:
    lags: as of `mixed`.
  """
  weights, k = _pairs(lags), np.arange(1, len(lags) + 1)

  def slope(rho):
    return float(weights @ (k * rho ** (k - 1) * (rho**k - lags)))

  grid = np.linspace(0, 1, 2049)
  loss = ((grid[:, None] ** k - lags) ** 2) @ weights
  best = int(np.argmin(loss))
  low, rho, high = grid[np.clip([best - 1, best, best + 1], 0, 2048)].tolist()
  if slope(low) < 0 < slope(high):
    rho = scipy.optimize.brentq(slope, low, high, xtol=1e-15)
  alpha = rho / math.sqrt(1 - rho**2) if rho < 1 else math.inf
  return Fit(alpha, rho, _misfit(lags, rho**k))


FITS = {'mixed': mixed, 'progressive': progressive}


def _pairs(lags: Lags) -> Lags:
  """How many pairs of k + 1 frames have each lag."""
  return np.arange(len(lags), 0, -1, dtype=np.float64)


def _misfit(lags: Lags, fitted: Lags) -> float:
  return math.sqrt(np.average((lags - fitted) ** 2, weights=_pairs(lags)))


def standard_error(fit: Callable[[Lags], Fit], lags: ByLag) -> float:
  """The standard error of a fit's α: a jackknife over videos.

  Args:
    fit: `mixed` or `progressive`.
    lags: of each video, at least two.

  Returns:
    nan where a finite α does not always exist.
  """
  m = len(lags)
  left = [fit(np.delete(lags, i, axis=0).mean(0)).alpha for i in range(m)]
  if not np.isfinite(left).all():
    return math.nan
  return math.sqrt((m - 1) * np.var(left))
