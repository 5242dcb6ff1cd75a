"""Weights are used whole and once, or one line says why not."""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest

from vdm_jax.errors import WeightsError
from vdm_jax.text import encoder


def rewrite(folder, change, file='model.safetensors'):
  """Replaces the dict of tensors by what `change` makes of it."""
  from safetensors import numpy as st

  st.save_file(change(st.load_file(folder / file)), folder / file)


def refused(folder, match, **kwargs):
  with pytest.raises(WeightsError, match=match) as caught:
    encoder.load(folder, **kwargs)
  assert caught.value.status == 6
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


def same(a, b):
  return jax.tree.all(
    jax.tree.map(lambda x, y: bool((x == y).all()), a.params, b.params)
  )


def test_shards_and_other_spellings_give_the_same_parameters(
  torch, reference, copy
):
  model, folder = reference('bert')
  whole = encoder.load(folder)
  other = copy()
  (other / 'model.safetensors').unlink()
  model.save_pretrained(other, max_shard_size='20KB')
  assert len(list(other.glob('*.safetensors'))) > 3
  assert not (other / 'model.safetensors').exists()
  assert same(encoder.load(other), whole)
  shards = sorted(other.glob('*.safetensors'))
  shards[1].unlink()
  refused(other, f'missing.*{shards[1].name}')

  def spell(tensors):
    old = {
      'bert.'
      + k.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
        'LayerNorm.bias', 'LayerNorm.beta'
      ): v
      for k, v in tensors.items()
    }
    old['bert.embeddings.position_ids'] = np.arange(24)[None]
    old['cls.predictions.bias'] = np.zeros(5, np.float32)
    return old

  for path in [*shards[:1], *shards[2:], *other.glob('*.index.json')]:
    path.unlink()
  shutil.copy(folder / 'model.safetensors', other)
  rewrite(other, spell)
  assert same(encoder.load(other), whole)


def test_a_whole_t5_or_clip_gives_its_text_encoder(reference, copy):
  whole = encoder.load(reference('t5')[1])
  folder = copy('t5')

  def with_decoder(tensors):
    tensors['encoder.embed_tokens.weight'] = tensors['shared.weight']
    tensors['decoder.final_layer_norm.weight'] = np.ones(32, np.float32)
    tensors['lm_head.weight'] = np.ones((5, 32), np.float32)
    return tensors

  rewrite(folder, with_decoder)
  assert same(encoder.load(folder), whole)

  def one_table_differs(tensors):
    tensors['shared.weight'] = tensors['shared.weight'] + 1
    return tensors

  rewrite(folder, one_table_differs)
  refused(folder, 'two tensors are for one parameter')


def test_a_folder_of_both_halves_of_clip(reference, copy, edit_json):
  whole = encoder.load(reference('clip')[1])
  folder = copy('clip')
  text = json.loads((folder / 'config.json').read_text())
  nested = {'model_type': 'clip', 'text_config': text}
  (folder / 'config.json').write_text(json.dumps(nested))
  extra = {
    'vision_model.embeddings.class_embedding': np.ones(3, np.float32),
    'logit_scale': np.ones(1, np.float32),
  }
  rewrite(folder, lambda tensors: tensors | extra)
  assert same(encoder.load(folder), whole)
  edit_json(folder / 'config.json', text_config=None)
  refused(folder, 'text_config')


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
def test_every_floating_type_is_read(reference, copy, dtype):
  import ml_dtypes

  kind = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
  folder = copy()
  rewrite(folder, lambda t: {k: v.astype(kind) for k, v in t.items()})
  whole = encoder.load(reference('bert')[1])
  rounded = jax.tree.map(
    lambda x: np.asarray(x).astype(kind).astype(np.float32), whole.params
  )
  loaded = encoder.load(folder)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, rounded)
  assert loaded.hash != whole.hash


QUERY = 'encoder.layer.1.attention.self.query.weight'
CHANGES = {
  'missing': (lambda t: {k: v for k, v in t.items() if k != QUERY}, QUERY),
  'left over': (lambda t: t | {'more.weight': t[QUERY]}, 'more.weight'),
  'shape': (lambda t: t | {QUERY: t[QUERY][:, :5]}, r'\(5, 32\)'),
  'nan': (lambda t: t | {QUERY: t[QUERY] * np.float32('nan')}, 'not finite'),
  'inf': (lambda t: t | {QUERY: t[QUERY] / np.float32(0)}, 'not finite'),
  'int8': (lambda t: t | {QUERY: t[QUERY].astype(np.int8)}, 'I8'),
}


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('change', CHANGES)
def test_tensors_that_do_not_fit_are_refused(copy, change):
  folder = copy()
  encoder.load(folder)
  rewrite(folder, CHANGES[change][0])
  refused(folder, CHANGES[change][1])


def test_weights_of_another_network_are_refused(reference, copy):
  folder = copy()
  shutil.copy(reference('t5')[1] / 'model.safetensors', folder)
  refused(folder, 'another network.*missing: embeddings.*and .* more')


def test_another_number_of_layers_is_refused(copy, edit_json):
  folder = copy()
  edit_json(folder / 'config.json', num_hidden_layers=2)
  refused(folder, r'unknown: encoder\.layer\.2\.')


@pytest.mark.parametrize('share', [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused(copy, share):
  folder = copy()
  path = folder / 'model.safetensors'
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  refused(folder, f'damaged.*{path.name}')


def test_a_lying_header_is_refused(copy):
  path = copy() / 'model.safetensors'
  data = path.read_bytes()
  path.write_bytes((2**40).to_bytes(8, 'little') + data[8:])
  refused(path.parent, 'damaged')


class Bomb:
  def __reduce__(self):
    return (pytest.fail, ('a pickle was opened',))


def test_pickles_are_never_opened(copy):
  folder = copy()
  (folder / 'model.safetensors').unlink()
  refused(folder, 'no weights')
  with (folder / 'pytorch_model.bin').open('wb') as file:
    pickle.dump(Bomb(), file)
  refused(folder, r'could run programs.*pytorch_model\.bin')


@pytest.mark.parametrize(
  'index',
  [
    '{',
    '[]',
    '{"weight_map": 3}',
    '{"weight_map": {"a": "../model.safetensors"}}',
    '{"weight_map": {"a": "/etc/passwd"}}',
    '{"weight_map": {"a": 3}}',
  ],
)
def test_a_bad_index_is_refused(copy, index):
  folder = copy()
  (folder / 'model.safetensors').rename(folder.parent / 'model.safetensors')
  (folder / 'model.safetensors.index.json').write_text(index)
  refused(folder, 'index')
