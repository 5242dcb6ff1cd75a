"""What the rows of a table share, and the models that they are made with.

What was trained is kept in the folder of the table and not trained again.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vdm_jax import checkpoint, runtime, train
from vdm_jax import config as config_lib
from vdm_jax.reproduction.cells import Scores, content, settings, slug
from vdm_jax.reproduction.distance import Distance
from vdm_jax.reproduction.tables import REAL, Table

# What the runs of a table take from its own config, where that says something.
SHARED = (
  'data.path',
  'data.videos',
  'data.list',
  'data.image_path',
  'text.captions',
  'text.encoder',
  'text.encoder2',
  'text.cache',
  'text.cache2',
)


@dataclasses.dataclass(frozen=True)
class Bench:
  """What the rows of a table share.

  Attributes:
    config: of the table.
    table: what it compares.
    scale: 'small' or 'paper'.
    workdir: of the table.
    devices: the devices to train on, all if None.
    mesh: the devices to sample on; None until they are asked for.
    distance: of clips from real ones, if there is a network for it.
  """

  config: Any
  table: Table
  scale: str
  workdir: pathlib.Path
  devices: Any = None
  mesh: jax.sharding.Mesh | None = None
  distance: Distance | None = None

  def row(self, name: str, seed: int):
    """The config of a row, for a seed of training."""
    return config_lib.varied(
      self.config, self.table.rows[name] | {'seed': seed}
    )

  def tuned(self, name: str) -> bool:
    """Whether the models of a row begin from a model of images."""
    return self.table.scratch is not None and name not in self.table.scratch

  def images(self, name: str, row):
    """The config of the model of images that a row's model starts from."""
    c = row.reproduce
    if 'images' not in c:
      return of_images(row)
    changes = {k: v for k, v in self.table.rows[name].items() if 'model.' in k}
    return shared(row, c.images, changes)

  def seeds(self) -> tuple[int, ...]:
    """The seeds with which every model is trained; the config's own if none."""
    c = self.config
    return tuple(c.reproduce.get('training_seeds', ())) or (c.seed,)

  def number(self, name: str) -> int:
    """The place of a row in the table; 0 is before the first."""
    return [REAL, *self.table.rows].index(name)

  def cell(self, name: str, row, seed: int) -> str:
    """The name of a cell's files."""
    return f'{self.number(name)}_{slug(name)}_{self.ending(row, seed)}'

  def ending(self, row, seed: int) -> str:
    """What the names of a cell's files end in."""
    return f'seed_{seed}' + (f'_of_{row.seed}' if len(self.seeds()) > 1 else '')

  def about(self, name: str, row, seed: int) -> dict[str, Any]:
    """What the scores of a cell depend on."""
    about = {'settings': settings(row, self.scale), 'seed': seed}
    about['protocol'] = self.table.protocol
    if self.scale == 'paper':
      weights = row.evaluate.weights.to_dict()
      about['weights'] = {k: content(v) for k, v in weights.items()}
    if self.tuned(name):
      about['images'] = settings(self.images(name, row), self.scale)
    return about | {'features': self.distance and self.distance.sha256}

  def shows(self, row, seed: int) -> bool:
    """Whether the samples of a cell go on the page."""
    firsts = self.config.reproduce.seeds[0], self.seeds()[0]
    return jax.process_index() == 0 and (seed, row.seed) == firsts


def of_images(row):
  """The miniature of a model of images that the model of a row starts from."""
  c = row.reproduce
  return config_lib.varied(
    row,
    {
      'data.frames': 1,
      'data.images': 0,
      'model.temporal': False,
      'diffusion.prior': 'independent',
      'diffusion.prior_alpha': 0.0,
      'train.steps': c.image_steps,
      'train.batch_size': c.image_batch,
      'sample.overlap': 0,
    },
  )


def shared(row, run, changes: Mapping[str, Any]):
  """The config of a run of a table, with what is the table's."""
  outer = config_lib.flat(row)
  taken = {k: outer[k] for k in SHARED if outer[k]}
  return config_lib.varied(run, taken | {'seed': row.seed} | dict(changes))


def fit(row, folder: pathlib.Path, devices):
  """Trains a model to the end, or for as long as is left."""
  checkpoints = checkpoint.Checkpoints(folder, read_only=True)
  if max(checkpoints.steps(), default=0) < row.train.steps:
    train.run(config_lib.varied(row, {'sample.count': 0}), folder, devices)


def folder_name(bench: Bench, row) -> str:
  """One folder for all rows that train the same model."""
  keys = {k for changes in bench.table.rows.values() for k in changes}
  flat = config_lib.flat(row)
  parts = [
    f'{k.rpartition(".")[2]}_{flat[k]}'
    for k in sorted(keys)
    if not k.startswith(('sample.', 'evaluate.'))
  ]
  if row.init.workdir:
    parts.append('tuned')
  if len(bench.seeds()) > 1:
    parts.append(f'seed_{row.seed}')
  return re.sub(r'[^\w.-]+', '_', '_'.join(parts)) or 'model'


def trained(bench: Bench, name: str, row):
  """Trains what a row needs; its config and the folder of its model."""
  models = bench.workdir / 'models'
  if bench.tuned(name):
    images = bench.images(name, row)
    folder = models / f'images_{folder_name(bench, images)}'
    runtime.say(f'the images that it starts from: the model in {folder}')
    fit(images, folder, bench.devices)
    if name in bench.table.stills:
      asked = config_lib.flat(row.evaluate).items()
      asked = {f'evaluate.{k}': v for k, v in asked}
      return config_lib.varied(images, asked), folder
    row = config_lib.varied(row, {'init.workdir': str(folder)})
  folder = models / folder_name(bench, row)
  runtime.say(f'row {name!r}: the model in {folder}')
  fit(row, folder, bench.devices)
  return row, folder


@dataclasses.dataclass(frozen=True)
class Kind:
  """How rows of a kind are made.

  Attributes:
    check: (bench, name, row) -> None; raises UserError for what cannot work.
    prepare: (bench, name, row) -> anything: trains what a row needs.
    score: (bench, name, what was prepared, seed of the samples) -> scores.
    controls: bench -> scores of rows that no model makes, by name.
  """

  check: Callable[[Bench, str, Any], None]
  prepare: Callable[[Bench, str, Any], Any]
  score: Callable[[Bench, str, Any, int], Scores]
  controls: Callable[[Bench], dict[str, Scores]]
