"""Inception scores: how sure a classifier is, and of how many classes.

IS = exp(E KL(p(y|x) ‖ p(y))) (Salimans et al. 2016), between 1 and the number
of classes. Splits and few samples make it smaller, so scores of different
(n, splits, repeats) cannot be compared; `InceptionScore` holds all three.

  protocol               samples      options
  tgan2 (C3D)            10 × 2,048   repeats=10, eps=1e-20
  VDM (C3D)              10,000       —
  StyleGAN-V isv2048     2,048        splits=10, shuffle=42
  Salimans (Inception)   50,000       splits=10
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float64, Int

from vdm_jax.errors import DataError
from vdm_jax.metrics.moments import check_finite


@dataclasses.dataclass(frozen=True)
class InceptionScore:
  """A score, and how it came about.

  Attributes:
    mean: over splits and repeats.
    std: over the repeats if there are several, otherwise over the splits;
      divided by their number, not by one less. 0 for a single value.
    n: samples of one repeat.
    splits: parts of a repeat that are scored apart.
    repeats: independent sets of samples.
    values: the scores of the repeats, each a mean over splits.
  """

  mean: float
  std: float
  n: int
  splits: int
  repeats: int
  values: tuple[float, ...]


def inception_score(
  probabilities: Float[np.ndarray, 'n c'],
  *,
  splits: int = 1,
  repeats: int = 1,
  shuffle: int | None = None,
  eps: float = 0.0,
  weights: Float[np.ndarray, ' n'] | None = None,
) -> InceptionScore:
  """IS = exp(mean over samples of Σ p log p − Σ p log p̄), p̄ the mean of p.

  Args:
    probabilities: of the classes, as `softmax` makes them of logits.
    splits: parts in the order given, the i-th from i n // splits.
    repeats: independent sets, one after another in the rows, of equal size.
    shuffle: seed of the order (that of `RandomState(seed).permutation`) in
      which the rows of a set are split; None for the order given. One split
      does not depend on it.
    eps: added to every probability (tgan2: 1e-20). It is not needed: 0 log 0
      is 0 here.
    weights: of the samples, relative; `class_weights` makes classes count
      alike that have different numbers of samples.

  Raises:
    DataError: too few samples for the splits, or repeats that they do not
      divide into.
    ValueError: rows that are no probabilities, or weights not above zero.
  """
  n, rest = divmod(len(probabilities), repeats)
  if rest or n < splits or n == 0:
    raise DataError(
      f'{len(probabilities)} samples do not make {repeats} sets of {splits} '
      'splits; give a multiple'
    )
  p = _checked(probabilities) + eps
  weights = np.ones(len(p)) if weights is None else np.asarray(weights, float)
  if not (weights > 0).all():
    raise ValueError('weights must be above zero')
  order = np.arange(n)
  if shuffle is not None:
    order = np.random.RandomState(shuffle).permutation(n)
  values = []
  for start in range(0, len(p), n):
    parts = np.split(start + order, edges(n, splits)[1:-1])
    values.append([float(scores(p[i], weights[None, i])[0]) for i in parts])
  means = np.mean(values, axis=1)
  return InceptionScore(
    mean=float(means.mean()),
    std=float(np.std(means if repeats > 1 else values[0])),
    n=n,
    splits=splits,
    repeats=repeats,
    values=tuple(means.tolist()),
  )


def edges(n: int, splits: int) -> Int[np.ndarray, ' e']:
  """Where each of the splits of n samples begins, and where the last ends."""
  return np.arange(splits + 1) * n // splits


def scores(
  p: Float64[np.ndarray, 'n c'], weights: Float64[np.ndarray, 'r n']
) -> Float64[np.ndarray, ' r']:
  """Scores of the same samples under r sets of weights, one product for all."""
  weights = weights / weights.sum(axis=1, keepdims=True)
  mean = weights @ p
  return np.exp(weights @ _plogp(p) - _plogp(mean))


def softmax(logits: Float[np.ndarray, 'n c']) -> Float64[np.ndarray, 'n c']:
  """Probabilities of logits, in float64.

  Raises:
    DataError: logits that are not finite.
  """
  check_finite(logits)
  logits = logits.astype(np.float64)
  p = np.exp(logits - logits.max(axis=1, keepdims=True))
  return p / p.sum(axis=1, keepdims=True)


def class_weights(labels: Int[np.ndarray, ' n']) -> Float64[np.ndarray, ' n']:
  """Weights by which every class counts alike, summing to 1.

  For text-to-video on UCF-101, whose classes have one to several prompts with
  as many samples each: without weights a class of two prompts counts double.
  """
  _, inverse, counts = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  return 1 / (len(counts) * counts[inverse])


def _plogp(p: np.ndarray) -> np.ndarray:
  """Σ p log p over the last axis; 0 log 0 = 0."""
  return (p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)


def _checked(probabilities: np.ndarray) -> np.ndarray:
  p = probabilities.astype(np.float64)
  sums = p.sum(axis=1)
  if not (p >= 0).all() or not np.allclose(sums, 1, atol=1e-3, rtol=0):
    raise ValueError('rows must be probabilities; softmax() makes them')
  return p
