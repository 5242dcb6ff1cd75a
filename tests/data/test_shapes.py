"""The laws of the data: areas, motion, scaling, and what a clip says."""

import itertools
import json
import math

import numpy as np
import pytest

from vdm_jax.data import shapes
from vdm_jax.data.judge import RADIUS, SPEED, coverage
from vdm_jax.data.source import Source
from vdm_jax.errors import ConfigError

AREA = {'disc': math.pi, 'square': 4.0, 'triangle': 2.0}  # at radius 1


def _cover(name, centre, radius, *, size=24, rows=8):
  return coverage(
    shapes.SHAPES.index(name),
    centre=np.array([centre], np.float64),
    radius=np.array([radius], np.float64),
    height=size,
    width=size,
    rows=rows,
  )[0]


@pytest.mark.parametrize('name', shapes.SHAPES)
def test_area_and_box(name):
  rng = np.random.default_rng(0)
  for _ in range(20):
    radius = rng.uniform(2.5, 5.0)
    centre = rng.uniform(6.0, 18.0, 2)
    cover = _cover(name, centre, radius)
    assert cover.min() >= 0.0 and cover.max() <= 1.0 + 1e-12
    np.testing.assert_allclose(cover.sum(), AREA[name] * radius**2, rtol=4e-3)
    # It touches every side of its box and nothing beyond.
    for axis, c in ((1, centre[1]), (0, centre[0])):
      lit = np.flatnonzero(cover.sum(axis=axis) > 1e-9)
      assert math.floor(c - radius) <= lit[0] <= math.floor(c - radius + 0.2)
      assert math.floor(c + radius - 0.2) <= lit[-1] <= math.floor(c + radius)


def test_square_is_exact():
  x, y, radius = 10.3, 7.9, 3.21
  left = np.arange(24.0)

  def overlap(c):
    ends = np.minimum(left + 1, c + radius) - np.maximum(left, c - radius)
    return np.clip(ends, 0.0, None)

  exact = overlap(y)[:, None] * overlap(x)[None]
  np.testing.assert_allclose(_cover('square', (x, y), radius), exact, atol=1e-9)


@pytest.mark.parametrize('name', ['disc', 'triangle'])
def test_coverage_converges_in_strips(name):
  fine = _cover(name, (11.3, 12.6), 4.2, rows=512)
  errors = [
    np.abs(_cover(name, (11.3, 12.6), 4.2, rows=rows) - fine).mean()
    for rows in (4, 8, 16, 32)
  ]
  assert all(b < 0.7 * a for a, b in itertools.pairwise(errors))
  assert errors[1] < 1e-3


def _simulate(state, *, size, frames, parts=1000):
  """Walk in small steps and turn around at the walls: no closed form."""
  place, velocity = state.positions[0].copy(), state.velocity / parts
  low, high = state.radius, size - state.radius
  path = [place.copy()]
  for _ in range(frames - 1):
    for _ in range(parts):
      place = place + velocity
      out = (place < low) | (place > high)
      place = np.where(place < low, 2 * low - place, place)
      place = np.where(place > high, 2 * high - place, place)
      velocity = np.where(out, -velocity, velocity)
    path.append(place)
  return np.stack(path)


def test_motion_is_a_constant_velocity_with_bounces():
  source = shapes.Shapes(frames=12, size=16)
  for index in range(4):
    state = source.state(index)
    walked = _simulate(state, size=16, frames=12)
    np.testing.assert_allclose(state.positions, walked, atol=1e-9)


def test_shapes_stay_inside_and_bounce_often():
  source = shapes.Shapes(frames=8, size=16)
  bounced = 0
  for index in range(300):
    state = source.state(index)
    radius, speed = state.radius, np.linalg.norm(state.velocity)
    assert RADIUS[0] * 16 <= radius <= RADIUS[1] * 16
    assert SPEED[0] * 16 <= speed <= SPEED[1] * 16
    assert (state.positions >= radius - 1e-9).all()
    assert (state.positions <= 16 - radius + 1e-9).all()
    steps = np.sign(np.diff(state.positions, axis=0))
    bounced += bool((steps[1:] != steps[:-1]).any())
  assert 0.4 < bounced / 300 < 0.95


@pytest.mark.parametrize('stride', [0.5, 2, 3, 7])
def test_stride_skips_frames_exactly(stride):
  # At stride k every frame is every k-th of stride 1; 0.5 the other way round.
  fine, coarse = min(stride, 1), max(stride, 1)
  step = round(coarse / fine)
  slow = shapes.Shapes(frames=4 * step, size=16, stride=fine)
  fast = shapes.Shapes(frames=4, size=16, stride=coarse)
  assert fast.frame_rate == slow.frame_rate / step
  for index in range(5):
    a, b = slow.clip(index), fast.clip(index)
    np.testing.assert_array_equal(a['video'][::step], b['video'])
    assert (a['label'], a['caption']) == (b['label'], b['caption'])
    one, other = slow.state(index), fast.state(index)
    np.testing.assert_array_equal(one.positions[::step], other.positions)
    np.testing.assert_allclose(one.velocity * step, other.velocity)
    assert not np.array_equal(a['video'][:4], b['video'])


def test_size_only_scales():
  small = shapes.Shapes(frames=4, size=16)
  large = shapes.Shapes(frames=4, size=32)
  for index in range(12):
    one, other = small.state(index), large.state(index)
    np.testing.assert_array_equal(2 * one.positions, other.positions)
    pooled = large.clip(index)['video'].reshape(4, 16, 2, 16, 2, 3)
    pooled = pooled.mean(axis=(2, 4))
    video = small.clip(index)['video'].astype(np.float64)
    assert np.abs(pooled - video).max() < 12.0
    assert np.abs(pooled - video).mean() < 0.5


def test_pixels_are_ground_and_paint():
  source = shapes.Shapes(frames=2, size=32)
  for index in range(20):
    state, video = source.state(index), source.clip(index)['video']
    # A little below its middle every shape is at its paint.
    x, y = np.floor(state.positions[0] + [0.0, 0.3 * state.radius]).astype(int)
    paint = list(shapes.COLOURS.values())[state.colour]
    assert tuple(video[0, y, x]) == paint
    away = np.abs(np.arange(32) + 0.5 - state.positions[0, 0])
    ground = video[0][:, away > state.radius + 1]
    assert (ground == np.array(shapes.BACKGROUND)).all() and ground.size


def test_words_say_what_moves():
  source = shapes.Shapes(frames=2, size=16)
  signs = {'right': (0, 1), 'left': (0, -1), 'down': (1, 1), 'up': (1, -1)}
  for index in range(200):
    state, clip = source.state(index), source.clip(index)
    _, colour, shape, verb, way = clip['caption'].split()
    assert f'{colour} {shape}' == source.classes[clip['label']]
    assert verb == 'moving'
    axis, sign = signs[way]
    step = state.positions[1] - state.positions[0]
    assert step[axis] * sign > 0
    assert abs(step[axis]) > abs(step[1 - axis])


def test_all_words_and_captions_are_known_beforehand():
  source = shapes.Shapes(frames=2, size=8, length=3000)
  captions = source.captions(3000)
  assert captions[7] == source.clip(7)['caption']
  assert source.captions(3) == captions[:3]
  assert sorted(set(captions)) == source.captions()
  assert source.words == tuple(sorted({*' '.join(captions).split()}))
  small = shapes.Shapes(frames=2, size=8, length=2)
  assert small.captions(5) == (3 * small.captions(2))[:5]


def test_every_class_and_direction_is_as_frequent():
  source = shapes.Shapes(frames=1, size=8)
  states = [source.state(index) for index in range(2100)]
  labels = np.bincount([s.label for s in states], minlength=shapes.CLASSES)
  assert len(labels) == shapes.CLASSES
  # Chi-squared of 20 degrees of freedom: 45 is beyond one in a thousand.
  assert (np.square(labels - 100.0) / 100.0).sum() < 45.0
  ways = [s.caption.split()[-1] for s in states]
  for way in shapes.DIRECTIONS:
    assert abs(ways.count(way) - 525) < 4 * math.sqrt(2100 * 3 / 16)


def test_a_clip_is_a_function_of_seed_and_index():
  source = shapes.Shapes(frames=3, size=16, seed=1)
  again = shapes.Shapes(frames=3, size=16, seed=1)
  other = shapes.Shapes(frames=3, size=16, seed=2)
  source.clip(4)
  a = source.clip(7, np.random.default_rng(0))
  b = again.clip(np.int64(7), np.random.default_rng(9))
  np.testing.assert_array_equal(a['video'], b['video'])
  assert (a['label'], a['caption'], a['id']) == (
    b['label'],
    b['caption'],
    b['id'],
  )
  for different in (source.clip(8), other.clip(7)):
    assert not np.array_equal(a['video'], different['video'])
    assert a['id'] != different['id']


def test_source_protocol():
  source = shapes.Shapes(frames=3, size=16, length=5)
  assert isinstance(source, Source)
  assert len(source) == 5
  clip = source.clip(0)
  assert clip['video'].shape == (3, 16, 16, 3)
  assert clip['video'].dtype == np.uint8
  assert clip['label'].dtype == np.int32
  signature = source.signature()
  assert json.loads(json.dumps(signature)) == signature
  longer = shapes.Shapes(frames=4, size=16, length=5)
  assert longer.signature() != signature


@pytest.mark.parametrize(
  'wrong',
  [
    {'frames': 0},
    {'size': 7},
    {'stride': 0.0},
    {'stride': math.nan},
    {'length': 0},
    {'seed': -1},
  ],
)
def test_mistakes_are_told(wrong):
  with pytest.raises(ConfigError, match=f'{next(iter(wrong))}.*; give'):
    shapes.Shapes(**{'frames': 2, 'size': 16} | wrong)


@pytest.mark.parametrize('index', [-1, 5])
def test_no_clip_beyond_the_last(index):
  with pytest.raises(IndexError, match=f'clip {index} of 5'):
    shapes.Shapes(frames=3, size=16, length=5).clip(index)
