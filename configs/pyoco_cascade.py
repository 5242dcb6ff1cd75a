"""PYoCo's four-stage cascade: a caption to 76×1024×1024 (Ge23 Fig. 3).

    python -m vdm_jax.main --mode=cascade --config=configs/pyoco_cascade.py \
      --workdir=runs/pyoco --config.sample.prompt='a dog in the rain' \
      --config.text.encoder=T5_FOLDER --config.text.encoder2=CLIP_FOLDER \
      --config.mesh.space=8

with the runs of `configs/pyoco_base.py` (16×64×64 at stride 5),
`pyoco_interpolation.py` (76×64×64), `pyoco_sr256.py` and `pyoco_sr1024.py` in
their own folders below `runs`. To stop at 256×256, as for the paper's Table 3:
`--config.cascade.order="('base','interpolation','sr256')"`.

`:a`, `:b`, `:c` and `:d` are the rows of that table: experts of the noise
levels (eDiff-I's level 1) for no stage; for super-resolution; for the
interpolation as well; for the base model as well. The paper does not say which
of the two super-resolutions; here it is both. The experts of the stage NAME
(base, interpolation, sr256, sr1024) are `runs/pyoco_NAME_low` and `_high`:

    python -m vdm_jax.main --config=configs/pyoco_NAME.py … \
      --workdir=runs/pyoco_NAME_low --config.init.workdir=runs/pyoco_NAME \
      --config.diffusion.interval=0,0.5

and likewise `_high` with `0.5,1`. How a stage is sampled is its section
`sample`: `--config.cascade.sr256.sample.steps=50`. The noise that is added to
what the super-resolutions see: `--config.cascade.sr256.augment_level=0.1`.

On two CPU cores, to see that all works (76×32×32):

    python -m vdm_jax.main --config=configs/pyoco_base.py:tiny
    python -m vdm_jax.main --config=configs/pyoco_interpolation.py:tiny
    python -m vdm_jax.main --config=configs/pyoco_sr256.py:tiny
    python -m vdm_jax.main --config=configs/pyoco_sr1024.py:tiny
    python -m vdm_jax.main --mode=cascade \
      --config=configs/pyoco_cascade.py:tiny \
      --config.sample.prompt='a red disc moving left'
"""

from vdm_jax import config as config_lib

# By stage: frames, size, frame stride.
STAGES = {
  'base': (16, 64, 5),
  'interpolation': (76, 64, 1),
  'sr256': (76, 256, 1),
  'sr1024': (76, 1024, 1),
}
TINY_SIZES = {'base': 8, 'interpolation': 8, 'sr256': 16, 'sr1024': 32}
GUIDANCE = {'base': 5.0, 'interpolation': 2.0}  # ours


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'pyoco_cascade'
  c.sample.count = 4
  c.sample.frame_rate = 24.0
  c.cascade = {'order': tuple(STAGES)}
  for name, (frames, size, stride) in STAGES.items():
    c.cascade[name] = config_lib.stage(
      sampler='deis',
      grid='karras',  # from 80 to 0.002 with ρ = 7: EDM's; ours
      steps=25 if name.startswith('sr') else 50,  # ours
      guidance_scale=GUIDANCE.get(name, 1.0),
      batch_size=1,
      experts=(),
    )
    c.cascade[name].workdir = f'runs/pyoco_{name}'
    c.cascade[name].frames = frames
    c.cascade[name].size = size
    c.cascade[name].stride = stride
  return config_lib.variant(
    c,
    variant,
    a={},
    b=experts('sr256', 'sr1024'),
    c=experts('sr256', 'sr1024', 'interpolation'),
    d=experts(*STAGES),
    tiny=tiny(),
  )


def experts(*stages):
  """Two experts, of the lower and the upper half of the noise levels."""
  return {
    f'cascade.{name}.sample.experts': tuple(
      f'runs/pyoco_{name}_{half}' for half in ('low', 'high')
    )
    for name in stages
  }


def tiny():
  changes = {'sample.count': 2, 'mesh.cpu_devices': 2}
  for name, size in TINY_SIZES.items():
    changes |= {
      f'cascade.{name}.workdir': f'runs/pyoco_{name}_tiny',
      f'cascade.{name}.size': size,
      f'cascade.{name}.sample.steps': 4,
      f'cascade.{name}.sample.batch_size': 2,
    }
  return changes
