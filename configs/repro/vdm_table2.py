"""What comes after one frame? Ho22 Table 2 in miniature.

    python -m vdm_jax.main --mode=table --table=vdm2

The model of vdm1, a run of which can be copied to `runs/vdm2/models/model`, is
given the first frame of 16 clips, each four times, and predicts 5 by
reconstruction guidance. Ancestral sampling and the predictor-corrector call the
network as often. Hardware: two CPU cores.

    python -m vdm_jax.main --mode=table --table=vdm2 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, 'vdm_table1.py')
  c.name = 'vdm2'
  c.sample.gamma = 0.0
  c.sample.delta = 0.1
  c.sample.known = '0:1'
  c.reproduce.table = 'vdm2'
  c.reproduce.clips = 16  # that are given, in turn
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../bair.py')
  c.name = 'vdm2_paper'
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm2'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  return c.lock()
