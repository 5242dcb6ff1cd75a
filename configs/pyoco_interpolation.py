"""PYoCo's temporal interpolation: from 16 frames to 76, 64×64, 1.08 B.

    python -m vdm_jax.main --config=configs/pyoco_interpolation.py \
      --config.data.path=VIDEOS --config.data.image_path=IMAGES \
      --config.text.cache=EMBEDDINGS_T5 --config.text.cache2=EMBEDDINGS_CLIP

after `--mode=embed` and `configs/pyoco_base.py:image`, whose image model it
starts from (ours; `--config.init.workdir=RUN` names another one); see there for
the folders. Of 76 consecutive frames it sees every fifth, 1, 6, …, 76, which
are those of the base model.

    python -m vdm_jax.main --mode=sample --workdir=runs/pyoco_interpolation \
      --config.sample.video=FILE --config.sample.prompt='a dog in the rain'

fills in the frames of a video of your own: of every fifth of its frames, or of
16 frames if it has no more.

Known from the paper (Ge23 Fig. 3 and §5): the sizes, 1.08 B parameters, the
rest as for the base model. How the key frames are told is not: ours is
Make-A-Video's way, as channels beside the noisy video with zeros for the frames
to make, and a mask. No noise is added to them and they stay as they are (ours;
`--config.refine.augment=True` has the model make them again). The values marked
so are ours as well. Not trained by us at this size.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'pyoco_interpolation'
  c.data.source = 'folder'
  c.data.frames = 76
  c.data.size = 64
  c.data.stride = 1
  c.data.images = 8  # ours
  c.data.workers = 16

  c.refine.kind = 'interpolate'
  c.refine.factor = 5
  c.refine.augment = False  # ours

  c.text.kind = 'embeddings'  # of T5 and CLIP
  c.text.dims = (4096, 768)  # T5-v1.1-XXL, CLIP ViT-L/14
  c.text.max_length = 77  # ours

  c.model.channels = 384  # ours, as all of the layout
  c.model.multipliers = (1, 2, 3, 4)
  c.model.blocks = 2
  c.model.attention_resolutions = (8, 16, 32)
  c.model.head_dim = 64
  c.model.emb_dim = 1024
  c.model.emb_layers = 2
  c.model.resample = 'residual'
  c.model.image_mode = 'bypass'
  c.model.cross_attention = True
  c.model.remat = 'block'  # ours

  c.diffusion.prediction = 'edm'
  c.diffusion.weight = 'edm'
  c.diffusion.schedule = 'lognormal'
  c.diffusion.p_mean = -1.2
  c.diffusion.p_std = 1.2
  c.diffusion.prior = 'progressive'
  c.diffusion.prior_alpha = 2.0

  c.init.workdir = 'runs/pyoco_base_image'  # ours

  c.optim.learning_rate = 1e-4
  c.optim.warmup = 10_000  # ours
  c.optim.b1 = 0.9  # ours
  c.optim.b2 = 0.999  # ours
  c.optim.weight_decay = 0.01
  c.optim.ema = 0.9999  # ours

  c.train.batch_size = 128  # ours
  c.train.steps = 200_000  # ours
  c.train.drop.text = 0.1  # ours
  c.train.drop.text2 = 0.1  # ours
  c.mesh.fsdp = 8  # ours

  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'  # from 80 to 0.002 with ρ = 7: EDM's; ours
  c.sample.steps = 50  # ours
  c.sample.guidance_scale = 2.0  # ours
  c.sample.batch_size = 8
  c.sample.overlap = 1
  c.sample.frame_rate = 24.0
  return config_lib.variant(c, variant, tiny=TINY)


# 76×8×8, with the captions of the shapes.
TINY = config_lib.TINY | {
  'data.source': 'shapes',
  'data.frames': 76,
  'data.size': 8,
  'data.images': 2,
  'text.kind': 'words',
  'text.max_length': 8,
  'init.workdir': '',
  'mesh.fsdp': 1,
}
