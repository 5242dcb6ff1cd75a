"""Strictness for every test: eight CPU devices, no silent broadcasting."""

import gc
import os
import pathlib

import pytest

# Compiling is most of what the tests do. Programs are kept between runs, and
# are not optimised; both hold for the processes that tests start.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'jax'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax

from tests.bucket import Bucket

# JAX keeps what it has traced, and Python looks through all of it for garbage
# again and again: a tenth of the time by its defaults.
gc.set_threshold(50_000, 20, 50)

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)


@pytest.fixture
def optimised():
  """Programs compiled as users compile them, where the last bit matters."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture
def x64():
  """Double precision for the length of one test."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def bucket(tmp_path):
  """A disk of which another machine sees what was closed."""
  made = Bucket(tmp_path)
  yield made
  made.close()
