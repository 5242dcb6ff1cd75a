"""Every setting of the program, with its default, its range and its meaning.

A file in `configs/` starts from `default()` and changes what its experiment
changes. A run stores the resolved settings as JSON in its workdir; sampling
starts from that JSON, so no config file is run again.
"""

import difflib
import json
import math
import os

import ml_collections

from vdm_jax import errors


def default() -> ml_collections.ConfigDict:
  """All settings. 'ours' marks a value that neither paper gives."""
  c = ml_collections.ConfigDict()
  c.name = 'vdm'
  c.seed = 0

  c.data = ml_collections.ConfigDict()
  c.data.source = 'shapes'  # one of build.SOURCES
  c.data.path = ''  # the folder; for ucf101, the TFDS data folder
  c.data.videos = ''  # ucf101: the official layout, to prepare from
  c.data.frames = 16
  c.data.size = 64  # height and width, pixels
  c.data.stride = 1  # every stride-th frame of the video (frameskip)
  c.data.resize = 'crop'  # crop: keep the aspect, cut; squash: do not
  c.data.short = 'skip'  # clips that are too short: skip, loop or error
  c.data.classes = False  # folder: sub-folders are classes
  c.data.workers = 2  # threads that decode ahead

  c.model = ml_collections.ConfigDict()
  c.model.channels = 128
  c.model.multipliers = (1, 2, 4, 8)
  c.model.blocks = 2  # residual blocks per resolution
  c.model.attention_resolutions = (8, 16, 32)
  c.model.head_dim = 64
  c.model.emb_dim = 1024
  c.model.emb_layers = 4
  c.model.groups = 32  # of GroupNorm
  c.model.dropout = 0.0
  c.model.resample = 'plain'  # plain (VDM) or residual (PYoCo)
  c.model.image_mode = 'self_attend'  # packed images; or bypass
  c.model.labels = False  # condition on the class
  c.model.dtype = 'bfloat16'  # of the computation; parameters are float32
  c.model.remat = 'none'  # recompute activations: none, attention, block

  c.diffusion = ml_collections.ConfigDict()
  c.diffusion.prediction = 'eps'  # eps, v or x
  c.diffusion.weight = 'eps'  # weighting of the loss, a name in losses.py
  c.diffusion.logsnr_min = -20.0
  c.diffusion.logsnr_max = 20.0
  c.diffusion.prior = 'independent'

  c.optim = ml_collections.ConfigDict()
  c.optim.learning_rate = 3e-4
  c.optim.warmup = 1000  # steps; ours
  c.optim.b1 = 0.9
  c.optim.b2 = 0.99
  c.optim.eps = 1e-8  # ours
  c.optim.weight_decay = 0.0
  c.optim.clip = 1.0  # global gradient norm, 0 for none; ours
  c.optim.ema = 0.9999

  c.train = ml_collections.ConfigDict()
  c.train.batch_size = 128  # clips a step, over all devices
  c.train.accumulate = 1  # micro-batches a step
  c.train.steps = 60_000
  c.train.log_every = 50
  c.train.checkpoint_every = 1000
  c.train.keep = 3  # newest checkpoints kept
  c.train.sample_every = 5000  # 0: only at the end
  c.train.sample_count = 16  # clips of the samples made while training
  c.train.sample_steps = 64
  c.train.tensorboard = False  # needs the extra `tensorboard`

  c.mesh = ml_collections.ConfigDict()
  c.mesh.data = -1  # −1: what fsdp leaves
  c.mesh.fsdp = 1
  c.mesh.cpu_devices = 0  # split a CPU into so many devices; 0: do not

  c.sample = ml_collections.ConfigDict()
  c.sample.count = 64  # 0: none after training
  c.sample.batch_size = 16
  c.sample.seed = 0
  c.sample.sampler = 'ancestral'  # one of build.SAMPLERS
  c.sample.steps = 256
  c.sample.gamma = 0.1  # log-variance interpolation of `ancestral`
  c.sample.delta = 0.1  # step size of `predictor_corrector`
  c.sample.label = -1  # a class for every clip; −1: all classes in turn
  c.sample.frame_rate = 8.0  # of the files written, frames a second
  c.sample.arrays = False  # write raw .npy files too
  return c


# What a checkpoint is tied to. The rest may change between two starts.
IDENTITY = (
  'seed',
  'data.source',
  'data.path',
  'data.frames',
  'data.size',
  'data.stride',
  'data.resize',
  'data.short',
  'data.classes',
  'model',
  'diffusion',
  'optim',
  'train.batch_size',
)
# These change how a model is computed, not what it is.
NOT_IDENTITY = ('model.remat',)

POSITIVE = (
  'data.frames',
  'data.size',
  'data.stride',
  'data.workers',
  'model.channels',
  'model.blocks',
  'model.head_dim',
  'model.emb_dim',
  'model.emb_layers',
  'model.groups',
  'optim.learning_rate',
  'optim.eps',
  'train.batch_size',
  'train.accumulate',
  'train.steps',
  'train.log_every',
  'train.checkpoint_every',
  'train.keep',
  'train.sample_count',
  'train.sample_steps',
  'sample.batch_size',
  'sample.steps',
  'sample.frame_rate',
  'sample.delta',
)
NOT_NEGATIVE = (
  'optim.warmup',
  'optim.weight_decay',
  'optim.clip',
  'train.sample_every',
  'mesh.cpu_devices',
  'sample.count',
)
FRACTION = ('model.dropout', 'optim.b1', 'optim.b2', 'optim.ema')
ENUMERATIONS = {
  'data.resize': ('crop', 'squash'),
  'data.short': ('skip', 'loop', 'error'),
  'model.dtype': ('float32', 'bfloat16'),
}


def variant(config: ml_collections.ConfigDict, name: str, **choices: dict):
  """Applies the changes that `--config=file.py:NAME` asks for.

  Args:
    config: changed in place.
    name: the text behind the colon; '' leaves the config alone.
    **choices: per name, a flat dict of dotted keys and their values.

  Returns:
    The config, locked.

  Raises:
    ConfigError: if there is no such variant.
  """
  if name and name not in choices:
    raise errors.ConfigError(
      f'no variant {name!r} of this config; leave it out or use one of '
      f'{", ".join(choices)}'
    )
  config.update_from_flattened_dict(choices.get(name, {}))
  if name:
    config.name = f'{config.name}_{name}'
  return config.lock()


def validate(config: ml_collections.ConfigDict):
  """Raises ConfigError for the first value that is out of its range.

  What depends on tables of other modules (names of sources, samplers, the
  sizes that a network takes) is checked where the object is built.
  """
  flat = _flat(config)
  rules = (
    (POSITIVE, lambda v: v > 0, 'a number above 0'),
    (NOT_NEGATIVE, lambda v: v >= 0, 'a number of at least 0'),
    (FRACTION, lambda v: 0 <= v < 1, 'a number from 0 up to, not including, 1'),
    (('sample.gamma',), lambda v: 0 <= v <= 1, 'a number from 0 to 1'),
  )
  for keys, legal, meaning in rules:
    for key in keys:
      if not (math.isfinite(flat[key]) and legal(flat[key])):
        raise errors.ConfigError(
          f'config.{key} is {flat[key]}; it must be {meaning}'
        )
  for key, names in ENUMERATIONS.items():
    choose(f'config.{key}', flat[key], names)
  for key in ('model.multipliers', 'model.attention_resolutions'):
    if not all(isinstance(v, int) and v > 0 for v in flat[key]):
      raise errors.ConfigError(
        f'config.{key} is {flat[key]}; it must hold whole numbers above 0'
      )
  if not flat['model.multipliers']:
    raise errors.ConfigError(
      'config.model.multipliers is empty; give one or '
      'more whole numbers such as 1,2,4'
    )
  if flat['diffusion.logsnr_min'] >= flat['diffusion.logsnr_max']:
    raise errors.ConfigError(
      f'config.diffusion.logsnr_min ({flat["diffusion.logsnr_min"]}) is not '
      f'below logsnr_max ({flat["diffusion.logsnr_max"]}); use −20 and 20'
    )


def choose(what: str, name: str, table):
  """table[name], or name itself for a tuple; ConfigError if it has none.

  Args:
    what: how the message calls the setting, such as 'config.data.source'.
    name: the chosen name.
    table: a dict from names to values, or a tuple of names.
  """
  if name not in table:
    near = difflib.get_close_matches(name, table, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ';'
    raise errors.ConfigError(
      f'{what} is {name!r}{hint} it must be one of {", ".join(table)}'
    )
  return table[name] if isinstance(table, dict) else name


def to_json(config: ml_collections.ConfigDict) -> str:
  """The resolved settings as JSON text, keys sorted."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def from_json(text: str) -> ml_collections.ConfigDict:
  """The settings of `to_json`, checked against today's names and types.

  Raises:
    ConfigError: if the text is not JSON or has a key that is not known.
  """
  try:
    saved = _flat_dict(json.loads(text))
  except (ValueError, AttributeError) as e:
    raise errors.ConfigError(
      f'a saved config is not readable JSON ({e}); restore config.json from a '
      'backup or start a new workdir'
    ) from e
  config = default()
  known = _flat(config)
  unknown = sorted(set(saved) - set(known))
  if unknown:
    near = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise errors.ConfigError(
      f'a saved config has the unknown key {unknown[0]}{hint}; it was written '
      'by another version of this program'
    )
  config.update_from_flattened_dict(
    {
      k: tuple(v) if isinstance(known[k], tuple) else v
      for k, v in saved.items()
    }
  )
  return config.lock()


def differences(saved, config) -> list[str]:
  """What ties a checkpoint to `saved` and is another in `config`, as text."""
  old, new = _flat(saved), _flat(config)
  tied = [
    k
    for k in old
    if k not in NOT_IDENTITY
    and any(k == i or k.startswith(i + '.') for i in IDENTITY)
  ]
  for flat in (old, new):
    if flat['data.path']:
      flat['data.path'] = os.path.realpath(flat['data.path'])
  return [f'{k}: {old[k]} → {new[k]}' for k in tied if old[k] != new[k]]


def _flat(config: ml_collections.ConfigDict) -> dict:
  return _flat_dict(config.to_dict())


def _flat_dict(tree: dict, prefix: str = '') -> dict:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat_dict(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat
