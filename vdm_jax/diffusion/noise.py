"""The noise prior: the law of ε, the only Gaussian noise of the diffusion.

ε ~ N(0, Σ ⊗ I) with a covariance Σ over frames and unit variance in every
pixel. Training, the first latent and every random step of a sampler draw
from the same prior. It belongs to the trained model.

On the frame axis the video comes first; `image_frames` independent images
packed behind it stay independent: Σ ⊕ I.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key

from vdm_jax.diffusion.process import Video

Square = Float64[np.ndarray, 'n n']

# Above it 1 − Σ_ij of neighbours is lost in float32: all frames are one.
MAX_ALPHA = 1000.0


class FrameLaw(NamedTuple):
  """Σ over n frames with all that follows from it, in closed form."""

  covariance: Square
  cholesky: Square  # L, lower triangular, Σ = L Lᵀ
  whitening: Square  # L⁻¹


def _independent(alpha: float, frames: int) -> FrameLaw:
  """Σ = I (Ho22 §2)."""
  eye = np.eye(frames)
  return FrameLaw(eye, eye, eye)


def _mixed(alpha: float, frames: int) -> FrameLaw:
  """Σ = (1 − r) I + r 11ᵀ with r = α²/(1 + α²) (Ge23 eq. 3).

  The factor follows from the law of a frame given those before it: its mean is
  r/d_i times their sum, d_i = 1 + (i − 1) r.
  """
  own, r = 1 / (1 + alpha**2), alpha**2 / (1 + alpha**2)
  ones, eye = np.ones((frames, frames)), np.eye(frames)
  d = 1 + np.arange(-1, frames) * r
  d[0] = own
  spread = np.sqrt(own * d[1:] / d[:-1])
  below = r * np.sqrt(own / (d[1:] * d[:-1]))
  return FrameLaw(
    covariance=np.where(eye == 1, 1.0, r),
    cholesky=np.diag(spread) + np.tril(ones * below, -1),
    whitening=np.tril(eye - (1 - eye) * (r / d[:-1])[:, None])
    / spread[:, None],
  )


def _progressive(alpha: float, frames: int) -> FrameLaw:
  """Σ_ij = ρ^|i−j| with ρ = α/√(1 + α²) (Ge23 eq. 4).

  Each frame depends on the one before it alone, so that L⁻¹ has two diagonals.
  """
  own, rho = 1 / (1 + alpha**2), alpha / math.sqrt(1 + alpha**2)
  i = np.arange(frames)
  covariance = rho ** np.abs(i[:, None] - i)
  innovation = np.where(i > 0, math.sqrt(own), 1.0)
  chain = np.eye(frames) - rho * np.eye(frames, k=-1)
  return FrameLaw(
    covariance=covariance,
    cholesky=np.tril(covariance) * innovation,
    whitening=chain / innovation[:, None],
  )


_LAWS = {
  'independent': _independent,
  'mixed': _mixed,
  'progressive': _progressive,
}
KINDS = tuple(_LAWS)


@dataclasses.dataclass(frozen=True)
class NoisePrior:
  """ε = L n with n white and Σ = L Lᵀ over frames; hashable, hence static.

  Attributes:
    kind: 'independent', Σ = I (Ho22); 'mixed', a noise shared by all frames
      and one of each frame's own (Ge23 eq. 3); 'progressive', each frame's
      noise a perturbation of the one before (Ge23 eq. 4).
    alpha: how much the frames share; 0 is independence. Neighbours correlate
      by α²/(1 + α²) in 'mixed' and by α/√(1 + α²) in 'progressive'. Ge23 find
      1 and 2 best.

  Raises:
    ValueError: an unknown kind, or an alpha out of its range.
  """

  kind: str = 'independent'
  alpha: float = 0.0

  def __post_init__(self):
    if self.kind not in _LAWS:
      kinds = ', '.join(_LAWS)
      raise ValueError(f'unknown noise prior {self.kind!r}; use one of {kinds}')
    if self.kind == 'independent' and self.alpha != 0:
      raise ValueError(
        f'independent noise has alpha 0, not {self.alpha}; use mixed or '
        'progressive for noise that frames share'
      )
    if self.alpha > MAX_ALPHA:
      raise ValueError(
        f'alpha is {self.alpha}, which makes one noise of all frames: its '
        'covariance is singular, so that nothing could be whitened; use at '
        f'most {MAX_ALPHA:g}'
      )
    if not self.alpha >= 0:
      raise ValueError(
        f'alpha is {self.alpha}; it must be a number of at least 0, such as 1 '
        'for mixed and 2 for progressive'
      )

  def sample(
    self,
    keys: Key[Array, ' b'],
    shape: tuple[int, int, int, int],
    image_frames: int = 0,
  ) -> Video:
    """ε ~ N(0, Σ ⊗ I) `[b, t, h, w, c]`, `shape` = (t, h, w, c), a key each.

    Example i depends on `keys[i]` alone. That holds for the default threefry
    keys; `rbg` keys lose it under `vmap`. `shape[0]` counts all frames, the
    packed images included.
    """
    white = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    cholesky = self.cholesky(shape[0] - image_frames, image_frames)
    return mix_frames(cholesky, white)

  def sample_given(
    self, keys: Key[Array, ' b'], *, eps: Video, frames: tuple[int, ...]
  ) -> Video:
    """ε with all but `frames` drawn anew, given ε^b at `frames`, a key each.

    p(ε^a|ε^b) = N(Σ_ab Σ_bb⁻¹ ε^b, Σ_aa − Σ_ab Σ_bb⁻¹ Σ_ba), drawn as
    n^a + Σ_ab Σ_bb⁻¹ (ε^b − n^b) with n ~ N(0, Σ). No packed images.
    """
    given = list(frames)
    drawn = self.sample(keys, eps.shape[1:])
    sigma = self.covariance(eps.shape[1])
    gain = np.zeros_like(sigma)
    gain[:, given] = np.linalg.solve(
      sigma[np.ix_(given, given)], sigma[given]
    ).T
    renewed = drawn + mix_frames(gain, eps - drawn)
    return renewed.at[:, given].set(eps[:, given]) if given else renewed

  def extend(
    self,
    keys: Key[Array, ' b'],
    eps: Float[Array, 'b t h w c'],
    frames: int,
    before: bool = False,
  ) -> Float[Array, 'b n h w c']:
    """ε of t frames, continued by `frames` more, given all that are known.

    With L = (A 0; B C) over all n = t + `frames`, the new ones are
    B A⁻¹ ε + C n, n white. For 'progressive' that is
    ε^i = ρ ε^{i−1} + √(1 − ρ²) n^i (Ge23 eq. 4), which looks at the last frame
    alone; for 'mixed' (Ge23 eq. 3) it draws the shared noise given all frames.
    Both laws are reversible: `before` puts the new frames in front. The keys
    must be others than those of ε. No packed images.
    """
    if before:
      return self.extend(keys, eps[:, ::-1], frames)[:, ::-1]
    known = eps.shape[1]
    below = self.cholesky(known + frames)[known:]
    gain = below[:, :known] @ self.whitening(known)
    shape = (frames, *eps.shape[2:])
    white = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    own = np.ascontiguousarray(below[:, known:])
    fresh = mix_frames(gain, eps) + mix_frames(own, white)
    return jnp.concatenate([eps, fresh], axis=1)

  def covariance(self, frames: int, image_frames: int = 0) -> Square:
    """Σ over `frames` of video and `image_frames` images, unit diagonal."""
    return _with_images(self._law(frames).covariance, image_frames)

  def cholesky(self, frames: int, image_frames: int = 0) -> Square:
    """The lower triangular L with Σ = L Lᵀ, in closed form."""
    return _with_images(self._law(frames).cholesky, image_frames)

  def whitening(self, frames: int, image_frames: int = 0) -> Square:
    """L⁻¹, in closed form."""
    return _with_images(self._law(frames).whitening, image_frames)

  def apply_covariance(self, video: Video, image_frames: int = 0) -> Video:
    """Σ applied along the frames."""
    frames = video.shape[1] - image_frames
    return mix_frames(self.covariance(frames, image_frames), video)

  def _law(self, frames: int) -> FrameLaw:
    if frames < 1:
      return _independent(0.0, frames)
    return _LAWS[self.kind](self.alpha, frames)


def _with_images(
  video: Float64[np.ndarray, 't t'], image_frames: int
) -> Square:
  """M ⊕ I: images behind the video have no part in its matrix."""
  frames = len(video)
  matrix = np.eye(frames + image_frames)
  matrix[:frames, :frames] = video
  return matrix


def mix_frames(
  matrix: Float64[np.ndarray, 'n t'], video: Float[Array, 'b t h w c']
) -> Float[Array, 'b n h w c']:
  """Σ_j M_ij y_j over the frames j; the identity costs nothing.

  In full float32 precision on every accelerator: noise rounded to bfloat16
  would not have the covariance that it claims.
  """
  if np.array_equal(matrix, np.eye(len(matrix))):
    return video
  return jnp.einsum(
    'ij,bjhwc->bihwc',
    jnp.asarray(matrix, video.dtype),
    video,
    precision=jax.lax.Precision.HIGHEST,
  )
