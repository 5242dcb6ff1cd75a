"""How few steps will do? Samplers at 25 calls of the network, and at 256.

    python -m vdm_jax.main --mode=reproduce \
      --config=configs/repro/samplers.py --workdir=runs/samplers

The model of `configs/shapes_text.py`, sampled at the guidance scale 2: a run of
that config can be copied to `runs/samplers/models/model`. A VDM model, sampled
with PYoCo's samplers. Hardware: two CPU cores. Result for one seed of 64
(on_path, success, caption): ancestral 256 100/92/83 %, ancestral 25 100/94/86
%, DEIS with a little churn 97/92/86 %, and 89/80/81 to 89/81/86 % for all the
solvers of the flow, which agree with each other.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'samplers'
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
  c.sample.guidance_scale = 2.0

  c.mesh.cpu_devices = 2

  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'samplers'
  c.reproduce.seeds = (0, 1, 2)
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )
