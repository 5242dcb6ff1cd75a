"""How fast the feature networks are here; random weights do for that."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vdm_jax.metrics import features, scoring
from vdm_jax.metrics.protocols import Feature

SIZES = (2048, 10_000)  # samples that the costs are told of
SECONDS = 20.0  # at most about so many on each network, after compiling


def random_params(name: str, seed: int = 0) -> dict[str, np.ndarray]:
  """Parameters of a network by their paths, all positive and small."""
  rng = np.random.default_rng(seed)
  return {
    path: 0.1 * rng.random(shape.shape, np.float32) / max((*shape.shape[:1], 1))
    for path, shape in features.parameter_shapes(name).items()
  }


def run(
  names: Sequence[str],
  mesh: Mesh,
  *,
  batch_size: int = 16,
  frames: int = 16,
  size: int = 64,
  seconds: float = SECONDS,
) -> list[dict[str, Any]]:
  """Times networks, and what an evaluation does besides.

  Args:
    names: of networks.
    mesh: the devices.
    batch_size: videos, or frames, that a network sees at once.
    frames: of a clip.
    size: of its frames, pixels.
    seconds: spent on each network.

  Returns:
    For each network: `clips_per_second`; `hours` that it takes for each number
    of SIZES; `compiling_seconds`; `overhead`, the share that accumulating and
    waiting for clips add to its time.

  Raises:
    ConfigError: there is no such network.
  """
  return [_row(name, mesh, batch_size, frames, size, seconds) for name in names]


def _row(name, mesh, batch_size, frames, size, seconds) -> dict[str, Any]:
  entry = features.network(name)
  view = 'video' if entry.kind == 'video' else 'average'
  output = next(iter(entry.outputs))
  feature = Feature(name, output, view)
  extractor = features.Extractor(name, random_params(name), mesh, batch_size)
  rng = np.random.default_rng(0)
  shape = (extractor.batch_size, frames, size, size, 3)
  clips = rng.integers(0, 256, shape, np.uint8)
  few = clips if view == 'video' else clips[: max(1, len(clips) // frames)]
  begin = time.monotonic()
  extractor(few)
  compiling = time.monotonic() - begin
  spent, count = scoring.Seconds(), 0
  while sum(spent.values()) < seconds and count < 2**14:
    scoring.collect(
      lambda numbers: few,
      {feature: scoring.Wanted(len(few))},
      {(name, ()): extractor},
      seconds=spent,
      quiet=True,
    )
    count += len(few)
  speed = count / spent['networks']
  own = spent['reading'] + spent['accumulating']
  return {
    'network': name,
    'clips_per_second': speed,
    'compiling_seconds': compiling,
    'overhead': own / spent['networks'],
    'hours': {n: n / speed / 3600 for n in SIZES},
  }
