"""Clips that cannot be read: counted, named, and too many of them an error."""

import threading

from vdm_jax import runtime
from vdm_jax.errors import DataError

LINES = 20  # different ones that are named
_LEAST = 10  # of them say nothing yet about their share
_LONGEST = 160  # characters of one error within another


class Faults:
  """The account of one process; safe to use from many threads at once.

  Attributes:
    drawn: clips that were to be read, those in the place of others included.
    failed: how many could not be.

  Args:
    share: of the clips drawn that may fail; 0: none may.
  """

  def __init__(self, share: float = 0.0):
    self.drawn = self.failed = 0
    self._share = share
    self._named: set[str] = set()
    self._lock = threading.Lock()

  def draw(self) -> None:
    """Notes that a clip is about to be read."""
    with self._lock:
      self.drawn += 1

  def note(self, error: DataError) -> None:
    """Notes that a reading failed; a new error gets a line.

    Raises:
      DataError: there are too many; the error itself where none may fail.
    """
    if not self._share:
      raise error
    with self._lock:
      self.failed += 1
      too_many = self.failed > max(self._share * self.drawn, _LEAST)
      new = str(error) not in self._named and len(self._named) <= LINES
      if new:
        self._named.add(str(error))
      named = len(self._named)
    if too_many:
      raise DataError(
        f'too many clips cannot be read ({self.failed} of {self.drawn}, of '
        f'late: {str(error)[:_LONGEST]}); mend the data, or raise '
        f'config.data.bad_share ({self._share:g})'
      ) from error
    if new and named <= LINES:
      runtime.warn(f'another clip takes the place of one: {error}')
    elif new:
      runtime.warn('there are more clips that cannot be read; they are counted')

  def summary(self) -> str:
    """What there is to tell at the end; '' if nothing failed."""
    if not self.failed:
      return ''
    return (
      f'{self.failed} of {self.drawn} clips could not be read, and others took '
      'their places'
    )
