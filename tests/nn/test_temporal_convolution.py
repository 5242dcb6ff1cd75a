"""Three frames of a pixel: the identity at first, and never over images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.nn.blocks import ResBlock, TemporalConvolution

X = jax.random.normal(jax.random.key(0), (2, 5, 2, 3, 4))


@pytest.fixture(scope='module')
def params(randomize):
  return randomize(TemporalConvolution(), X)


def forward(params, x=X, image_frames=0, dtype=jnp.float32):
  return TemporalConvolution(image_frames, dtype).apply(params, x)


def test_it_convolves_over_time_with_zeros_outside(params):
  p = jax.tree.map(np.asarray, params['params'])
  padded = np.pad(X, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
  wanted = np.asarray(X) + p['bias']
  for tap in range(3):
    wanted = wanted + padded[:, tap : tap + 5] @ p['kernel'][tap]
  np.testing.assert_allclose(forward(params), wanted, rtol=1e-4, atol=1e-5)


def test_it_is_symmetric_in_time(params):
  """Backwards through the mirrored kernel; a causal one would not pass."""
  mirrored = jax.tree.map(lambda a: a[::-1] if a.ndim == 3 else a, params)
  y = forward(mirrored, X[:, ::-1])[:, ::-1]
  np.testing.assert_allclose(y, forward(params), rtol=1e-5, atol=1e-5)
  assert np.abs(forward(params, X[:, ::-1])[:, ::-1] - y).max() > 0.1


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_it_is_the_identity_at_initialisation_to_the_bit(dtype):
  params = TemporalConvolution().init(jax.random.key(0), X)
  y = forward(params, X.astype(dtype), dtype=dtype)
  assert y.dtype == dtype
  np.testing.assert_array_equal(y, X.astype(dtype))


def test_images_pass_by_and_do_not_touch_the_video(params):
  y = forward(params, image_frames=2)
  np.testing.assert_array_equal(y[:, 3:], X[:, 3:])
  np.testing.assert_allclose(y[:, :3], forward(params, X[:, :3]), atol=1e-5)
  changed = forward(params, X.at[:, 3].add(1.0), image_frames=2)
  np.testing.assert_array_equal(changed[:, :3], y[:, :3])
  # Negative control: as a frame of the video it does.
  assert np.abs(forward(params)[:, 2] - y[:, 2]).min() > 0


@pytest.mark.parametrize('image_frames', [0, 1, 4])
def test_one_frame_is_an_image(params, image_frames):
  x = X[:, : 1 + image_frames]
  np.testing.assert_array_equal(forward(params, x, image_frames), x)


def test_parameters_do_not_depend_on_frames():
  shapes = [
    jax.eval_shape(TemporalConvolution(images).init, jax.random.key(0), x)
    for x, images in [(X, 0), (X[:, :1], 0), (X, 5)]
  ]
  assert shapes[0] == shapes[1] == shapes[2]


def test_one_follows_each_convolution_of_a_block():
  block = ResBlock(8, 2, temporal_convolution=True)
  emb = jnp.zeros((2, 1, 3))
  shapes = jax.eval_shape(block.init, jax.random.key(0), X, emb)['params']
  plain = ResBlock(8, 2)
  without = jax.eval_shape(plain.init, jax.random.key(0), X, emb)['params']
  assert set(shapes) - set(without) == {'temporal_0', 'temporal_1'}
  for name in ('temporal_0', 'temporal_1'):
    assert shapes[name]['kernel'].shape == (3, 8, 8)
