"""One interface: texts to embeddings, the same in any company."""

import dataclasses
import socket
import sys

import numpy as np
import pytest

from vdm_jax import sharding
from vdm_jax.errors import ConfigError, WeightsError
from vdm_jax.text import encoder

TEXTS = ['a man runs', 'b', '', 'the dog 42 sleeps', 'zebra']
NAMES = ('bert', 't5_gated', 'clip')


@pytest.fixture(scope='module')
def coders(reference):
  made = {}

  def get(name):
    if name not in made:
      made[name] = encoder.load(reference(name)[1], batch_size=2)
    return made[name]

  return get


@pytest.mark.parametrize('name', NAMES)
def test_texts_agree_with_transformers(torch, reference, coders, name):
  import transformers

  model, folder = reference(name)
  tokens = transformers.AutoTokenizer.from_pretrained(folder)(
    TEXTS, padding=True, return_tensors='pt'
  )
  x, mask = coders(name).encode(TEXTS, 22)
  with torch.no_grad():
    expected = model(tokens['input_ids'], tokens['attention_mask'])
  expected = expected.last_hidden_state.numpy()
  for i, count in enumerate(tokens['attention_mask'].sum(1).tolist()):
    assert mask[i].sum() == count and mask[i, :count].all()
    error = np.abs(x[i, :count] - expected[i, :count]).max()
    assert error < 1e-5 * np.abs(expected).max()
    assert not x[i, count:].any()
  assert len({m.tobytes() for m in mask}) > 2  # several lengths
  assert x.dtype == np.float32 and x.shape == (5, 22, coders(name).dim)


@pytest.mark.parametrize('name', NAMES)
def test_neither_length_nor_company_changes_a_text(coders, name):
  x, mask = coders(name).encode(TEXTS, 22)
  y, _ = coders(name).encode(TEXTS[::-1], 20)
  np.testing.assert_allclose(y[::-1], x[:, :20], rtol=1e-5, atol=2e-5)
  again, _ = coders(name).encode(TEXTS, 22)
  np.testing.assert_array_equal(again, x)
  # But a letter does, in the text alone that it is in.
  z, _ = coders(name).encode(['a man rums', *TEXTS[1:]], 22)
  moved = np.abs(z - x).max(axis=(1, 2)) > 1e-3
  np.testing.assert_array_equal(moved, [True] + 4 * [False])
  assert mask.any(axis=1).all()  # an empty text has its special tokens


@pytest.mark.parametrize('name', NAMES)
def test_long_texts_are_cut_and_still_end(coders, name):
  ids, mask = coders(name).tokenize(['ab', 'cd ' * 30], 12)
  assert mask[1].all() and not mask[0].all()
  assert ids[1, -1] == ids[0, mask[0].sum() - 1]
  x, _ = coders(name).encode([], 8)
  assert x.shape == (0, 8, coders(name).dim)


def test_a_mesh_changes_nothing_but_the_place(reference, coders):
  mesh = sharding.make_mesh(2, 4)
  split = encoder.load(reference('bert')[1], mesh=mesh, batch_size=6)
  assert split.batch_size == 8
  kernel = split.params['layer_0']['up']['kernel']
  assert len({str(s.index) for s in kernel.addressable_shards}) == 4
  x, mask = coders('bert').encode(TEXTS, 22)
  y, same = split.encode(TEXTS, 22)
  np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(same, mask)


def test_the_hash_knows_configuration_weights_and_tokenizer(
  copy, coders, edit_json
):
  folder, known = copy(), coders('bert').hash
  assert encoder.load(folder).hash == known
  (folder / 'README.md').write_text('not part of it')
  assert encoder.load(folder, sha256=known[:16]).hash == known
  seen = {known}
  edit_json(folder / 'config.json', layer_norm_eps=1e-6)
  seen.add(encoder.load(folder).hash)
  edit_json(folder / 'tokenizer_config.json', do_lower_case=False)
  seen.add(encoder.load(folder).hash)
  assert len(seen) == 3
  with pytest.raises(WeightsError, match=f'SHA-256.*not {known}'):
    encoder.load(folder, sha256=known)


def test_a_tokenizer_in_another_folder(copy, reference, tmp_path, coders):
  folder = copy()
  words = tmp_path / 'words'
  words.mkdir()
  for path in folder.glob('*token*'):
    path.rename(words / path.name)
  for path in folder.glob('vocab*'):
    path.rename(words / path.name)
  with pytest.raises(WeightsError, match='no tokenizer'):
    encoder.load(folder)
  x, _ = encoder.load(folder, tokenizer=words, batch_size=2).encode(TEXTS, 22)
  np.testing.assert_array_equal(x, coders('bert').encode(TEXTS, 22)[0])
  (words / 'tokenizer.json').write_text('{')
  with pytest.raises(WeightsError, match='tokenizer cannot be read') as caught:
    encoder.load(folder, tokenizer=words)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', NAMES)
def test_nothing_is_fetched(reference, monkeypatch, name):
  def connect(*_):
    pytest.fail('a connection was opened')

  monkeypatch.setattr(socket.socket, 'connect', connect)
  monkeypatch.setattr(socket, 'getaddrinfo', connect)
  encoder.load(reference(name)[1]).tokenize(TEXTS, 8)


def test_a_tokenizer_of_another_network_is_refused(plain):
  small = dataclasses.replace(plain.module, vocab=5)
  with pytest.raises(WeightsError, match='tokenizer is of another network'):
    dataclasses.replace(plain, module=small).encode(['zebra'], 8)


@pytest.mark.parametrize('length', [1, 17])
def test_lengths_that_the_network_cannot_take_are_refused(plain, length):
  with pytest.raises(ConfigError, match=f'{length} tokens.*up to 16'):
    plain.encode(['a'], length)


def test_embeddings_that_are_not_finite_are_refused(plain):
  params = {**plain.params, 'token': {'embedding': np.full((30, 8), np.inf)}}
  with pytest.raises(WeightsError, match='not finite'):
    dataclasses.replace(plain, params=params).encode(['a'], 8)


BAD = {
  'kind': ({'model_type': 'gpt2'}, "'gpt2'.*bert, clip"),
  'no kind': ({'model_type': None}, 'model_type None'),
  'type': ({'hidden_size': '32'}, "hidden_size is '32'.*a int"),
  'negative': ({'hidden_size': -32}, 'positive'),
  'heads': ({'num_attention_heads': 5}, 'divisor of 32'),
  'activation': ({'hidden_act': 'swash'}, "'swash'.*one of"),
  'positions': ({'position_embedding_type': 'relative_key'}, 'absolute'),
  'decoder': ({'is_decoder': True}, 'is_decoder'),
}


@pytest.mark.parametrize('case', BAD)
def test_configurations_that_cannot_work_are_refused(copy, edit_json, case):
  folder = copy()
  edit_json(folder / 'config.json', **BAD[case][0])
  with pytest.raises(WeightsError, match=BAD[case][1]) as caught:
    encoder.load(folder)
  assert '\n' not in str(caught.value)


def test_missing_or_damaged_configurations_are_refused(tmp_path):
  with pytest.raises(WeightsError, match='no such folder'):
    encoder.load(tmp_path / 'nowhere')
  with pytest.raises(WeightsError, match='no configuration'):
    encoder.load(tmp_path)
  for text in ('{', '[]'):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(WeightsError, match='fetch it again'):
      encoder.load(tmp_path)


@pytest.mark.parametrize('package', ['transformers', 'safetensors'])
def test_absent_packages_are_named(reference, monkeypatch, package):
  folder = reference('bert')[1]
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(WeightsError, match=rf'\({package}\).*pip install'):
    encoder.load(folder)
