"""What ties a checkpoint to a config, and configs as JSON."""

import difflib
import json
import os
from collections.abc import Iterable

import ml_collections

from vdm_jax import errors
from vdm_jax.config import default, flat, flat_dict

# Settings whose names hold one of these are secrets, if they are not ours.
SECRETS = ('token', 'key', 'secret', 'password', 'passwd', 'credential')
REDACTED = '(redacted)'

# What a checkpoint is tied to. The rest may change between two starts.
IDENTITY = (
  'seed',
  'data.source',
  'data.path',
  'data.frames',
  'data.size',
  'data.stride',
  'data.strides',
  'data.flip',
  'data.images',
  'data.image_path',
  'data.list',
  'data.resize',
  'data.short',
  'data.classes',
  'text.kind',
  'text.captions',
  'text.max_length',
  'model',
  'diffusion',
  'refine',
  'optim',
  'train.batch_size',
  'train.image_weight',
  'train.drop',
)
# These change how a model is computed or sampled, not what it is.
NOT_IDENTITY = ('model.remat', 'refine.augment_level')

# What the samples of a checkpoint depend on. Where the data lie is no part of
# it: what a model is told of them is compared by its content.
SAMPLED = (*IDENTITY, 'sample')
SHOWN = (  # or noted beside them
  'sample.frame_rate',
  'sample.arrays',
  'sample.batch_size',
  'sample.step',
)
NOT_SAMPLED = (
  'data.path',
  'data.image_path',
  'data.list',
  'model.remat',
  *SHOWN,
)


def redacted(tree: dict) -> dict:
  """A tree of settings without those that by their names are secrets."""
  ours = {name.rpartition('.')[2] for name in flat(default())}

  def value_of(name, value):
    if isinstance(value, dict):
      return {k: value_of(k, v) for k, v in value.items()}
    secret = name not in ours and any(s in name.lower() for s in SECRETS)
    return REDACTED if secret else value

  return value_of('', tree)


def public(config: ml_collections.ConfigDict) -> dict:
  """Values by dotted keys, to be shown or kept; see `redacted`."""
  return flat_dict(redacted(config.to_dict()))


def to_json(config: ml_collections.ConfigDict) -> str:
  """The resolved settings of a model as JSON text, keys sorted."""
  known = default().keys()
  values = {k: v for k, v in config.to_dict().items() if k in known}
  values = redacted(values)
  return json.dumps(values, indent=2, sort_keys=True) + '\n'


def from_json(text: str) -> ml_collections.ConfigDict:
  """The settings of `to_json`, checked against today's names and types.

  Raises:
    ConfigError: if the text is not JSON or has a key that is not known.
  """
  try:
    saved = flat_dict(json.loads(text))
  except (ValueError, AttributeError) as e:
    raise errors.ConfigError(
      f'a saved config is not readable JSON ({e}); restore config.json from a '
      'backup or start a new workdir'
    ) from e
  config = default()
  known = flat(config)
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
      k: _tuples(v) if isinstance(known[k], tuple) else v
      for k, v in saved.items()
    }
  )
  return config.lock()


def among(key: str, settings: Iterable[str]) -> bool:
  """Whether a dotted key is one of these settings, or within a section."""
  return any(key == s or key.startswith(f'{s}.') for s in settings)


def counted(config, tied=IDENTITY, free=NOT_IDENTITY) -> dict:
  """The values, by dotted keys, of the settings that count.

  Args:
    config: the settings.
    tied: the settings and sections that count.
    free: those of them that do not.
  """
  values = flat(config).items()
  return {k: v for k, v in values if among(k, tied) and not among(k, free)}


def differences(saved, config, tied=IDENTITY, free=NOT_IDENTITY) -> list[str]:
  """What ties a checkpoint to `saved` and is another in `config`, as text.

  Args:
    saved: the settings of the checkpoint.
    config: the settings of now.
    tied: see `counted`.
    free: likewise.
  """
  old, new = counted(saved, tied, free), counted(config, tied, free)
  for values in (old, new):
    if values.get('data.path'):
      values['data.path'] = os.path.realpath(values['data.path'])
  return [f'{k}: {old[k]} → {new[k]}' for k in old if old[k] != new[k]]


def _tuples(value):
  """What JSON made lists, as the tuples that settings hold."""
  if isinstance(value, list | tuple):
    return tuple(_tuples(v) for v in value)
  return value


def refuse_other(saved: str, config, *, what: str, advice: str):
  """Raises CheckpointError unless `config` continues what `saved` began.

  Args:
    saved: JSON of `to_json`.
    config: the settings of now.
    what: has the saved settings, as the message calls it.
    advice: what to do about it.
  """
  found = differences(from_json(saved), config)
  if found:
    raise errors.CheckpointError(
      f'{what} is of another config ({"; ".join(found[:3])}); {advice}'
    )
