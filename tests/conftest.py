"""Strictness for every test: eight CPU devices, no silent broadcasting."""

import jax
import pytest

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)


@pytest.fixture
def x64():
  """Double precision for the length of one test."""
  with jax.enable_x64(True):
    yield
