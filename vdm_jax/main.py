"""The command: `python -m vdm_jax.main --config=configs/shapes.py`."""

import importlib
import os
import sys
import time
import traceback

from vdm_jax import command as command_lib
from vdm_jax import errors
from vdm_jax.command import MODES

# These save and leave when they are asked to stop.
SAVING = ('train', 'table')
LINE = 300  # characters of the line that an error is told in
BEGAN = time.time()  # before anything large is imported


def main(argv: list[str]) -> int:
  """Runs one mode.

  Args:
    argv: the command line, the program's name first.

  Returns:
    The exit status: 0, or that of the `UserError` which ended the run; Ctrl-C
    is one of them.
  """
  if '--help' in argv or '-h' in argv:
    print(f'{__doc__}\n{command_lib.flag_values().get_help()}')
    return 0
  debug = any(a in ('--debug', '--debug=true') for a in argv)
  try:
    if command_lib.option(argv, 'mode') == 'convert':
      return _convert(argv, debug=debug)
    command = command_lib.parse(argv)
    if command.mode == 'plan':
      return _plan(command, debug=debug)
    return _run(command, debug=debug)
  except (errors.UserError, KeyboardInterrupt) as e:
    if debug:
      traceback.print_exception(e)
    return _told(_named(e))


def one_line(error: BaseException, most: int = LINE) -> str:
  """What an error says, in a line; of one too long, what to do stays whole."""
  text = errors.text(error)
  if len(text) <= most:
    return text
  what, _, advice = text.rpartition('; ')
  if not what or len(advice) > most - 60:
    return f'{text[: most - 1]}…'
  return f'{what[: most - len(advice) - 3]}…; {advice}'


def _named(error: BaseException) -> BaseException:
  """The error itself, but for Ctrl-C, whose name is no sentence."""
  if not isinstance(error, KeyboardInterrupt):
    return error
  return errors.Interrupted(
    'interrupted; what was saved is intact, and the same command continues '
    'from there'
  )


def _told(error: errors.UserError) -> int:
  """Prints the line of an error; returns its status."""
  stopped = errors.Preempted | errors.RetryError | errors.Interrupted
  stops = isinstance(error, stopped)
  kind = f'vdm_jax: {"stopped" if stops else "error"}: '
  text = one_line(error, LINE - len(kind))
  print(f'{kind}{text}', file=sys.stderr, flush=True)
  return error.status


def _run(command: command_lib.Command, *, debug: bool) -> int:
  """Runs a mode, alone or as one of several processes."""
  from vdm_jax import cluster, distributed, identity, runtime

  config, workdir, mode, processes, _ = command
  c = config.mesh
  runtime.start(cpu_devices=c.cpu_devices, platform=c.platform, debug=debug)
  distributed.start(
    cluster.place(**processes),
    heartbeat=c.heartbeat,
    patience=c.patience,
    preemption=mode in SAVING,
  )
  try:
    settings = {f'config.{k}': v for k, v in identity.public(config).items()}
    asked = {'--mode': mode, '--workdir': str(workdir)}
    distributed.check_same(
      'settings',
      asked | settings | runtime.versions(),
      error=errors.ConfigError,
      advice='start all with the same command, config and versions',
      seconds=c.patience,
    )
    runtime.check_platform(c.platform)
    account = {'began': BEGAN} if mode == 'train' else {}
    with errors.full_disk_told(), runtime.memory_told():
      importlib.import_module(MODES[mode]).run(config, workdir, **account)
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


def _plan(command: command_lib.Command, *, debug: bool) -> int:
  """Runs the plan, which knows where it is planned for."""
  # Before JAX is there: what the partitioner says while a plan compiles.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  from vdm_jax import plan, runtime, survey

  c = command.config.mesh
  runtime.start(cpu_devices=c.cpu_devices, debug=debug)
  target = {'target': command.target} if command.target else {}
  several = 'plan' in command.config
  run = survey.run if several else plan.run
  with errors.full_disk_told():
    run(command.config, command.workdir, **target)
  return 0


def _failed(error: BaseException, heartbeat: float, *, debug: bool) -> int:
  """Ends one of several processes, and with it the others."""
  from vdm_jax import distributed

  if debug:
    traceback.print_exception(error)
  error = _named(error)
  distributed.suspect(error, heartbeat)
  if isinstance(error, errors.UserError):
    status = _told(error)
  else:
    if not debug:
      traceback.print_exception(error)
    status = getattr(error, 'status', 1)
  distributed.fail(status, one_line(error))
  return status


def _convert(argv: list[str], *, debug: bool) -> int:
  """Runs the conversion of weights, which has flags of its own."""
  given = command_lib.conversion(argv)
  from vdm_jax import convert, runtime

  runtime.start(debug=debug)
  with errors.full_disk_told():
    convert.run(**given)
  return 0


def cli():
  """The console's entry: leaves with the status of `main`."""
  status = main(sys.argv)
  if status:
    from vdm_jax import runtime

    runtime.leave(status)


if __name__ == '__main__':
  cli()
