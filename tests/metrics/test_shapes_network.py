"""The network of shapes: shapes of arrays, invariances, and the controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.data import shapes
from vdm_jax.errors import DataError
from vdm_jax.metrics import controls, shapes_network
from vdm_jax.metrics.shapes_network import ShapesNetwork


@pytest.fixture(scope='module')
def params():
  x = jnp.zeros((1, 4, 16, 16, 3))
  return ShapesNetwork().init(jax.random.key(0), x)['params']


@pytest.fixture(scope='module')
def clips():
  source = shapes.Shapes(frames=12, size=16, seed=5)
  return np.stack([source.clip(i)['video'] for i in range(24)])


def to_float(videos):
  return jnp.array(videos, jnp.float32) / 127.5 - 1


@pytest.fixture(scope='module')
def features():
  return jax.jit(shapes_network.features)


def test_any_length_and_size(params, features):
  for t, side in ((5, 24), (9, 8)):
    x = jax.random.uniform(jax.random.key(t), (2, t, side, side, 3))
    found = features(params, x)
    assert found.shape == (2, shapes_network.FEATURES)
    assert np.isfinite(found).all()


def test_features_do_not_depend_on_the_batch(params, features, clips):
  x = to_float(clips[:8, :6])
  found = features(params, x)
  halves = [features(params, x[i : i + 2]) for i in (0, 2, 4, 6)]
  np.testing.assert_allclose(found, np.concatenate(halves), atol=1e-5)
  assert np.abs(found[0] - found[1]).max() > 1e-2


def test_features_depend_on_the_order_of_frames(params, features, clips):
  x = to_float(clips[:2, :6])
  other = features(params, x[:, np.array([0, 2, 4, 1, 3, 5])])
  assert np.abs(features(params, x) - other).max() > 1e-3


def test_still_clips_have_no_length(params, features, clips):
  x = to_float(clips[:2, :1])
  six, five = (features(params, jnp.repeat(x, t, axis=1)) for t in (6, 5))
  np.testing.assert_allclose(six, five, atol=1e-5)


def test_standardised_by_mean_and_deviation(params, features, clips):
  x = to_float(clips[:2, :6])
  shifted = params | {
    'mean': jnp.full(64, 2.0),
    'deviation': jnp.full(64, 4.0),
  }
  found, plain = features(shifted, x), features(params, x)
  np.testing.assert_allclose(found, (plain - 2) / 4, atol=1e-5)


def test_windows_are_runs_of_steps():
  x = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
  found = shapes_network.windows(jnp.array(x), 2)
  wanted = [np.concatenate([x[:, i], x[:, i + 1]], axis=-1) for i in range(4)]
  np.testing.assert_array_equal(found, np.stack(wanted, axis=1))


def test_prepare_changes_the_size_alone():
  x = jax.random.uniform(jax.random.key(1), (1, 4, 16, 16, 3))
  np.testing.assert_array_equal(shapes_network.prepare(x), x)
  flat = jnp.broadcast_to(x[:, :, :1, :1], (1, 4, 40, 32, 3))
  made = shapes_network.prepare(flat)
  assert made.shape == (1, 4, 16, 16, 3)
  np.testing.assert_allclose(made, flat[:, :, :16, :16], atol=1e-6)


def test_too_short_clips_are_refused(params):
  with pytest.raises(DataError, match='3 frames'):
    shapes_network.features(params, jnp.zeros((2, 3, 16, 16, 3)))


def test_controls_are_what_they_say(clips):
  made = controls.controlled(clips, np.random.default_rng(0), 6)
  real = clips[:, :6]
  assert {v.shape for v in made.values()} == {real.shape}
  assert {v.dtype for v in made.values()} == {np.dtype(np.uint8)}
  np.testing.assert_array_equal(made['real'], real)
  inside = real.astype(float)
  error = (made['noised'] - inside)[(real > 40) & (real < 210)]
  assert abs(error.std() / controls.NOISE - 1) < 0.05
  for one, other in zip(made['shuffled'], real, strict=True):
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, other[::-1])
    frames = {frame.tobytes() for frame in one}
    assert frames == {frame.tobytes() for frame in other}
  assert (made['frozen'] == real[:, :1]).all()
  np.testing.assert_array_equal(made['slowed'][:, ::2], real[:, :3])
  np.testing.assert_array_equal(made['slowed'][:, 1::2], real[:, :3])
  np.testing.assert_array_equal(
    np.sort(made['flickering'], axis=-1), np.sort(real, axis=-1)
  )
  assert not np.array_equal(made['flickering'], real)


def test_hurried_is_the_source_at_stride_2(clips):
  source = shapes.Shapes(frames=6, size=16, seed=5, stride=2)
  fast = np.stack([source.clip(i)['video'] for i in range(24)])
  made = controls.controlled(clips, np.random.default_rng(0), 6)
  np.testing.assert_array_equal(made['hurried'], fast)
  assert 'hurried' not in controls.controlled(clips, np.random.default_rng(0))


def test_recoloured_has_no_colour_of_the_shapes():
  palette = np.array(list(shapes.COLOURS.values()))
  made = palette @ controls.MIXTURE
  assert np.linalg.norm(made[:, None] - palette[None], axis=-1).min() > 80


def test_controls_repeat_with_their_seed(clips):
  one, two, other = (
    controls.controlled(clips, np.random.default_rng(s)) for s in (0, 0, 1)
  )
  for name, videos in one.items():
    np.testing.assert_array_equal(videos, two[name])
  for name in ('noised', 'shuffled', 'flickering'):
    assert not np.array_equal(one[name], other[name])


@pytest.mark.parametrize('t', [4, 5, 8])
def test_no_shuffle_is_an_order_of_time(t):
  orders = controls.shuffles(500, t, np.random.default_rng(0))
  np.testing.assert_array_equal(
    np.sort(orders), np.tile(np.arange(t), (500, 1))
  )
  assert (np.abs(np.diff(orders, axis=-1)) > 1).any(axis=-1).all()


@pytest.mark.parametrize('frames', [3, 13])
def test_controls_of_too_few_frames_are_refused(clips, frames):
  with pytest.raises(DataError, match='controls of'):
    controls.controlled(clips, np.random.default_rng(0), frames)
