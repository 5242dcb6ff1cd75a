"""C3D of PyTorch's layers, as TGAN v2 calls it, with Chainer's names."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='compares with PyTorch')
torch.set_num_threads(1)  # more of them wait for each other on busy machines
F = torch.nn.functional

# A number is a pool of so many frames.
STEPS = (
  *('conv1a', 1, 'conv2a', 2, 'conv3a', 'conv3b', 2),
  *('conv4a', 'conv4b', 2, 'conv5a', 'conv5b', 2),
)
CHANNELS = {
  'conv1a': (3, 64),
  'conv2a': (64, 128),
  'conv3a': (128, 256),
  'conv3b': (256, 256),
  'conv4a': (256, 512),
  'conv4b': (512, 512),
  'conv5a': (512, 512),
  'conv5b': (512, 512),
}
DENSE = {'fc6': (8192, 4096), 'fc7': (4096, 4096), 'fc8': (4096, 101)}


def random_weights(seed=0):
  """Tensors of both files, that keep the size of what passes."""
  rng = np.random.default_rng(seed)
  tensors = {'mean': rng.uniform(60, 140, (3, 16, 128, 171))}
  shapes = {k: (*v[::-1], 3, 3, 3) for k, v in CHANNELS.items()}
  shapes |= {k: v[::-1] for k, v in DENSE.items()}
  for name, shape in shapes.items():
    # Bytes, since there are so many; their standard deviation is 74.
    weight = rng.integers(-128, 128, shape, np.int8).astype(np.float32)
    tensors[f'{name}/W'] = weight * (2 / np.prod(shape[1:])) ** 0.5 / 74
    tensors[f'{name}/b'] = 10 * rng.standard_normal(shape[0])
  return {k: v.astype(np.float32) for k, v in tensors.items()}


def begin(tensors, x, bgr=True):
  """From RGB, (pixel − 128)/128, [n, 3, 16, h, w], to what conv1a sees."""
  x = 128 * (x.flip(1) if bgr else x)
  n, c, t, h, w = x.shape
  x = x.transpose(1, 2).reshape(n * t, c, h, w)
  x = F.interpolate(x, (112, 112), mode='bilinear', align_corners=True)
  x = x.reshape(n, t, c, 112, 112).transpose(1, 2)
  mean = torch.from_numpy(tensors['mean'])
  return x + (128 - mean[:, :, 8:120, 8:120])


def trunk(tensors, x, pool='ceil'):
  """The convolutions and pools; 'floor' and 'padded' are negative controls."""
  steps = list(STEPS)
  for i, step in enumerate(steps):
    if isinstance(step, str):
      weight = torch.from_numpy(tensors[f'{step}/W'])
      bias = torch.from_numpy(tensors[f'{step}/b'])
      x = F.relu(F.conv3d(x, weight, bias, padding=1))
    elif pool == 'padded' and i == len(steps) - 1:
      x = F.max_pool3d(x, 2, padding=(0, 1, 1))
    else:
      x = F.max_pool3d(x, (step, 2, 2), ceil_mode=pool == 'ceil')
  return x


def head(tensors, x, channels_last=False):
  """fc7 after its ReLU, and fc8; of the pools' [n, 512, 1, 4, 4]."""
  x = (torch.movedim(x, 1, -1) if channels_last else x).flatten(1)
  for name in DENSE:
    weight = torch.from_numpy(tensors[f'{name}/W'])
    y = F.linear(x, weight, torch.from_numpy(tensors[f'{name}/b']))
    if name == 'fc8':
      return x, y
    x = F.relu(y)
