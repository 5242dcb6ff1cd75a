"""Mistakes that a user can mend, each with the exit status of its kind.

`main` prints them as one line, `vdm_jax: error: what (got); what to do`, and
leaves with the status. Everything else is a defect and keeps its traceback.
"""

import contextlib
import errno

FULL = (errno.ENOSPC, errno.EDQUOT)


def text(error: BaseException) -> str:
  """What an error says, in one line; its type if it says nothing."""
  return ' '.join(str(error).split()) or type(error).__name__


class UserError(Exception):
  """A mistake in what the user gave; the message says how to mend it."""

  status = 1


class ConfigError(UserError):
  """A config, a flag or a mesh that cannot work."""

  status = 2


class DataError(UserError):
  """Data that is missing, unreadable or does not fit the model."""

  status = 3


class CheckpointError(UserError):
  """A workdir or checkpoint that cannot be written, read or continued."""

  status = 4


class DivergedError(UserError):
  """Training produced a loss that is not finite."""

  status = 5


class WeightsError(UserError):
  """Weights of others that are missing, damaged or of another network."""

  status = 6


class Preempted(UserError):
  """The run was asked to stop; its state is saved and can be continued."""

  status = 42


class RetryError(UserError):
  """Other processes of the run are lost, hang or never came.

  What was saved is intact, and the same command continues from there; launch
  scripts start it again by themselves. 75 is EX_TEMPFAIL of sysexits.h.
  """

  status = 75


class Interrupted(UserError):
  """The run was ended by Ctrl-C, where it does not save first.

  130 is what shells report of a program that SIGINT has ended.
  """

  status = 130


@contextlib.contextmanager
def full_disk_told():
  """Around what writes: a disk that is full is no defect of the program.

  Raises:
    CheckpointError: it is full.
  """
  try:
    yield
  except OSError as e:
    if e.errno not in FULL:
      raise
    raise CheckpointError(
      f'{e.filename or "a file"} cannot be written ({e.strerror}); make room, '
      'and give the same command again: what was saved is intact'
    ) from e
