"""Experts: several models, each for an interval of noise levels (Balaji22).

Ge23 §5.2 take two per stage, eDiff-I's level 1. Which of them a step needs
follows from the grid alone, so that the host decides: the steps split into
segments, and the same compiled program runs each of them with the parameters
of its expert.
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from vdm_jax.diffusion.samplers import Sampler

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Experts:
  """The parameters of every expert.

  Attributes:
    intervals: [low, high) of s = σ/α = e^{−λ/2}, one per expert, in any order.
    params: a tree of parameters per expert.

  Raises:
    ValueError: intervals that are empty, overlap or leave a gap, or are not as
      many as the trees.
  """

  intervals: tuple[Interval, ...]
  params: tuple[Any, ...]

  def __post_init__(self):
    if len(self.intervals) != len(self.params):
      raise ValueError(
        f'{len(self.intervals)} intervals for {len(self.params)} experts; give '
        'one for each'
      )
    check(self.intervals)


def single(params: Any) -> Experts:
  """One model for all levels."""
  return Experts(((0.0, math.inf),), (params,))


def check(intervals: tuple[Interval, ...]) -> None:
  """Raises ValueError unless the intervals lie side by side."""
  if not intervals:
    raise ValueError('experts need one interval of noise levels or more')
  for low, high in intervals:
    if not 0 <= low < high:
      raise ValueError(
        f'the interval from {low} to {high} is empty; its ends are noise '
        'levels s = σ/α, the smaller one first'
      )
  for (_, high), (low, _) in itertools.pairwise(sorted(intervals)):
    if high != low:
      what = 'overlap' if low < high else 'leave a gap'
      raise ValueError(
        f'the intervals of experts {what} between {min(low, high)} and '
        f'{max(low, high)}; end each where the next one begins'
      )


def route(intervals: tuple[Interval, ...], sampler: Sampler, logsnrs) -> list:
  """The expert of each of the N steps along N + 1 levels, the last included.

  It is the one of the level at which the step first asks the denoiser, ŝ with
  churn, for all that the step asks: a second call, at the level that the step
  goes to, is at most one step outside of the expert's interval.

  Raises:
    ValueError: a level that is in no interval.
  """
  check(intervals)
  levels = np.asarray(logsnrs, np.float64)
  asked = np.append(sampler.asked(levels[:-2]), levels[-2])
  owners = []
  for s in np.exp(-asked / 2):
    found = [i for i, (low, high) in enumerate(intervals) if low <= s < high]
    if not found:
      raise ValueError(
        f'no expert is for the noise level σ/α = {s:.6g}; begin the first '
        'interval at 0 and end the last at infinity'
      )
    owners += found
  return owners


def segments(owners: list[int], longest: int) -> list[tuple[int, int, int]]:
  """(begin, end, expert) of runs of at most `longest` steps of one expert."""
  runs, begin = [], 0
  for expert, group in itertools.groupby(owners):
    last = begin + len(list(group))
    for start in range(begin, last, longest):
      runs.append((start, min(start + longest, last), expert))
    begin = last
  return runs
