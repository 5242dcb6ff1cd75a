import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.nn.attention import (
  SpatialAttention,
  TemporalAttention,
  relative_attention,
  relative_index,
)

SHAPE = (2, 6, 2, 3, 8)


def video(seed=0, shape=SHAPE):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope='module')
def params(randomize):
  return randomize(temporal(), video())


def temporal(**kwargs):
  return TemporalAttention(head_dim=4, groups=4, max_distance=3, **kwargs)


@functools.lru_cache
def forward(**kwargs):
  return jax.jit(temporal(**kwargs).apply)


def differs(a, b, axis=1):
  """Which frames of a and b are not the same bits."""
  rest = tuple(i for i in range(a.ndim) if i != axis)
  return (np.asarray(a) != np.asarray(b)).any(rest)


def loop_attention(q, k, v, rel_k, rel_v):
  """Shaw18 eq. 3 and 4 word for word, for one pixel and head, in float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  frames, dim = q.shape
  out = np.zeros_like(q)
  for i in range(frames):
    logits = [q[i] @ (k[j] + rel_k[i, j]) / dim**0.5 for j in range(frames)]
    p = np.exp(logits) / np.exp(logits).sum()
    out[i] = sum(p[j] * (v[j] + rel_v[i, j]) for j in range(frames))
  return out


def test_relative_attention_is_shaw_word_for_word():
  q, k, v = (video(i, (2, 5, 1, 2, 3, 4)) for i in range(3))
  rel_k, rel_v = (video(i, (5, 5, 4)) for i in (3, 4))
  o = relative_attention(q=q, k=k, v=v, rel_k=rel_k, rel_v=rel_v)
  for b, w, n in np.ndindex(2, 2, 3):
    one = (x[b, :, 0, w, n] for x in (q, k, v))
    expected = loop_attention(*one, np.asarray(rel_k), np.asarray(rel_v))
    np.testing.assert_allclose(o[b, :, 0, w, n], expected, atol=1e-5)


def test_relative_index_depends_on_the_difference_and_clips():
  index = np.asarray(relative_index(6, 3))
  np.testing.assert_array_equal(index[0], [3, 4, 5, 6, 6, 6])
  np.testing.assert_array_equal(index[1:, 1:], index[:-1, :-1])
  np.testing.assert_array_equal(index + index.T, np.full((6, 6), 6))


def test_distance_is_all_that_attention_knows_of_position():
  """Values one-hot in time, so that the output spells the weights out."""
  frames = 6
  shape = (1, frames, 1, 1, 1, frames)
  q = jnp.broadcast_to(video(1, (frames,)), shape)
  values = jnp.eye(frames).reshape(shape)
  zeros = jnp.zeros((frames, frames, frames))
  rel_k = video(2, (11, frames))[relative_index(frames, 5)]
  weights = relative_attention(
    q=q, k=jnp.zeros(shape), v=values, rel_k=rel_k, rel_v=zeros
  )[0, :, 0, 0, 0]
  # p_ij / p_ii is a function of j - i: shifting i and j changes nothing.
  ratio = np.log(weights / jnp.diagonal(weights)[:, None])
  np.testing.assert_allclose(ratio[1:, 1:], ratio[:-1, :-1], atol=1e-5)
  assert np.abs(ratio[1:, 1:] - ratio[1:, :-1]).min() > 1e-3


def test_frames_out_of_a_later_window_give_what_they_give_alone(params):
  x = video()
  cut = forward()(params, x[:, 1:5])
  again = forward(image_frames=2)(
    params, jnp.concatenate([x[:, 1:5], x[:, ::5]], axis=1)
  )
  np.testing.assert_allclose(again[:, :4], cut, atol=1e-6)


def test_order_of_frames_matters_and_tables_are_why(params):
  x = video()
  back = forward()(params, x[:, ::-1])[:, ::-1]
  assert np.abs(back - forward()(params, x)).max() > 0.01
  flat = {'params': dict(params['params'])}
  for name in ('rel_k', 'rel_v'):
    flat['params'][name] = jnp.zeros_like(params['params'][name])
  back = forward()(flat, x[:, ::-1])[:, ::-1]
  np.testing.assert_allclose(back, forward()(flat, x), atol=1e-5)


def test_temporal_attention_is_the_identity_at_first():
  x = video()
  fresh = temporal().init(jax.random.key(0), x)
  for images in (0, 2):
    y = forward(image_frames=images)(fresh, x)
    np.testing.assert_array_equal(y, x)


def test_parameters_do_not_depend_on_frames_or_images():
  def shapes(frames, **kwargs):
    x = jax.ShapeDtypeStruct((2, frames, 2, 3, 8), jnp.float32)
    tree = jax.eval_shape(temporal(**kwargs).init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: leaf.shape, tree)

  expected = shapes(6)
  assert shapes(1) == expected
  for mode in ('self_attend', 'bypass'):
    assert shapes(6, image_frames=2, image_mode=mode) == expected
    assert shapes(3, image_frames=3, image_mode=mode) == expected


@pytest.mark.parametrize('mode', ['self_attend', 'bypass'])
def test_mask_separates_images_from_video_to_the_bit(params, mode):
  net = forward(image_frames=2, image_mode=mode)
  x = video()
  y = net(params, x)
  changed = net(params, x.at[:, 4].add(1.0))
  np.testing.assert_array_equal(differs(y, changed), np.arange(6) == 4)
  changed = net(params, x.at[:, 1].add(1.0))
  np.testing.assert_array_equal(differs(y, changed), np.arange(6) < 4)


def test_without_the_mask_images_leak(params):
  x = video()
  y = forward()(params, x)
  assert differs(y, forward()(params, x.at[:, 4].add(1.0))).all()


def test_self_attention_is_the_explicit_mask_of_the_paper(params):
  """The shortcut for images against softmax over blockdiag(1_TxT, I_K)."""
  x, p = video(), params['params']
  y = forward(image_frames=2)(params, x) - x
  _, state = temporal(image_frames=2).apply(
    params, x, capture_intermediates=True
  )
  inner = state['intermediates']
  v = np.asarray(inner['v']['__call__'][0], np.float64)
  norm = inner['norm']['__call__'][0]
  qk = np.einsum('bthwc,cxnd->bthwxnd', norm, p['qk']['kernel'])
  qk = qk + np.asarray(p['qk']['bias'])
  index = np.asarray(relative_index(6, 3))
  rel_k, rel_v = (np.asarray(p[name])[index] for name in ('rel_k', 'rel_v'))
  mask = np.eye(6, dtype=bool)
  mask[:4, :4] = True
  logits = np.einsum(
    'bihwnd,bjhwnd->bhwnij', qk[..., 0, :, :], qk[..., 1, :, :]
  )
  logits += np.einsum('bihwnd,ijd->bhwnij', qk[..., 0, :, :], rel_k)
  weights = np.exp(np.where(mask, logits / 2, -np.inf))
  weights /= weights.sum(-1, keepdims=True)
  o = np.einsum('bhwnij,bjhwnd->bihwnd', weights, v)
  o += np.einsum('bhwnij,ijd->bihwnd', weights, rel_v)
  expected = np.einsum('bihwnd,ndc->bihwc', o, p['out']['kernel'])
  np.testing.assert_allclose(
    y, expected + np.asarray(p['out']['bias']), atol=1e-4
  )


def test_bypass_leaves_images_as_they_are(params):
  x = video()
  y = forward(image_frames=2, image_mode='bypass')(params, x)
  np.testing.assert_array_equal(y[:, 4:], x[:, 4:])
  z = forward(image_frames=2)(params, x)
  np.testing.assert_allclose(y[:, :4], z[:, :4], atol=1e-6)
  assert np.abs(z[:, 4:] - x[:, 4:]).max() > 0.01


def test_no_gradient_passes_between_images_and_video(params):
  net = forward(image_frames=2)

  def loss(x, frames):
    return (net(params, x)[:, frames] ** 2).sum()

  of_images = jax.grad(loss)(video(), slice(4, 6))
  of_video = jax.grad(loss)(video(), slice(0, 4))
  np.testing.assert_array_equal(
    of_images[:, :4], np.zeros_like(of_images[:, :4])
  )
  np.testing.assert_array_equal(of_video[:, 4:], np.zeros_like(of_video[:, 4:]))
  assert np.abs(of_images[:, 4:]).max() > 0
  assert np.abs(of_video[:, :4]).max() > 0


def test_spatial_attention_is_frame_by_frame_and_order_free(randomize):
  net = SpatialAttention(head_dim=4, groups=4)
  x = video()
  params = randomize(net, x)
  y = net.apply(params, x)
  changed = net.apply(params, x.at[:, 2].add(video(5)[:, 2]))
  np.testing.assert_array_equal(differs(y, changed), np.arange(6) == 2)
  # No positions: a permutation of the pixels permutes the output.
  flipped = net.apply(params, x[:, :, ::-1, ::-1])
  np.testing.assert_allclose(flipped[:, :, ::-1, ::-1], y, atol=1e-5)


def test_bf16_attention_follows_float32(params):
  x = video()
  y = forward(image_frames=2)(params, x)
  half = forward(image_frames=2, dtype=jnp.bfloat16)
  z = half(params, x.astype(jnp.bfloat16))
  assert z.dtype == jnp.bfloat16
  np.testing.assert_allclose(z.astype(jnp.float32), y, atol=0.1, rtol=0.05)
