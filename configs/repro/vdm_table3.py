"""What comes after two frames? Ho22 Table 3 in miniature.

    python -m vdm_jax.main --mode=table --table=vdm3

The model of vdm1, a run of which can be copied to `runs/vdm3/models/model`, is
given two frames of 64 clips that were not trained on and predicts 4, in half as
many steps as in vdm2. Hardware: two CPU cores.

    python -m vdm_jax.main --mode=table --table=vdm3 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, 'vdm_table1.py')
  c.name = 'vdm3'
  c.sample.gamma = 0.0
  c.sample.delta = 0.1
  c.sample.known = '0:2'
  c.reproduce.table = 'vdm3'
  c.reproduce.clips = 0  # that are given; 0: as many as videos
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../kinetics600.py')
  c.name = 'vdm3_paper'
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm3'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  return c.lock()
