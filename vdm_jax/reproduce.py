"""Tables of the papers in miniature: trains, samples, judges and compares.

A config of a table says which one, the model and the size; the rows stand
here. What was made is kept in the workdir and not made again, so a run that
was stopped goes on where it was.
"""

import dataclasses
import math
import pathlib
import re

import jax
import numpy as np

from vdm_jax import (
  build,
  checkpoint,
  errors,
  request,
  runtime,
  sample,
  sharding,
  train,
  windows,
)
from vdm_jax import config as config_lib
from vdm_jax.data import seams
from vdm_jax.media import gallery, plots, writing
from vdm_jax.tables import TABLES, Table

Scores = dict[str, float]
REAL = 'real clips'
SHOWN = 8  # videos of each row on the page


def run(config, workdir: pathlib.Path, devices=None):
  """Makes the table `config.reproduce.table` and prints it.

  Leaves in the workdir: `models/`, `videos/`, `table.json` with the scores of
  every seed, some samples of every row and the gallery.

  Args:
    config: with a section `reproduce`: `table`, and `seeds` of the samples.
    workdir: of the table.
    devices: the devices to use, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  mesh = sharding.of_config(config, devices)
  table = check(config, mesh)
  scores = {REAL: [real(config, workdir)]}
  for name, overrides in table.rows.items():
    scores[name] = []
    for seed in training_seeds(config):
      row = config_lib.varied(config, overrides | {'seed': seed})
      if starts_from_images(table, name):
        row = from_images(row, workdir, table, devices)
      folder = workdir / 'models' / folder_name(row, table)
      runtime.say(f'row {name!r}: the model in {folder}')
      fit(row, folder, devices)
      scores[name] += judged(row, workdir, folder, name, mesh)
  if jax.process_index() == 0:
    report(config, table, workdir, scores)


def training_seeds(config) -> tuple[int, ...]:
  """The seeds with which every model is trained; the config's own if none."""
  return tuple(config.reproduce.get('training_seeds', ())) or (config.seed,)


def starts_from_images(table: Table, name: str) -> bool:
  """Whether the models of a row begin from a model of images."""
  return table.scratch is not None and name not in table.scratch


def from_images(row, workdir, table: Table, devices):
  """The row, started from its model of images, which is trained if need be."""
  images = of_images(row)
  folder = workdir / 'models' / f'images_{folder_name(images, table)}'
  runtime.say(f'the images that it starts from: the model in {folder}')
  fit(images, folder, devices)
  return config_lib.varied(row, {'init.workdir': str(folder)})


def of_images(row):
  """The config of the model of images that the model of a row starts from."""
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


def fit(row, folder, devices):
  """Trains a model to the end, or for as long as is left."""
  checkpoints = checkpoint.Checkpoints(folder, read_only=True)
  if max(checkpoints.steps(), default=0) < row.train.steps:
    train.run(config_lib.varied(row, {'sample.count': 0}), folder, devices)


def check(config, mesh) -> Table:
  """The table, with everything checked that can be before training.

  Raises:
    UserError: it cannot be made.
  """
  if 'reproduce' not in config:
    raise errors.ConfigError(
      'the config is of no table; use one of configs/repro/'
    )
  c = config.reproduce
  table = config_lib.choose('config.reproduce.table', c.table, TABLES)
  for name, seeds in (
    ('seeds', c.seeds),
    ('training_seeds', training_seeds(config)),
  ):
    if not seeds or len(set(seeds)) < len(seeds):
      raise errors.ConfigError(
        f'config.reproduce.{name} is {seeds}; give one or more different seeds'
      )
  if config.data.source != 'shapes':
    raise errors.ConfigError(
      f'config.data.source is {config.data.source!r}, which has no judge; use '
      "'shapes'"
    )
  for name, overrides in table.rows.items():
    row = config_lib.varied(config, overrides)
    request.make(row, build.data(row)[1], mesh=mesh)
    build.objective(row)
    build.sampler(row)
    if starts_from_images(table, name):
      images = of_images(row)
      build.model(images, build.data(images)[1])
  if table.figure:
    plots.check()
  if 'seam_error' in table.columns:
    _check_seams(config)
  return table


def _check_seams(config):
  starts = seam_starts(config)
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


def folder_name(row, table: Table) -> str:
  """One folder for all rows that train the same model."""
  keys = {k for changes in table.rows.values() for k in changes}
  flat = config_lib.flat(row)
  parts = [
    f'{k.rpartition(".")[2]}_{flat[k]}'
    for k in sorted(keys)
    if not k.startswith('sample.')
  ]
  if row.init.workdir:
    parts.append('tuned')
  if len(training_seeds(row)) > 1:
    parts.append(f'seed_{row.seed}')
  return '_'.join(parts) or 'model'


def judged(row, workdir, folder, name: str, mesh) -> list[Scores]:
  """Samples one row with every seed, shows it and returns its scores."""
  checkpoints = checkpoint.Checkpoints(folder, read_only=True)
  known = sample.trained_with(checkpoints, row)
  model = sample.restore(row, checkpoints, known, mesh)
  scores = []
  for seed in row.reproduce.seeds:
    seeded = config_lib.varied(row, {'sample.seed': seed})
    model = dataclasses.replace(model, config=seeded)
    wanted = request.make(seeded, known, mesh=mesh)
    videos = workdir / 'videos' / f'{_slug(row, name)}_seed_{seed}'
    if len(training_seeds(row)) > 1:
      videos = videos.with_name(f'{videos.name}_of_{row.seed}')
    store = sample.open_store(videos, model, wanted)
    clips = sample.draw(model, wanted, store)
    if jax.process_index():
      continue
    scores.append(score(seeded, clips))
    firsts = row.reproduce.seeds[0], training_seeds(row)[0]
    if (seed, row.seed) == firsts:
      show(row, workdir, clips, name)
  return scores


def real(config, workdir) -> Scores:
  """Shows real clips of the same length, joined nowhere; their scores."""
  c, own = config.sample, config.data.frames
  source, _ = build.data(
    config_lib.varied(
      config, {'data.frames': c.frames or own, 'data.images': 0}
    )
  )
  rng = np.random.default_rng(0)
  found = [source.clip(i, rng) for i in range(c.count)]
  clips = sample.Clips(
    np.stack([clip['video'] for clip in found]),
    [{'clip': clip['id'], 'caption': clip['caption']} for clip in found],
    prompts=tuple(clip['caption'] for clip in found),
  )
  if jax.process_index() == 0:
    gallery.write_samples(
      workdir,
      _slug(config, REAL),
      clips.videos[:SHOWN],
      c.frame_rate,
      clips.items[:SHOWN],
      {},
      title=REAL,
    )
  return score(config, clips)


def score(row, clips: sample.Clips) -> Scores:
  """The judge's scores and, where windows are joined, the seam error."""
  found = sample.score(row, clips)
  starts = seam_starts(row)
  if starts and min(starts) >= seams.LEAST:
    stride = float(request.base_stride(row))
    found |= seams.seam_errors(clips.videos, starts, stride=stride)
  return found


def seam_starts(config) -> list[int]:
  """The first new frames of the windows that follow on others."""
  c, own = config.sample, config.data.frames
  plan = windows.plan(
    c.frames or own,
    own,
    order=c.order,
    overlap=c.overlap,
    key_stride=c.key_stride,
  )
  return [w.frames[w.new[0]] for w in plan[1:]]


def show(row, workdir, clips: sample.Clips, name: str):
  """Writes some videos of a row for the page."""
  clips = dataclasses.replace(
    clips, videos=clips.videos[:SHOWN], items=clips.items[:SHOWN]
  )
  sample.write(row, workdir, clips, name=_slug(row, name), title=name)


def _slug(config, name: str) -> str:
  """A row's name as that of a folder, in the order of the table."""
  number = [REAL, *TABLES[config.reproduce.table].rows].index(name)
  words = re.sub(r'\W+', '_', name).strip('_')
  return f'{number}_{words}'


def report(config, table: Table, workdir, scores: dict[str, list[Scores]]):
  """Prints the table, and writes it beside the gallery."""
  c, seeds = config.sample, config.reproduce.seeds
  training = training_seeds(config)
  size, frames = config.data.size, c.frames or config.data.frames
  steps = f', {c.steps} steps of the sampler a window'
  if any('sample.steps' in changes for changes in table.rows.values()):
    steps = ''
  runtime.say(
    f'{table.title}\n'
    f'{c.count} videos of {frames}×{size}×{size} a row and seed{steps}\n'
    f'mean ± standard deviation over {len(training)} training(s) of each model '
    f'times {len(seeds)} seed(s) of the samples'
  )
  columns = {
    name: {row: values(found, name) for row, found in scores.items()}
    for name in table.columns
  }
  lines = [
    {'': row} | {_heading(c): _cell(v[row], c) for c, v in columns.items()}
    for row in scores
  ]
  text = markdown(lines)
  runtime.say(text)
  runtime.say(
    'rows within the spread differ by √(s₁² + s₂²) or less, s being their '
    'standard deviations:'
  )
  width = max(map(len, columns))
  for name, column in columns.items():
    runtime.say(f'  {name:<{width}}  {finding(name, column)}')
  writing.write_json(
    workdir / 'table.json',
    {
      'title': table.title,
      'training_seeds': list(training),
      'seeds': list(seeds),
      'rows': scores,
    },
  )
  writing.write_bytes(workdir / 'table.md', f'{text}\n'.encode())
  if table.figure:
    figure = table.figure
    drawn = plots.draw(
      workdir / 'figure.png',
      {_heading(name): rows for name, rows in columns.items()},
      figure.points,
      title=table.title,
      label=figure.label,
      logarithmic=figure.logarithmic,
    )
    runtime.say(f'the figure is {drawn}')
  page = gallery.rebuild(
    workdir, title=table.title, facts=sample.facts(config), scores=lines
  )
  runtime.say(f'open {page}')


def values(found: list[Scores], column: str) -> np.ndarray:
  """A score for each seed, in per cent or pixels; none if a seed has none."""
  scale = 1 if column.endswith('error') else 100
  if not all(column in scores for scores in found):
    return np.zeros(0)
  return np.array([scores[column] * scale for scores in found])


def _heading(column: str) -> str:
  return f'{column} [px]' if column.endswith('error') else f'{column} [%]'


def _cell(of_seeds: np.ndarray, column: str) -> str:
  """Mean ± standard deviation."""
  if not len(of_seeds):
    return '    –'
  digits = 2 if column.endswith('error') else 1
  text = f'{of_seeds.mean():5.{digits}f}'
  if len(of_seeds) > 1:
    text += f' ± {of_seeds.std(ddof=1):.{digits}f}'
  return text


def markdown(lines: list[dict[str, str]]) -> str:
  """A table in Markdown, its columns aligned, the heading first."""
  names = list(lines[0])
  table = [names, *([line[name] for name in names] for line in lines)]
  table = [[cell.replace('|', r'\|') for cell in line] for line in table]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  rows = [' | '.join(map(str.ljust, line, widths)) for line in table]
  rows.insert(1, ' | '.join('-' * width for width in widths))
  return '\n'.join(f'| {row} |' for row in rows)


def finding(name: str, column: dict[str, np.ndarray]) -> str:
  """Which row of the table is best, and which ones may be as good.

  Args:
    name: of the column; errors are best when least.
    column: the values of all seeds, by row; none where there is no score.
  """
  rows = {k: v for k, v in column.items() if k != REAL}
  missing = [row for row, v in rows.items() if not len(v)]
  if missing:
    return f'not measured in every row ({"; ".join(missing)})'
  if min(map(len, rows.values())) < 2:
    return 'one seed has no spread'
  sign = -1 if name.endswith('error') else 1
  best = max(rows, key=lambda row: sign * rows[row].mean())

  def close(row: str) -> bool:
    spread = math.hypot(rows[row].std(ddof=1), rows[best].std(ddof=1))
    return bool(abs(rows[row].mean() - rows[best].mean()) <= spread)

  others = [row for row in rows if row != best]
  if all(map(close, others)):
    return 'all rows are within the spread'
  also = '; '.join(filter(close, others)) or 'no other'
  return f'best: {best}; within the spread of it: {also}'
