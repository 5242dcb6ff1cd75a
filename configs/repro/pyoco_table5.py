"""Images first, and correlated noise: Ge23 Table 5 in miniature.

    python -m vdm_jax.main --mode=table --table=pyoco5

A model of single frames, then four models of video of the same size and number
of steps: from new parameters; from the model of images with independent, mixed
(α = 1) and progressive (α = 2) noise. All of it with three seeds. Hardware: two
CPU cores, 50 minutes. 64 clips of each seed, in % (± between seeds):

                             identity      on_path       success
    from scratch            39.9 ± 2.2    2.6 ± 3.3    1.0 ± 1.8
    fine-tuned              97.7 ± 1.3   46.4 ± 3.3    5.7 ± 2.4
    fine-tuned, mixed       97.5 ± 0.8   32.8 ± 4.1    3.6 ± 3.3
    fine-tuned, progressive 97.0 ± 1.6   31.2 ± 5.4   10.9 ± 1.6

Fine-tuning beats scratch by far, as in the paper. Of the noises, progressive
gives the most clips that move as the data do (`success`), independent the most
on a path, most of which stand still: the paper's clear order does not show.

    python -m vdm_jax.main --mode=table --table=pyoco5 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, '../shapes_image.py')
  c.name = 'pyoco5'
  c.data.frames = 6
  c.model.temporal = True
  c.train.batch_size = 8
  c.train.steps = 500
  c.train.sample_every = 0
  c.train.sample_first = 0
  c.sample.batch_size = 32
  c.sample.overlap = 8
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'pyoco5'
  c.reproduce.training_seeds = (0, 1, 2)
  c.reproduce.seeds = (0,)
  c.reproduce.features = ''  # weights of --mode=features, for shapes_fd
  c.reproduce.image_steps = 1000  # of the models of single frames
  c.reproduce.image_batch = 48
  return config_lib.variant(c, variant, tiny=config_lib.TINY | TINY)


def paper():
  """At the paper's scale: its smallest network (which one is not said)."""
  c = config_lib.beside(__file__, '../ucf101_pyoco.py', 'small')
  c.name = 'pyoco5_paper'
  c.init.workdir = ''  # of the table's own model of images
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'pyoco5'
  c.reproduce.scale = 'paper'
  c.reproduce.training_seeds = (0,)
  c.reproduce.seeds = (0,)
  c.reproduce.images = config_lib.beside(
    __file__, '../ucf101_image.py', 'small'
  )
  return c.lock()


TINY = {
  'reproduce.training_seeds': (0, 1),
  'reproduce.image_steps': 2,
  'reproduce.image_batch': 4,
}
