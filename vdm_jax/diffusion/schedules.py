"""From time to log-SNR: schedules, training times, sampling grids.

Time t runs from 0 (data) to 1 (noise). A schedule is a callable that maps t
to λ(t), decreasing; t uniform in [0, 1] then gives the density of λ that
training sees.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Float32, Float64, Key

AnyArray = Array | np.ndarray

# No level further out than the quantiles of this mass and of 1 less this.
TAIL = 1e-6


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
  """λ(t) = −2 log tan(a t + b) + shift, truncated to [λ_min, λ_max].

  Ho22 §2 names the cosine schedule, its appendix the range [−20, 20];
  b = arctan e^{−λ_max/2} and a = arctan e^{−λ_min/2} − b are the convention of
  the authors' earlier code. t = 0 gives λ_max and t = 1 gives λ_min. Ho22 do
  not shift; a negative shift gives more time to high noise, where what is seen
  as a whole is decided (Hoogeboom23, simple diffusion). a and b then belong to
  the bounds less the shift.

  It takes numpy or jax arrays and computes in the kind and the precision of
  what it gets.

  Attributes:
    logsnr_min: λ(1), in nats.
    logsnr_max: λ(0), in nats.
    shift: λ(t) is raised by this, in nats.

  Raises:
    ValueError: the range is empty.
  """

  logsnr_min: float = -20.0
  logsnr_max: float = 20.0
  shift: float = 0.0

  def __post_init__(self):
    if not self.logsnr_min < self.logsnr_max:
      raise ValueError(
        f'logsnr_min {self.logsnr_min} is not below logsnr_max '
        f'{self.logsnr_max}'
      )

  def __call__(self, t: Float[AnyArray, '*shape']) -> Float[AnyArray, '*shape']:
    """λ(t) = −2 log tan(a t + b) + shift for t in [0, 1]."""
    a, b, c = self._angles()
    xp = t.__array_namespace__()
    # tan(a t + b) = 1 / tan(a (1 − t) + c): the smaller of the two angles is
    # the exact one, since the other loses its digits as it nears π/2.
    angle, complement = a * t + b, a * (1 - t) + c
    logsnr = -2 * xp.log(xp.tan(xp.minimum(angle, complement)))
    return xp.where(angle <= complement, logsnr, -logsnr) + self.shift

  def _angles(self) -> tuple[float, float, float]:
    """a, b and c = π/2 − a − b, in float64."""
    b = math.atan(math.exp((self.shift - self.logsnr_max) / 2))
    c = math.atan(math.exp((self.logsnr_min - self.shift) / 2))
    return math.pi / 2 - b - c, b, c


@dataclasses.dataclass(frozen=True)
class LogNormalSchedule:
  """λ(t) = −2 (P_mean + P_std Φ⁻¹(u)), u = low + (high − low) t.

  ln s ~ N(P_mean, P_std²) for the noise level s = σ/α = e^{−λ/2} (Karras22
  table 1; Ge23 §3). `low` and `high` bound the probability mass that is used,
  0 at the least noise: an expert is trained on an interval of it (Balaji22).
  u is clipped to [1e-6, 1 − 1e-6].

  It takes numpy or jax arrays and computes in the kind and the precision of
  what it gets.

  Attributes:
    mean: P_mean, of ln s.
    std: P_std, of ln s.
    low: where the interval of mass begins, t = 0.
    high: where it ends, t = 1.

  Raises:
    ValueError: a standard deviation that is not above 0, or no interval.
  """

  mean: float = -1.2
  std: float = 1.2
  low: float = 0.0
  high: float = 1.0

  def __post_init__(self):
    if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
      raise ValueError(
        f'mean {self.mean} and std {self.std} are of no normal distribution; '
        'use −1.2 and 1.2'
      )
    low, high = (min(max(u, TAIL), 1 - TAIL) for u in (self.low, self.high))
    if not (self.low >= 0 and self.high <= 1 and low < high):
      raise ValueError(
        f'the interval of mass from {self.low} to {self.high} is empty; it '
        'must lie within 0 and 1'
      )

  def __call__(self, t: Float[AnyArray, '*shape']) -> Float[AnyArray, '*shape']:
    """λ(t) for t in [0, 1]."""
    xp, special = t.__array_namespace__(), _special(t)
    # Φ⁻¹(u) = −Φ⁻¹(1 − u): the smaller of the two masses is the exact one.
    width = self.high - self.low
    u, rest = self.low + width * t, (1 - self.high) + width * (1 - t)
    x = special.ndtri(xp.maximum(xp.minimum(u, rest), TAIL))
    return -2 * (self.mean + self.std * xp.where(u <= rest, x, -x))


def _special(x: AnyArray):
  """The module of Φ⁻¹ for arrays of x's kind."""
  return jax.scipy.special if isinstance(x, jax.Array) else scipy.special


def expert_split(
  mass: float = 0.5, mean: float = -1.2, std: float = 1.2
) -> float:
  """s = exp(P_mean + P_std Φ⁻¹(mass)), below which that much of p(s) lies.

  Where experts of noise levels meet (Balaji22, eDiff-I): two experts of equal
  mass at s = e^{−1.2} = 0.3012, which is Ge23's level 1.

  Raises:
    ValueError: the mass is not between 0 and 1.
  """
  if not 0 < mass < 1:
    raise ValueError(f'a mass between 0 and 1 splits p(s), not {mass}')
  return math.exp(mean + std * float(scipy.special.ndtri(mass)))


def low_discrepancy_times(key: Key[Array, ''], n: int) -> Float[Array, ' {n}']:
  """t_i = (u + i/n) mod 1 with one u ~ U[0, 1) (Kingma21).

  Every t_i is uniform in [0, 1), and each interval [k/n, (k+1)/n) holds
  exactly one of them, which lowers the variance of the loss. Draw it once
  for the global batch.
  """
  return (jax.random.uniform(key) + jnp.arange(n) / n) % 1


def times_grid(steps: int) -> Float64[np.ndarray, ' {steps}+1']:
  """t_i = 1 − i/N, i = 0…N: "uniformly spaced from 1 to 0" (Ho22 §2).

  Raises:
    ValueError: fewer than one step.
  """
  if steps < 1:
    raise ValueError(f'a sampler needs at least one step, not {steps}')
  return np.arange(steps, -1, -1, dtype=np.float64) / steps


def logsnr_grid(
  steps: int, schedule: Callable
) -> Float32[np.ndarray, ' {steps}+1']:
  """λ at `times_grid(steps)`, from λ_min to λ_max, for the samplers.

  Computed on the host in float64 and then rounded to float32. Step i goes
  from level i to level i + 1.
  """
  return schedule(times_grid(steps)).astype(np.float32)


def karras_grid(
  steps: int,
  sigma_min: float = 0.002,
  sigma_max: float = 80.0,
  rho: float = 7.0,
) -> Float32[np.ndarray, ' {steps}+1']:
  """s_i = (s_max^{1/ρ} + i/(N−1) (s_min^{1/ρ} − s_max^{1/ρ}))^ρ, s_N = 0.

  Karras22 eq. 5, as λ = −2 ln s with s = σ/α. The last level is λ = +∞: nothing
  is computed there, since the last step returns x̂ of the level before.
  Computed in float64 and then rounded to float32. One step begins at s_max.

  Raises:
    ValueError: fewer than one step, levels in no order, or ρ not above 0.
  """
  times_grid(steps)
  if not (0 < sigma_min < sigma_max < math.inf and 0 < rho < math.inf):
    raise ValueError(
      f'levels from {sigma_max} down to {sigma_min} with rho {rho} make no '
      'grid; use 80, 0.002 and 7'
    )
  first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
  roots = np.linspace(first, last, steps, dtype=np.float64)
  logsnr = np.append(-2 * rho * np.log(roots), np.inf)
  return logsnr.astype(np.float32)
