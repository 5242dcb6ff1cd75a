import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.errors import ConfigError
from vdm_jax.nn.embeddings import (
  AttentionPooling,
  ClassEmbedding,
  ConditioningMLP,
  expand_slots,
  inv_cos,
  sinusoidal,
)


def test_inv_cos_inverts_the_cosine_schedule():
  u = jnp.linspace(0.01, 0.99, 50)
  logsnr = -2 * jnp.log(jnp.tan(math.pi / 2 * u))
  np.testing.assert_allclose(inv_cos(logsnr), u, atol=1e-6)


def test_inv_cos_stays_within_zero_and_one():
  u = inv_cos(jnp.array([jnp.inf, 20.0, -20.0, -jnp.inf]))
  assert u[0] == u[1] > 0
  assert u[2] == u[3] <= 1


def test_sinusoidal_is_sine_then_cosine_from_rate_1_to_1e4():
  x = sinusoidal(jnp.array([0.7]), 6)[0]
  np.testing.assert_allclose(x[0], math.sin(0.7), rtol=1e-6)
  np.testing.assert_allclose(x[2], math.sin(0.7e-4), rtol=1e-5)
  np.testing.assert_allclose(x[:3] ** 2 + x[3:] ** 2, np.ones(3), rtol=1e-6)


@pytest.mark.parametrize('dim', [2, 7])
def test_sinusoidal_refuses_dim(dim):
  with pytest.raises(ValueError, match='even'):
    sinusoidal(jnp.zeros(1), dim)


def test_null_label_is_exactly_zero_and_others_are_their_rows():
  embed = ClassEmbedding(3, 4)
  labels = jnp.array([[0, 1, 2, -1]])
  params = embed.init(jax.random.key(0), labels)
  rows = embed.apply(params, labels)
  table = params['params']['embedding']
  np.testing.assert_array_equal(rows[0, :3], table)
  np.testing.assert_array_equal(rows[0, 3], np.zeros(4))
  assert np.abs(table).min() > 0


@pytest.mark.parametrize('label', [3, -2])
def test_label_out_of_range_is_nan_but_its_gradient_is_not(label):
  embed = ClassEmbedding(3, 4)
  labels = jnp.array([[0, label]])
  params = embed.init(jax.random.key(0), labels)
  rows = embed.apply(params, labels)
  assert np.isfinite(rows[0, 0]).all()
  assert np.isnan(rows[0, 1]).all()


def test_without_a_null_condition_minus_one_is_out_of_range():
  embed = ClassEmbedding(3, 4, null=False)
  labels = jnp.array([[2, -1]])
  rows = embed.apply(embed.init(jax.random.key(0), labels), labels)
  np.testing.assert_array_equal(np.isnan(rows).all(-1), [[False, True]])


def test_gradient_of_the_table_skips_null_labels():
  embed = ClassEmbedding(3, 4)
  labels = jnp.array([[0, -1, 2]])
  params = embed.init(jax.random.key(0), labels)
  grads = jax.grad(lambda p: embed.apply(p, labels).sum())(params)
  expected = np.array([1, 0, 1])[:, None] * np.ones(4)
  np.testing.assert_array_equal(grads['params']['embedding'], expected)


@pytest.mark.parametrize('layers', [1, 2, 4])
def test_mlp_has_the_layers_asked_for(layers):
  mlp = ConditioningMLP(8, 16, layers)
  params = mlp.init(jax.random.key(0), jnp.zeros((2, 1)))['params']
  assert sorted(params) == [f'dense_{i}' for i in range(layers)]
  assert params['dense_0']['kernel'].shape == (8, 16)


def test_zero_condition_is_no_condition():
  mlp = ConditioningMLP(8, 16, 3)
  logsnr = jnp.array([[1.0], [-2.0]])
  params = mlp.init(jax.random.key(0), logsnr)
  plain = mlp.apply(params, logsnr)
  zero = mlp.apply(params, logsnr, (jnp.zeros((2, 1, 16)),))
  one = mlp.apply(params, logsnr, (jnp.ones((2, 1, 16)),))
  np.testing.assert_array_equal(plain, zero)
  assert np.abs(plain - one).max() > 0.01


def test_mlp_broadcasts_log_snr_and_conditions_over_frames():
  mlp = ConditioningMLP(8, 16, 2)
  logsnr = jnp.array([[1.0], [-2.0]])
  condition = jax.random.normal(jax.random.key(1), (2, 3, 16))
  params = mlp.init(jax.random.key(0), logsnr)
  y = mlp.apply(params, logsnr, (condition,))
  assert y.shape == (2, 3, 16)
  for t in range(3):
    row = mlp.apply(params, logsnr, (condition[:, t : t + 1],))
    np.testing.assert_allclose(y[:, t : t + 1], row, atol=1e-5)


# One example: a slot of four tokens, one of two, and one without any.
MASK = jnp.array(np.arange(4) < np.array([[[4], [2], [0]]]))
WORDS = jnp.array([[[3, 1, 5, 2], [1, 4, 2, 2], [5, 5, 5, 5]]])
TOKENS = jax.random.normal(jax.random.key(5), (1, 3, 4, 6))
TEXTS = pytest.mark.parametrize(
  ('text', 'vocabulary'),
  [pytest.param(WORDS, 5, id='words'), pytest.param(TOKENS, 0, id='tokens')],
)


@pytest.fixture
def pooling(randomize):
  """`run(text, mask=MASK, dim=128)`, by default of two heads."""

  def make(vocabulary, dim=128):
    net = AttentionPooling(dim, vocabulary)
    params = randomize(net, WORDS if vocabulary else TOKENS, MASK)['params']
    return params, lambda text, mask=MASK, params=params: net.apply(
      {'params': params}, text, mask
    )

  return make


@pytest.mark.parametrize('dim', [8, 128])
def test_pooling_is_its_formula(pooling, dim):
  """Head by head, with nothing but the tokens of a slot, in float64."""
  params, pool = pooling(0, dim)
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  for slot, tokens in enumerate((4, 2)):
    x = np.asarray(TOKENS[0, slot, :tokens], np.float64)
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1) + 1e-6)[:, None]
    y = y * params['norm']['scale'] + params['norm']['bias']
    c = params['out']['bias']
    for n, q in enumerate(params['query']):
      logits = y @ params['key']['kernel'][:, n] @ q / math.sqrt(len(q))
      p = np.exp(logits) / np.exp(logits).sum()
      pooled = p @ y @ params['value']['kernel'][:, n]
      c = c + pooled @ params['out']['kernel'][n]
    np.testing.assert_allclose(pool(TOKENS)[0, slot], c, atol=1e-5)


@TEXTS
def test_a_slot_without_tokens_is_exactly_zero(pooling, text, vocabulary):
  _, pool = pooling(vocabulary)
  rows = pool(text)
  np.testing.assert_array_equal(rows[0, 2], np.zeros(128))
  assert np.abs(rows[0, :2]).max(-1).min() > 0.1


@TEXTS
@pytest.mark.parametrize('content', [0, 4, 99, -1, jnp.nan, jnp.inf])
def test_padding_never_matters(pooling, text, vocabulary, content):
  if vocabulary and not np.isfinite(content):
    content = np.iinfo(np.int32).max
  _, pool = pooling(vocabulary)
  mask = MASK if text.ndim == 3 else MASK[..., None]
  padded = jnp.where(mask, text, jnp.asarray(content, text.dtype))
  np.testing.assert_array_equal(pool(padded), pool(text))


@TEXTS
def test_longer_padding_changes_rounding_only(pooling, text, vocabulary):
  _, pool = pooling(vocabulary)
  longer = jnp.concatenate([text, text], axis=2)
  mask = jnp.concatenate([MASK, jnp.zeros_like(MASK)], axis=2)
  np.testing.assert_allclose(pool(longer, mask), pool(text), atol=1e-5)


@TEXTS
def test_tokens_are_a_set(pooling, text, vocabulary):
  _, pool = pooling(vocabulary)
  order = np.array([2, 0, 3, 1])
  rows = pool(text)
  moved = pool(text[:, :, order], MASK[:, :, order])
  np.testing.assert_allclose(moved, rows, atol=1e-5)
  # Negative controls: one other token, and the mask left where it was.
  changed = pool(text.at[:, :, 1].set(text[:, :, 0]))
  assert np.abs(changed - rows)[0, :2].max(-1).min() > 0.01
  assert np.abs(pool(text[:, :, order]) - rows)[0, 1].max() > 0.01


def test_padding_words_are_masked_without_a_mask(pooling):
  _, pool = pooling(5)
  ids = jnp.where(MASK, WORDS, 0)
  np.testing.assert_array_equal(pool(ids, None), pool(WORDS))
  np.testing.assert_array_equal(pool(ids, jnp.ones_like(MASK)), pool(WORDS))


@pytest.mark.parametrize('word', [6, -1])
def test_words_out_of_range_are_nan(pooling, word):
  _, pool = pooling(5)
  rows = pool(WORDS.at[0, 1, 0].set(word))
  np.testing.assert_array_equal(np.isnan(rows[0]).any(-1), [False, True, False])


@TEXTS
def test_gradients_are_finite_and_skip_what_is_masked(
  pooling, text, vocabulary
):
  params, pool = pooling(vocabulary)
  text = jnp.where(MASK, text, 0) if vocabulary else text
  masks = {'some': MASK, 'none': jnp.zeros_like(MASK)}
  grads = {
    name: jax.grad(lambda p, m=mask: (pool(text, m, p) ** 2).sum())(params)
    for name, mask in masks.items()
  }
  for leaf in jax.tree.leaves(grads['none']):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
  for leaf in jax.tree.leaves(grads['some']):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
  if vocabulary:
    np.testing.assert_array_equal(
      np.abs(grads['some']['embedding']).max(-1) > 0,
      [False, True, True, True, True, True],
    )


@pytest.mark.parametrize('vocabulary', [0, 1000])
@pytest.mark.parametrize(('dim', 'inner'), [(16, 16), (96, 64), (1024, 1024)])
def test_parameters_of_pooling(vocabulary, dim, inner):
  net = AttentionPooling(dim, vocabulary)
  text = jnp.zeros((1, 1, 1), int) if vocabulary else jnp.zeros((1, 1, 1, 24))
  tree = jax.eval_shape(net.init, jax.random.key(0), text, MASK[:, :1, :1])
  width = dim if vocabulary else 24
  table = (vocabulary + 1) * dim if vocabulary else 0
  attention = 2 * width + 2 * width * inner + inner + inner * dim + dim
  leaves = jax.tree.leaves(tree)
  assert sum(math.prod(leaf.shape) for leaf in leaves) == table + attention
  assert {leaf.dtype for leaf in leaves} == {jnp.float32.dtype}


def test_slots_become_frames():
  rows = jnp.arange(3.0)[None, :, None]
  frames = expand_slots(rows, frames=6, image_frames=2, name='rows')
  np.testing.assert_array_equal(frames[0, :, 0], [0, 0, 0, 0, 1, 2])
  one = expand_slots(rows[:, :1], frames=6, image_frames=2, name='rows')
  assert one.shape == (1, 1, 1)


@pytest.mark.parametrize(
  ('slots', 'images', 'legal'),
  [(2, 2, '1 or 3'), (6, 2, '1 or 3'), (2, 0, '1')],
)
def test_other_numbers_of_slots_are_refused(slots, images, legal):
  rows = jnp.zeros((1, slots, 4))
  with pytest.raises(ConfigError, match=f'rows .*got {slots}.*use {legal}$'):
    expand_slots(rows, frames=6, image_frames=images, name='rows')
