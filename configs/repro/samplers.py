"""How few steps will do? Samplers at 25 calls of the network, and at 256.

    python -m vdm_jax.main --mode=table --table=samplers

The model of `configs/shapes_text.py`, sampled at the guidance scale 2: a run of
that config can be copied to `runs/samplers/models/model`. A VDM model, sampled
with PYoCo's samplers. Hardware: two CPU cores, 15 minutes. Three
seeds of 64 (on_path, success, caption, in %, ± between seeds):

    ancestral, 256         98.4 ± 1.6   93.2 ± 3.3   88.5 ± 5.5
    ancestral, 25          97.9 ± 2.4   92.2 ± 1.6   85.9 ± 4.7
    DEIS with churn, 25    98.4 ± 1.6   89.6 ± 3.3   82.3 ± 5.0
    DEIS, 25               90.6 ± 2.7   78.1 ± 1.6   73.4 ± 9.8
    DPM-Solver++(2M), 25   90.6 ± 2.7   78.1 ± 1.6   73.4 ± 9.8
    Heun, 25               91.1 ± 3.6   78.6 ± 0.9   72.9 ± 7.9
    DDIM, 25               91.7 ± 3.3   79.2 ± 1.8   76.6 ± 8.7

PYoCo's stochastic DEIS with 25 calls is within the spread of 256 ancestral
steps; the solvers of the flow agree with each other, and are not.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.beside(__file__, 'vdm_table5.py')
  c.name = 'samplers'
  c.reproduce.table = 'samplers'
  return config_lib.variant(
    c, variant, tiny=config_lib.TINY | {'reproduce.seeds': (0, 1)}
  )
