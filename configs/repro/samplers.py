"""How few steps will do? Samplers at 25 calls of the network, and at 256.

    python -m vdm_jax.main --mode=table --table=samplers

The model of `configs/shapes_text.py`, sampled at the guidance scale 2: a run of
that config can be copied to `runs/samplers/models/model`. A VDM model, sampled
with PYoCo's samplers. Hardware: two CPU cores. Result for one seed of 64
(on_path, success, caption): ancestral 256 100/92/83 %, ancestral 25 100/94/86
%, DEIS with a little churn 97/92/86 %, and 89/80/81 to 89/81/86 % for all the
solvers of the flow, which agree with each other.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.beside(__file__, 'vdm_table5.py')
  c.name = 'samplers'
  c.reproduce.table = 'samplers'
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )
