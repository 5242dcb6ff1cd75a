"""The command line: its flags, and what they ask for."""

import contextlib
import difflib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from vdm_jax import config_file, errors

# Each mode is a module with `run(config, workdir)`, imported when it is asked
# for, so that a mistake in a flag is answered at once.
MODES = {
  'train': 'vdm_jax.train',
  'sample': 'vdm_jax.sample',
  'cascade': 'vdm_jax.cascade',
  'embed': 'vdm_jax.embed',
  'table': 'vdm_jax.reproduce',
  'benchmark': 'vdm_jax.benchmark',
  'analyze': 'vdm_jax.analyze',
  'features': 'vdm_jax.train_features',
  'evaluate': 'vdm_jax.evaluate',
}
# For machines that need not be there; alone wherever it runs.
MODES |= {'plan': 'vdm_jax.plan'}
# Takes no config, but flags of its own.
MODES |= {'convert': 'vdm_jax.convert'}
CONVERSION = ('weights', 'network', 'out')
PROCESSES = ('coordinator', 'processes', 'process')
SAVED_CONFIG = pathlib.Path(__file__).with_name('saved_config.py')
TABLES = pathlib.Path(__file__).parents[1] / 'configs' / 'repro'
SCALES = ('small', 'paper')
# Flags of absl that would take others from a file, or let wrong ones pass.
REFUSED = ('flagfile', 'undefok')


class Command(NamedTuple):
  """What a command line asks for.

  Attributes:
    config: the settings, checked and locked.
    workdir: absolute.
    mode: one of MODES.
    processes: what the flags say of the other processes; for `cluster.place`.
    target: of the mode `plan`; '' for its own.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  mode: str
  processes: dict[str, Any]
  target: str


def parse(argv: list[str]) -> Command:
  """The command of a command line, the program's name first.

  Raises:
    UserError: for whatever is wrong with it.
  """
  argv = with_saved_config(with_table(argv))
  values = _read(argv)
  foreign = [k for k in CONVERSION if values[k].present]
  if foreign:
    raise errors.ConfigError(
      f'--{foreign[0]} is for --mode=convert; leave it out'
    )
  mode = values['mode'].value
  if values['target'].present and mode != 'plan':
    raise errors.ConfigError('--target is for --mode=plan; leave it out')
  config = values['config'].value
  if config is None:
    raise errors.ConfigError(
      'no --config given; for example --config=configs/shapes.py, or --workdir '
      'of an earlier run together with --mode=sample'
    )
  from vdm_jax import validation

  validation.validate(config)
  folder = values['workdir'].value or f'runs/{config.name}'
  return Command(
    config,
    pathlib.Path(folder).expanduser().absolute(),
    mode,
    {k: values[k].value for k in PROCESSES},
    values['target'].value,
  )


def conversion(argv: list[str]) -> dict[str, str]:
  """The flags of `--mode=convert`, by name.

  Raises:
    ConfigError: one is not known, or for another mode.
  """
  values = flag_values()
  _refuse(argv)
  try:
    rest = values(argv)
  except flags.Error as e:
    raise errors.ConfigError(f'{errors.text(e)}; see --help') from e
  given = [k for k in values if values[k].present]
  foreign = [k for k in given if k not in (*CONVERSION, 'mode', 'debug')]
  if foreign or len(rest) > 1:
    what = f'--{foreign[0]}' if foreign else repr(rest[1])
    raise errors.ConfigError(
      f'{what} is not for --mode=convert; give --weights, --network and --out'
    )
  return {k: values[k].value for k in CONVERSION}


def _read(argv: list[str]) -> flags.FlagValues:
  """The values of all flags, and in that of `config` the settings."""
  _refuse(argv)
  paths = [_split(value)[0] for value in options(argv, 'config')]
  for path in paths:
    config_file.check(path)
  sys.modules.pop('config_config', None)  # or the next one would add to it
  values = flag_values(argv)
  try:
    rest = values(argv)
    config = values['config'].value
    if paths and not isinstance(config, ml_collections.ConfigDict):
      raise errors.ConfigError(_no_config(config, paths))
    if paths:
      config.lock()  # a file that failed to load raises only when used
  except errors.UserError:
    raise
  except flags.Error as e:
    raise errors.ConfigError(_wrong_value(e, argv, paths)) from e
  except Exception as e:
    # Whatever a config file raises is a mistake in the config.
    raise errors.ConfigError(_explained(e, argv, paths)) from e
  if len(rest) > 1:
    raise errors.ConfigError(
      f'unexpected argument {rest[1]!r}; options are written --name=value'
    )
  return values


def _wrong_value(error, argv, paths) -> str:
  """What is wrong with a flag, or with the value of an override."""
  text = errors.text(error)
  if 'whilst parsing config file' in text:
    return config_file.explain(error, paths[-1])
  for name in _overrides(argv):
    if name in text and (value := _default(name)) is not None:
      return f'{text}; give it a value such as {value!r}'
  return f'{text}; see --help'


def _explained(error, argv, paths) -> str:
  """What is wrong with the name of an override, or else with a config."""
  if "'get_config'" in str(error):
    return (
      f'the config file {paths[-1]} has no get_config; define get_config('
      "variant=''), as the files of configs/ do"
    )
  config = None
  with contextlib.suppress(Exception):
    config = _bare(argv)
    if not isinstance(config, ml_collections.ConfigDict):
      return _no_config(config, paths)
  for name in _overrides(argv) if config else ():
    if problem := _unknown(config, name):
      return problem
  return config_file.explain(error, paths[-1] if paths else '')


def _no_config(value, paths) -> str:
  return (
    f'get_config of {paths[-1]} returns no ConfigDict '
    f'({type(value).__name__}); let it return config.default(), changed'
  )


def _bare(argv: list[str]):
  """What the config file returns, without any override."""
  argv = [argv[0], f'--config={options(argv, "config")[-1]}']
  values = flag_values(argv)
  values(argv)
  return values['config'].value


def _overrides(argv: list[str]) -> list[str]:
  names = [arg.partition('=')[0].lstrip('-') for arg in argv[1:]]
  return [name for name in names if name.startswith('config.')]


def _default(name: str):
  """The default of a setting, 'config.train.steps' for example, or None."""
  from vdm_jax import config as config_lib

  known = config_lib.flat(config_lib.default())
  return known.get(name.removeprefix('config.'))


def _unknown(config, name: str) -> str | None:
  """Says that a config has no such setting; None if it has."""
  before = 'config'
  for part in name.split('.')[1:]:
    part = part.partition('[')[0]
    if not isinstance(config, ml_collections.ConfigDict):
      return f'{before} is a value, and has no {part}; leave that out'
    if part not in config:
      near = difflib.get_close_matches(part, list(config), n=1)
      hint = f'did you mean {before}.{near[0]}?' if near else ''
      there = f'there are {", ".join(config)}'
      return f'there is no setting {before}.{part}; {hint or there}'
    config, before = config[part], f'{before}.{part}'
  return None


def _refuse(argv: list[str]):
  for name in REFUSED:
    if options(argv, name):
      raise errors.ConfigError(
        f'--{name} is not for this program; write the options themselves'
      )


def _split(value: str) -> tuple[str, str]:
  """The file and the variant of a --config."""
  if '://' in value:
    return value, ''
  path, _, variant = value.partition(':')
  return path, variant


def flag_values(argv: Sequence[str] = ()) -> flags.FlagValues:
  """The flags, in a set of their own: a process may parse several times.

  Args:
    argv: where the flag of the config looks for its overrides.
  """
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config',
    None,
    'The experiment: a file of configs/, with overrides.',
    flag_values=values,
    sys_argv=list(argv),
  )
  flags.DEFINE_enum(
    'mode', 'train', list(MODES), 'What to do.', flag_values=values
  )
  flags.DEFINE_string(
    'workdir',
    None,
    'The folder of the run: checkpoints, metrics, samples.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'table',
    None,
    'With --mode=table: one of configs/repro, such as vdm6 or pyoco5.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'scale',
    None,
    'Of the table: small, in minutes to hours on two cores; or paper.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'target',
    '',
    'With --mode=plan: here, or a chip and a topology such as v4:4x4x8, '
    'v5e:16x16, v5p:4x4x4, v6e:16x16.',
    flag_values=values,
  )
  _define_conversion(values)
  _define_processes(values)
  flags.DEFINE_bool(
    'debug', False, 'Show tracebacks and all messages.', flag_values=values
  )
  return values


def _define_conversion(values):
  flags.DEFINE_string(
    'weights',
    '',
    'With --mode=convert: a file of weights, or several with commas between.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'network',
    '',
    'That they are of: i3d, c3d, inception or clip.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'out',
    '',
    'The file to write, or its folder; beside the weights if empty.',
    flag_values=values,
  )


def _define_processes(values):
  flags.DEFINE_string(
    'coordinator',
    '',
    'Of several processes: host:port of the first one. Clusters that JAX knows '
    '(TPU pods, Slurm, Open MPI) need none of these three.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'processes', 0, 'How many there are; 1: alone.', flag_values=values
  )
  flags.DEFINE_integer(
    'process', -1, 'Which one this is, from 0.', flag_values=values
  )


def table_files() -> dict[str, pathlib.Path]:
  """The configs of the tables: `vdm6` is `configs/repro/vdm_table6.py`."""
  return {p.stem.replace('_table', ''): p for p in TABLES.glob('*.py')}


def with_table(argv: list[str]) -> list[str]:
  """Adds `--config` for a command that names a table of the papers.

  Raises:
    ConfigError: there is no such table or scale, or a config besides.
  """
  name, scale = option(argv, 'table'), option(argv, 'scale')
  if name is None:
    if scale is not None:
      raise errors.ConfigError('--scale is for --table=NAME; give both')
    return argv
  files = table_files()
  if not files:
    raise errors.ConfigError(
      f'the configs of the tables are not there ({TABLES}); install from a '
      'clone with pip install -e . and keep it'
    )
  if name not in files:
    raise errors.ConfigError(
      f'no table {name!r}; use one of {", ".join(sorted(files))}'
    )
  if scale not in (None, *SCALES):
    raise errors.ConfigError(
      f'--scale is {scale!r}; it must be {" or ".join(SCALES)}'
    )
  if option(argv, 'config') is not None:
    raise errors.ConfigError('--table and --config are both given; use one')
  if option(argv, 'mode') not in (None, 'table'):
    raise errors.ConfigError('--table is for --mode=table; leave one out')
  variant = '' if scale in (None, 'small') else f':{scale}'
  config = f'--config={files[name]}{variant}'
  return [argv[0], '--mode=table', config, *argv[1:]]


def with_saved_config(argv: list[str]) -> list[str]:
  """Adds `--config` for a command that names a workdir but no config.

  A workdir holds its resolved config, so sampling needs nothing else, and
  overrides such as `--config.sample.count=4` still apply.
  """
  workdir = option(argv, 'workdir')
  if workdir is None or option(argv, 'config') is not None:
    return argv
  saved = pathlib.Path(workdir).expanduser() / 'config.json'
  if not saved.is_file():
    raise errors.CheckpointError(
      f'{saved.parent} holds no run (there is no config.json in it); give '
      '--config to start one there, or the workdir of an earlier run'
    )
  return [argv[0], f'--config={SAVED_CONFIG}:{saved}', *argv[1:]]


def options(argv: list[str], name: str) -> list[str]:
  """Each value of `--name=value` or `--name value` in a command line."""
  found = []
  for arg, following in zip(argv, [*argv[1:], ''], strict=True):
    flag, equals, value = arg.partition('=')
    if flag in (f'-{name}', f'--{name}'):
      found.append(value if equals else following)
  return found


def option(argv: list[str], name: str) -> str | None:
  """The first of these values, or None."""
  return next(iter(options(argv, name)), None)
