"""What every process would do alike, one does while the others wait."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Of a disk that knows no locks.
_UNKNOWN = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


def claim(file: IO | int, *, of_process: bool = False) -> bool:
  """Takes the kernel's lock of an open file, unless somebody has it.

  Args:
    file: the file, or its descriptor.
    of_process: let the process have it, whichever of its descriptors was used,
      until it closes one of them; else the open file has it.

  Returns:
    Whether the disk knows locks.

  Raises:
    BlockingIOError: somebody else has it.
  """
  lock = fcntl.lockf if of_process else fcntl.flock
  try:
    lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except PermissionError as error:  # as some systems say it of a process
    raise BlockingIOError(*error.args) from error
  except OSError as error:
    if error.errno not in _UNKNOWN:
      raise
    return False
  return True


@contextlib.contextmanager
def turn(path: str | os.PathLike, work: str) -> Iterator[None]:
  """Around work that one process at a time does; whoever comes later waits.

  The lock is the kernel's: it goes with its process, however that ends. Where
  the disk knows none, nobody waits.

  Args:
    path: a file for the lock; made if missing, and left there.
    work: for the line that tells of waiting, such as 'index the videos'.

  Raises:
    OSError: the file cannot be made.
  """
  if '://' in os.fspath(path):
    _unlocked(path, work)
    yield
    return
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    _take(file, path, work)
    try:
      yield
    finally:
      # Closing would not do while a process that was forked has it open.
      with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)


def _take(file, path: Path, work: str):
  """Returns when the lock is ours, or there are none."""
  from vdm_jax import runtime  # with JAX, which workers do without

  try:
    if not claim(file):
      _unlocked(path, work)
  except BlockingIOError:
    runtime.say(f'waiting for another process to {work}')
    fcntl.flock(file, fcntl.LOCK_EX)


def _unlocked(path, work: str):
  from vdm_jax import runtime

  runtime.warn(
    f'{os.path.dirname(path)} knows no locks; processes that are to {work} do '
    'so all at once'
  )
