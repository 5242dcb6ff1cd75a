"""Longer videos by two methods: Ho22 Table 6 in miniature.

    python -m vdm_jax.main --mode=table --table=vdm6

One unconditional model, whose videos are extended from 8 to 32 frames by
reconstruction guidance and by the replacement method, in both of its forms, at
the same number of network calls. Hardware: two CPU cores, 70 minutes beside
other work.

    python -m vdm_jax.main --mode=table --table=vdm6 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, '../shapes_text.py')
  c.name = 'vdm6'
  c.text.kind = 'none'
  # Of four known frames a velocity is told better than of three.
  c.data.frames = 8
  c.optim.learning_rate = 2e-3
  c.optim.cooldown = 0.4  # what jitters is no path to go on from
  c.train.steps = 6000
  c.train.sample_every = 0
  c.train.sample_first = 0
  c.sample.guidance_scale = 1.0
  c.sample.count = 16
  c.sample.steps = 32
  c.sample.frames = 32
  c.sample.overlap = 4
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm6'
  c.reproduce.seeds = (0, 1, 2)
  c.reproduce.features = ''  # weights of --mode=features, for shapes_fd
  return config_lib.variant(
    c,
    variant,
    tiny=config_lib.TINY
    | {'reproduce.seeds': (0, 1), 'sample.frames': 8, 'sample.overlap': 2},
  )


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../text_large.py')
  c.name = 'vdm6_paper'
  c.sample.frames = 64
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm6'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  c.reproduce.encoders = ('BERT-large',)
  c.reproduce.text_dims = (1024,)
  return c.lock()
