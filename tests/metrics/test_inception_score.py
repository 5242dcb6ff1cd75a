import itertools

import numpy as np
import pytest

from vdm_jax.errors import DataError
from vdm_jax.metrics.inception_score import (
  class_weights,
  inception_score,
  softmax,
)


def probabilities(n=60, classes=7, seed=0, sharpness=2.0):
  rng = np.random.default_rng(seed)
  return softmax(sharpness * rng.normal(size=(n, classes)))


def by_definition(p):
  mean = p.mean(0)
  return np.exp(np.mean([np.sum(q * np.log(q / mean)) for q in p]))


def test_it_is_the_exponential_of_the_mean_divergence():
  p = probabilities()
  assert inception_score(p).mean == pytest.approx(by_definition(p), rel=1e-12)


def test_uniform_probabilities_score_one():
  assert inception_score(np.full((10, 5), 0.2)).mean == pytest.approx(1)


def test_certain_and_balanced_ones_score_the_number_of_classes():
  p = np.eye(5)[np.arange(20) % 5]
  result = inception_score(p)
  assert result.mean == pytest.approx(5, rel=1e-12)
  assert (result.std, result.n, result.splits) == (0, 20, 1)
  # An unbalanced classifier scores less: the exponential of the entropy.
  unbalanced = inception_score(np.eye(5)[[0, 0, 0, 1]]).mean
  assert unbalanced == pytest.approx(
    np.exp(-0.75 * np.log(0.75) + np.log(4) / 4)
  )


def test_probabilities_of_zero_give_no_nan():
  p = np.array([[1.0, 0, 0], [0.5, 0.5, 0]])
  expected = inception_score(p).mean
  assert np.isfinite(expected)
  assert inception_score(p, eps=1e-20).mean == pytest.approx(expected)
  with np.errstate(all='ignore'):
    assert np.isnan(by_definition(p))  # the control


def test_logits_that_overflow_do_not():
  logits = np.array([[1e4, 0, 0], [0, 1e4, 0], [0, 0, 1e4]], np.float32)
  assert inception_score(softmax(logits)).mean == pytest.approx(3)
  np.testing.assert_allclose(softmax(logits + 7), softmax(logits))
  p = softmax(np.array([[-1000.0, -1000.0]]))
  np.testing.assert_allclose(p, 0.5)
  with pytest.raises(DataError, match='not finite'):
    softmax(np.array([[np.nan, 0.0]]))


def test_one_split_does_not_depend_on_the_order_and_more_do():
  p = probabilities()
  order = np.random.default_rng(1).permutation(60)
  for options in ({}, {'shuffle': 42}):
    a = inception_score(p, **options).mean
    b = inception_score(p[order], **options).mean
    assert a == pytest.approx(b, rel=1e-12)
  a, b = (inception_score(q, splits=4).mean for q in (p, p[order]))
  assert abs(a - b) > 1e-6  # the control


def test_splits_are_scored_apart():
  p = probabilities(62)
  result = inception_score(p, splits=4)
  edges = [0, 15, 31, 46, 62]
  parts = [by_definition(p[a:b]) for a, b in itertools.pairwise(edges)]
  assert result.mean == pytest.approx(np.mean(parts))
  assert result.std == pytest.approx(np.std(parts))
  assert result.mean < inception_score(p).mean  # fewer samples score less


def test_repeats_are_sets_of_their_own():
  p = probabilities(60)
  result = inception_score(p, repeats=3, eps=1e-20)
  parts = [by_definition(q) for q in np.split(p, 3)]
  np.testing.assert_allclose(result.values, parts)
  assert (result.n, result.repeats) == (20, 3)
  assert result.mean == pytest.approx(np.mean(parts))
  assert result.std == pytest.approx(np.std(parts))


def test_the_shuffle_is_the_one_of_numpys_old_generator():
  p = probabilities(2048, 5)
  shuffled = p.copy()
  np.random.RandomState(42).shuffle(shuffled)
  expected = inception_score(shuffled, splits=10)
  result = inception_score(p, splits=10, shuffle=42)
  assert result.values == pytest.approx(expected.values, rel=1e-12)
  assert result.std == pytest.approx(expected.std, rel=1e-9)
  plain = inception_score(p, splits=10)
  assert abs(plain.std - result.std) > 1e-6


def test_weights_are_as_good_as_copies():
  p = probabilities(4)
  times = np.array([1, 3, 2, 1])
  expected = inception_score(np.repeat(p, times, axis=0)).mean
  weighted = inception_score(p, weights=times.astype(float)).mean
  assert weighted == pytest.approx(expected, rel=1e-12)


def test_class_weights_undo_unequal_numbers_of_prompts():
  one = np.eye(3)
  labels = np.array([0, 0, 0, 0, 1, 2])
  weights = class_weights(labels)
  assert weights.sum() == pytest.approx(1)
  result = inception_score(one[labels], weights=weights).mean
  assert result == pytest.approx(3, rel=1e-12)
  assert inception_score(one[labels]).mean < 2.5  # the control
  np.testing.assert_allclose(class_weights(np.arange(4)), 0.25)


def test_bad_arguments_are_refused():
  p = probabilities(10)
  with pytest.raises(DataError, match='multiple'):
    inception_score(p, repeats=3)
  with pytest.raises(DataError, match='splits'):
    inception_score(p, splits=11)
  with pytest.raises(DataError):
    inception_score(p[:0])
  for bad in (p * 2, p - 0.5, np.full((2, 2), np.nan)):
    with pytest.raises(ValueError, match='probabilities'):
      inception_score(bad)
  with pytest.raises(ValueError, match='weights'):
    inception_score(p, weights=np.zeros(10))
