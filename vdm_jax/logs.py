"""Metrics of a run: written to `metrics.jsonl`, read back and plotted.

TensorBoard gets them too where it is wanted.

A line of `metrics.jsonl` is one JSON object: `step`, `time` (seconds since
1970) and the metrics of that step by name, null where not finite.
"""

import contextlib
import html
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vdm_jax.errors import ConfigError, DataError

FILE = 'metrics.jsonl'
Point = tuple[float, float]  # step, value


class MetricWriter:
  """Writes metrics of process 0 to `workdir`; other processes write nothing.

  The file is closed when `write` returns, since a bucket that is mounted as a
  disk gets nothing before: a killed process, or a machine that is taken away,
  loses at most the line being written, and the next start removes a part of it.

  Args:
    workdir: the run's folder, made if missing.
    restored_step: the step at which the run continues, 0 for a new run. Lines
      of later steps are dropped, so that a continued run has one curve.
    tensorboard: also write event files to `workdir/tensorboard`.
    process_index: this process; `jax.process_index()` if None.
    clock: the time in seconds since 1970.

  Raises:
    ConfigError: `tensorboard` without the packages that it needs.
    DataError: `metrics.jsonl` is not a file of metrics.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    restored_step: int = 0,
    tensorboard: bool = False,
    process_index: int | None = None,
    clock: Callable[[], float] = time.time,
  ):
    self._clock = clock
    self._path = self._events = None
    index = jax.process_index() if process_index is None else process_index
    self._primary = index == 0
    if not self._primary:
      return
    path = Path(workdir, FILE)
    if tensorboard:
      self._events = _tensorboard(Path(workdir, 'tensorboard'))
    path.parent.mkdir(parents=True, exist_ok=True)
    _continue_at(path, restored_step)
    path.touch()
    self._path = path
    self._late = b''  # what a full disk did not take yet
    self._end = None  # where in the file that begins, once it was tried

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes the metrics of one step.

    Args:
      step: the step that they belong to.
      metrics: numbers by name (arrays of one element are numbers).

    Raises:
      ValueError: a value is not one number, or is named `step` or `time`, or
        the writer was closed.
    """
    if not self._primary:
      return
    if self._path is None:
      raise ValueError('the metric writer was closed; open a new one')
    scalars = {name: _scalar(name, value) for name, value in metrics.items()}
    row = {'step': int(step), 'time': round(self._clock(), 3)}
    for name, value in scalars.items():
      row[name] = value if math.isfinite(value) else None
    self._late += json.dumps(row, allow_nan=False).encode() + b'\n'
    self._write_late()
    if self._events is not None:
      self._events.write_scalars(int(step), scalars)

  def _write_late(self) -> None:
    # A full disk is no reason to end a training; the next line tries again. A
    # network disk may say only at the end that it took less, or nothing.
    with contextlib.suppress(OSError):
      with self._path.open('ab', buffering=0) as file:
        if self._end is None:
          self._end = file.tell()
        done = max(0, file.tell() - self._end)
        while done < len(self._late):
          done += file.write(self._late[done:])
      self._late, self._end = b'', None

  def flush(self) -> None:
    """Waits until everything written is on the disk, if it has room."""
    if self._path is not None:
      self._write_late()
      with contextlib.suppress(OSError), self._path.open('ab') as file:
        os.fsync(file.fileno())
    if self._events is not None:
      self._events.flush()

  def close(self) -> None:
    """Flushes and closes; nothing can be written afterwards."""
    self.flush()
    if self._events is not None:
      self._events.close()
    self._path = self._events = None

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the lines of a `metrics.jsonl`, also while it is being written.

  A last line that is incomplete is left out.

  Raises:
    DataError: there is no such file, or another line is not a JSON object with
      a step.
  """
  try:
    data = Path(path).read_bytes()
  except FileNotFoundError:
    raise DataError(
      f'no metrics (looked for {path}); name the metrics.jsonl of a run'
    ) from None
  lines = data.split(b'\n')
  rows = []
  # What follows the last line feed is torn; a whole file ends with b''.
  for i, line in enumerate(lines[:-1]):
    row = _row(line)
    if row is not None:
      rows.append(row)
    elif i < len(lines) - 2:
      raise DataError(
        f'damaged metrics (line {i + 1} of {path}); remove that line'
      )
  return rows


def curve(rows: Iterable[Mapping[str, Any]], name: str) -> list[Point]:
  """The points (step, value) of one metric, where it has a finite value."""
  return [(row['step'], row[name]) for row in rows if row.get(name) is not None]


def thin(points: Sequence[Point], most: int = 200) -> list[list[float]]:
  """Gathers points (step, value) into at most `most` groups of neighbours.

  Returns a list of `[last step, mean, least, greatest value]`, by step. Values
  that are not finite are left out.
  """
  finite = sorted(p for p in points if math.isfinite(p[1]))
  if not finite:
    return []
  pairs = np.asarray(finite, np.float64)
  groups = np.array_split(pairs, min(most, len(pairs)))
  thinned = [
    (g[-1, 0], g[:, 1].mean(), g[:, 1].min(), g[:, 1].max()) for g in groups
  ]
  return np.array(thinned).tolist()


def plot(name: str, points: Sequence[Sequence[float]]) -> str:
  """A metric's means as a line, its range as a band around it, in SVG.

  The scale is logarithmic if all values are positive and span a factor of 20
  or more, and says so. `points` are as of `thin`; '' if there is none.
  """
  if not points:
    return ''
  steps, mean, least, greatest = zip(*points, strict=True)
  low, high = min(least), max(greatest)
  log = low > 0 and high / low >= 20
  scale = math.log10 if log else float
  bottom, top = scale(low), scale(high)
  width, height = 480, 200

  def x(step: float) -> float:
    return 56 + (step - steps[0]) / (steps[-1] - steps[0] or 1) * (width - 66)

  def y(value: float) -> float:
    return 170 - (scale(value) - bottom) / (top - bottom or 1) * 140

  def path(values: Iterable[tuple[float, float]]) -> str:
    return ' '.join(f'{x(s):.1f},{y(v):.1f}' for s, v in values)

  band = [*zip(steps, greatest, strict=True)]
  band += reversed([*zip(steps, least, strict=True)])
  ticks = [
    f'<line x1="56" x2="{width - 10}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
    f'<text x="50" y="{y(v) + 4:.1f}" text-anchor="end">{v:.3g}</text>'
    for v in _ticks(low, high, log=log)
  ]
  label = f'{name} (logarithmic)' if log else name
  return (
    f'<svg viewBox="0 0 {width} {height}" role="img">'
    f'<text class="name" x="56" y="16">{html.escape(label)}</text>'
    f'{"".join(ticks)}'
    f'<polygon points="{path(band)}"/>'
    f'<polyline points="{path(zip(steps, mean, strict=True))}"/>'
    f'<text x="56" y="192">step {steps[0]:g}</text>'
    f'<text x="{width - 10}" y="192" text-anchor="end">{steps[-1]:g}</text>'
    '</svg>'
  )


def _continue_at(path: Path, restored_step: int) -> None:
  if not path.exists():
    return
  rows = [row for row in read(path) if row['step'] <= restored_step]
  kept = ''.join(json.dumps(row) + '\n' for row in rows).encode()
  if kept != path.read_bytes():
    part = path.with_name(f'.{path.name}.tmp')
    part.write_bytes(kept)
    os.replace(part, path)


def _row(line: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except ValueError:
    return None
  good = isinstance(row, dict) and isinstance(row.get('step'), int)
  return row if good else None


def _scalar(name: str, value: Any) -> float:
  if name in ('step', 'time'):
    raise ValueError(f'a metric cannot be named {name!r}; rename it')
  array = np.asarray(value)
  if array.size != 1 or array.dtype.kind not in 'biufV':
    raise ValueError(f'metric {name!r} must be one number, got {value!r}')
  return float(array.item())


def _tensorboard(folder: Path) -> Any:
  try:
    import tensorflow as tf
    from clu import metric_writers
  except ImportError as error:
    raise ConfigError(
      f'tensorboard=True needs packages that are missing ({error.name}); '
      "pip install 'vdm_jax[tensorboard]' or set tensorboard=False"
    ) from error
  # TensorFlow would take the memory of the GPUs from JAX.
  tf.config.set_visible_devices([], 'GPU')
  return metric_writers.SummaryWriter(str(folder))


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
  if log:
    decades = range(
      math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    )
    values = [m * 10.0**d for d in decades for m in (1, 3)]
  elif high > low:
    unit = 10.0 ** math.floor(math.log10(high - low))
    step = next(
      m for m in (0.2, 0.5, 1, 2, 5) if (high - low) / (m * unit) <= 5
    )
    step *= unit
    first = math.ceil(low / step)
    values = [i * step for i in range(first, math.floor(high / step) + 1)]
  else:
    values = [low]
  return [v for v in values if low <= v <= high]
