"""Inception-v3 with FID's patches in torch.nn, written apart from ours.

The names are torchvision's. Needs PyTorch: import it after a skip.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Module):
  def __init__(self, inputs, outputs, **kwargs):
    super().__init__()
    self.conv = nn.Conv2d(inputs, outputs, bias=False, **kwargs)
    self.bn = nn.BatchNorm2d(outputs, eps=0.001)

  def forward(self, x):
    return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
  """What the five kinds of blocks have in common: how they pool."""

  def __init__(self, counts_padding=False):
    super().__init__()
    self.counts_padding = counts_padding

  def average(self, x):
    return F.avg_pool2d(
      x, 3, stride=1, padding=1, count_include_pad=self.counts_padding
    )


class BlockA(Block):
  def __init__(self, inputs, pool, **kwargs):
    super().__init__(**kwargs)
    self.branch1x1 = Conv(inputs, 64, kernel_size=1)
    self.branch5x5_1 = Conv(inputs, 48, kernel_size=1)
    self.branch5x5_2 = Conv(48, 64, kernel_size=5, padding=2)
    self.branch3x3dbl_1 = Conv(inputs, 64, kernel_size=1)
    self.branch3x3dbl_2 = Conv(64, 96, kernel_size=3, padding=1)
    self.branch3x3dbl_3 = Conv(96, 96, kernel_size=3, padding=1)
    self.branch_pool = Conv(inputs, pool, kernel_size=1)

  def forward(self, x):
    five = self.branch5x5_2(self.branch5x5_1(x))
    three = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
    three = self.branch3x3dbl_3(three)
    pool = self.branch_pool(self.average(x))
    return torch.cat([self.branch1x1(x), five, three, pool], 1)


class BlockB(Block):
  def __init__(self, inputs):
    super().__init__()
    self.branch3x3 = Conv(inputs, 384, kernel_size=3, stride=2)
    self.branch3x3dbl_1 = Conv(inputs, 64, kernel_size=1)
    self.branch3x3dbl_2 = Conv(64, 96, kernel_size=3, padding=1)
    self.branch3x3dbl_3 = Conv(96, 96, kernel_size=3, stride=2)

  def forward(self, x):
    double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
    double = self.branch3x3dbl_3(double)
    return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(Block):
  def __init__(self, inputs, c, **kwargs):
    super().__init__(**kwargs)
    wide = {'kernel_size': (1, 7), 'padding': (0, 3)}
    high = {'kernel_size': (7, 1), 'padding': (3, 0)}
    self.branch1x1 = Conv(inputs, 192, kernel_size=1)
    self.branch7x7_1 = Conv(inputs, c, kernel_size=1)
    self.branch7x7_2 = Conv(c, c, **wide)
    self.branch7x7_3 = Conv(c, 192, **high)
    self.branch7x7dbl_1 = Conv(inputs, c, kernel_size=1)
    self.branch7x7dbl_2 = Conv(c, c, **high)
    self.branch7x7dbl_3 = Conv(c, c, **wide)
    self.branch7x7dbl_4 = Conv(c, c, **high)
    self.branch7x7dbl_5 = Conv(c, 192, **wide)
    self.branch_pool = Conv(inputs, 192, kernel_size=1)

  def forward(self, x):
    seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
    double = self.branch7x7dbl_2(self.branch7x7dbl_1(x))
    double = self.branch7x7dbl_4(self.branch7x7dbl_3(double))
    double = self.branch7x7dbl_5(double)
    pool = self.branch_pool(self.average(x))
    return torch.cat([self.branch1x1(x), seven, double, pool], 1)


class BlockD(Block):
  def __init__(self, inputs):
    super().__init__()
    self.branch3x3_1 = Conv(inputs, 192, kernel_size=1)
    self.branch3x3_2 = Conv(192, 320, kernel_size=3, stride=2)
    self.branch7x7x3_1 = Conv(inputs, 192, kernel_size=1)
    self.branch7x7x3_2 = Conv(192, 192, kernel_size=(1, 7), padding=(0, 3))
    self.branch7x7x3_3 = Conv(192, 192, kernel_size=(7, 1), padding=(3, 0))
    self.branch7x7x3_4 = Conv(192, 192, kernel_size=3, stride=2)

  def forward(self, x):
    three = self.branch3x3_2(self.branch3x3_1(x))
    seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
    seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
    return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(Block):
  def __init__(self, inputs, maximum, **kwargs):
    super().__init__(**kwargs)
    wide = {'kernel_size': (1, 3), 'padding': (0, 1)}
    high = {'kernel_size': (3, 1), 'padding': (1, 0)}
    self.maximum = maximum
    self.branch1x1 = Conv(inputs, 320, kernel_size=1)
    self.branch3x3_1 = Conv(inputs, 384, kernel_size=1)
    self.branch3x3_2a = Conv(384, 384, **wide)
    self.branch3x3_2b = Conv(384, 384, **high)
    self.branch3x3dbl_1 = Conv(inputs, 448, kernel_size=1)
    self.branch3x3dbl_2 = Conv(448, 384, kernel_size=3, padding=1)
    self.branch3x3dbl_3a = Conv(384, 384, **wide)
    self.branch3x3dbl_3b = Conv(384, 384, **high)
    self.branch_pool = Conv(inputs, 192, kernel_size=1)

  def forward(self, x):
    three = self.branch3x3_1(x)
    three = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
    double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
    double = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
    if self.maximum:
      pool = F.max_pool2d(x, 3, stride=1, padding=1)
    else:
      pool = self.average(x)
    pool = self.branch_pool(pool)
    return torch.cat([self.branch1x1(x), *three, *double, pool], 1)


class Inception3(nn.Module):
  """`counts_padding` and `last_maximum` are right at their defaults."""

  def __init__(self):
    super().__init__()
    self.Conv2d_1a_3x3 = Conv(3, 32, kernel_size=3, stride=2)
    self.Conv2d_2a_3x3 = Conv(32, 32, kernel_size=3)
    self.Conv2d_2b_3x3 = Conv(32, 64, kernel_size=3, padding=1)
    self.Conv2d_3b_1x1 = Conv(64, 80, kernel_size=1)
    self.Conv2d_4a_3x3 = Conv(80, 192, kernel_size=3)
    self.Mixed_5b = BlockA(192, 32)
    self.Mixed_5c = BlockA(256, 64)
    self.Mixed_5d = BlockA(288, 64)
    self.Mixed_6a = BlockB(288)
    self.Mixed_6b = BlockC(768, 128)
    self.Mixed_6c = BlockC(768, 160)
    self.Mixed_6d = BlockC(768, 160)
    self.Mixed_6e = BlockC(768, 192)
    self.Mixed_7a = BlockD(768)
    self.Mixed_7b = BlockE(1280, maximum=False)
    self.Mixed_7c = BlockE(2048, maximum=True)
    self.fc = nn.Linear(2048, 1008)

  def forward(self, x):
    """Pool3 and logits of `[n, 3, h, w]`."""
    x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))
    x = F.max_pool2d(self.Conv2d_2b_3x3(x), 3, 2)
    x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
    x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
    x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
    x = self.Mixed_6e(self.Mixed_6d(x))
    x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
    x = F.adaptive_avg_pool2d(x, 1).flatten(1)
    return x, self.fc(x)


def make(seed=0):
  """The network with He's weights and all channels alive.

  Norms have the statistics of random images, disturbed moderately.
  """
  random = torch.Generator().manual_seed(seed)
  with torch.device('meta'):
    network = Inception3()
  network = network.to_empty(device='cpu').requires_grad_(False)

  def normal(tensor, mean, std):
    tensor.copy_(mean + std * torch.randn(tensor.shape, generator=random))

  def disturb(tensor):
    tensor.mul_(0.7 + 0.6 * torch.rand(tensor.shape, generator=random))

  norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
  for name, tensor in network.state_dict().items():
    if tensor.ndim > 1:
      normal(tensor, 0.0, (2.0 / tensor[0].numel()) ** 0.5)
    elif name.endswith('.bias'):
      normal(tensor, 0.0, 0.2)
  for norm in norms:
    norm.reset_running_stats()
    norm.weight.fill_(1.0)
    norm.momentum = 1.0
  network.train()(2.0 * torch.rand((4, 3, 139, 139), generator=random) - 1.0)
  for norm in norms:
    # Few pixels are left at the end, and some channels are alike on all.
    norm.running_var.add_(norm.running_var.mean())
    shift = torch.randn(norm.running_mean.shape, generator=random)
    norm.running_mean.add_(0.2 * shift * norm.running_var.sqrt())
    disturb(norm.running_var)
    disturb(norm.weight)
  return network.eval()
