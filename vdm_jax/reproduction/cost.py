"""What training and sampling cost, counted from the programs themselves.

The network is traced on shapes alone, see `planning.forward`; with padding, as
papers count. What is computed twice to save memory (`config.model.remat`)
counts once, except in reconstruction guidance, which always does so.
"""

from vdm_jax import build, windows
from vdm_jax.conditions import Conditions
from vdm_jax.planning.forward import forward

# The gradient of a layer by its input and by its parameters costs what the
# layer costs, each.
BACKWARD = 2
# The gradient by the input alone, and the forward pass of which it is.
GUIDED = 3
PEAK = 989e12  # FLOP/s of an H100 in bfloat16, dense
UTILISATION = 0.4


def training(config, told: Conditions) -> float:
  """FLOPs of a whole training."""
  c = config.train
  once = forward(config, told, images=config.data.images).padded
  return (1 + BACKWARD) * once * c.batch_size * c.steps


def sampling(config, told: Conditions, *, frames: int = 0, known: int = 0):
  """FLOPs of sampling one video.

  Args:
    config: of the model, with its section `sample`.
    told: what the model is told of a video.
    frames: of the video; 0 for those that the model makes at once.
    known: its first frames, which are given.
  """
  c, own = config.sample, config.data.frames
  plan = windows.plan(
    frames or own,
    own,
    order=c.order,
    overlap=c.overlap,
    key_stride=c.key_stride,
    given=range(known),
  )
  once = forward(config, told, whole=True).padded
  calls = build.CALLS.get(c.sampler, 1) * c.steps
  calls *= 2 if c.guidance_scale != 1 else 1
  towards = c.conditioning == 'reconstruction'
  return sum(
    once * calls * (GUIDED if towards and window.known else 1)
    for window in plan
  )


def hours(flops: float) -> float:
  """Hours of one H100 at the utilisation that is assumed."""
  return flops / (UTILISATION * PEAK) / 3600


def short(value: float) -> str:
  """FLOPs as 12.3 EFLOP; a dash for none."""
  if not value:
    return '–'
  for unit, scale in (('ZFLOP', 1e21), ('EFLOP', 1e18), ('PFLOP', 1e15)):
    if value >= scale:
      return f'{value / scale:.3g} {unit}'
  return f'{value / 1e12:.3g} TFLOP'
