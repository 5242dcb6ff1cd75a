"""The network of `shapes_fd`, which compares clips of moving shapes.

    python -m vdm_jax.main --mode=features --config=configs/shapes_features.py \
      --workdir=runs/shapes_features

Leaves `shapes_features.safetensors` in the workdir, and prints what distances
clips have that are wrong in a known way. Hardware: two CPU cores, 3 minutes,
and a minute for the distances. One network serves all data sets of shapes,
whatever their size and number of frames. All values are ours.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'shapes_features'
  c.data.source = 'shapes'
  c.data.frames = 8
  c.data.size = 16
  c.model.attention_resolutions = (8,)  # no diffusion model is made
  c.optim.learning_rate = 3e-3
  c.optim.warmup = 50
  c.train.batch_size = 64
  c.train.steps = 3000
  c.train.log_every = 20
  return config_lib.variant(c, variant, tiny=config_lib.TINY)
