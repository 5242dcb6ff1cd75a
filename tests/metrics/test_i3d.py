import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics import torch_i3d
from vdm_jax import sharding
from vdm_jax.metrics import features, i3d

torch = torch_i3d.torch
TOLERANCE = 1e-4


@pytest.fixture(scope='module')
def weights():
  return torch_i3d.random_weights()


@pytest.fixture(scope='module')
def params(weights):
  tensors = {k: v.numpy() for k, v in weights.items()}
  return convert(i3d.layouts()['pytorch'], tensors)


def convert(layout, tensors):
  return {
    path: source.convert(tensors[source.name])
    if hasattr(source, 'name')
    else np.float32(source)
    for path, source in layout.sources.items()
  }


def original(weights, **options):
  with torch.device('meta'):  # its own initial values are not needed
    module = torch_i3d.I3D(**options)
  module.load_state_dict(weights, assign=True)
  return module


class Trunk(nn.Module):
  bn_eps: float

  @nn.compact
  def __call__(self, x):
    return i3d.trunk(x, self.bn_eps)


@functools.partial(jax.jit, static_argnames='bn_eps')
def trunk(params, x, bn_eps=1e-3):
  params = {k: v for k, v in params.items() if k != 'logits'}
  return Trunk(bn_eps).apply({'params': params}, x)


def noise(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, shape).astype(np.float32)


def channels_first(x):
  return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def difference(ours, theirs):
  """The largest difference, relative to the largest value."""
  theirs = theirs.numpy()
  if theirs.ndim == 5:
    theirs = np.moveaxis(theirs, 1, -1)
  assert ours.shape == theirs.shape
  assert 0.1 < abs(theirs).max() < 1e3
  return abs(np.asarray(ours) - theirs).max() / abs(theirs).max()


def test_trunk_is_that_of_pytorch(weights, params):
  """At sizes of which layers that halve meet both even and odd ones."""
  x = noise(2, 9, 33, 46, 3)
  ours = trunk(features.tree(params), x)
  x = channels_first(x)
  assert difference(ours, original(weights).trunk(x)) < TOLERANCE
  wrong = original(weights, eps=1e-5).trunk(x)
  assert difference(ours, wrong) > 10 * TOLERANCE
  wrong = original(weights, asymmetric=False).trunk(x)
  assert difference(ours, wrong) > 10 * TOLERANCE


def test_videos_to_logits(weights, params):
  """All of it, as TATS does it: bytes in, logits out, the other settings."""
  rng = np.random.default_rng(1)
  videos = rng.integers(0, 256, (1, 17, 20, 31, 3), dtype=np.uint8)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  extract = features.Extractor(
    'i3d', params, mesh, 1, bn_eps=1e-5, resize='half_pixel'
  )
  ours = extract(videos)
  assert set(ours) == {'logits'}
  frames = torch.from_numpy(videos[0]).permute(0, 3, 1, 2).float()
  frames = torch.nn.functional.interpolate(
    frames, (224, 224), mode='bilinear', align_corners=False
  )
  x = (2 * frames / 255 - 1).permute(1, 0, 2, 3)[None]
  theirs = original(weights, eps=1e-5)(x)
  assert theirs.shape == (1, 400)
  assert difference(ours['logits'], theirs) < TOLERANCE


@pytest.mark.parametrize('end', [':0', ''])
def test_layouts_name_the_same_network(weights, params, end):
  """What DeepMind's names hold, made from the state dict by hand."""
  tensors = {}
  for name, value in weights.items():
    value = value.numpy()
    *parents, leaf = name.split('.')
    if leaf == 'num_batches_tracked' or (parents[-1], leaf) == ('bn', 'weight'):
      continue
    if parents[0] == 'logits':
      path = 'Logits/Conv3d_0c_1x1'
    elif parents[1] in i3d.BRANCHES:
      branch, step = parents[1][1], parents[1][2:] or 'a'
      side = '3x3' if step == 'b' and branch in '12' else '1x1'
      step = 'a' if name.startswith('Mixed_5b.b2b') else step  # their mistake
      path = f'{parents[0]}/Branch_{branch}/Conv3d_0{step}_{side}'
    else:
      path = parents[0]
    if parents[-1] == 'bn':
      kinds = {'bias': 'beta', 'running_mean': 'moving_mean'}
      kind = kinds.get(leaf, 'moving_variance')
      tensors[f'{path}/batch_norm/{kind}{end}'] = value[None, None, None, None]
    elif leaf == 'weight':
      kernel = np.einsum('oithw->thwio', value)
      tensors[f'{path}/conv_3d/w{end}'] = kernel
    else:
      tensors[f'{path}/conv_3d/b{end}'] = value
  layout = i3d.layouts()['tfhub' if end else 'tensorflow']
  # Each is used once, none is left.
  names = [s.name for s in layout.sources.values() if hasattr(s, 'name')]
  assert sorted(names) == sorted(tensors)
  for path, value in convert(layout, tensors).items():
    want = 1.0 if path.endswith('scale') else params[path]
    np.testing.assert_array_equal(value, want)


def test_refuses_fewer_than_nine_frames():
  assert features.NETWORKS['i3d'].least_frames == 9
  with pytest.raises(ValueError, match=r'9 frames or more.*got 8'):
    i3d.I3D().apply({}, jnp.zeros((1, 8, 224, 224, 3)))


def test_takes_frames_of_224_pixels():
  with pytest.raises(ValueError, match='224×224'):
    i3d.I3D().apply({}, jnp.zeros((1, 9, 224, 192, 3)))


def test_resize_of_tensorflow_1():
  """Pixel i comes from i·source/224, without halves, and stays inside."""
  rows = jnp.array([-1.0, 0.5]).reshape(1, 1, 2, 1, 1)
  x = jnp.broadcast_to(rows, (1, 1, 2, 448, 3))
  got = np.asarray(i3d.prepare(x))[0, 0]
  want = np.minimum(-1 + 1.5 * np.arange(224) / 112, 0.5)
  np.testing.assert_allclose(
    got, np.broadcast_to(want[:, None, None], got.shape), atol=1e-6
  )
  # From twice the size it takes every other pixel, those in front.
  x = jnp.broadcast_to(noise(1, 2, 1, 448, 3), (1, 2, 3, 448, 3))
  got = i3d.prepare(x)
  np.testing.assert_allclose(got[:, :, 0], x[:, :, 0, ::2], atol=1e-6)
  # With halves, it takes the mean of two.
  got = i3d.prepare(x, 'half_pixel')
  want = (x[:, :, 0, ::2] + x[:, :, 0, 1::2]) / 2
  np.testing.assert_allclose(got[:, :, 0], want, atol=1e-6)


@pytest.mark.parametrize('size', [(17, 64), (300, 224)])
def test_resize_of_pytorch(size):
  x = noise(2, 2, *size, 3)
  frames = torch.from_numpy(x).flatten(0, 1).permute(0, 3, 1, 2)
  x = jnp.asarray(x)
  want = torch.nn.functional.interpolate(
    frames, (224, 224), mode='bilinear', align_corners=False
  )
  want = want.permute(0, 2, 3, 1).reshape(2, 2, 224, 224, 3)
  # PyTorch has its places in float32: off by up to 1e-5 of a pixel.
  got = i3d.prepare(x, 'half_pixel')
  np.testing.assert_allclose(got, want, atol=5e-5)
  assert size[0] == 224 or abs(i3d.prepare(x) - want.numpy()).max() > 0.01


def test_refuses_other_resizes():
  with pytest.raises(ValueError, match='lanczos'):
    i3d.prepare(jnp.zeros((1, 1, 2, 2, 3)), 'lanczos')
