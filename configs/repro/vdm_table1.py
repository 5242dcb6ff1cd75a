"""Videos of nothing: Ho22 Table 1 in miniature.

    python -m vdm_jax.main --mode=table --table=vdm1

One unconditional model, three seeds of its samples. Hardware: two CPU cores.

    python -m vdm_jax.main --mode=table --table=vdm1 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, 'vdm_table4.py')
  c.name = 'vdm1'
  c.model.labels = False
  c.train.steps = 1200
  c.reproduce.table = 'vdm1'
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../ucf101.py')
  c.name = 'vdm1_paper'
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'vdm1'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  return c.lock()
