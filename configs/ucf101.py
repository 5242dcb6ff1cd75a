"""VDM's UCF-101 model: 1.17 B parameters, 16×64×64, unconditional (Ho22 §4.1).

    python -m vdm_jax.main --config=configs/ucf101.py --workdir=runs/ucf101 \
      --config.data.path=TFDS_FOLDER --config.data.videos=UCF101_FOLDER

Hardware in the paper: 128 TPU-v4 chips. Not trained by us at this size.

The data set is prepared once, at the model's size, in `data.path` by TFDS'
own builder from the official files in `data.videos`; all 13,320 videos, train
and test, are used, as in the paper.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'ucf101'
  c.data.source = 'ucf101'
  c.data.frames = 16
  c.data.size = 64
  c.data.stride = 1
  c.data.resize = 'squash'  # as TFDS stores the frames
  c.data.images = 8
  c.data.workers = 16

  c.model.channels = 256
  c.model.multipliers = (1, 2, 4, 8)
  c.model.blocks = 2
  c.model.attention_resolutions = (8, 16, 32)
  c.model.head_dim = 64
  c.model.emb_dim = 1024
  c.model.emb_layers = 4
  c.model.dropout = 0.1
  c.model.remat = 'block'  # ours

  c.diffusion.prediction = 'eps'
  c.diffusion.weight = 'eps'
  c.diffusion.logsnr_min = -20.0
  c.diffusion.logsnr_max = 20.0

  c.optim.learning_rate = 3e-4
  c.optim.b1 = 0.9
  c.optim.b2 = 0.99
  c.optim.weight_decay = 0.0
  c.optim.ema = 0.9999

  c.train.batch_size = 128
  c.train.steps = 60_000

  c.mesh.fsdp = 1  # plan for 8 or more where a chip has less than 40 GB; ours

  c.sample.sampler = 'ancestral'
  c.sample.steps = 256
  c.sample.gamma = 0.1
  c.sample.frame_rate = 25.0
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'data.images': 2}
  )
