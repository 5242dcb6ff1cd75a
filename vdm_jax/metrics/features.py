"""The table of feature networks, and features of videos by one of them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from vdm_jax import sharding
from vdm_jax.errors import ConfigError, DataError, WeightsError
from vdm_jax.metrics import c3d, clip_vision, i3d, inception, shapes_network
from vdm_jax.metrics.layout import Layout

PyTree = Any
ROUNDING = 1e-3  # how far outside [−1, 1] a float may be


@dataclasses.dataclass(frozen=True)
class Network:
  """A feature network, with all that is around it.

  Attributes:
    module: makes the linen module of `module_settings`.
    prepare: makes the module's input of videos `[n, t, h, w, 3]` or images
      `[n, h, w, 3]` in [−1, 1], and of `prepare_settings`.
    layouts: the kinds of files that hold its weights.
    outputs: what the module returns, and of how many numbers.
    licence: of the weights, in a sentence.
    noncommercial: whether the weights may not be used commercially.
    kind: 'video', or 'image': then every frame has features of its own.
    least_frames: that a video must have.
    most_frames: that a video may have; None if there is no such limit.
    module_settings: and their defaults.
    prepare_settings: and their defaults.
  """

  module: Callable[..., nn.Module]
  prepare: Callable[..., Array]
  layouts: Callable[[], dict[str, Layout]]
  outputs: Mapping[str, int]
  licence: str
  noncommercial: bool = False
  kind: str = 'video'
  least_frames: int = 1
  most_frames: int | None = None
  module_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  prepare_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def settings(self) -> dict[str, Any]:
    """All settings and their defaults."""
    return {**self.module_settings, **self.prepare_settings}


NETWORKS: Mapping[str, Network] = {
  'i3d': Network(
    module=i3d.I3D,
    prepare=i3d.prepare,
    layouts=i3d.layouts,
    outputs={'logits': i3d.CLASSES},
    licence=(
      'The weights of I3D are published by DeepMind under Apache-2.0; the '
      'videos of Kinetics, which it was trained on, have terms of their own.'
    ),
    least_frames=i3d.LEAST_FRAMES,
    module_settings={'bn_eps': 1e-3},
    prepare_settings={'resize': 'tf1'},
  ),
  'c3d': Network(
    module=c3d.C3D,
    prepare=c3d.prepare,
    layouts=c3d.layouts,
    outputs={'fc7': c3d.WIDTH, 'logits': c3d.CLASSES},
    licence=(
      'The weights of C3D and the mean of Sports-1M are published for research '
      'without a licence that allows more: do not pass them on.'
    ),
    noncommercial=True,
    least_frames=c3d.FRAMES,
    most_frames=c3d.FRAMES,
  ),
  'inception': Network(
    module=inception.Inception,
    prepare=inception.prepare,
    layouts=inception.layouts,
    outputs={
      'pool3': 2048,
      'logits': inception.CLASSES,
      'logits_unbiased': inception.CLASSES,
    },
    licence=(
      'The weights of Inception are published by pytorch-fid under Apache-2.0; '
      "NVIDIA's file of them is under a licence for non-commercial use."
    ),
    kind='image',
    prepare_settings={'resize': 'bilinear'},
  ),
  'clip': Network(
    module=clip_vision.ClipVision,
    prepare=clip_vision.prepare,
    layouts=clip_vision.layouts,
    outputs={'embedding': 512},
    licence='The weights of CLIP are published by OpenAI under MIT.',
    kind='image',
  ),
  # Of our own making: --mode=features trains it.
  'shapes': Network(
    module=shapes_network.ShapesNetwork,
    prepare=shapes_network.prepare,
    layouts=dict,
    outputs=shapes_network.OUTPUTS,
    licence='None is needed: you train it yourself.',
    least_frames=shapes_network.LEAST_FRAMES,
  ),
}


def network(name: str) -> Network:
  """An entry of NETWORKS.

  Raises:
    ConfigError: there is no such network.
  """
  if name not in NETWORKS:
    raise ConfigError(
      f'there is no feature network {name!r}; use one of {", ".join(NETWORKS)}'
    )
  return NETWORKS[name]


def parameter_shapes(name: str) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and type of every parameter of a network, by its path.

  Raises:
    ConfigError: there is no such network.
  """
  return shapes(name)[0]


def shapes(
  name: str,
) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
  """Parameters by their paths, and features of one example; nothing is run."""
  entry = network(name)
  frames = (entry.least_frames,) if entry.kind == 'video' else ()

  def init():
    x = entry.prepare(jnp.zeros((1, *frames, 64, 64, 3)))
    return entry.module().init_with_output(jax.random.key(0), x)

  out, variables = jax.eval_shape(init)
  leaves = jax.tree_util.tree_leaves_with_path(variables['params'])
  return {sharding.path_name(path): leaf for path, leaf in leaves}, out


def check_videos(
  videos: Any, *, least_frames: int = 1, most_frames: int | None = None
):
  """Refuses what would silently give wrong features.

  Above all floats in [0, 1], for which networks give features, though others
  than of the same videos in [−1, 1].

  Args:
    videos: `[n, t, h, w, 3]`, uint8, or float32 in [−1, 1].
    least_frames: that a video must have.
    most_frames: that it may have, if there is a limit.

  Raises:
    DataError: videos are of another type, shape or range.
  """
  if not isinstance(videos, np.ndarray | jax.Array):
    raise DataError(
      f'videos must be an array (got {type(videos).__name__}); give one of '
      'shape [n, t, h, w, 3]'
    )
  if videos.ndim != 5 or videos.shape[-1] != 3 or 0 in videos.shape:
    raise DataError(
      f'videos must have a shape [n, t, h, w, 3] without zeros (got '
      f'{list(videos.shape)}); put frames before rows and RGB last'
    )
  frames = videos.shape[1]
  if frames < least_frames or frames > (most_frames or frames):
    exactly = least_frames == most_frames
    wanted = (
      f'exactly {least_frames}' if exactly else f'at least {least_frames}'
    )
    raise DataError(
      f'videos must have {wanted} frames for this network (got {frames}); '
      'give others, or use another network'
    )
  if videos.dtype == np.uint8:
    return
  if videos.dtype != np.float32:
    raise DataError(
      f'videos must be uint8 or float32 (got {videos.dtype}); convert them'
    )
  low, high = float(videos.min()), float(videos.max())
  if not (low >= -1.0 - ROUNDING and high <= 1.0 + ROUNDING):
    raise DataError(
      f'videos of float32 must be in [−1, 1] (got {low:.6g} to {high:.6g}); '
      'give uint8 or [−1, 1]'
    )
  if low >= 0.0:
    raise DataError(
      f'the range of videos looks as if in [0, 1] (got {low:.6g} to '
      f'{high:.6g}); give uint8 or [−1, 1]'
    )


class Extractor:
  """Features of any number of videos, a batch of fixed size at a time.

  The last batch is filled up, and batches are split over the devices of the
  mesh that belong to this process: each of several processes extracts the
  features of videos of its own. Features are float32, and do not depend on
  what else is in the batch. Accelerators multiply in full float32, too, since
  faster modes are off by more than the programs of others are.

  Attributes:
    network: the entry of NETWORKS.
    settings: that the features were made with, defaults included.
    batch_size: videos, or frames of an image network, in a batch.
  """

  def __init__(
    self,
    name: str,
    params: PyTree,
    mesh: Mesh,
    batch_size: int = 16,
    **settings: Any,
  ):
    """Makes ready; programs are compiled when the first videos come.

    Args:
      name: of NETWORKS.
      params: of the network, as a tree or by paths.
      mesh: of `sharding.make_mesh`.
      batch_size: made larger as far as the mesh's devices ask for it.
      settings: as of `Network.settings`, such as bn_eps=1e-5 for I3D.

    Raises:
      ConfigError: there is no such network or setting.
    """
    self.network = network(name)
    unknown = sorted(set(settings) - set(self.network.settings))
    if unknown:
      legal = ', '.join(self.network.settings) or 'none'
      raise ConfigError(
        f'the feature network {name!r} has no setting {unknown[0]!r}; its '
        f'settings are: {legal}'
      )
    self.settings = self.network.settings | settings
    self._module = self.network.module(
      **{k: self.settings[k] for k in self.network.module_settings}
    )
    mesh = mesh.local_mesh
    self.batch_size = sharding.whole_batch(mesh, batch_size)
    self._place = sharding.batch_sharding(mesh)
    whole = sharding.replicated(mesh)
    self._params = jax.device_put(tree(params), whole)
    self._program = jax.jit(
      self._features,
      in_shardings=(whole, self._place),
      out_shardings=self._place,
    )

  def __call__(self, videos: Any) -> dict[str, np.ndarray]:
    """Features of videos.

    Args:
      videos: `[n, t, h, w, 3]`, uint8, or float32 in [−1, 1].

    Returns:
      Each of `network.outputs`, float32 `[n, d]`; of an image network
      `[n, t, d]`, for every frame.

    Raises:
      DataError: see `check_videos`.
      WeightsError: features are not finite.
    """
    check_videos(
      videos,
      least_frames=self.network.least_frames,
      most_frames=self.network.most_frames,
    )
    lead = videos.shape[: 2 if self.network.kind == 'image' else 1]
    examples = np.asarray(videos).reshape(-1, *videos.shape[len(lead) :])
    out = {
      k: np.empty((len(examples), d), np.float32)
      for k, d in self.network.outputs.items()
    }
    made = None
    # One batch is on its way while the one before it is fetched.
    for start in range(0, len(examples), self.batch_size):
      following = (
        start,
        self._program(self._params, self._batch(examples, start)),
      )
      if made is not None:
        _fetch(out, *made)
      made = following
    _fetch(out, *made)
    for k, value in out.items():
      if not np.isfinite(value).all():
        raise WeightsError(
          f'the feature network gives {k} that are not finite; fetch its '
          'weights again'
        )
    return {k: value.reshape(*lead, -1) for k, value in out.items()}

  def _batch(self, examples: np.ndarray, start: int) -> Array:
    """A batch on its devices, filled up by the first example."""
    index = start + np.arange(self.batch_size)
    index[index >= len(examples)] = 0
    return jax.device_put(examples[index], self._place)

  def _features(self, params: PyTree, examples: Array) -> dict[str, Array]:
    with jax.default_matmul_precision('highest'):
      if examples.dtype == jnp.uint8:
        examples = examples.astype(jnp.float32) / 127.5 - 1.0
      x = self.network.prepare(
        examples,
        **{k: self.settings[k] for k in self.network.prepare_settings},
      )
      return self._module.apply({'params': params}, x)


def _fetch(out: dict[str, np.ndarray], start: int, made: Mapping[str, Array]):
  """Writes a batch to its place, without what it was filled up by."""
  for k, value in out.items():
    rows = value[start : start + len(made[k])]
    rows[:] = np.asarray(made[k])[: len(rows)]


def tree(params: Mapping[str, Any]) -> PyTree:
  """Nested, where parameters are given by paths such as 'conv/kernel'."""
  tree: dict[str, Any] = {}
  for path, value in params.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = value
  return tree
