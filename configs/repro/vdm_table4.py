"""Do images beside the video help? Ho22 Table 4 in miniature.

    python -m vdm_jax.main --mode=table --table=vdm4

Three models of the same size and number of steps, with 0, 4 and 8 independent
images behind each video. Hardware: two CPU cores, half an hour.

    python -m vdm_jax.main --mode=table --table=vdm4 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, '../shapes.py')
  c.name = 'vdm4'
  c.train.drop.label = 0.1
  c.train.steps = 500
  c.train.sample_every = 0
  c.train.sample_first = 0
  c.sample.batch_size = 32
  c.sample.steps = 64
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm4'
  c.reproduce.seeds = (0, 1, 2)
  c.reproduce.features = ''  # weights of --mode=features, for shapes_fd
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../text_small.py')
  c.name = 'vdm4_paper'
  c.sample.guidance_scale = 1.0  # ours
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm4'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  c.reproduce.encoders = ('BERT-large',)
  c.reproduce.text_dims = (1024,)
  return c.lock()
