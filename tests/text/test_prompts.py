"""Prompts reach the network as captions did in training."""

import shutil
import sys

import jax
import numpy as np
import pytest

from tests.text import tiny_encoder
from vdm_jax import sharding
from vdm_jax.errors import ConfigError, DataError, WeightsError
from vdm_jax.text import cache as cache_lib
from vdm_jax.text import class_prompts, prompts
from vdm_jax.text import encoder as encoder_lib
from vdm_jax.text.words import Words

LENGTH = 12
CAPTIONS = ['a dog', 'a man runs', 'b']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_encoder.write(tmp_path_factory.mktemp('encoder'))


@pytest.fixture(scope='module')
def coder(folder):
  return encoder_lib.load(folder)


@pytest.fixture(scope='module')
def cached(coder, tmp_path_factory):
  path = tmp_path_factory.mktemp('cache')
  return cache_lib.build(path, coder, CAPTIONS, max_length=LENGTH)


def embed(texts, **kwargs):
  """All of a table."""
  kwargs = {'kind': 'embeddings', 'max_length': LENGTH} | kwargs
  return prompts.encode(texts, **kwargs).read(np.arange(len(texts)))


def no_encoder(*_, **__):
  pytest.fail('an encoder was loaded')


def test_a_prompt_or_a_file_of_them(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('a dog\na cat\na dog\n\n')
  assert prompts.read('', '') == []
  assert prompts.read(' a dog, 跑步 ', '') == ['a dog, 跑步']
  assert prompts.read('', str(path)) == ['a dog', 'a cat', 'a dog']
  with pytest.raises(ConfigError, match=r'both.*a dog.*prompts\.txt'):
    prompts.read('a dog', str(path))
  with pytest.raises(DataError, match='no such file'):
    prompts.read('', str(tmp_path / 'no.txt'))
  for bad in (' \n', 'a \udcff'):
    with pytest.raises(ConfigError, match=r'config\.sample\.prompt is'):
      prompts.read(bad, '')


def test_a_list_by_its_name(tmp_path, monkeypatch):
  listed = prompts.read('', 'ucf101')
  assert listed == list(class_prompts.prompts())
  # The name is that of the list wherever one is; './' makes it a path.
  (tmp_path / 'ucf101').mkdir()
  monkeypatch.chdir(tmp_path)
  assert prompts.read('', 'ucf101') == listed
  with pytest.raises(DataError, match='no captions'):
    prompts.read('', './ucf101')
  with pytest.raises(DataError, match='no such file'):
    prompts.read('', 'ucf-101')


def test_words_are_those_of_the_vocabulary():
  vocabulary = ['dog', 'red', 'runs']
  ids, mask = embed(
    ['Red dog', 'runs'], kind='words', max_length=4, vocabulary=vocabulary
  )
  words = Words(tuple(vocabulary), 4)
  assert [[words.vocabulary[i - 1] for i in row[row > 0]] for row in ids] == [
    ['red', 'dog'],
    ['runs'],
  ]
  np.testing.assert_array_equal(mask, ids > 0)
  with pytest.raises(ConfigError, match="'cat'"):
    prompts.encode(['cat'], kind='words', max_length=4, vocabulary=vocabulary)
  with pytest.raises(ValueError, match='tokens'):
    prompts.encode(['cat'], kind='tokens', max_length=4)


def test_cached_prompts_are_bit_equal_and_need_no_encoder(
  cached, coder, monkeypatch
):
  monkeypatch.setattr(encoder_lib, 'load', no_encoder)
  monkeypatch.setitem(sys.modules, 'transformers', None)
  texts = [CAPTIONS[2], CAPTIONS[0], CAPTIONS[2]]
  for one in ([texts[0]], texts):
    x, mask = embed(one, cache=cached.folder, encoder_hash=coder.hash)
    expected, same = cached.lookup(one)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(mask, same)
    assert x.dtype == np.float32 and mask.dtype == bool


def test_a_table_has_in_memory_only_what_no_cache_has(
  cached, folder, coder, monkeypatch
):
  """Of the cache each text is read once to check it, then as asked for."""
  read, row = [], cache_lib.EmbeddingCache.row

  def counted(self, text):
    read.append(text)
    return row(self, text)

  monkeypatch.setattr(cache_lib.EmbeddingCache, 'row', counted)
  options = {'kind': 'embeddings', 'max_length': LENGTH, 'encoder': folder}
  texts = (*CAPTIONS, 'a cat', 'a bird')
  table = prompts.encode(texts, cache=cached.folder, **options)
  assert read == CAPTIONS
  x, mask = table.read(np.array([3, 1, 3]))
  assert read == [*CAPTIONS, CAPTIONS[1]]
  expected, same = coder.encode([texts[i] for i in (3, 1, 3)], LENGTH)
  np.testing.assert_array_equal(mask, same)
  np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
  assert (x[~mask] == 0).all()
  # Tables are told apart by all of their texts.
  digests = {
    prompts.encode(t, cache=cached.folder, **options).digest
    for t in (texts, texts, texts[:-1], texts[::-1], ('a cow', *texts[1:]))
  }
  assert len(digests) == 4 and table.digest in digests


def test_a_damaged_embedding_is_found_before_anything_is_made(
  cached, coder, tmp_path
):
  shutil.copytree(cached.folder, tmp_path / 'cache')
  (shard,) = (tmp_path / 'cache').glob('*.npy')
  content = bytearray(shard.read_bytes())
  content[-1] ^= 1
  shard.write_bytes(content)
  options = {'kind': 'embeddings', 'max_length': LENGTH}
  with pytest.raises(DataError, match='damaged'):
    prompts.encode(CAPTIONS, cache=tmp_path / 'cache', **options)


def test_other_prompts_are_encoded_beside_them(cached, coder, folder):
  texts = ['a cat', CAPTIONS[1], 'a bird', 'a cat']
  x, mask = embed(
    texts, cache=cached.folder, encoder=folder, encoder_hash=coder.hash
  )
  expected, same = coder.encode(texts, LENGTH)
  np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(mask, same)
  np.testing.assert_array_equal(x[1:2], cached.lookup([CAPTIONS[1]])[0])
  np.testing.assert_array_equal(x[0], x[3])
  assert np.abs(x[0] - x[2]).max() > 1e-2


@pytest.mark.parametrize('processes', [1, 2])
def test_an_encoder_alone_will_do_also_on_a_mesh(
  coder, folder, monkeypatch, processes
):
  loaded = []
  real = encoder_lib.load

  def load(*args, **kwargs):
    loaded.append(real(*args, **kwargs))
    return loaded[-1]

  monkeypatch.setattr(encoder_lib, 'load', load)
  monkeypatch.setattr(jax, 'process_count', lambda: processes)
  mesh = sharding.make_mesh(2, 4)
  x, mask = embed(['a cat'], encoder=folder, mesh=mesh)
  expected, same = coder.encode(['a cat'], LENGTH)
  np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(mask, same)
  # A process among several has a mesh that it does not own.
  assert loaded[0].mesh is (mesh if processes == 1 else None)


def test_another_encoder_is_refused(cached, coder, tmp_path):
  other = tiny_encoder.write(tmp_path / 'other', seed=1)
  match = 'another than the one that the model was trained with.*encoder'
  for cache, wanted in ((cached.folder, coder.hash), ('', coder.hash)):
    with pytest.raises(WeightsError, match=match):
      embed(['a cat'], cache=cache, encoder=other, encoder_hash=wanted)
  # Nor are two encoders mixed where none is prescribed.
  with pytest.raises(WeightsError, match=match):
    embed(['a cat', 'b'], cache=cached.folder, encoder=other)
  embed(['a cat'], encoder=other)
  with pytest.raises(DataError, match='another encoder'):
    embed(CAPTIONS, cache=cached.folder, encoder_hash='f' * 64)


def test_what_is_missing_is_named(cached, tmp_path):
  cases = (
    ({}, r"'a cat'.*config\.text\.cache is empty.*--config\.text\.encoder="),
    ({'cache': cached.folder}, f"'a cat' is not in {cached.folder}.*encoder="),
  )
  for where, match in cases:
    with pytest.raises(ConfigError, match=match) as caught:
      embed(['b', 'a cat'] if where else ['a cat'], **where)
    assert '\n' not in str(caught.value)
  with pytest.raises(DataError, match=r'no embeddings.*--mode=embed'):
    embed(['b'], cache=tmp_path)
  with pytest.raises(DataError, match='another length'):
    embed(['b'], cache=cached.folder, max_length=LENGTH - 1)


def test_a_cache_left_behind_is_not_needed_where_the_encoder_is(
  coder, folder, tmp_path, capsys
):
  x, _ = embed(['b'], cache=tmp_path / 'gone', encoder=folder)
  np.testing.assert_array_equal(x, coder.encode(['b'], LENGTH)[0])
  assert 'gone' in capsys.readouterr().err


def test_a_cut_prompt_is_warned_of(folder, capsys):
  embed(['a cat', 'abc ' * 9], encoder=folder)
  warned = capsys.readouterr().err
  assert "'abc abc" in warned and 'a cat' not in warned


def test_the_missing_package_is_named(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, 'transformers', None)
  with pytest.raises(
    WeightsError, match=r"transformers.*pip install 'vdm_jax\[text\]'"
  ):
    embed(['a cat'], encoder=folder)
