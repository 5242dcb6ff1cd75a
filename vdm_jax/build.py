"""The only place that turns a config into objects, by explicit tables."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp

from vdm_jax import config as config_lib
from vdm_jax import errors, optim, refine, step
from vdm_jax.conditions import TEXT_KINDS, TEXTS, Conditions
from vdm_jax.data import captioned, flips, packed, shapes, strides
from vdm_jax.data.source import Source
from vdm_jax.diffusion import (
  churn,
  guidance,
  heun,
  losses,
  multistep,
  noise,
  process,
  samplers,
  schedules,
)
from vdm_jax.nn import efficient, unet
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
  return ucf101.UCF101(c.path, videos=c.videos, **_clips(c))


def bair_source(config):
  """BAIR robot pushing through TFDS."""
  from vdm_jax.data import bair

  c = config.data
  return bair.BAIR(c.path, videos=c.videos, **_clips(c))


SOURCES = {
  'shapes': shapes_source,
  'folder': folder_source,
  'kinetics600': kinetics600_source,
  'ucf101': ucf101_source,
  'bair': bair_source,
}
# What each makes of `config.data`, besides what any source makes of it.
_OF_FILES = ('path', 'resize', 'short', 'processes', 'timeout', 'memory')
READ = {
  'shapes': (),
  'folder': (*_OF_FILES, 'classes'),
  'kinetics600': (*_OF_FILES, 'list'),
  'ucf101': ('path', 'videos', 'resize'),
  'bair': ('path', 'videos', 'resize'),
}


def _path(c, what: str) -> str:
  if not c.path:
    raise errors.ConfigError(
      f'config.data.path is empty; name {what} with --config.data.path=FOLDER'
    )
  return c.path


def _clips(c) -> dict:
  """What a clip is, of a data set that is not drawn to measure."""
  return {k: c[k] for k in ('frames', 'size', 'stride', 'resize')}


def _reading(c) -> dict:
  """How a folder's videos become clips."""
  own = {'short': c.short, 'processes': c.processes, 'seconds': c.timeout}
  return _clips(c) | own


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
    single = config_lib.varied(
      config, {'data.frames': 1, 'data.stride': 1, 'data.strides': ()}
    )
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
    videos = strides.Strides(
      {
        s: make(config_lib.varied(config, {'data.stride': s}))
        for s in c.strides
      }
    )
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
    told, texts = _words(c, captioned.vocabulary(videos, images))
  else:
    told, texts = _embeddings(c)

  def with_text(source):
    if hasattr(source, 'captions'):
      for options in texts:
        source = captioned.Captioned(source, **options)
    return source

  return with_text, dataclasses.replace(told, examples=examples)


def _words(c, vocabulary) -> tuple[Conditions, list[dict]]:
  """What a model is told by words, and the options of `Captioned`."""
  if c.encoder2 or c.cache2:
    raise errors.ConfigError(
      "config.text.kind is 'words', which takes no second encoder; leave out "
      "config.text.encoder2 and cache2, or use the kind 'embeddings'"
    )
  words = Words(vocabulary, c.max_length)
  told = Conditions(text='words', words=words.vocabulary)
  encode = functools.partial(words.encode, cut=True)
  return told, [{'encode': encode, 'name': words.hash}]


def _embeddings(c) -> tuple[Conditions, list[dict]]:
  """The same by the embeddings of one encoder, or of two."""
  endings = TEXTS if c.encoder2 or c.cache2 else TEXTS[:1]
  told, texts = {}, []
  for n in endings:
    if not c[f'cache{n}']:
      raise errors.ConfigError(
        f'config.text.cache{n} is empty; make embeddings of the captions with '
        '--mode=embed, and name their folder with '
        f'--config.text.cache{n}=FOLDER'
      )
    found = cache.open_cache(c[f'cache{n}'], max_length=c.max_length)
    if found.encoder in told.values():
      raise errors.ConfigError(
        'config.text.cache and cache2 are of the same encoder; name two, or '
        'leave cache2 out'
      )
    told |= {f'text{n}_dim': found.dim, f'encoder{n}': found.encoder}
    options = {'encode': found.lookup, 'name': found.encoder}
    texts.append(options | {'known': found, 'ending': n})
  return Conditions(text='embeddings', **told), texts


def model(config, told: Conditions) -> unet.UNet | efficient.EfficientUNet:
  """The network, as it is trained: on crops, if `config.refine.crop` says so.

  Args:
    config: the whole config.
    told: what it is told of a video, from `data` or from a checkpoint.

  Raises:
    ConfigError: if sizes do not fit together, or labels are asked for and the
      data have none.
  """
  c, seen = config.model, refine.of_config(config)
  if c.labels and not told.classes:
    raise errors.ConfigError(
      'config.model.labels is True, but the data has no classes; set it to '
      'False or, for a folder of class folders, config.data.classes to True'
    )
  make = config_lib.choose('config.model.kind', c.kind, NETWORKS)
  network = make(c)(
    channels=c.channels,
    multipliers=c.multipliers,
    attention_resolutions=c.attention_resolutions,
    head_dim=c.head_dim,
    emb_dim=c.emb_dim,
    emb_layers=c.emb_layers,
    num_classes=len(told.classes),
    vocabulary=len(told.words),
    text_dim=told.text_dim,
    text2_dim=told.text2_dim,
    cross_attention=c.cross_attention,
    num_strides=len(told.strides),
    extra_channels=seen.form.channels if seen else 0,
    augmented=bool(seen and seen.augment),
    groups=c.groups,
    dropout=c.dropout,
    image_mode=c.image_mode,
    max_distance=config.data.frames - 1,
    frame_positions=c.frame_positions,
    temporal=c.temporal,
    temporal_convolution=c.temporal_convolution,
    dtype=jnp.dtype(c.dtype),
    remat=c.remat,
  )
  size = refine.training_size(config)
  network.validate((config.data.frames, size, size, 3))
  refine.for_whole_frames(config, network)  # a mistake in it ends here
  return network


def _unet(c):
  if c.level_blocks:
    raise errors.ConfigError(
      f'config.model.level_blocks is {c.level_blocks}, which only the kind '
      "'efficient' has; leave it empty, and set config.model.blocks"
    )
  return functools.partial(unet.UNet, blocks=c.blocks, resample=c.resample)


def _efficient(c):
  if c.resample != 'plain':
    raise errors.ConfigError(
      f'config.model.resample is {c.resample!r}, which only the kind '
      "'unet' has; leave it 'plain'"
    )
  blocks = c.level_blocks or (c.blocks,) * len(c.multipliers)
  return functools.partial(efficient.EfficientUNet, blocks=blocks)


NETWORKS = {'unet': _unet, 'efficient': _efficient}


def optimizer(config):
  """The optimizer, as an optax transformation."""
  c = {k: v for k, v in config.optim.items() if k != 'ema'}
  return optim.make_optimizer(steps=config.train.steps, **c)


SCHEDULES = {
  'cosine': lambda c: schedules.CosineSchedule(
    c.logsnr_min, c.logsnr_max, c.shift
  ),
  'lognormal': lambda c: schedules.LogNormalSchedule(
    c.p_mean, c.p_std, *c.interval
  ),
}


def objective(config) -> step.Objective:
  """What training minimises and sampling assumes.

  Raises:
    ConfigError: for a name that is not known, or a noise prior or schedule
      that its numbers do not make.
  """
  c = config.diffusion
  what = 'config.diffusion.'
  config_lib.choose(what + 'prediction', c.prediction, process.PREDICTIONS)
  config_lib.choose(what + 'weight', c.weight, losses.WEIGHTS)
  schedule = config_lib.choose(what + 'schedule', c.schedule, SCHEDULES)
  try:
    schedule = schedule(c)
  except ValueError as e:
    raise errors.ConfigError(f'{what}schedule {c.schedule!r}: {e}') from e
  return step.Objective(
    schedule=schedule,
    prior=_prior(c),
    prediction=c.prediction,
    weight=c.weight,
    image_frames=config.data.images,
    image_weight=config.train.image_weight,
    drop_label=config.train.drop.label,
    drop_text=config.train.drop.text,
    drop_text2=config.train.drop.text2,
    refine=refine.of_config(config),
  )


def _prior(c) -> noise.NoisePrior:
  """The noise prior, with the config's words for what is wrong with it."""
  config_lib.choose('config.diffusion.prior', c.prior, noise.KINDS)
  if c.prior != 'independent' and c.prior_alpha == 0:
    raise errors.ConfigError(
      f'config.diffusion.prior is {c.prior!r}, but with prior_alpha 0 no noise '
      'is shared; set config.diffusion.prior_alpha (PYoCo: 1 for mixed, 2 for '
      "progressive), or the prior to 'independent'"
    )
  try:
    return noise.NoisePrior(c.prior, c.prior_alpha)
  except ValueError as e:
    raise errors.ConfigError(f'config.diffusion.prior_alpha: {e}') from e


SAMPLERS = {
  'ancestral': lambda c: samplers.ancestral(c.gamma),
  'ddim': lambda c: samplers.ddim(),
  'predictor_corrector': lambda c: samplers.predictor_corrector(
    samplers.ancestral(c.gamma), c.delta
  ),
  'heun': lambda c: heun.heun(),
  'deis': lambda c: multistep.deis(c.deis_order, c.deis_variable, c.rho),
  'dpmpp_2m': lambda c: multistep.dpmpp_2m(),
}
CHURNED = ('heun', 'deis', 'dpmpp_2m')
CALLS = {'predictor_corrector': 2, 'heun': 2}  # a step; of the others one


def sampler(config) -> samplers.Sampler:
  """The sampler that `config.sample.sampler` names, with its churn.

  Raises:
    ConfigError: for an unknown name, churn of a sampler that has none, or
      numbers that make no sampler.
  """
  c = config.sample
  make = config_lib.choose('config.sample.sampler', c.sampler, SAMPLERS)
  if c.churn and c.sampler not in CHURNED:
    raise errors.ConfigError(
      f'config.sample.churn is {c.churn}, but the sampler {c.sampler!r} has no '
      f'churn; set it to 0, or the sampler to one of {", ".join(CHURNED)}'
    )
  if c.churn and c.sampler == 'deis' and c.deis_order > 2:
    raise errors.ConfigError(
      f'config.sample.churn is {c.churn}, whose noise breaks the history that '
      'order 3 extrapolates; set config.sample.deis_order to 2, or churn to 0'
    )
  numbers = c.churn, c.churn_min, c.churn_max, c.churn_noise
  try:
    return churn.churned(make(c), *numbers) if c.churn else make(c)
  except ValueError as e:
    raise errors.ConfigError(f'config.sample: {e}') from e


def levels(config, steps: int):
  """The log-SNR `[steps + 1]` of the levels that a sampling goes through.

  An expert's are those of all noise; where experts are joined, each has some.

  Raises:
    ConfigError: numbers that make no grid.
  """
  c = config.sample
  if c.grid == 'karras':
    try:
      return schedules.karras_grid(steps, c.sigma_min, c.sigma_max, c.rho)
    except ValueError as e:
      raise errors.ConfigError(f'config.sample.grid: {e}') from e
  schedule = objective(config).schedule
  if isinstance(schedule, schedules.LogNormalSchedule):
    schedule = dataclasses.replace(schedule, low=0.0, high=1.0)
  return schedules.logsnr_grid(steps, schedule)


def guidance_weight(config):
  """w_r of reconstruction guidance: a number, or a function of the log-SNR."""
  c = config.sample
  if c.weight_schedule == 'pigdm':
    return guidance.pigdm_weight(limit=c.guidance_weight)
  return c.guidance_weight
