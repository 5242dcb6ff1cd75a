"""A correlated noise prior that stands in for those to come."""

import numpy as np
import pytest

from vdm_jax.diffusion import noise
from vdm_jax.diffusion.noise import NoisePrior

RHO = 0.8


@pytest.fixture
def ar1(monkeypatch):
  """A prior with Σ_ij = ρ^|i−j|."""

  def covariance(prior, frames):
    i = np.arange(frames)
    return RHO ** np.abs(i[:, None] - i)

  monkeypatch.setitem(noise._COVARIANCES, 'ar1', covariance)
  return NoisePrior('ar1')
