"""The command: `python -m vdm_jax.main --config=configs/shapes.py`."""

import importlib
import os
import pathlib
import sys
import traceback

from absl import flags
from ml_collections import config_flags

from vdm_jax import errors

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
# These save and leave when they are asked to stop.
SAVING = ('train', 'table')
PROCESSES = ('coordinator', 'processes', 'process')
SAVED_CONFIG = pathlib.Path(__file__).with_name('saved_config.py')
TABLES = pathlib.Path(__file__).parents[1] / 'configs' / 'repro'
SCALES = ('small', 'paper')


def main(argv: list[str]) -> int:
  """Runs one mode.

  Args:
    argv: the command line, the program's name first.

  Returns:
    The exit status: 0, or that of the `UserError` which ended the run.
  """
  if '--help' in argv or '-h' in argv:
    values, *_ = _flags()
    print(f'{__doc__}\n{values.get_help()}')
    return 0
  debug = any(a in ('--debug', '--debug=true') for a in argv)
  try:
    if _option(argv, 'mode') == 'convert':
      return _convert(argv, debug=debug)
    config, workdir, mode, processes = _parse(argv)
    if mode == 'plan':
      return _plan(config, workdir, _option(argv, 'target'), debug=debug)
    return _run(config, workdir, mode, processes, debug=debug)
  except errors.UserError as e:
    if debug:
      raise
    return _told(e)


def _told(error: errors.UserError) -> int:
  """Prints the line of an error; returns its status."""
  stops = isinstance(error, errors.Preempted | errors.RetryError)
  kind = 'stopped' if stops else 'error'
  print(f'vdm_jax: {kind}: {error}', file=sys.stderr, flush=True)
  return error.status


def _run(config, workdir, mode: str, processes: dict, *, debug: bool) -> int:
  """Runs a mode, alone or as one of several processes."""
  from vdm_jax import cluster, distributed, runtime
  from vdm_jax import config as config_lib

  c = config.mesh
  runtime.start(cpu_devices=c.cpu_devices, debug=debug)
  distributed.start(
    cluster.place(**processes),
    heartbeat=c.heartbeat,
    patience=c.patience,
    preemption=mode in SAVING,
  )
  try:
    settings = {f'config.{k}': v for k, v in config_lib.flat(config).items()}
    command = {'--mode': mode, '--workdir': str(workdir)}
    distributed.check_same(command | settings | runtime.versions(), c.patience)
    importlib.import_module(MODES[mode]).run(config, workdir)
    if distributed.active():
      distributed.finish()
      # At the interpreter's end, threads that wait in JAX would abort.
      runtime.leave(0)
  except errors.Preempted:
    distributed.finish()
    raise
  except BaseException as e:
    if not distributed.active():
      raise
    return _failed(e, c.heartbeat, debug=debug)
  return 0


def _plan(config, workdir, target: str | None, *, debug: bool) -> int:
  """Runs the plan, which knows where it is planned for."""
  # Before JAX is there: what the partitioner says while a plan compiles.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  from vdm_jax import plan, runtime

  runtime.start(cpu_devices=config.mesh.cpu_devices, debug=debug)
  plan.run(config, workdir, **({'target': target} if target else {}))
  return 0


def _failed(error: BaseException, heartbeat: float, *, debug: bool) -> int:
  """Ends one of several processes, and with it the others."""
  from vdm_jax import distributed

  distributed.suspect(error, heartbeat)
  if isinstance(error, errors.UserError) and not debug:
    status = _told(error)
  else:
    traceback.print_exception(error)
    status = getattr(error, 'status', 1)
  lines = str(error).splitlines() or [type(error).__name__]
  distributed.fail(status, lines[0])
  return status


def _convert(argv: list[str], *, debug: bool) -> int:
  """Runs the conversion of weights, which has flags of its own."""
  values, *_ = _flags()
  try:
    rest = values(argv)
  except flags.Error as e:
    raise errors.ConfigError(f'{" ".join(str(e).split())}; see --help') from e
  given = [k for k in values if values[k].present]
  foreign = [k for k in given if k not in (*CONVERSION, 'mode', 'debug')]
  if foreign or len(rest) > 1:
    what = f'--{foreign[0]}' if foreign else repr(rest[1])
    raise errors.ConfigError(
      f'{what} is not for --mode=convert; give --weights, --network and --out'
    )
  from vdm_jax import convert, runtime

  runtime.start(debug=debug)
  convert.run(**{k: values[k].value for k in CONVERSION})
  return 0


def _parse(argv: list[str]):
  """The config, the workdir, the mode and the place of a command line."""
  argv = with_saved_config(with_table(argv))
  sys.argv = argv  # where the config's flag looks for its overrides
  values, config, mode, workdir = _flags()
  try:
    rest = values(argv)
    if config.value is not None:
      config.value.lock()  # a file that failed to load raises only when used
  except errors.UserError:
    raise
  except SyntaxError as e:
    raise errors.ConfigError(
      f'{e.filename}:{e.lineno} is not valid Python ({e.msg}); mend the config'
    ) from e
  except Exception as e:
    # Whatever a config file raises is a mistake in the config.
    text = ' '.join(str(e).split()) or type(e).__name__
    raise errors.ConfigError(f'{text[:240]}; see --help') from e
  if len(rest) > 1:
    raise errors.ConfigError(
      f'unexpected argument {rest[1]!r}; options are written --name=value'
    )
  foreign = [k for k in CONVERSION if values[k].present]
  if foreign:
    raise errors.ConfigError(f'--{foreign[0]} is for --mode=convert')
  if values['target'].present and mode.value != 'plan':
    raise errors.ConfigError('--target is for --mode=plan')
  if config.value is None:
    raise errors.ConfigError(
      'no --config given; for example --config=configs/shapes.py, or --workdir '
      'of an earlier run together with --mode=sample'
    )
  from vdm_jax import validation

  validation.validate(config.value)
  folder = workdir.value or f'runs/{config.value.name}'
  processes = {k: values[k].value for k in PROCESSES}
  return config.value, pathlib.Path(folder).absolute(), mode.value, processes


def _flags():
  """The flags, in a set of their own: a process may parse several times."""
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file(
    'config',
    None,
    'The experiment: a file of configs/, with overrides.',
    flag_values=values,
  )
  mode = flags.DEFINE_enum(
    'mode', 'train', list(MODES), 'What to do.', flag_values=values
  )
  workdir = flags.DEFINE_string(
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
  return values, config, mode, workdir


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
  name, scale = _option(argv, 'table'), _option(argv, 'scale')
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
  if _option(argv, 'config') is not None:
    raise errors.ConfigError('--table and --config are both given; use one')
  if _option(argv, 'mode') not in (None, 'table'):
    raise errors.ConfigError('--table is for --mode=table')
  variant = '' if scale in (None, 'small') else f':{scale}'
  config = f'--config={files[name]}{variant}'
  return [argv[0], '--mode=table', config, *argv[1:]]


def with_saved_config(argv: list[str]) -> list[str]:
  """Adds `--config` for a command that names a workdir but no config.

  A workdir holds its resolved config, so sampling needs nothing else, and
  overrides such as `--config.sample.count=4` still apply.
  """
  workdir = _option(argv, 'workdir')
  if workdir is None or _option(argv, 'config') is not None:
    return argv
  saved = pathlib.Path(workdir) / 'config.json'
  if not saved.is_file():
    raise errors.CheckpointError(
      f'{saved.parent} holds no run (there is no config.json in it); give '
      '--config to start one there, or the workdir of an earlier run'
    )
  return [argv[0], f'--config={SAVED_CONFIG}:{saved}', *argv[1:]]


def _option(argv: list[str], name: str) -> str | None:
  """The value of `--name=value` or `--name value` in a command line."""
  for arg, following in zip(argv, [*argv[1:], None], strict=True):
    flag, equals, value = arg.partition('=')
    if flag in (f'-{name}', f'--{name}'):
      return value if equals else following
  return None


def cli():
  """The console's entry: leaves with the status of `main`."""
  status = main(sys.argv)
  if status:
    from vdm_jax import runtime

    runtime.leave(status)


if __name__ == '__main__':
  cli()
