"""How alike are the noises of frames? Ge23 Table 1 in miniature.

    python -m vdm_jax.main --mode=table --table=pyoco1

Three models of single frames, each of which carries the frames of 12 clips to
noises, as `--mode=analyze` does. Beside them the same similarity of the pixels,
and of independent noise. Hardware: two CPU cores.

    python -m vdm_jax.main --mode=table --table=pyoco1 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, '../shapes_image.py')
  c.name = 'pyoco1'
  c.train.steps = 1000
  c.train.sample_every = 0
  c.train.sample_first = 0
  c.analyze.videos = 12
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'pyoco1'
  c.reproduce.training_seeds = (0, 1, 2)
  c.reproduce.seeds = (0,)
  return config_lib.variant(c, variant, tiny=config_lib.TINY | TINY)


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../pyoco_base.py', 'image')
  c.name = 'pyoco1_paper'
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'pyoco1'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  c.reproduce.required = ('data.image_path',)
  c.reproduce.encoders = ('T5-v1.1-XXL', 'CLIP ViT-L/14')
  c.reproduce.text_dims = (4096, 768)
  return c.lock()


TINY = {
  'data.frames': 1,
  'reproduce.training_seeds': (0, 1),
  'analyze.videos': 3,
  'analyze.frames': 3,
  'analyze.steps': 4,
  'analyze.round_trip': 0.9,
}
