"""Single frames of a folder of videos of your own: PYoCo's first stage.

    python -m vdm_jax.main --config=configs/folder_image.py \
      --config.data.path=FOLDER --workdir=runs/folder_image
    python -m vdm_jax.main --mode=analyze --workdir=runs/folder_image

The second command measures how the noises of a video's frames correlate
(Ge23 Table 1 and Fig. 2). The size is one for two CPU cores. All values but
those of the diffusion are ours.

Of twelve short clips (the model was trained on small copies of them, for large
ones are slow to decode), after 750 steps: noises of 16 frames in a row are
alike by 0.64 ± 0.24, those of different videos by −0.005 ± 0.005; to noise and
back costs 0.1 %. The progressive prior fits best, with α = 2.3. At 32 pixels,
200 steps were far too few: what the model makes of frames is no noise yet.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'folder_image'
  c.data.source = 'folder'
  c.data.frames = 1
  c.data.size = 16

  c.model.temporal = False
  c.model.channels = 32
  c.model.multipliers = (1, 2)
  c.model.blocks = 1
  c.model.attention_resolutions = (8,)
  c.model.head_dim = 32
  c.model.emb_dim = 128
  c.model.emb_layers = 2
  c.model.groups = 8
  c.model.dtype = 'float32'

  c.diffusion.prediction = 'edm'
  c.diffusion.weight = 'edm'
  c.diffusion.schedule = 'lognormal'
  c.diffusion.p_mean = -1.2
  c.diffusion.p_std = 1.2

  c.optim.learning_rate = 2e-3
  c.optim.warmup = 50
  c.optim.b2 = 0.999
  c.optim.ema = 0.99

  c.train.batch_size = 32
  c.train.steps = 750
  c.train.log_every = 20
  c.train.checkpoint_every = 100
  c.train.sample_every = 400
  c.train.sample_first = 200
  c.train.sample_count = 16
  c.train.sample_steps = 25

  c.sample.count = 32
  c.sample.batch_size = 16
  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'
  c.sample.steps = 25
  c.sample.overlap = 0
  c.mesh.cpu_devices = 2
  return config_lib.variant(c, variant, tiny=config_lib.TINY)
