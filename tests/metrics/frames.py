"""Rows as of the frames of videos: Gaussians, correlated within a video."""

import numpy as np


def correlated(seed, *, videos, frames, dim, shift=0.0, correlation=0.8):
  """Rows of variance 1, one video after another, and the video of each."""
  rng = np.random.default_rng(seed)
  own = rng.normal(size=(videos, frames, dim)) * np.sqrt(1 - correlation)
  shared = rng.normal(size=(videos, 1, dim)) * np.sqrt(correlation)
  rows = (own + shared).reshape(-1, dim) + shift
  return rows, np.repeat(np.arange(videos), frames)
