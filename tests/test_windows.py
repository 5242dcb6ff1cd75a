"""Plans of windows: every frame is made once, from what exists before."""

import itertools

import pytest

from vdm_jax import errors, windows


def check(plan, frames, window, made=()):
  """Every window fits, knows what exists, and together they make it all."""
  made = set(made)
  for w in plan:
    assert w.size == window and w.start >= 0 and w.frames[-1] < frames
    assert {w.start + i for i in w.known} == made & set(w.frames)
    assert w.new and not set(w.known) & set(w.new)
    made |= {w.start + i for i in w.new}
  assert made == set(range(frames))


@pytest.mark.parametrize('window', range(1, 10))
def test_extension_covers_every_frame_with_the_overlap(window):
  for frames, overlap in itertools.product(range(window, 40), range(window)):
    plan = windows.extension(frames, window, overlap)
    check(plan, frames, window)
    assert plan[0].known == ()
    assert all(sorted(w.known + w.new) == [*range(window)] for w in plan)
    for w in plan[1:-1]:
      assert w.known == tuple(range(overlap))
    for w in plan[1:][-1:]:  # the last one may overlap more
      assert w.known == tuple(range(len(w.known)))
      assert overlap <= len(w.known) < window
    # No fewer would do: n windows make w + (n − 1)(w − overlap) frames.
    advance = window - overlap
    assert len(plan) == 1 + -(-(frames - window) // advance)
    assert len({w.known for w in plan}) <= 3


def test_extension_from_16_to_64_frames():
  # The overlaps that tile exactly, and one that does not.
  for overlap, count in ((8, 7), (4, 5), (12, 13)):
    plan = windows.extension(64, 16, overlap)
    assert len(plan) == count and len(plan[-1].known) == overlap
  last = windows.extension(64, 16, 1)[-1]
  assert (last.start, len(last.known)) == (48, 13)
  assert windows.extension(16, 16, 8) == [
    windows.Window(0, 16, (), tuple(range(16)))
  ]


@pytest.mark.parametrize('stride', range(1, 6))
def test_interpolation_fills_in_between_key_frames(stride):
  for window, gaps in itertools.product(range(stride + 1, 14), range(1, 9)):
    frames = gaps * stride + 1
    if frames < window:
      continue
    keys = range(0, frames, stride)
    plan = windows.interpolation(frames, window, stride)
    check(plan, frames, window, keys)
    for w in plan:
      assert set(w.every(stride)) <= set(w.known)
      assert all(w.known[0] < i < w.known[-1] for i in w.new)
    # Windows other than the last look alike, so that programs are few.
    assert len({w.known for w in plan}) <= 3


def test_the_joint_case_of_figure_2():
  """64 frames at stride 4 from a model of 9, one frame of overlap."""
  plan = windows.extension(64, 9, 1)
  assert plan[0].every(4) == (0, 4, 8) and plan[0].known == ()
  for w in plan[1:-1]:
    assert w.every(4) == (0, 4, 8) and w.known == (0,)
  assert [f for f in plan[-1].frames if f % 4 == 0] == [
    plan[-1].start + i for i in plan[-1].every(4)
  ]
  assert windows.interpolation(17, 9, 4) == [
    windows.Window(start, 9, (0, 4, 8), (1, 2, 3, 5, 6, 7)) for start in (0, 8)
  ]


def test_plans_that_make_no_sense_are_refused():
  extension, interpolation = windows.extension, windows.interpolation
  for make, message in (
    (lambda: extension(64, 16, 16), 'overlap of 16 .* window of 16; use 0 to'),
    (lambda: extension(64, 16, 20), 'overlap of 20'),
    (lambda: extension(64, 16, -1), r'negative \(-1\)'),
    (lambda: extension(8, 16, 4), '8 frames has no room .* ask for 16'),
    (lambda: extension(8, 0, 0), '1 frame or more'),
    (lambda: interpolation(61, 9, 9), '9 apart; use a distance of 1 to 8'),
    (lambda: interpolation(64, 9, 4), 'use 61 frames'),
    (lambda: interpolation(5, 9, 4), 'no room'),
  ):
    with pytest.raises(errors.ConfigError, match=message) as error:
      make()
    assert '\n' not in str(error.value)
