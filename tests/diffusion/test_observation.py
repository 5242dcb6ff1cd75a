"""Observations: the map and its noise covariance, densely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian_video import (
  dense_covariance,
  dense_map,
  flat,
  values,
)
from vdm_jax.diffusion import observation
from vdm_jax.diffusion.noise import NoisePrior

SHAPE = (4, 4, 4, 2)


def video(seed=0, batch=2):
  return jax.random.normal(jax.random.key(seed), (batch, *SHAPE))


def pooled(x, factor):
  """Means over blocks, by convolution."""
  window = (1, 1, factor, factor, 1)
  total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, 'valid')
  return total / factor**2


def observe(kind, x):
  """An observation of each kind, of a given video."""
  known = observation.frames((2, 0), x[:, np.array([2, 0])])
  low = observation.downsampled(2, pooled(x, 2))
  keys = observation.downsampled(
    2, pooled(x, 2)[:, np.array([0, 3])], indices=(0, 3)
  )
  one = observation.frames([1], x[:, 1:2])
  coarse = observation.downsampled(4, pooled(x, 4))
  return {
    'frames': lambda: known,
    'low_res': lambda: low,
    'key_frames': lambda: keys,
    'union': lambda: observation.union(keys, one),
    'overlapping': lambda: observation.union(low, known),
    'three_scales': lambda: observation.union(coarse, keys, one),
  }[kind]()


KINDS = (
  'frames',
  'low_res',
  'key_frames',
  'union',
  'overlapping',
  'three_scales',
)


@pytest.mark.parametrize('kind', KINDS)
def test_the_map_is_its_matrix(x64, kind):
  x = video()
  seen = observe(kind, x)
  seen.check(SHAPE)
  matrix = dense_map(seen, SHAPE)
  # No row says what others have said.
  assert np.linalg.matrix_rank(matrix) == len(matrix)
  np.testing.assert_allclose(
    flat(seen.apply(x)), x.reshape(2, -1) @ matrix.T, atol=1e-13
  )
  np.testing.assert_allclose(flat(values(seen)), flat(seen.apply(x)))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('correlated', [False, True])
def test_solve_inverts_the_covariance_of_observed_noise(
  x64, ar1, kind, correlated
):
  prior = ar1 if correlated else NoisePrior()
  seen = observe(kind, video())
  matrix = dense_map(seen, SHAPE)
  covariance = matrix @ dense_covariance(prior, SHAPE) @ matrix.T
  u = seen.apply(video(1))
  got = seen.solve(u, prior=prior, frames=SHAPE[0])
  np.testing.assert_allclose(
    flat(got), np.linalg.solve(covariance, flat(u).T).T, atol=1e-11
  )
  assert [v.shape for v in got] == [v.shape for v in u]
  # Negative control: the other prior's covariance is another one.
  other = seen.solve(
    u, prior=NoisePrior() if correlated else ar1, frames=SHAPE[0]
  )
  assert np.abs(flat(other) - flat(got)).max() > 0.1


def test_white_noise_in_blocks_has_a_precision_of_f_squared(x64):
  low = observe('low_res', video())
  u = low.apply(video(1))
  (got,) = low.solve(u, prior=NoisePrior(), frames=SHAPE[0])
  np.testing.assert_allclose(got, 4 * u[0], rtol=1e-14)


@pytest.mark.parametrize('kind', KINDS)
def test_the_residual_is_zero_where_the_video_agrees(x64, kind):
  x, change = video(), video(1)
  seen = observe(kind, x)
  assert np.abs(flat(seen.residual(x))).max() < 1e-15
  np.testing.assert_allclose(
    flat(seen.residual(x + change)), -flat(seen.apply(change)), atol=1e-14
  )


def test_known_frames_are_pinned_to_the_bit():
  x, other = video(), video(1)
  for kind, known in {
    'frames': (0, 2),
    'low_res': (),
    'key_frames': (),
    'union': (1,),
    'overlapping': (0, 2),
  }.items():
    seen = observe(kind, x)
    assert seen.known == known
    got = seen.pin(other)
    for i in range(SHAPE[0]):
      np.testing.assert_array_equal(got[:, i], (other, x)[i in known][:, i])


def test_a_known_frame_silences_its_low_resolution():
  x = video()
  seen = observe('overlapping', x)
  assert [(p.indices, p.factor) for p in seen.parts] == [
    ((2, 0), 1),
    ((1, 3), 2),
  ]
  # Even when the two disagree.
  wrong = observation.downsampled(2, pooled(x, 2) + 1, range(4))
  both = observation.union(wrong, observation.frames(range(4), x))
  assert np.abs(flat(both.residual(x))).max() == 0


def test_an_observation_is_a_tree_and_an_argument_of_a_program():
  x = video()
  seen = observe('union', x)
  go = jax.jit(lambda seen, x: seen.pin(x))
  np.testing.assert_array_equal(go(seen, 0 * x), seen.pin(0 * x))
  doubled = jax.tree.map(lambda v: 2 * v, seen)
  assert doubled.known == seen.known
  assert jax.tree.structure(doubled) == jax.tree.structure(seen)
  assert len(jax.tree.leaves(jax.tree.map(lambda v: 'data', seen))) == 2
  go(doubled, x)
  assert go._cache_size() == 1


def test_what_does_not_fit_is_refused_in_one_line():
  x = jnp.zeros((2, 4, 4, 4, 1))
  frames, downsampled = observation.frames, observation.downsampled
  known = frames([0], x[:, :1])
  for make, message in (
    (lambda: frames([0, 1], x[:, :1]), '1 frames are given for 2 indices'),
    (lambda: frames([], x[:, :0]), 'one frame or more'),
    (lambda: frames([1, 1], x[:, :2]), 'distinct'),
    (lambda: frames([-1], x[:, :1]), 'not negative'),
    (lambda: downsampled(0, x), 'must be 1 or more'),
    (lambda: observation.union(), 'at least one'),
    (lambda: observation.union(known, known), r'frames \[0\] are observed tw'),
    (lambda: observation.union(downsampled(2, x), downsampled(3, x)), 'nest'),
    (lambda: observation.union(known, frames([1], x[:1, :1])), 'of 2 and of 1'),
    (lambda: frames([4], x[:, :1]).check((4, 4, 4, 1)), 'frame 4 is observed'),
    (lambda: known.check((4, 4, 4, 3)), r'\(4, 4, 1\) per frame, not \(4, 4, '),
    (lambda: downsampled(2, x).check((4, 4, 4, 1)), 'factor 2 makes'),
    (lambda: downsampled(2, x).check((4, 7, 8, 1)), 'do not fall into blocks'),
  ):
    with pytest.raises(ValueError, match=message) as error:
      make()
    assert '\n' not in str(error.value)
