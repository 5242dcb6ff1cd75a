"""Scores of cells at the papers' scale, by protocols of evaluation."""

import dataclasses
import pathlib

import jax

from vdm_jax import config as config_lib
from vdm_jax import evaluate, sample
from vdm_jax.evaluation import plan as plan_lib
from vdm_jax.evaluation import report, samples
from vdm_jax.metrics.scoring import Seconds
from vdm_jax.reproduction.bench import Bench
from vdm_jax.reproduction.cells import Scores


def of_model(
  bench: Bench, row, model: sample.Model, folder: pathlib.Path
) -> Scores:
  """The numbers of a model; samples and reports are kept in the folder."""
  if bench.table.frames:
    return _of_longer(bench, row, model, folder)
  return evaluate.measure(
    row,
    model,
    bench.table.protocol,
    workdir=folder,
    mesh=bench.mesh,
    measures=tuple(row.evaluate.measures),
  )


def _of_longer(bench: Bench, row, model: sample.Model, folder) -> Scores:
  """The same, of other frames than the protocol's, as Ho22 Table 6 has them."""
  frames = bench.table.frames
  row = config_lib.varied(row, {'evaluate.protocol': bench.table.protocol})
  plan = plan_lib.make(row)
  plan = dataclasses.replace(
    plan,
    name=f'{plan.name}_{frames}_frames',
    protocol=dataclasses.replace(plan.protocol, frames=frames),
  )

  def restore(settings):
    return dataclasses.replace(model, config=settings)

  seconds = Seconds()
  made = samples.of_model(
    row, plan, folder, model.conditions, restore, bench.mesh, seconds
  )
  return _reported(bench, row, plan, made, seconds)


def of_folder(
  bench: Bench, row, videos: pathlib.Path, folder: pathlib.Path
) -> Scores:
  """The numbers of videos in files; the report is kept in `folder`."""
  asked = {'evaluate.protocol': bench.table.protocol}
  row = config_lib.varied(row, asked | {'evaluate.videos': str(videos)})
  plan = plan_lib.make(row)
  made = samples.of_files(row, plan, folder)
  return _reported(bench, row, plan, made, Seconds())


def _reported(bench: Bench, row, plan, made, seconds: Seconds) -> Scores:
  """Writes the report; its numbers by name."""
  videos, sets = made
  found = report.make(row, plan, videos, sets, bench.mesh, seconds)
  if jax.process_index():
    return {}
  report.write(videos.folder, found)
  return {name: float(n['value']) for name, n in found['numbers'].items()}
