"""Clips of moving shapes, varied, and the truth about each.

The features of `shapes_fd` are learnt from them. Clips are drawn once, at half
the data's speed and twice its length. Each time one of them is taken, it is
played forwards or backwards, at the data's speed or half of it, mirrored, in
its colour or any other, with noise, and at times in an order in which no shape
moves.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from vdm_jax.data import judge
from vdm_jax.data.shapes import Shapes
from vdm_jax.metrics.shapes_network import SIZE, TRUTH
from vdm_jax.progress import Progress

RECOLOURED = 0.5  # share of clips in any colour there is
SLOW = 0.25  # share at half the data's speed
ORDER_ODDS = (0.55, 0.15, 0.15, 0.15)  # of ORDERS
MAX_NOISE = 24.0  # standard deviation, of values from 0 to 255


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool:
  """Clips and what is true of them, at half the data's speed.

  Attributes:
    video: the clips.
    shape: index into `judge.SHAPES`.
    paint: RGB from 0 to 255.
    radius: in pixels.
    positions: (x, y) in pixels, in every frame.
  """

  video: UInt8[Array, 'n t h w 3']
  shape: Int[Array, ' n']
  paint: Float[Array, 'n 3']
  radius: Float[Array, ' n']
  positions: Float[Array, 'n t 2']


def draw(n: int, *, frames: int, seed: int, quiet: bool = False) -> Pool:
  """Clips to be varied; those of no data set, whatever its seed below 2³².

  Args:
    n: how many.
    frames: of a clip when it is varied, half of those drawn.
    seed: another one gives other clips.
    quiet: show no progress.
  """
  source = Shapes(
    frames=2 * frames,
    size=SIZE,
    stride=0.5,
    length=n,
    seed=2**32 + seed,
  )
  states = [source.state(i) for i in range(n)]
  palette = np.array(list(judge.COLOURS.values()), np.float32)
  videos = []
  with Progress(n, name='clip', unit='clips', quiet=quiet) as progress:
    for i in range(n):
      videos.append(source.clip(i)['video'])
      progress.update(i + 1)
  return Pool(
    video=jnp.array(np.stack(videos)),
    shape=jnp.array([s.shape for s in states]),
    paint=jnp.array(palette[[s.colour for s in states]]),
    radius=jnp.array([s.radius for s in states], jnp.float32),
    positions=jnp.array([s.positions for s in states], jnp.float32),
  )


def vary(key: Key[Array, ''], pool: Pool) -> dict[str, Array]:
  """One clip for training, and the truth about it.

  Args:
    key: what is random comes of it.
    pool: the clips that it is made of.

  Returns:
    `video` `[t/2, h, w, 3]` in [−1, 1], the numbers `truth` as in TRUTH,
    `shape`, and `order`, the index into ORDERS.
  """
  keys = dict(zip(_DRAWS, jax.random.split(key, len(_DRAWS)), strict=True))
  count, _, size = pool.video.shape[:3]
  i = jax.random.randint(keys['clip'], (), 0, count)
  order = jax.random.categorical(keys['order'], jnp.log(jnp.array(ORDER_ODDS)))
  index = frame_numbers(keys['frames'], order, pool.video.shape[1] // 2)
  video = pool.video[i][index].astype(jnp.float32)
  place = pool.positions[i][index] / size
  mirrored = jax.random.bernoulli(keys['mirror'])
  video = jnp.where(mirrored, video[:, :, ::-1], video)
  flipped = jnp.stack([1 - place[:, 0], place[:, 1]], axis=-1)
  place = jnp.where(mirrored, flipped, place)
  video, paint = repaint(keys['paint'], video, pool.paint[i])
  level = MAX_NOISE * jnp.square(jax.random.uniform(keys['level']))
  video += level * jax.random.normal(keys['noise'], video.shape)
  video = jnp.round(jnp.clip(video, 0, 255)) / 127.5 - 1
  moves = jnp.diff(place, axis=0)
  truth = {
    'colour': paint / 127.5 - 1,
    'radius': pool.radius[i][None] / size,
    'place': place.mean(axis=0),
    'spread': place.std(axis=0),
    'drift': moves.mean(axis=0),
    'speed': jnp.abs(moves).mean(axis=0),
    'turns': jnp.abs(jnp.diff(moves, axis=0)).mean(axis=0),
    'noise': level[None] / 127.5,
  }
  return {
    'video': video,
    'truth': jnp.concatenate([truth[k] for k in TRUTH]),
    'shape': pool.shape[i],
    'order': order,
  }


_DRAWS = ('clip', 'order', 'frames', 'mirror', 'paint', 'level', 'noise')


def frame_numbers(
  key: Key[Array, ''], order: Int[Array, ''], frames: int
) -> Int[Array, ' frames']:
  """Which of `2 frames` frames make a clip of that order.

  Args:
    key: what is random comes of it.
    order: index into ORDERS.
    frames: of the clip.
  """
  slow, start, back, still, turn, shuffle = jax.random.split(key, 6)
  i = jnp.arange(frames)
  stride = jnp.where(jax.random.bernoulli(slow, SLOW), 1, 2)
  first = jax.random.randint(start, (), 0, 2 * frames - stride * (frames - 1))
  last = jax.random.randint(turn, (), 2, frames - 1)
  numbers = jnp.stack(
    [
      i,
      jax.random.permutation(shuffle, i),
      jnp.full(frames, jax.random.randint(still, (), 0, frames)),
      jnp.abs(last - jnp.abs(i - last)),
    ]
  )[order]
  numbers = first + stride * numbers
  reverse = jax.random.bernoulli(back)
  return jnp.where(reverse, 2 * frames - 1 - numbers, numbers)


def repaint(
  key: Key[Array, ''], video: Float[Array, 't h w 3'], paint: Float[Array, ' 3']
) -> tuple[Float[Array, 't h w 3'], Float[Array, ' 3']]:
  """The clip and its colour, now and then another one than it was drawn in.

  Args:
    key: what is random comes of it.
    video: of values from 0 to 255.
    paint: its colour.
  """
  whether, which = jax.random.split(key)
  ground = jnp.array(judge.BACKGROUND, jnp.float32)
  new = jax.random.uniform(which, (3,), minval=0.0, maxval=255.0)
  contrast = paint - ground
  still = ground[None, None, None]
  cover = (video - still) @ contrast / (contrast @ contrast)
  other = still + cover[..., None] * (new - ground)[None, None, None]
  recoloured = jax.random.bernoulli(whether, RECOLOURED)
  return jnp.where(recoloured, other, video), jnp.where(recoloured, new, paint)
