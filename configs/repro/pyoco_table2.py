"""Videos of prompts: Ge23 Table 2 in miniature.

    python -m vdm_jax.main --mode=table --table=pyoco2

A model of single frames and their captions, then one of video with progressive
noise (α = 2), which is prompted with 16 captions, four times each, at guidance
scale 2. With three seeds. Hardware: two CPU cores.

    python -m vdm_jax.main --mode=table --table=pyoco2 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, 'pyoco_table5.py')
  c.name = 'pyoco2'
  c.model.labels = False
  c.model.frame_positions = True
  c.text.kind = 'words'
  c.text.max_length = 8
  c.train.drop.text = 0.1
  c.train.steps = 2000
  c.sample.guidance_scale = 2.0
  c.reproduce.table = 'pyoco2'
  c.reproduce.training_seeds = (0,)
  c.reproduce.seeds = (0, 1, 2)
  c.reproduce.prompts = 16
  return config_lib.variant(c, variant, tiny=config_lib.TINY | TINY)


def paper():
  """At the paper's scale."""
  c = config_lib.beside(__file__, '../pyoco_base.py')
  c.name = 'pyoco2_paper'
  c.init.workdir = ''  # of the table's own model of images
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'pyoco2'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  c.reproduce.required = ('data.image_path',)
  c.reproduce.encoders = ('T5-v1.1-XXL', 'CLIP ViT-L/14')
  c.reproduce.text_dims = (4096, 768)
  c.reproduce.images = config_lib.beside(__file__, '../pyoco_base.py', 'image')
  return c.lock()


TINY = {
  'reproduce.seeds': (0, 1),
  'reproduce.image_steps': 2,
  'reproduce.image_batch': 4,
  'reproduce.prompts': 2,
}
