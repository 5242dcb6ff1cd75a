"""What videos are told: gathered per batch, the same as if expanded."""

import contextlib
import dataclasses
import tracemalloc

import numpy as np
import pytest

from tests import tiny
from tests.text import tiny_encoder
from vdm_jax import errors
from vdm_jax import told as told_lib
from vdm_jax.conditions import Conditions
from vdm_jax.text import encoder as encoder_lib
from vdm_jax.text import prompts

LENGTH = 12
EMBEDDED = Conditions(
  classes=('x', 'y', 'z'), text='embeddings', text_dim=8, examples=('a', 'b c')
)
WORDS = dataclasses.replace(EMBEDDED, text='words', words=('a', 'b', 'c'))
CAPTIONS = ('a', 'b c', 'a', 'c', 'b c')  # three different ones


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return str(tiny_encoder.write(tmp_path_factory.mktemp('encoder'), dim=8))


def of(folder, trained, count, **options):
  c = tiny.config(
    sample__count=count, text__encoder=folder, text__max_length=LENGTH
  )
  return told_lib.of_config(c, trained, **options)


@pytest.mark.parametrize(
  'trained', [EMBEDDED, WORDS], ids=['embedded', 'words']
)
def test_rows_of_a_batch_are_those_of_everything_expanded(folder, trained):
  """To the bit, in any order and number, also beyond one turn."""
  told, captions, labels = of(folder, trained, 12, captions=CAPTIONS)
  assert captions == [CAPTIONS[i % 5] for i in range(12)]
  np.testing.assert_array_equal(labels, np.arange(12) % 3)
  if trained.text == 'words':
    ids = {'a': [1], 'b c': [2, 3], 'c': [3]}
    text = np.array([ids[t] + [0] * (LENGTH - len(ids[t])) for t in captions])
    mask = text > 0
  else:
    text, mask = encoder_lib.load(folder).encode(captions, LENGTH)
  for rows in (np.arange(12), np.array([11, 0, 4, 4]), np.array([7])):
    found = told.of(rows)
    np.testing.assert_array_equal(found['text'], text[rows, None])
    np.testing.assert_array_equal(found['text_mask'], mask[rows, None])
    np.testing.assert_array_equal(found['label'], labels[rows])


def test_texts_are_embedded_once_and_in_order_of_first_use(folder, monkeypatch):
  seen, encode = [], encoder_lib.TextEncoder.encode

  def counted(self, texts, max_length):
    seen.extend(texts)
    return encode(self, texts, max_length)

  monkeypatch.setattr(encoder_lib.TextEncoder, 'encode', counted)
  of(folder, EMBEDDED, 12, captions=CAPTIONS)
  assert seen == ['a', 'b c', 'c']
  seen.clear()
  of(folder, EMBEDDED, 2, captions=CAPTIONS)  # no video has the others
  assert seen == ['a', 'b c']


def test_models_that_share_prompts_load_an_encoder_once(folder, monkeypatch):
  """Also of another cache; another length, encoder or text is another."""
  loaded, load = [], encoder_lib.load

  def counted(*args, **kwargs):
    loaded.append(args)
    return load(*args, **kwargs)

  monkeypatch.setattr(encoder_lib, 'load', counted)
  options = {'kind': 'embeddings', 'max_length': LENGTH, 'encoder': folder}
  encode = prompts.shared()
  first = encode(('a', 'b'), **options)
  assert encode(('a', 'b'), **options) is first and len(loaded) == 1
  gone = encode(('a', 'b'), cache='gone', **options)
  assert gone is not first and gone.digest == first.digest
  assert len(loaded) == 1
  for change in ({'max_length': LENGTH - 1}, {'encoder_hash': 'f'}):
    with contextlib.suppress(errors.WeightsError):
      encode(('a', 'b'), **(options | change))
  encode(('b', 'a'), **options)
  assert len(loaded) == 4
  prompts.shared()(('a', 'b'), **options)  # nothing is kept beyond it
  assert len(loaded) == 5


def test_memory_is_that_of_the_texts_not_of_the_videos(folder):
  """Ten thousand videos take 8 bytes each and their captions, no embeddings."""
  count, row = 10_000, LENGTH * 8 * 4
  tracemalloc.start()
  told, *_ = of(folder, EMBEDDED, count, captions=CAPTIONS)
  most = tracemalloc.get_traced_memory()[1]
  everything = told.of(np.arange(count))
  assert everything['text'].nbytes == count * row
  assert tracemalloc.get_traced_memory()[1] > count * row  # the control
  tracemalloc.stop()
  assert most < count * row / 2


def test_who_is_told_what_makes_the_identity(folder):
  found = {
    of(folder, EMBEDDED, count, captions=captions, labels=labels)[0].identity()
    for count, captions, labels in (
      (5, CAPTIONS, ()),
      (5, CAPTIONS, (0, 1, 2)),  # the same
      (4, CAPTIONS, ()),
      (5, CAPTIONS[::-1], ()),
      (5, ('a', 'b c', 'c', 'a', 'b c'), ()),
      (5, ('a', 'b c', 'a', 'b', 'b c'), ()),
      (5, CAPTIONS, (1,)),
    )
  }
  assert len(found) == 6
