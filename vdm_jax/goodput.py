"""Where the seconds of a training went: `goodput.json` of its workdir.

Every second from the begin of a start to its end belongs to one of

  productive  the loop of steps, but for what follows; the device computes, or
              the host hands it the next step
  compiling   the training step compiles
  data        the loop waits for a batch, and the device has nothing to do; what
              it computes meanwhile is productive
  saving      the loop is held up by a checkpoint; writing goes on behind it
  sampling    samples, scores and the gallery, with their compilation
  starting    everything before the first step: reading the list of the data,
              restoring, making the first state
  redone      what was productive until a start ended, but after the checkpoint
              from which the next one went on: it was lost, and made again

and goodput is the productive share of all. A run that was killed and started
again in the same workdir has one account, with an entry for each start. Steps
that were not finite are productive here, though they changed nothing. The time
between two starts is no process's, and stands apart as `away`.

The file is written whenever a hundredth of the start has passed since the last
time, so that a kill loses no more than that; and at the end. Process 0 writes
it, and speaks for the others, which wait for each other at every step.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from vdm_jax import runtime
from vdm_jax.media import writing
from vdm_jax.progress import duration

FILE = 'goodput.json'
KINDS = (
  'productive',
  'compiling',
  'data',
  'saving',
  'sampling',
  'starting',
  'redone',
)
_PART = 0.01  # of a start, between two writings
_MARKS = 100  # checkpoints of a start that are remembered


class Goodput:
  """The account of a workdir, in the hands of the present start.

  It counts from when it is made, or from `began`, as `starting`; `step` ends
  that. With `spend` other work is charged to its own kind; within it, more of
  that.

  Args:
    workdir: of the run; nothing is read or written before `open`.
    began: when the start began, by the clock; now if None.
    clock: the time in seconds since 1970.
    write: False in all processes but one; by default only process 0 writes.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    began: float | None = None,
    clock: Callable[[], float] = time.time,
    write: bool | None = None,
  ):
    self._path, self._clock = workdir / FILE, clock
    self._write = jax.process_index() == 0 if write is None else write
    self._before: list[dict[str, Any]] = []
    self._kinds = ['starting']
    self._now = self._written = clock() if began is None else began
    self._entry = {
      'began': self._now,
      'ended': self._now,
      'first': 0,
      'step': 0,
      'seconds': dict.fromkeys(KINDS, 0.0),
      'saved': [],
    }
    self._opened = False
    self._charge()

  def _charge(self) -> None:
    """Charges the time since the last call to the present kind."""
    # Clocks are set back at times.
    now = max(self._clock(), self._now)
    self._entry['seconds'][self._kinds[-1]] += now - self._now
    self._entry['ended'] = self._now = now

  @contextlib.contextmanager
  def spend(self, kind: str) -> Iterator[None]:
    """Around work of another kind."""
    self._charge()
    self._kinds.append(kind)
    try:
      yield
    finally:
      self._charge()
      self._kinds.pop()

  def wait(self, ready: Callable[[float], bool], busy: Callable[[], bool]):
    """Waits; only what the device waits, too, is charged to `data`.

    Args:
      ready: (seconds) -> whether what is waited for is there, after so long.
      busy: whether the device still computes.
    """
    while not ready(0.0):
      if busy():
        ready(0.005)
        continue
      with self.spend('data'):
        while not ready(1.0):
          self.write()
    self.write()

  def open(self) -> None:
    """Goes on with the account of the workdir; from now on it is written."""
    self._before = _read(self._path) if self._write else []
    self._opened = True
    self.write(always=True)

  def restored(self, step: int) -> None:
    """Notes at which step this start goes on; 0 for the first one."""
    for entry in self._before:
      _redo(entry, step)
    self._entry |= {'first': step, 'step': step}
    self.write(always=True)

  def step(self, step: int) -> None:
    """Notes that the loop is at a step; the first time it begins there."""
    if self._kinds[0] == 'starting':
      self._charge()
      self._kinds[0] = 'productive'
    self._entry['step'] = step

  def saved(self, step: int) -> None:
    """Notes that a checkpoint of a step was begun."""
    self._charge()
    mark = [step, self._entry['seconds']['productive']]
    self._entry['saved'] = [*self._entry['saved'], mark][-_MARKS:]

  def write(self, *, always: bool = False) -> None:
    """Writes the file, if it is time to."""
    self._charge()
    passed = self._now - self._written
    due = passed > _PART * (self._now - self._entry['began'])
    if not (self._write and self._opened and (due or always)):
      return
    self._written = self._now
    try:
      writing.write_json(self._path, self.summary() | {'starts': self._all()})
    except OSError as error:
      # Nobody stops a training for that.
      runtime.warn(f'{self._path} cannot be written ({error})')
      self._written = self._now + 60

  def summary(self) -> dict[str, Any]:
    """`seconds` by kind of all starts, `wall`, `goodput` and `away`."""
    starts = self._all()
    seconds = {k: sum(s['seconds'].get(k, 0.0) for s in starts) for k in KINDS}
    wall = sum(s['ended'] - s['began'] for s in starts)
    away = starts[-1]['ended'] - starts[0]['began'] - wall
    return {
      'goodput': seconds['productive'] / wall if wall else 0.0,
      'wall': wall,
      'away': max(away, 0.0),
      'seconds': seconds,
    }

  def line(self) -> str:
    """The account as one line."""
    self._charge()
    total, count = self.summary(), len(self._before) + 1
    spent = {k: s for k, s in total['seconds'].items() if s >= 0.5}
    parts = [f'{duration(s)} {k}' for k, s in spent.items()]
    starts = f' in {count} starts' if count > 1 else ''
    return (
      f'goodput {total["goodput"]:.0%} of {duration(total["wall"])}{starts}: '
      f'{", ".join(parts)}'
    )

  def _all(self) -> list[dict[str, Any]]:
    return [*self._before, self._entry]

  def __enter__(self) -> 'Goodput':
    return self

  def __exit__(self, *_) -> None:
    self.write(always=True)


def _redo(entry: dict[str, Any], step: int) -> None:
  """Charges what a start made after a step to `redone`."""
  if entry['step'] <= step:
    return
  seconds = entry['seconds']
  kept = _productive_at(entry, step)
  seconds['redone'] += seconds['productive'] - kept
  seconds['productive'] = kept
  entry['step'] = max(step, entry['first'])
  entry['saved'] = [mark for mark in entry['saved'] if mark[0] <= step]


def _productive_at(entry: dict[str, Any], step: int) -> float:
  """Productive seconds of a start until a step, as its marks tell."""
  marks = [[entry['first'], 0.0], *entry['saved']]
  marks.append([entry['step'], entry['seconds']['productive']])
  if step <= entry['first']:
    return 0.0
  after = next(i for i, (at, _) in enumerate(marks) if at >= step)
  (low, least), (high, most) = marks[after - 1], marks[after]
  return least + (most - least) * (step - low) / max(high - low, 1)


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  try:
    starts = json.loads(path.read_text())['starts']
    for entry in starts:
      _productive_at(entry, entry['first'])
      entry['seconds'] = dict.fromkeys(KINDS, 0.0) | entry['seconds']
    return starts
  except FileNotFoundError:
    return []
  except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
    runtime.warn(f'{path} is unusable ({error}); it begins anew')
    return []
