"""The cells of a table: scores that are kept, and made again if need be."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vdm_jax import config as config_lib
from vdm_jax import errors, identity, runtime, sample
from vdm_jax.media import writing
from vdm_jax.metrics import reading

Scores = dict[str, float]

# Settings that change how a cell is made or shown, not what it says.
FREE = (
  'name',
  'mesh',
  'data.workers',
  'data.processes',
  'data.timeout',
  'data.memory',
  'text.dims',
  'model.remat',
  'init.workdir',  # what stands there is told apart by its own settings
  'train.log_every',
  'train.checkpoint_every',
  'train.keep',
  'train.sample_every',
  'train.sample_first',
  'train.sample_count',
  'train.sample_steps',
  'train.watchdog',
  'train.strict_resume',
  'train.tensorboard',
  'sample.batch_size',
  'sample.frame_rate',
  'sample.arrays',
  'reproduce.table',
  'reproduce.seeds',
  'reproduce.training_seeds',
  'reproduce.features',  # the file's content counts
  'evaluate.weights',  # likewise
)


@dataclasses.dataclass(frozen=True)
class Cells:
  """Scores on disk, a JSON file for each cell.

  Attributes:
    folder: of the files.
  """

  folder: pathlib.Path

  def score(
    self, name: str, about: Mapping[str, Any], make: Callable[[], Scores]
  ) -> Scores:
    """The scores of a cell: those that are kept, or made now.

    Kept ones count if they depend on the same; damaged ones do not. All
    processes must call it; scores are in the first one.

    Args:
      name: of the cell, from which that of its file is made.
      about: what the scores depend on; JSON-able.
      make: makes them; called by all processes or by none.

    Raises:
      CheckpointError: the folder cannot be written.
    """
    path = self.folder / f'{slug(name)}.json'
    digest = digest_of(about)
    kept = read(path, digest) if jax.process_index() == 0 else None
    if bool(sample.from_first(np.array(kept is not None))):
      runtime.say(f'{name}: scores are there ({path})')
      return kept or {}
    scores = make()
    if jax.process_index() == 0:
      text = {'digest': digest, 'scores': scores, 'about': dict(about)}
      try:
        writing.write_json(path, text)
      except OSError as e:
        raise errors.CheckpointError(
          f'scores cannot be written ({path}: {e.strerror}); make room, or '
          'choose another --workdir'
        ) from e
    return scores


def read(path: pathlib.Path, digest: str) -> Scores | None:
  """The scores of a file; None if there are none of that digest."""
  try:
    kept = json.loads(path.read_text())
    if kept['digest'] != digest:
      return None
    return {str(k): float(v) for k, v in kept['scores'].items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None


def digest_of(about: Mapping[str, Any]) -> str:
  """What tells the dependences of one cell from those of another."""
  text = json.dumps(about, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode()).hexdigest()


def settings(config, scale: str = 'small') -> dict[str, Any]:
  """The settings that a cell depends on, by dotted keys, JSON-able.

  Args:
    config: of the row.
    scale: at 'small' nothing is asked of `config.evaluate`.
  """
  free = FREE if scale == 'paper' else (*FREE, 'evaluate')

  def counts(key: str) -> bool:
    # Runs of a cascade are whole configs, with settings of the same names.
    key = re.sub(r'^reproduce\.(runs\.\w+|images)\.', '', key)
    return not identity.among(key, free)

  found = {k: v for k, v in config_lib.flat(config).items() if counts(k)}
  return json.loads(json.dumps(found))


@functools.cache
def content(path: str) -> str:
  """The SHA-256 of a file; '' if none is named.

  Raises:
    WeightsError: it cannot be read.
  """
  if not path:
    return ''
  try:
    return reading.sha256([pathlib.Path(path).expanduser()])
  except OSError as e:
    raise errors.WeightsError(
      f'weights cannot be read ({path}: {e.strerror}); mend the path'
    ) from e


def slug(name: str) -> str:
  """A name as that of a file or folder."""
  return re.sub(r'\W+', '_', name).strip('_')
