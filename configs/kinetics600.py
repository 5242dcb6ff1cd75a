"""VDM's Kinetics-600 model: 1.17 B parameters, 16×64×64 (Ho22 §4.2).

    python -m vdm_jax.main --config=configs/kinetics600.py \
      --workdir=runs/kinetics600 --config.data.path=VIDEOS_FOLDER \
      --config.data.list=train.csv

Unconditional. Hardware in the paper: 256 TPU-v4 chips. Not trained by us at
this size.

`data.list` is the official list of the training videos, label,youtube_id,
time_start,time_end,split; `data.path` holds what of them a downloader found, as
{youtube_id}_{time_start:06d}_{time_end:06d}.mp4, in sub-folders or not. The
first start decodes each video once, to find damaged ones: 0.35 s a video on one
core, for 340×256 pixels and 300 frames. The paper is given 5 frames and
predicts 11, by reconstruction guidance:

    python -m vdm_jax.main --mode=sample --workdir=runs/kinetics600 \
      --config.sample.video=FILE --config.sample.known=0:5
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'kinetics600'
  c.data.source = 'kinetics600'
  c.data.frames = 16
  c.data.size = 64
  c.data.stride = 1
  c.data.resize = 'crop'  # ours
  c.data.short = 'skip'  # ours
  c.data.images = 8
  c.data.workers = 32  # ours

  c.model.channels = 256
  c.model.multipliers = (1, 2, 4, 8)
  c.model.blocks = 2
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
  c.optim.b2 = 0.99
  c.optim.weight_decay = 0.0
  c.optim.ema = 0.9999

  c.train.batch_size = 256
  c.train.steps = 220_000

  c.mesh.fsdp = 1  # plan for 8 or more where a chip has less than 40 GB; ours

  c.sample.sampler = 'predictor_corrector'
  c.sample.steps = 128
  c.sample.gamma = 0.0
  c.sample.delta = 0.1
  c.sample.conditioning = 'reconstruction'
  c.sample.guidance_weight = 9.0
  c.sample.weight_schedule = 'constant'
  c.sample.frame_rate = 25.0  # ours
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'data.images': 2}
  )
