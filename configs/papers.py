"""The models of both papers on four TPU slices, in one table.

    python -m vdm_jax.main --mode=plan --config=configs/papers.py \
      --workdir=runs/papers

Nothing is trained, and no TPU or data are needed. PYoCo's are told embeddings
of T5-v1.1-XXL (4096 channels) and CLIP ViT-L/14 (768), VDM's of BERT-large
(1024). Each cell is compiled, which takes a minute or more of two cores: hours
for all. The same command goes on where it was stopped; `--target=v4:4x4x8` does
one column. `:tiny` is two small models on the devices at hand.
"""

import ml_collections

from vdm_jax import config as config_lib

MODELS = (
  'ucf101',
  'bair',
  'kinetics600',
  'text_small',
  'text_large',
  'text_large_sr',
  'ucf101_pyoco:large',
  'pyoco_base',
  'pyoco_interpolation',
  'pyoco_sr256',
  'pyoco_sr1024',
)


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'papers'
  c.plan = ml_collections.ConfigDict()
  c.plan.targets = ('v4:4x4x8', 'v5e:8x16', 'v5p:4x4x4', 'v6e:8x8')
  c.plan.models = ml_collections.ConfigDict()
  models = ('ucf101:tiny', 'bair:tiny') if variant == 'tiny' else MODELS
  c.plan.order = tuple(model.replace(':', '_') for model in models)
  for name, model in zip(c.plan.order, models, strict=True):
    file, _, size = model.partition(':')
    c.plan.models[name] = config_lib.beside(__file__, f'{file}.py', size)
  return config_lib.variant(c, variant, tiny={'plan.targets': ('here',)})
