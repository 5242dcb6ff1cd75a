"""How fast the data and the training step of a config are, here and now."""

import json
import pathlib
import statistics
import time

import jax

from vdm_jax import build, runtime, sharding, train
from vdm_jax.data import benchmark as data_benchmark
from vdm_jax.data import pipeline
from vdm_jax.evaluation import plan
from vdm_jax.media import writing
from vdm_jax.metrics import benchmark as feature_benchmark

STEPS = 5  # timed steps; the median is reported
SECONDS = 5.0  # CPU time spent on reading clips


def run(config, workdir: pathlib.Path):
  """Prints a table and writes it to `workdir/benchmark.json`.

  The data source is measured in clips per second and core, and beside it
  stands how many cores the training step keeps busy at its own speed.

  With `config.evaluate.benchmark` feature networks are timed instead.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  mesh = sharding.of_config(config)
  if config.evaluate.benchmark:
    return _feature_networks(config, workdir, mesh)
  sharding.check_batch(mesh, config.train.batch_size, config.train.accumulate)
  source, told = build.data(config)
  runtime.say(train.describe(source))
  read = data_benchmark.measure(source, seconds=SECONDS)
  seconds = step_seconds(config, mesh, source, told)
  need = config.train.batch_size / seconds
  row = {
    'config': config.name,
    'device': f'{mesh.size} × {jax.devices()[0].device_kind}',
    'source': config.data.source,
    'source_clips_per_second_and_core': read,
    'step_seconds': seconds,
    'step_clips_per_second': need,
    'cores_for_the_data': need / read,
  }
  writing.write_json(workdir / 'benchmark.json', row)
  for name, value in row.items():
    text = f'{value:.4g}' if isinstance(value, float) else value
    runtime.say(f'{name.replace("_", " "):<34}{text}')
  runtime.say(json.dumps(row))


def _feature_networks(config, workdir: pathlib.Path, mesh):
  """Prints a table of them and writes it to `feature_networks.json`."""
  rows = feature_benchmark.run(
    plan.listed(config.evaluate.benchmark),
    mesh,
    batch_size=config.evaluate.batch_size,
  )
  for row in rows:
    hours = (f'{n} in {h:.2g} h' for n, h in row['hours'].items())
    runtime.say(
      f'{row["network"]:<10}{row["clips_per_second"]:8.3g} clips/s  '
      f'{", ".join(hours)}; overhead {row["overhead"]:.2%}'
    )
  device = f'{mesh.size} × {jax.devices()[0].device_kind}'
  table = {'device': device, 'clips': '16×64×64', 'networks': rows}
  writing.write_json(workdir / 'feature_networks.json', table)


def step_seconds(config, mesh, source, told) -> float:
  """The median time of a training step, compiled and warm."""
  model = build.model(config, told)
  shapes = train.batch_shapes(config, told, mesh)
  init, _, compiled = train.programs(config, model, mesh, shapes)
  batches = pipeline.batches(
    source,
    batch_size=config.train.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  batch = train.to_devices(next(batches), shapes)
  state, times = init(), []
  for _ in range(STEPS + 1):
    begin = time.monotonic()
    state, metrics = compiled(state, batch)
    jax.block_until_ready(metrics)
    times.append(time.monotonic() - begin)
  return statistics.median(times[1:])  # the first one warms up
