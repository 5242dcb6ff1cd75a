"""How large is the network? Ge23 Fig. 8 in miniature.

    python -m vdm_jax.main --mode=table --table=pyoco_fig8

Three widths in place of the 69, 112 and 253 M parameters: models of video from
new parameters, and from a model of single frames with mixed and progressive
noise. All of it with three seeds. Needs the extra `plots`. Hardware: two CPU
cores. `--scale=paper` as for pyoco5.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.beside(__file__, 'pyoco_table5.py', variant)
  c.name = f'pyoco_fig8_{variant}'.rstrip('_')
  c.reproduce.table = 'pyoco_fig8'
  return c.lock()
