"""How much guidance? Ho22 Table 5 in miniature.

    python -m vdm_jax.main --mode=reproduce \
      --config=configs/repro/vdm_table5.py --workdir=runs/vdm_table5

The model of `configs/shapes_text.py`, sampled at the guidance scales 1, 2 and
5: a run of that config can be copied to `runs/vdm_table5/models/model`.
Hardware: two CPU cores. Result (3 seeds of 64 samples): the whole caption is
kept by 64.6 ± 2.4, 85.4 ± 1.8 and 93.8 ± 1.6 % of the clips; 77, 91 and 86 %
move as clips of the data do.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'vdm_table5'
  c.data.source = 'shapes'
  c.data.frames = 6
  c.data.size = 16
  c.text.kind = 'words'
  c.text.max_length = 8

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

  c.sample.count = 64
  c.sample.batch_size = 32
  c.sample.steps = 64

  c.mesh.cpu_devices = 2

  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm_table5'
  c.reproduce.seeds = (0, 1, 2)
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )
