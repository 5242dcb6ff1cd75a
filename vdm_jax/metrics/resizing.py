"""Resizes of images as the programs of others do them, to the last bit or so.

Distances between features depend on the resize more than on most things
(Parmar et al. 2022), so each of these follows one program: PyTorch, TensorFlow
1 and Pillow. All are linear, so that a resize is a product with one matrix a
side, which the host computes in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BITS = 22  # of the fractions in Pillow's whole numbers


def levels(images: Float[Array, '*s']) -> Float[Array, '*s']:
  """127.5 (x + 1), rounded and clipped: the 0…255 that files of images hold.

  Gives back exactly the whole numbers v that images v / 127.5 − 1 came from.
  """
  return jnp.clip(jnp.round(127.5 * (images + 1.0)), 0.0, 255.0)


def resize(
  images: Float[Array, 'n h w c'],
  *,
  rows: Float[np.ndarray, 'k h'],
  columns: Float[np.ndarray, 'l w'],
) -> Float[Array, 'n k l c']:
  """rows · images · columnsᵀ for each image and channel, columns first."""
  exact = jax.lax.Precision.HIGHEST
  columns = jnp.asarray(columns, jnp.float32)
  rows = jnp.asarray(rows, jnp.float32)
  x = jnp.einsum('nhwc,lw->nhlc', images, columns, precision=exact)
  return jnp.einsum('nhlc,kh->nklc', x, rows, precision=exact)


def bilinear(
  images: Float[Array, 'n h w c'],
  size: tuple[int, int],
  *,
  half_pixel: bool = True,
) -> Float[Array, 'n k l c']:
  """Bilinear interpolation without a filter against aliases.

  Args:
    images: of any range.
    size: height and width of the result.
    half_pixel: pixels are squares whose centres are at halves (PyTorch with
      align_corners=False); otherwise pixel i of n is at i/n of the side, which
      shifts the image (TensorFlow 1).
  """
  h, w = images.shape[1:3]
  return resize(
    images,
    rows=bilinear_matrix(h, size[0], half_pixel=half_pixel),
    columns=bilinear_matrix(w, size[1], half_pixel=half_pixel),
  )


def bilinear_matrix(
  source: int, target: int, *, half_pixel: bool = True
) -> Float[np.ndarray, 'target source']:
  """Weights `[target, source]` of bilinear interpolation; see `bilinear`."""
  shift = 0.5 if half_pixel else 0.0
  # Rounded twice to float32, where PyTorch rounds: it multiplies and adds at
  # once. A place is off by up to 1e-5 pixels for that, for all to compare with.
  scale = np.float64(np.float32(source) / np.float32(target))
  places = np.float32((np.arange(target) + shift) * scale - shift)
  places = np.clip(np.float64(places), 0.0, source - 1.0)
  left = np.floor(places).astype(int)
  right = np.minimum(left + 1, source - 1)
  matrix, index = np.zeros((target, source)), np.arange(target)
  np.add.at(matrix, (index, left), 1.0 - (places - left))
  np.add.at(matrix, (index, right), places - left)
  return matrix


def bicubic(
  images: Float[Array, 'n h w c'], size: tuple[int, int]
) -> Float[Array, 'n k l c']:
  """Pillow's bicubic resize of float images (mode 'F'), without rounding.

  The cubic of Keys with a = −0.5, as wide as the pixels of the smaller image.
  The result overshoots the range of the images.
  """
  h, w = images.shape[1:3]
  return resize(
    images,
    rows=bicubic_matrix(h, size[0]),
    columns=bicubic_matrix(w, size[1]),
  )


def bicubic_matrix(
  source: int, target: int
) -> Float[np.ndarray, 'target source']:
  """Weights `[target, source]` of Pillow's bicubic resize."""
  index, weights = _windows(source, target)
  matrix = np.zeros((target, source))
  np.add.at(matrix, (np.arange(target)[:, None], index), weights)
  return matrix


def bicubic_uint8(
  images: Float[Array, 'n h w c'], size: tuple[int, int]
) -> Float[Array, 'n k l c']:
  """Pillow's bicubic resize of 8-bit images (modes 'L', 'RGB'), bit for bit.

  In whole numbers, as there: weights have 22 bits behind the point, and both
  the pass along rows and the one along columns round to 0…255.

  Args:
    images: whole numbers in 0…255.
    size: height and width of the result.
  """
  x = images.astype(jnp.int32)
  x = _whole_pass(x, 2, size[1])
  return _whole_pass(x, 1, size[0]).astype(jnp.float32)


def _whole_pass(
  x: Int[Array, '...'], axis: int, target: int
) -> Int[Array, '...']:
  """Resizes one axis in whole numbers.

  A sum over few shifted copies, because not all devices multiply matrices of
  32-bit whole numbers.
  """
  index, weights = _windows(x.shape[axis], target)
  fixed = np.trunc(weights * 2**BITS + np.copysign(0.5, weights))
  fixed = fixed.astype(np.int32)
  shape = (*x.shape[:axis], target, *x.shape[axis + 1 :])
  column = (1,) * axis + (target,) + (1,) * (x.ndim - axis - 1)

  def add(total, tap):
    pixels = jnp.take(x, tap[0], axis=axis)
    return total + pixels * tap[1].reshape(column), None

  half = jnp.full(shape, 2 ** (BITS - 1), jnp.int32)
  index = index.astype(np.int32)
  total, _ = jax.lax.scan(add, half, (jnp.asarray(index.T), fixed.T))
  return jnp.clip(total >> BITS, 0, 255)


def _windows(
  source: int, target: int
) -> tuple[Int[np.ndarray, 'target k'], Float[np.ndarray, 'target k']]:
  """The pixels that each new one is made of, and their weights (sum: 1).

  Windows that are shorter than the longest are filled up with weights of 0.
  """
  scale = source / target
  width = max(scale, 1.0)  # of a pixel of the smaller image
  support = 2.0 * width
  centres = (np.arange(target) + 0.5) * scale
  first = np.maximum((centres - support + 0.5).astype(int), 0)
  last = np.minimum((centres + support + 0.5).astype(int), source)
  index = first[:, None] + np.arange((last - first).max())
  weights = _keys((index + 0.5 - centres[:, None]) / width)
  weights = np.where(index < last[:, None], weights, 0.0)
  weights = weights / weights.sum(axis=1, keepdims=True)
  return np.minimum(index, source - 1), weights


def _keys(
  x: Float[np.ndarray, '*s'], a: float = -0.5
) -> Float[np.ndarray, '*s']:
  """The piecewise cubic that interpolates (Keys 1981)."""
  x = np.abs(x)
  near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
  far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
  return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
