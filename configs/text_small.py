"""VDM's small text-to-video model: 16×64×64, 310 M parameters (Ho22 §4.3).

    python -m vdm_jax.main --mode=embed --config=configs/text_small.py \
      --config.data.path=VIDEOS --config.text.encoder=BERT_FOLDER \
      --config.text.cache=EMBEDDINGS
    python -m vdm_jax.main --config=configs/text_small.py \
      --config.data.path=VIDEOS --config.text.cache=EMBEDDINGS

VIDEOS is a folder with a .txt file beside each video, or name a list with
`--config.text.captions=FILE.csv`; BERT_FOLDER is bert-large-uncased of Hugging
Face. Hardware in the paper: 64 TPU-v4 chips. Not trained by us at this size.

The paper compares 0, 4 and 8 images per video (Table 4): `data.images`.
"""

from vdm_jax import config as config_lib


def get_config(variant=''):
  c = config_lib.default()
  c.name = 'text_small'
  c.data.source = 'folder'
  c.data.frames = 16
  c.data.size = 64
  c.data.stride = 1
  c.data.images = 8
  c.data.workers = 16

  c.text.kind = 'embeddings'  # of BERT-large
  c.text.max_length = 64  # tokens; ours

  c.model.channels = 128
  c.model.multipliers = (1, 2, 4, 8)
  c.model.blocks = 2
  c.model.attention_resolutions = (8, 16, 32)
  c.model.head_dim = 64
  c.model.emb_dim = 1024
  c.model.emb_layers = 4
  c.model.dropout = 0.0
  c.model.remat = 'block'  # ours

  c.diffusion.prediction = 'eps'
  c.diffusion.weight = 'eps'
  c.diffusion.logsnr_min = -20.0
  c.diffusion.logsnr_max = 20.0

  c.optim.learning_rate = 3e-4
  c.optim.b1 = 0.9
  c.optim.b2 = 0.99
  c.optim.weight_decay = 0.0
  c.optim.ema = 0.9999

  c.train.batch_size = 128
  c.train.steps = 200_000
  c.train.drop.text = 0.1  # ours

  c.sample.sampler = 'ancestral'
  c.sample.steps = 256
  c.sample.gamma = 0.3
  c.sample.guidance_scale = 2.0  # 1 + w; Ho22 Table 5 compares 1, 2 and 5
  return config_lib.variant(
    c,
    variant,
    tiny=config_lib.TINY
    | {'data.images': 2, 'model.emb_dim': 64, 'sample.overlap': 2},
  )
