"""PYoCo's image model of UCF-101's frames, 64×64, the first of two stages.

    python -m vdm_jax.main --config=configs/ucf101_image.py:small \
      --config.data.path=TFDS_FOLDER --config.data.videos=UCF101_FOLDER

`:small`, `:medium` and `:large` are the networks of PYoCo's 69, 112 and 253 M
parameters: base channels, multipliers and blocks are our reconstruction from
these counts, which it meets within 0.5 % once the temporal layers are added.
`configs/ucf101_pyoco.py` of the same size starts from this run.

Known from the paper: unconditional, frames drawn at random from all 13,320
videos; the EDM preconditioning, loss and noise levels (Ge23 eq. 2); DEIS as a
sampler; FID 30.05 of the image model (Table 5, size not said). Everything else
is ours, after EDM's settings for small data. Hardware in the paper: 75 GPU-days
for both stages. Not trained by us at this size.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  variant = variant or 'small'
  c = config_lib.default()
  c.name = 'ucf101_image'
  c.data.source = 'ucf101'
  c.data.frames = 1
  c.data.size = 64
  c.data.resize = 'squash'  # as TFDS stores the frames
  c.data.workers = 16

  c.model.temporal = False
  c.model.blocks = 2
  c.model.attention_resolutions = (8, 16, 32)  # ours
  c.model.head_dim = 64  # EDM's
  c.model.emb_layers = 2  # ours
  c.model.dropout = 0.1  # EDM's
  c.model.resample = 'residual'  # EDM's

  c.diffusion.prediction = 'edm'
  c.diffusion.weight = 'edm'
  c.diffusion.schedule = 'lognormal'
  c.diffusion.p_mean = -1.2
  c.diffusion.p_std = 1.2

  c.optim.learning_rate = 2e-4  # ours
  c.optim.warmup = 5000  # ours
  c.optim.b1 = 0.9  # ours
  c.optim.b2 = 0.999  # ours
  c.optim.ema = 0.9997  # ours

  c.train.batch_size = 256  # ours
  c.train.steps = 400_000  # ours

  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'  # from 80 to 0.002 with ρ = 7: EDM's; ours
  c.sample.steps = 25  # ours
  c.sample.overlap = 0
  c.sample.frame_rate = 25.0
  return config_lib.variant(c, variant, **(SIZES | {'tiny': config_lib.TINY}))


SIZES = {
  'small': {
    'model.channels': 128,
    'model.multipliers': (1, 2, 2, 3),
    'model.emb_dim': 512,
  },
  'medium': {
    'model.channels': 128,
    'model.multipliers': (1, 2, 3, 4),
    'model.emb_dim': 512,
  },
  'large': {
    'model.channels': 192,
    'model.multipliers': (1, 2, 3, 4),
    'model.emb_dim': 768,
  },
}
