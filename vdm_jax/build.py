"""The only place that turns a config into objects, by explicit tables."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from vdm_jax import config as config_lib
from vdm_jax import errors, optim, step
from vdm_jax.conditions import TEXT_KINDS, Conditions
from vdm_jax.data import captioned, flips, packed, shapes, strides
from vdm_jax.data.source import Source
from vdm_jax.diffusion import (
  guidance,
  losses,
  noise,
  process,
  samplers,
  schedules,
)
from vdm_jax.nn import unet
from vdm_jax.text import cache
from vdm_jax.text.words import Words

EXAMPLES = 64  # captions kept for samples without a prompt


def shapes_source(config):
  """The embedded data set."""
  c = config.data
  if config.text.captions:
    raise errors.ConfigError(
      f'config.text.captions is {config.text.captions!r}, but the shapes have '
      'captions of their own; leave it empty'
    )
  return shapes.Shapes(frames=c.frames, size=c.size, stride=c.stride)


def folder_source(config):
  """A folder of videos, with captions if they are asked for."""
  from vdm_jax.data import captioned, folder

  c = config.data
  path = _path(c, 'a folder of videos')
  captions = None
  if config.text.kind != 'none':
    captions = captioned.captions_of(config.text.captions or path, path)
  return folder.Folder(
    path, classes=c.classes, captions=captions, **_reading(c)
  )


def kinetics600_source(config):
  """A folder of videos and the official list of their classes."""
  from vdm_jax.data import kinetics

  c = config.data
  path = _path(c, 'the folder of the videos')
  if not c.list:
    raise errors.ConfigError(
      'config.data.list is empty; name the official CSV list with '
      '--config.data.list=FILE'
    )
  return kinetics.Kinetics600(path, c.list, **_reading(c))


def ucf101_source(config):
  """UCF-101 through TFDS: all videos, train and test, as in VDM."""
  from vdm_jax.data import ucf101

  c = config.data
  return ucf101.UCF101(
    c.path, frames=c.frames, size=c.size, stride=c.stride, videos=c.videos
  )


def bair_source(config):
  """BAIR robot pushing through TFDS."""
  from vdm_jax.data import bair

  c = config.data
  return bair.BAIR(
    c.path, frames=c.frames, size=c.size, stride=c.stride, videos=c.videos
  )


SOURCES = {
  'shapes': shapes_source,
  'folder': folder_source,
  'kinetics600': kinetics600_source,
  'ucf101': ucf101_source,
  'bair': bair_source,
}


def _path(c, what: str) -> str:
  if not c.path:
    raise errors.ConfigError(
      f'config.data.path is empty; name {what} with --config.data.path=FOLDER'
    )
  return c.path


def _reading(c) -> dict:
  """How a folder's videos become clips."""
  return {
    'frames': c.frames,
    'size': c.size,
    'stride': c.stride,
    'resize': c.resize,
    'short': c.short,
  }


def data(config) -> tuple[Source, Conditions]:
  """The clips to train on, and what a model can be told of them.

  Raises:
    UserError: of the source that `config.data.source` names, or for text that
      it does not have.
  """
  make = config_lib.choose('config.data.source', config.data.source, SOURCES)
  c = config.data
  videos, images = _augmented(make, config), None
  if c.images:
    single = config.copy_and_resolve_references().unlock()
    single.data.update(frames=1, stride=1, strides=())
    images = _augmented(still_images if c.image_path else make, single)
  with_text, told = _text(config, videos, images)
  told = dataclasses.replace(
    told,
    classes=tuple(videos.classes) if config.model.labels else (),
    strides=tuple(c.strides),
  )
  videos = with_text(videos)
  if images:
    videos = packed.Packed(videos, with_text(images), c.images)
  return videos, told


def still_images(config):
  """A folder of pictures, with captions if they have any."""
  from vdm_jax.data import images

  c = config.data
  captions = None
  if config.text.kind != 'none':
    captions = images.captions_beside(c.image_path)
  return images.Images(
    c.image_path, size=c.size, resize=c.resize, captions=captions or None
  )


def _augmented(make, config) -> Source:
  """The source with its strides and flips."""
  c = config.data
  if not c.strides:
    videos = make(config)
  else:
    sources = {}
    for stride in c.strides:
      one = config.copy_and_resolve_references().unlock()
      one.data.stride = stride
      sources[stride] = make(one)
    videos = strides.Strides(sources)
  return flips.Flipped(videos) if c.flip else videos


def _text(
  config, videos, images
) -> tuple[Callable[[Source], Source], Conditions]:
  """What adds the text to a source that has captions, and what that text is."""
  c = config.text
  config_lib.choose('config.text.kind', c.kind, TEXT_KINDS)
  if c.kind == 'none':
    return lambda source: source, Conditions()
  if not hasattr(videos, 'captions'):
    raise errors.ConfigError(
      f'config.text.kind is {c.kind!r}, but the data {config.data.source!r} '
      "has no captions; set it to 'none'"
    )
  examples = tuple(videos.captions(EXAMPLES))
  if config.data.flip and config.data.source == 'shapes':
    raise errors.ConfigError(
      'config.data.flip would turn the shapes that move left, but not their '
      'captions; set it to False'
    )
  if c.kind == 'words':
    words = Words(captioned.vocabulary(videos, images), c.max_length)
    told = Conditions(text='words', words=words.vocabulary, examples=examples)
    options = {'encode': words.encode, 'name': words.hash}
  else:
    embeddings = cache.open_cache(_cache_folder(c), max_length=c.max_length)
    told = Conditions(
      text='embeddings',
      text_dim=embeddings.dim,
      encoder=embeddings.encoder,
      examples=examples,
    )
    options = {
      'encode': embeddings.lookup,
      'name': embeddings.encoder,
      'known': embeddings,
    }

  def with_text(source):
    if not hasattr(source, 'captions'):
      return source
    return captioned.Captioned(source, **options)

  return with_text, told


def _cache_folder(c) -> str:
  if not c.cache:
    raise errors.ConfigError(
      'config.text.cache is empty; make embeddings of the captions with '
      '--mode=embed, and name their folder with --config.text.cache=FOLDER'
    )
  return c.cache


def model(config, told: Conditions) -> unet.UNet:
  """The network.

  Args:
    config: the whole config.
    told: what it is told of a video, from `data` or from a checkpoint.

  Raises:
    ConfigError: if sizes do not fit together, or labels are asked for and the
      data have none.
  """
  c = config.model
  if c.labels and not told.classes:
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
    num_classes=len(told.classes),
    vocabulary=len(told.words),
    text_dim=told.text_dim,
    num_strides=len(told.strides),
    groups=c.groups,
    dropout=c.dropout,
    resample=c.resample,
    image_mode=c.image_mode,
    max_distance=config.data.frames - 1,
    frame_positions=c.frame_positions,
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
    schedule=schedules.CosineSchedule(c.logsnr_min, c.logsnr_max, c.shift),
    prior=noise.NoisePrior(c.prior),
    prediction=c.prediction,
    weight=c.weight,
    image_frames=config.data.images,
    drop_label=config.train.drop.label,
    drop_text=config.train.drop.text,
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


def guidance_weight(config):
  """w_r of reconstruction guidance: a number, or a function of the log-SNR."""
  c = config.sample
  if c.weight_schedule == 'pigdm':
    return guidance.pigdm_weight(limit=c.guidance_weight)
  return c.guidance_weight
