"""Two sizes of network: Ge23 Table 4 in miniature.

    python -m vdm_jax.main --mode=table --table=pyoco4

Models of video with progressive noise (α = 2) that start from models of single
frames, with 32 and 48 channels in place of 112 and 253 M parameters. With three
seeds. Hardware: two CPU cores.

    python -m vdm_jax.main --mode=table --table=pyoco4 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.beside(__file__, 'pyoco_table5.py', variant)
  c.name = f'pyoco4_{variant}'.rstrip('_')
  c.diffusion.prior = 'progressive'
  c.diffusion.prior_alpha = 2.0
  c.reproduce.table = 'pyoco4'
  return c.lock()
