"""Conditions are left out as often as asked, and by an example's key alone."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import conditions
from vdm_jax.conditions import Conditions
from vdm_jax.errors import CheckpointError

COUNT, SLOTS, LENGTH = 4000, 3, 2

drop = jax.jit(conditions.drop, static_argnames=('label', 'text', 'text2'))


def told(kind='words', slots=SLOTS, count=COUNT):
  """Conditions of which none is null."""
  shape = (count, slots, LENGTH)
  text = jnp.ones(shape, jnp.int32)
  second = {'text2': jnp.ones((*shape, 3)), 'text2_mask': jnp.ones(shape, bool)}
  return {
    'label': jnp.zeros((count, slots), jnp.int32),
    'text': text if kind == 'words' else jnp.ones((*shape, 5)),
    'text_mask': jnp.ones(shape, bool),
    'stride': jnp.arange(count, dtype=jnp.int32) % 2,
    **(second if kind == 'both' else {}),
  }


def keys(count=COUNT):
  return jax.random.split(jax.random.key(0), count)


def gone(arrays):
  """Which labels and which texts are null, [b, s] each."""
  masks = [arrays[k] for k in ('text_mask', 'text2_mask') if k in arrays]
  texts = [~np.asarray(mask).any(-1) for mask in masks]
  return np.asarray(arrays['label']) == -1, *texts


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])
    assert a[name].dtype == b[name].dtype


@pytest.mark.parametrize('kind', ['words', 'embeddings', 'both'])
def test_rate_zero_leaves_nothing_out_and_rate_one_all(kind):
  given = told(kind)
  kept = drop(given, keys=keys(), label=0.0, text=0.0, text2=0.0)
  assert_same(kept, given)
  # The uniform numbers are below 1, so the largest float below 1 is above all.
  highest = 1 - 2**-24
  rates = dict.fromkeys(('label', 'text', 'text2'), highest)
  all_gone = drop(given, keys=keys(), **rates)
  assert_same(all_gone, conditions.null(given))
  assert all(part.all() for part in gone(all_gone))


def test_half_is_left_out_each_slot_and_condition_by_itself():
  rates = dict.fromkeys(('label', 'text', 'text2'), 0.5)
  parts = gone(drop(told('both'), keys=keys(), **rates))
  coins = np.concatenate(parts, 1).T  # nine coins, tossed COUNT times
  assert coins.shape == (9, COUNT)
  sigma = 0.5 / np.sqrt(COUNT)
  assert np.abs(coins.mean(1) - 0.5).max() < 5 * sigma
  for a, b in itertools.combinations(coins, 2):
    assert abs(np.mean(a == b) - 0.5) < 5 * sigma
  # Neither do neighbours in the batch agree.
  assert np.abs((coins[:, 1:] == coins[:, :-1]).mean(1) - 0.5).max() < 5 * sigma


@pytest.mark.parametrize(
  'rates', [(0.1, 0.0, 0.0), (0.0, 0.3, 0.0), (0.1, 0.0, 0.3), (0.1, 0.2, 0.3)]
)
def test_rates_are_those_asked_for(rates):
  names = ('label', 'text', 'text2')
  given = told('both')
  dropped = drop(given, keys=keys(), **dict(zip(names, rates, strict=True)))
  for part, rate in zip(gone(dropped), rates, strict=True):
    sigma = np.sqrt(rate * (1 - rate) / part.size)
    assert abs(part.mean() - rate) <= 5 * sigma
  # What is left out is null, and nothing else is changed.
  for name in ('stride', 'text', 'text2'):
    np.testing.assert_array_equal(dropped[name], given[name])
  _, *texts = gone(dropped)
  for name, null in zip(('text', 'text2'), texts, strict=True):
    assert dropped[f'{name}_mask'][~null].all()


def test_what_an_example_is_told_depends_on_its_key_alone():
  given, every = told(count=8), keys(8)

  def dropped(rows):
    part = {k: v[rows] for k, v in given.items()}
    return drop(part, keys=every[rows], label=0.5, text=0.5)

  whole = dropped(jnp.arange(8))
  for rows in (np.array([0]), np.array([6, 1, 3])):
    assert_same(dropped(rows), {k: v[rows] for k, v in whole.items()})
  # Another key tells another thing, and another set of conditions does not.
  other = drop(given, keys=every[::-1], label=0.5, text=0.5)
  assert not np.array_equal(gone(other)[0], gone(whole)[0])
  alone = drop({'label': given['label']}, keys=every, label=0.5, text=0.5)
  np.testing.assert_array_equal(alone['label'], whole['label'])
  # A second text changes nothing about the first.
  both = told('both', count=8)
  both = drop(both, keys=every, label=0.5, text=0.5, text2=0.5)
  np.testing.assert_array_equal(both['text_mask'], whole['text_mask'])


def test_one_label_for_an_example():
  label = jnp.arange(COUNT, dtype=jnp.int32)
  dropped = drop({'label': label}, keys=keys(), label=0.5, text=0.0)
  there = np.asarray(dropped['label'] == label)
  assert set(np.asarray(dropped['label'])[~there]) == {-1}
  assert abs(there.mean() - 0.5) < 5 * 0.5 / np.sqrt(COUNT)
  assert (conditions.null({'label': label})['label'] == -1).all()


def test_the_null_condition_of_a_model_that_is_told_nothing():
  assert conditions.null({}) == {}
  assert drop({}, keys=keys(2), label=0.5, text=0.5) == {}


def test_choose_takes_the_conditions_out_of_a_batch():
  given = told('both', count=2)
  batch = given | {'video': jnp.zeros((2, 1)), 'id': jnp.zeros(2)}
  assert_same(conditions.choose(batch), given)


def test_conditions_survive_json():
  told = Conditions(
    classes=('a', 'ö'),
    text='words',
    words=('blue', 'disc'),
    text_dim=7,
    encoder='0f',
    text2_dim=3,
    encoder2='a0',
    strides=(1, 4),
    examples=('a "quoted"\ncaption',),
  )
  for each in (told, Conditions()):
    text = json.dumps(dataclasses.asdict(each))
    back = Conditions.from_json(json.loads(text))
    assert back == each and hash(back) == hash(each)
  # The comparison can fail.
  assert Conditions.from_json(dataclasses.asdict(told)) != Conditions()


def test_what_a_checkpoint_of_one_text_says_is_still_read():
  old = dataclasses.asdict(Conditions(text='embeddings', text_dim=4))
  del old['text2_dim'], old['encoder2']
  assert Conditions.from_json(old) == Conditions(text='embeddings', text_dim=4)


def test_which_texts_there_are():
  assert Conditions().texts == ()
  assert Conditions(text='words').texts == ('',)
  assert Conditions(text='embeddings', text_dim=4).texts == ('',)
  both = Conditions(text='embeddings', text_dim=4, text2_dim=3)
  assert both.texts == ('', '2')


def test_texts_of_other_encoders_are_refused():
  one = Conditions(text='embeddings', text_dim=4, encoder='a' * 64)
  both = dataclasses.replace(one, text2_dim=4, encoder2='b' * 64)
  other = dataclasses.replace(both, encoder2='c' * 64)
  for old, new, cache, names in (
    (one, both, 'cache2', 'no text encoder.*b{12}…'),
    (both, one, 'cache2', 'b{12}….*no text encoder'),
    (both, other, 'cache2', 'b{12}….*c{12}…'),
    (both, dataclasses.replace(both, encoder='d' * 64), 'cache', 'a{12}….*d'),
  ):
    with pytest.raises(CheckpointError, match=names) as caught:
      old.refuse_other_encoders(new)
    assert f'config.text.{cache} ' in str(caught.value)
    assert '\n' not in str(caught.value)
  both.refuse_other_encoders(dataclasses.replace(both, examples=('a',)))
