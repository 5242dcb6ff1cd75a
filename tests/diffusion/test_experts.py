"""Which expert takes which step."""

import math

import numpy as np
import pytest

from vdm_jax.diffusion import churn, experts, heun, samplers, schedules

LOW, HIGH = (0.0, 0.3), (0.3, math.inf)


def levels(s):
  """λ of noise levels; the last is 0."""
  return np.append(-2 * np.log(s), np.inf)


def route(intervals, s, sampler=None):
  return experts.route(intervals, sampler or samplers.ddim(), levels(s))


def test_a_boundary_belongs_to_the_noisier_expert():
  boundary = float(np.exp(np.log(0.3)))
  intervals = (0.0, boundary), (boundary, math.inf)
  above, at, below = np.nextafter(boundary, 1), boundary, 0.3 - 1e-12
  # Of s as it is computed from λ, which is what decides.
  s = np.exp(-levels([above, at, below])[:-1] / 2)
  expected = [int(x >= boundary) for x in s]
  assert route(intervals, [above, at, below]) == expected
  assert route((LOW, HIGH), [80.0, 1.0, 0.2999, 0.002]) == [1, 1, 0, 0]
  # In any order of the experts.
  assert route((HIGH, LOW), [80.0, 1.0, 0.2999, 0.002]) == [0, 0, 1, 1]


def test_exactly_representable_boundaries_are_half_open():
  # λ = 0 is s = 1 to the bit.
  assert route(((0.0, 1.0), (1.0, 2.0)), [1.0]) == [1]
  with pytest.raises(ValueError, match='no expert is for'):
    route(((0.0, 0.5), (0.5, 1.0)), [1.0])


def test_the_raised_level_decides():
  s = [1.0, 0.29, 0.1]
  assert route((LOW, HIGH), s) == [1, 0, 0]
  churned = churn.churned(heun.heun(), 0.6)  # γ = 0.2: 0.29 becomes 0.348
  assert route((LOW, HIGH), s, churned) == [1, 1, 0]
  # The last step has no churn, so that its own level decides.
  assert route((LOW, HIGH), [1.0, 0.29], churned) == [1, 0]


@pytest.mark.parametrize('steps', [1, 2, 7, 25])
@pytest.mark.parametrize('longest', [1, 3, 100])
def test_segments_cover_every_step_once(steps, longest):
  grid = schedules.karras_grid(steps)
  owners = experts.route((LOW, (0.3, 9.0), (9.0, 100.0)), samplers.ddim(), grid)
  assert len(owners) == steps
  assert owners == sorted(owners, reverse=True)
  runs = experts.segments(owners, longest)
  covered = [(i, e) for begin, end, e in runs for i in range(begin, end)]
  assert covered == list(enumerate(owners))
  assert all(0 < end - begin <= longest for begin, end, _ in runs)
  if steps == 25:  # eDiff-I: most of this grid is above the median of ln s
    above = sum(e > 0 for e in owners)
    assert above == 17


def test_one_model_takes_all():
  one = experts.single({'w': 1})
  owners = route(one.intervals, np.geomspace(1e6, 1e-9, 10))
  assert owners == [0] * 10
  assert experts.segments(owners[:-1], 4) == [(0, 4, 0), (4, 8, 0), (8, 9, 0)]
  assert experts.segments([], 4) == []


@pytest.mark.parametrize(
  'intervals, message',
  [
    ((), 'one interval'),
    (((0.0, 0.3), (0.4, 1.0)), 'leave a gap between 0.3 and 0.4'),
    (((0.0, 0.5), (0.4, 1.0)), 'overlap between 0.4 and 0.5'),
    (((0.0, 0.5), (0.0, 0.5)), 'overlap'),
    (((0.5, 0.5),), 'empty'),
    (((1.0, 0.5),), 'the smaller one first'),
    (((-1.0, 0.5),), 'empty'),
    (((math.nan, 0.5),), 'empty'),
  ],
)
def test_intervals_that_do_not_fit_are_refused(intervals, message):
  with pytest.raises(ValueError, match=message):
    experts.Experts(intervals, ({},) * len(intervals))


def test_every_interval_has_its_parameters():
  with pytest.raises(ValueError, match='2 intervals for 1 experts'):
    experts.Experts((LOW, HIGH), ({},))
