"""One line that says how far a long loop is, how fast, and how long to go.

step 340/1200 | loss 0.0712 | 1.42 steps/s | 22.7 clips/s | 4m02s gone, ...
"""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

HALF_LIFE = 30.0  # seconds until an interval counts half in the speed
_REDRAW = 0.1  # seconds between two rewritings of the line on a terminal


class Speed:
  """Seconds per step, from the times at which steps were reached.

  The first interval, in which programs compile, is left out. Of the others,
  one that ended a seconds ago weighs `2^(-a / half_life)`, both in the sum of
  seconds and in the sum of steps, and the quotient of the sums is the speed.
  """

  def __init__(self, step: int, now: float, half_life: float = HALF_LIFE):
    self._step, self._time, self._half_life = step, now, half_life
    self._first: int | None = None
    self._seconds = self._steps = 0.0
    self._paused = 0.0
    self._all_paused = 0.0

  def reached(self, step: int, now: float) -> None:
    """Notes that `step` was reached at time `now` (seconds)."""
    if step <= self._step:
      return
    seconds = max(0.0, now - self._time - self._paused)
    if self._first is None:
      self._first = step
    else:
      decay = 0.5 ** (seconds / self._half_life)
      self._seconds = self._seconds * decay + seconds
      self._steps = self._steps * decay + (step - self._step)
      self._all_paused += self._paused
    self._step, self._time, self._paused = step, now, 0.0

  def paused(self, seconds: float) -> None:
    """Notes that `seconds` since the last step went to other work."""
    self._paused += seconds

  def steps_per_second(self) -> float | None:
    """The present speed without pauses; None until it can be known."""
    return self._steps / self._seconds if self._seconds > 0 else None

  def seconds_left(self, total: int, now: float) -> float | None:
    """Time to step `total` if speed and share of pauses stay as they are."""
    speed = self.steps_per_second()
    if speed is None:
      return None
    pause = self._all_paused / (self._step - self._first)
    left = (total - self._step) * (1 / speed + pause)
    return max(0.0, left - (now - self._time))


class Progress:
  """Reports a loop's progress in one line.

  On a terminal the line is rewritten in place; elsewhere a line is printed
  for the first step, then every `every` seconds, and for the last step.

  Args:
    total: the step at which the loop ends.
    name: what the line begins with.
    unit: what is counted, for the speed.
    start: the step at which this run of the loop starts.
    clips_per_step: adds the speed in clips, if given.
    every: seconds between lines where there is no terminal.
    stream: a text stream; standard error if None.
    quiet: print nothing (processes other than the first).
    clock: the time in seconds, from any origin.
  """

  def __init__(
    self,
    total: int,
    *,
    name: str = 'step',
    unit: str = 'steps',
    start: int = 0,
    clips_per_step: int | None = None,
    every: float = 10.0,
    stream: Any = None,
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total, self._name, self._unit = total, name, unit
    self._clips_per_step, self._every = clips_per_step, every
    self._stream = sys.stderr if stream is None else stream
    self._quiet, self._clock = quiet, clock
    self._tty = bool(getattr(self._stream, 'isatty', lambda: False)())
    self._step, self._metrics = start, {}
    self._begin = self._now = clock()
    self._speed = Speed(start, self._begin)
    self._shown_at: float | None = None
    self._shown_step: int | None = None
    self._timed_by_metrics = False

  def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Notes that `step` steps are done, and shows it when it is time to.

    In a loop that gives metrics, the speed is measured between the calls that
    give them: elsewhere a step may be dispatched to the device but not done.

    Args:
      step: steps done, counted from 0 at the very start of the loop.
      metrics: numbers to show, by name; those of the last call if None. They
        are converted only when shown.
    """
    self._now = self._clock()
    self._timed_by_metrics |= metrics is not None
    if metrics is not None or not self._timed_by_metrics:
      self._speed.reached(step, self._now)
    self._step = step
    self._metrics = self._metrics if metrics is None else dict(metrics)
    interval = _REDRAW if self._tty else self._every
    due = self._shown_at is None or self._now - self._shown_at >= interval
    if due or step >= self._total:
      self._show()

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Around work that is not the loop's own, as saving or sampling.

    It does not count in the speed; the time left expects more of its kind.
    """
    begin = self._clock()
    try:
      yield
    finally:
      self._speed.paused(self._clock() - begin)

  def note(self, text: str) -> None:
    """Prints a line of its own above the progress."""
    if not self._quiet:
      erase = '\r\x1b[K' if self._tty else ''
      self._stream.write(f'{erase}{text}\n')
      if self._tty and self._shown_step is not None:
        self._show()
      self._stream.flush()

  def line(self) -> str:
    """The line as it stands."""
    parts = [f'{self._name} {self._step}/{self._total}']
    parts += [f'{k} {number(float(v))}' for k, v in self._metrics.items()]
    speed = self._speed.steps_per_second()
    if speed is not None:
      parts.append(f'{number(speed)} {self._unit}/s')
      if self._clips_per_step is not None:
        parts.append(f'{number(speed * self._clips_per_step)} clips/s')
    times = f'{duration(self._now - self._begin)} gone'
    left = self._speed.seconds_left(self._total, self._now)
    if left is not None and self._step < self._total:
      times += f', {duration(left)} left'
    return ' | '.join([*parts, times])

  def close(self) -> None:
    """Shows the last step, if it was not, and ends the line."""
    if self._quiet or self._shown_at is None:
      return
    if self._shown_step != self._step:
      self._show()
    if self._tty:
      self._stream.write('\n')
      self._stream.flush()
    self._shown_at = None

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _show(self) -> None:
    self._shown_at, self._shown_step = self._now, self._step
    if self._quiet:
      return
    line = self.line()
    if self._tty:
      width = shutil.get_terminal_size().columns
      line = f'\r{line[: width - 1]}\x1b[K'
    else:
      line += '\n'
    self._stream.write(line)
    self._stream.flush()


def number(value: float) -> str:
  """Three significant digits, all digits before the point: 0.0712, 22.7."""
  if math.isfinite(value) and 1000 <= abs(value) < 1e7:
    return f'{value:.0f}'
  return f'{value:.3g}'


def duration(seconds: float) -> str:
  """Two units at most: 42s, 4m02s, 3h05m, 2d04h."""
  seconds = max(0, round(seconds))
  minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
  if days:
    return f'{days}d{hours % 24:02d}h'
  if hours:
    return f'{hours}h{minutes % 60:02d}m'
  if minutes:
    return f'{minutes}m{seconds % 60:02d}s'
  return f'{seconds}s'
