"""Rows that are videos of a cascade, with experts for some of its stages.

A row trains what the rows before it have not.
"""

import pathlib

import jax

from vdm_jax import build, cascade, distributed, runtime
from vdm_jax import config as config_lib
from vdm_jax.reproduction import videos
from vdm_jax.reproduction.bench import Bench, Kind, fit, shared
from vdm_jax.reproduction.cells import Scores

HALVES = {'low': (0.0, 0.5), 'high': (0.5, 1.0)}


def run_of(row, stage: str):
  """The config of the run that trains a stage."""
  return shared(row, row.reproduce.runs[stage], {})


def check(bench: Bench, name: str, row):
  """Raises UserError unless the stages can be trained."""
  del name
  for stage in row.cascade.order:
    run = run_of(row, stage)
    build.objective(run)
    if bench.scale != 'paper':
      build.model(run, build.data(run)[1])


def prepare(bench: Bench, name: str, row):
  """Trains the stages of a row and their experts; the config that names them.

  Rows train what the rows before have not.
  """
  c, changes = row.reproduce, {}
  for stage in row.cascade.order:
    folder = fit_stage(bench, row, stage)
    changes[f'cascade.{stage}.workdir'] = str(folder)
    if stage in c.experts:
      changes[f'cascade.{stage}.sample.experts'] = tuple(
        str(fit_expert(bench, row, stage, folder, half)) for half in HALVES
      )
  return config_lib.varied(row, changes)


def fit_stage(bench: Bench, row, stage: str) -> pathlib.Path:
  """Trains a stage, after the run that it starts from; its folder."""
  run, start = run_of(row, stage), row.reproduce.starts.get(stage, '')
  if start:
    begin = fit_stage(bench, row, start)
    run = config_lib.varied(run, {'init.workdir': str(begin)})
  folder = bench.workdir / 'models' / stage_name(bench, row, stage)
  runtime.say(f'stage {stage}: the model in {folder}')
  fit(run, folder, bench.devices)
  return folder


def fit_expert(
  bench: Bench, row, stage: str, parent: pathlib.Path, half: str
) -> pathlib.Path:
  """Trains an expert of a stage on from it; its folder."""
  folder = parent.with_name(stage_name(bench, row, f'{stage}_{half}'))
  runtime.say(f'stage {stage}, expert {half}: the model in {folder}')
  fit(expert(row, stage, half, str(parent)), folder, bench.devices)
  return folder


def expert(row, stage: str, half: str, parent: str):
  """The config of an expert of half of the noise levels."""
  return config_lib.varied(
    run_of(row, stage),
    {
      'init.workdir': parent,
      'diffusion.interval': HALVES[half],
      'train.steps': row.reproduce.expert_steps,
    },
  )


def stage_name(bench: Bench, row, stage: str) -> str:
  """The name of the folder of a stage's model."""
  return stage + (f'_seed_{row.seed}' if len(bench.seeds()) > 1 else '')


def prefixes(row) -> list[str]:
  """Of each stage, what tells its videos from those of other rows."""
  parts = [
    stage + ('_experts' if stage in row.reproduce.experts else '')
    for stage in row.cascade.order
  ]
  return ['-'.join(parts[: i + 1]) for i in range(len(parts))]


def score(bench: Bench, name: str, row, seed: int) -> Scores:
  """Samples all stages with one seed and judges the last one's videos.

  Rows share what the stages make that are the same up to there.
  """
  changes = {'sample.seed': seed}
  if bench.scale == 'paper':
    e = row.evaluate
    changes['sample.prompts'] = e.captions or e.validation or e.path
  row = config_lib.varied(row, changes)
  stages = cascade.check(row, bench.mesh)
  previous = None
  for stage, prefix in zip(stages, prefixes(row), strict=True):
    folder = f'{prefix}_{bench.ending(row, seed)}'
    folder = bench.workdir / 'videos' / folder
    clips = cascade.make(stage, previous, folder, bench.mesh)
    previous = clips.videos
  if bench.scale == 'paper':
    from vdm_jax.reproduction import measuring

    distributed.barrier('made')  # until the frames are written
    kept = folder / 'stages' / stages[-1].name
    return measuring.of_folder(bench, row, kept, folder)
  if jax.process_index():
    return {}
  of_run = stages[-1].config
  if bench.shows(row, seed):
    videos.show(bench, of_run, clips, name)
  return videos.judged(bench, of_run, clips)


KIND = Kind(check, prepare, score, videos.controls)
