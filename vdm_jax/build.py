"""The only place that turns a config into objects, by explicit tables."""

import jax.numpy as jnp

from vdm_jax import config as config_lib
from vdm_jax import errors, optim, step
from vdm_jax.data import packed, shapes
from vdm_jax.diffusion import losses, noise, process, samplers, schedules
from vdm_jax.nn import unet


def shapes_source(c):
  """The embedded data set."""
  return shapes.Shapes(frames=c.frames, size=c.size, stride=c.stride)


def folder_source(c):
  """A folder of videos."""
  from vdm_jax.data import folder

  if not c.path:
    raise errors.ConfigError(
      'config.data.path is empty; name a folder of videos with '
      '--config.data.path=FOLDER'
    )
  return folder.Folder(
    c.path,
    frames=c.frames,
    size=c.size,
    stride=c.stride,
    resize=c.resize,
    short=c.short,
    classes=c.classes,
  )


def ucf101_source(c):
  """UCF-101 through TFDS: all videos, train and test, as in VDM."""
  from vdm_jax.data import ucf101

  return ucf101.UCF101(
    c.path, frames=c.frames, size=c.size, stride=c.stride, videos=c.videos
  )


SOURCES = {
  'shapes': shapes_source,
  'folder': folder_source,
  'ucf101': ucf101_source,
}


def source(config):
  """The clips to train on: `config.data.source`, with images behind them.

  Images come from the same source; an image is a video with one frame.
  """
  c = config.data
  make = config_lib.choose('config.data.source', c.source, SOURCES)
  videos = make(c)
  if not c.images:
    return videos
  single = c.copy_and_resolve_references()
  single.update(frames=1, stride=1)
  return packed.Packed(videos, make(single), c.images)


def model(config, classes: int = 0) -> unet.UNet:
  """The network.

  Args:
    config: the whole config.
    classes: how many classes the source has; used with `config.model.labels`.

  Raises:
    ConfigError: if sizes do not fit together, or labels are asked for and the
      source has none.
  """
  c = config.model
  if c.labels and not classes:
    raise errors.ConfigError(
      'config.model.labels is True, but the data has no classes; set it to '
      'False or, for a folder of class folders, config.data.classes to True'
    )
  network = unet.UNet(
    channels=c.channels,
    multipliers=c.multipliers,
    blocks=c.blocks,
    attention_resolutions=c.attention_resolutions,
    head_dim=c.head_dim,
    emb_dim=c.emb_dim,
    emb_layers=c.emb_layers,
    num_classes=classes if c.labels else 0,
    groups=c.groups,
    dropout=c.dropout,
    resample=c.resample,
    image_mode=c.image_mode,
    max_distance=config.data.frames - 1,
    dtype=jnp.dtype(c.dtype),
    remat=c.remat,
  )
  c = config.data
  network.validate((c.frames, c.size, c.size, 3))
  return network


def optimizer(config):
  """The optimizer, as an optax transformation."""
  c = config.optim
  return optim.make_optimizer(
    learning_rate=c.learning_rate,
    warmup=c.warmup,
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
    clip=c.clip,
  )


def objective(config) -> step.Objective:
  """What training minimises and sampling assumes."""
  c = config.diffusion
  what = 'config.diffusion.'
  config_lib.choose(what + 'prediction', c.prediction, process.PREDICTIONS)
  config_lib.choose(what + 'weight', c.weight, losses.WEIGHTS)
  config_lib.choose(what + 'prior', c.prior, noise.KINDS)
  return step.Objective(
    schedule=schedules.CosineSchedule(c.logsnr_min, c.logsnr_max),
    prior=noise.NoisePrior(c.prior),
    prediction=c.prediction,
    weight=c.weight,
    image_frames=config.data.images,
  )


SAMPLERS = {
  'ancestral': lambda c: samplers.ancestral(c.gamma),
  'ddim': lambda c: samplers.ddim(),
  'predictor_corrector': lambda c: samplers.predictor_corrector(
    samplers.ancestral(c.gamma), c.delta
  ),
}


def sampler(config) -> samplers.Step:
  """The sampler's step that `config.sample.sampler` names."""
  c = config.sample
  return config_lib.choose('config.sample.sampler', c.sampler, SAMPLERS)(c)
