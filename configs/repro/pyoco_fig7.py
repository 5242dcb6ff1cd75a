"""How strongly is the noise correlated? Ge23 Fig. 7 in miniature.

    python -m vdm_jax.main --mode=table --table=pyoco_fig7

Models of video that start from one of single frames, with mixed and progressive
noise of seven α; beside them independent noise, and new parameters. All of it
with three seeds, 48 models of video. Needs the extra `plots`. Hardware: two CPU
cores. `--scale=paper` as for pyoco5; theirs are three
trainings, too.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.beside(__file__, 'pyoco_table5.py', variant)
  c.name = f'pyoco_fig7_{variant}'.rstrip('_')
  c.reproduce.table = 'pyoco_fig7'
  if variant == 'paper':
    c.reproduce.training_seeds = (0, 1, 2)
  return c.lock()
