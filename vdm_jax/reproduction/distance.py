"""The Fréchet distance of moving shapes, for tables of them: `shapes_fd`."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from vdm_jax.data import shapes
from vdm_jax.metrics import filling, frechet, shapes_network
from vdm_jax.metrics.features import tree
from vdm_jax.reproduction.cells import content

CLIPS = 1024  # real ones that videos are compared with
BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Distance:
  """How far videos are from real clips, to the network of `--mode=features`.

  The fewer the videos the larger it is: compare rows of as many.

  Attributes:
    params: of the network.
    sha256: of their file.
  """

  params: Any
  sha256: str

  def __call__(
    self, videos: UInt8[np.ndarray, 'n t h w 3'], source: shapes.Shapes
  ) -> float:
    """FD between videos and the first clips of a source."""
    key = json.dumps(source.signature(), sort_keys=True)
    if key not in self._real:
      clips = [source.clip(i)['video'] for i in range(CLIPS)]
      self._real[key] = self.features(np.stack(clips))
    found = frechet.frechet_distance(self.features(videos), self._real[key])
    return found.value

  @functools.cached_property
  def _real(self) -> dict[str, np.ndarray]:
    """Features of real clips, by what tells these from others."""
    return {}

  @functools.cached_property
  def _program(self):
    return jax.jit(shapes_network.features)

  def features(
    self, videos: UInt8[np.ndarray, 'n t h w 3']
  ) -> Float[np.ndarray, 'n d']:
    """Features of videos, float64."""
    found = []
    for start in range(0, len(videos), BATCH):
      rows = (start + np.arange(BATCH)) % len(videos)
      batch = videos[rows].astype(np.float32) / 127.5 - 1
      found.append(np.asarray(self._program(self.params, batch), np.float64))
    return np.concatenate(found)[: len(videos)]


def load(path: str) -> Distance | None:
  """The distance by the weights of a file; None if none is named.

  Raises:
    WeightsError: they are missing, damaged, or of another network.
  """
  if not path:
    return None
  shapes_of = jax.eval_shape(
    lambda key: shapes_network.ShapesNetwork().init(
      key, jnp.zeros((1, 4, 16, 16, 3))
    )['params'],
    jax.random.key(0),
  )
  params, _ = filling.load(path, shapes_network.NAME, shapes_of)
  return Distance(tree(params), content(path))
