"""The noise prior: the law of ε, the only Gaussian noise of the diffusion.

ε ~ N(0, Σ ⊗ I) with a covariance Σ over frames and unit variance in every
pixel. Training, the first latent and every random step of a sampler draw
from the same prior. It belongs to the trained model.

On the frame axis the video comes first; `image_frames` independent images
packed behind it stay independent: Σ ⊕ I.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Key

from vdm_jax.diffusion.process import Video

# Kind -> covariance of n video frames. Adding a closed form here is all that
# a further kind needs.
_COVARIANCES = {
  'independent': lambda prior, frames: np.eye(frames),
}
KINDS = tuple(_COVARIANCES)


@dataclasses.dataclass(frozen=True)
class NoisePrior:
  """ε = L n with n white and Σ = L Lᵀ over frames; hashable, hence static.

  Attributes:
    kind: 'independent', Σ = I (Ho22).

  Raises:
    ValueError: an unknown kind.
  """

  kind: str = 'independent'

  def __post_init__(self):
    if self.kind not in _COVARIANCES:
      kinds = ', '.join(_COVARIANCES)
      raise ValueError(f'unknown noise prior {self.kind!r}; use one of {kinds}')

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

  def covariance(
    self, frames: int, image_frames: int = 0
  ) -> Float64[np.ndarray, 'n n']:
    """Σ over `frames` of video and `image_frames` images, unit diagonal."""
    sigma = np.eye(frames + image_frames)
    sigma[:frames, :frames] = _COVARIANCES[self.kind](self, frames)
    return sigma

  def cholesky(
    self, frames: int, image_frames: int = 0
  ) -> Float64[np.ndarray, 'n n']:
    """The lower triangular L with Σ = L Lᵀ."""
    return np.linalg.cholesky(self.covariance(frames, image_frames))

  def apply_covariance(self, video: Video, image_frames: int = 0) -> Video:
    """Σ applied along the frames."""
    frames = video.shape[1] - image_frames
    return mix_frames(self.covariance(frames, image_frames), video)

  def whiten(self, eps: Video, image_frames: int = 0) -> Video:
    """L⁻¹ applied along the frames: white noise, if ε is of this prior."""
    frames = eps.shape[1] - image_frames
    cholesky = self.cholesky(frames, image_frames)
    return mix_frames(np.linalg.inv(cholesky), eps)


def mix_frames(matrix: Float64[np.ndarray, 't t'], video: Video) -> Video:
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
