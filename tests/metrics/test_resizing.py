"""Resizes equal those of the programs that they follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.metrics import resizing

# Up and down, odd and even, of one side only, far down (long windows), to the
# same size and from single pixels.
SIZES = (
  ((17, 23), (29, 31)),
  ((64, 64), (299, 299)),
  ((61, 83), (20, 47)),
  ((13, 190), (26, 7)),
  ((15, 20), (15, 33)),
  ((9, 9), (9, 9)),
  ((1, 5), (4, 1)),
)


def random_images(size, seed=0):
  """Whole numbers in 0…255, with corners of the range often enough."""
  rng = np.random.default_rng(seed)
  images = rng.integers(-60, 316, (2, *size, 3)).clip(0, 255)
  return jnp.asarray(images, jnp.float32)


def by_pillow(images, size, mode):
  """Pillow's bicubic resize of `[n, h, w, c]`, channel after channel."""
  pillow = pytest.importorskip('PIL.Image', reason='Pillow is the reference')
  kind = {'F': np.float32, 'L': np.uint8}[mode]
  planes = np.moveaxis(np.asarray(images, kind), -1, 1)
  n, c, h, w = planes.shape
  resized = []
  for plane in planes.reshape(-1, h, w):
    image = pillow.fromarray(plane)
    assert image.mode == mode
    image = image.resize(size[::-1], pillow.Resampling.BICUBIC)
    resized.append(np.asarray(image))
  return np.moveaxis(np.reshape(resized, (n, c, *size)), 1, -1)


@pytest.mark.parametrize(('source', 'target'), SIZES)
def test_floats_are_resized_as_by_pillow(source, target):
  images = random_images(source)
  ours = np.asarray(jax.jit(resizing.bicubic, static_argnums=1)(images, target))
  theirs = by_pillow(images, target, 'F')
  assert ours.shape == theirs.shape
  assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize(('source', 'target'), SIZES)
def test_bytes_are_resized_as_by_pillow_to_the_bit(source, target):
  images = random_images(source)
  ours = np.asarray(
    jax.jit(resizing.bicubic_uint8, static_argnums=1)(images, target)
  )
  theirs = by_pillow(images, target, 'L')
  np.testing.assert_array_equal(ours, theirs)


def test_rounding_once_is_not_pillows_way():
  images = random_images((61, 83))
  once = np.asarray(resizing.bicubic(images, (20, 47)))
  once = np.floor(once + 0.5).clip(0, 255)
  theirs = by_pillow(images, (20, 47), 'L')
  assert (once != theirs).mean() > 0.05


@pytest.mark.parametrize(('source', 'target'), SIZES)
def test_bilinear_is_that_of_pytorch(source, target):
  torch = pytest.importorskip('torch', reason='PyTorch is the reference')
  images = random_images(source)
  ours = np.asarray(resizing.bilinear(images, target))
  theirs = torch.nn.functional.interpolate(
    torch.tensor(np.asarray(images)).permute(0, 3, 1, 2),
    size=target,
    mode='bilinear',
    align_corners=False,
    antialias=False,
  )
  theirs = theirs.permute(0, 2, 3, 1).numpy()
  assert np.abs(ours - theirs).max() < 255 * 1e-6


def test_bilinear_of_four_pixels_by_hand():
  # Centres of 8 pixels, in pixels of the 4: −1/4 (the edge), 1/4, 3/4, …
  half = resizing.bilinear_matrix(4, 8) @ np.array([0.0, 4.0, 8.0, 0.0])
  np.testing.assert_allclose(half, [0, 1, 3, 5, 7, 6, 2, 0])
  # Without halves: 0, 1/2, 1, …, 3, 3 + 1/2 (the edge).
  whole = resizing.bilinear_matrix(4, 8, half_pixel=False)
  whole = whole @ np.array([0.0, 4.0, 8.0, 0.0])
  np.testing.assert_allclose(whole, [0, 2, 4, 6, 8, 4, 0, 0])


def test_bilinear_does_not_filter_and_bicubic_does():
  # A checkerboard, halved: every second pixel stays, or all become grey.
  board = np.indices((16, 16)).sum(0) % 2
  board = np.tile(255.0 * board[None, :, :, None], (1, 1, 1, 3))
  board = jnp.asarray(board, jnp.float32)
  picked = np.asarray(
    resizing.bilinear(board[:, :, 1:], (8, 5), half_pixel=False)
  )
  assert set(np.unique(picked.round(3))) == {0.0, 255.0}
  grey = np.asarray(resizing.bicubic(board, (8, 8)))
  np.testing.assert_allclose(grey[:, 2:-2, 2:-2], 127.5, atol=1e-3)


@pytest.mark.parametrize('matrix', ['bilinear_matrix', 'bicubic_matrix'])
@pytest.mark.parametrize(('source', 'target'), [(7, 30), (30, 7), (299, 299)])
def test_constants_stay_and_lines_are_reproduced(matrix, source, target):
  weights = getattr(resizing, matrix)(source, target)
  assert weights.shape == (target, source)
  np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
  # Both interpolate lines exactly away from the edges, up to the phases that
  # a stretched cubic averages over.
  line = weights @ (np.arange(source) + 0.5)
  exact = (np.arange(target) + 0.5) * source / target
  inner = slice(target // 3, -(target // 3))
  close = 1e-9 if source <= target or matrix == 'bilinear_matrix' else 0.05
  np.testing.assert_allclose(line[inner], exact[inner], atol=close)


def test_levels_give_back_bytes():
  values = jnp.arange(256.0)
  images = values / 127.5 - 1.0
  np.testing.assert_array_equal(resizing.levels(images), values)
  strange = jnp.array([-1.01, 1.01, 0.001])
  np.testing.assert_array_equal(resizing.levels(strange), [0.0, 255.0, 128.0])
