"""Conditioning vectors: log-SNR, class labels, and the MLP over their sum."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def inv_cos(logsnr: Float[Array, '*s']) -> Float[Array, '*s']:
  """u = arctan(exp(-λ/2)) / (π/2): log-SNR as time of the cosine schedule.

  The inverse of the schedule without truncation (Salimans22, the authors'
  public code), with λ clipped to [-20, 20].

  Args:
    logsnr: log-SNR λ, any shape.

  Returns:
    u in [0, 1], 0 where the data are clean.
  """
  return jnp.arctan(jnp.exp(-jnp.clip(logsnr, -20, 20) / 2)) * (2 / math.pi)


def sinusoidal(positions: Float[Array, '*s'], dim: int) -> Float[Array, '*s d']:
  """[sin(p ω_k), cos(p ω_k)], ω_k = 10000^(-k / (dim/2 - 1)).

  Args:
    positions: any shape, any range.
    dim: length of the vectors, even and at least 4.

  Raises:
    ValueError: if dim is odd or below 4.
  """
  if dim < 4 or dim % 2:
    raise ValueError(f'dim must be even and at least 4, got {dim}')
  half = dim // 2
  rates = jnp.exp(jnp.arange(half) * (-math.log(10000.0) / (half - 1)))
  angles = positions[..., None] * rates.reshape((1,) * positions.ndim + (half,))
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ClassEmbedding(nn.Module):
  """One learned vector a class; label -1, the null condition, gives c = 0.

  A label outside [-1, num_classes) gives NaN: traced code cannot raise, and a
  loss that is not finite stops the run.
  """

  num_classes: int  # labels are 0 … num_classes - 1
  dim: int  # length of the vectors

  @nn.compact
  def __call__(self, label: Int[Array, 'b t']) -> Float[Array, 'b t d']:
    """Looks the labels up, in float32."""
    init = nn.initializers.normal(1.0)  # ours
    table = self.param('embedding', init, (self.num_classes, self.dim))
    # A negative index would wrap around: send it out of range instead.
    index = jnp.where(label < 0, self.num_classes, label)
    rows = jnp.take(table, index, axis=0, mode='fill')
    return jnp.where(label[..., None] == -1, 0.0, rows)


class ConditioningMLP(nn.Module):
  """Dense(sinusoidal(1000 u)) + c, then (swish, Dense) `layers - 1` times.

  Ho22 §3: several MLP layers process the embedding before the blocks use it.
  The condition c joins after the first Dense layer, so that all conditions
  share the others, and c = 0 is no condition. It all runs in float32: a few
  vectors an example, and 1000 u has no room in bfloat16.
  """

  features: int  # of the sinusoidal embedding of the log-SNR
  dim: int  # of the result
  layers: int  # Dense layers, at least 1

  @nn.compact
  def __call__(
    self,
    logsnr: Float[Array, ' b #t'],
    conditions: tuple[Float[Array, ' b #t d'], ...] = (),
  ) -> Float[Array, ' b #t d']:
    """Embeds the log-SNR and adds the conditions.

    Args:
      logsnr: a row an example, a column a frame; one column serves all frames.
      conditions: vectors to add, `[b, 1 or t, dim]`.

    Returns:
      `[b, 1 or t, dim]` float32, one row if every argument had one.
    """
    vector = sinusoidal(1000 * inv_cos(logsnr), self.features)
    vector = nn.Dense(self.dim, name='dense_0')(vector)
    for condition in conditions:
      vector = vector + condition
    for layer in range(1, self.layers):
      vector = nn.Dense(self.dim, name=f'dense_{layer}')(jax.nn.swish(vector))
    return vector
