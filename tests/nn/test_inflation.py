"""A video network that starts from an image network is it on every frame."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vdm_jax.errors import CheckpointError
from vdm_jax.nn.efficient import EfficientUNet
from vdm_jax.nn.inflation import inflate
from vdm_jax.nn.unet import UNet

B, T, SIDE = 2, 4, 8
SHARED = {
  'channels': 8,
  'multipliers': (1, 2),
  'head_dim': 8,
  'emb_dim': 16,
  'text_dim': 6,
  'cross_attention': True,
  'groups': 4,
}
KINDS = {
  'unet': functools.partial(
    UNet, blocks=1, attention_resolutions=(), resample='residual', **SHARED
  ),
  'efficient': functools.partial(
    EfficientUNet,
    blocks=(1, 1),
    attention_resolutions=(2,),
    extra_channels=3,
    augmented=True,
    **SHARED,
  ),
}
IMAGE = {'temporal': False, 'temporal_convolution': False}
VIDEO = {'temporal': True, 'temporal_convolution': True}
EXTRA = jax.random.normal(jax.random.key(8), (B, T, SIDE, SIDE, 3))
Z = jax.random.normal(jax.random.key(1), (B, T, SIDE, SIDE, 3))
LOGSNR = jnp.array([0.5, -2.0])
# Three frames and an image, whose texts are theirs.
TEXT = jax.random.normal(jax.random.key(2), (B, 2, 3, 6))
MASK = jnp.array([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], bool)
ENDS = 'temporal/out/|/temporal_[01]/'
SLOT = np.array([0, 0, 0, 1])

jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def conditions(kind):
  told = {'text': TEXT, 'text_mask': MASK}
  if kind == 'efficient':
    told |= {'extra': EXTRA, 'augment': jnp.array([1.0, 3.0])}
  return told


def initial_outputs(net, told):
  """What the initialisers give to the ends of the temporal branches."""

  def init(key):
    params = net.init(key, Z, LOGSNR, image_frames=1, **told)['params']
    flat = traverse_util.flatten_dict(params, sep='/')
    return {k: v for k, v in flat.items() if re.search(ENDS, k)}

  return jit(init)(jax.random.key(0))


class Pair:
  """An image network, and the video network that starts from it."""

  def __init__(self, kind, randomize):
    make, told = KINDS[kind], conditions(kind)
    self.image, self.video = make(**IMAGE), make(**VIDEO)

    def draw(net):
      init = functools.partial(net.init, image_frames=1)
      module = types.SimpleNamespace(init=init)
      return randomize(module, Z, LOGSNR, **told)['params']

    self.image_params = draw(self.image)
    video = traverse_util.flatten_dict(draw(self.video), sep='/')
    video |= initial_outputs(self.video, told)
    video = traverse_util.unflatten_dict(video, sep='/')
    self.params, self.new = inflate(self.image_params, video)
    self.told = told
    self.program = jit(functools.partial(self.video.apply, image_frames=1))

  def of_video(self, params):
    return self.program({'params': params}, Z, LOGSNR, **self.told)

  @functools.cached_property
  def frames(self):
    """What the image network makes of them, each a video of its own."""
    told = {name: a[:, SLOT] for name, a in self.told.items() if 'text' in name}
    told = {name: _frames(a)[:, None] for name, a in told.items()}
    if 'extra' in self.told:
      told['extra'] = _frames(self.told['extra'])[:, None]
      told['augment'] = jnp.repeat(self.told['augment'], T)
    z, logsnr = _frames(Z)[:, None], jnp.repeat(LOGSNR, T)
    params = {'params': self.image_params}
    return jit(self.image.apply)(params, z, logsnr, **told).reshape(Z.shape)


def _frames(array):
  return array.reshape(B * T, *array.shape[2:])


@pytest.fixture(scope='module', params=KINDS)
def pair(request, randomize):
  return Pair(request.param, randomize)


def test_the_video_network_starts_as_the_image_network_to_the_bit(pair):
  y = pair.of_video(pair.params)
  assert np.abs(y).max() > 0.1
  np.testing.assert_array_equal(y, pair.frames)


@pytest.mark.parametrize('part', ['temporal/out', 'res/temporal_0'])
def test_it_differs_once_a_temporal_parameter_moves(pair, part):
  """Negative control."""

  def moved(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return leaf + 0.1 * (f'{part}/' in name)

  params = jax.tree_util.tree_map_with_path(moved, pair.params)
  gap = np.abs(pair.of_video(params) - pair.frames).max((0, 2, 3, 4))
  assert gap[:3].min() > 1e-3


def test_every_image_parameter_is_used_once(pair):
  flat = dict(jax.tree_util.tree_leaves_with_path(pair.params))
  image = dict(jax.tree_util.tree_leaves_with_path(pair.image_params))
  assert all(flat[path] is leaf for path, leaf in image.items())
  assert len(flat) == len(image) + len(pair.new)
  assert all('temporal' in path for path in pair.new)


def test_shapes_suffice_and_are_checked(pair):
  def abstract(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)

  params, new = inflate(abstract(pair.image_params), abstract(pair.params))
  assert params == abstract(pair.params)
  assert new == pair.new
  # What the video has no place for; what is of another shape; both named.
  image = abstract(pair.image_params)
  del image['tokens']
  image['foreign'] = {'kernel': jax.ShapeDtypeStruct((2, 3), jnp.float32)}
  image['conv_in']['kernel'] = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
  with pytest.raises(CheckpointError) as info:
    inflate(image, abstract(pair.params))
  message = str(info.value)
  assert message.startswith('2 of ') and '\n' not in message
  assert 'float32[3, 3, 3, 5] would meet float32[3, 3, 3, 8]' in message
  assert 'foreign/kernel float32[2, 3] has no counterpart' in message


def test_an_image_network_of_images_inflates_to_itself(pair):
  params, new = inflate(pair.image_params, pair.image_params)
  assert new == ()
  assert jax.tree.structure(params) == jax.tree.structure(pair.image_params)
