"""Mistakes that a user can mend, each with the exit status of its kind.

`main` prints them as one line, `vdm_jax: error: what (got); what to do`, and
leaves with the status. Everything else is a defect and keeps its traceback.
"""


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
