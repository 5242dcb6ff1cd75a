"""Embeddings are made once, whole, and by one encoder."""

import csv
import json
import os
import re
import shlex
import signal
import sys

import jax
import numpy as np
import pytest

from tests import tiny
from tests.text import tiny_encoder
from vdm_jax import build, embed, errors, main, sharding
from vdm_jax.text import cache as cache_lib
from vdm_jax.text import encoder as encoder_lib

LENGTH = 20
TEXTS = [f'a dog {i}' for i in range(38)] + ['she said "hi", 跑', 'cut ' * 9]
TEXTS[-1] = TEXTS[-1].strip()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_encoder.write(tmp_path_factory.mktemp('encoder'))


@pytest.fixture(scope='module')
def coder(folder):
  return encoder_lib.load(folder)


@pytest.fixture
def config(folder, tmp_path):
  def make(**overrides):
    path = tmp_path / 'captions.txt'
    if not path.exists():
      path.write_text('\n'.join(TEXTS), encoding='utf-8')
    return tiny.config(
      **{
        'text__encoder': str(folder),
        'text__cache': str(tmp_path / 'cache'),
        'text__captions': str(path),
        'text__max_length': LENGTH,
      }
      | overrides
    )

  return make


@pytest.fixture
def encoded(monkeypatch):
  """The texts that were encoded, batch by batch; `hook` runs before each."""

  class Encoded(list):
    hook = staticmethod(lambda: None)

  batches = Encoded()
  real = encoder_lib.TextEncoder.encode

  def encode(self, texts, max_length):
    batches.hook()
    batches.append(list(texts))
    return real(self, texts, max_length)

  monkeypatch.setattr(encoder_lib.TextEncoder, 'encode', encode)
  return batches


def check(path, coder, texts=TEXTS):
  opened = cache_lib.open_cache(path, coder.hash, LENGTH)
  assert len(opened) == len(set(texts))
  x, mask = opened.lookup(texts)
  expected, same = coder.encode(texts, LENGTH)
  np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(mask, same)
  assert np.abs(x[1:] - x[:-1]).max(axis=(1, 2)).min() > 1e-2


def as_csv(folder):
  with (folder / 'a.csv').open('w', newline='', encoding='utf-8') as file:
    rows = [('video', 'caption'), *((f'{i}.mp4', t) for i, t in rows_of())]
    csv.writer(file).writerows(rows)
  return {'text__captions': str(folder / 'a.csv')}


def as_json_lines(folder):
  rows = [json.dumps({'video': f'{i}', 'caption': t}) for i, t in rows_of()]
  (folder / 'a.jsonl').write_text('\n'.join(rows))
  return {'text__captions': str(folder / 'a.jsonl')}


def as_files(folder):
  for i, text in rows_of():
    (folder / f'{i}.mp4').touch()
    (folder / f'{i}.txt').write_text(text, encoding='utf-8')
  return {
    'text__captions': '',
    'data__source': 'folder',
    'data__path': str(folder),
  }


def rows_of():
  return enumerate([*TEXTS, TEXTS[0]])  # one twice


@pytest.mark.parametrize('write', [as_csv, as_json_lines, as_files])
def test_captions_of_every_kind(config, coder, tmp_path, capsys, write):
  (tmp_path / 'captions').mkdir()
  embed.run(config(**write(tmp_path / 'captions')), tmp_path / 'run')
  check(tmp_path / 'cache', coder)
  assert not (tmp_path / 'run').exists()
  said = capsys.readouterr().out
  assert '40 different captions' in said and '\n0 of 40' in said
  assert coder.hash in said and str(tmp_path / 'cache') in said
  assert re.search(r'40 captions embedded in \d+s, [\d.e+]+ captions/s', said)
  assert '1 of them take all 20 tokens' in said
  named = '--config.text.captions=' in said.splitlines()[-1]
  assert named == (write is not as_files)


def test_what_is_there_is_not_made_again(config, coder, tmp_path, encoded):
  embed.run(config(), tmp_path)
  assert sorted(text for batch in encoded for text in batch) == sorted(TEXTS)
  encoded.clear()
  embed.run(config(), tmp_path)
  assert encoded == []
  (tmp_path / 'captions.txt').write_text('\n'.join(['new', *TEXTS]))
  embed.run(config(), tmp_path)
  assert encoded == [['new']]
  check(tmp_path / 'cache', coder, [*TEXTS, 'new'])


def ask_to_stop(encoded):
  """A hook that does so once: the second time kills."""

  def hook():
    encoded.hook = lambda: None
    os.kill(os.getpid(), signal.SIGTERM)

  return hook


def test_asked_to_stop_it_keeps_what_there_is(
  config, coder, tmp_path, encoded, capsys
):
  encoded.hook = ask_to_stop(encoded)
  with pytest.raises(errors.Preempted, match='32 of 40 captions') as caught:
    embed.run(config(), tmp_path)
  assert caught.value.status == 42 and 'continues' in str(caught.value)
  assert encoded == [TEXTS[:32]]  # one batch
  assert len(cache_lib.open_cache(tmp_path / 'cache')) == 32
  embed.run(config(), tmp_path)
  assert encoded[1:] == [TEXTS[32:]]
  assert '32 of 40 captions are embedded already' in capsys.readouterr().out
  check(tmp_path / 'cache', coder)


def test_stopped_at_the_last_batch_it_is_done(config, tmp_path, encoded):
  (tmp_path / 'captions.txt').write_text('a')
  encoded.hook = ask_to_stop(encoded)
  embed.run(config(), tmp_path)
  assert len(cache_lib.open_cache(tmp_path / 'cache')) == 1


def test_another_encoder_is_refused(config, coder, tmp_path, encoded):
  embed.run(config(), tmp_path)
  other = tiny_encoder.write(tmp_path / 'other', seed=1)
  encoded.clear()
  with pytest.raises(errors.DataError, match=f'another encoder.*{coder.hash}'):
    embed.run(config(text__encoder=str(other)), tmp_path)
  with pytest.raises(errors.DataError, match=r'another length.*20, not 19'):
    embed.run(config(text__max_length=19), tmp_path)
  assert encoded == []
  check(tmp_path / 'cache', coder)
  # In a folder of its own it gives other embeddings.
  second = tmp_path / 'second'
  embed.run(config(text__encoder=str(other), text__cache=str(second)), tmp_path)
  x, y = (
    cache_lib.open_cache(path).lookup(TEXTS)[0]
    for path in (tmp_path / 'cache', second)
  )
  assert np.abs(x - y).max() > 0.1


def test_the_encoder_is_split_over_the_mesh(
  config, coder, tmp_path, monkeypatch
):
  loaded = []
  real = encoder_lib.load

  def load(*args, **kwargs):
    loaded.append(real(*args, **kwargs))
    return loaded[-1]

  monkeypatch.setattr(encoder_lib, 'load', load)
  embed.run(config(mesh__data=2, mesh__fsdp=4), tmp_path)
  for path, leaf in jax.tree_util.tree_leaves_with_path(loaded[0].params):
    parts = {str(shard.index) for shard in leaf.addressable_shards}
    large = sharding.path_name(path).endswith(('kernel', 'embedding'))
    split = large and any(n % 4 == 0 for n in leaf.shape)
    assert len(parts) == (4 if split else 1)
  check(tmp_path / 'cache', coder)


def test_a_mesh_of_any_size_fits(config, coder, tmp_path):
  devices = jax.devices()[:3]
  embed.run(config(), tmp_path, devices=devices)
  check(tmp_path / 'cache', coder)


BAD = {
  'encoder': ({'text__encoder': ''}, '--config.text.encoder=FOLDER'),
  'cache': ({'text__cache': ''}, '--config.text.cache=embeddings/tiny'),
  'captions': (
    {'text__captions': '', 'data__source': 'ucf101'},
    "'ucf101'.*--config.text.captions=PATH",
  ),
  'path': (
    {'text__captions': '', 'data__source': 'folder'},
    '--config.data.path=FOLDER',
  ),
  'length': (
    {'text__max_length': 64},
    '64 tokens.*config.text.max_length.*up to 24',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_what_is_missing_is_named(config, tmp_path, case):
  overrides, match = BAD[case]
  with pytest.raises(errors.ConfigError, match=match) as caught:
    embed.run(config(**overrides), tmp_path)
  assert '\n' not in str(caught.value)
  # Nothing is left that would be in the way of the mended command.
  assert not (tmp_path / 'cache').exists()


def test_missing_files_are_named(config, tmp_path):
  with pytest.raises(errors.DataError, match='no such file'):
    embed.run(config(text__captions=str(tmp_path / 'no.csv')), tmp_path)
  with pytest.raises(errors.WeightsError, match='no such folder'):
    embed.run(config(text__encoder=str(tmp_path / 'no')), tmp_path)
  assert not (tmp_path / 'cache').exists()


def test_the_command_and_what_it_says_to_type_next(
  folder, coder, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  options = [
    f'--config={os.path.dirname(__file__)}/../configs/shapes.py:tiny',
    '--config.mesh.cpu_devices=0',
    f'--config.text.max_length={LENGTH}',
  ]

  def command(*more):
    argv = ['main.py', *options, *more]
    monkeypatch.setattr(sys, 'argv', argv)
    return main.main(argv)

  status = command(
    '--mode=embed',
    f'--config.text.encoder={folder}',
    '--config.text.cache=my embeddings',
  )
  said = capsys.readouterr()
  assert status == 0, said.err
  typed = shlex.split(said.out.strip().splitlines()[-1])
  assert f'--config.text.cache={tmp_path / "my embeddings"}' in typed
  seen = []
  monkeypatch.setattr('vdm_jax.train.run', lambda c, *_, **__: seen.append(c))
  assert command(*typed) == 0, capsys.readouterr().err
  source, told = build.data(seen[0])
  assert (told.encoder, told.text_dim) == (coder.hash, 8)
  clip = source.clip(3, np.random.default_rng(0))
  expected, mask = coder.encode([clip['caption']], LENGTH)
  np.testing.assert_allclose(clip['text'], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(clip['text_mask'], mask)


def test_several_processes_are_refused(config, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(errors.ConfigError, match=r'one process \(2'):
    embed.run(config(), tmp_path)
