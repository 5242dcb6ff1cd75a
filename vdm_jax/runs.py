"""Other runs, opened to read: their checkpoints, settings and conditions."""

import dataclasses
import json
import pathlib

from vdm_jax import checkpoint, errors, identity
from vdm_jax.conditions import Conditions


def open_run(workdir: str, setting: str):
  """A run's checkpoints, its config and what its network is told of a video.

  Args:
    workdir: of the run.
    setting: which setting names it, for messages.

  Raises:
    CheckpointError: it holds no checkpoint that can be read.
  """
  folder = pathlib.Path(workdir).expanduser().absolute()
  checkpoints = checkpoint.Checkpoints(folder, read_only=True)
  if not checkpoints.steps():
    raise errors.CheckpointError(
      f'config.{setting} is {workdir}, which holds no checkpoint; train it '
      'first, or name the workdir of another run'
    )
  meta = checkpoints.newest_meta()
  saved = identity.from_json(json.dumps(meta['config']))
  return checkpoints, saved, Conditions.from_json(meta['conditions'])


def told_apart(old: Conditions, new: Conditions) -> list[str]:
  """What one network is told of a video and another is not, as text."""
  found = []
  for field in dataclasses.fields(Conditions):
    a, b = getattr(old, field.name), getattr(new, field.name)
    # Pictures have no frame stride; a model of one stride is not told of it.
    if field.name == 'examples' or (field.name == 'strides' and not a):
      continue
    if a != b:
      found.append(f'{field.name}: {_short(a)} → {_short(b)}')
  return found


def _short(value) -> str:
  """'none', or the value, or how many there are and the first."""
  if not value:
    return 'none'
  if isinstance(value, tuple) and len(value) > 1:
    return f'{len(value)} ({value[0]}, …)'
  return str(value[0] if isinstance(value, tuple) else value)
