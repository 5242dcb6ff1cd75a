"""Observations: a linear map H of a video together with its value y = H x.

Some frames, a downsampled video, low-resolution key frames, and any union of
these: all that Ho22 §3.1 conditions on. An observation is a pytree whose
leaves are the values, one per example, and whose structure, hence static, is
which frames are seen and how finely.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from vdm_jax.diffusion.noise import NoisePrior, mix_frames
from vdm_jax.diffusion.process import Video

# What H maps to: one array `[b, n, h/f, w/f, c]` per part.
Blocks = Float[Array, 'b _n _h _w c']
Values = tuple[Blocks, ...]


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['values'],
  meta_fields=['indices', 'factor'],
)
@dataclasses.dataclass(frozen=True)
class Part:
  """Some frames, seen through means of blocks of factor × factor pixels.

  Attributes:
    values: `[b, n, h/factor, w/factor, c]`, or whatever a tree map puts here.
    indices: the n frames of the video.
    factor: 1 for frames that are known completely.
  """

  values: Any
  indices: tuple[int, ...]
  factor: int


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=['parts'], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Observation:
  """y = H x; made by `frames`, `downsampled` and `union`.

  Attributes:
    parts: from fine to coarse; no frame is in two of them, and each factor
      divides the next.
  """

  parts: tuple[Part, ...]

  @property
  def known(self) -> tuple[int, ...]:
    """The frames that are known completely, the a of Ho22 eq. 7, sorted."""
    return tuple(
      sorted(i for p in self.parts if p.factor == 1 for i in p.indices)
    )

  def check(self, shape: tuple[int, int, int, int]) -> None:
    """Raises ValueError unless this observes videos of (t, h, w, c)."""
    t, h, w, c = shape
    for part in self.parts:
      if max(part.indices) >= t:
        raise ValueError(
          f'frame {max(part.indices)} is observed, but the video has {t} '
          'frames, counted from 0; observe frames that it has'
        )
      if h % part.factor or w % part.factor:
        raise ValueError(
          f'{h}×{w} pixels do not fall into blocks of {part.factor}; use a '
          'factor that divides both'
        )
      expected = h // part.factor, w // part.factor, c
      if part.values.shape[2:] != expected:
        raise ValueError(
          f'the observed values are {part.values.shape[2:]} per frame, not '
          f'{expected}, which factor {part.factor} makes of ({h}, {w}, {c})'
        )

  def apply(self, x: Video) -> Values:
    """H x, the rows of x that are observed, averaged over blocks."""
    return tuple(_pool(x[:, np.array(p.indices)], p.factor) for p in self.parts)

  def residual(self, x: Video) -> Values:
    """y − H x, in x's precision."""
    return tuple(
      p.values.astype(x.dtype) - value
      for p, value in zip(self.parts, self.apply(x), strict=True)
    )

  def solve(self, values: Values, *, prior: NoisePrior, frames: int) -> Values:
    """(H Σ Hᵀ)⁻¹ u, for the prior's Σ over all `frames` of the video.

    The covariance of the noise as the observation sees it: Σ_aa for known
    frames, Σ_aa/f² for blocks of f × f pixels, whose means have H Hᵀ = I/f².
    Known frames and low-resolution ones together couple in their means only.
    """
    scaled = [p.factor * u for p, u in zip(self.parts, values, strict=True)]
    solved = _solve_orthonormal(self.parts, scaled, prior.covariance(frames))
    return tuple(p.factor * u for p, u in zip(self.parts, solved, strict=True))

  def pin(self, x: Video) -> Video:
    """x^a := the known frames, to the bit; the other frames stay."""
    for part in self.parts:
      if part.factor == 1:
        x = x.at[:, np.array(part.indices)].set(part.values.astype(x.dtype))
    return x


def frames(
  indices: Sequence[int], values: Float[Array | np.ndarray, 'b n h w c']
) -> Observation:
  """Known frames: `values[:, k]` is frame `indices[k]`, in [−1, 1].

  Raises:
    ValueError: indices that are negative, repeated or too few or many.
  """
  return downsampled(1, values, indices)


def downsampled(
  factor: int,
  values: Float[Array | np.ndarray, 'b n h w c'],
  indices: Sequence[int] | None = None,
) -> Observation:
  """A video at 1/factor of the resolution, every pixel the mean of a block.

  Args:
    factor: pixels per side of a block.
    values: the video, in [−1, 1]; `[b, t, h/factor, w/factor, c]`.
    indices: the frames that the values are of, if not all of the video: key
      frames for instance.

  Raises:
    ValueError: a factor below 1, or indices that are negative, repeated or
      too few or many.
  """
  if factor < 1:
    raise ValueError(
      f'the factor of a downsampled video must be 1 or more ({factor})'
    )
  count = values.shape[1]
  where = tuple(int(i) for i in (range(count) if indices is None else indices))
  if not where or len(where) != count:
    raise ValueError(
      f'{count} frames are given for {len(where)} indices; give one frame or '
      'more, and an index for each'
    )
  if min(where) < 0 or len(set(where)) < count:
    raise ValueError(
      f'the observed frames {list(where)} must be distinct and not negative'
    )
  return Observation((Part(jnp.asarray(values), where, factor),))


def union(*observations: Observation) -> Observation:
  """All of the observations at once.

  A frame that is known at one resolution is ignored at a lower one, where it
  would say nothing new.

  Raises:
    ValueError: none is given, two know the same frame at the same resolution,
      their factors do not divide each other, or their batches differ.
  """
  parts = sorted(
    (p for o in observations for p in o.parts), key=lambda p: p.factor
  )
  if not parts:
    raise ValueError('a union needs at least one observation')
  for fine, coarse in itertools.pairwise(parts):
    if coarse.factor % fine.factor:
      raise ValueError(
        f'factor {fine.factor} does not divide factor {coarse.factor}; join '
        'observations whose blocks nest'
      )
    if coarse.values.shape[0] != fine.values.shape[0]:
      raise ValueError(
        f'observations of {fine.values.shape[0]} and of '
        f'{coarse.values.shape[0]} examples cannot be joined'
      )
  seen, kept = {}, []
  for part in parts:
    twice = [i for i in part.indices if seen.get(i) == part.factor]
    if twice:
      raise ValueError(
        f'frames {twice} are observed twice at factor {part.factor}; give '
        'each of them once'
      )
    new = [k for k, i in enumerate(part.indices) if i not in seen]
    seen.update((part.indices[k], part.factor) for k in new)
    if new:
      indices = tuple(part.indices[k] for k in new)
      kept.append(Part(part.values[:, np.array(new)], indices, part.factor))
  return Observation(tuple(kept))


def _pool(x: Blocks, factor: int) -> Blocks:
  """Means over blocks of factor × factor pixels."""
  if factor == 1:
    return x
  b, t, h, w, c = x.shape
  blocks = x.reshape(b, t, h // factor, factor, w // factor, factor, c)
  return blocks.mean((3, 5))


def _repeat(x: Blocks, factor: int) -> Blocks:
  """Every pixel becomes a block of factor × factor equal ones."""
  return jnp.repeat(jnp.repeat(x, factor, 2), factor, 3)


def _solve_orthonormal(
  parts: tuple[Part, ...],
  values: list[Blocks],
  covariance: Float64[np.ndarray, 't t'],
) -> list[Blocks]:
  """Inverts the covariance of noise in units where its blocks have HHᵀ = I.

  A fine frame splits into the means of the coarsest blocks, which are noisy
  jointly with all the coarser frames, and the rest, which is independent of
  them: one system over frames for the means of all parts, and the same
  problem again, without the coarsest part, for what remains.
  """
  if not parts:
    return []
  ratios = [parts[-1].factor // p.factor for p in parts]
  means = [_pool(u, q) for u, q in zip(values, ratios, strict=True)]
  rest = [
    u - _repeat(mean, q)
    for u, mean, q in zip(values, means, ratios, strict=True)
  ][:-1]
  order = np.concatenate([p.indices for p in parts])
  precision = np.linalg.inv(covariance[np.ix_(order, order)])
  joined = jnp.concatenate(
    [q * mean for mean, q in zip(means, ratios, strict=True)], 1
  )
  ends = np.cumsum([len(p.indices) for p in parts])[:-1]
  solved = jnp.split(mix_frames(precision, joined), ends, 1)
  coarse = [_repeat(u, q) / q for u, q in zip(solved, ratios, strict=True)]
  fine = _solve_orthonormal(parts[:-1], rest, covariance)
  return [u + v for u, v in zip(coarse[:-1], fine, strict=True)] + coarse[-1:]
