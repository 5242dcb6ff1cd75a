"""DEIS and DPM-Solver++: coefficients, and the formulas of the papers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from tests.diffusion.gaussian_video import host, keys
from vdm_jax.diffusion import multistep, samplers
from vdm_jax.diffusion.churn import churned
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.diffusion.process import alpha_sigma, over_video

RHO = 5.0
U = {
  'log': np.log,
  'sigma': lambda s: s,
  'karras': lambda s: s ** (1 / RHO),
}
# Levels s of uneven steps, large and small.
S = np.array([80.0, 61.0, 60.9, 20.0, 3.0, 1.1, 0.4, 0.38, 0.05, 0.01])


def lagrange(nodes, j, u):
  others = [i for i in range(len(nodes)) if i != j]
  return np.prod([(u - nodes[i]) / (nodes[j] - nodes[i]) for i in others])


def weights(order, variable, starts, ends):
  return multistep.deis_weights(
    starts, ends, order=order, variable=variable, rho=RHO
  )


def by_quadrature(order, variable, s, n):
  """C_j = ∫ ℓ_j(u(τ)) dτ over the step n, of ε̂_n, ε̂_{n−1}, …"""
  u, used = U[variable], min(order, n + 1)
  nodes = [u(s[n - j]) for j in range(used)]
  return [
    integrate.quad(
      lambda tau, j=j: lagrange(nodes, j, u(tau)),
      s[n],
      s[n + 1],
      epsabs=0,
      epsrel=1e-13,
    )[0]
    for j in range(used)
  ]


@pytest.mark.parametrize('variable', multistep.VARIABLES)
@pytest.mark.parametrize('order', [1, 2, 3])
def test_coefficients_are_the_integrals(order, variable):
  logsnr = -2 * np.log(S)
  found = weights(order, variable, logsnr[:-1], logsnr[1:])
  for n in range(len(S) - 1):
    first, second = ([w[n] for w in found] + [0, 0])[:2]
    # Of the differences of ε̂ to coefficients of ε̂ itself.
    got = [S[n + 1] - S[n] + first, second - first, -second]
    exact = by_quadrature(order, variable, S, n)
    scale = np.abs(exact).max()
    padded = exact + [0.0] * (3 - len(exact))
    np.testing.assert_allclose(got, padded, rtol=1e-12, atol=1e-12 * scale)
  if order > 1:  # negative control: the variable is seen
    other = {'log': 'sigma', 'sigma': 'karras', 'karras': 'log'}[variable]
    different = weights(order, other, logsnr[:-1], logsnr[1:])[0]
    assert np.abs(different[1:] / found[0][1:] - 1).max() > 0.01


def closed_form(k, variable, s, s_next):
  """The moments as differences, which cancel for small steps."""
  h, log = s_next - s, np.log(s_next / s)
  if variable == 'sigma':
    return h ** (k + 1) / (k + 1)
  if variable == 'log':
    one = s_next * log - h
    return {0: h, 1: one, 2: s_next * log**2 - 2 * one}[k]
  u, v = s ** (1 / RHO), s_next ** (1 / RHO)
  return sum(
    {0: [1], 1: [-1, 1], 2: [1, -2, 1]}[k][m]
    * u ** (k - m)
    * RHO
    * (v ** (RHO + m) - u ** (RHO + m))
    / (RHO + m)
    for m in range(k + 1)
  )


@pytest.mark.parametrize('variable', multistep.VARIABLES)
def test_moments_are_the_closed_forms_and_keep_their_digits(variable):
  def moment(k, s, s_next):
    u = U[variable](np.array([s, s_next]))
    return multistep.moment(u[:1], u[1:], k, variable, RHO)[0]

  for (s, s_next), k in itertools.product(
    [(2.2e4, 40.0), (80.0, 0.002), (5.0, 2.0), (1e-3, 4e-5)], (0, 1, 2)
  ):
    exact = closed_form(k, variable, s, s_next)
    np.testing.assert_allclose(moment(k, s, s_next), exact, rtol=1e-11)
  # I_2 of a small step is (du)² ds / 3, to first order in the step.
  s, small = 0.7, 1e-6
  du = U[variable](s - small) - U[variable](s)
  np.testing.assert_allclose(
    moment(2, s, s - small), -(du**2) * small / 3, rtol=2e-5
  )
  if variable != 'sigma':  # the closed form has no digit left
    cancelled = closed_form(2, variable, s, s - small)
    assert abs(cancelled / (-(du**2) * small / 3) - 1) > 0.01


def denoise(z, logsnr):
  """A curved one, so that no order hides another."""
  alpha, sigma = alpha_sigma(over_video(logsnr))
  return jnp.tanh(1.5 * alpha * z + 0.2 * sigma)


def reached(sampler, z, logsnrs):
  return samplers.advance(
    denoise,
    sampler,
    latent=samplers.Latent(z, jnp.zeros((sampler.memory, *z.shape))),
    keys=keys(len(z)),
    grid=sampler.grid(np.append(logsnrs, np.inf)),
    prior=NoisePrior(),
    begin=0,
    end=len(logsnrs) - 1,
  ).z


def in_y(z, s, step):
  """A loop in y = z/α as papers write it: step(n, y, ε̂s, x̂s) -> y."""
  alphas, _ = host(-2 * np.log(s))
  y, eps, x = np.asarray(z) / alphas[0], [], []
  for n in range(len(s) - 1):
    level = jnp.full(len(z), -2 * np.log(s[n]))
    x.insert(0, np.asarray(denoise(jnp.asarray(alphas[n] * y), level)))
    eps.insert(0, (y - x[0]) / s[n])
    y = step(n, y, eps, x)
  return alphas[-1] * y


@pytest.mark.parametrize('variable', multistep.VARIABLES)
@pytest.mark.parametrize('order', [1, 2, 3])
def test_deis_sums_earlier_estimates_of_the_noise(x64, order, variable):
  """y' = y + Σ_j C_j ε̂_{n−j}, which is written as differences of x̂."""
  z = jax.random.normal(jax.random.key(0), (2, 1, 2, 2, 1))

  def step(n, y, eps, x):
    c = by_quadrature(order, variable, S, n)
    return y + sum(a * b for a, b in zip(c, eps, strict=False))

  exact = in_y(z, S, step)
  got = reached(multistep.deis(order, variable, RHO), z, -2 * np.log(S))
  np.testing.assert_allclose(got, exact, rtol=1e-9)
  for other in {1, 2, 3} - {order}:
    wrong = reached(multistep.deis(other, variable, RHO), z, -2 * np.log(S))
    assert np.abs(wrong - exact).max() > 1e-3


def test_dpmpp_extrapolates_the_estimate_of_the_data(x64):
  z = jax.random.normal(jax.random.key(0), (2, 1, 2, 2, 1))

  def step(n, y, eps, x, r=0.5):
    h = np.log(S[n] / S[n + 1])
    before = np.log(S[n - 1] / S[n]) if n else np.inf
    ahead = x[0] + (r * h / before * (x[0] - x[1]) if n else 0)
    return S[n + 1] / S[n] * y - np.expm1(-h) * ahead

  got = reached(multistep.dpmpp_2m(), z, -2 * np.log(S))
  np.testing.assert_allclose(got, in_y(z, S, step), rtol=1e-9)
  wrong = in_y(z, S, lambda *how: step(*how, r=0.4))
  assert np.abs(wrong - got).max() > 1e-3


@pytest.mark.parametrize('variable', multistep.VARIABLES)
def test_order_one_is_ddim(variable):
  z = jax.random.normal(jax.random.key(0), (2, 1, 2, 2, 1))
  logsnrs = np.linspace(-20, 20, 12)
  got = reached(multistep.deis(1, variable), z, logsnrs)
  np.testing.assert_allclose(
    got, reached(samplers.ddim(), z, logsnrs), atol=1e-5
  )
  # The first step of the others is DDIM's too.
  for sampler in (multistep.deis(3, variable), multistep.dpmpp_2m()):
    np.testing.assert_allclose(
      reached(sampler, z, logsnrs[:2]),
      reached(samplers.ddim(), z, logsnrs[:2]),
      atol=1e-5,
    )


def test_arguments_out_of_range_are_refused():
  with pytest.raises(ValueError, match='orders 1, 2 and 3, not 4'):
    multistep.deis(4)
  with pytest.raises(ValueError, match="unknown variable 't'"):
    multistep.deis(3, 't')
  with pytest.raises(ValueError, match='of order 3 has no churn'):
    churned(multistep.deis(3), 10.0)
  churned(multistep.deis(2), 10.0)
