"""Longer videos by two methods: Ho22 Table 6 in miniature.

    python -m vdm_jax.main --mode=reproduce \
      --config=configs/repro/vdm_table6.py --workdir=runs/vdm_table6

One unconditional model, whose videos are extended from 6 to 24 frames by
reconstruction guidance and by the replacement method, in both of its forms, at
the same number of network calls. Hardware: two CPU cores.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'vdm_table6'
  c.data.source = 'shapes'
  c.data.frames = 6
  c.data.size = 16

  c.model.channels = 32
  c.model.multipliers = (1, 2, 2)
  c.model.blocks = 1
  c.model.attention_resolutions = (8,)
  c.model.frame_positions = True
  c.model.head_dim = 32
  c.model.emb_dim = 128
  c.model.emb_layers = 2
  c.model.groups = 8
  c.model.dtype = 'float32'

  c.diffusion.prediction = 'v'
  c.diffusion.weight = 'v'
  c.diffusion.shift = -4.0

  c.optim.learning_rate = 1e-3
  c.optim.warmup = 50
  c.optim.ema = 0.995

  c.train.batch_size = 16
  c.train.steps = 3600
  c.train.log_every = 20
  c.train.checkpoint_every = 250
  c.train.sample_every = 0

  c.sample.count = 16
  c.sample.batch_size = 16
  c.sample.steps = 32
  c.sample.frames = 24
  c.sample.overlap = 3

  c.mesh.cpu_devices = 2

  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm_table6'
  c.reproduce.seeds = (0, 1, 2)
  return config_lib.variant(
    c,
    variant,
    tiny=config_lib.TINY
    | {'reproduce.seeds': (0, 1), 'sample.frames': 8, 'sample.overlap': 2},
  )
