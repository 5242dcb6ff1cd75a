"""Inception equals an independent one of torch.nn, and FID's preparations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.metrics import filling, inception, reading, resizing

NETWORK = inception.Inception()
TOLERANCE = 1e-5  # of the largest feature


@pytest.fixture(scope='module')
def shapes():
  x = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
  return jax.eval_shape(NETWORK.init, jax.random.key(0), x)['params']


@pytest.fixture(scope='module')
def torch():
  torch = pytest.importorskip('torch', reason='PyTorch is the reference')
  torch.set_num_threads(1)
  return torch


@pytest.fixture(scope='module')
def theirs(torch):
  from tests.metrics import torch_inception

  return torch_inception.make()


@pytest.fixture(scope='module')
def ours(theirs, shapes):
  """A function: images `[n, h, w, 3]` to our features, by their weights."""
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  params = filled(tensors, shapes, 'pytorch')
  apply = jax.jit(NETWORK.apply)
  return lambda images: apply({'params': params}, images)


def filled(tensors, shapes, layout):
  """The tree of parameters, by the layout that it should be found to have."""
  tensors = reading.Tensors(tensors, kind='pytorch', sha256='')
  params, name = filling.fill(inception.layouts(), tensors, shapes, 'inception')
  assert name == layout
  return params


def run(torch, network, images):
  """Their pool3 and logits for `[n, h, w, 3]`."""
  x = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
  pool3, logits = network(x)
  return {'pool3': pool3.numpy(), 'logits': logits.numpy()}


def error(a, b):
  """The largest difference, relative to the largest value."""
  return np.abs(np.asarray(a) - b).max() / np.abs(b).max()


def pixels(*shape, seed=0):
  return jax.random.uniform(
    jax.random.key(seed), (*shape, 3), minval=-1.0, maxval=1.0
  )


@pytest.mark.parametrize(
  ('n', 'h', 'w'), [(2, 75, 75), (1, 110, 139), (1, 299, 299)]
)
def test_features_are_those_of_an_independent_network(
  torch, theirs, ours, n, h, w
):
  images = pixels(n, h, w)
  out = ours(images)
  reference = run(torch, theirs, images)
  assert (reference['pool3'] > 0).mean() > 0.4  # not all channels are dead
  assert out['pool3'].shape == (n, 2048)
  for name, value in reference.items():
    assert error(out[name], value) < TOLERANCE, name
  unbiased = reference['logits'] - theirs.fc.bias.numpy()
  assert error(out['logits_unbiased'], unbiased) < TOLERANCE
  assert error(out['logits_unbiased'], reference['logits']) > 0.01


@pytest.mark.parametrize('mistake', ['padding', '7b', '7c', 'eps'])
def test_todays_pools_and_norms_are_told_apart(
  torch, theirs, ours, monkeypatch, mistake
):
  if mistake == 'padding':
    for block in theirs.children():
      if hasattr(block, 'counts_padding'):
        monkeypatch.setattr(block, 'counts_padding', True)
  elif mistake == 'eps':
    for module in theirs.modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        monkeypatch.setattr(module, 'eps', 1e-5)
  else:
    block = getattr(theirs, f'Mixed_{mistake}')
    monkeypatch.setattr(block, 'maximum', not block.maximum)
  # From 75 pixels a single one is left, on which pools do not matter.
  images = pixels(1, 110, 139)
  wrong = run(torch, theirs, images)['pool3']
  assert error(ours(images)['pool3'], wrong) > 100 * TOLERANCE


def test_averages_do_not_count_the_padding():
  # Ones stay ones, and a corner is the mean of its four neighbours.
  run = lambda x: inception._run((inception.AVERAGE,), x)[0, :, :, 0]  # noqa: E731
  np.testing.assert_allclose(run(jnp.ones((1, 4, 5, 1))), np.ones((4, 5)))
  x = jnp.arange(9.0).reshape(1, 3, 3, 1)
  np.testing.assert_allclose(
    run(x), [[2.0, 2.5, 3.0], [3.5, 4.0, 4.5], [5.0, 5.5, 6.0]]
  )


def test_maxima_by_hand():
  x = -jnp.arange(25.0).reshape(1, 5, 5, 1)
  same = inception._run((inception.MAXIMUM,), x)[0, :, :, 0]
  # The padding is less than any pixel, even where all are negative.
  np.testing.assert_array_equal(same[0], [0, 0, -1, -2, -3])
  np.testing.assert_array_equal(same[4], [-15, -15, -16, -17, -18])
  half = inception._run((inception.HALVE,), x)[0, :, :, 0]
  np.testing.assert_array_equal(half, [[0, -2], [-10, -12]])


# The modules of the TorchScript file, in its own order.
NVIDIA = {
  'conv': 'Conv2d_1a_3x3',
  'conv_4': 'Conv2d_4a_3x3',
  'mixed.conv': 'Mixed_5b/branch1x1',
  'mixed_1.tower.conv_1': 'Mixed_5c/branch5x5_2',
  'mixed_2.tower_2.conv': 'Mixed_5d/branch_pool',
  'mixed_3.conv': 'Mixed_6a/branch3x3',
  'mixed_3.tower.conv_2': 'Mixed_6a/branch3x3dbl_3',
  'mixed_7.tower.conv_2': 'Mixed_6e/branch7x7_3',
  'mixed_7.tower_1.conv_4': 'Mixed_6e/branch7x7dbl_5',
  'mixed_8.tower.conv_1': 'Mixed_7a/branch3x3_2',
  'mixed_8.tower_1.conv_3': 'Mixed_7a/branch7x7x3_4',
  'mixed_9.conv': 'Mixed_7b/branch1x1',
  'mixed_9.tower_conv': 'Mixed_7b/branch3x3_1',
  'mixed_9.tower_mixed_conv': 'Mixed_7b/branch3x3_2a',
  'mixed_10.tower_1_conv_1': 'Mixed_7c/branch3x3dbl_2',
  'mixed_10.tower_1_mixed_conv_1': 'Mixed_7c/branch3x3dbl_3b',
  'mixed_10.tower_2_conv': 'Mixed_7c/branch_pool',
}


def test_nvidias_file_holds_the_same_network(shapes):
  sources = inception.layouts()['nvidia'].sources
  sources = {k: v.name for k, v in sources.items() if v != 1.0}
  # All are there, each under a name of its own.
  assert len(set(sources.values())) == len(sources) == 4 * 94 + 2
  for theirs, ours in NVIDIA.items():
    assert sources[f'{ours}/conv/kernel'] == f'layers.{theirs}.weight'
    assert sources[f'{ours}/bn/mean'] == f'layers.{theirs}.mean'
  tensors = {
    name: np.zeros(_theirs(shapes, path), np.float32)
    for path, name in sources.items()
  }
  tree = filled(tensors, shapes, 'nvidia')
  scale = tree['Mixed_7c']['branch_pool']['bn']['scale']
  np.testing.assert_array_equal(scale, np.ones(192))


def _theirs(tree, path):
  """The shape that PyTorch gives to a parameter of ours."""
  for name in path.split('/'):
    tree = tree[name]
  order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(tree.shape), (0,))
  return [tree.shape[i] for i in order]


def images_and_bytes(h, w):
  values = np.random.default_rng(1).integers(-60, 316, (1, h, w, 3))
  values = values.clip(0, 255).astype(np.uint8)
  return jnp.asarray(values, jnp.float32) / 127.5 - 1.0, values


@pytest.mark.parametrize('size', [(64, 64), (31, 47), (320, 299)])
def test_bilinear_preparation_is_that_of_pytorch_fid(torch, size):
  images, values = images_and_bytes(*size)
  x = torch.tensor(values).permute(0, 3, 1, 2).float() / 255
  x = torch.nn.functional.interpolate(
    x, size=(299, 299), mode='bilinear', align_corners=False
  )
  reference = (2 * x - 1).permute(0, 2, 3, 1).numpy()
  assert np.abs(inception.prepare(images) - reference).max() < 1e-6


@pytest.mark.parametrize('size', [(64, 64), (31, 47), (400, 300)])
def test_clean_preparation_is_that_of_clean_fid(size):
  pillow = pytest.importorskip('PIL.Image', reason='Pillow is the reference')
  images, values = images_and_bytes(*size)
  channels = [
    np.asarray(
      pillow.fromarray(values[0, :, :, i].astype(np.float32)).resize(
        (299, 299), pillow.Resampling.BICUBIC
      )
    )
    for i in range(3)
  ]
  exact = np.stack(channels, axis=-1)
  assert exact.max() > 255 + 10  # the cubic overshoots, and is clipped
  reference = (exact.clip(0, 255) - 128) / 128
  ours = np.asarray(inception.prepare(images, 'clean'))[0]
  assert np.abs(ours - reference).max() < 1e-5
  # The other preparations are something else.
  for other in ('bilinear', 'tensorflow'):
    wrong = np.asarray(inception.prepare(images, other))[0]
    assert np.abs(wrong - reference).mean() > 0.02


def test_the_graph_of_2015_shifts_images():
  """As NVIDIA's copy samples a grid: moved by half a pixel of each side."""
  torch = pytest.importorskip('torch', reason='PyTorch is the reference')
  h, w = 31, 47
  images, values = images_and_bytes(h, w)
  theta = torch.tensor(
    [[[1, 0, 1 / w - 1 / 299], [0, 1, 1 / h - 1 / 299]]], dtype=torch.float32
  )
  grid = torch.nn.functional.affine_grid(
    theta, [1, 3, 299, 299], align_corners=False
  )
  x = torch.nn.functional.grid_sample(
    torch.tensor(values).permute(0, 3, 1, 2).float(),
    grid,
    mode='bilinear',
    padding_mode='border',
    align_corners=False,
  )
  reference = ((x - 128) / 128).permute(0, 2, 3, 1).numpy()
  ours = inception.prepare(images, 'tensorflow')
  assert np.abs(ours - reference).max() < 2e-4


def test_other_resizes_and_small_images_are_refused():
  images = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(ValueError, match=r'no such resize .*lanczos'):
    inception.prepare(images, 'lanczos')
  with pytest.raises(ValueError, match='at least 75'):
    NETWORK.init(jax.random.key(0), jnp.zeros((1, 75, 74, 3)))


def test_preparation_rounds_what_is_not_a_byte():
  images = pixels(1, 20, 20)
  bytes_ = resizing.levels(images) / 127.5 - 1.0
  np.testing.assert_array_equal(
    inception.prepare(images, 'clean'), inception.prepare(bytes_, 'clean')
  )
