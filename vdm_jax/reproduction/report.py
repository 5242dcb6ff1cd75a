"""A finished table: in Markdown, as JSON, as a figure and as a page."""

import math
import pathlib
from collections.abc import Mapping

import numpy as np

from vdm_jax import runtime, sample
from vdm_jax.media import gallery, plots, writing
from vdm_jax.reproduction.cells import Scores
from vdm_jax.reproduction.paper_numbers import PRINTED
from vdm_jax.reproduction.tables import REAL, Table

# Of the judge's, in per cent.
SHARES = (
  'valid',
  'identity',
  'on_path',
  'moves',
  'success',
  'label',
  'seam_lost',
  'caption',
  'caption_shape',
  'caption_colour',
  'caption_direction',
)
LENGTHS = ('error', 'jump')  # what the names of those in pixels end in
COSINES = (
  'same_video',
  'same_video_spread',
  'different_videos',
  'different_videos_spread',
)


def write(
  config,
  table: Table,
  workdir: pathlib.Path,
  scores: Mapping[str, list[Scores]],
  training_seeds: tuple[int, ...],
  controls: tuple[str, ...] = (REAL,),
):
  """Prints the table, and writes it beside the gallery.

  Args:
    config: of the table.
    table: what it compares.
    workdir: of the table.
    scores: of every row and control, one for each cell.
    training_seeds: of the models.
    controls: the rows that no model has made.
  """
  seeds = tuple(config.reproduce.seeds)
  runtime.say(
    f'{table.title}\n{sizes(config, table)}\n'
    f'mean ± standard deviation over {len(training_seeds)} training(s) of each '
    f'model times {len(seeds)} seed(s) of the samples'
  )
  columns = {
    name: {row: values(found, name) for row, found in scores.items()}
    for name in shown(table, scores)
  }
  lines = [
    {'': row}
    | {heading(c): cell(v[row], c) for c, v in columns.items()}
    | printed(config.reproduce.table, table, row)
    for row in scores
  ]
  text = markdown(lines)
  runtime.say(text)
  found = PRINTED.get(config.reproduce.table)
  if found:
    runtime.say(f'{found.paper}, {found.table}, as printed. {found.note}')
  tell_findings(columns, controls)
  writing.write_json(
    workdir / 'table.json',
    {
      'title': table.title,
      'training_seeds': list(training_seeds),
      'seeds': list(seeds),
      'rows': dict(scores),
    },
  )
  writing.write_bytes(workdir / 'table.md', f'{text}\n'.encode())
  if table.figure:
    draw(table, workdir, columns)
  page = gallery.rebuild(
    workdir, title=table.title, facts=sample.facts(config), scores=lines
  )
  runtime.say(f'open {page}')


def sizes(config, table: Table) -> str:
  """How many videos of which size a cell has."""
  c, size = config.sample, config.data.size
  if table.kind == 'noises':
    a = config.analyze
    return f'{a.videos} videos of {a.frames}×{size}×{size}'
  frames = c.frames or config.data.frames
  if table.kind == 'cascade':
    last = config.cascade[config.cascade.order[-1]]
    frames, size = last.frames, last.size
  steps = f', {c.steps} steps of the sampler a window'
  if any('sample.steps' in changes for changes in table.rows.values()):
    steps = ''
  count = f'{c.count} videos'
  if table.protocol:
    count = f'videos of the protocol {table.protocol},'
  return f'{count} of {frames}×{size}×{size} a row and seed{steps}'


def shown(table: Table, scores: Mapping[str, list[Scores]]) -> list[str]:
  """The columns: the table's as far as there are such; all, if it has none."""
  there = dict.fromkeys(k for f in scores.values() for s in f for k in s)
  extra = [name for name in there if name.endswith('_fd')]
  return [*table.columns, *extra] if table.columns else list(there)


def values(found: list[Scores], column: str) -> np.ndarray:
  """A score for each seed, in the column's unit; none if a seed has none."""
  scale = 100 if column in SHARES else 1
  if not found or not all(column in scores for scores in found):
    return np.zeros(0)
  return np.array([scores[column] * scale for scores in found])


def heading(column: str) -> str:
  """The column with its unit, if it has one."""
  if column in SHARES:
    return f'{column} [%]'
  return f'{column} [px]' if column.endswith(LENGTHS) else column


def cell(of_seeds: np.ndarray, column: str) -> str:
  """Mean ± standard deviation."""
  if not len(of_seeds):
    return '    –'
  digits = 1 if column in SHARES else 3 if column in COSINES else 2
  text = f'{of_seeds.mean():5.{digits}f}'
  if len(of_seeds) > 1:
    text += f' ± {of_seeds.std(ddof=1):.{digits}f}'
  return text


def printed(name: str, table: Table, row: str) -> dict[str, str]:
  """The paper's own numbers of a row, by heading."""
  found = PRINTED.get(name)
  return found.row(table.printed.get(row)) if found else {}


def markdown(lines: list[dict[str, str]]) -> str:
  """A table in Markdown, its columns aligned, the heading first."""
  names = list(lines[0])
  table = [names, *([line[name] for name in names] for line in lines)]
  table = [[text.replace('|', r'\|') for text in line] for line in table]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  rows = [' | '.join(map(str.ljust, line, widths)) for line in table]
  rows.insert(1, ' | '.join('-' * width for width in widths))
  return '\n'.join(f'| {row} |' for row in rows)


def tell_findings(columns: Mapping[str, dict], controls: tuple[str, ...]):
  """Says of every column which rows are best."""
  ranked = {
    name: {k: v for k, v in column.items() if k not in controls}
    for name, column in columns.items()
    if name not in COSINES
  }
  if not ranked or len(next(iter(ranked.values()))) < 2:
    return
  runtime.say(
    'rows within the spread differ by √(s₁² + s₂²) or less, s being their '
    'standard deviations:'
  )
  width = max(map(len, ranked))
  for name, column in ranked.items():
    runtime.say(f'  {name:<{width}}  {finding(name, column)}')


def is_least_best(name: str) -> bool:
  """Whether a column is best where it is least."""
  return name.endswith(LENGTHS) or any(k in name for k in ('fd', 'fid', 'fvd'))


def finding(name: str, column: dict[str, np.ndarray]) -> str:
  """Which row of the table is best, and which ones may be as good.

  Args:
    name: of the column; errors and distances are best when least.
    column: the values of all seeds, by row; none where there is no score.
  """
  rows = {k: v for k, v in column.items() if k != REAL}
  missing = [row for row, v in rows.items() if not len(v)]
  if missing:
    return f'not measured in every row ({"; ".join(missing)})'
  if min(map(len, rows.values())) < 2:
    return 'one seed has no spread'
  sign = -1 if is_least_best(name) else 1
  best = max(rows, key=lambda row: sign * rows[row].mean())

  def close(row: str) -> bool:
    spread = math.hypot(rows[row].std(ddof=1), rows[best].std(ddof=1))
    return bool(abs(rows[row].mean() - rows[best].mean()) <= spread)

  others = [row for row in rows if row != best]
  if all(map(close, others)):
    return 'all rows are within the spread'
  also = '; '.join(filter(close, others)) or 'no other'
  return f'best: {best}; within the spread of it: {also}'


def draw(table: Table, workdir: pathlib.Path, columns):
  """The figure."""
  figure = table.figure
  drawn = plots.draw(
    workdir / 'figure.png',
    {heading(name): rows for name, rows in columns.items()},
    figure.points,
    title=table.title,
    label=figure.label,
    logarithmic=figure.logarithmic,
  )
  runtime.say(f'the figure is {drawn}')
