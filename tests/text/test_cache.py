"""The cache gives what the encoder gave, whatever happened in between."""

import dataclasses
import pickle

import numpy as np
import pytest

from vdm_jax.errors import DataError
from vdm_jax.text import cache

CAPTIONS = ['a man', 'a dog', 'a man', '', 'ünïcode ☃', 'longer than the rest']
LENGTH = 12


class Counting:
  """Notes which texts were encoded; stops the process at the n-th batch."""

  def __init__(self, tokenizer, stop=None):
    self.tokenizer, self.stop, self.seen, self.calls = tokenizer, stop, [], 0

  def __call__(self, texts, **kwargs):
    self.calls += 1
    if self.calls == self.stop:
      raise KeyboardInterrupt
    self.seen += texts
    return self.tokenizer(texts, **kwargs)


def counting(plain, stop=None):
  words = Counting(plain.tokenizer, stop)
  return dataclasses.replace(plain, tokenizer=words), words


def build(folder, encoder, captions=CAPTIONS, **kwargs):
  kwargs = {'max_length': LENGTH, 'shard': 2} | kwargs
  return cache.build(folder, encoder, captions, **kwargs)


def check(opened, plain, captions=CAPTIONS):
  x, mask = opened.lookup(captions)
  expected, same = plain.encode(captions, LENGTH)
  np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(mask, same)
  assert not x[~mask].any() and x[mask].any()


def test_lookup_gives_what_the_encoder_gives(plain, tmp_path):
  encoder, words = counting(plain)
  built = build(tmp_path / 'new' / 'cache', encoder)
  assert sorted(words.seen) == sorted(set(CAPTIONS))  # each caption once
  check(built, plain)
  opened = cache.open_cache(tmp_path / 'new' / 'cache', plain.hash)
  assert len(opened) == 5 and 'a man' in opened and 'A man' not in opened
  check(opened, plain)
  check(pickle.loads(pickle.dumps(opened)), plain, CAPTIONS[::-1])
  # Padding takes no room: the shards hold as many rows as there are tokens.
  rows = [np.load(p).shape[0] for p in opened.folder.glob('*.npy')]
  assert sum(rows) == plain.tokenize(list(set(CAPTIONS)), LENGTH)[1].sum()


def test_a_caption_that_is_not_there_is_named(plain, tmp_path):
  built = build(tmp_path, plain)
  with pytest.raises(DataError, match=r"no embedding.*'a cat'"):
    built.lookup(['a man', 'a cat'])


def test_building_goes_on_where_it_was_stopped(plain, tmp_path):
  encoder, _ = counting(plain, stop=3)
  with pytest.raises(KeyboardInterrupt):
    build(tmp_path, encoder)
  assert len(cache.open_cache(tmp_path)) == 4
  encoder, words = counting(plain)
  check(build(tmp_path, encoder), plain)
  assert words.seen == CAPTIONS[-1:]
  encoder, words = counting(plain)
  more = [*CAPTIONS, 'new']
  check(build(tmp_path, encoder, more), plain, more)
  assert words.seen == ['new']


@pytest.mark.parametrize('at', range(5))
def test_a_kill_before_any_renaming_loses_one_shard(
  plain, tmp_path, monkeypatch, at
):
  """At = 0 is the file of the cache; then data and index of each shard."""
  real, count = cache.os.replace, 0

  def replace(source, target):
    nonlocal count
    count += 1
    if count > at:
      raise SystemExit  # as a kill: what is written stays
    real(source, target)

  monkeypatch.setattr(cache.os, 'replace', replace)
  with pytest.raises(SystemExit):
    build(tmp_path, plain)
  assert list(tmp_path.glob('.*.part'))
  monkeypatch.undo()
  encoder, words = counting(plain)
  built = build(tmp_path, encoder)
  assert len(words.seen) == 5 - 2 * max(0, (at - 1) // 2)
  check(built, plain)


@pytest.mark.parametrize('suffix', ['.npy', '.index.npz'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_truncated_shards_are_made_again(plain, tmp_path, suffix, share):
  build(tmp_path, plain)
  victim = sorted(tmp_path.glob(f'*{suffix}'))[0]
  data = victim.read_bytes()
  victim.write_bytes(data[: int(share * len(data))])
  assert len(cache.open_cache(tmp_path)) in (3, 4)
  encoder, words = counting(plain)
  check(build(tmp_path, encoder), plain)
  assert len(words.seen) in (1, 2)
  check(cache.open_cache(tmp_path), plain)


def test_flipped_bits_are_found(plain, tmp_path):
  built = build(tmp_path, plain, shard=8)
  (path,) = tmp_path.glob('*.npy')
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  built.lookup(CAPTIONS[:1])  # the others are whole
  with pytest.raises(DataError, match=f'damaged.*{path.name}'):
    built.lookup(CAPTIONS[-1:])


def test_another_encoder_or_length_is_refused(plain, tmp_path):
  build(tmp_path, plain)
  other, words = counting(dataclasses.replace(plain, hash='b' * 64))
  with pytest.raises(DataError, match=r'another encoder.*aaa.*bbb'):
    build(tmp_path, other)
  with pytest.raises(DataError, match='another encoder'):
    cache.open_cache(tmp_path, other.hash)
  with pytest.raises(DataError, match=r'another length.*12, not 8'):
    build(tmp_path, plain, max_length=8)
  assert not words.seen
  check(cache.open_cache(tmp_path, plain.hash), plain)


@pytest.mark.parametrize('text', ['{', '[]', '3', '{"format": 2}'])
def test_bad_cache_files_are_refused(plain, tmp_path, text):
  with pytest.raises(DataError, match='make them with --mode=embed'):
    cache.open_cache(tmp_path)
  (tmp_path / 'cache.json').write_text(text)
  with pytest.raises(DataError, match='again with --mode=embed'):
    cache.open_cache(tmp_path)


def test_arrays_of_objects_are_never_opened(plain, tmp_path):
  class Bomb:
    def __reduce__(self):
      return (pytest.fail, ('a pickle was opened',))

  build(tmp_path, plain, shard=8)
  (path,) = tmp_path.glob('*.index.npz')
  evil = np.array([Bomb()], object)
  np.savez(path, keys=evil, lengths=evil, checksums=evil)
  assert len(cache.open_cache(tmp_path)) == 0


def test_a_folder_that_cannot_be_written_is_named(plain, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(DataError, match='cannot be written'):
    build(tmp_path / 'file' / 'cache', plain)


def test_a_shard_that_is_not_that_of_its_index_is_made_again(plain, tmp_path):
  build(tmp_path, plain, shard=8)
  (path,) = tmp_path.glob('*.npy')
  np.save(path, np.load(path)[:-1])
  assert len(cache.open_cache(tmp_path)) == 0
  check(build(tmp_path, plain, shard=8), plain)
