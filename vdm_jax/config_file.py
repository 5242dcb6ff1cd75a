"""Which files may be configs: they are Python, and what they say is run."""

import os
import pathlib
import stat
import traceback

from vdm_jax import errors

_EXAMPLE = 'for example --config=configs/shapes.py'


def check(path: str | os.PathLike) -> pathlib.Path:
  """The path of a config file that may be run.

  Nobody but those who may write it decides what a file does; one that all
  users of the machine may write is refused, and so is all that is no file
  here.

  Raises:
    ConfigError: it is not a file of this machine, or anybody may write it.
  """
  if '://' in str(path):
    raise errors.ConfigError(
      f'a config must be a file of this machine (got {path}); fetch it, read '
      'what it does, and name the copy'
    )
  try:
    mode = os.stat(path).st_mode
  except (OSError, ValueError) as e:
    reason = getattr(e, 'strerror', None) or e
    raise errors.ConfigError(
      f'a config file cannot be read ({path}: {reason}); name one that is '
      f'there, {_EXAMPLE}'
    ) from e
  if not stat.S_ISREG(mode):
    raise errors.ConfigError(f'a config is no file ({path}); name a file')
  if not os.access(path, os.R_OK):
    raise errors.ConfigError(
      f'a config file cannot be read ({path}: Permission denied); change its '
      'permissions'
    )
  if mode & stat.S_IWOTH:
    raise errors.ConfigError(
      f'a config file runs as a program, and anybody may write this one '
      f'({path}, mode {stat.S_IMODE(mode):o}); chmod o-w it'
    )
  return pathlib.Path(path)


def explain(error: BaseException, path: str) -> str:
  """What went wrong in a config file, with the line where it did.

  Args:
    error: raised while the file was run.
    path: of the file.
  """
  chain = [error]
  while chain[-1].__context__ is not None:
    chain.append(chain[-1].__context__)  # others may have made something of it
  for cause in reversed(chain):
    if isinstance(cause, SyntaxError):
      return _fails(
        cause.filename, cause.lineno, f'no valid Python: {cause.msg}'
      )
    frames = traceback.extract_tb(cause.__traceback__)
    lines = [f.lineno for f in frames if f.filename == path]
    if lines:
      return _fails(path, lines[-1], f'{type(cause).__name__}: {cause}')
  return _fails(path, None, f'{type(error).__name__}: {error}')


def _fails(path: str | None, line: int | None, text: str) -> str:
  place = f'{path}:{line}' if line else path
  return f'the config file fails ({place}: {" ".join(text.split())}); mend it'
