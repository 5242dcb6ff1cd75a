"""Randomness as a function of (seed, name of the stream, step).

No key is carried in a state: whatever is random can be made again from the
seed and the step, and a new stream changes no other stream's numbers.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key


def stream(seed: int, name: str, step: int | Array = 0) -> Key[Array, '']:
  """The key of one named stream at one step.

  Args:
    seed: the seed of the run.
    name: the stream, such as 'init' or 'dropout'.
    step: the training step or the sample batch; may be traced.

  Returns:
    A typed key.
  """
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
  return jax.random.fold_in(key, step)


def per_example(
  key: Key[Array, ''], indices: Int[Array, ' b']
) -> Key[Array, ' b']:
  """One key per example, which depends on the example's index alone.

  An example's random numbers are then the same in any batch and on any mesh.
  """
  return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
