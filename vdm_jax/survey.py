"""Plans of many models for many machines, in one table.

Of each model the training step is compiled as its config stands; where that
does not fit, with more fsdp, and with the batch in parts if need be. A plan of
the model alone tells more, and may find a faster setting.
"""

import concurrent.futures
import dataclasses
import pathlib
from typing import Any

from vdm_jax import errors, plan, runtime, validation
from vdm_jax.media import writing
from vdm_jax.planning import describe, programs, search, targets
from vdm_jax.planning.programs import Case

FILE = 'plans.json'
TABLE = 'plans.md'
# Parameters, their average and two moments in float32; gradients besides.
WITH_GRADIENTS = 5 / 4


def run(config, workdir: pathlib.Path, target: str = ''):
  """Prints the table, and writes it to `plans.md` and `plans.json`.

  What is compiled is kept in `workdir/TARGET/MODEL/plan.json`: the same
  command goes on after an interruption.

  Args:
    config: its section `plan` holds `targets` and `order`, names of machines
      and of models, and `models`, the configs by name.
    workdir: where the plans go.
    target: the only one; all of the config if empty.

  Raises:
    ConfigError: no such target, or a model's config that is wrong.
  """
  names = (target,) if target else tuple(config.plan.targets)
  models = {name: config.plan.models[name] for name in config.plan.order}
  for model in models.values():
    validation.validate(model)
  places = [targets.find(name) for name in names]
  forward = {n: programs.forward_flops(model) for n, model in models.items()}
  rows = []
  with concurrent.futures.ThreadPoolExecutor(plan.WORKERS) as pool:
    cells = {
      (name, place.name): pool.submit(
        planned,
        model,
        place,
        workdir / place.name.replace(':', '_') / name,
        forward[name],
      )
      for name, model in models.items()
      for place in places
    }
    for name, model in models.items():
      # How many there are does not depend on where they lie.
      states = programs.state_bytes(model, places[0], [1])
      row = {'model': name, 'batch': model.train.batch_size}
      rows.append(row | {'parameters': states[1]['parameters']})
      for place in names:
        cell = rows[-1][place] = _result(cells[name, place], pool)
        runtime.say(f'{name} on {place}: {text(cell)}')
        writing.write_json(workdir / FILE, {'rows': rows})
  table = markdown(rows, names)
  writing.write_bytes(workdir / TABLE, '\n'.join([*table, '']).encode())
  for line in table:
    runtime.say(line)
  runtime.say(f'all of it in {workdir / TABLE}')


def _result(cell: concurrent.futures.Future, pool) -> dict[str, Any]:
  """Of one cell; what ends it ends the others, but for what compiles now."""
  try:
    return cell.result()
  except BaseException:
    pool.shutdown(wait=False, cancel_futures=True)
    raise


def planned(
  config,
  place: targets.Target,
  folder: pathlib.Path,
  forward: dict[str, float],
) -> dict[str, Any]:
  """What one model takes on one machine, or `why` that is not known.

  `setting` is what to change in the config; None: it fits as it stands.
  """
  try:
    programs.check(config, place)
  except errors.ConfigError as e:
    return {'why': str(e)}
  label = f'{config.name}, {place.name}: '
  bench = plan.Bench(config, place, folder, label=label)
  own, _ = plan.cases(config, place)
  case = fitting(bench, config, place, own)
  if case is None:
    return {'why': 'nothing that was compiled fits'}
  facts = bench.found[case]
  useful = plan.training_flops(config, case, forward)
  return speed(config, facts, place, useful) | {
    'setting': None if case == own else plan.overrides(config, case, place),
    'fsdp': case.fsdp,
    'accumulate': case.accumulate,
    'bytes': facts['needed'],
  }


def fitting(bench: plan.Bench, config, place, own: Case) -> Case | None:
  """The first that leaves a plan's margin; None: there is none.

  What the config says, then more fsdp, then parts of a batch, too. What cannot
  fit, by its state and what was compiled before, is left out.
  """
  usable = search.usable(place.memory)
  shards = config.train.batch_size // (own.batch * own.accumulate)
  sizes = sorted({*search.sizes(shards), own.fsdp})
  states = programs.state_bytes(config, place, sizes)
  held = {n: s['state'] * WITH_GRADIENTS for n, s in states.items()}
  needed = 0.0  # beside state and gradients, for each example, at the least
  for case in settings(own, sizes):
    if usable and held[case.fsdp] + needed * case.batch > usable:
      continue
    facts = bench.all([case])[case]
    if search.fits(facts, usable):
      return case
    if facts['needed']:
      needed = (facts['needed'] - held[case.fsdp]) / case.batch
  return None


def settings(own: Case, sizes: list[int]) -> list[Case]:
  """A config's own case, and those that take less memory, in steps."""
  more = [dataclasses.replace(own, fsdp=n) for n in sizes if n > own.fsdp]
  parts = [n for n in range(2, own.batch + 1) if not own.batch % n]
  most = [own, *more][-1]
  return [own, *more] + [
    dataclasses.replace(
      most, batch=own.batch // n, accumulate=own.accumulate * n
    )
    for n in parts
  ]


def speed(config, facts, place, useful: float) -> dict[str, float]:
  """What it does if each kernel runs at its limit; of a chip that is known."""
  seconds = facts['bound']['serial']
  if not place.flops or not seconds:
    return {}
  return {
    'seconds': seconds,
    'utilisation': useful / (seconds * place.flops),
    'clips_per_second': config.train.batch_size / seconds,
  }


def text(cell: dict[str, Any]) -> str:
  """A cell of the table."""
  if 'bytes' not in cell:
    return f'— ({cell["why"]})'
  parts = [describe.gib(cell['bytes'])]
  if 'seconds' in cell:
    rate = cell['clips_per_second']
    rate = f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'
    parts += [f'{cell["utilisation"]:.0%}', f'{rate} clips/s']
  if cell['setting']:
    setting = f'fsdp {cell["fsdp"]}'
    if cell['accumulate'] > 1:
      setting += f', {cell["accumulate"]} parts'
    parts.append(setting)
  return ' · '.join(parts)


def markdown(rows: list[dict[str, Any]], names) -> list[str]:
  """The lines of the table."""
  lines = [
    f'| model | parameters | batch | {" | ".join(names)} |',
    '|---|---|---|' + '---|' * len(names),
  ]
  for row in rows:
    cells = ' | '.join(text(row[name]) for name in names)
    size = f'{row["parameters"] / 1e6:.0f} M'
    lines.append(f'| {row["model"]} | {size} | {row["batch"]} | {cells} |')
  return lines
