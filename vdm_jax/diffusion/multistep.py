"""Multistep samplers: one call of the denoiser a step, and a memory of others.

Both extrapolate an estimate along the probability flow, by a polynomial
through its values at the last levels, and integrate the rest exactly:
z' = (σ'/σ) z + α'(1 − s'/s) x̂ + c_1 (m_n − m_{n−1}) + c_2 (m_{n−1} − m_{n−2}),
the DDIM step and differences of the estimates m, ε̂ or x̂. All coefficients,
those of m included, are computed on the host in float64. The first steps, and
the first one with churn, know too little, and have a lower order.
"""

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process
from vdm_jax.diffusion.heun import alpha_sigma, exponential_euler
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
    first, second = deis_integrals(
      starts, ends, order=order, variable=variable, rho=rho
    )
    alpha, _ = alpha_sigma(ends)
    base = exponential_euler(starts, ends)
    # ε̂ = z/σ − x̂/s
    eps = 1 / alpha_sigma(starts)[1], -np.exp(starts / 2)
    return np.stack([*base, *eps, alpha * first, alpha * second], 1)

  return Sampler(_step, coefficients, order - 1)


def dpmpp_2m() -> Sampler:
  """y' = (s'/s) y + (1 − s'/s)(x̂ + h/(2 h₋)(x̂ − x̂₋)) (Lu22, DPM-Solver++(2M)).

  h = ln s/s' and h₋ that of the step before. Extrapolates x̂ where DEIS
  extrapolates ε̂. Draws no noise.
  """

  def coefficients(starts: Levels, ends: Levels) -> Rows:
    keep, move = exponential_euler(starts, ends)
    usable = _usable(starts, ends)
    ahead = (ends[1:] - starts[1:]) / 2
    behind = np.where(usable, (starts[1:] - starts[:-1]) / 2, np.inf)
    first = move * np.append(np.zeros(min(1, len(move))), ahead / (2 * behind))
    zero = np.zeros_like(first)
    return np.stack([keep, move, zero, zero + 1, first], 1)

  return Sampler(_step, coefficients, 1)


def _step(denoise, *, keys, z, past, row, logsnr_t, logsnr_s, prior):
  """The step of the module, for m = p z + q x̂."""
  del keys, logsnr_s, prior
  keep, move, p, q, *differences = (process.over_video(c) for c in row.T)
  x_hat = denoise(z, logsnr_t)
  m = jnp.concatenate([(p * z + q * x_hat)[None], past])
  z_s = keep * z + move * x_hat
  for j, c in enumerate(differences[: len(past)]):
    z_s += c * (m[j] - m[j + 1])
  return z_s, x_hat, m[: len(past)]


def deis_integrals(
  starts: Levels, ends: Levels, *, order: int, variable: str, rho: float
) -> tuple[Levels, Levels]:
  """c_1/α' and c_2/α' of every step, from Newton's form of the interpolation.

  With I_k = ∫ (u − u_n)^k ds over the step, and d_1 = u_n − u_{n−1},
  d_2 = u_{n−1} − u_{n−2}, the terms of order 2 and 3 are I_1 δ_1 and
  (I_2 + d_1 I_1) δ_2, of the divided differences δ of ε̂.
  """
  u, u_next = _variable(starts, variable, rho), _variable(ends, variable, rho)
  one, two = (moment(u, u_next, k, variable, rho) for k in (1, 2))
  known = np.append(np.zeros(min(1, len(u)), bool), _usable(starts, ends))
  known &= order > 1
  known_two = known & np.append(np.zeros(min(1, len(u)), bool), known[:-1])
  known_two &= order > 2
  d_1 = np.where(known, u - np.roll(u, 1), np.inf)
  d_2 = np.where(known_two, np.roll(u, 1) - np.roll(u, 2), np.inf)
  bent = np.where(known_two, two + np.where(known, d_1, 0) * one, 0)
  first = one / d_1 + bent / (d_1 * (d_1 + d_2))
  return first, -bent / (d_2 * (d_1 + d_2))


def moment(u: Levels, u_next: Levels, k: int, variable: str, rho: float):
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


def _usable(starts: Levels, ends: Levels):
  """Whether each step but the first can use the estimate before it.

  It cannot where churn sets in: the step starts noisier than the one before
  ended, perhaps as noisy as that one started, from which nothing follows.
  """
  raised = np.append(0.0, ends[:-1] - starts[1:])
  return raised[1:] <= raised[:-1] + 1e-9
