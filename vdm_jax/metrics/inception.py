"""Inception-v3 of 2015-12-05, the network of FID and of the Inception score.

The network of Szegedy et al. (2016) with the weights that the first FID used:
1008 classes, and pools that differ from today's. Names are those of
torchvision's Inception3, in which pytorch-fid published the weights.
"""

import dataclasses
from collections.abc import Iterator

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.metrics import resizing
from vdm_jax.metrics.layers import FrozenBatchNorm
from vdm_jax.metrics.layout import Layout, Source

SIZE = 299  # pixels a side that the network was trained on
LEAST = 75  # pixels a side that leave one pixel at the end
CLASSES = 1008
RESIZES = ('bilinear', 'clean', 'tensorflow')


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution, its norm and a ReLU, as an entry of the tables below."""

  name: str  # torchvision's
  features: int
  kernel: tuple[int, int] = (1, 1)  # height, width
  stride: int = 1
  padding: str = 'SAME'


# Entries of branches beside Conv. A tuple of Conv is a fork, whose ends are
# joined along the channels.
AVERAGE = 'average'  # 3×3, stride 1; the padding is not counted
MAXIMUM = 'maximum'  # 3×3, stride 1
HALVE = 'halve'  # the maximum of 3×3, stride 2
Step = Conv | str | tuple[Conv, ...]
Branch = tuple[Step, ...]

STEM = (
  Conv('Conv2d_1a_3x3', 32, (3, 3), 2, 'VALID'),
  Conv('Conv2d_2a_3x3', 32, (3, 3), 1, 'VALID'),
  Conv('Conv2d_2b_3x3', 64, (3, 3)),
  HALVE,
  Conv('Conv2d_3b_1x1', 80),
  Conv('Conv2d_4a_3x3', 192, (3, 3), 1, 'VALID'),
  HALVE,
)


def _block_a(pool: int) -> tuple[Branch, ...]:
  return (
    (Conv('branch1x1', 64),),
    (Conv('branch5x5_1', 48), Conv('branch5x5_2', 64, (5, 5))),
    (
      Conv('branch3x3dbl_1', 64),
      Conv('branch3x3dbl_2', 96, (3, 3)),
      Conv('branch3x3dbl_3', 96, (3, 3)),
    ),
    (AVERAGE, Conv('branch_pool', pool)),
  )


def _block_c(width: int) -> tuple[Branch, ...]:
  return (
    (Conv('branch1x1', 192),),
    (
      Conv('branch7x7_1', width),
      Conv('branch7x7_2', width, (1, 7)),
      Conv('branch7x7_3', 192, (7, 1)),
    ),
    (
      Conv('branch7x7dbl_1', width),
      Conv('branch7x7dbl_2', width, (7, 1)),
      Conv('branch7x7dbl_3', width, (1, 7)),
      Conv('branch7x7dbl_4', width, (7, 1)),
      Conv('branch7x7dbl_5', 192, (1, 7)),
    ),
    (AVERAGE, Conv('branch_pool', 192)),
  )


def _block_e(pool: str) -> tuple[Branch, ...]:
  return (
    (Conv('branch1x1', 320),),
    (
      Conv('branch3x3_1', 384),
      (
        Conv('branch3x3_2a', 384, (1, 3)),
        Conv('branch3x3_2b', 384, (3, 1)),
      ),
    ),
    (
      Conv('branch3x3dbl_1', 448),
      Conv('branch3x3dbl_2', 384, (3, 3)),
      (
        Conv('branch3x3dbl_3a', 384, (1, 3)),
        Conv('branch3x3dbl_3b', 384, (3, 1)),
      ),
    ),
    (pool, Conv('branch_pool', 192)),
  )


BLOCKS = {
  'Mixed_5b': _block_a(32),
  'Mixed_5c': _block_a(64),
  'Mixed_5d': _block_a(64),
  'Mixed_6a': (
    (Conv('branch3x3', 384, (3, 3), 2, 'VALID'),),
    (
      Conv('branch3x3dbl_1', 64),
      Conv('branch3x3dbl_2', 96, (3, 3)),
      Conv('branch3x3dbl_3', 96, (3, 3), 2, 'VALID'),
    ),
    (HALVE,),
  ),
  'Mixed_6b': _block_c(128),
  'Mixed_6c': _block_c(160),
  'Mixed_6d': _block_c(160),
  'Mixed_6e': _block_c(192),
  'Mixed_7a': (
    (
      Conv('branch3x3_1', 192),
      Conv('branch3x3_2', 320, (3, 3), 2, 'VALID'),
    ),
    (
      Conv('branch7x7x3_1', 192),
      Conv('branch7x7x3_2', 192, (1, 7)),
      Conv('branch7x7x3_3', 192, (7, 1)),
      Conv('branch7x7x3_4', 192, (3, 3), 2, 'VALID'),
    ),
    (HALVE,),
  ),
  'Mixed_7b': _block_e(AVERAGE),
  # Not what torchvision has here: the graph of 2015 takes the maximum.
  'Mixed_7c': _block_e(MAXIMUM),
}


class Unit(nn.Module):
  """relu(norm(convolution)), without a bias in the convolution."""

  conv: Conv

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n k l d']:
    """Maps `[n, h, w, c]` to `[n, k, l, features]`."""
    x = nn.Conv(
      self.conv.features,
      self.conv.kernel,
      strides=self.conv.stride,
      padding=self.conv.padding,
      use_bias=False,
      name='conv',
    )(x)
    return nn.relu(FrozenBatchNorm(1e-3, name='bn')(x))


class Block(nn.Module):
  """Branches side by side, joined along the channels."""

  branches: tuple[Branch, ...]

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n k l d']:
    """Maps `[n, h, w, c]` to `[n, k, l, d]`."""
    return _join([_run(branch, x) for branch in self.branches])


class Classes(nn.Module):
  """A dense layer that gives its outputs both with its bias and without."""

  features: int

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n c']
  ) -> tuple[Float[Array, 'n d'], Float[Array, 'n d']]:
    """Maps `[n, c]` to x · kernel + bias and x · kernel."""
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return x @ kernel + bias[None], x @ kernel


class Inception(nn.Module):
  """Inception-v3 from pixels to features and classes."""

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n h w 3']
  ) -> dict[str, Float[Array, 'n _']]:
    """Features of images.

    Args:
      x: what `prepare` makes, 299 pixels a side; any size from 75 on works.

    Returns:
      'pool3' (2048, the features of FID), 'logits' of the classes (1008) and
      'logits_unbiased', the same without the bias of the last layer, of which
      the Inception score takes the softmax.

    Raises:
      ValueError: images are too small.
    """
    if min(x.shape[1:3]) < LEAST:
      raise ValueError(f'images have {x.shape[1:3]} pixels, at least {LEAST}')
    x = _run(STEM, x)
    for name, branches in BLOCKS.items():
      x = Block(branches, name=name)(x)
    x = x.mean(axis=(1, 2))
    logits, unbiased = Classes(CLASSES, name='fc')(x)
    return {'pool3': x, 'logits': logits, 'logits_unbiased': unbiased}


def prepare(
  images: Float[Array, 'n h w 3'], resize: str = 'bilinear'
) -> Float[Array, 'n 299 299 3']:
  """Input of the network, made as one of three programs makes it.

  Args:
    images: RGB in [−1, 1], rounded to 0…255 first.
    resize: 'bilinear' as pytorch-fid (no filter against aliases, then
      v/127.5 − 1); 'clean' as clean-fid (Pillow's bicubic with such a filter
      on floats, clipped, then (v − 128)/128); 'tensorflow' as the graph of
      2015 itself and NVIDIA's copy of it (bilinear, shifted by up to half a
      pixel, then (v − 128)/128).

  Raises:
    ValueError: there is no such resize.
  """
  x, size = resizing.levels(images), (SIZE, SIZE)
  match resize:
    case 'bilinear':
      return 2.0 * resizing.bilinear(x / 255.0, size) - 1.0
    case 'clean':
      return (jnp.clip(resizing.bicubic(x, size), 0.0, 255.0) - 128.0) / 128.0
    case 'tensorflow':
      x = resizing.bilinear(x, size, half_pixel=False)
      return (x - 128.0) / 128.0
  raise ValueError(f'no such resize ({resize!r}); one of {RESIZES}')


def layouts() -> dict[str, Layout]:
  """Kinds of files: 'pytorch' and 'nvidia'.

  'pytorch' is pytorch-fid's `pt_inception-2015-12-05-*.pth` (torchvision's
  names); 'nvidia' is `inception-2015-12-05.pt` (TorchScript), whose norms have
  no scale.
  """
  ours = [path for path, _ in _units()]
  pytorch = _head('fc')
  for path in ours:
    name = path.replace('/', '.')
    pytorch |= {
      f'{path}/conv/kernel': Source(f'{name}.conv.weight', _kernel),
      f'{path}/bn/scale': Source(f'{name}.bn.weight'),
      f'{path}/bn/bias': Source(f'{name}.bn.bias'),
      f'{path}/bn/mean': Source(f'{name}.bn.running_mean'),
      f'{path}/bn/var': Source(f'{name}.bn.running_var'),
    }
  nvidia = _head('output')
  for path, name in _units():
    nvidia |= {
      f'{path}/conv/kernel': Source(f'{name}.weight', _kernel),
      f'{path}/bn/scale': 1.0,
      f'{path}/bn/bias': Source(f'{name}.beta'),
      f'{path}/bn/mean': Source(f'{name}.mean'),
      f'{path}/bn/var': Source(f'{name}.var'),
    }
  return {
    'pytorch': Layout(pytorch, ignored=(r'.*\.num_batches_tracked',)),
    'nvidia': Layout(nvidia),
  }


def _run(steps: Branch, x: Array) -> Array:
  for step in steps:
    if isinstance(step, Conv):
      x = Unit(step, name=step.name)(x)
    elif isinstance(step, tuple):
      x = _join([Unit(conv, name=conv.name)(x) for conv in step])
    elif step == HALVE:
      x = nn.max_pool(x, (3, 3), (2, 2))
    elif step == MAXIMUM:
      x = nn.max_pool(x, (3, 3), padding='SAME')
    else:
      x = nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)
  return x


def _join(parts: list[Array]) -> Array:
  return jnp.concatenate(parts, axis=-1)


def _units() -> Iterator[tuple[str, str]]:
  """Our path and NVIDIA's name of each Conv: theirs are counted, not called."""
  stem = [step for step in STEM if isinstance(step, Conv)]
  for i, conv in enumerate(stem):
    yield conv.name, f'layers.{_counted("conv", i)}'
  for i, (block, branches) in enumerate(BLOCKS.items()):
    for conv, name in _block_names(branches):
      yield f'{block}/{conv.name}', f'layers.{_counted("mixed", i)}.{name}'


def _block_names(branches: tuple[Branch, ...]) -> Iterator[tuple[Conv, str]]:
  """NVIDIA's names: a branch of one Conv is 'conv', the others are towers.

  Blocks with forks write 'tower_conv' for 'tower.conv'.
  """
  towers = 0
  forked = any(isinstance(s, tuple) for branch in branches for s in branch)
  for branch in branches:
    convs = [step for step in branch if not isinstance(step, str)]
    if len(branch) == 1:
      yield from ((conv, 'conv') for conv in convs)
      continue
    prefix = _counted('tower', towers) + ('_' if forked else '.')
    towers += 1
    for i, step in enumerate(convs):
      if isinstance(step, Conv):
        yield step, prefix + _counted('conv', i)
        continue
      for j, conv in enumerate(step):
        yield conv, prefix + _counted('mixed_conv', j)


def _counted(name: str, i: int) -> str:
  return f'{name}_{i}' if i else name


def _head(name: str) -> dict[str, Source | float]:
  return {
    'fc/kernel': Source(f'{name}.weight', np.transpose),
    'fc/bias': Source(f'{name}.bias'),
  }


def _kernel(value: np.ndarray) -> np.ndarray:
  """From output, input, height, width to height, width, input, output."""
  return value.transpose(2, 3, 1, 0)
