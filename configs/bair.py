"""VDM's BAIR model: 148 M parameters, 16×64×64, unconditional (Ho22 §4.2).

    python -m vdm_jax.main --config=configs/bair.py --workdir=runs/bair \
      --config.data.path=TFDS_FOLDER --config.data.videos=BAIR_FOLDER

Hardware in the paper: 128 TPU-v4 chips. Not trained by us at this size.

The data set is prepared once in `data.path` by TFDS' own builder from what is
in `data.videos`: the official archive bair_robot_pushing_dataset_v0.tar or its
folder softmotion30_44k. Nothing is downloaded. The training split alone is
used. The paper is given 1 frame and predicts 15, by reconstruction guidance:

    python -m vdm_jax.main --mode=sample --workdir=runs/bair \
      --config.sample.video=FILE --config.sample.known=0:1
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'bair'
  c.data.source = 'bair'
  c.data.frames = 16
  c.data.size = 64
  c.data.stride = 1
  c.data.resize = 'squash'  # of frames that are square as they are
  c.data.flip = True
  c.data.images = 8
  c.data.workers = 16  # ours

  c.model.channels = 128
  c.model.multipliers = (1, 2, 3, 4)
  c.model.blocks = 3
  c.model.attention_resolutions = (8, 16, 32)
  c.model.head_dim = 64
  c.model.emb_dim = 1024
  c.model.emb_layers = 2
  c.model.dropout = 0.1
  c.model.remat = 'block'  # ours

  c.diffusion.prediction = 'v'
  c.diffusion.weight = 'v'  # the paper does not name it; ours
  c.diffusion.logsnr_min = -20.0
  c.diffusion.logsnr_max = 20.0

  c.optim.learning_rate = 2e-4
  c.optim.b1 = 0.9
  c.optim.b2 = 0.999
  c.optim.weight_decay = 0.01  # decoupled, of kernels alone: ours
  c.optim.ema = 0.999

  c.train.batch_size = 128
  c.train.steps = 660_000

  c.sample.sampler = 'predictor_corrector'
  c.sample.steps = 256
  c.sample.gamma = 0.0
  c.sample.delta = 0.1
  c.sample.conditioning = 'reconstruction'
  c.sample.guidance_weight = 50.0
  c.sample.weight_schedule = 'constant'
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'data.images': 2}
  )
