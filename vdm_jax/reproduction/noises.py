"""Rows that are the noises which a model of images finds (Ge23 Table 1)."""

import numpy as np

from vdm_jax import analyze, build, coder, sample
from vdm_jax import config as config_lib
from vdm_jax.diffusion import correlation
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.reproduction.bench import Bench, Kind, trained
from vdm_jax.reproduction.cells import Scores

PIXELS, DRAWS = 'pixels of frames', 'independent draws'


def check(bench: Bench, name: str, row):
  """Raises UserError unless the row can be trained and analysed."""
  del name
  build.objective(row)
  if bench.scale == 'paper':
    return
  told = build.data(row)[1]
  build.model(row, told)
  analyze.check(config_lib.varied(row, {'sample.grid': 'karras'}), told)


def prepare(bench: Bench, name: str, row):
  """The config and the folder of a model of images, trained."""
  return trained(bench, name, row)


def score(bench: Bench, name: str, prepared, seed: int) -> Scores:
  """How alike the noises are that a model finds for frames of clips."""
  row, folder = prepared
  changes = {'sample.grid': 'karras', 'analyze.seed': seed}
  row = config_lib.varied(row, changes)
  checkpoints = sample.checkpoints_of(row, folder)
  told = sample.trained_with(checkpoints, row)
  clips = analyze.read(row, told, bench.mesh)
  model = coder.restore(row, told, checkpoints, bench.mesh)
  encoded = coder.encode(model, clips.frames, clips.told)
  scores = similarities(encoded.eps)
  return scores | {'lost': encoded.round_trip, 'rms': encoded.rms}


def similarities(eps: np.ndarray) -> Scores:
  """Cosine similarities and their spread over pairs (Ge23 Table 1)."""
  found = correlation.similarity(eps)
  return {
    'same_video': found.within.mean,
    'same_video_spread': found.within.over_pairs,
    'different_videos': found.between.mean,
    'different_videos_spread': found.between.over_pairs,
  }


def controls(bench: Bench) -> dict[str, Scores]:
  """The same of the frames themselves, and of independent noise."""
  row = bench.row(next(iter(bench.table.rows)), bench.seeds()[0])
  told = build.data(row)[1]
  pixels = analyze.read(row, told, bench.mesh).frames / 127.5 - 1
  draws = analyze.prior_draws(NoisePrior(), pixels.shape, 0)
  return {PIXELS: similarities(pixels), DRAWS: similarities(draws)}


KIND = Kind(check, prepare, score, controls)
