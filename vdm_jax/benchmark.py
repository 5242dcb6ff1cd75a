"""How fast a config is, here and now: data, training, sampling.

Model FLOPs are those of the network alone, thrice for a training step (once
forward, twice back) whatever is computed again; utilisation is their share of
what the same devices do in a product of large matrices, measured just before.
"""

import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import (
  build,
  checks,
  loop,
  request,
  runtime,
  sample,
  sharding,
  train,
)
from vdm_jax import (
  config as config_lib,
)
from vdm_jax.data import benchmark as data_benchmark
from vdm_jax.evaluation import plan
from vdm_jax.generate import Generator
from vdm_jax.media import writing
from vdm_jax.metrics import benchmark as feature_benchmark
from vdm_jax.planning import programs

STEPS = 5  # timed steps; the median is reported
SECONDS = 5.0  # CPU time spent on reading clips
BATCHES = 8  # read by the pipeline, one after another
SAMPLED = (2, 12)  # steps of a sampler; their difference is timed
PRODUCTS = 8  # of matrices, in a row


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
  checks.same_data(source, told, config)
  runtime.say(checks.describe(source))
  peak = peak_flops(mesh, config.model.dtype)
  table = {
    'config': config.name,
    'device': f'{mesh.size} × {jax.devices()[0].device_kind}',
    'peak_flops': peak,
  }
  flops = programs.forward_flops(config)
  training, params = measure_training(
    config, mesh, source, told, flops['training'], peak
  )
  table['training'] = training
  need = training['clips_per_second']
  table['data'] = measure_data(config, source, need)
  table['sampling'] = measure_sampling(
    config, mesh, source, told, params, flops['sampling'], peak
  )
  writing.write_json(workdir / 'benchmark.json', table)
  for line in lines(table):
    runtime.say(line)
  runtime.say(json.dumps(table))


def peak_flops(mesh, dtype: str) -> float:
  """FLOP/s of all devices of a mesh in products of large matrices."""
  size = 1024 if jax.default_backend() == 'cpu' else 8192
  place = NamedSharding(mesh, P(mesh.axis_names))
  make = lambda: jnp.ones((mesh.size, size, size), dtype) / size  # noqa: E731

  @jax.jit
  def multiply(x):
    for _ in range(PRODUCTS):
      x = jnp.einsum('dij,djk->dik', x, x)
    return x

  x = jax.jit(make, out_shardings=place)()
  seconds = _fastest(lambda: multiply(x).block_until_ready())
  return 2 * PRODUCTS * mesh.size * size**3 / seconds


def _fastest(call, times: int = 3) -> float:
  """Seconds of the fastest of some calls, after one that compiles."""
  call()
  return min(_seconds(call) for _ in range(times))


def _seconds(call) -> float:
  begin = time.monotonic()
  call()
  return time.monotonic() - begin


def measure_training(config, mesh, source, told, forward: float, peak: float):
  """(what is known of the training step, averaged parameters)."""
  model = build.model(config, told)
  shapes = train.batch_shapes(config, told, mesh)
  begin = time.monotonic()
  init, _, compiled = train.programs(config, model, mesh, shapes)
  compiling = time.monotonic() - begin
  rows = sharding.own_rows(mesh, config.train.batch_size)
  batches = loop.read(config, source, rows=rows)
  batch = train.to_devices(next(batches), shapes)
  batches.close()
  state = init()

  def step():
    nonlocal state
    state, metrics = compiled(state, batch)
    jax.block_until_ready(metrics)

  times = [_seconds(step) for _ in range(STEPS + 1)]
  seconds = statistics.median(times[1:])  # the first one warms up
  flops = 3 * forward
  clips = config.train.batch_size / seconds
  memory = programs.memory(compiled)['total']
  found = {
    'compile_seconds': compiling,
    'step_seconds': seconds,
    'clips_per_second': clips,
    'model_flops_per_clip': flops,
    'utilisation': flops * clips / peak,
    'expected_bytes_per_device': memory,
    'peak_bytes_per_device': peak_bytes(),
  }
  return found, state.ema_params


def peak_bytes() -> int | None:
  """The most memory that a device has held; None where it does not say."""
  stats = [d.memory_stats() or {} for d in jax.local_devices()]
  found = [s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s]
  return max(found) if found else None


def measure_data(config, source, need: float) -> dict:
  """What the source gives, and the pipeline, for the clips that are needed."""
  read = data_benchmark.measure(source, seconds=SECONDS)
  batches = loop.read(config, source)
  next(batches)
  seconds = _seconds(lambda: [next(batches) for _ in range(BATCHES)])
  batches.close()
  return {
    'source': config.data.source,
    'clips_per_second_and_core': read,
    'pipeline_clips_per_second': BATCHES * config.train.batch_size / seconds,
    'cores_for_training': need / read,
  }


def measure_sampling(
  config, mesh, source, told, params, forward: float, peak: float
) -> dict:
  """Of each sampler: seconds of a step, and of a call of the network."""
  # With guidance it is called with the condition and without, at once.
  flops = forward * (2 if config.sample.guidance_scale != 1 else 1)
  found = {}
  for name in build.SAMPLERS:
    one = config_lib.varied(
      config, {'sample.sampler': name, 'sample.churn': 0.0}
    )
    generate = Generator(one, build.model(one, told), mesh)
    drawn = sample.Model(one, params, generate, told, 0)

    def draw(steps, one=one, drawn=drawn):
      wanted = request.plain(
        one, told, source, count=drawn.generate.batch_size, steps=steps
      )
      sample.in_memory(drawn, wanted, quiet=True)

    runtime.say(f'sampler {name}')
    compiling = _seconds(lambda draw=draw: draw(SAMPLED[0]))
    few, many = (_fastest(lambda n=n, draw=draw: draw(n)) for n in SAMPLED)
    step = max(many - few, 0.0) / (SAMPLED[1] - SAMPLED[0])
    call = step / build.CALLS.get(name, 1)
    found[name] = {
      'first_seconds': compiling,
      'step_seconds': step,
      'call_seconds': call,
      'videos_per_batch': generate.batch_size,
      'utilisation': flops * generate.batch_size / call / peak if call else 0,
    }
  return found


def lines(table: dict) -> list[str]:
  """The table as text."""
  t, d = table['training'], table['data']
  memory = t['peak_bytes_per_device']
  held = f', {memory / 2**30:.2f} at most' if memory else ''
  found = [
    f'{table["config"]} on {table["device"]}: '
    f'{table["peak_flops"] / 1e12:.3g} TFLOP/s in large products',
    f'training   {t["step_seconds"]:.4g} s a step, '
    f'{t["clips_per_second"]:.3g} clips/s, {t["utilisation"]:.1%} of that '
    f'peak; compiled in {t["compile_seconds"]:.0f} s',
    f'memory     {t["expected_bytes_per_device"] / 2**30:.2f} GiB a device '
    f'expected{held}',
    f'data       {d["pipeline_clips_per_second"]:.3g} clips/s; '
    f'{d["clips_per_second_and_core"]:.3g} a core, so that training needs '
    f'{d["cores_for_training"]:.2g} cores',
  ]
  for name, s in table['sampling'].items():
    found.append(
      f'sampling   {name:<20} {s["call_seconds"]:.4g} s a call of the network '
      f'for {s["videos_per_batch"]} videos, {s["utilisation"]:.1%}'
    )
  return found


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
