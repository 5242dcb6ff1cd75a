"""What is checked before a run begins, beside the ranges of its settings."""

import dataclasses

from vdm_jax import build, distributed, ensemble, errors, runtime
from vdm_jax import config as config_lib
from vdm_jax.conditions import TEXT_KINDS, Conditions
from vdm_jax.data import pipeline
from vdm_jax.data.source import Source
from vdm_jax.text import words


def settings(config):
  """What can be checked without the data, for to read them may take long.

  Raises:
    ConfigError: a name is unknown, or numbers do not fit together.
  """
  config_lib.choose('config.data.source', config.data.source, build.SOURCES)
  _check_unread(config.data)
  config_lib.choose('config.text.kind', config.text.kind, TEXT_KINDS)
  build.objective(config)
  build.sampler(config)
  ensemble.check_training(config)
  # Whatever the network is told, its sizes must fit.
  silent = {'model.labels': False, 'model.cross_attention': False}
  build.model(config_lib.varied(config, silent), Conditions())


def _check_unread(c):
  """ConfigError for a setting that this source of data does nothing with."""
  plain = config_lib.default().data
  named = {name for names in build.READ.values() for name in names}
  unread = named - set(build.READ[c.source])
  if c.images and c.image_path:
    unread.discard('resize')
  elif c.image_path:
    raise errors.ConfigError(
      f'config.data.image_path is {c.image_path!r}, but config.data.images is '
      '0; set how many images each video gets, or leave the path out'
    )
  for name in sorted(unread):
    if c[name] != plain[name]:
      others = [s for s in build.READ if name in build.READ[s]]
      raise errors.ConfigError(
        f'config.data.{name} is {c[name]!r}, which the source {c.source!r} has '
        f'no use for; leave it out, or set config.data.source: '
        f'{", ".join(others)} read it'
      )


def same_data(source: Source, told: Conditions, config):
  """Compares what the processes have read, before any of them compiles.

  Of other data each would draw clips of its own, and told of other classes or
  words they would compile programs that wait for each other for ever.

  Raises:
    DataError: a process has other data than the first.
  """
  signature = pipeline.data_signature(
    source, batch_size=config.train.batch_size, seed=config.seed
  )
  distributed.check_same(
    'data',
    signature | {'told': dataclasses.asdict(told)},
    error=errors.DataError,
    advice='bring the same files to all machines, or name one folder that they '
    'share',
  )


def data(source: Source, config):
  """Says what there is to train on, and whether a batch can be made of it.

  A clip is a part of a video: a long one has as many as it has frames. Too few
  are a wrong folder, often; `config.data.repeat` says that they are meant.

  Raises:
    DataError: a batch would hold a clip twice.
  """
  runtime.say(describe(source))
  if config.text.kind == 'words':
    most = config.text.max_length
    long = sum(len(words.split(text)) > most for text in source.captions())
    if long:
      runtime.say(
        f'{long} captions have more than {most} words and are cut; '
        'config.text.max_length sets how many count'
      )
  clips, batch = getattr(source, 'clips', len(source)), config.train.batch_size
  if clips < batch and not config.data.repeat:
    raise errors.DataError(
      f'the data has fewer different clips than a batch ({clips} of {batch}); '
      f'bring more, set config.train.batch_size to {max(1, clips)} or less, or '
      'config.data.repeat to True'
    )


def describe(source, most: int = 20) -> str:
  """What there is to train on, and what is left out and why."""
  problems = getattr(source, 'problems', ())
  lines = [f'{len(source)} videos or clips to draw from']
  lines += [f'  not used: {path}: {reason}' for path, reason in problems[:most]]
  if len(problems) > most:
    lines.append(f'  … and {len(problems) - most} more')
  return '\n'.join(lines)
