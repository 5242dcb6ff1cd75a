"""Evaluates a trained model, or a folder of videos, by a named protocol.

    python -m vdm_jax.main --mode=evaluate --workdir=RUN \
      --config.evaluate.protocol=ucf101_vdm \
      --config.evaluate.weights.c3d=c3d.safetensors

Leaves `evaluations/NAME/metrics.json` in the workdir. Samples are made as by
`--mode=sample`, and are kept beside it: the same command continues where it
was stopped, and asks nothing of the model again.
"""

import dataclasses
import pathlib

import jax

from vdm_jax import config as config_lib
from vdm_jax import sample, sharding
from vdm_jax.evaluation import plan as plan_lib
from vdm_jax.evaluation import report as report_lib
from vdm_jax.evaluation import samples as samples_lib
from vdm_jax.metrics.scoring import Seconds


def run(config, workdir: pathlib.Path, devices=None):
  """Evaluates, writes `metrics.json`, prints a table and rebuilds the page.

  Args:
    config: the settings, validated; those of the run but for `sample`, `mesh`
      and `evaluate`.
    workdir: of a run; with `config.evaluate.videos` any folder.
    devices: the devices to use, all by default.

  Raises:
    UserError: for whatever the user can mend; before anything is generated.
  """
  mesh = sharding.of_config(config, devices)
  plan, seconds = plan_lib.make(config), Seconds()
  if config.evaluate.videos:
    samples, sets = samples_lib.of_files(config, plan, workdir)
  else:
    checkpoints = sample.checkpoints_of(config, workdir)
    trained = sample.trained_with(checkpoints, config)

    def restore(asked):
      return sample.restore(asked, checkpoints, trained, mesh)

    samples, sets = samples_lib.of_model(
      config, plan, workdir, trained, restore, mesh, seconds
    )
  report = report_lib.make(config, plan, samples, sets, mesh, seconds)
  if jax.process_index() == 0:
    path = report_lib.write(samples.folder, report)
    report_lib.show(config, workdir, report, path)


def measure(
  config,
  model: sample.Model,
  protocol: str,
  *,
  workdir: pathlib.Path,
  mesh: jax.sharding.Mesh,
  measures: tuple[str, ...] = (),
) -> dict[str, float]:
  """The numbers of a model by a protocol, for tables; see `run`.

  Args:
    config: the settings; `config.evaluate` but for protocol and measures.
    model: the model, whose programs are used.
    protocol: of `protocols.PROTOCOLS`.
    workdir: below which `evaluations/` lies.
    mesh: the devices.
    measures: some of the protocol's; all if empty.

  Returns:
    By name; the first process has them, the others an empty dict.

  Raises:
    UserError: as `run`.
  """
  asked = {'evaluate.protocol': protocol, 'evaluate.measures': measures}
  config = config_lib.varied(config, asked)
  plan, seconds = plan_lib.make(config), Seconds()

  def restore(settings):
    return dataclasses.replace(model, config=settings)

  samples, sets = samples_lib.of_model(
    config, plan, workdir, model.conditions, restore, mesh, seconds
  )
  report = report_lib.make(config, plan, samples, sets, mesh, seconds)
  if jax.process_index():
    return {}
  report_lib.write(samples.folder, report)
  return {name: found['value'] for name, found in report['numbers'].items()}
