"""Attention of the pixels to the tokens of their slot's text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.errors import ConfigError
from vdm_jax.nn.attention import CrossAttention
from vdm_jax.nn.embeddings import TextTokens

jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
# Two frames of a video and two images; a text for each of the three slots.
X = jax.random.normal(jax.random.key(0), (2, 4, 3, 2, 8))
TOKENS = jax.random.normal(jax.random.key(1), (2, 3, 5, 6))
LENGTHS = np.array([[4, 5, 1], [2, 1, 3]])
MASK = jnp.array(np.arange(5) < LENGTHS[..., None])
FRAMES_OF_SLOT = [(0, 1), (2,), (3,)]


def attention(**kwargs):
  return CrossAttention(**({'head_dim': 4, 'groups': 2} | kwargs))


@pytest.fixture(scope='module')
def params(randomize):
  return randomize(attention(), X, (TOKENS[:, :1], MASK[:, :1]))


@functools.lru_cache
def program(**kwargs):
  return jit(attention(**kwargs).apply)


def forward(params, x=X, tokens=TOKENS, mask=MASK):
  return program(image_frames=2)(params, x, (tokens, mask))


def differs(a, b):
  return (np.asarray(a) != np.asarray(b)).any((0, 2, 3, 4))


def softmax(logits):
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def reference(params, b, frame, slot):
  """x + W_o softmax(q·k / √d) v, over the tokens that there are."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params['params'])
  x = np.asarray(X[b, frame], np.float64)
  tokens = np.asarray(TOKENS[b, slot, : LENGTHS[b, slot]], np.float64)
  grouped = x.reshape(-1, 2, 4)
  mean = grouped.mean((0, 2), keepdims=True)
  variance = grouped.var((0, 2), keepdims=True)
  y = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
  y = y * p['norm']['scale'] + p['norm']['bias']
  q = np.einsum('hwc,cnd->hwnd', y, p['q']['kernel']) + p['q']['bias']
  kv = np.einsum('le,eknd->klnd', tokens, p['kv']['kernel'])
  k, v = kv + p['kv']['bias'][:, None]
  weights = softmax(np.einsum('hwnd,lnd->hwnl', q, k) / 2)
  o = np.einsum('hwnl,lnd->hwnd', weights, v)
  return (
    x + np.einsum('hwnd,ndc->hwc', o, p['out']['kernel']) + p['out']['bias']
  )


def test_each_frame_reads_the_text_of_its_slot(params):
  y = forward(params)
  for b in range(2):
    for slot, frames in enumerate(FRAMES_OF_SLOT):
      for frame in frames:
        wanted = reference(params, b, frame, slot)
        np.testing.assert_allclose(y[b, frame], wanted, rtol=1e-4, atol=1e-4)


def test_it_is_the_identity_at_initialisation_to_the_bit():
  init = jit(attention().init)
  params = init(jax.random.key(0), X, (TOKENS[:, :1], MASK[:, :1]))
  np.testing.assert_array_equal(forward(params), X)


def test_a_slot_touches_no_other(params):
  y = forward(params)
  for slot, frames in enumerate(FRAMES_OF_SLOT):
    changed = forward(params, tokens=TOKENS.at[:, slot].add(1.0))
    hit = differs(y, changed)
    np.testing.assert_array_equal(hit, np.isin(np.arange(4), frames))


def test_what_is_masked_never_matters(params):
  changed = jnp.where(MASK[..., None], TOKENS, 1e3)
  np.testing.assert_array_equal(
    forward(params, tokens=changed), forward(params)
  )
  # Negative control: one more token does.
  assert differs(
    forward(params, mask=jnp.ones_like(MASK)), forward(params)
  ).all()


def test_no_token_leaves_the_frame_as_it_is(params):
  y = forward(params, mask=MASK.at[:, 0].set(False))
  np.testing.assert_array_equal(y[:, :2], X[:, :2])
  np.testing.assert_array_equal(y[:, 2:], forward(params)[:, 2:])
  assert differs(y, X)[2:].all()


def test_gradients_without_a_token_are_finite(params):
  def loss(params, x, tokens):
    text = tokens, MASK.at[:, 0].set(False)
    y = attention(image_frames=2).apply(params, x, text)
    return (y[:, :2] ** 2).sum()

  grads = jit(jax.grad(loss, argnums=(0, 1, 2)))(params, X, TOKENS)
  np.testing.assert_array_equal(grads[1][:, :2], 2 * X[:, :2])
  for leaf in jax.tree.leaves((grads[0], grads[2])):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_one_slot_serves_all_frames(params):
  one = forward(params, tokens=TOKENS[:, :1], mask=MASK[:, :1])
  each = np.zeros(3, int)
  np.testing.assert_array_equal(
    one, forward(params, tokens=TOKENS[:, each], mask=MASK[:, each])
  )


def test_slots_that_do_not_fit_are_refused(params):
  with pytest.raises(ConfigError, match=r'text must.*got 2.*use 1 or 3'):
    forward(params, tokens=TOKENS[:, :2], mask=MASK[:, :2])


def test_words_out_of_the_vocabulary_are_nan(randomize):
  embed = TextTokens(4, vocabulary=3)
  words = jnp.array([[[1, 3, 0], [4, 2, 1]]])
  params = randomize(embed, words)
  tokens, mask = embed.apply(params, words)
  np.testing.assert_array_equal(mask, words != 0)
  bad = np.isnan(tokens).any(-1)
  np.testing.assert_array_equal(bad, words == 4)
