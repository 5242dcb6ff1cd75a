"""How much guidance? Ho22 Table 5 in miniature.

    python -m vdm_jax.main --mode=table --table=vdm5

The model of `configs/shapes_text.py`, sampled at the guidance scales 1, 2 and
5: a run of that config can be copied to `runs/vdm5/models/model`.
Hardware: two CPU cores. Result (3 seeds of 64 samples): the whole caption is
kept by 64.6 ± 2.4, 85.4 ± 1.8 and 93.8 ± 1.6 % of the clips; 77, 91 and 86 %
move as clips of the data do.

    python -m vdm_jax.main --mode=table --table=vdm5 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, '../shapes_text.py')
  c.name = 'vdm5'
  c.train.sample_every = 0
  c.train.sample_first = 0
  c.sample.batch_size = 32
  c.sample.steps = 64
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm5'
  c.reproduce.seeds = (0, 1, 2)
  c.reproduce.features = ''  # weights of --mode=features, for shapes_fd
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../text_large.py')
  c.name = 'vdm5_paper'
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm5'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  c.reproduce.encoders = ('BERT-large',)
  c.reproduce.text_dims = (1024,)
  return c.lock()
