"""VDM's cascade: 16×64×64, stride 4, to 64×128×128, stride 1 (Ho22 Fig. 2).

    python -m vdm_jax.main --mode=cascade --config=configs/cascade.py \
      --workdir=runs/cascade --config.sample.prompt='a dog in the rain' \
      --config.cascade.base.workdir=runs/text_large \
      --config.cascade.super.workdir=runs/text_large_sr \
      --config.text.encoder=BERT_FOLDER

The second model super-resolves and extends at once, in windows of 9 frames. Of
the first one it sees three frames at half the resolution; of each further one
it knows the first frame, which the window before has made, and sees two more
at most.

The paper gives the sizes, the steps and γ (Appendix A); how strong the guidance
is in the figure, by the caption and by the video below, it does not say.

`:shapes` is the same at the size of two CPU cores: 8×16×16 at stride 4, then
32×32×32 at stride 1, from `configs/shapes.py:base` and `:super`.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'cascade'
  c.sample.count = 16
  c.sample.frame_rate = 24.0
  c.cascade = {'order': ('base', 'super')}
  c.cascade.base = config_lib.stage(
    steps=256,
    gamma=0.3,
    guidance_scale=2.0,  # 1 + w; ours
    batch_size=16,
  )
  c.cascade.base.workdir = 'runs/text_large'
  c.cascade.base.frames = 16
  c.cascade.base.size = 64
  c.cascade.base.stride = 4
  c.cascade.super = config_lib.stage(
    steps=256,
    gamma=0.3,
    guidance_scale=2.0,  # 1 + w; ours
    batch_size=4,
    overlap=1,  # ours
    guidance_weight=1.0,  # w_r; ours
    weight_schedule='constant',  # ours
  )
  c.cascade.super.workdir = 'runs/text_large_sr'
  c.cascade.super.frames = 64
  c.cascade.super.size = 128
  c.cascade.super.stride = 1
  return config_lib.variant(c, variant, shapes=SHAPES)


SHAPES = {
  'sample.frame_rate': 8.0,
  'mesh.cpu_devices': 2,
  'cascade.base.workdir': 'runs/shapes_base',
  'cascade.base.frames': 8,
  'cascade.base.size': 16,
  'cascade.base.sample.steps': 128,
  'cascade.base.sample.guidance_scale': 1.0,
  'cascade.super.workdir': 'runs/shapes_super',
  'cascade.super.frames': 32,
  'cascade.super.size': 32,
  'cascade.super.sample.steps': 64,
  'cascade.super.sample.guidance_scale': 1.0,
  'cascade.super.sample.batch_size': 16,
}
