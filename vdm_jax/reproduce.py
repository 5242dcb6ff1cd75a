"""Tables of the papers, in miniature or whole: trains, samples, compares.

    python -m vdm_jax.main --mode=table --table=vdm6 --scale=small

A config of a table says which one, the model and the size; the rows stand in
`reproduction.tables` and, for the scale of the papers, in `paper_tables` beside
it. A cell, which is a row with a seed, is made once: its scores are kept in the
workdir until a setting changes. So a run that was stopped goes on where it was.
"""

import dataclasses
import functools
import pathlib

import jax

from vdm_jax import config as config_lib
from vdm_jax import errors, runtime, sharding, validation
from vdm_jax.data import seams
from vdm_jax.media import plots
from vdm_jax.reproduction import (
  cascades,
  distance,
  needs,
  noises,
  report,
  videos,
)
from vdm_jax.reproduction.bench import Bench, Kind
from vdm_jax.reproduction.cells import Cells, Scores
from vdm_jax.reproduction.paper_tables import PAPER_TABLES
from vdm_jax.reproduction.tables import REAL, TABLES

KINDS: dict[str, Kind] = {
  'videos': videos.KIND,
  'noises': noises.KIND,
  'cascade': cascades.KIND,
}
SCALES = {'small': TABLES, 'paper': PAPER_TABLES}


def run(config, workdir: pathlib.Path, devices=None):
  """Makes the table `config.reproduce.table` and prints it.

  Leaves in the workdir: `models/`, `videos/`, `cells/` with the scores of each
  cell, `table.json` with all of them, `table.md`, some samples of every row
  and the gallery.

  Args:
    config: with a section `reproduce`: `table`, and `seeds` of the samples.
    workdir: of the table.
    devices: the devices to use, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  bench = check(config, workdir, devices)
  scores = controls(bench)
  others = tuple(scores)
  for name in bench.table.rows:
    scores[name] = row_scores(bench, name)
  if jax.process_index() == 0:
    report.write(config, bench.table, workdir, scores, bench.seeds(), others)


def controls(bench: Bench) -> dict[str, list[Scores]]:
  """The rows that no model makes; at the papers' scale only what they print."""
  if bench.scale == 'paper':
    return {REAL: []} if REAL in bench.table.printed else {}
  found = KINDS[bench.table.kind].controls(bench)
  return {name: [scores] for name, scores in found.items()}


def row_scores(bench: Bench, name: str) -> list[Scores]:
  """The scores of a row, those of every seed of training and of samples."""
  kind, cells = KINDS[bench.table.kind], Cells(bench.workdir / 'cells')
  found = []
  for training_seed in bench.seeds():
    row = bench.row(name, training_seed)
    # Trained and read when the first cell asks for it, if one does.
    prepared = functools.cache(
      functools.partial(kind.prepare, bench, name, row)
    )
    for seed in bench.config.reproduce.seeds:

      def make(row=row, prepared=prepared, seed=seed) -> Scores:
        return kind.score(bench, name, prepared(), seed)

      cell = bench.cell(name, row, seed)
      found.append(cells.score(cell, bench.about(name, row, seed), make))
  return found


def check(config, workdir: pathlib.Path, devices=None) -> Bench:
  """The table, with everything checked that can be before training.

  At the papers' scale it says what is needed.

  Raises:
    UserError: it cannot be made.
  """
  if 'reproduce' not in config:
    raise errors.ConfigError(
      'the config is of no table; use one of configs/repro/'
    )
  c = config.reproduce
  scale = c.get('scale', 'small')
  known = config_lib.choose('config.reproduce.scale', scale, SCALES)
  table = config_lib.choose('config.reproduce.table', c.table, known)
  bench = Bench(config, table, scale, workdir, devices)
  _check_seeds('seeds', c.seeds)
  _check_seeds('training_seeds', bench.seeds())
  if scale == 'small' and config.data.source != 'shapes':
    raise errors.ConfigError(
      f'config.data.source is {config.data.source!r}, which has no judge; use '
      "'shapes'"
    )
  if scale == 'paper':
    needs.check(bench)  # on any machine, before it is asked for its devices
  mesh = sharding.of_config(config, devices)
  bench = dataclasses.replace(bench, mesh=mesh)
  for name in table.rows:
    KINDS[table.kind].check(bench, name, bench.row(name, bench.seeds()[0]))
  if table.figure:
    plots.check()
  if 'seam_error' in table.columns:
    _check_seams(config)
  return _with_distance(bench)


def _with_distance(bench: Bench) -> Bench:
  """Adds the network of `shapes_fd`, if there is one."""
  if bench.scale != 'small' or bench.table.kind == 'noises':
    return bench
  c = bench.config
  path = c.reproduce.get('features', '') or c.evaluate.weights.shapes
  if not path:
    runtime.say(
      'no column shapes_fd: name the weights of --mode=features with '
      '--config.reproduce.features=FILE'
    )
  return dataclasses.replace(bench, distance=distance.load(path))


def _check_seeds(name: str, seeds):
  what = f'config.reproduce.{name} is {seeds}'
  if not seeds or len(set(seeds)) < len(seeds):
    raise errors.ConfigError(f'{what}; give one or more different seeds')
  if not all(0 <= seed < validation.SEEDS for seed in seeds):
    most = validation.SEEDS - 1
    raise errors.ConfigError(f'{what}; each must be a number from 0 to {most}')


def _check_seams(config):
  starts = videos.seam_starts(config)
  if not starts:
    raise errors.ConfigError(
      f'config.sample.frames is {config.sample.frames}, which makes no seams; '
      f'use more than the {config.data.frames} of the model'
    )
  if min(starts) < seams.LEAST:
    raise errors.ConfigError(
      f'{min(starts)} frames stand before a seam, and its error needs '
      f'{seams.LEAST}; use a model of {seams.LEAST} frames or more, and the '
      "order 'extension'"
    )
