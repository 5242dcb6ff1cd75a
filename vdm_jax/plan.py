"""What a config takes on machines that need not be there: memory and time.

The training step and the sampling step are compiled by the compiler of the
target, for shapes; no array is made and no data is read.
"""

import concurrent.futures
import json
import math
import pathlib
import threading
import time
from typing import Any

from vdm_jax import errors, runtime, sharding
from vdm_jax.media import writing
from vdm_jax.planning import describe, programs, search, targets
from vdm_jax.planning.programs import Case
from vdm_jax.progress import duration

FILE = 'plan.json'
BUDGET = 840.0  # seconds; what is not compiled then is left to the next time
WORKERS = 2  # compilations at a time
TRIES = 3  # recommendations that are compiled until one fits


def run(config, workdir: pathlib.Path, target: str = targets.HERE):
  """Prints the plan, and writes it to `workdir/plan.json`.

  What is compiled is kept in the file: the same command goes on after an
  interruption, or after its time was over.

  Raises:
    ConfigError: no such target, or a config that cannot run on it.
  """
  place = targets.find(target)
  programs.check(config, place)
  bench = Bench(config, place, workdir, seconds=BUDGET)
  own, sampling = cases(config, place)
  sizes = sorted({*search.sizes(_shards(config, place)), own.fsdp})
  states = programs.state_bytes(config, place, sizes)
  forward = programs.forward_flops(config)
  for line in introduction(config, place, states, forward):
    runtime.say(line)
  totals = {n: s['state'] for n, s in states.items()}
  rows, chosen = solve(bench, own, totals, place.memory, beside=(sampling,))
  found = bench.found
  report(config, place, bench, own, sampling, states, forward)
  advise(config, place, rows, own, chosen, found)
  bench.write(
    states={str(k): v for k, v in states.items()},
    forward=forward,
    table=rows,
    own=own.text(),
    recommended=chosen and overrides(config, chosen, place),
  )
  runtime.say(f'all of it in {bench.path}')


class Bench:
  """Compiles cases, and keeps in the plan's file what came of them.

  Its lines begin with `label`, where there are several. No compilation begins
  that may not end in `seconds`, and none goes on for longer.

  Attributes:
    found: by case what is known of it; None where the time was over.
    path: of the file.
  """

  def __init__(
    self,
    config,
    target,
    workdir: pathlib.Path,
    *,
    label: str = '',
    seconds: float = math.inf,
  ):
    self.found: dict[Case, dict[str, Any] | None] = {}
    self.path = workdir / FILE
    self._config, self._target = config, target
    self._label, self._seconds = label, seconds
    self._begin = time.monotonic()
    self._longest = {}  # seconds, by program
    self._lock = threading.Lock()
    self._kept = {}
    if self.path.is_file():
      self._kept = _read(self.path).get('compilations', {})

  def all(self, cases: list[Case]) -> dict[Case, dict[str, Any] | None]:
    """What there is to know of the cases."""
    rest = [c for c in dict.fromkeys(cases) if not self.found.get(c)]
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
      for case, facts in zip(rest, pool.map(self._one, rest), strict=True):
        self.found[case] = facts
    return {c: self.found[c] for c in cases}

  def _one(self, case: Case) -> dict[str, Any] | None:
    name = programs.key(self._config, self._target, case)
    if name in self._kept:
      return self._kept[name]
    rest = self._seconds - (time.monotonic() - self._begin)
    if rest < self._longest.get(case.program, 0.0):
      self._say(f'{case.text()}: left out, the time is over')
      return None
    self._say(f'{case.text()}: compiling')
    facts = programs.compile_case(self._config, self._target, case, rest)
    if facts is None:
      self._say(f'{case.text()}: not done when the time was over')
      return None
    with self._lock:
      longest = self._longest.get(case.program, 0.0)
      self._longest[case.program] = max(longest, facts['seconds'])
      self._kept[name] = facts
      self.write()
    word = 'fits' if facts['fits'] else 'does not fit'
    self._say(
      f'{case.text()}: {word}, {describe.gib(facts["needed"])}, in '
      f'{duration(facts["seconds"])}'
    )
    return facts

  def _say(self, text: str):
    gone = duration(time.monotonic() - self._begin)
    runtime.say(f'[{gone:>6}] {self._label}{text}')

  def write(self, **results):
    """Writes the file, with what else there is to keep."""
    writing.write_json(
      self.path,
      {
        'config': self._config.name,
        'target': self._target.name,
        'chips': len(self._target.devices),
        'memory': self._target.memory,
        **results,
        'compilations': self._kept,
      },
    )


def _read(path: pathlib.Path) -> dict:
  try:
    return json.loads(path.read_text())
  except ValueError as e:
    raise errors.ConfigError(
      f'{path} is not a plan ({e}); remove it, or choose another --workdir'
    ) from e


def _shards(config, target) -> int:
  mesh = sharding.of_config(config, list(target.devices))
  return sharding.batch_shards(mesh)


def cases(config, target) -> tuple[Case, Case]:
  """The config's own training step, and its sampling step."""
  mesh = sharding.of_config(config, list(target.devices))
  shards, parts = sharding.batch_shards(mesh), config.train.accumulate
  fsdp = mesh.shape['fsdp']
  own = Case(
    'training',
    config.model.remat,
    fsdp,
    config.train.batch_size // (shards * parts),
    parts,
  )
  whole = sharding.whole_batch(mesh, config.sample.batch_size)
  return own, Case('sampling', config.model.remat, fsdp, whole // shards)


def introduction(config, target, states, forward) -> list[str]:
  """What is known before anything is compiled."""
  first = next(iter(states.values()))
  has = f' with {describe.gib(target.memory)}' if target.memory else ''
  _, assumed = programs.told(config)
  lines = [
    f'{config.name}: {first["parameters"] / 1e6:.2f} M parameters, '
    f'{len(target.devices)} × {target.kind}{has}, batch '
    f'{config.train.batch_size}',
    f'forward {forward["training"] / 1e12:.3f} TFLOP an example, '
    f'{forward["sampling"] / 1e12:.3f} without images',
    'state a chip: '
    + ', '.join(
      f'{describe.gib(s["state"])} (fsdp {n})' for n, s in states.items()
    ),
  ]
  if assumed:
    lines.append(f'assumed, for want of data: {", ".join(assumed)}')
  return lines


def solve(
  bench: Bench, own: Case, states: dict[int, int], memory: int, *, beside=()
) -> tuple[list[dict[str, Any]], Case | None]:
  """The largest batches, and a setting for the config's own batch.

  Args:
    bench: to compile with.
    own: the case of the config.
    states: bytes of the state by size of fsdp.
    memory: bytes of a chip; 0: not known.
    beside: cases to compile besides.
  """
  design = search.design(own, states, memory)
  found = bench.all([own, *design.cases, *beside])
  model = search.fit(design, states, found)
  usable = search.usable(memory)
  rows = search.rows(model, found, usable) if memory else []
  return rows, choose(bench, rows, own, usable, model)


def choose(bench, rows, own: Case, usable: float, model) -> Case | None:
  """The best setting for the config's batch that a compilation has shown."""
  tried = 0
  for case in search.candidates(rows, own.batch * own.accumulate):
    tried += not bench.found.get(case)
    if tried > TRIES:
      break
    facts = bench.all([case])[case]
    if facts is None:
      break
    if model and case.accumulate == 1:
      says = model.needed(case.remat, case.fsdp, case.batch)
      runtime.say(
        f'the memory model said {describe.gib(says)} of {case.text()}, the '
        f'compiler {describe.gib(facts["needed"])}'
      )
    if search.fits(facts, usable):
      return case
  return None


def training_flops(config, case: Case, forward: dict[str, float]) -> float:
  """FLOPs a chip that a step takes, however it is programmed."""
  clips = case.batch * case.accumulate / config.mesh.space
  return 3 * forward['training'] * clips


def report(config, target, bench, own, sampling, states, forward):
  """Prints what is known of the config's own programs."""
  facts = bench.found[own]
  if facts:
    useful = training_flops(config, own, forward)
    kind = {'useful': useful, 'images': config.data.images}
    for line in describe.program(facts, target, **kind):
      runtime.say(line)
  facts = bench.found[sampling]
  if facts:
    useful = facts['counted']
    for line in describe.program(facts, target, useful=useful, images=0):
      runtime.say(line)
    if facts['fits']:
      state = states[own.fsdp]
      beside = facts['needed'] - state['average'] + state['state']
      runtime.say(
        f'  while training    {describe.gib(beside)}, with the state beside'
      )


def advise(config, target, rows, own, chosen, found):
  """Prints the table and the setting to use."""
  if not target.memory:
    runtime.say(
      'how much memory the devices have is not known, so there is no table'
    )
    return
  for line in describe.table(rows, target):
    runtime.say(line)
  runtime.say(
    f'  with {search.MARGIN:.0%} of the memory left free; ≈ by the model '
    'of planning/search.py, of few compilations'
  )
  wanted = f'a batch of {config.train.batch_size}, {own.batch} a chip'
  facts = found[own]
  if facts:
    fits = search.fits(facts, search.usable(target.memory))
    word = 'fits' if fits else 'does not fit'
    runtime.say(f'{wanted}, {word} as the config stands')
  if chosen is None:
    runtime.say(
      'no setting was found; run the same command again if the time was over, '
      'or take more chips, or a smaller batch'
    )
    return
  runtime.say(f'recommended, and compiled: {chosen.text()}')
  runtime.say('  ' + ' '.join(overrides(config, chosen, target)))


def overrides(config, case: Case, target) -> list[str]:
  """The flags that make a config a case."""
  return [
    f'--config.model.remat={case.remat}',
    f'--config.mesh.fsdp={case.fsdp}',
    f'--config.train.batch_size={config.train.batch_size}',
    f'--config.train.accumulate={case.accumulate}',
  ]
