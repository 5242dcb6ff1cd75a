"""The ranges of settings, checked before anything else."""

import difflib
import math

import ml_collections

from vdm_jax import config as config_lib
from vdm_jax import errors

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
  'diffusion.p_std',
  'refine.factor',
  'mesh.space',
  'mesh.heartbeat',
  'mesh.patience',
  'optim.learning_rate',
  'optim.eps',
  'train.batch_size',
  'train.accumulate',
  'train.steps',
  'train.log_every',
  'train.checkpoint_every',
  'train.keep',
  'train.bad_steps',
  'train.sample_count',
  'train.sample_steps',
  'sample.batch_size',
  'sample.steps',
  'sample.frame_rate',
  'sample.delta',
  'sample.churn_noise',
  'sample.sigma_min',
  'sample.sigma_max',
  'sample.rho',
  'sample.guidance_scale',
  'sample.key_stride',
  'sample.factor',
  'text.max_length',
  'evaluate.batch_size',
)
SEED = ('seed', 'sample.seed', 'analyze.seed')
SEEDS = 2**32  # JAX takes a seed modulo that
NOT_NEGATIVE = (
  'data.images',
  'data.processes',
  'data.timeout',
  'data.memory',
  'refine.crop',
  'optim.warmup',
  'optim.weight_decay',
  'optim.clip',
  'train.image_weight',
  'train.sample_every',
  'train.sample_first',
  'train.watchdog',
  'mesh.cpu_devices',
  'sample.count',
  'sample.step',
  'sample.frames',
  'sample.stride',
  'sample.overlap',
  'sample.start',
  'sample.guidance_weight',
  'sample.churn',
  'sample.churn_min',
  'sample.churn_max',
  'evaluate.samples',
  'evaluate.reference',
  'evaluate.draws',
)
FRACTION = (
  'train.drop.label',
  'train.drop.text',
  'train.drop.text2',
  'model.dropout',
  'optim.b1',
  'optim.b2',
  'optim.ema',
)
UNIT = (
  'data.bad_share',
  'optim.cooldown',
  'sample.gamma',
  'refine.augment_level',
)
# Which hold whole numbers above 0, any number of them.
SIZES = (
  'model.multipliers',
  'model.attention_resolutions',
  'model.level_blocks',
  'data.strides',
  'text.dims',
)
ENUMERATIONS = {
  'mesh.platform': ('', 'cpu', 'gpu', 'tpu'),
  'data.resize': ('crop', 'squash'),
  'data.short': ('skip', 'loop', 'error'),
  'model.dtype': ('float32', 'bfloat16'),
  'refine.kind': ('none', 'interpolate', 'upsample'),
  'sample.order': ('extension', 'interpolation'),
  'sample.grid': ('schedule', 'karras'),
  'sample.deis_variable': ('log', 'sigma', 'karras'),
  'sample.conditioning': (
    'reconstruction',
    'replacement',
    'replacement_marginal',
  ),
  'sample.weight_schedule': ('constant', 'pigdm'),
}


# Which settings belong to which noise schedule.
SCHEDULES = {
  'cosine': ('logsnr_min', 'logsnr_max', 'shift'),
  'lognormal': ('p_mean', 'p_std', 'interval'),
}


def validate(config: ml_collections.ConfigDict):
  """Raises ConfigError for the first value that is out of its range.

  What depends on tables of other modules (names of sources, samplers, the
  sizes that a network takes) is checked where the object is built.
  """
  values = _values(config)
  rules = (
    (POSITIVE, lambda v: v > 0, 'a number above 0'),
    (NOT_NEGATIVE, lambda v: v >= 0, 'a number of at least 0'),
    (SEED, lambda v: 0 <= v < SEEDS, f'a number from 0 to {SEEDS - 1}'),
    (FRACTION, lambda v: 0 <= v < 1, 'a number from 0 up to, not including, 1'),
    (UNIT, lambda v: 0 <= v <= 1, 'a number from 0 to 1'),
  )
  for keys, legal, meaning in rules:
    for key in keys:
      if not (abs(values[key]) < math.inf and legal(values[key])):
        raise errors.ConfigError(
          f'config.{key} is {values[key]}; it must be {meaning}'
        )
  for key, names in ENUMERATIONS.items():
    config_lib.choose(f'config.{key}', values[key], names)
  for key in SIZES:
    if not all(type(v) is int and v > 0 for v in values[key]):
      raise errors.ConfigError(
        f'config.{key} is {values[key]}; it must hold whole numbers above 0'
      )
  if not values['model.multipliers']:
    raise errors.ConfigError(
      'config.model.multipliers is empty; give one or '
      'more whole numbers such as 1,2,4'
    )
  if len(values['text.dims']) > 2:
    raise errors.ConfigError(
      f'config.text.dims is {values["text.dims"]}; give a number for each '
      'encoder, two at most'
    )
  _validate_schedule(values)
  _validate_refine(values)
  if values['train.image_weight'] != 1 and not values['data.images']:
    raise errors.ConfigError(
      f'config.train.image_weight is {values["train.image_weight"]}, but no '
      'images are packed behind the videos; leave it at 1.0, or set '
      'config.data.images'
    )
  if values['evaluate.frame_count'] < -1:
    raise errors.ConfigError(
      f'config.evaluate.frame_count is {values["evaluate.frame_count"]}; use '
      "−1 for the protocol's, 0 for all, or more"
    )


def _values(config: ml_collections.ConfigDict) -> dict:
  """Values by dotted keys: all that there are, each of its type.

  Sections that are not of `config.default()` belong to the modes that read
  them.
  """
  known = config_lib.flat(config_lib.default())
  try:
    values = config_lib.flat(config)
  except ml_collections.config_dict.RequiredValueError as e:
    text = ' '.join(str(e).split())
    raise errors.ConfigError(
      f'a setting has no value yet ({text[:120]}); give it one by '
      '--config.NAME=VALUE'
    ) from e
  sections = {key.partition('.')[0] for key in known}
  for key in values:
    if key not in known and key.partition('.')[0] in sections:
      near = difflib.get_close_matches(key, known, n=1)
      hint = f'did you mean config.{near[0]}?' if near else 'leave it out'
      raise errors.ConfigError(f'there is no setting config.{key}; {hint}')
  for key, default in known.items():
    if values.get(key) is None:
      raise errors.ConfigError(
        f'config.{key} has no value; give it one, as --config.{key}={default!r}'
      )
    kinds = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(values[key], kinds):
      raise errors.ConfigError(
        f'config.{key} is {values[key]!r}, a {type(values[key]).__name__}; it '
        f'must be a {type(default).__name__} such as {default!r}'
      )
  return values


def _validate_schedule(values: dict):
  low, high = (values[f'diffusion.logsnr_{end}'] for end in ('min', 'max'))
  if low >= high:
    raise errors.ConfigError(
      f'config.diffusion.logsnr_min ({low}) is not below logsnr_max ({high}); '
      'use −20 and 20'
    )
  if not math.isfinite(values['diffusion.p_mean']):
    raise errors.ConfigError(
      f'config.diffusion.p_mean is {values["diffusion.p_mean"]}; it must be a '
      'number'
    )
  mass = values['diffusion.interval']
  if not (
    len(mass) == 2
    and all(isinstance(u, int | float) for u in mass)
    and 0 <= mass[0] < mass[1] <= 1
  ):
    raise errors.ConfigError(
      f'config.diffusion.interval is {mass}; it must hold two growing numbers '
      'from 0 to 1, such as 0.5,1.0 for the upper half of the noise levels'
    )
  _validate_owners(values)


def _validate_owners(values: dict):
  """Raises ConfigError for what another schedule than the chosen one has."""
  unset, chosen = config_lib.default().diffusion, values['diffusion.schedule']
  if chosen not in SCHEDULES:
    return  # which is said where the schedule is built
  for owner in SCHEDULES.keys() - {chosen}:
    for key in SCHEDULES[owner]:
      value = values[f'diffusion.{key}']
      if value != unset[key]:
        raise errors.ConfigError(
          f'config.diffusion.{key} is {value}, which the schedule {chosen!r} '
          f'does not have; set it to {unset[key]}, or '
          f'config.diffusion.schedule to {owner!r}'
        )


def _validate_refine(values: dict):
  level, kind = values['refine.augment_level'], values['refine.kind']
  unset = config_lib.default().refine.augment_level
  if level != unset and (kind == 'none' or not values['refine.augment']):
    raise errors.ConfigError(
      f'config.refine.augment_level is {level}, but no noise is added to what '
      f'the model sees (kind {kind!r}, augment {values["refine.augment"]}); '
      f'leave it at {unset}'
    )
