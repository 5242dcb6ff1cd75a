import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics import torch_c3d
from vdm_jax import sharding
from vdm_jax.metrics import c3d, features

torch = torch_c3d.torch
TOLERANCE = 1e-4


@pytest.fixture(scope='module')
def tensors():
  return torch_c3d.random_weights()


@pytest.fixture(scope='module')
def params(tensors):
  sources = c3d.layouts()['chainer'].sources
  return {k: s.convert(tensors[s.name]) for k, s in sources.items()}


class Trunk(nn.Module):
  @nn.compact
  def __call__(self, x):
    return c3d.trunk(x)


def difference(ours, theirs):
  """The largest difference, relative to the largest value."""
  theirs = theirs.numpy()
  assert ours.shape == theirs.shape
  assert 1 < abs(theirs).max() < 1e4
  return abs(np.asarray(ours) - theirs).max() / abs(theirs).max()


def channels_last(x):
  return x.movedim(1, -1)


@pytest.fixture(scope='module')
def videos():
  """Smooth ones, of which much is left after the resize."""
  rng = np.random.default_rng(3)
  coarse = rng.uniform(0, 256, (1, 16, 5, 7, 3)).repeat(9, 2).repeat(8, 3)
  return np.floor(coarse).astype(np.uint8)


def test_videos_to_features(tensors, params, videos):
  """All of it, from bytes, against TGAN v2's steps; and with steps wrong."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  ours = features.Extractor('c3d', params, mesh, 1)(videos)
  assert {k: v.shape for k, v in ours.items()} == {
    'fc7': (1, 4096),
    'logits': (1, 101),
  }
  x = torch.from_numpy((videos.astype(np.float32) - 128) / 128).movedim(-1, 1)
  pooled = torch_c3d.trunk(tensors, torch_c3d.begin(tensors, x))
  assert pooled.shape[1:] == (512, 1, 4, 4)  # 8192 in all
  fc7, logits = torch_c3d.head(tensors, pooled)
  assert difference(ours['fc7'], fc7) < TOLERANCE
  assert difference(ours['logits'], logits) < TOLERANCE
  assert (ours['fc7'] == 0).mean() > 0.2  # after the ReLU
  wrong, _ = torch_c3d.head(tensors, pooled, channels_last=True)
  assert difference(ours['fc7'], wrong) > 100 * TOLERANCE
  rgb = torch_c3d.trunk(tensors, torch_c3d.begin(tensors, x, bgr=False))
  wrong, _ = torch_c3d.head(tensors, rgb)
  assert difference(ours['fc7'], wrong) > 100 * TOLERANCE


def test_trunk_is_that_of_pytorch(tensors, params):
  """Where 27 pixels become 14, 7, 4, 2 and 1, and 35 become 2."""
  rng = np.random.default_rng(0)
  x = 60 * rng.standard_normal((2, 16, 27, 35, 3), np.float32)
  convolutions = {k: v for k, v in params.items() if k.startswith('conv')}
  tree = {'params': features.tree(convolutions)}
  ours = jax.jit(Trunk().apply)(tree, x)
  assert ours.shape == (2, 1, 1, 2, 512)
  x = torch.from_numpy(x).movedim(-1, 1)
  theirs = channels_last(torch_c3d.trunk(tensors, x))
  assert difference(ours, theirs) < TOLERANCE


def test_pools_keep_what_juts_out(tensors):
  """The last pool alone, whose 7 pixels become 4: so fc6 takes 8192."""
  x = torch.relu(torch.randn((1, 512, 2, 7, 7), generator=torch.manual_seed(0)))
  ours = nn.max_pool(
    jnp.asarray(channels_last(x).numpy()), (2, 2, 2), (2, 2, 2), 'SAME'
  )
  pool = torch.nn.functional.max_pool3d
  assert ours.size == 8192
  assert pool(x, 2).numel() != 8192
  assert difference(ours, channels_last(pool(x, 2, ceil_mode=True))) == 0
  # A port that pads its input takes other windows.
  padded = channels_last(pool(x, 2, padding=(0, 1, 1)))
  assert difference(ours, padded) > 0.1


def test_network_input_is_the_bytes_in_bgr():
  """Exactly, where the resize has nothing to do."""
  videos = np.resize(np.arange(256, dtype=np.uint8), (1, 2, 112, 112, 3))
  x = c3d.prepare(jnp.asarray(videos, jnp.float32) / 127.5 - 1.0)
  np.testing.assert_allclose(x, videos[..., ::-1], rtol=1e-6)


def test_mean_is_cropped_at_8(monkeypatch):
  """In height and in width, of one mean a frame and a channel of BGR."""
  seen = []
  monkeypatch.setattr(c3d, 'trunk', lambda x: seen.append(x) or 1 / 0)
  index = np.arange(3 * 16 * 128 * 171, dtype=np.float32)
  mean = jnp.asarray(index.reshape(3, 16, 128, 171))
  x = jnp.zeros((1, 16, 112, 112, 3))
  with pytest.raises(ZeroDivisionError):
    c3d.C3D().apply({'params': {'mean': mean}}, x)
  got = -np.asarray(seen[0][0])
  for t, i, j, c in ((0, 0, 0, 0), (15, 111, 111, 2), (3, 40, 7, 1)):
    assert got[t, i, j, c] == ((c * 16 + t) * 128 + i + 8) * 171 + j + 8


def test_corners_stay_on_corners():
  """From 2 pixels to 3 there is one between; from 112 to 112, all the same."""
  np.testing.assert_array_equal(
    c3d.corner_matrix(2, 3), [[1, 0], [0.5, 0.5], [0, 1]]
  )
  np.testing.assert_array_equal(c3d.corner_matrix(112, 112), np.eye(112))
  rows = c3d.corner_matrix(64, 112)
  np.testing.assert_allclose(
    rows @ np.arange(64.0), np.linspace(0, 63, 112), rtol=1e-13
  )
  np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-13)
  assert (np.count_nonzero(rows, axis=1) <= 2).all()
  np.testing.assert_array_equal(c3d.corner_matrix(1, 3), [[1], [1], [1]])


@pytest.mark.parametrize('size', [(48, 64), (240, 320)])
def test_resize_is_that_of_pytorch(size):
  rng = np.random.default_rng(0)
  videos = rng.integers(0, 256, (1, 2, *size, 3)).astype(np.float32)
  got = c3d.prepare(jnp.asarray(videos) / 127.5 - 1.0)
  frames = torch.from_numpy(videos[0, ..., ::-1].copy()).movedim(-1, 1)
  want = torch.nn.functional.interpolate(
    frames, (112, 112), mode='bilinear', align_corners=True
  )
  want = channels_last(want)[None]
  assert difference(got, want) < TOLERANCE
  halves = torch.nn.functional.interpolate(frames, (112, 112), mode='bilinear')
  assert difference(got, channels_last(halves)[None]) > 100 * TOLERANCE


@pytest.mark.parametrize('frames', [15, 17])
def test_takes_sixteen_frames(frames):
  with pytest.raises(ValueError, match=rf'exactly 16 frames.*got {frames}'):
    c3d.C3D().apply({}, jnp.zeros((1, frames, 112, 112, 3)))


def test_takes_frames_of_112_pixels():
  with pytest.raises(ValueError, match='112×112'):
    c3d.C3D().apply({}, jnp.zeros((1, 16, 64, 64, 3)))
