"""PYoCo's first super-resolution: 76 frames from 64×64 to 256×256, 313 M.

    python -m vdm_jax.main --config=configs/pyoco_sr256.py:image \
      --config.data.path=VIDEOS --config.data.image_path=IMAGES \
      --config.text.cache=EMBEDDINGS_T5 --config.text.cache2=EMBEDDINGS_CLIP
    python -m vdm_jax.main --config=configs/pyoco_sr256.py …

after `--mode=embed`; see `configs/pyoco_base.py` for the folders. `:image` is
the model of single frames that this one starts from (in the paper eDiff-I's).

    python -m vdm_jax.main --mode=sample --workdir=runs/pyoco_sr256 \
      --config.sample.video=FILE --config.sample.prompt='a dog in the rain'

refines the first 76 frames of a video of your own, from 64×64 or, if it is
larger, from its means over blocks of 4×4 pixels at 256×256.

Known from the paper (Ge23 Fig. 3 and §5): the sizes, 313 M parameters, an
efficient U-Net with temporal convolutions, the rest as for the base model. Its
layout is ours. So is what it is told of the video below: channels beside the
noisy video and noise of a random level added to them, as in Imagen, but of the
progressive prior, as coherent in time as the frames. The values marked so are
ours as well. Not trained by us at this size.

Where the activations of 76 frames do not fit one device,
`--config.mesh.space=2` or more spreads each video over as many devices: a slab
of its rows to each.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'pyoco_sr256'
  c.data.source = 'folder'
  c.data.frames = 76
  c.data.size = 256
  c.data.stride = 1
  c.data.images = 8  # ours
  c.data.workers = 16

  c.refine.kind = 'upsample'
  c.refine.factor = 4
  c.refine.augment_level = 0.2  # ours

  c.text.kind = 'embeddings'  # of T5 and CLIP
  c.text.dims = (4096, 768)  # T5-v1.1-XXL, CLIP ViT-L/14
  c.text.max_length = 77  # ours

  c.model.kind = 'efficient'
  c.model.channels = 128  # ours, as all of the layout
  c.model.multipliers = (1, 2, 4, 8)
  c.model.level_blocks = (2, 2, 4, 4)
  c.model.attention_resolutions = (16,)
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

  c.init.workdir = '' if variant == 'image' else 'runs/pyoco_sr256_image'

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
  c.mesh.space = 1  # ours

  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'  # from 80 to 0.002 with ρ = 7: EDM's; ours
  c.sample.steps = 25  # ours
  c.sample.guidance_scale = 1.0  # ours
  c.sample.count = 16
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
  'sample.batch_size': 16,
}
# 76×16×16, with the captions of the shapes.
TINY = config_lib.TINY | {
  'data.source': 'shapes',
  'data.frames': 76,
  'data.images': 2,
  'refine.factor': 2,
  'text.kind': 'words',
  'text.max_length': 8,
  'model.level_blocks': (1, 1),
  'init.workdir': '',
}
