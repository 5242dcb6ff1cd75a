"""The loop of a training: batches in, steps out, and what is told of both."""

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vdm_jax import distributed, errors, logs, runtime
from vdm_jax.data import pipeline
from vdm_jax.data.faults import Faults
from vdm_jax.data.source import Source, named
from vdm_jax.goodput import Goodput
from vdm_jax.meters import Guard, Window
from vdm_jax.progress import Progress

BAD_STEPS = 'bad_steps.jsonl'
_SHOWN = 2  # clips of a bad step, in a message; the file has all
_LONGEST = 48  # characters of their names


def run(
  state,
  step: Callable,
  *,
  config,
  workdir: pathlib.Path,
  source: Source,
  rows: Sequence[int],
  account: Goodput,
  after: Callable,
  checkpoints,
):
  """Steps until `config.train.steps`; the state it ends with.

  Args:
    state: to start from; donated.
    step: (state, this process's batch) -> (state, metrics).
    config: the whole config.
    workdir: for the metrics.
    source: of the clips.
    rows: the places of this process's clips in a batch.
    account: of the time.
    after: (state, n, window, watchdog, stopping) is called after each step.
    checkpoints: of the run, of which the newest is told after bad steps.

  Raises:
    DivergedError: too many steps in a row were not finite.
    DataError: too many clips cannot be read.
  """
  c, first = config.train, int(state.step)
  faults = Faults(config.data.bad_share)
  batches = read(config, source, faults, rows=rows, start_step=first)
  progress = Progress(
    c.steps,
    start=first,
    clips_per_step=c.batch_size,
    quiet=jax.process_index() > 0,
  )
  writer = logs.MetricWriter(
    workdir, restored_step=first, tensorboard=c.tensorboard
  )
  clips = Clips(workdir, source, config, rows, progress.note)
  advice = functools.partial(_advice, checkpoints)
  window = Window(Guard(c.bad_steps, clips.tell, advice))
  watchdog = distributed.Watchdog(c.watchdog)
  with contextlib.closing(batches), runtime.Stop() as stop, writer, watchdog:
    for n in range(first + 1, c.steps + 1):
      latest = state.step
      account.wait(batches.ready, lambda at=latest: not at.is_ready())
      batch = next(batches)
      state, metrics = step(state, batch)
      account.step(n)
      window.add(n, metrics, batch['index'])
      watchdog.feed()
      if n % c.log_every == 0 or n in (1, c.steps):
        row = window.close()
        writer.write(n, row)
        progress.update(n, {'loss': row['loss']})
      else:
        progress.update(n)
      with progress.pause():
        after(state, n, window, watchdog, stopping=stop.requested)
  if faults.summary():
    runtime.warn(faults.summary())
  return state


def _advice(checkpoints) -> str:
  """What is left, and what to do, when the loss is not finite any more."""
  with contextlib.suppress(errors.CheckpointError):
    checkpoints.wait()  # for the one that is being written
  steps = checkpoints.steps()
  what = 'lower config.optim.learning_rate or mend the data'
  if not steps:
    return f'nothing is saved yet: {what}, and start in a new workdir'
  return (
    f'checkpoint {steps[-1]} is good: {what}, and go on from it in a new '
    'workdir by --config.init.workdir=THIS_ONE'
  )


def read(
  config, source: Source, faults: Faults | None = None, **options
) -> pipeline.Batches:
  """The batches of a config; see `pipeline.batches`."""
  c = config.data
  return pipeline.batches(
    source,
    batch_size=config.train.batch_size,
    seed=config.seed,
    workers=c.workers,
    processes=c.processes,
    faults=faults,
    seconds=c.timeout,
    memory=c.memory * 2**30,
    **options,
  )


class Clips:
  """Tells of which clips a bad step was: in a line, and all in a file.

  What other processes have put in the place of clips that could not be read is
  not known here.

  Args:
    workdir: where `bad_steps.jsonl` is.
    source: of the clips.
    config: the whole config.
    rows: the places of this process's clips in a batch.
    say: prints a line.
  """

  def __init__(self, workdir, source, config, rows, say: Callable[[str], Any]):
    self._path = workdir / BAD_STEPS
    self._source, self._rows, self._say = source, list(rows), say
    self._order = pipeline.Order(
      len(source), config.train.batch_size, config.seed
    )

  def tell(self, step: int, reason: str, index: np.ndarray) -> str:
    """Tells of a step; returns its clips in short.

    Args:
      step: from 1.
      reason: why it is bad.
      index: elements of this process's clips.
    """
    elements = self._order.step(step - 1)
    elements[self._rows] = index
    names = [named(self._source, int(i)) for i in elements]
    short = ', '.join(_cut(name) for name in names[:_SHOWN])
    if len(names) > _SHOWN:
      short += f' and {len(names) - _SHOWN} more'
    self._say(
      f'vdm_jax: warning: step {step} is not finite and changes nothing '
      f'({reason}); its clips, in {BAD_STEPS}: {short}'
    )
    if jax.process_index():
      return short
    with contextlib.suppress(OSError):
      line = json.dumps({'step': step, 'reason': reason, 'clips': names})
      with self._path.open('a') as file:
        file.write(line + '\n')
    return short


def _cut(name: str) -> str:
  return name if len(name) <= _LONGEST else f'…{name[1 - _LONGEST :]}'
