"""Which settings fit: a model of the memory, from few compilations.

A training step takes, of each chip,

    state(fsdp) + fixed(fsdp) + batch · slope(remat)

The state is counted exactly. What else does not grow with the batch (the
gradients, gathered parameters) is a + c/fsdp, the same for every policy of
rematerialisation; two compilations at two batches and one at another fsdp
give a, c and a slope, and one more each the slopes of the other policies.
"""

import dataclasses
import math
from typing import Any

from vdm_jax.planning.programs import Case

REMATS = ('none', 'attention', 'block')  # the least work first
SIZES = (1, 4, 8, 32)  # of fsdp that a table shows
# Of the chip, for what the programs do not know of: the next batch, the
# program that samples, fragments.
MARGIN = 0.03
_ROOM = 0.35  # of the chip that the state may take where slopes are measured

Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Design:
  """What is compiled to learn how the memory goes.

  Attributes:
    pair: the same case at one example a shard and at two.
    elsewhere: the same at one example, with another fsdp; None: there is none.
    others: the other policies at one example.
  """

  pair: tuple[Case, Case]
  elsewhere: Case | None
  others: tuple[Case, ...]

  @property
  def cases(self) -> tuple[Case, ...]:
    """All of them, the most telling first."""
    first, second = self.pair
    middle = () if self.elsewhere is None else (self.elsewhere,)
    return (first, *middle, second, *self.others)


def sizes(shards: int) -> list[int]:
  """Sizes of fsdp that divide the shards of a batch."""
  return [n for n in SIZES if not shards % n]


def design(own: Case, states: dict[int, int], memory: int) -> Design:
  """What to compile.

  Args:
    own: the case of the config.
    states: bytes of the state by size of fsdp, the config's own among them.
    memory: bytes of a chip; 0: not known.
  """
  room = _ROOM * memory if memory else math.inf
  at = next((n for n in sorted(states) if states[n] <= room), max(states))
  if states[own.fsdp] <= room:
    at = own.fsdp
  there = own.fsdp
  if there == at:
    near = [n for n in states if n != at and states[n] <= (memory or math.inf)]
    there = min(near, default=None, key=lambda n: (abs(n - at), n))
  first = Case('training', 'block', at, 1)
  return Design(
    (first, dataclasses.replace(first, batch=2)),
    there and dataclasses.replace(first, fsdp=there),
    tuple(
      dataclasses.replace(first, remat=r) for r in REMATS if r != first.remat
    ),
  )


@dataclasses.dataclass(frozen=True)
class Memory:
  """The model of the memory; see the module.

  Attributes:
    states: bytes of the state by size of fsdp.
    whole: a, bytes.
    split: c, bytes.
    slopes: bytes an example, by policy.
  """

  states: dict[int, int]
  whole: float
  split: float
  slopes: dict[str, float]

  def needed(self, remat: str, fsdp: int, batch: int) -> float:
    """Bytes a chip."""
    fixed = self.whole + self.split / fsdp
    return self.states[fsdp] + fixed + batch * self.slopes[remat]

  def largest(self, remat: str, fsdp: int, memory: float) -> int:
    """The largest batch of a shard; 0: not even one."""
    rest = memory - self.needed(remat, fsdp, 0)
    return max(0, math.floor(rest / max(self.slopes[remat], 1.0)))


def fit(
  plan: Design, states: dict[int, int], found: dict[Case, Facts | None]
) -> Memory | None:
  """The model of what was compiled; None without the pair.

  A program that did not fit tells what it needs after the compiler has tried
  to save, so that its policy may look better than it is, never worse.
  """
  needs = {c: f['needed'] for c, f in found.items() if f and f['needed']}
  first, second = plan.pair
  if first not in needs or second not in needs:
    return None
  slope = needs[second] - needs[first]
  fixed = needs[first] - slope - states[first.fsdp]
  whole, split = fixed, 0.0
  other = plan.elsewhere
  if other in needs:
    there = needs[other] - slope - states[other.fsdp]
    split = (there - fixed) / (1 / other.fsdp - 1 / first.fsdp)
    whole = fixed - split / first.fsdp
  slopes = {first.remat: slope}
  for case in plan.others:
    if case in needs:
      slopes[case.remat] = needs[case] - states[case.fsdp] - fixed
  return Memory(states, whole, split, slopes)


def rows(
  model: Memory | None, found: dict[Case, Facts | None], usable: float
) -> list[dict[str, Any]]:
  """The table: for each policy and fsdp the largest batch of a shard.

  Args:
    model: of the memory.
    found: what was compiled.
    usable: bytes of a chip.
  """
  states = {} if model is None else model.states
  table = []
  for remat in REMATS:
    for fsdp in sorted(states):
      batch = None
      if remat in model.slopes:
        batch = model.largest(remat, fsdp, usable)
      shown = [
        (c.batch, fits(f, usable))
        for c, f in found.items()
        if f
        and (c.program, c.remat, c.fsdp) == ('training', remat, fsdp)
        and c.accumulate == 1
      ]
      least = max((b for b, ok in shown if ok), default=0)
      most = min((b for b, ok in shown if not ok), default=math.inf)
      if batch is not None:
        batch = int(min(max(batch, least), most - 1))
      table.append(
        {
          'remat': remat,
          'fsdp': fsdp,
          'batch': batch,
          'shown': batch is not None and (batch in (least, most - 1)),
        }
      )
  return table


def usable(memory: int) -> float:
  """Bytes of a chip that a program may take; 0: not known."""
  return memory * (1 - MARGIN)


def fits(facts: Facts, usable: float) -> bool:
  """Whether a program fits with the margin."""
  return facts['fits'] and (not usable or facts['needed'] <= usable)


def candidates(table: list[dict[str, Any]], wanted: int) -> list[Case]:
  """Settings for so many examples of a shard, the best first.

  First those that need no accumulation, then those that compute least twice,
  then those that exchange least.
  """
  cases = []
  for row in table:
    if not row['batch']:
      continue
    parts = next(
      n
      for n in range(1, wanted + 1)
      if not wanted % n and wanted // n <= row['batch']
    )
    cases.append(
      Case('training', row['remat'], row['fsdp'], wanted // parts, parts)
    )
  return sorted(
    cases, key=lambda c: (c.accumulate, REMATS.index(c.remat), c.fsdp)
  )
