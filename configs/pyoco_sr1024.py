"""PYoCo's second super-resolution: 76 frames from 256² to 1024², 305 M.

    python -m vdm_jax.main --config=configs/pyoco_sr1024.py:image \
      --config.data.path=VIDEOS --config.data.image_path=IMAGES \
      --config.text.cache=EMBEDDINGS_T5 --config.text.cache2=EMBEDDINGS_CLIP
    python -m vdm_jax.main --config=configs/pyoco_sr1024.py …

after `--mode=embed`; see `configs/pyoco_base.py` for the folders, and
`configs/pyoco_sr256.py` for what the two have in common. It is trained on
random crops of 256×256 pixels, as eDiff-I is, and has no attention over space;
it is sampled at the whole size, with the same parameters.

Known from the paper (Ge23 Fig. 3 and §5): the sizes, 313 M parameters, an
efficient U-Net with temporal convolutions. The layout and the values marked so
are ours: that of `configs/pyoco_sr256.py` less the attention over space, hence
305 M. Not trained by us at this size.

One map of 76×1024×1024 and 128 channels is 20 GB in bfloat16: sampling needs
`--config.mesh.space=8` or more. Training makes no samples of its own.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'pyoco_sr1024'
  c.data.source = 'folder'
  c.data.frames = 76
  c.data.size = 1024
  c.data.stride = 1
  c.data.images = 8  # ours
  c.data.workers = 16

  c.refine.kind = 'upsample'
  c.refine.factor = 4
  c.refine.crop = 256
  c.refine.augment_level = 0.2  # ours

  c.text.kind = 'embeddings'  # of T5 and CLIP
  c.text.dims = (4096, 768)  # T5-v1.1-XXL, CLIP ViT-L/14
  c.text.max_length = 77  # ours

  c.model.kind = 'efficient'
  c.model.channels = 128  # ours, as all of the layout
  c.model.multipliers = (1, 2, 4, 8)
  c.model.level_blocks = (2, 2, 4, 4)
  c.model.attention_resolutions = ()  # crops are too small to tell
  c.model.head_dim = 64
  c.model.emb_dim = 512
  c.model.emb_layers = 2
  c.model.temporal = False
  c.model.temporal_convolution = True
  c.model.image_mode = 'bypass'
  c.model.cross_attention = True
  c.model.remat = 'block'  # ours

  c.diffusion.prediction = 'edm'
  c.diffusion.weight = 'edm'
  c.diffusion.schedule = 'lognormal'
  c.diffusion.p_mean = -1.2
  c.diffusion.p_std = 1.2
  c.diffusion.prior = 'progressive'  # ours, for this stage
  c.diffusion.prior_alpha = 2.0

  c.init.workdir = '' if variant == 'image' else 'runs/pyoco_sr1024_image'

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
  c.train.sample_every = 0
  c.mesh.space = 1  # ours, for training

  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'  # from 80 to 0.002 with ρ = 7: EDM's; ours
  c.sample.steps = 25  # ours
  c.sample.guidance_scale = 1.0  # ours
  c.sample.count = 0  # of training
  c.sample.batch_size = 1
  c.sample.frame_rate = 24.0
  return config_lib.variant(c, variant, image=IMAGE, tiny=TINY)


# On frames of the videos and as many images beside each as make 8 pictures.
IMAGE = {
  'data.frames': 1,
  'data.images': 7,  # ours
  'model.temporal_convolution': False,
  'diffusion.prior': 'independent',
  'diffusion.prior_alpha': 0.0,
  'train.batch_size': 256,  # ours
  'train.steps': 500_000,  # ours
}
# 76×32×32 by crops of 16×16, with the captions of the shapes.
TINY = config_lib.TINY | {
  'data.source': 'shapes',
  'data.frames': 76,
  'data.size': 32,
  'data.images': 2,
  'refine.factor': 2,
  'refine.crop': 16,
  'text.kind': 'words',
  'text.max_length': 8,
  'model.level_blocks': (1, 1),
  'model.attention_resolutions': (),
  'init.workdir': '',
  'sample.count': 0,
}
