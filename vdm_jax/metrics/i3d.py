"""I3D, the network of the Fréchet video distance.

The inflated Inception-v1 of Carreira & Zisserman (2017) for RGB, trained on
Kinetics-400. The distance (Unterthiner et al. 2018) is one of its logits.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.metrics import resizing
from vdm_jax.metrics.layers import FrozenBatchNorm
from vdm_jax.metrics.layout import Layout, Source

SIZE = 224  # pixels a side
LEAST_FRAMES = 9  # of which two are left at the end, as many as the head takes
CLASSES = 400
RESIZES = ('tf1', 'half_pixel')

Sizes = tuple[int, int, int]
# Each block with the kernel and the stride of the pool before it, and with its
# channels, in the order of BRANCHES.
MIXED: tuple[tuple[str, tuple[Sizes, Sizes] | None, tuple[int, ...]], ...] = (
  ('Mixed_3b', ((1, 3, 3), (1, 2, 2)), (64, 96, 128, 16, 32, 32)),
  ('Mixed_3c', None, (128, 128, 192, 32, 96, 64)),
  ('Mixed_4b', ((3, 3, 3), (2, 2, 2)), (192, 96, 208, 16, 48, 64)),
  ('Mixed_4c', None, (160, 112, 224, 24, 64, 64)),
  ('Mixed_4d', None, (128, 128, 256, 24, 64, 64)),
  ('Mixed_4e', None, (112, 144, 288, 32, 64, 64)),
  ('Mixed_4f', None, (256, 160, 320, 32, 128, 128)),
  ('Mixed_5b', ((2, 2, 2), (2, 2, 2)), (256, 160, 320, 32, 128, 128)),
  ('Mixed_5c', None, (384, 192, 384, 48, 128, 128)),
)
BRANCHES = {
  'b0': 'Branch_0/Conv3d_0a_1x1',
  'b1a': 'Branch_1/Conv3d_0a_1x1',
  'b1b': 'Branch_1/Conv3d_0b_3x3',
  'b2a': 'Branch_2/Conv3d_0a_1x1',
  'b2b': 'Branch_2/Conv3d_0b_3x3',
  'b3b': 'Branch_3/Conv3d_0b_1x1',
}
# The original has the same name twice in this block, but for the kernel.
MISNAMED = {('Mixed_5b', 'b2b'): 'Branch_2/Conv3d_0a_3x3'}
STEM = ('Conv3d_1a_7x7', 'Conv3d_2b_1x1', 'Conv3d_2c_3x3')


class Unit(nn.Module):
  """relu(norm(convolution)), without a bias in the convolution.

  Padding is TensorFlow's: where it is odd, the larger part is behind.
  """

  features: int
  kernel: Sizes
  stride: int = 1
  bn_eps: float = 1e-3

  @nn.compact
  def __call__(self, x: Float[Array, 'n t h w c']) -> Float[Array, 'n u k l d']:
    """Maps `[n, t, h, w, c]` to `[n, ⌈t/stride⌉, …, features]`."""
    x = nn.Conv(
      self.features,
      self.kernel,
      strides=self.stride,
      padding='SAME',
      use_bias=False,
      name='conv',
    )(x)
    return nn.relu(FrozenBatchNorm(self.bn_eps, name='bn')(x))


class Mixed(nn.Module):
  """Four branches side by side, joined along the channels."""

  widths: tuple[int, ...]
  bn_eps: float = 1e-3

  @nn.compact
  def __call__(self, x: Float[Array, 'n t h w c']) -> Float[Array, 'n t h w d']:
    """Maps `[n, t, h, w, c]` to `[n, t, h, w, d]`."""
    widths = dict(zip(BRANCHES, self.widths, strict=True))

    def unit(name, x, side=1):
      kernel = (side, side, side)
      return Unit(widths[name], kernel, bn_eps=self.bn_eps, name=name)(x)

    parts = [
      unit('b0', x),
      unit('b1b', unit('b1a', x), 3),
      unit('b2b', unit('b2a', x), 3),
      unit('b3b', _max_pool(x, (3, 3, 3), (1, 1, 1))),
    ]
    return jnp.concatenate(parts, axis=-1)


class I3D(nn.Module):
  """I3D from pixels to classes.

  Attributes:
    bn_eps: ε of the norms, which no file of weights holds. DeepMind's is 1e-3;
      the PyTorch port of VideoGPT, TATS and cd-fvd has 1e-5.
  """

  bn_eps: float = 1e-3

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n t h w 3']
  ) -> dict[str, Float[Array, 'n _']]:
    """Classes of videos.

    Args:
      x: what `prepare` makes, `[n, t, 224, 224, 3]`, t ≥ 9.

    Returns:
      'logits' of Kinetics-400, `[n, 400]`, averaged over time; no softmax.

    Raises:
      ValueError: videos are too short, or not of 224×224 pixels.
    """
    if x.shape[1] < LEAST_FRAMES:
      raise ValueError(
        f'I3D takes videos of {LEAST_FRAMES} frames or more (got {x.shape[1]})'
      )
    if x.shape[2:4] != (SIZE, SIZE):
      raise ValueError(
        f'I3D takes frames of {SIZE}×{SIZE} pixels (got {x.shape[2:4]})'
      )
    x = trunk(x, self.bn_eps)
    x = nn.avg_pool(x, (2, 7, 7))
    x = nn.Dense(CLASSES, name='logits')(x)
    return {'logits': x.mean(axis=(1, 2, 3))}


def trunk(
  x: Float[Array, 'n t h w 3'], bn_eps: float
) -> Float[Array, 'n u k l 1024']:
  """All of the network but its head, at any size; a thirty-second a side.

  To be called in a module, whose submodules it makes.
  """
  first, second, third = STEM
  x = Unit(64, (7, 7, 7), 2, bn_eps, name=first)(x)
  x = _max_pool(x, (1, 3, 3), (1, 2, 2))
  x = Unit(64, (1, 1, 1), 1, bn_eps, name=second)(x)
  x = Unit(192, (3, 3, 3), 1, bn_eps, name=third)(x)
  for name, pool, widths in MIXED:
    x = x if pool is None else _max_pool(x, *pool)
    x = Mixed(widths, bn_eps, name=name)(x)
  return x


def prepare(
  videos: Float[Array, 'n t h w 3'], resize: str = 'tf1'
) -> Float[Array, 'n t 224 224 3']:
  """Input of the network: every frame bilinearly to 224×224 pixels.

  Without a filter against aliases, and whatever the frame's aspect.

  Args:
    videos: RGB in [−1, 1].
    resize: 'tf1' as the original (pixel i of n is at i/n of the side, so that
      the frame is shifted by up to half a pixel); 'half_pixel' as TATS and
      cd-fvd (PyTorch with align_corners=False).

  Raises:
    ValueError: there is no such resize.
  """
  if resize not in RESIZES:
    raise ValueError(f'no such resize ({resize!r}); one of {RESIZES}')
  n, t = videos.shape[:2]
  frames = resizing.bilinear(
    videos.reshape(n * t, *videos.shape[2:]),
    (SIZE, SIZE),
    half_pixel=resize == 'half_pixel',
  )
  return frames.reshape(n, t, *frames.shape[1:])


def layouts() -> dict[str, Layout]:
  """Kinds of files: 'pytorch', 'tfhub' and 'tensorflow'.

  'pytorch' is the state dict of piergiaj's port and of those made from it
  (VideoGPT, TATS); 'tfhub' has the variables of DeepMind's module on TF-Hub
  under their names, which end in ':0', and 'tensorflow' those of DeepMind's
  checkpoints, whose names do not. TensorFlow's norms have no scale.
  """
  pytorch = {
    'logits/kernel': Source('logits.conv3d.weight', _dense),
    'logits/bias': Source('logits.conv3d.bias'),
  }
  for path in _units():
    name = path.replace('/', '.')
    pytorch |= {
      f'{path}/conv/kernel': Source(f'{name}.conv3d.weight', _kernel),
      f'{path}/bn/scale': Source(f'{name}.bn.weight'),
      f'{path}/bn/bias': Source(f'{name}.bn.bias'),
      f'{path}/bn/mean': Source(f'{name}.bn.running_mean'),
      f'{path}/bn/var': Source(f'{name}.bn.running_var'),
    }
  return {
    'pytorch': Layout(
      pytorch, ignored=(r'.*\.num_batches_tracked',), prefix=r'module\.'
    ),
    'tfhub': _tensorflow(':0'),
    'tensorflow': _tensorflow(''),
  }


def _tensorflow(end: str) -> Layout:
  head = 'Logits/Conv3d_0c_1x1/conv_3d'
  sources: dict[str, Source | float] = {
    'logits/kernel': Source(f'{head}/w{end}', _squeezed((3, 4))),
    'logits/bias': Source(f'{head}/b{end}'),
  }
  flat = _squeezed((4,))
  for path, name in _units().items():
    norm = f'{name}/batch_norm'
    sources |= {
      f'{path}/conv/kernel': Source(f'{name}/conv_3d/w{end}'),
      f'{path}/bn/scale': 1.0,
      f'{path}/bn/bias': Source(f'{norm}/beta{end}', flat),
      f'{path}/bn/mean': Source(f'{norm}/moving_mean{end}', flat),
      f'{path}/bn/var': Source(f'{norm}/moving_variance{end}', flat),
    }
  return Layout(sources, prefix='RGB/inception_i3d/')


def _units() -> dict[str, str]:
  """Our path of each `Unit`, and the original's."""
  names = {name: name for name in STEM}
  for block, *_ in MIXED:
    for branch, name in BRANCHES.items():
      name = MISNAMED.get((block, branch), name)
      names[f'{block}/{branch}'] = f'{block}/{name}'
  return names


def _max_pool(x: Array, kernel: Sizes, stride: Sizes) -> Array:
  # The original pads by zeros: the same behind a ReLU.
  return nn.max_pool(x, kernel, stride, 'SAME')


def _kernel(value: np.ndarray) -> np.ndarray:
  """From output, input and three sides to sides, input, output."""
  return value.transpose(2, 3, 4, 1, 0)


def _dense(value: np.ndarray) -> np.ndarray:
  """A convolution of one point, as a matrix from input to output."""
  return value.reshape(value.shape[:2]).T


def _squeezed(kept: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
  """Drops the other axes, each of length 1."""
  return lambda value: value.squeeze(
    tuple(axis for axis in range(value.ndim) if axis not in kept)
  )
