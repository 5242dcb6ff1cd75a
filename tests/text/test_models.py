"""Each encoder is that of `transformers`, with any weights and padding."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import sharding
from vdm_jax.text import clip, encoder, kinds, t5, weights

NAMES = ('bert', 't5', 't5_gated', 't5_silu', 'clip', 'clip_gelu')
LENGTHS = (20, 13, 7, 1)


def inputs(vocab, length=20):
  ids = np.random.default_rng(5).integers(0, vocab, (len(LENGTHS), length))
  mask = np.arange(length)[None] < np.array(LENGTHS)[:, None]
  return ids.astype(np.int32), mask


def torch_states(torch, model, ids, mask):
  with torch.no_grad():
    out = model(torch.tensor(ids).long(), torch.tensor(mask).long())
  return out.last_hidden_state.numpy(), out.get('pooler_output')


def load(folder):
  module, names = kinds.build(folder)
  token = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), token, token > 0)
  return module, weights.load(folder, names, module.layers, shapes['params'])


def apply(module, params, ids, mask):
  # One program per network; `encoder._forward` sets padding to 0.
  run = jax.jit(module.apply)
  return np.asarray(run({'params': params}, jnp.asarray(ids), mask))


def distance(x, y):
  return np.abs(x - y).max() / np.abs(y).max()


@pytest.mark.parametrize('name', NAMES)
def test_states_are_those_of_transformers(torch, reference, name):
  model, folder = reference(name)
  module, params = load(folder)
  ids, mask = inputs(module.vocab)
  expected, _ = torch_states(torch, model, ids, mask)
  ours = apply(module, params, ids, jnp.asarray(mask))
  assert distance(ours, expected) < 1e-5, distance(ours, expected)
  # At padding too, which attends to the text.
  unmasked = apply(module, params, ids, jnp.ones_like(mask))
  assert distance(unmasked[1:], expected[1:]) > 1e-2
  assert distance(unmasked[0], expected[0]) < 1e-5


@pytest.mark.parametrize('name', ['t5_gated', 'clip'])
def test_the_activation_matters(torch, reference, name):
  model, folder = reference(name)
  module, params = load(folder)
  ids, mask = inputs(module.vocab)
  expected, _ = torch_states(torch, model, ids, mask)
  other = dataclasses.replace(module, activation='gelu')
  assert distance(apply(other, params, ids, mask), expected) > 1e-4


@pytest.mark.parametrize('name', NAMES)
def test_parameters_have_sharding_rules_and_are_split(reference, name):
  _, params = load(reference(name)[1])
  placed = sharding.tree_shardings(sharding.make_mesh(1, 8), params)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), place in zip(leaves, jax.tree.leaves(placed), strict=True):
    large = sharding.path_name(path).endswith(('kernel', 'embedding'))
    split = large and any(n % 8 == 0 for n in leaf.shape)
    assert place.is_fully_replicated != split


@pytest.mark.parametrize('name', ['bert', 'clip'])
def test_only_clip_is_causal(reference, name):
  module, params = load(reference(name)[1])
  ids, _ = inputs(module.vocab)
  changed = ids.copy()
  changed[:, 11] = (ids[:, 11] + 1) % module.vocab
  mask = np.ones(ids.shape, bool)
  a, b = (apply(module, params, i, mask) for i in (ids, changed))
  same = (a == b).all(axis=(0, 2))
  assert same[:11].all() == (name == 'clip')
  assert not same[11:].any()


@pytest.mark.parametrize('name', ['clip', 'clip_gelu'])
def test_pooled_clip_is_that_of_transformers(torch, reference, name):
  # Both of its rules: by the id of the end of text, and by the largest id.
  model, folder = reference(name)
  coder = encoder.load(folder, batch_size=3)
  ids, mask = coder.tokenize(['a tall man', 'b', 'cut ' * 20], 16)
  assert (ids[np.arange(3), mask.sum(1) - 1] == coder.module.vocab - 1).all()
  x, pooled = torch_states(torch, model, ids, mask)
  ours = clip.pool(jnp.asarray(x), jnp.asarray(mask))
  np.testing.assert_array_equal(ours, pooled.numpy())


@pytest.mark.parametrize('buckets, most', [(32, 128), (8, 20), (32, 100)])
def test_relative_buckets_are_those_of_transformers(torch, buckets, most):
  modeling = pytest.importorskip('transformers.models.t5.modeling_t5')
  place = torch.arange(600)
  expected = modeling.T5Attention._relative_position_bucket(
    place[None] - place[:, None], True, buckets, most
  )
  ours = t5.relative_buckets(600, buckets, most)
  np.testing.assert_array_equal(ours, expected.numpy())


def test_relative_buckets_widen_geometrically():
  row = t5.relative_buckets(300, 32, 128)[:, 0]  # keys before the query
  widths = np.bincount(row)
  assert (widths[:8] == 1).all() and row[-1] == 15
  bounds = 8 * 16 ** (np.arange(9) / 8)  # 8 rows from 8 to 128
  np.testing.assert_array_equal(
    np.cumsum(widths[:15])[7:], np.ceil(bounds - 1e-6)[:-1]
  )
  after = t5.relative_buckets(300, 32, 128)[0]
  np.testing.assert_array_equal(after[1:], row[1:] + 16)


DEFAULTS = {
  'bert': ('BertConfig', {'types': 'type_vocab_size'}),
  'clip_text_model': ('CLIPTextConfig', {}),
  't5': (
    'T5Config',
    {
      'head_dim': 'd_kv',
      'ff_dim': 'd_ff',
      'eps': 'layer_norm_epsilon',
      'activation': 'dense_act_fn',
      'gated': 'is_gated_act',
      'buckets': 'relative_attention_num_buckets',
      'max_distance': 'relative_attention_max_distance',
    },
  ),
}


@pytest.mark.parametrize(
  'kind, form',
  [
    ('bert', None),
    ('clip_text_model', None),
    ('t5', None),
    ('t5', 'gated-gelu'),
    ('t5', 'gated-silu'),
    ('t5', 'gelu'),
  ],
)
def test_what_a_configuration_leaves_out_is_as_in_transformers(
  torch, tmp_path, kind, form
):
  transformers = pytest.importorskip('transformers')
  values = {'feed_forward_proj': form} if form else {}
  name, fields = DEFAULTS[kind]
  expected = getattr(transformers, name)(**values)
  config = json.dumps({'model_type': kind, **values})
  (tmp_path / 'config.json').write_text(config)
  common = {
    'vocab': 'vocab_size',
    'dim': 'hidden_size',
    'layers': 'num_hidden_layers',
    'heads': 'num_attention_heads',
    'ff_dim': 'intermediate_size',
    'positions': 'max_position_embeddings',
    'activation': 'hidden_act',
    'eps': 'layer_norm_eps',
  } | fields
  module, _ = kinds.build(tmp_path)
  for field in dataclasses.fields(module):
    if field.name not in ('name', 'parent'):
      ours = getattr(module, field.name)
      assert ours == getattr(expected, common[field.name]), field.name
