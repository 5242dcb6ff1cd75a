"""Plans of windows: every frame is made once, from what exists before."""

import itertools
import random

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


def every(window, stride):
  """Positions of the video's frames 0, stride, 2 stride, …"""
  return tuple(i for i, f in enumerate(window.frames) if f % stride == 0)


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
      assert set(every(w, stride)) <= set(w.known)
      assert all(w.known[0] < i < w.known[-1] for i in w.new)
    # Windows other than the last look alike, so that programs are few.
    assert len({w.known for w in plan}) <= 3


def test_the_joint_case_of_figure_2():
  """64 frames at stride 4 from a model of 9, one frame of overlap."""
  plan = windows.extension(64, 9, 1)
  assert every(plan[0], 4) == (0, 4, 8) and plan[0].known == ()
  for w in plan[1:-1]:
    assert every(w, 4) == (0, 4, 8) and w.known == (0,)
  assert [f for f in plan[-1].frames if f % 4 == 0] == [
    plan[-1].start + i for i in every(plan[-1], 4)
  ]
  assert windows.interpolation(17, 9, 4) == [
    windows.Window(start, 9, (0, 4, 8), (1, 2, 3, 5, 6, 7)) for start in (0, 8)
  ]


def check_given(plan, frames, window, given):
  """As `check`, for windows of any spacing; returns the order of the new."""
  there, order = set(given), []
  for w in plan:
    numbers = list(w.frames)
    assert len(numbers) == w.size == window
    assert numbers[0] >= 0 and numbers[-1] < frames
    assert {numbers[i] for i in w.known} == there & set(numbers)
    new = [numbers[i] for i in w.new]
    assert new and not there & set(new)
    there |= set(new)
    order += new
  assert there == set(range(frames))
  return order


def some_given(frames, window):
  """Frames that may be given: none, ends, every few, at random, nearly all."""
  rng = random.Random(frames)
  return (
    (),
    (0,),
    (frames - 1,),
    tuple(range(min(window + 1, frames - 1))),
    tuple(range(0, frames, 3))[: frames - 1],
    tuple(sorted(rng.sample(range(frames), frames // 2))),
    tuple(range(1, frames)),
  )


@pytest.mark.parametrize('window', [1, 2, 3, 5, 8])
def test_plans_make_what_is_not_given_and_know_what_there_is(window):
  for frames, overlap in itertools.product(range(window, 21), range(window)):
    for given in some_given(frames, window):
      plan = windows.plan(frames, window, overlap=overlap, given=given)
      order = check_given(plan, frames, window, given)
      assert order == sorted(order)  # from the first frame to the last
    whole = windows.plan(frames, window, overlap=overlap)
    if frames > window:
      assert whole == windows.extension(frames, window, overlap)


@pytest.mark.parametrize('key_stride', [1, 2, 3, 4])
def test_key_frames_come_first_and_are_filled_in_after(key_stride):
  for window, gaps in itertools.product((5, 6, 9), range(1, 14)):
    frames, overlap = gaps * key_stride + 1, 2
    keys = set(range(0, frames, key_stride))
    if len(keys) < window:
      continue
    for given in some_given(frames, window):
      plan = windows.plan(
        frames,
        window,
        order='interpolation',
        overlap=overlap,
        key_stride=key_stride,
        given=given,
      )
      order = check_given(plan, frames, window, given)
      first = [f for f in order if f in keys]
      if frames > window:  # else all of it is one window
        assert order[: len(first)] == first
        assert {w.spacing for w in plan if keys & set(new_of(w))} <= {
          key_stride
        }
      # What is filled in has frames that are there on both sides.
      there = set(given) | keys
      for w in plan if frames > window else ():
        for f in set(new_of(w)) - keys:
          assert any(f - d in there for d in range(1, key_stride))
          assert any(f + d in there for d in range(1, key_stride))


def new_of(window):
  return [window.frames[i] for i in window.new]


def test_a_video_whose_key_frames_are_all_given_needs_no_more_of_them():
  """However few they are: no window is made of key frames alone."""
  options = {'order': 'interpolation', 'key_stride': 4}
  keys = range(0, 17, 4)  # five, and the model makes nine frames
  plan = windows.plan(17, 9, given=keys, **options)
  check_given(plan, 17, 9, keys)
  assert plan == windows.interpolation(17, 9, 4)
  with pytest.raises(errors.ConfigError, match='ask for 33 frames'):
    windows.plan(17, 9, given=range(0, 16, 4), **options)
  assert windows.plan(33, 9, **options)[0].spacing == 4


def test_key_frames_of_one_window_need_no_overlap():
  options = {'order': 'interpolation', 'key_stride': 4}
  plan = windows.plan(21, 6, overlap=8, **options)
  assert plan[0] == windows.Window(0, 6, (), (0, 1, 2, 3, 4, 5), spacing=4)
  assert plan[1:] == windows.interpolation(21, 6, 4)
  # Negative control: key frames of two windows must overlap by less than one.
  with pytest.raises(errors.ConfigError, match='overlap of 8 frames'):
    windows.plan(25, 6, overlap=8, **options)


def test_one_window_needs_neither_overlap_nor_key_frames():
  for order in ('extension', 'interpolation'):
    plan = windows.plan(4, 4, order=order, overlap=8, key_stride=9)
    assert plan == [windows.Window(0, 4, (), (0, 1, 2, 3))]
  (only,) = windows.plan(4, 4, given=(1, 3))
  assert (only.known, only.new) == ((1, 3), (0, 2))
  assert windows.plan(4, 4, given=range(4)) == []


def test_plans_that_make_no_sense_are_refused():
  extension, interpolation = windows.extension, windows.interpolation
  plan = windows.plan
  for make, message in (
    (lambda: extension(64, 16, 16), 'overlap of 16 .* window of 16; use 0 to'),
    (lambda: extension(64, 16, 20), 'overlap of 20'),
    (lambda: extension(64, 16, -1), r'negative \(-1\)'),
    (lambda: extension(8, 16, 4), '8 frames has no room .* ask for 16'),
    (lambda: extension(8, 0, 0), '1 frame or more'),
    (lambda: interpolation(61, 9, 9), '9 apart; use a distance of 1 to 8'),
    (lambda: interpolation(64, 9, 4), 'use 61 frames'),
    (lambda: interpolation(5, 9, 4), 'no room'),
    (lambda: plan(8, 16), '8 frames has no room .* ask for 16'),
    (lambda: plan(64, 16, overlap=16), 'use 0 to 15'),
    (lambda: plan(17, 9, order='interpolation', key_stride=4), 'ask for 33'),
    (
      lambda: plan(36, 9, order='interpolation', key_stride=4),
      'use 33 frames',
    ),
  ):
    with pytest.raises(errors.ConfigError, match=message) as error:
      make()
    assert '\n' not in str(error.value)
