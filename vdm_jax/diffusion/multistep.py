"""Multistep samplers: one call of the denoiser a step, and a memory of others.

Both extrapolate an estimate along the probability flow, by a polynomial
through its values at the last levels, and integrate the rest exactly. All is
written as the DDIM step and differences of x̂ times bounded numbers,

  z' = (σ'/σ) z + α'(1 − s'/s) x̂ + b,  b = c_1 Δ_n + c_2 Δ_{n−1},

with Δ_n = x̂*_{n−1} − x̂_n and x̂*_n = x̂_n + b/α' for ε̂ and x̂_n for x̂. On the
flow (x̂*_{n−1} − x̂_n)/s is the difference of ε̂_n and ε̂_{n−1}, so that none is
divided by a small σ. The first steps know too little, and have a lower order.

Churn breaks the flow between one step and the next. Given the noisier z, what
it changes in x̂ has mean 0, which is not so of ε̂: as Δ_n takes nothing but x̂_n
from the step n, its mean is that of the flow down to s_n, and the derivatives
are taken over that. So order 2 is kept, which it is not by differences of ε̂;
the noise of a third would be too large.
"""

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process
from vdm_jax.diffusion.coefficients import exponential_euler, scales
from vdm_jax.diffusion.samplers import Levels, Rows, Sampler

VARIABLES = ('log', 'sigma', 'karras')


def deis(order: int = 3, variable: str = 'log', rho: float = 7.0) -> Sampler:
  """y' = y + Σ_j C_j ε̂_{n−j}, C_j = ∫_s^{s'} ℓ_j(u(τ)) dτ (Zhang22, tAB-DEIS).

  ℓ_j are the Lagrange polynomials through the last `order` levels in the
  variable u: ln s, s itself (ρAB-DEIS) or s^{1/ρ}, in which the grid of
  Karras22 is uniform. Zhang22 interpolate in the time of a schedule, which has
  no meaning here. Order 1 is DDIM in every variable. Draws no noise.

  Args:
    order: 1, 2 or 3.
    variable: 'log' (ln s), 'sigma' (s) or 'karras' (s^{1/ρ}).
    rho: ρ of 'karras'.

  Raises:
    ValueError: an order or a variable that there is not.
  """
  if order not in (1, 2, 3):
    raise ValueError(f'DEIS has the orders 1, 2 and 3, not {order}')
  if variable not in VARIABLES:
    raise ValueError(
      f'unknown variable {variable!r} of DEIS; use one of '
      f'{", ".join(VARIABLES)}'
    )

  def coefficients(starts: Levels, ends: Levels) -> Rows:
    alpha, _ = scales(ends)
    differences = deis_weights(
      starts, ends, order=order, variable=variable, rho=rho
    )
    # Those of ε̂_n − ε̂_{n−1}, which is Δ_n / s_n.
    s = np.exp(-ends / 2)
    scaled = [
      alpha * weight / shifted(s, by=j + 1)
      for j, weight in enumerate(differences)
    ]
    base = exponential_euler(starts, ends)
    return np.stack([*base, 1 / alpha, *scaled], 1)

  return Sampler(_step, coefficients, order - 1)


def dpmpp_2m() -> Sampler:
  """y' = (s'/s) y + (1 − s'/s)(x̂ + h/(2 h₋)(x̂ − x̂₋)) (Lu22, DPM-Solver++(2M)).

  h = ln s/s' and h₋ that of the step before. Extrapolates x̂ where DEIS
  extrapolates ε̂. Draws no noise.
  """

  def coefficients(starts: Levels, ends: Levels) -> Rows:
    keep, move = exponential_euler(starts, ends)
    behind = shifted(ends - starts, by=1, fill=np.inf)
    first = -move * (ends - starts) / (2 * behind)
    return np.stack([keep, move, np.zeros_like(first), first], 1)

  return Sampler(_step, coefficients, 1)


def _step(denoise, *, keys, z, past, row, logsnr_t, logsnr_s, prior):
  """The step of the module; past is x̂*_{n−1} and Δ_{n−1}."""
  del keys, logsnr_s, prior
  keep, move, star, *weights = (process.over_video(c) for c in row.T)
  x_hat = denoise(z, logsnr_t)
  z = keep * z + move * x_hat
  if not len(past):
    return z, x_hat, past
  differences = past[0] - x_hat, *past[1:]
  bend = sum(c * d for c, d in zip(weights, differences, strict=True))
  past = jnp.stack([x_hat + star * bend, *differences[:-1]])
  return z + bend, x_hat, past


def deis_weights(
  starts: Levels, ends: Levels, *, order: int, variable: str, rho: float
) -> list[Levels]:
  """c_1/α' and c_2/α' of the differences of ε̂, as many as the order uses.

  Newton's form of the interpolation: with I_k = ∫ (u − u_n)^k ds over the step,
  d_1 = u_n − u_{n−1} and d_2 = u_{n−1} − u_{n−2}, the orders 2 and 3 add
  I_1 δ_1 and (I_2 + d_1 I_1) δ_2, of the divided differences δ of ε̂.
  """
  u, u_next = _variable(starts, variable, rho), _variable(ends, variable, rho)
  one, two = (moment(u, u_next, k, variable, rho) for k in (1, 2))
  d_1 = shifted(u_next - u, by=1, fill=np.inf)
  d_2 = shifted(u_next - u, by=2, fill=np.inf)
  if order == 1:
    return []
  if order == 2:
    return [one / d_1]
  finite = np.where(np.isfinite(d_2), d_1, 0)
  bent = np.where(np.isfinite(d_2), two + finite * one, 0)
  return [one / d_1 + bent / (d_1 * (d_1 + d_2)), -bent / (d_2 * (d_1 + d_2))]


def shifted(values: Levels, *, by: int, fill: float = 1.0) -> Levels:
  """Of each step, the value of the step that came `by` before it."""
  return np.append(np.full(by, fill), values)[: len(values)]


def moment(
  u: Levels, u_next: Levels, k: int, variable: str, rho: float
) -> Levels:
  """I_k = ∫_s^{s'} (u(τ) − u(s))^k dτ, a number per step.

  By Gauss-Legendre quadrature in u, where ds/du is an exponential or a power:
  32 points are exact to rounding. The closed forms are differences that lose
  their digits as steps become small.
  """
  points, weights = np.polynomial.legendre.leggauss(32)
  half = (u_next - u)[:, None] / 2
  v = half * (1 + points)
  at = u[:, None] + v
  if variable == 'log':
    slope = np.exp(at)
  elif variable == 'sigma':
    slope = np.ones_like(at)
  else:
    slope = rho * at ** (rho - 1)
  return np.sum(half * weights * v**k * slope, 1)


def _variable(logsnr: Levels, variable: str, rho: float) -> Levels:
  if variable == 'log':
    return -logsnr / 2
  return np.exp(-logsnr / 2 / (1 if variable == 'sigma' else rho))
