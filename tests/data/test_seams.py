"""Seam errors are the true distances, where the truth is known, or the cap."""

import dataclasses

import numpy as np
import pytest

from vdm_jax.data import judge, seams, shapes

FRAMES, SEAM, CAP = 20, 10, 4.0  # a quarter of 16 pixels
MEASUREMENT = 0.1  # pixels; the judge's error on clean clips is below


def _states(n, *, size=16, stride=1.0):
  source = shapes.Shapes(frames=FRAMES, size=size, stride=stride, seed=11)
  return [source.state(i) for i in range(n)]


def _render(states, size=16):
  return np.stack([shapes.render(state, size=size) for state in states])


def _place(state, positions):
  return dataclasses.replace(state, positions=positions)


@pytest.mark.parametrize(
  'size, stride, start',
  [(16, 1.0, SEAM), (16, 1.0, 4), (16, 1.0, 19), (16, 0.5, 8), (24, 2.0, 8)],
)
def test_real_videos_have_no_seams(size, stride, start):
  videos = _render(_states(30, size=size, stride=stride), size)
  found = seams.seam_errors(videos, [start], stride=stride)
  assert found['seam_error_median'] < 0.02
  assert found['seam_error'] + 5 * found['seam_error_std'] < 0.3
  assert found['seam_lost'] == 0


def test_the_path_bounces_at_the_seam():
  states = []
  for state in _states(150):
    # One axis turns between the last known and the second new frame.
    steps = np.diff(state.positions[SEAM - 2 : SEAM + 2], axis=0)
    if (steps[0] * steps[-1] < 0).any():
      states.append(state)
  assert len(states) > 20
  found = seams.seam_errors(_render(states), [SEAM])
  assert found['seam_error'] < 0.02
  # Negative control: going straight on through the border is elsewhere.
  straight = [
    2 * s.positions[SEAM - 1] - s.positions[SEAM - 2] - s.positions[SEAM]
    for s in states
  ]
  assert np.linalg.norm(straight, axis=1).max() > 0.5


# Which frames of the truth a video shows, seam and all.
ORDERS = {
  'repeated': [*range(SEAM), *range(SEAM - 1, FRAMES)],
  'skipped': [*range(SEAM), *range(SEAM + 1, FRAMES)],
  'stopped': [*range(SEAM), *[SEAM - 1] * 5],
  'turned': [*range(SEAM), *range(SEAM - 2, -1, -1)],
  'reversed': [*range(SEAM), *range(FRAMES - 1, SEAM - 1, -1)],
}


@pytest.mark.parametrize(
  'order, least',
  [
    ('repeated', 0.9),
    ('skipped', 0.9),
    ('stopped', 1.4),
    ('turned', 2.4),
    ('reversed', 3.0),
  ],
)
def test_a_wrong_order_of_frames_is_as_far_off_as_it_is(order, least):
  states, order = _states(30), ORDERS[order]
  videos, errors = _render(states)[:, order], []
  for state, video in zip(states, videos, strict=True):
    shown = state.positions[order[SEAM : SEAM + 2]]
    off = np.linalg.norm(shown - state.positions[SEAM : SEAM + 2], axis=1)
    exact = np.minimum(off, CAP).mean()
    (found,) = seams.seam_error(video, [SEAM])
    assert abs(found - exact) < MEASUREMENT
    errors.append(found)
  assert np.mean(errors) > least


def test_another_clip_behind_the_seam():
  states = _states(40)
  videos = _render(states)
  spliced = np.concatenate(
    [videos[:, :SEAM], np.roll(videos, 1, axis=0)[:, SEAM:]], axis=1
  )
  found = seams.seam_errors(spliced, [SEAM])
  assert found['seam_error'] > 3.8 and found['seam_lost'] > 0.9


def test_the_same_thing_elsewhere_behind_the_seam():
  states, errors = _states(40), []
  for state, other in zip(states, states[1:] + states[:1], strict=True):
    room = (state.radius, 16 - state.radius)
    positions = state.positions.copy()
    positions[SEAM:] = np.clip(other.positions[SEAM:], *room)
    video = _render([_place(state, positions)])[0]
    off = np.linalg.norm(positions - state.positions, axis=1)
    exact = np.minimum(off[SEAM : SEAM + 2], CAP).mean()
    (found,) = seams.seam_error(video, [SEAM])
    assert abs(found - exact) < MEASUREMENT
    errors.append(found)
  assert np.mean(errors) > 3.0


def _noise(video):
  return np.random.default_rng(0).integers(0, 256, video.shape, dtype=np.uint8)


def _from_seam(video, wrong):
  return np.concatenate([video[:SEAM], wrong[SEAM:]])


def _until_seam(video, wrong):
  return np.concatenate([wrong[:SEAM], video[SEAM:]])


def _other(state, **change):
  changed = {k: (getattr(state, k) + 1) % n for k, n in change.items()}
  return _render([dataclasses.replace(state, **changed)])[0]


LOST = {
  'noise': lambda video, state: _noise(video),
  'noise from the seam': lambda v, s: _from_seam(v, _noise(v)),
  'noise until the seam': lambda v, s: _until_seam(v, _noise(v)),
  'gone': lambda v, s: _from_seam(v, 0 * v + np.uint8(20)),
  # On the right path, but not the same thing.
  'colour': lambda v, s: _from_seam(v, _other(s, colour=7)),
  'shape': lambda v, s: _from_seam(v, _other(s, shape=3)),
  # Consistent with its past, which is none.
  'frozen': lambda v, s: np.repeat(v[:1], FRAMES, axis=0),
  'frozen until the seam': lambda v, s: _until_seam(
    v, np.repeat(v[SEAM - 1 : SEAM], FRAMES, axis=0)
  ),
  'shuffled until the seam': lambda v, s: _until_seam(
    v, v[np.array([3, 9, 5, 2, 8, 4, 7, 2, 6, 3, *range(10, 20)])]
  ),
  'flickering': lambda v, s: np.where(
    (np.arange(FRAMES) % 2 == 1)[:, None, None, None], _other(s, colour=7), v
  ),
}


@pytest.mark.parametrize('control', LOST)
def test_without_a_past_or_a_shape_the_error_is_the_cap(control):
  states = _states(10)
  pairs = zip(_render(states), states, strict=True)
  videos = np.stack([LOST[control](*pair) for pair in pairs])
  found = seams.seam_errors(videos, [SEAM])
  assert found['seam_lost'] == 1.0
  assert found['seam_error'] == found['seam_error_median'] == CAP
  assert found['seam_error_std'] == 0.0


def test_single_bad_frames_cost_what_they_hide():
  state = _states(1)[0]
  video = _render([state])[0]
  for frame, expected in (
    (SEAM - 8, 0.0),  # seven of eight show the path
    (SEAM - 3, 0.0),
    (SEAM - 1, 0.0),
    (SEAM, CAP / 2),
    (SEAM + 1, CAP / 2),
    (SEAM + 2, 0.0),  # no longer at the seam
  ):
    broken = video.copy()
    broken[frame] = _noise(broken[frame])
    (found,) = seams.seam_error(broken, [SEAM])
    assert abs(found - expected) < MEASUREMENT


@pytest.mark.parametrize('order', ORDERS)
def test_a_jump_is_the_second_difference_of_the_places(order):
  states, order = _states(30), ORDERS[order]
  videos = _render(states)[:, order]
  for state, video in zip(states, videos, strict=True):
    p = state.positions[order]
    exact = np.linalg.norm(p[SEAM] - 2 * p[SEAM - 1] + p[SEAM - 2])
    (found,) = seams.seam_jump(video, [SEAM])
    assert abs(found - exact) < 3 * MEASUREMENT
  found = seams.seam_errors(videos, [SEAM])['seam_jump']
  assert found == np.median([seams.seam_jump(v, [SEAM]) for v in videos])
  assert found > 0.9


def test_jumps_of_real_and_of_frozen_videos():
  videos = _render(_states(40))
  assert seams.seam_errors(videos, [SEAM])['seam_jump'] < 0.05
  frozen = videos[:, :1].repeat(FRAMES, 1)
  found = seams.seam_errors(frozen, [SEAM])
  assert (found['seam_jump'], found['seam_error']) == (0.0, CAP)


def test_a_jump_needs_three_frames_with_a_shape():
  video = _render(_states(1))[0]
  for frame in range(SEAM - 4, SEAM + 3):
    broken = video.copy()
    broken[frame] = _noise(broken[frame])
    (found,) = seams.seam_jump(broken, [SEAM])
    assert np.isnan(found) == (SEAM - 2 <= frame <= SEAM)
  found = seams.seam_errors(_noise(video)[None], [SEAM])
  assert found['seam_jump'] == CAP


def test_every_seam_is_measured_by_itself():
  state = _states(1)[0]
  video = _render([state])[0]
  video[12:] = _render([_states(2)[1]])[0][12:]
  starts = [5, 8, 11, 12, 16]
  together = seams.seam_error(video, starts)
  alone = [seams.seam_error(video, [start])[0] for start in starts]
  np.testing.assert_array_equal(together, alone)
  np.testing.assert_array_equal(together > 1.0, [0, 0, 1, 1, 1])
  assert seams.seam_error(video, []).shape == (0,)
  one = seams.seam_errors(video[None], starts)
  assert one['seam_error'] == pytest.approx(together.mean())
  assert one['seam_error_std'] == pytest.approx(together.std())


def test_the_cap_is_a_quarter_of_the_smaller_side():
  video = np.full((12, 24, 16, 3), judge.BACKGROUND, np.uint8)
  np.testing.assert_array_equal(seams.seam_error(video, [8]), [4.0])
  video = np.full((12, 32, 32, 3), judge.BACKGROUND, np.uint8)
  np.testing.assert_array_equal(seams.seam_error(video, [8]), [8.0])


def test_seams_must_have_a_past_and_be_in_the_video():
  videos = _render(_states(1))
  for start in (-1, 0, 3, FRAMES):
    with pytest.raises(ValueError, match=f'start {start} of 20 frames; give'):
      seams.seam_error(videos[0], [start])
    with pytest.raises(ValueError, match=f'start {start} of 20 frames; give'):
      seams.seam_jump(videos[0], [start])
  for args in ((videos[:0], [8]), (videos, [])):
    with pytest.raises(ValueError, match='give one or more'):
      seams.seam_errors(*args)


def test_a_wide_video_is_as_wide_as_it_is():
  size, radius = (16, 28), 3.2
  free = np.array([8.0, 5.0]) + np.arange(FRAMES)[:, None] * [1.3, 0.7]
  room = np.array(size[::-1]) - 2 * radius
  cover = judge.coverage(
    0,
    centre=radius + judge.fold(free, room=room),
    radius=np.full(FRAMES, radius),
    height=size[0],
    width=size[1],
  )
  paint = np.array(judge.COLOURS['cyan']) - judge.BACKGROUND
  video = np.rint(cover[..., None] * paint + judge.BACKGROUND).astype(np.uint8)
  assert seams.seam_error(video, [8, 12, 16]).max() < MEASUREMENT
  # Where it would be in the square on the left.
  video[12:] = np.roll(video, 8, axis=2)[12:]
  assert seams.seam_error(video, [12])[0] == CAP
