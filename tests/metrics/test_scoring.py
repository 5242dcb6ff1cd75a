"""From clips to numbers: streaming, views, shares of processes, memory."""

import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest

from tests import judges
from tests.metrics.frames import correlated
from vdm_jax import sharding
from vdm_jax.errors import DataError
from vdm_jax.metrics import (
  bootstrap,
  features,
  frechet,
  inception_score,
  scoring,
)
from vdm_jax.metrics.moments import Accumulator
from vdm_jax.metrics.protocols import Feature, Measure
from vdm_jax.metrics.reference import Provenance, Reference
from vdm_jax.metrics.scoring import Extras, Wanted

VIDEO = Feature('i3d', 'logits')
AVERAGE, FIRST = (
  Feature('inception', 'pool3', v) for v in ('average', 'first')
)
SOME = Feature('clip', 'embedding', 'frames', frames=2)
ALL = Feature('inception', 'pool3', 'frames')
EVERY = (VIDEO, AVERAGE, FIRST, SOME, ALL)
NOTHING = Provenance(*'abcdefg')


@pytest.fixture
def extractors(monkeypatch, tmp_path):
  files = judges.install(monkeypatch, tmp_path)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return {
    (name, ()): features.Extractor(
      name, judges.filling.load(files[name], name)[0], mesh, 4
    )
    for name in ('i3d', 'inception', 'clip')
  }


def videos(n=18, seed=0):
  shape = (n, 3, 4, 4, 3)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def read(clips):
  return lambda numbers: clips[numbers]


def gaussians(n, d, seed=0, shift=0.0):
  rows = np.random.default_rng(seed).normal(size=(n, d)) + shift
  stream = Accumulator(d)
  stream.add(rows)
  return Reference.of(stream, NOTHING)


def test_streams_are_the_features_of_the_clips(extractors):
  clips = videos()
  wanted = dict.fromkeys(EVERY, Wanted(18)) | {VIDEO: Wanted(11)}
  found = scoring.collect(read(clips), wanted, extractors, quiet=True)
  frames = extractors['inception', ()](clips)['pool3']
  expected = {
    VIDEO: extractors['i3d', ()](clips[:11])['logits'],
    AVERAGE: frames.mean(1),
    FIRST: frames[:, 0],
    ALL: frames.reshape(-1, frames.shape[-1]),
  }
  for feature, rows in expected.items():
    np.testing.assert_allclose(found[feature].rows, rows, rtol=1e-5, atol=1e-5)
    assert found[feature].moments.n == len(rows)
  # Two different frames of each clip, in their order, drawn for each clip.
  some = found[SOME].rows.reshape(18, 2, -1)
  each = extractors['clip', ()](clips)['embedding']
  apart = np.abs(some[:, :, None] - each[:, None]).max(-1)
  chosen = apart.argmin(-1)
  assert apart.min(-1).max() < 1e-5
  assert (np.diff(chosen) > 0).all() and len(set(map(tuple, chosen))) > 1


def test_processes_share_the_clips(extractors, monkeypatch):
  clips, shares, seen = videos(), [], []
  wanted = dict.fromkeys(EVERY, Wanted(18))
  whole = scoring.collect(read(clips), wanted, extractors, quiet=True)
  monkeypatch.setattr(scoring.moments, 'merge_hosts', lambda stream: stream)
  monkeypatch.setattr(scoring.jax, 'process_count', lambda: 2)

  def noted(numbers):
    seen.extend(numbers.tolist())
    return clips[numbers]

  for process in range(2):
    monkeypatch.setattr(scoring.jax, 'process_index', lambda p=process: p)
    shares.append(scoring.collect(noted, wanted, extractors, quiet=True))
  assert sorted(seen) == list(range(18))
  for feature in EVERY:
    merged, other = (share[feature] for share in shares)
    merged.absorb(other)
    assert np.array_equal(merged.rows, whole[feature].rows)
    np.testing.assert_allclose(
      merged.moments.scatter, whole[feature].moments.scatter, rtol=1e-9
    )


def test_memory_does_not_grow_with_the_samples(extractors):
  few = {k: extractors[k] for k in [('i3d', ())]}

  def peak(n):
    def clips(numbers):
      return np.stack([videos(1, int(i))[0] for i in numbers]).repeat(16, 2)

    tracemalloc.start()
    scoring.collect(clips, {VIDEO: Wanted(n, keep=8)}, few, quiet=True)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found

  peak(8)  # compiled
  small, large = peak(300), peak(900)
  # The clips themselves would be 600 times as much as one.
  assert large - small < 600 * 16 * videos(1).nbytes / 10


def test_a_distance_and_what_stands_beside_it():
  a, b = gaussians(300, 6), gaussians(200, 6, 1, shift=1.0)
  found = scoring.distance(a, b, extras=Extras(draws=100))
  assert found['n'] == [300, 200] and found['ranks'] == [6, 6]
  expected = frechet.frechet_distance(a.rows, b.rows).value
  assert found['value'] == pytest.approx(expected, rel=1e-5)
  assert found['interval']['low'] < found['value'] < found['interval']['high']
  assert found['fd_infinity']['value'] < found['value']
  kernel = found['kernel_distance']
  assert kernel['value'] > 5 * kernel['standard_error'] > 0
  assert 0 < found['expected_bias'] < 0.3 and found['notes'] == []
  plain = scoring.distance(a, b, extras=Extras(0, False))
  assert plain['value'] == found['value'] and 'interval' not in plain
  # A set that everybody has is not resampled: the interval is narrower.
  fixed = scoring.distance(a, b, fixed=True, extras=Extras(draws=100))
  errors = [f['interval']['standard_error'] for f in (fixed, found)]
  assert errors[0] < errors[1]


def test_missing_ranks_are_told():
  a, b = gaussians(100, 30), gaussians(20, 30, 1)
  found = scoring.distance(a, b, extras=Extras(draws=4))
  assert found['ranks'] == [30, 19]
  assert 'rank 19 of 30 (20 samples, too few)' in found['notes'][0]
  assert any('FD∞ is of 20 samples' in note for note in found['notes'])
  assert found['interval']['method'] == 'standard error'


def test_floors():
  real, other = gaussians(200, 6), gaussians(150, 6, 1)
  found = scoring.floor(real, other, divisor='n-1')
  assert found['n'] == [150, 200] and 0 < found['value'] < 0.5
  halves = scoring.floor(real, None, divisor='n-1')
  assert halves['n'] == [100, 100] and 'half' in halves['how']
  assert halves['value'] > found['value']


def of_frames(seed, shift=0.0, videos=60, keep=10_000):
  """Statistics of frames, and the same with the video of each."""
  rows, _ = correlated(seed, videos=videos, frames=8, dim=4, shift=shift)
  stream = Accumulator(4, keep=keep)
  stream.add(rows)
  plain = Reference.of(stream, NOTHING)
  return plain, dataclasses.replace(plain, video_of=np.arange(videos))


def test_frames_of_a_video_count_as_one():
  (a, ours), (b, theirs) = of_frames(0, 0.5), of_frames(1)
  extras = Extras(draws=100)
  plain = scoring.distance(a, b, extras=extras)
  found = scoring.distance(ours, theirs, extras=extras)
  for name in ('value', 'n', 'parts', 'ranks'):
    assert found[name] == plain[name]
  assert found['videos'] == [60, 60] and 'videos' not in plain
  assert found['expected_bias'] == pytest.approx(8 * plain['expected_bias'])
  for name in ('interval', 'kernel_distance'):
    errors = [each[name]['standard_error'] for each in (found, plain)]
    assert errors[0] > 1.5 * errors[1]
  assert found['fd_infinity'] != plain['fd_infinity']
  few = scoring.distance(*(of_frames(s, videos=7)[1] for s in range(2)))
  assert 'fd_infinity' not in few and 'too few videos' in few['notes'][0]


def test_the_halves_of_a_floor_are_of_different_videos():
  floors, by_rows, apart = [], [], []
  for seed in range(40):
    plain, told = of_frames((seed, 0))
    floors.append(scoring.floor(told, None, divisor='n-1')['value'])
    by_rows.append(scoring.floor(plain, None, divisor='n-1')['value'])
    sides = [of_frames((seed, i), videos=30)[0].rows for i in (1, 2)]
    apart.append(frechet.frechet_distance(*sides).value)
  error = np.hypot(np.std(floors), np.std(apart)) / np.sqrt(40)
  assert abs(np.mean(floors) - np.mean(apart)) < 3 * error
  assert np.mean(by_rows) < np.mean(apart) / 3  # the control


def test_kept_rows_keep_their_videos(monkeypatch):
  _, told = of_frames(0, keep=150)
  monkeypatch.setattr(scoring, 'KEEP', 100)
  rows, videos = scoring._few(told, 0)
  places = [np.flatnonzero((told.rows == row).all(1))[0] for row in rows]
  expected = told.clusters[places]
  assert len(rows) == 100 and told.videos == 60
  same = videos[:, None] == videos
  np.testing.assert_array_equal(same, expected[:, None] == expected)


def test_many_features_are_drawn_less_often():
  assert scoring.affordable(200, 400) == 200
  assert scoring.affordable(200, 2048) == 12
  assert scoring.affordable(200, 4096) == 10
  assert scoring.affordable(4, 4096) == 4


def test_scores_in_which_classes_count_alike():
  """A class of three prompts: weighted, it counts as one of one prompt."""
  score = Measure('is', 'inception_score', VIDEO, weighted=True)
  logits = 100 * np.eye(2)[[0, 1, 1, 1]]
  classes = np.array([0, 1, 1, 1])
  extras = Extras(draws=0)
  even = scoring.score(logits, score, classes=classes, extras=extras)
  assert even['value'] == pytest.approx(2) and even['weighted']
  plain = scoring.score(logits, score, extras=extras)
  expected = inception_score.inception_score(np.eye(2)[classes]).mean
  assert plain['value'] == pytest.approx(expected) and expected < 1.8
  split = dataclasses.replace(score, splits=2)
  assert scoring.score(logits, split, extras=extras)['splits'] == 2
  with pytest.raises(DataError, match='splits'):
    scoring.score(logits[:1], split, extras=extras)


def test_the_interval_of_splits_is_that_of_splits():
  logits = 3 * np.random.default_rng(0).normal(size=(82, 10))
  plain = Measure('is', 'inception_score', VIDEO)
  parts = {(1, 1): [82], (4, 1): [20, 21, 20, 21], (2, 2): [20, 21, 20, 21]}
  p = inception_score.softmax(logits)
  for (splits, repeats), sizes in parts.items():
    asked = dataclasses.replace(plain, splits=splits, repeats=repeats)
    found = scoring.score(logits, asked, extras=Extras(draws=100))
    draws = bootstrap.score_draws(p, parts=sizes, repeats=100)
    expected = bootstrap.interval(found['value'], draws)
    assert found['interval']['low'] == expected.low
    assert found['interval']['high'] == expected.high


def test_names_of_numbers_that_depart():
  assert scoring.renamed('fvd', []) == 'fvd'
  name = scoring.renamed('fvd', ['256_of_2048_samples'])
  assert name == 'fvd_256_of_2048_samples'


def test_seconds_add_up():
  spent = scoring.Seconds()
  for _ in range(2):
    with pytest.raises(KeyError), spent.on('work'):
      raise KeyError
  assert set(spent) == {'work'} and spent['work'] >= 0
