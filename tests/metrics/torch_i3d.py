"""I3D of PyTorch's layers, under the names of its PyTorch ports."""

import pytest

torch = pytest.importorskip('torch', reason='compares with PyTorch')
torch.set_num_threads(1)  # more of them wait for each other on busy machines
F = torch.nn.functional

# Block, pool before it (kernel, stride), channels of b0, b1a, b1b, b2a, b2b and
# b3b: figure 3 of Carreira & Zisserman on the widths of Inception-v1.
BLOCKS = [
  ('Mixed_3b', ((1, 3, 3), (1, 2, 2)), [64, 96, 128, 16, 32, 32]),
  ('Mixed_3c', None, [128, 128, 192, 32, 96, 64]),
  ('Mixed_4b', ((3, 3, 3), (2, 2, 2)), [192, 96, 208, 16, 48, 64]),
  ('Mixed_4c', None, [160, 112, 224, 24, 64, 64]),
  ('Mixed_4d', None, [128, 128, 256, 24, 64, 64]),
  ('Mixed_4e', None, [112, 144, 288, 32, 64, 64]),
  ('Mixed_4f', None, [256, 160, 320, 32, 128, 128]),
  ('Mixed_5b', ((2, 2, 2), (2, 2, 2)), [256, 160, 320, 32, 128, 128]),
  ('Mixed_5c', None, [384, 192, 384, 48, 128, 128]),
]


def same(x, kernel, stride, asymmetric=True):
  """Pads by zeros so that ⌈size/stride⌉ windows fit, as TensorFlow does.

  Or, as a negative control, by ⌊kernel/2⌋ on both sides.
  """
  pads = []
  for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
    total = max((-(-size // s) - 1) * s + k - size, 0)
    front = total // 2 if asymmetric else k // 2
    pads = [front, total - front if asymmetric else k // 2, *pads]
  return F.pad(x, pads)


class Unit(torch.nn.Module):
  def __init__(self, inputs, outputs, side, stride=1, *, eps, asymmetric):
    super().__init__()
    self.conv3d = torch.nn.Conv3d(inputs, outputs, side, stride, bias=False)
    self.bn = torch.nn.BatchNorm3d(outputs, eps=eps)
    self.asymmetric = asymmetric

  def forward(self, x):
    sizes = self.conv3d.kernel_size, self.conv3d.stride
    return F.relu(self.bn(self.conv3d(same(x, *sizes, self.asymmetric))))


class Block(torch.nn.Module):
  def __init__(self, inputs, widths, **options):
    super().__init__()
    b0, b1a, b1b, b2a, b2b, b3b = widths
    self.b0 = Unit(inputs, b0, 1, **options)
    self.b1a = Unit(inputs, b1a, 1, **options)
    self.b1b = Unit(b1a, b1b, 3, **options)
    self.b2a = Unit(inputs, b2a, 1, **options)
    self.b2b = Unit(b2a, b2b, 3, **options)
    self.b3b = Unit(inputs, b3b, 1, **options)

  def forward(self, x):
    pooled = F.max_pool3d(same(x, (3, 3, 3), (1, 1, 1)), 3, 1)
    parts = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x))]
    return torch.cat([*parts, self.b3b(pooled)], dim=1)


class I3D(torch.nn.Module):
  def __init__(self, eps=1e-3, asymmetric=True):
    super().__init__()
    options = {'eps': eps, 'asymmetric': asymmetric}
    self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2, **options)
    self.Conv3d_2b_1x1 = Unit(64, 64, 1, **options)
    self.Conv3d_2c_3x3 = Unit(64, 192, 3, **options)
    inputs = 192
    for name, _, widths in BLOCKS:
      self.add_module(name, Block(inputs, widths, **options))
      inputs = widths[0] + widths[2] + widths[4] + widths[5]
    self.logits = torch.nn.Module()
    self.logits.conv3d = torch.nn.Conv3d(inputs, 400, 1)
    self.eval()

  @torch.no_grad()
  def trunk(self, x):
    x = self.Conv3d_1a_7x7(x)
    x = F.max_pool3d(same(x, (1, 3, 3), (1, 2, 2)), (1, 3, 3), (1, 2, 2))
    x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
    for name, pool, _ in BLOCKS:
      if pool is not None:
        x = F.max_pool3d(same(x, *pool), *pool)
      x = getattr(self, name)(x)
    return x

  @torch.no_grad()
  def forward(self, x):
    x = F.avg_pool3d(self.trunk(x), (2, 7, 7), stride=1)
    x = self.logits.conv3d(x).squeeze(4).squeeze(3)
    return x.mean(dim=2)


def random_weights(seed=0):
  """A state dict that keeps the size of what passes, with norms that matter."""
  with torch.device('meta'):
    module = I3D()
  generator = torch.Generator().manual_seed(seed)

  def normal(like):
    return torch.randn(like.shape, generator=generator)

  state = {}
  for name, value in module.state_dict().items():
    leaf = name.rsplit('.', 1)[1]
    if leaf == 'num_batches_tracked':
      state[name] = torch.tensor(7)
    elif leaf == 'running_var':
      state[name] = 0.5 + torch.rand(value.shape, generator=generator)
    elif leaf == 'weight' and value.ndim > 1:
      state[name] = normal(value) * (2 / value[0].numel()) ** 0.5
    else:
      state[name] = 0.2 * normal(value) + (leaf == 'weight')
  return state
