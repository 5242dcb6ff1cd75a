"""A folder of videos of your own.

    python -m vdm_jax.main --config=configs/folder.py \
      --config.data.path=FOLDER --workdir=runs/folder

Any tree of mp4, avi, mkv, webm, mov or gif files. The size is one for two CPU
cores: 0.77 steps a second where nothing else runs. Of twelve short clips, after
1,600 steps (73 minutes of CPU time): loss 0.41 at the start, 0.11; scenes that
stay the same over the frames, blurred and still grainy; after 400 steps, mostly
noise. On an accelerator, raise `model.channels` to 128 and `data.size` to 64.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'folder'
  c.data.source = 'folder'
  c.data.frames = 8
  c.data.size = 32
  c.data.stride = 2

  c.model.channels = 32
  c.model.multipliers = (1, 2, 4)
  c.model.blocks = 1
  c.model.attention_resolutions = (8,)
  c.model.head_dim = 32
  c.model.emb_dim = 128
  c.model.emb_layers = 2
  c.model.groups = 8
  c.model.dtype = 'float32'

  c.diffusion.prediction = 'v'
  c.diffusion.weight = 'v'
  c.diffusion.shift = -3.0  # more time for what a picture is as a whole

  c.optim.learning_rate = 1e-3
  c.optim.warmup = 50
  c.optim.ema = 0.99

  c.train.batch_size = 8
  c.train.steps = 2000
  c.train.log_every = 20
  c.train.checkpoint_every = 100
  c.train.sample_every = 400
  c.train.sample_first = 200
  c.train.sample_count = 8
  c.train.sample_steps = 64

  c.sample.count = 16
  c.sample.batch_size = 8
  c.sample.steps = 128
  c.sample.gamma = 0.3
  c.mesh.cpu_devices = 2
  return config_lib.variant(c, variant, tiny=config_lib.TINY)
