"""From clips to features to numbers.

`collect` streams clips through the feature networks into accumulators, so that
no more clips are in memory than a few batches; `distance` and `score` make
numbers of what was accumulated, with everything that belongs beside them.
Of several processes each reads its share of the clips.
"""

import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from vdm_jax.metrics import (
  bootstrap,
  clusters,
  features,
  frechet,
  inception_score,
  kernel_distance,
  moments,
)
from vdm_jax.metrics.moments import KEEP, Accumulator
from vdm_jax.metrics.protocols import Feature, Measure
from vdm_jax.metrics.reference import Reference
from vdm_jax.progress import Progress

Read = Callable[[np.ndarray], UInt8[np.ndarray, 'n t h w 3']]
SMALL = 512  # features, up to which extras are made without restraint
LEVEL = 0.95


class Seconds(dict):
  """Seconds spent, by what they were spent on."""

  @contextlib.contextmanager
  def on(self, name: str) -> Iterator[None]:
    """Counts the time of a block."""
    begin = time.monotonic()
    try:
      yield
    finally:
      self[name] = self.get(name, 0.0) + time.monotonic() - begin


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What of a feature is accumulated.

  Attributes:
    samples: the first so many count.
    keep: rows that are kept.
  """

  samples: int
  keep: int = KEEP


def collect(
  read: Read,
  wanted: Mapping[Feature, Wanted],
  extractors: Mapping[tuple, features.Extractor],
  *,
  seed: int = 0,
  seconds: Seconds | None = None,
  name: str = 'features',
  quiet: bool = False,
) -> dict[Feature, Accumulator]:
  """Features of clips, in one pass over them; all processes must call it.

  Args:
    read: clips by their numbers, of which those from 0 to what is wanted are
      read once each, by one of the processes.
    wanted: the features.
    extractors: by network and settings.
    seed: of the frames that are drawn.
    seconds: where to note the time spent.
    name: of the progress that is shown.
    quiet: show none.
  """
  seconds = Seconds() if seconds is None else seconds
  found = {
    f: Accumulator(features.network(f.network).outputs[f.output], w.keep)
    for f, w in wanted.items()
  }
  total = max(w.samples for w in wanted.values())
  step = max(e.batch_size for e in extractors.values())
  mine = range(step * jax.process_index(), total, step * jax.process_count())
  progress = Progress(total, name=name, unit='clips', quiet=quiet)
  with progress:
    for start, videos in _ahead(read, mine, step, total, seconds):
      indices = np.arange(start, start + len(videos))
      _extract(indices, videos, wanted, extractors, found, seed, seconds)
      progress.update(int(indices[-1]) + 1)
  with seconds.on('accumulating'):
    return {f: moments.merge_hosts(found[f]) for f in wanted}


def _ahead(read: Read, starts: range, step: int, total: int, seconds: Seconds):
  """Clips, read while those before them are worked on."""

  def part(start):
    return read(np.arange(start, min(start + step, total)))

  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    coming = [pool.submit(part, start) for start in starts[:1]]
    for i, start in enumerate(starts):
      with seconds.on('reading'):
        videos = coming.pop().result()
      coming += [pool.submit(part, later) for later in starts[i + 1 : i + 2]]
      yield start, videos


def _extract(indices, videos, wanted, extractors, found, seed, seconds):
  """Adds the features of some clips to all accumulators."""
  for key, extractor in extractors.items():
    mine = [f for f in wanted if (f.network, f.settings) == key]
    for group in _sharing(mine):
      count = max(wanted[f].samples for f in group)
      chosen = indices < count
      if not chosen.any():
        continue
      numbers, clips = indices[chosen], videos[chosen]
      clips = _frames(group[0], clips, numbers, seed)
      with seconds.on('networks'):
        out = extractor(clips)
      with seconds.on('accumulating'):
        for f in group:
          few = numbers < wanted[f].samples
          rows, places = _rows(f, out[f.output][few], numbers[few])
          found[f].add(rows, places)


def _sharing(mine: list[Feature]) -> list[list[Feature]]:
  """Features of a network in groups that are made of the same frames."""
  everything = [f for f in mine if f.view in ('video', 'average')]
  if everything:
    everything += [f for f in mine if f.view == 'first']
  groups = [everything] if everything else []
  rest: dict[Any, list[Feature]] = {}
  for f in mine:
    if f not in everything:
      rest.setdefault((f.view, f.frames), []).append(f)
  return groups + list(rest.values())


def _frames(feature: Feature, videos, numbers, seed: int) -> np.ndarray:
  """The frames that a feature is made of."""
  if feature.view == 'first':
    return videos[:, :1]
  length = videos.shape[1]
  if feature.view != 'frames' or feature.frames in (0, length):
    return videos
  few = min(feature.frames, length)
  chosen = [
    np.sort(np.random.default_rng((seed, n)).permutation(length)[:few])
    for n in numbers
  ]
  return videos[np.arange(len(videos))[:, None], np.stack(chosen)]


def _rows(
  feature: Feature, out: np.ndarray, numbers: Int[np.ndarray, ' n']
) -> tuple[Float[np.ndarray, 'm d'], Int[np.ndarray, ' m']]:
  """The samples of a feature and their numbers."""
  if feature.view == 'video':
    return out, numbers
  if feature.view == 'average':
    return out.mean(axis=1, dtype=np.float64), numbers
  if feature.view == 'first':
    return out[:, 0], numbers
  frames = out.shape[1]
  places = numbers[:, None] * frames + np.arange(frames)
  return out.reshape(-1, out.shape[-1]), places.ravel()


@dataclasses.dataclass(frozen=True)
class Extras:
  """What is made besides a number.

  Attributes:
    draws: of the bootstrap; 0 for no interval.
    extrapolate: FD∞ and the kernel distance.
    seed: of all that is random in them.
  """

  draws: int = 200
  extrapolate: bool = True
  seed: int = 0


def distance(
  samples: Reference,
  real: Reference,
  *,
  divisor: str = 'n-1',
  fixed: bool = False,
  extras: Extras = Extras(),
) -> dict[str, Any]:
  """A Fréchet distance, and all that is to be said beside it.

  Samples of one video are drawn, thinned out and left out together.

  Args:
    samples: features of the samples.
    real: features of real clips.
    divisor: of the covariances.
    fixed: whether everybody has the same real clips, so that only the samples
      are subject to chance.
    extras: what is made besides.

  Returns:
    `value`, its `parts`, `n` and `ranks` of both sides, `features`, `divisor`,
    `expected_bias` of two samples of the real distribution; and as far as
    asked for `interval`, `fd_infinity`, `kernel_distance`; `notes`; `videos`
    of both sides, where there are fewer than samples.

  Raises:
    DataError: fewer than two samples on a side.
  """
  sides = [_side(side) for side in (samples, real)]
  found = frechet.frechet_distance(*sides, divisor=divisor)
  result: dict[str, Any] = {
    'value': found.value,
    'parts': {'mean': found.mean, 'covariance': found.covariance},
    'n': list(found.n),
    'features': found.dim,
    'ranks': list(found.ranks),
    'divisor': divisor,
    'expected_bias': frechet.expected_bias(
      real.moments, samples.videos, real.videos
    ),
  }
  if (samples.videos, real.videos) != found.n:
    result['videos'] = [samples.videos, real.videos]
  notes = [found.note] if found.note else []
  kept = [_few(side, extras.seed) for side in (samples, real)]
  (a, _), (b, _) = kept
  if len(a) < found.n[0] or len(b) < found.n[1]:
    notes.append(
      f'interval, FD∞ and kernel distance are of {len(a)} and {len(b)} samples'
    )
  if extras.draws > 1:
    result['interval'] = _interval(found, kept, real, fixed, divisor, extras)
  if extras.extrapolate:
    result |= _unbiased(kept, divisor, extras, notes)
  return result | {'notes': notes}


def _side(side: Reference) -> Any:
  """Features where a matrix of them is smaller than their covariance."""
  whole = len(side.rows) == side.moments.n
  few = side.moments.n < len(side.moments.mean)
  return side.rows if whole and few else side.moments


def _few(side: Reference, seed: int) -> tuple[np.ndarray, clusters.Clusters]:
  """At most KEEP of the rows, and which are of one video."""
  rows, videos = side.rows, side.clusters
  if len(rows) <= KEEP:
    return rows, videos
  few = np.sort(np.random.default_rng(seed).permutation(len(rows))[:KEEP])
  return rows[few], clusters.of(videos[few])


def _interval(found, kept, real, fixed, divisor, extras) -> dict[str, Any]:
  (a, mine), (b, theirs) = kept
  draws = bootstrap.frechet_draws(
    a,
    real.moments if fixed else b,
    repeats=affordable(extras.draws, found.dim),
    seed=extras.seed,
    divisor=divisor,
    clusters=(mine, None if fixed else theirs),
  )
  return _about(found.value, draws) | {
    'resampled': 'samples' if fixed else 'samples and real clips'
  }


def affordable(draws: int, dim: int) -> int:
  """Draws that cost about what as many do of SMALL features."""
  least = min(draws, 10)
  return max(least, min(draws, round(draws * (SMALL / dim) ** 2)))


def _about(value: float, draws: np.ndarray) -> dict[str, Any]:
  """An interval as JSON; few draws tell its width alone."""
  made = bootstrap.interval(value, draws, level=LEVEL)
  low, high, method = made.low, made.high, made.method
  if len(draws) < 100:
    half = 1.96 * (1 + 1.5 / len(draws)) * made.standard_error
    low, high, method = value - half, value + half, 'standard error'
  return {
    'low': low,
    'high': high,
    'level': LEVEL,
    'method': method,
    'standard_error': made.standard_error,
    'draws': len(draws),
  }


def _unbiased(kept, divisor, extras, notes: list[str]) -> dict[str, Any]:
  """FD∞ and the kernel distance, where there are samples enough."""
  (a, mine), (b, theirs) = kept
  result, dim = {}, a.shape[1]
  counts = [clusters.count(side) for side in (mine, theirs)]
  what, least = 'samples', min(counts)
  if counts != [len(a), len(b)]:
    what = 'videos'
  if least < 8:
    notes.append(f'too few {what} for FD∞ and a kernel distance')
    return result
  line = frechet.fd_infinity(
    a,
    b,
    points=15 if dim <= SMALL else 5,
    seed=extras.seed,
    divisor=divisor,
    clusters=(mine, theirs),
  )
  result['fd_infinity'] = {
    'value': line.value,
    'least_fraction': line.fractions[0],
    'n': list(line.n),
  }
  if least < 4 * dim:
    notes.append(
      f'FD∞ is of {least} {what} of {dim} features, and too small: it needs '
      f'{4 * dim} or more'
    )
  kernel = kernel_distance.kernel_distance(
    a,
    b,
    blocks=min(10, least // 2),
    seed=extras.seed,
    clusters=(mine, theirs),
  )
  result['kernel_distance'] = {
    'value': kernel.value,
    'standard_error': kernel.standard_error,
    'n': list(kernel.n),
  }
  return result


def floor(
  real: Reference, other: Reference | None, *, divisor: str, seed: int = 0
) -> dict[str, Any]:
  """The distance of real clips from real clips.

  Args:
    real: the reference.
    other: as many other real clips as there are samples; None if the data do
      not have them: then one half of the reference is compared with the other.
    divisor: of the covariances.
    seed: of the halves.
  """
  if other is not None:
    found = frechet.frechet_distance(_side(other), _side(real), divisor=divisor)
    how = 'other real clips against the reference'
  else:
    videos = real.clusters
    order = np.random.default_rng(seed).permutation(clusters.count(videos))
    half = len(order) // 2
    sides = (
      real.rows[clusters.rows_of(videos, part)]
      for part in (order[:half], order[half : 2 * half])
    )
    found = frechet.frechet_distance(*sides, divisor=divisor)
    how = 'half of the reference against the other, for want of more clips'
  return {'value': found.value, 'n': list(found.n), 'how': how}


def score(
  logits: Float[np.ndarray, 'n c'],
  measure: Measure,
  *,
  classes: Int[np.ndarray, ' n'] | None = None,
  extras: Extras = Extras(),
) -> dict[str, Any]:
  """An Inception score of logits.

  Args:
    logits: of the samples, in their order.
    measure: its options.
    classes: what each sample should be of, where classes count alike.
    extras: what is made besides.

  Raises:
    DataError: too few samples for the splits.
  """
  p = inception_score.softmax(logits)
  weights = None
  if classes is not None:
    weights = inception_score.class_weights(classes)
  found = inception_score.inception_score(
    p,
    splits=measure.splits,
    repeats=measure.repeats,
    shuffle=measure.shuffle,
    eps=measure.eps,
    weights=weights,
  )
  result: dict[str, Any] = {
    'value': found.mean,
    'std': found.std,
    'n': [len(p)],
    'splits': found.splits,
    'repeats': found.repeats,
    'eps': measure.eps,
    'weighted': classes is not None,
    'notes': [],
  }
  if extras.draws > 1:
    edges = inception_score.edges(len(p) // measure.repeats, measure.splits)
    draws = bootstrap.score_draws(
      p,
      weights=weights,
      parts=np.diff(edges).tolist() * measure.repeats,
      repeats=extras.draws,
      seed=extras.seed,
    )
    result['interval'] = _about(found.mean, draws)
  return result


def renamed(name: str, suffixes: Sequence[str]) -> str:
  """The name of a number that departs from its protocol.

  For example `fvd_256_of_2048_samples`.
  """
  return '_'.join([name, *suffixes])
