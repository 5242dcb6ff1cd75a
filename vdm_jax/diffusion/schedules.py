"""From time to log-SNR: the cosine schedule, training times, sampling grids.

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
from jaxtyping import Array, Float, Float32, Float64, Key

AnyArray = Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
  """λ(t) = −2 log tan(a t + b) + shift, truncated to [λ_min, λ_max].

  Ho22 §2 names the cosine schedule, its appendix the range [−20, 20];
  b = arctan e^{−λ_max/2} and a = arctan e^{−λ_min/2} − b are the convention of
  the authors' earlier code. t = 0 gives λ_max and t = 1 gives λ_min. Ho22 do
  not shift; a negative shift gives more time to high noise, where what is seen
  as a whole is decided (Hoogeboom23, simple diffusion). a and b then belong to
  the bounds less the shift.

  Both methods take numpy or jax arrays and compute in the kind and the
  precision of what they get.

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

  def inverse(
    self, logsnr: Float[AnyArray, '*shape']
  ) -> Float[AnyArray, '*shape']:
    """t(λ) = (arctan e^{(shift−λ)/2} − b) / a, for λ in [λ_min, λ_max]."""
    a, b, _ = self._angles()
    xp = logsnr.__array_namespace__()
    return (xp.arctan(xp.exp((self.shift - logsnr) / 2)) - b) / a

  def _angles(self) -> tuple[float, float, float]:
    """a, b and c = π/2 − a − b, in float64."""
    b = math.atan(math.exp((self.shift - self.logsnr_max) / 2))
    c = math.atan(math.exp((self.logsnr_min - self.shift) / 2))
    return math.pi / 2 - b - c, b, c


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
