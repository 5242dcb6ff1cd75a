"""Writing checkpoints beside training: one at a time, and failing aloud.

Orbax tells of a save that failed when the next one begins, which then is lost
too, and counts it as saved until then. Here each save is followed to its end:
a failure is a line at once and costs that save alone.
"""

import contextlib
import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from vdm_jax import distributed, errors, runtime, storage

ARRAYS = ('params', 'ema', 'optimizer')
TEXTS = ('meta', 'data')
PATIENCE = 3600  # seconds for one save, all processes together
SHARE = 1 << 20  # bytes that a device writes at least, if others have them too
# Of Orbax's barriers, those at the end of its work in the background.
CLOSING = tuple(
  f'ThreadSaveMultiHostValueHolder:set_value_{name}'
  for name in ('start', 'end')
)


class Writer:
  """Writes the checkpoints of one folder; one save at a time.

  Args:
    folder: of the checkpoints; it exists.
    keep: how many of the newest are kept.
  """

  def __init__(self, folder: pathlib.Path, *, keep: int):
    self._folder = folder
    self._keep = keep
    self._meeting = distributed.Meeting(*CLOSING)
    self._manager = _manager(folder, keep, self._meeting)
    self._broken = False  # what the manager keeps of a failure comes again
    self._pending = None  # the step that is being written
    self._failure = ''  # of the newest save, if it failed

  def start(self, step: int, items: dict):
    """Begins to write a step; `items` are Orbax's arguments by name."""
    self.settle()
    # Beforehand, and all together: of a save that one process cannot begin the
    # others would wait for the end.
    needed = storage.size([items[name].item for name in ARRAYS])
    short = storage.shortage(self._folder, needed=needed)
    said = distributed.exchange('start', json.dumps([short, self._broken]))
    short, broken = map(max, zip(*map(json.loads, said), strict=True))
    if short:
      self._failed(step, short)
      return
    if broken:
      self._reopen()
    try:
      args = ocp.args.Composite(**items)
      self._manager.save(step, args=args, force=True)
      self._pending = step
    except Exception as e:
      self._broken = True
      with contextlib.suppress(Exception):
        for name in CLOSING:  # others that have begun need not wait
          self._meeting(name, PATIENCE)
      self._failed(step, storage.reason(e))

  def poll(self):
    """Notes how the last save ended, if it has; waits for nothing."""
    if self._pending is not None and not self._manager.is_saving_in_progress():
      self.settle()

  def settle(self):
    """Returns when nothing is being written; a failure is a line."""
    step, self._pending = self._pending, None
    if step is None:
      return
    try:
      self._manager.wait_until_finished()
      self._failure = ''
    except Exception as e:
      self._broken = True
      self._failed(step, storage.reason(e))

  def finish(self):
    """Returns when everything is on disk.

    Raises:
      CheckpointError: the last save failed, in this or another process.
    """
    self.settle()
    failed = [f for f in distributed.exchange('saved', self._failure) if f]
    if failed:
      raise errors.CheckpointError(
        f'the last save failed: {failed[0]}; {self._newest()}: make room or '
        'repair the disk, and start the same command again'
      )

  def reload(self):
    """Takes note of steps that were removed or moved away."""
    self._manager.reload()

  def close(self):
    """Frees the threads; what failed before is not told again."""
    for _ in range(3):  # each raises one of the errors that are left
      with contextlib.suppress(Exception):
        self._manager.close()
        return

  def reached_preemption(self, step: int) -> bool:
    """Whether the cluster announced this run's end (several processes)."""
    return self._manager.reached_preemption(step)

  def _reopen(self):
    self.close()
    self._remove_unfinished()
    self._manager = _manager(self._folder, self._keep, self._meeting)
    self._broken = False

  def _failed(self, step: int, why: str):
    self._failure = f'checkpoint {step}: {why}'
    self._remove_unfinished()
    if jax.process_index() and distributed.GAVE_UP in why:
      return  # that one tells it
    runtime.warn(
      f'a save failed ({self._failure}); training goes on and saves at the '
      f'next interval; {self._newest()}'
    )

  def _remove_unfinished(self):
    if jax.process_index() == 0:
      storage.remove_unfinished(self._folder)
    with contextlib.suppress(OSError):
      self._manager.reload()

  def _newest(self) -> str:
    with contextlib.suppress(OSError):
      if steps := storage.steps(self._folder):
        return f'step {steps[-1]} is on disk'
    return 'no checkpoint is on disk'


def _manager(folder: pathlib.Path, keep: int, meeting) -> ocp.CheckpointManager:
  several = process_options()
  handlers = {name: _arrays_handler() for name in ARRAYS}
  handlers |= {name: ocp.JsonCheckpointHandler(**several) for name in TEXTS}
  return ocp.CheckpointManager(
    folder,
    item_handlers=handlers,
    options=ocp.CheckpointManagerOptions(
      **several,
      preservation_policy=checkpoint_managers.LatestN(n=keep),
      cleanup_tmp_directories=True,
      create=False,
      async_options=ocp.AsyncOptions(
        # In the background, what cannot be made is noticed after 300 s.
        create_directories_asynchronously=False,
        timeout_secs=PATIENCE,
        barrier_sync_fn=lambda *, key, timeout_ms: meeting(
          key, timeout_ms / 1000
        ),
      ),
    ),
  )


def _arrays_handler() -> ocp.PyTreeCheckpointHandler:
  """Writes arrays, those that many devices have in shares of SHARE or more.

  By Orbax's defaults each of d devices writes a d-th of every such array, and
  cuts it out by a program of its own while training waits: of a thousand
  arrays of some kilobytes that is most of a save.
  """
  types = ocp.type_handlers
  arrays = types.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARE)
  registry = types.create_type_handler_registry(
    (jax.Array, arrays), (np.ndarray, types.NumpyHandler())
  )
  return ocp.PyTreeCheckpointHandler(
    type_handler_registry=registry, **process_options()
  )


def process_options() -> dict:
  """Orbax's options for several processes.

  Named, they wait for each other at the coordinator, for a bounded time, and
  not in a collective.
  """
  if jax.process_count() == 1:
    return {}
  everyone = set(range(jax.process_count()))
  options = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes=everyone
  )
  return {'multiprocessing_options': options}
