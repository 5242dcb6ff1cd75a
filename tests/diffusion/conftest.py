"""A correlated noise prior that all tests of the diffusion share."""

import pytest

from vdm_jax.diffusion.noise import NoisePrior

RHO = 0.8


@pytest.fixture
def ar1():
  """A prior with Σ_ij = ρ^|i−j|: ρ = α/√(1 + α²) = (4/3)/(5/3)."""
  return NoisePrior('progressive', 4 / 3)
