"""The optimizer: Adam with warm-up, clipping and decoupled weight decay."""

import re

import jax
import optax

from vdm_jax import sharding

# Decay pulls on kernels only: biases, norm scales and position tables set
# offsets and gains, for which zero is not a better default.
DECAYED = re.compile(r'/kernel$')


def make_optimizer(
  *,
  learning_rate: float,
  warmup: int,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip: float,
) -> optax.GradientTransformation:
  """Adam as in VDM's appendix, with what it leaves unsaid made explicit.

  Args:
    learning_rate: the rate after warm-up; it stays constant from there on.
    warmup: steps of linear warm-up from zero.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled decay of kernels, times the learning rate.
    clip: the largest global norm of a gradient; 0 turns clipping off.

  Returns:
    A transformation whose state has the same tree for any values above.
  """
  rate = optax.linear_schedule(
    learning_rate / max(warmup, 1), learning_rate, max(warmup - 1, 1)
  )
  return optax.chain(
    optax.clip_by_global_norm(clip if clip > 0 else float('inf')),
    optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    optax.add_decayed_weights(weight_decay, mask=decay_mask),
    optax.scale_by_learning_rate(rate),
  )


def decay_mask(params):
  """True for the leaves that weight decay applies to."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: bool(DECAYED.search('/' + sharding.path_name(path))), params
  )
