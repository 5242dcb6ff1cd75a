"""PYoCo in miniature, first stage: the moving shapes as single frames.

    python -m vdm_jax.main --config=configs/shapes_image.py

Hardware: two CPU cores. `configs/shapes_pyoco.py` starts from this run. The
network is that of `configs/shapes.py` without its temporal attention. All
values are ours but for the kind of the diffusion.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'shapes_image'
  c.data.source = 'shapes'
  c.data.frames = 1
  c.data.size = 16

  c.model.temporal = False
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

  c.diffusion.prediction = 'edm'
  c.diffusion.weight = 'edm'
  c.diffusion.schedule = 'lognormal'
  c.diffusion.p_mean = 0.5  # theirs: −1.2; here more is decided at high noise
  c.diffusion.p_std = 1.5  # theirs: 1.2

  c.optim.learning_rate = 2e-3
  c.optim.warmup = 50
  c.optim.ema = 0.995

  c.train.drop.label = 0.0  # every clip has its class; no guidance
  c.train.batch_size = 64
  c.train.steps = 1500
  c.train.log_every = 20
  c.train.checkpoint_every = 250
  c.train.sample_every = 500
  c.train.sample_first = 50
  c.train.sample_count = 16
  c.train.sample_steps = 25

  c.sample.count = 64
  c.sample.batch_size = 64
  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'
  c.sample.steps = 25
  c.sample.overlap = 0
  c.mesh.cpu_devices = 2
  return config_lib.variant(c, variant, tiny=config_lib.TINY)
