"""Texts as numbers of words: exact, and never silently less than the text."""

import pickle

import numpy as np
import pytest

from vdm_jax.errors import ConfigError
from vdm_jax.text.words import Words, split, words_of

TEXTS = ['A red disc, moving left', 'a blue disc: moving up!']
VOCABULARY = ('a', 'blue', 'disc', 'left', 'moving', 'red', 'up')


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('A Dog, running.', ['a', 'dog', 'running']),
    (
      "it's a well-known dog - 'Rex'",
      ["it's", 'a', 'well-known', 'dog', 'rex'],
    ),
    ('the dogs’ it’s', ['the', 'dogs', "it's"]),
    ('snake_case 3rd/4th', ['snake', 'case', '3rd', '4th']),
    ('Zoë läuft ПЁС 跑步', ['zoë', 'läuft', 'пёс', '跑步']),
    ('हिन्दी में', ['हिन्दी', 'में']),  # vowels that are marks
    ('… -- \' "', []),
    ('', []),
  ],
)
def test_split(text, expected):
  assert split(text) == expected


def test_composed_and_decomposed_letters_are_the_same_word():
  assert split('Zoe\u0308') == split('Zo\u00eb')


def test_words_are_words_whatever_the_characters():
  """Splitting what was split changes nothing; else ids could not be found."""
  rng = np.random.default_rng(0)
  points = [*range(0xD800), *range(0xE000, 0x11000), *range(0x1F000, 0x20000)]
  points = rng.permutation(points)
  text = ''.join(chr(p) + ' ' * (i % 5 == 0) for i, p in enumerate(points))
  found = split(text)
  assert len(found) > 5000
  assert split(' '.join(found)) == found


def test_all_words_once_and_sorted():
  assert words_of(TEXTS) == VOCABULARY
  assert words_of(reversed(TEXTS)) == VOCABULARY
  assert words_of([]) == ()


def test_ids_give_the_words_back():
  words = Words(VOCABULARY, max_length=6)
  ids, mask = words.encode(TEXTS)
  assert (ids.dtype, ids.shape, mask.dtype) == (np.int32, (2, 6), bool)
  for row, used, text in zip(ids, mask, TEXTS, strict=True):
    assert [VOCABULARY[i - 1] for i in row[used]] == split(text)
    assert used.tolist() == [True] * len(split(text)) + [False]
    assert not row[~used].any()


def test_a_text_without_words_is_the_null_condition():
  ids, mask = Words(VOCABULARY, 3).encode(['', '?', 'a'])
  assert mask.sum(axis=1).tolist() == [0, 0, 1]
  assert not ids[:2].any()
  assert Words(VOCABULARY, 3).encode([])[0].shape == (0, 3)


def test_an_unknown_word_is_named_with_its_neighbours():
  words = Words(VOCABULARY, max_length=8)
  with pytest.raises(
    ConfigError, match=r"'rde' in 'a rde .*mean red"
  ) as caught:
    words.encode([TEXTS[0], 'a rde disc'])
  assert '\n' not in str(caught.value)
  with pytest.raises(ConfigError, match='knows a, blue, disc'):
    words.encode(['xylophone'])
  many = Words(tuple(f'w{i}' for i in range(500)), 3)
  with pytest.raises(ConfigError, match='and 480 more'):
    many.encode(['xylophone'])


def test_a_text_that_is_too_long_is_not_cut():
  assert Words(VOCABULARY, 5).encode(TEXTS)[1].all()
  with pytest.raises(ConfigError, match='5, at most 4'):
    Words(VOCABULARY, 4).encode(TEXTS)


@pytest.mark.parametrize(
  ('vocabulary', 'length', 'match'),
  [
    ((), 3, 'no words'),
    (('a', 'b', 'a'), 3, "twice .'a'"),
    (('Red',), 3, "'Red'"),
    (('two words',), 3, 'two words'),
    (('a',), 0, 'max_length'),
  ],
)
def test_vocabularies_that_cannot_work(vocabulary, length, match):
  with pytest.raises(ConfigError, match=match):
    Words(vocabulary, length)


def test_equal_by_value_and_fit_to_travel():
  one, two = Words(VOCABULARY, 6), Words(VOCABULARY, 6)
  one.encode(TEXTS)
  assert one == two and hash(one) == hash(two) and one.hash == two.hash
  again = pickle.loads(pickle.dumps(one))
  np.testing.assert_array_equal(again.encode(TEXTS)[0], two.encode(TEXTS)[0])
  others = [Words(VOCABULARY[:-1], 6), Words(VOCABULARY, 7)]
  assert len({words.hash for words in (one, *others)}) == 3
