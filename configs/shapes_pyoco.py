"""PYoCo in miniature, second stage: from moving shapes as frames to video.

    python -m vdm_jax.main --config=configs/shapes_image.py
    python -m vdm_jax.main --config=configs/shapes_pyoco.py

Hardware: two CPU cores. It starts from `runs/shapes_image`; name another folder
with `--config.init.workdir=RUN`, and train from scratch with
`--config.init.workdir=`. The network is that of `configs/shapes.py`; temporal
attention begins as the identity, noise is progressive with α = 2, and two
images beside each video bypass the temporal layers. All values are ours but for
the kind of the diffusion and α.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'shapes_pyoco'
  c.data.source = 'shapes'
  c.data.frames = 6
  c.data.size = 16
  c.data.images = 2

  c.model.temporal = True
  c.model.channels = 32
  c.model.multipliers = (1, 2)
  c.model.blocks = 1
  c.model.attention_resolutions = (8,)
  c.model.image_mode = 'bypass'
  c.model.labels = True
  c.model.head_dim = 32
  c.model.emb_dim = 128
  c.model.emb_layers = 2
  c.model.groups = 8
  c.model.dtype = 'float32'

  c.diffusion.prediction = 'edm'
  c.diffusion.weight = 'edm'
  c.diffusion.schedule = 'lognormal'
  c.diffusion.p_mean = 0.5  # theirs: −1.2; here more is decided at high noise
  c.diffusion.p_std = 1.5  # theirs: 1.2
  c.diffusion.prior = 'progressive'
  c.diffusion.prior_alpha = 2.0

  c.init.workdir = '_'.join(filter(None, ('runs/shapes_image', variant)))

  c.optim.learning_rate = 1e-3
  c.optim.warmup = 50
  c.optim.ema = 0.995

  c.train.drop.label = 0.0  # every clip has its class; no guidance
  c.train.batch_size = 16
  c.train.steps = 1500
  c.train.log_every = 20
  c.train.checkpoint_every = 250
  c.train.sample_every = 250
  c.train.sample_first = 50
  c.train.sample_count = 16
  c.train.sample_steps = 25

  c.sample.count = 64
  c.sample.batch_size = 16
  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'
  c.sample.steps = 25
  c.sample.overlap = 2
  c.mesh.cpu_devices = 2
  tiny = config_lib.TINY | {'data.images': 2}
  return config_lib.variant(c, variant, tiny=tiny)
