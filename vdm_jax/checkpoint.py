"""Checkpoints of a workdir, written by Orbax while training goes on.

A checkpoint holds four items: `params`, `ema`, `optimizer` (arrays) and `meta`
(JSON: step, config, data signature, noise prior). Sampling reads `ema` alone.
Orbax tries one step only and may name one that was never finished, so
restoring walks from the newest step to the newest that can be read.
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from vdm_jax import distributed, errors, runtime, sharding
from vdm_jax.state import TrainState

PyTree = Any
ARRAYS = ('params', 'ema', 'optimizer')


class Checkpoints:
  """The checkpoints below one workdir.

  Args:
    workdir: the run's folder; checkpoints go to its `checkpoints` folder.
    keep: how many of the newest are kept.
    read_only: never write, delete or clean up, for sampling beside a trainer.

  Raises:
    CheckpointError: if the folder cannot be written.
  """

  def __init__(self, workdir, *, keep: int = 3, read_only: bool = False):
    self.folder = pathlib.Path(workdir).absolute() / 'checkpoints'
    if not read_only:
      _probe(self.folder)
    self._keep = keep
    self._read_only = read_only
    self._manager = self._open() if self.folder.is_dir() else None

  def _open(self) -> ocp.CheckpointManager:
    policies = checkpoint_managers
    several = {}
    if jax.process_count() > 1:
      # Named, they wait for each other at the coordinator, for a bounded time,
      # and not in a collective.
      everyone = set(range(jax.process_count()))
      several['multiprocessing_options'] = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes=everyone
      )
    handlers = {
      name: ocp.StandardCheckpointHandler(**several) for name in ARRAYS
    }
    handlers['meta'] = ocp.JsonCheckpointHandler(**several)
    return ocp.CheckpointManager(
      self.folder,
      item_handlers=handlers,
      options=ocp.CheckpointManagerOptions(
        **several,
        preservation_policy=policies.LatestN(n=self._keep),
        read_only=self._read_only,
        cleanup_tmp_directories=not self._read_only,
        create=False,
      ),
    )

  def steps(self) -> list[int]:
    """The steps on disk, oldest first; not all of them need be readable.

    Several processes call it together, and go by what the first one sees.
    """
    steps = []
    if self._manager:
      self._manager.reload()
      steps = sorted(self._manager.all_steps())
    return json.loads(distributed.exchange('steps', json.dumps(steps))[0])

  def save(self, state: TrainState, meta: dict):
    """Starts to write a state; returns before it is on disk.

    Args:
      state: the state; may be donated as soon as this returns.
      meta: what JSON can hold; `step` is added.

    Raises:
      CheckpointError: if this or the previous checkpoint cannot be written.
    """
    step = int(state.step)
    items = dict(
      params=ocp.args.StandardSave(state.params),
      ema=ocp.args.StandardSave(state.ema_params),
      optimizer=ocp.args.StandardSave(state.opt_state),
      meta=ocp.args.JsonSave(meta | {'step': step}),
    )
    try:
      self._manager.save(step, args=ocp.args.Composite(**items), force=True)
    except Exception as e:
      raise _unwritable(self.folder, step, e) from e

  def wait(self):
    """Returns when everything is on disk; CheckpointError if it cannot be."""
    try:
      self._manager.wait_until_finished()
    except Exception as e:
      raise _unwritable(self.folder, 'the last', e) from e

  def reached_preemption(self, step: int) -> bool:
    """Whether the cluster announced this run's end (several processes)."""
    return self._manager.reached_preemption(step)

  def restore(self, abstract: TrainState) -> tuple[TrainState, dict] | None:
    """The newest state that can be read, and its meta; None if none exists.

    Args:
      abstract: `ShapeDtypeStruct`s with the shardings wanted, which need not
        be those of the run that saved.

    Raises:
      CheckpointError: if there are checkpoints and none can be read.
    """
    found = self._newest_good(
      dict(
        params=abstract.params,
        ema=abstract.ema_params,
        optimizer=abstract.opt_state,
      )
    )
    if found is None:
      return None
    step, items = found
    self._set_aside([s for s in self.steps() if s > step])
    place = getattr(abstract.step, 'sharding', None)
    state = TrainState(
      step=sharding.spread(jax.numpy.int32(step), place),
      params=items['params'],
      ema_params=items['ema'],
      opt_state=items['optimizer'],
    )
    return state, items['meta']

  def restore_ema(self, abstract: PyTree) -> tuple[PyTree, dict]:
    """The newest averaged parameters that can be read, and their meta.

    Raises:
      CheckpointError: if there is no checkpoint, or none can be read.
    """
    items = self._require(dict(ema=abstract))
    return items['ema'], items['meta']

  def newest_meta(self) -> dict:
    """The meta of the newest checkpoint that can be read, without arrays.

    Raises:
      CheckpointError: if there is no checkpoint, or none can be read.
    """
    return self._require({})['meta']

  def _require(self, items: dict[str, PyTree]) -> dict:
    found = self._newest_good(items)
    if found is None:
      raise errors.CheckpointError(
        f'no checkpoint in {self.folder}; train first, or name the workdir of '
        'a run that was trained'
      )
    return found[1]

  def _newest_good(self, items: dict[str, PyTree]):
    args = {k: ocp.args.StandardRestore(v) for k, v in items.items()}
    args['meta'] = ocp.args.JsonRestore()
    failures = []
    for step in reversed(self.steps()):
      restored, problem = None, ''
      try:
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        restored = {k: restored[k] for k in args}
      except Exception as e:
        problem = _first_line(e)
      # What one process cannot read, none of them uses.
      problems = [p for p in distributed.exchange('restored', problem) if p]
      if not problems:
        return step, restored
      failures.append(f'step {step}: {problems[0]}')
      runtime.warn(
        f'checkpoint of step {step} cannot be read ({problems[0]}); trying the '
        'one before'
      )
    if failures:
      raise errors.CheckpointError(
        f'no checkpoint in {self.folder} can be read ({failures[0]}); restore '
        'the folder from a backup or start in a new workdir'
      )
    return None

  def _set_aside(self, steps: list[int]):
    # A damaged step would be in the way when training comes to it again.
    for step in steps if jax.process_index() == 0 else ():
      aside = self.folder.with_name('damaged') / str(step)
      shutil.rmtree(aside, ignore_errors=True)
      aside.parent.mkdir(exist_ok=True)
      (self.folder / str(step)).rename(aside)
      runtime.warn(f'the damaged checkpoint {step} was moved to {aside}')
    if steps:
      distributed.barrier('set aside')
      self._manager.reload()

  def close(self):
    """Waits for what is being written and frees the threads."""
    if self._manager:
      self._manager.close()


def abstract_like(shapes: PyTree, shardings: PyTree) -> PyTree:
  """`ShapeDtypeStruct`s with shardings, as `restore` wants them."""
  make: Callable = lambda x, s: jax.ShapeDtypeStruct(  # noqa: E731
    x.shape, x.dtype, sharding=s
  )
  return jax.tree.map(make, shapes, shardings)


def _probe(folder: pathlib.Path):
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f'.writable_{jax.process_index()}'
    probe.write_bytes(b'')
    probe.unlink()
  except OSError as e:
    raise errors.CheckpointError(
      f'the workdir cannot be written ({e}); choose another --workdir or '
      'change its permissions'
    ) from e


def _unwritable(folder, step, error) -> errors.CheckpointError:
  return errors.CheckpointError(
    f'checkpoint {step} in {folder} could not be written '
    f'({_first_line(error)}); make room or repair the disk, then start the '
    'same command again'
  )


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:160]
