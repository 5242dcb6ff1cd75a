"""Whose a workdir is: that of the config of its checkpoints, if it has any.

A start that was ended before its first checkpoint does not bind the next one.
"""

import json
import pathlib
import time

import jax

from vdm_jax import distributed, errors, identity, runtime, storage
from vdm_jax.media import writing


def refuse_other(workdir: pathlib.Path, config):
  """Raises CheckpointError for a workdir with checkpoints of another config."""
  saved = workdir / 'config.json'
  if saved.is_file() and _steps(workdir):
    identity.refuse_other(
      saved.read_text(),
      config,
      what=str(workdir),
      advice='choose another --workdir, or undo the change',
    )


def is_new(workdir: pathlib.Path) -> bool:
  """Whether there is no checkpoint, as the first process sees it."""
  steps = distributed.exchange('steps', json.dumps(_steps(workdir)))[0]
  return not json.loads(steps)


def _steps(workdir: pathlib.Path) -> list[int]:
  return storage.steps(workdir / 'checkpoints')


def claim(workdir: pathlib.Path, config):
  """Writes `config.json`; nothing is written before all else is checked.

  What a start of another config has left, without a checkpoint, would be shown
  as of this one, and goes aside.

  Raises:
    CheckpointError: if the workdir cannot be written, or is not one folder
      for all processes.
  """
  distributed.barrier('checked')
  if jax.process_index():
    distributed.barrier('claimed')
    _see(workdir / 'config.json')
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not _steps(workdir):
      _make_way(workdir, config)
    writing.write_bytes(
      workdir / 'config.json', identity.to_json(config).encode()
    )
    distributed.barrier('claimed')
  except OSError as e:
    raise errors.CheckpointError(
      f'the workdir cannot be written ({e}); choose another --workdir or '
      'change its permissions'
    ) from e


def _make_way(workdir: pathlib.Path, config):
  """Puts aside what a start of another config has left."""
  saved = workdir / 'config.json'
  if not saved.is_file():
    return
  try:
    found = identity.differences(identity.from_json(saved.read_text()), config)
  except errors.ConfigError:
    found = ['config.json cannot be read']
  place = storage.set_run_aside(workdir) if found else None
  if place:
    runtime.say(
      f'an earlier start of another config ({"; ".join(found[:2])}) has saved '
      f'no checkpoint; what it left is in {place}'
    )


def _see(path: pathlib.Path, seconds: float = 60.0):
  """Waits for what process 0 has written; network disks take their time."""
  end = time.monotonic() + seconds
  while not path.is_file():
    if time.monotonic() > end:
      raise errors.CheckpointError(
        f'process {jax.process_index()} does not see {path}, which process 0 '
        'has written; give a --workdir that all machines share'
      )
    time.sleep(0.5)
