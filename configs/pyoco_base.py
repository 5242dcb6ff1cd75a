"""PYoCo's base model of text to video: 16×64×64 at frame stride 5, 1.08 B.

    python -m vdm_jax.main --mode=embed --config=configs/pyoco_base.py \
      --config.data.path=VIDEOS --config.data.image_path=IMAGES \
      --config.text.encoder=T5_FOLDER --config.text.cache=EMBEDDINGS_T5 \
      --config.text.encoder2=CLIP_FOLDER --config.text.cache2=EMBEDDINGS_CLIP
    python -m vdm_jax.main --config=configs/pyoco_base.py:image \
      --config.data.path=VIDEOS --config.data.image_path=IMAGES \
      --config.text.cache=EMBEDDINGS_T5 --config.text.cache2=EMBEDDINGS_CLIP
    python -m vdm_jax.main --config=configs/pyoco_base.py …

VIDEOS and IMAGES are folders with a .txt file beside each video and image;
T5_FOLDER is T5-v1.1-XXL of Hugging Face, CLIP_FOLDER is CLIP ViT-L/14. `:image`
is the image model that the video model starts from (in the paper eDiff-I's);
name another one with `--config.init.workdir=RUN`.

Known from the paper (Ge23 §4 and §5): sizes and frame stride, 1.08 B
parameters, text by T5 and CLIP, each dropped by itself, temporal attention,
joint training on images, which bypass it; EDM, progressive noise of α = 2,
DEIS. As in eDiff-I: AdamW, its learning rate and weight decay. The layout of
the network and the values marked so are ours. Not trained by us at this size.

`configs/pyoco_cascade.py` samples it together with the three stages behind it,
and says how its experts are trained.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'pyoco_base'
  c.data.source = 'folder'
  c.data.frames = 16
  c.data.size = 64
  c.data.stride = 5
  c.data.images = 8  # ours
  c.data.workers = 16

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

  c.init.workdir = '' if variant == 'image' else 'runs/pyoco_base_image'

  c.optim.learning_rate = 1e-4
  c.optim.warmup = 10_000  # ours
  c.optim.b1 = 0.9  # ours
  c.optim.b2 = 0.999  # ours
  c.optim.weight_decay = 0.01
  c.optim.ema = 0.9999  # ours

  c.train.batch_size = 512  # ours
  c.train.steps = 200_000  # ours
  c.train.drop.text = 0.1  # ours
  c.train.drop.text2 = 0.1  # ours
  c.mesh.fsdp = 8  # ours

  c.sample.sampler = 'deis'
  c.sample.grid = 'karras'  # from 80 to 0.002 with ρ = 7: EDM's; ours
  c.sample.steps = 50  # ours
  c.sample.guidance_scale = 5.0  # ours
  c.sample.frame_rate = 4.8
  return config_lib.variant(c, variant, image=IMAGE, tiny=TINY)


# On frames of the videos and as many images beside each as make 8 pictures.
IMAGE = {
  'data.frames': 1,
  'data.stride': 1,
  'data.images': 7,  # ours
  'model.temporal': False,
  'diffusion.prior': 'independent',
  'diffusion.prior_alpha': 0.0,
  'optim.warmup': 10_000,  # ours
  'train.batch_size': 256,  # ours
  'train.steps': 500_000,  # ours
}
# 16×8×8, with the captions of the shapes.
TINY = config_lib.TINY | {
  'data.source': 'shapes',
  'data.frames': 16,
  'data.size': 8,
  'data.images': 2,
  'text.kind': 'words',
  'text.max_length': 8,
  'init.workdir': '',
  'mesh.fsdp': 1,
}
