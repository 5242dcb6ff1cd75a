"""Checkpoints of a workdir, written while training goes on, and believed.

A checkpoint holds five items: `params`, `ema`, `optimizer` (arrays), `meta`
(JSON: step, config, noise prior and, of every array, its type, shape and
fingerprint) and `data` (JSON: the data signature). Sampling reads `ema` alone.
What is restored has the fingerprints that were taken before it was written;
where it has not, or cannot be read, the step before is used.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from vdm_jax import (
  distributed,
  errors,
  preflight,
  runtime,
  saving,
  sharding,
  storage,
)
from vdm_jax.fingerprint import Fingerprints
from vdm_jax.state import TrainState

PyTree = Any
ARRAYS = saving.ARRAYS


class Checkpoints:
  """The checkpoints below one workdir.

  Args:
    workdir: the run's folder; checkpoints go to its `checkpoints` folder.
    keep: how many of the newest are kept.
    read_only: never write, delete or clean up, for sampling beside a trainer.
    strict: a newest checkpoint that cannot be used is an error.
    step: the only one to restore; 0 for the newest that can be used.

  Raises:
    CheckpointError: if the folder cannot be written.
  """

  def __init__(
    self,
    workdir,
    *,
    keep: int = 3,
    read_only: bool = False,
    strict: bool = False,
    step: int = 0,
  ):
    self.folder = pathlib.Path(workdir).absolute() / 'checkpoints'
    self._keep = keep
    self._strict = strict
    self._step = step
    self._told = set()  # the unusable steps that were reported
    self._fingerprints = Fingerprints()
    self._writer = None
    if not read_only:
      storage.probe(self.folder)
      self._writer = saving.Writer(self.folder, keep=keep)

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if error is None:
      self.close()
      return
    # What is being written is wanted all the more; unless the others, who must
    # take part, may be gone.
    together = isinstance(error, errors.DivergedError)
    if self._writer and (together or not distributed.active()):
      self._writer.settle()
      self._writer.close()

  def steps(self) -> list[int]:
    """The steps on disk, oldest first; not all of them need be readable.

    Several processes call it together, and go by what the first one sees.
    """
    steps = storage.steps(self.folder)
    return json.loads(distributed.exchange('steps', json.dumps(steps))[0])

  def save(self, state: TrainState, meta: dict):
    """Starts to write a state; returns before it is on disk.

    A save that fails is a line and the next one another try, until `close`.

    Args:
      state: the state; may be donated as soon as this returns.
      meta: what JSON can hold; `data` becomes an item of its own.

    Raises:
      DivergedError: the state is not finite; it is not saved.
    """
    step, trees = int(state.step), _trees(state)
    found = self._fingerprints(trees)
    if found.not_finite:
      raise errors.DivergedError(
        f'{found.not_finite[0]} is not finite after step {step}, which is not '
        'saved; the checkpoints are from before: lower '
        'config.optim.learning_rate, and go on from them in a new workdir by '
        '--config.init.workdir=THIS_ONE'
      )
    meta = meta | {
      'step': step,
      'arrays': preflight.listing(trees, found.values),
    }
    data = {'step': step, 'data': meta.pop('data', None)}
    items = {k: ocp.args.PyTreeSave(tree) for k, tree in trees.items()}
    items['meta'] = ocp.args.JsonSave(_signed(meta))
    items['data'] = ocp.args.JsonSave(_signed(data))
    self._writer.start(step, items)

  def poll(self):
    """Notes how the last save ended, if it has; to be called every step."""
    self._writer.poll()

  def wait(self):
    """Returns when everything is on disk.

    Raises:
      CheckpointError: the last save failed.
    """
    self._writer.finish()

  def close(self):
    """The same, and frees the threads."""
    if self._writer:
      try:
        self._writer.finish()
      finally:
        self._writer.close()

  def reached_preemption(self, step: int) -> bool:
    """Whether the cluster announced this run's end (several processes)."""
    return self._writer.reached_preemption(step)

  def require_room(self, abstract: TrainState):
    """Raises CheckpointError if the disk cannot hold the checkpoints."""
    if jax.process_index() == 0:
      storage.require_room(
        self.folder, needed=storage.size(_trees(abstract)), keep=self._keep
      )

  def require_fit(self, meta: dict, abstract: TrainState):
    """Raises CheckpointError if a state is not what a checkpoint holds.

    Args:
      meta: of the checkpoint.
      abstract: `ShapeDtypeStruct`s.
    """
    _require_fit(meta, _trees(abstract))

  def restore(self, abstract: TrainState) -> tuple[TrainState, dict] | None:
    """The newest state that is good, and its meta; None if none exists.

    Damaged ones that are newer are moved out of the way.

    Args:
      abstract: `ShapeDtypeStruct`s with the shardings wanted, which need not
        be those of the run that saved.

    Raises:
      CheckpointError: there are checkpoints and none is good, the newest is
        not and `strict`, or they hold another state.
    """
    found = self._newest_good(_trees(abstract))
    if found is None:
      return None
    step, trees, meta = found
    if self._writer:
      self._set_aside([s for s in self.steps() if s > step])
    place = getattr(abstract.step, 'sharding', None)
    state = TrainState(
      step=sharding.spread(jax.numpy.int32(step), place),
      params=trees['params'],
      ema_params=trees['ema'],
      opt_state=trees['optimizer'],
    )
    return state, meta

  def restore_ema(self, abstract: PyTree) -> tuple[PyTree, dict]:
    """The newest averaged parameters that are good, and their meta.

    Raises:
      CheckpointError: as of `restore`, or if there is no checkpoint.
    """
    trees, meta = self._require(dict(ema=abstract))
    return trees['ema'], meta

  def newest_meta(self) -> dict:
    """The meta of the newest checkpoint that can be read, without arrays.

    Raises:
      CheckpointError: if there is no checkpoint, or none can be read.
    """
    return self._require({})[1]

  def _require(self, wanted: dict[str, PyTree]):
    found = self._newest_good(wanted)
    if found is None:
      raise errors.CheckpointError(
        f'no checkpoint in {self.folder}; train first, or name the workdir of '
        'a run that was trained'
      )
    return found[1:]

  def _newest_good(self, wanted: dict[str, PyTree]):
    """(step, trees, meta), or None; all processes the same."""
    failures, tried = {}, set()
    # A trainer beside us may remove the oldest steps and finish others.
    while steps := [s for s in self._candidates() if s not in tried]:
      step = steps[-1]
      tried.add(step)
      try:
        trees, meta = self._read(step, wanted)
      except _UnusableError as e:
        failures[step] = str(e)
        if self._strict or self._step:
          raise self._none_good(failures) from e
        continue
      self._tell(failures, step)
      return step, trees, meta
    if failures:
      raise self._none_good(failures)
    return None

  def _candidates(self) -> list[int]:
    steps = self.steps()
    if not self._step:
      return steps
    if self._step not in steps:
      there = ', '.join(map(str, steps[-10:])) or 'none'
      raise errors.CheckpointError(
        f'no checkpoint of step {self._step} in {self.folder} (there are: '
        f'{there}); choose one of these, or 0 for the newest'
      )
    return [self._step]

  def _read(self, step: int, wanted: dict[str, PyTree]):
    """(trees, meta) of one step, checked."""
    meta = _together(lambda: self._meta(step))
    _require_fit(meta, wanted)
    trees = _together(lambda: self._arrays(step, wanted))
    values = self._fingerprints(trees).values if 'arrays' in meta else {}
    wrong = [p for p, v in values.items() if meta['arrays'][p][2] != v]
    if wrong:
      raise _UnusableError(f'{wrong[0]} is not what was written')
    return trees, meta

  def _meta(self, step: int) -> dict:
    meta = _checked(self._json(step, 'meta'))
    if 'arrays' not in meta:
      if step not in self._told:
        self._told.add(step)
        runtime.warn(
          f'checkpoint {step} in {self.folder} is of an earlier version; what '
          'it holds cannot be checked'
        )
      return meta
    data = _checked(self._json(step, 'data'))
    if step != meta['step'] or step != data['step']:
      raise ValueError(f'it says that it is of step {meta["step"]}')
    return meta | {'data': data['data']}

  def _json(self, step: int, item: str) -> dict:
    return json.loads((self.folder / str(step) / item / 'metadata').read_text())

  def _arrays(self, step: int, wanted: dict[str, PyTree]) -> dict:
    # Without Orbax's manager, which waits for the other processes after it
    # has read: one that cannot read would leave them waiting.
    handler = ocp.StandardCheckpointHandler(**saving.process_options())
    return {
      name: handler.restore(
        epath.Path(self.folder / str(step) / name),
        args=ocp.args.StandardRestore(tree),
      )
      for name, tree in wanted.items()
    }

  def _tell(self, failures: dict[int, str], step: int):
    for failed, problem in failures.items():
      if failed not in self._told:
        self._told.add(failed)
        runtime.warn(
          f'checkpoint of step {failed} cannot be read ({problem}); going back '
          f'to step {step}'
        )

  def _none_good(self, failures: dict[int, str]) -> errors.CheckpointError:
    step, problem = next(iter(failures.items()))
    what = f'the checkpoint of step {step} in {self.folder} cannot be read'
    if self._step:
      advice = 'set config.sample.step to another, or to 0 for the newest'
    elif self._strict:
      advice = 'unset config.train.strict_resume to go back to the one before'
    else:
      what = f'no checkpoint in {self.folder} can be read'
      problem = f'step {step}: {problem}'
      advice = 'restore the folder from a backup or start in a new workdir'
    return errors.CheckpointError(f'{what} ({problem}); {advice}')

  def _set_aside(self, steps: list[int]):
    # A damaged step would be in the way when training comes to it again.
    if not steps:
      return
    if jax.process_index() == 0:
      place = storage.set_aside(self.folder, steps)
      runtime.say(
        f'what is damaged ({", ".join(map(str, steps))}) is in {place}'
      )
    distributed.barrier('set aside')
    self._writer.reload()


class _UnusableError(Exception):
  """A checkpoint cannot be used; the message says why."""


def abstract_like(shapes: PyTree, shardings: PyTree) -> PyTree:
  """`ShapeDtypeStruct`s with shardings, as `restore` wants them."""
  make: Callable = lambda x, s: jax.ShapeDtypeStruct(  # noqa: E731
    x.shape, x.dtype, sharding=s
  )
  return jax.tree.map(make, shapes, shardings)


def _trees(state: TrainState) -> dict[str, PyTree]:
  trees = state.params, state.ema_params, state.opt_state
  return dict(zip(ARRAYS, trees, strict=True))


def _require_fit(meta: dict, wanted: dict[str, PyTree]):
  if 'arrays' in meta:
    preflight.refuse(
      meta['arrays'],
      wanted,
      what=f'the checkpoint of step {meta["step"]}',
      advice='undo the change of the config, or choose another --workdir',
    )


def _together(read: Callable):
  """What `read` returns; if it fails in one process, it fails in all."""
  found, problem = None, ''
  try:
    found = read()
  except Exception as e:
    problem = storage.reason(e)
  # What one process cannot read, none of them uses.
  problems = [p for p in distributed.exchange('read', problem) if p]
  if problems:
    raise _UnusableError(problems[0])
  return found


def _signed(values: dict) -> dict:
  values = json.loads(json.dumps(values))
  return values | {'sha256': _digest(values)}


def _checked(values: dict) -> dict:
  signature = values.pop('sha256', None)
  if signature is None and 'arrays' not in values and 'config' in values:
    return values  # of an earlier version
  if signature != _digest(values):
    raise ValueError('its text is not what was written')
  return values


def _digest(values: dict) -> str:
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
