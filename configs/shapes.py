"""Moving shapes, embedded: the first thing to run.

    python -m vdm_jax.main --config=configs/shapes.py --workdir=runs/shapes

Hardware: two CPU cores. Result after 2,400 steps, 20 minutes in all: 98.4 % of
64 clips keep shape and colour within a pixel of a bouncing path, median 0.37.
The judge's other scores stand in the README. All values are ours.

`:base` and `:super` are the stages of `configs/cascade.py:shapes`: 8×16×16 at
stride 4, and 5×32×32 at stride 1.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'shapes'
  c.data.source = 'shapes'
  c.data.frames = 6
  c.data.size = 16

  c.model.channels = 32
  c.model.multipliers = (1, 2)
  c.model.blocks = 1
  c.model.attention_resolutions = (8,)
  c.model.labels = True
  c.model.head_dim = 32
  c.model.emb_dim = 128
  c.model.emb_layers = 2
  c.model.groups = 8
  c.model.dtype = 'float32'

  c.diffusion.prediction = 'v'
  c.diffusion.weight = 'v'
  c.diffusion.shift = -4.0  # where it moves is decided at high noise

  c.optim.learning_rate = 2e-3
  c.optim.warmup = 50
  c.optim.ema = 0.995

  c.train.drop.label = 0.0  # every clip has its class; no guidance
  c.train.batch_size = 16
  c.train.steps = 2400
  c.train.log_every = 20
  c.train.checkpoint_every = 250
  c.train.sample_every = 250
  c.train.sample_first = 50
  c.train.sample_count = 16
  c.train.sample_steps = 32

  c.sample.count = 64
  c.sample.batch_size = 16
  c.sample.steps = 128
  c.mesh.cpu_devices = 2
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY, base=BASE, super=SUPER
  )


BASE = {
  'data.frames': 8,
  'data.stride': 4,
  'optim.cooldown': 0.4,
  'train.steps': 1000,
  'sample.count': 16,
}
SUPER = {
  'optim.cooldown': 0.4,  # noise of the last steps is grain in every frame
  'train.steps': 1000,
  'data.frames': 5,
  'data.size': 32,
  'model.multipliers': (1, 2, 2),
  'train.batch_size': 8,
  'sample.count': 16,
}
