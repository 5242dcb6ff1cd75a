"""Tables of the papers in miniature: trains, samples, judges and compares.

A config of a table says which one, the model and the size; the rows stand
here. What was made is kept in the workdir and not made again, so a run that
was stopped goes on where it was.
"""

import dataclasses
import pathlib
from typing import Any

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
)
from vdm_jax import config as config_lib
from vdm_jax.data import seams
from vdm_jax.media import gallery, writing

Overrides = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
  """What a table compares.

  Attributes:
    title: which table of which paper.
    rows: by name, what differs from the config: in training, in sampling.
    columns: scores of the judge, and `seam_error`.
  """

  title: str
  rows: dict[str, Overrides]
  columns: tuple[str, ...]


TABLES = {
  'vdm_table4': Table(
    'Ho22 Table 4 in miniature: images trained on beside each video',
    {
      f'{k} images': {'data.images': k, 'sample.guidance_scale': 1.0}
      for k in (0, 4, 8)
    },
    ('valid', 'identity', 'on_path', 'success', 'trajectory_error'),
  ),
  'vdm_table5': Table(
    'Ho22 Table 5 in miniature: classifier-free guidance, by its scale 1 + w',
    {f'scale {s:g}': {'sample.guidance_scale': s} for s in (1.0, 2.0, 5.0)},
    (
      'caption_shape',
      'caption_colour',
      'caption_direction',
      'caption',
      'on_path',
      'success',
    ),
  ),
  'vdm_table6': Table(
    'Ho22 Table 6 in miniature: videos four times as long as the model makes',
    {
      'reconstruction guidance': {'sample.conditioning': 'reconstruction'},
      'replacement, q(z_s|x, z_t)': {'sample.conditioning': 'replacement'},
      'replacement, q(z_s|x)': {'sample.conditioning': 'replacement_marginal'},
    },
    ('valid', 'identity', 'on_path', 'success', 'seam_error'),
  ),
}


def run(config, workdir: pathlib.Path, devices=None):
  """Makes the table `config.reproduce.table`, and prints it as it comes out.

  Leaves in the workdir: `models/`, `videos/`, `table.json`, samples of every
  row and the gallery.

  Args:
    config: with a section `reproduce`: `table`, and `seeds` of the samples.
    workdir: of the table.
    devices: the devices to use, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  if 'reproduce' not in config:
    raise errors.ConfigError(
      'the config is of no table; use one of configs/repro/'
    )
  c = config.reproduce
  table = config_lib.choose('config.reproduce.table', c.table, TABLES)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  scores = {'real clips': [real(config)]}
  for name, overrides in table.rows.items():
    row = varied(config, overrides)
    model = workdir / 'models' / folder_name(row, table)
    runtime.say(f'row {name!r}: the model in {model}')
    if not trained(row, model):
      train.run(varied(row, {'sample.count': 0}), model, devices)
    scores[name] = [
      judged(varied(row, {'sample.seed': seed}), workdir, model, name, mesh)
      for seed in c.seeds
    ]
  if jax.process_index() == 0:
    report(config, table, workdir, scores)


def varied(config, overrides: Overrides):
  """A copy of the config with some values changed."""
  copy = config.copy_and_resolve_references().unlock()
  copy.update_from_flattened_dict(overrides)
  return copy.lock()


def trained(row, model_folder) -> bool:
  """Whether the model of a row has been trained to the end."""
  checkpoints = checkpoint.Checkpoints(model_folder, read_only=True)
  return max(checkpoints.steps(), default=0) >= row.train.steps


def folder_name(row, table: Table) -> str:
  """One folder for all rows that train the same model."""
  keys = {k for changes in table.rows.values() for k in changes}
  flat = row.to_dict()
  parts = [
    f'{part}_{flat[section][part]}'
    for section, _, part in (k.partition('.') for k in sorted(keys))
    if section != 'sample'
  ]
  return '_'.join(parts) or 'model'


def judged(row, workdir, model_folder, name: str, mesh) -> dict[str, float]:
  """Samples one row with one seed, shows it and returns its scores."""
  checkpoints = checkpoint.Checkpoints(model_folder, read_only=True)
  known = sample.trained_with(checkpoints, row)
  wanted = request.make(row, known, mesh=mesh)
  model = sample.restore(row, checkpoints, known, mesh)
  slug = ''.join(x if x.isalnum() else '_' for x in name)
  slug = f'{slug}_seed_{row.sample.seed}'
  store = sample.open_store(workdir / 'videos' / slug, model, wanted)
  clips = sample.draw(model, wanted, store)
  if jax.process_index():
    return {}
  sample.write(
    row,
    workdir,
    clips,
    name=slug,
    title=f'{name}, seed {row.sample.seed}',
  )
  return score(row, clips, [w.new[0] + w.start for w in wanted.windows[1:]])


def score(row, clips: sample.Clips, starts) -> dict[str, float]:
  """The judge's scores and, where blocks were joined, the seam error."""
  found = sample.score(row, clips)
  if starts:
    found['seam_error'] = seams.seam_errors(
      clips.videos, starts, stride=float(row.data.stride)
    )['seam_error']
  return found


def real(config) -> dict[str, float]:
  """The scores of real clips of the same length, joined nowhere."""
  frames = config.sample.frames or config.data.frames
  source, _ = build.data(
    varied(config, {'data.frames': frames, 'data.images': 0})
  )
  rng = np.random.default_rng(0)
  clips = [source.clip(i, rng) for i in range(config.sample.count)]
  prompts = tuple(clip.get('caption', '') for clip in clips)
  found = sample.Clips(
    np.stack([clip['video'] for clip in clips]),
    [{} for _ in clips],
    prompts=prompts if config.text.kind != 'none' else (),
  )
  own, overlap = config.data.frames, config.sample.overlap
  starts = list(range(own, frames, own - overlap)) if frames > own else []
  return score(config, found, starts)


def report(config, table: Table, workdir, scores):
  """Prints the table, and writes it beside the gallery."""
  runtime.say(table.title)
  seeds = len(config.reproduce.seeds)
  runtime.say(
    f'{config.sample.count} videos of '
    f'{config.sample.frames or config.data.frames}×{config.data.size}×'
    f'{config.data.size}, {config.sample.steps} network calls a window; mean ± '
    f'standard deviation over {seeds} seed(s) of the samples'
  )
  lines = [
    {'': name}
    | {c: spread([s[c] for s in rows if c in s], c) for c in table.columns}
    for name, rows in scores.items()
  ]
  columns = ['', *table.columns]
  widths = [max(len(c), *(len(line[c]) for line in lines)) for c in columns]
  for line in [dict(zip(columns, columns, strict=True)), *lines]:
    runtime.say(
      '  '.join(
        line[c].ljust(w) for c, w in zip(columns, widths, strict=True)
      ).rstrip()
    )
  writing.write_json(
    workdir / 'table.json', {'title': table.title, 'rows': scores}
  )
  page = gallery.rebuild(workdir, title=table.title, scores=lines)
  runtime.say(f'open {page}')


def spread(values: list[float], column: str) -> str:
  """Mean ± standard deviation; shares in per cent, errors in pixels."""
  if not values:
    return '–'
  pixels = column.endswith('error')
  scale, unit = (1, ' px') if pixels else (100, ' %')
  mean, digits = np.mean(values) * scale, 2 if pixels else 1
  text = f'{mean:.{digits}f}'
  if len(values) > 1:
    text += f' ± {np.std(values, ddof=1) * scale:.{digits}f}'
  return text + unit
