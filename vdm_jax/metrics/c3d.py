"""C3D, the network of the Inception score of videos.

The network of Tran et al. (2015), trained on Sports-1M and then on UCF-101,
with all that stands before it in the programs of TGAN v2 (Saito et al. 2020),
which Ho22 follows.
"""

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.metrics import resizing
from vdm_jax.metrics.layout import Layout, Source

SIZE = 112  # pixels a side
FRAMES = 16
CLASSES = 101
# Frames of the mean are 128×171. The crop begins at 8 along both sides, also
# along the width, of which this is not the middle: TGAN v2 has it so.
MEAN = (3, FRAMES, 128, 171)
CROP = slice(8, 8 + SIZE)
# Channels of the convolutions, and whether a pool follows.
CONVOLUTIONS = (
  ('conv1a', 64, True),
  ('conv2a', 128, True),
  ('conv3a', 256, False),
  ('conv3b', 256, True),
  ('conv4a', 512, False),
  ('conv4b', 512, True),
  ('conv5a', 512, False),
  ('conv5b', 512, True),
)
LAST = (1, 4, 4)  # time, height and width before the dense layers
WIDTH = 4096


class C3D(nn.Module):
  """C3D from pixels to classes.

  Beside the weights there is the parameter 'mean', the mean video of Sports-1M
  as its file has it: `[3, 16, 128, 171]`, BGR, 0…255.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n t h w 3']
  ) -> dict[str, Float[Array, 'n _']]:
    """Features of videos.

    Args:
      x: what `prepare` makes, `[n, 16, 112, 112, 3]`.

    Returns:
      'fc7' (4096, after its ReLU, of which Ho22 take the Fréchet distance) and
      'logits' of UCF-101 (101).

    Raises:
      ValueError: videos are not of 16 frames, or not of 112×112 pixels.
    """
    if x.shape[1] != FRAMES:
      raise ValueError(
        f'C3D takes videos of exactly {FRAMES} frames (got {x.shape[1]})'
      )
    if x.shape[2:4] != (SIZE, SIZE):
      raise ValueError(
        f'C3D takes frames of {SIZE}×{SIZE} pixels (got {x.shape[2:4]})'
      )
    mean = self.param('mean', nn.initializers.zeros, MEAN)
    x = x - mean[:, :, CROP, CROP].transpose(1, 2, 3, 0)[None]
    x = trunk(x)
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(nn.Dense(WIDTH, name='fc6')(x))
    x = nn.relu(nn.Dense(WIDTH, name='fc7')(x))
    return {'fc7': x, 'logits': nn.Dense(CLASSES, name='fc8')(x)}


def trunk(x: Float[Array, 'n t h w c']) -> Float[Array, 'n u k l 512']:
  """The convolutions and pools, at any size.

  To be called in a module, whose submodules it makes.
  """
  for name, features, pooled in CONVOLUTIONS:
    x = nn.relu(nn.Conv(features, (3, 3, 3), name=name)(x))
    if pooled:
      sides = (1 if name == 'conv1a' else 2, 2, 2)
      # Windows that jut out behind count: of 7 pixels, 4 are left.
      x = nn.max_pool(x, sides, sides, 'SAME')
  return x


def prepare(
  videos: Float[Array, 'n t h w 3'],
) -> Float[Array, 'n t 112 112 3']:
  """Input of the network: BGR in 0…255, every frame to 112×112 pixels.

  TGAN v2 gives its network u = (v − 128)/128 for the pixels v = 0…255, which
  the network takes to 128 u + 128 − mean = v − mean. Our pixels are
  v/127.5 − 1, so v is recovered first, exactly, by rounding to whole numbers.
  (TGAN v2's own samples in [−1, 1] meet its network as 0…256, not rounded.)

  The resize is bilinear, without a filter against aliases, with corners of the
  frame on corners; the whole frame, whatever its aspect.

  Args:
    videos: RGB in [−1, 1].
  """
  n, t, h, w, _ = videos.shape
  frames = resizing.levels(videos)[..., ::-1].reshape(n * t, h, w, 3)
  frames = resizing.resize(
    frames, rows=corner_matrix(h, SIZE), columns=corner_matrix(w, SIZE)
  )
  return frames.reshape(n, t, SIZE, SIZE, 3)


def corner_matrix(
  source: int, target: int
) -> Float[np.ndarray, 'target source']:
  """Weights of linear interpolation in which first and last pixels stay."""
  places, pixels = np.linspace(0.0, source - 1.0, target), np.arange(source)
  hats = [np.interp(places, pixels, row) for row in np.eye(source)]
  return np.stack(hats, axis=1)


def layouts() -> dict[str, Layout]:
  """The one kind of files: 'chainer'.

  That is `conv3d_deepnetA_ucf.npz` of TGAN v2 together with `mean2.npz`, whose
  tensor is called 'mean'.
  """
  sources: dict[str, Source | float] = {'mean': Source('mean')}
  for name, *_ in CONVOLUTIONS:
    sources |= {
      f'{name}/kernel': Source(f'{name}/W', _kernel),
      f'{name}/bias': Source(f'{name}/b'),
    }
  for name in ('fc6', 'fc7', 'fc8'):
    convert = _first_dense if name == 'fc6' else np.transpose
    sources |= {
      f'{name}/kernel': Source(f'{name}/W', convert),
      f'{name}/bias': Source(f'{name}/b'),
    }
  return {'chainer': Layout(sources)}


def _kernel(value: np.ndarray) -> np.ndarray:
  """From output, input and three sides to sides, input, output."""
  return value.transpose(2, 3, 4, 1, 0)


def _first_dense(value: np.ndarray) -> np.ndarray:
  """Input from channels first to channels last, then input before output."""
  value = value.reshape(len(value), -1, *LAST)
  return value.transpose(2, 3, 4, 1, 0).reshape(-1, len(value))
