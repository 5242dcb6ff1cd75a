"""The judge passes what obeys the laws, however drawn, and nothing else."""

import dataclasses
import inspect

import numpy as np
import pytest

from vdm_jax.data import judge as judging
from vdm_jax.data import shapes
from vdm_jax.errors import DataError


def _clips(n, *, frames=8, size=16, first=0, **kwargs):
  source = shapes.Shapes(frames=frames, size=size, **kwargs)
  return np.stack([source.clip(first + i)['video'] for i in range(n)])


def _uint8(x):
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _noised(videos, sigma):
  rng = np.random.default_rng(0)
  return _uint8(videos + sigma * rng.normal(size=videos.shape))


def _blurred(videos):
  """The kernel (1, 2, 1) / 4 both ways: sigma is 0.7 pixels."""
  edge = [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]
  x = np.pad(videos.astype(np.float64), edge, mode='edge')
  x = (x[:, :, 2:] + 2 * x[:, :, 1:-1] + x[:, :, :-2]) / 4
  return _uint8((x[:, :, :, 2:] + 2 * x[:, :, :, 1:-1] + x[:, :, :, :-2]) / 4)


def _shuffled(videos):
  rng = np.random.default_rng(1)
  return np.stack([video[rng.permutation(len(video))] for video in videos])


def _bounce(times, *, start, velocity, room):
  """A second definition of the path: a triangle wave by arcsin of sin."""
  phase = np.pi * (start + velocity * times) / room - np.pi / 2
  return room * (0.5 + np.arcsin(np.sin(phase)) / np.pi)


def test_fit_finds_the_path_exactly():
  rng = np.random.default_rng(0)
  for n in (4, 8, 16, 64):
    for _ in range(10):
      room = rng.uniform(8.0, 12.0)
      start, velocity = rng.uniform(1, room - 1), rng.uniform(-1.7, 1.7)
      times = np.arange(n)
      track = _bounce(times, start=start, velocity=velocity, room=room)
      found, error = judging.fit_bounces(
        times, track=track, room=room, max_speed=1.84
      )
      assert error < 1e-9
      np.testing.assert_allclose(found, velocity, atol=1e-9)


def test_fit_needs_the_right_order_and_speed():
  times, rng = np.arange(16), np.random.default_rng(0)
  track = _bounce(times, start=3.0, velocity=1.3, room=10.0)
  jumbled = rng.permutation(track)
  _, error = judging.fit_bounces(
    times, track=jumbled, room=10.0, max_speed=1.84
  )
  assert error > 1.0
  _, error = judging.fit_bounces(times, track=track, room=10.0, max_speed=0.9)
  assert error > 0.5


def test_fit_is_the_least_squares_line_away_from_walls():
  rng = np.random.default_rng(0)
  times = np.array([0, 1, 2, 4, 5, 7])
  track = 3.0 + 0.6 * times + 0.1 * rng.normal(size=6)
  slope, start = np.polyfit(times, track, 1)
  velocity, error = judging.fit_bounces(
    times, track=track, room=12.0, max_speed=1.84
  )
  np.testing.assert_allclose(velocity, slope, atol=1e-9)
  residual = track - start - slope * times
  np.testing.assert_allclose(error, np.sqrt(np.mean(residual**2)), atol=1e-9)


@pytest.mark.parametrize(
  'n, frames, size, stride',
  [(60, 8, 16, 1), (20, 8, 32, 1), (20, 16, 16, 1), (6, 16, 48, 0.5)],
)
def test_judge_finds_the_truth(n, frames, size, stride):
  source = shapes.Shapes(frames=frames, size=size, stride=stride, seed=3)
  for index in range(n):
    state, clip = source.state(index), source.clip(index)
    verdict = shapes.judge(clip['video'], stride=stride)
    assert verdict.success and verdict.identity == 1.0
    assert (verdict.shape == state.shape).all()
    assert (verdict.colour == state.colour).all()
    assert verdict.label == clip['label']
    np.testing.assert_allclose(verdict.position, state.positions, atol=0.15)
    np.testing.assert_allclose(verdict.radius, state.radius, atol=0.15)
    np.testing.assert_allclose(verdict.velocity, state.velocity, atol=0.05)
    assert all(shapes.matches(verdict, clip['caption']).values())


@pytest.mark.parametrize(
  'change, least',
  [
    (lambda v: v, 0.99),
    (lambda v: _noised(v, 8.0), 0.97),
    (_blurred, 0.93),
    (lambda v: _noised(_blurred(v), 8.0), 0.93),
    (lambda v: v[:, ::-1], 0.99),  # the laws are those of reversed time
    (lambda v: v[:, :, :, ::-1], 0.99),  # ... and of a mirrored world
  ],
  ids=['clean', 'noised', 'blurred', 'both', 'reversed', 'mirrored'],
)
def test_what_obeys_passes(change, least):
  scores = shapes.scores(change(_clips(120)))
  assert scores['success'] >= least
  assert scores['trajectory_error'] < 0.2


def _two_apart(n):
  """Clips of two shapes, side by side in a frame twice as wide."""
  pair = np.concatenate([_clips(n), _clips(n, first=n)], axis=3)
  ground = np.array(shapes.BACKGROUND, np.uint8)
  tall = np.broadcast_to(ground, pair.shape).copy()
  return np.concatenate([pair, tall], axis=2)


def _switched(n, **change):
  """Clips whose second half shows another thing on the same path."""
  source, videos = shapes.Shapes(frames=8, size=16), []
  for index in range(n):
    state = source.state(index)
    by = 1 + index % 2
    other = dataclasses.replace(
      state,
      colour=(state.colour + change.get('colour', 0) * by) % 7,
      shape=(state.shape + change.get('shape', 0) * by) % 3,
    )
    one, two = (shapes.render(s, size=16) for s in (state, other))
    videos.append(np.concatenate([one[:4], two[4:]]))
  return np.stack(videos)


CONTROLS = {
  'noise': lambda v: np.random.default_rng(0).integers(
    0, 256, v.shape, dtype=np.uint8
  ),
  'dark noise': lambda v: _noised(0 * v + np.uint8(24), 20.0),
  'empty': lambda v: 0 * v + np.array(shapes.BACKGROUND, np.uint8),
  'shuffled': _shuffled,
  'frozen': lambda v: np.repeat(v[:, :1], v.shape[1], axis=1),
  'frozen, noised': lambda v: _noised(
    np.repeat(v[:, :1], v.shape[1], axis=1), 8.0
  ),
  'cut': lambda v: np.concatenate([v[:, :4], np.roll(v, 1, 0)[:, 4:]], axis=1),
  'colour': lambda v: _switched(len(v), colour=1),
  'shape': lambda v: _switched(len(v), shape=1),
  'two': lambda v: _two_apart(len(v)),
  'grey ground': lambda v: np.maximum(v, np.uint8(110)),
  'dim': lambda v: v // 3,
  'fading': lambda v: _uint8(
    np.linspace(1, 0.2, v.shape[1])[None, :, None, None, None] * v
  ),
  'gone': lambda v: np.concatenate([v[:, :6], 0 * v[:, 6:] + v[0, 0, 0, 0]], 1),
}


@pytest.mark.parametrize('control', CONTROLS)
def test_what_does_not_obey_fails(control):
  scores = shapes.scores(CONTROLS[control](_clips(80)))
  assert scores['success'] <= 0.02


def test_on_path_leaves_out_the_demand_to_move():
  videos = _clips(40)
  frozen = shapes.scores(CONTROLS['frozen'](videos))
  assert frozen['on_path'] == 1.0 and frozen['success'] == 0.0
  assert shapes.scores(videos)['on_path'] == 1.0
  assert shapes.scores(CONTROLS['noise'](videos))['on_path'] == 0.0
  assert shapes.scores(_shuffled(videos))['on_path'] <= 0.25


@pytest.mark.parametrize('frames, size', [(8, 32), (16, 16)])
def test_shuffled_clips_fail_at_other_sizes(frames, size):
  videos = _clips(30, frames=frames, size=size)
  assert shapes.scores(videos)['success'] == 1.0
  assert shapes.scores(_shuffled(videos))['success'] == 0.0


@pytest.mark.parametrize('stride', [0.25, 2.5])
def test_speed_must_be_that_of_the_data(stride):
  videos = _clips(30, stride=stride)
  assert shapes.scores(videos, stride=stride)['success'] == 1.0
  assert shapes.scores(videos)['success'] <= 0.1


def test_verdict_on_a_change_of_thing_says_where():
  videos = _clips(2, size=32)
  source = shapes.Shapes(frames=8, size=32)
  assert source.state(0).label != source.state(1).label
  video = np.concatenate([videos[0, :6], videos[1, 6:]])
  verdict = shapes.judge(video)
  labels = verdict.shape * len(shapes.COLOURS) + verdict.colour
  assert (labels[:6] == source.state(0).label).all()
  assert (labels[6:] == source.state(1).label).all()
  assert verdict.valid.all()
  assert verdict.identity == 0.75
  assert verdict.label == source.state(0).label


def test_nothing_seen_has_no_label_nor_direction():
  verdict = shapes.judge(CONTROLS['empty'](_clips(1))[0])
  assert not verdict.valid.any()
  assert verdict.label is None and verdict.direction is None
  assert verdict.trajectory_error == np.inf
  found = shapes.matches(verdict, 'a red disc moving left')
  assert found == {'shape': False, 'colour': False, 'direction': False}


def test_matches_each_word_alone():
  source = shapes.Shapes(frames=8, size=16)
  verdict = shapes.judge(source.clip(0)['video'])
  words = dict(
    zip(
      ('a', 'colour', 'shape', 'moving', 'direction'),
      source.clip(0)['caption'].split(),
      strict=True,
    )
  )
  others = {
    'shape': shapes.SHAPES,
    'colour': tuple(shapes.COLOURS),
    'direction': shapes.DIRECTIONS,
  }
  for kind, known in others.items():
    for word in known:
      caption = ' '.join((words | {kind: word}).values())
      found = shapes.matches(verdict, caption)
      assert found.pop(kind) == (word == words[kind])
      assert all(found.values())


@pytest.mark.parametrize(
  'caption',
  ['a disc moving left', 'a red disc', 'a red blue disc moving left', ''],
)
def test_captions_must_name_one_of_each(caption):
  verdict = shapes.judge(_clips(1)[0])
  with pytest.raises(DataError, match='; name one'):
    shapes.matches(verdict, caption)


def test_scores_hold_what_was_asked():
  source = shapes.Shapes(frames=8, size=16)
  clips = [source.clip(i) for i in range(6)]
  videos = np.stack([clip['video'] for clip in clips])
  captions = [clip['caption'] for clip in clips]
  labels = np.array([clip['label'] for clip in clips])
  plain = {'valid', 'identity', 'on_path', 'moves', 'success'}
  plain |= {'trajectory_error'}
  assert set(shapes.scores(videos)) == plain
  right = shapes.scores(videos, captions=captions, labels=labels)
  assert right['caption'] == right['label'] == 1.0
  wrong = shapes.scores(
    videos, captions=captions[1:] + captions[:1], labels=np.roll(labels, 1)
  )
  assert wrong['caption'] < 0.5 and wrong['label'] < 0.5
  assert 'trajectory_error' not in shapes.scores(CONTROLS['noise'](videos))
  with pytest.raises(ValueError, match='no videos'):
    shapes.scores(videos[:0])
  with pytest.raises(ValueError, match='zip'):
    shapes.scores(videos, captions=captions[1:])


def test_only_bytes_are_judged():
  plain = inspect.unwrap(shapes.judge)
  with pytest.raises(ValueError, match='give uint8'):
    plain(_clips(1)[0].astype(np.float32))
  with pytest.raises(ValueError, match='give uint8'):
    plain(_clips(1))
