"""Moving shapes from captions: text-to-video without a download.

    python -m vdm_jax.main --config=configs/shapes_text.py \
      --workdir=runs/shapes_text

Captions such as 'a red disc moving left'. No text encoder: a table over the
closed vocabulary is learned with the model. Hardware: two CPU cores, half an
hour where nothing else runs. Result: of 64 clips at guidance scale 2, shape and
colour are those of the caption in all, the direction in 89 %. The direction is
learned last, between the steps 2,000 and 3,000. All values are ours.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'shapes_text'
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
  c.diffusion.shift = -4.0  # the direction is decided at high noise

  c.optim.learning_rate = 1e-3
  c.optim.warmup = 50
  c.optim.ema = 0.995

  c.train.drop.text = 0.1
  c.train.batch_size = 16
  c.train.steps = 3600
  c.train.log_every = 20
  c.train.checkpoint_every = 250
  c.train.sample_every = 1000
  c.train.sample_first = 50
  c.train.sample_count = 16
  c.train.sample_steps = 32

  c.sample.count = 64
  c.sample.batch_size = 16
  c.sample.steps = 128
  c.sample.guidance_scale = 2.0
  c.sample.overlap = 3
  c.mesh.cpu_devices = 2
  return config_lib.variant(c, variant, tiny=config_lib.TINY)
