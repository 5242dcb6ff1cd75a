"""Experts in the stages of a cascade: Ge23 Table 3 in miniature.

    python -m vdm_jax.main --mode=table --table=pyoco3

A base model of 4×8×8 at frame stride 2, one that interpolates to 7×8×8, and one
that super-resolves to 7×16×16; then for each stage two experts of the lower and
the upper half of the noise levels. Config-A has no experts, B those of the
super-resolution, C of the interpolation as well, D of all stages. One training,
three seeds of samples. Hardware: two CPU cores.

    python -m vdm_jax.main --mode=table --table=pyoco3 --scale=paper

says what the paper's own table needs, and makes it if all of that is there.
"""

import ml_collections

from vdm_jax import config as config_lib

# By stage: frames, size, frame stride, and how it refines.
STAGES = {
  'base': (4, 8, 2, {}),
  'interpolation': (7, 8, 1, {'kind': 'interpolate', 'augment': False}),
  'sr': (7, 16, 1, {'kind': 'upsample', 'augment_level': 0.1}),
}


def get_config(variant=''):
  if variant == 'paper':
    return paper()
  c = config_lib.beside(__file__, 'pyoco_table5.py')
  c.name = 'pyoco3'
  c.data.frames = 7
  c.reproduce.table = 'pyoco3'
  c.reproduce.training_seeds = ()
  c.reproduce.seeds = (0, 1, 2)
  c.reproduce.experts = ()  # of each row: the stages that have them
  c.reproduce.expert_steps = 250
  c.reproduce.starts = {}
  c.reproduce.runs = {}
  c.cascade = {'order': tuple(STAGES)}
  for name, (frames, size, stride, how) in STAGES.items():
    stage = config_lib.stage(
      sampler='deis', grid='karras', steps=25, batch_size=32, experts=()
    )
    stage.frames, stage.size, stage.stride = frames, size, stride
    c.cascade[name] = stage
    c.reproduce.runs[name] = run(name, frames, size, stride, how)
  return config_lib.variant(c, variant, tiny=tiny())


def run(name, frames, size, stride, how):
  """The training of a stage."""
  c = config_lib.beside(__file__, 'pyoco_table5.py')
  del c.reproduce
  c.name = f'pyoco3_{name}'
  c.data.frames = frames
  c.data.size = size
  c.data.stride = stride
  c.refine.update(how)
  c.refine.factor = 2
  c.train.batch_size = 16
  c.train.steps = 1000
  return c


def tiny():
  """A run of seconds."""
  small = {k: v for k, v in config_lib.TINY.items() if 'data.' not in k}
  changes = small | {'reproduce.seeds': (0, 1), 'reproduce.expert_steps': 2}
  for name in STAGES:
    changes |= {f'reproduce.runs.{name}.{k}': v for k, v in small.items()}
    changes |= {f'cascade.{name}.sample.steps': 4}
  return changes


def paper():
  """At the paper's scale, up to 76×256×256 as for its table."""
  c = config_lib.beside(__file__, '../pyoco_cascade.py')
  c.name = 'pyoco3_paper'
  c.cascade.order = ('base', 'interpolation', 'sr256')
  c.data.source = 'folder'
  c.text.kind = 'embeddings'
  c.sample.count = 59_794
  c.reproduce = ml_collections.ConfigDict()
  c.reproduce.table = 'pyoco3'
  c.reproduce.scale = 'paper'
  c.reproduce.seeds = (0,)
  c.reproduce.required = ('data.image_path',)
  c.reproduce.encoders = ('T5-v1.1-XXL', 'CLIP ViT-L/14')
  c.reproduce.text_dims = (4096, 768)
  c.reproduce.experts = ()
  c.reproduce.expert_steps = 50_000  # ours
  c.reproduce.starts = {
    'base': 'base_image',
    'interpolation': 'base_image',
    'sr256': 'sr256_image',
  }
  c.reproduce.runs = {
    name: config_lib.beside(__file__, f'../pyoco_{file}.py', variant)
    for name, file, variant in (
      ('base_image', 'base', 'image'),
      ('base', 'base', ''),
      ('interpolation', 'interpolation', ''),
      ('sr256_image', 'sr256', 'image'),
      ('sr256', 'sr256', ''),
    )
  }
  return c.lock()
