"""The noise priors: closed forms, the law of what is drawn, continuations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import noise
from vdm_jax.diffusion.noise import NoisePrior

WHITE = NoisePrior()
MIXED = NoisePrior('mixed', 1.0)
PROGRESSIVE = NoisePrior('progressive', 2.0)
PRIORS = (WHITE, MIXED, PROGRESSIVE)
ALPHAS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
SHARED = [NoisePrior(k, a) for k in ('mixed', 'progressive') for a in ALPHAS]


def name(prior):
  return f'{prior.kind}-{prior.alpha:g}'


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def white(n, shape, seed=0):
  """What `keys(n, seed)` draw when nothing is shared."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys(n, seed))


def moments(eps):
  """The covariance over frames, pooled over everything else."""
  rows = np.moveaxis(np.asarray(eps, np.float64), 1, 0).reshape(
    eps.shape[1], -1
  )
  return rows @ rows.T / rows.shape[1], rows.shape[1]


def as_written(prior, frames, square=True):
  """The frames' noise as a matrix on white noise, by the words of the paper.

  The sources' standard deviations are √(α²/(1 + α²)) and √(1/(1 + α²)) (Ge23
  eq. 3 and 4); `square=False` takes the variances for them.
  """
  a2 = prior.alpha**2
  shared, own = np.array([a2, 1]) / (1 + a2)
  if square:
    shared, own = np.sqrt(shared), np.sqrt(own)
  if prior.kind == 'mixed':
    first = np.full((frames, 1), shared)
    return np.concatenate([first, own * np.eye(frames)], axis=1)
  rows = np.zeros((frames, frames))
  rows[0, 0] = 1
  for i in range(1, frames):
    rows[i] = shared * rows[i - 1]
    rows[i, i] = own
  return rows


def correlation(prior):
  """Of two neighbours, as the paper's equations have it."""
  a = prior.alpha
  squared = a**2 / (1 + a**2)
  return squared if prior.kind == 'mixed' else np.sqrt(squared)


@pytest.mark.parametrize('frames', [1, 2, 3, 4, 16, 64])
@pytest.mark.parametrize('prior', [WHITE, *SHARED], ids=name)
def test_closed_forms(prior, frames):
  sigma = prior.covariance(frames)
  if prior.kind != 'independent':
    root = as_written(prior, frames)
    np.testing.assert_allclose(sigma, root @ root.T, atol=1e-14)
  np.testing.assert_array_equal(np.diag(sigma), np.ones(frames))

  def close(got, exact):
    atol = 1e-12 * np.abs(exact).max()
    np.testing.assert_allclose(got, exact, rtol=0, atol=atol)

  cholesky = prior.cholesky(frames)
  close(cholesky, np.linalg.cholesky(sigma))
  np.testing.assert_array_equal(cholesky, np.tril(cholesky))
  whitening = prior.whitening(frames)
  np.testing.assert_array_equal(whitening, np.tril(whitening))
  close(whitening, np.linalg.inv(cholesky))
  close(whitening.T @ whitening, np.linalg.inv(sigma))


@pytest.mark.parametrize('prior', SHARED, ids=name)
def test_frames_have_unit_variance_and_neighbours_their_correlation(prior):
  def is_right(root):
    sigma = root @ root.T
    return np.allclose(np.diag(sigma), 1, atol=1e-14) and np.allclose(
      np.diag(sigma, 1), correlation(prior), atol=1e-14
    )

  assert is_right(prior.cholesky(16))
  # Negative control: variances taken for standard deviations.
  assert is_right(as_written(prior, 16))
  assert prior.alpha == 0 or not is_right(as_written(prior, 16, square=False))


@pytest.mark.parametrize('frames', [1, 2, 3, 4, 16])
@pytest.mark.parametrize('prior', PRIORS, ids=name)
def test_drawn_noise_has_its_covariance(prior, frames):
  shape = (frames, 32, 32, 3)
  covariance, n = moments(prior.sample(keys(16), shape))
  # Five standard deviations of a sample (co)variance, at most √(2/n).
  atol = 5 * np.sqrt(2 / n)
  np.testing.assert_allclose(covariance, prior.covariance(frames), atol=atol)
  if prior is WHITE or frames == 1:
    return
  # Negative controls: white noise, and variances for standard deviations.
  other, _ = moments(white(16, shape))
  assert np.abs(other - prior.covariance(frames)).max() > 10 * atol
  root = as_written(prior, frames, square=False)
  drawn = noise.mix_frames(root, white(16, (root.shape[1], *shape[1:])))
  other, _ = moments(drawn)
  assert np.abs(other - prior.covariance(frames)).max() > 10 * atol


@pytest.mark.parametrize('prior', PRIORS, ids=name)
def test_packed_images_have_no_part_in_it(prior):
  covariance, n = moments(prior.sample(keys(16), (6, 32, 32, 3), 2))
  exact = np.eye(6)
  exact[:4, :4] = prior.covariance(4)
  atol = 5 * np.sqrt(2 / n)
  np.testing.assert_allclose(covariance, exact, atol=atol)
  np.testing.assert_array_equal(prior.covariance(4, 2), exact)
  # Negative control: they are not frames of the video.
  if prior is not WHITE:
    assert np.abs(covariance - prior.covariance(6)).max() > 10 * atol


@pytest.mark.parametrize('prior', PRIORS, ids=name)
def test_an_example_depends_on_its_key_alone(prior):
  many = prior.sample(keys(8), (16, 5, 3, 3))
  for batch in (1, 3, 8):
    some = prior.sample(keys(8)[:batch], (16, 5, 3, 3))
    np.testing.assert_array_equal(some, many[:batch])
  last = prior.sample(keys(8)[7:], (16, 5, 3, 3))
  np.testing.assert_array_equal(last[0], many[7])
  assert not np.array_equal(many[0], many[1])


@pytest.mark.parametrize('image_frames', [0, 2])
@pytest.mark.parametrize('prior', PRIORS, ids=name)
def test_factor_covariance_and_whitening_agree(x64, prior, image_frames):
  shape = (4 + image_frames, 2, 1, 3)
  y = white(2, shape)
  colored = prior.sample(keys(2), shape, image_frames)
  whitened = noise.mix_frames(prior.whitening(4, image_frames), colored)
  np.testing.assert_allclose(whitened, y, atol=1e-13)
  # yᵀ Σ y = |Lᵀ y|².
  transposed = prior.cholesky(4, image_frames).T.copy()
  np.testing.assert_allclose(
    jnp.sum(y * prior.apply_covariance(y, image_frames)),
    jnp.sum(noise.mix_frames(transposed, y) ** 2),
    rtol=1e-13,
  )


@pytest.mark.parametrize('prior', [WHITE, *SHARED], ids=name)
def test_a_window_of_a_long_video_has_the_law_of_training(prior):
  long, short = prior.covariance(64), prior.covariance(16)
  for start in (0, 1, 23, 48):
    window = long[start : start + 16, start : start + 16]
    np.testing.assert_allclose(window, short, atol=1e-15)


def maps_of_extension(prior, known, frames, before):
  """(G, C) of the continuation G ε + C n, read off what `extend` does."""
  unit = np.eye(known)[None, :, :, None, None]
  zero = np.zeros_like(unit)

  def fresh(eps):
    whole = prior.extend(keys(1, 5), jnp.asarray(eps), frames, before=before)
    old, new = whole[:, :known], whole[:, known:]
    if before:
      old, new = whole[:, frames:], whole[:, :frames]
    np.testing.assert_array_equal(old, eps)
    return np.asarray(new)[0, :, :, 0, 0]

  own = fresh(zero)
  drawn = np.asarray(white(1, (frames, known, 1, 1), 5))[0, :, :, 0, 0]
  if before:
    drawn = drawn[::-1]
  return fresh(unit) - own, own @ np.linalg.pinv(drawn)


@pytest.mark.parametrize('before', [False, True])
@pytest.mark.parametrize('prior', [WHITE, *SHARED[1::2]], ids=name)
def test_a_continuation_has_the_joint_law(x64, prior, before):
  known, frames = 5, 3
  gain, own = maps_of_extension(prior, known, frames, before)
  sigma = prior.covariance(known)
  blocks = [[sigma, sigma @ gain.T]]
  blocks += [[gain @ sigma, gain @ sigma @ gain.T + own @ own.T]]
  if before:
    blocks = [row[::-1] for row in blocks[::-1]]
  joint = prior.covariance(known + frames)
  np.testing.assert_allclose(np.block(blocks), joint, atol=1e-12)


def test_what_a_continuation_looks_at(x64):
  gain, _ = maps_of_extension(PROGRESSIVE, 5, 3, before=False)
  rho = correlation(PROGRESSIVE)
  only_the_last = np.zeros((3, 5))
  only_the_last[:, -1] = rho ** np.arange(1, 4)
  np.testing.assert_allclose(gain, only_the_last, atol=1e-15)
  # E[shared|ε] = m r ε̄/(1 + (m − 1) r): a mean over all that is known.
  gain, _ = maps_of_extension(MIXED, 5, 3, before=False)
  r = correlation(MIXED)
  np.testing.assert_allclose(gain, np.full((3, 5), r / (1 + 4 * r)), atol=1e-15)


def test_continuations_of_single_precision_keep_what_they_continue():
  eps = PROGRESSIVE.sample(keys(16), (2, 32, 32, 3))
  whole = PROGRESSIVE.extend(keys(16, seed=1), eps, 2)
  np.testing.assert_array_equal(whole[:, :2], eps)
  covariance, n = moments(whole)
  atol = 5 * np.sqrt(2 / n)
  np.testing.assert_allclose(covariance, PROGRESSIVE.covariance(4), atol=atol)
  # Negative control: a draw of its own leaves the seam open.
  apart = PROGRESSIVE.sample(keys(16, seed=1), (2, 32, 32, 3))
  covariance, _ = moments(jnp.concatenate([eps, apart], axis=1))
  assert np.abs(covariance - PROGRESSIVE.covariance(4)).max() > 10 * atol
  some = PROGRESSIVE.extend(keys(16, seed=1)[:3], eps[:3], 2)
  np.testing.assert_array_equal(some, whole[:3])


@pytest.mark.parametrize('prior', PRIORS, ids=name)
def test_renewed_frames_keep_the_joint_law(prior):
  eps = prior.sample(keys(16), (4, 32, 32, 3))
  renewed = prior.sample_given(keys(16, seed=1), eps=eps, frames=(1, 3))
  np.testing.assert_array_equal(renewed[:, [1, 3]], eps[:, [1, 3]])
  covariance, n = moments(renewed)
  atol = 5 * np.sqrt(2 / n)
  np.testing.assert_allclose(covariance, prior.covariance(4), atol=atol)


def test_independence_costs_nothing():
  y = jnp.ones((1, 3, 1, 1, 1))
  for prior in (WHITE, NoisePrior('mixed'), NoisePrior('progressive')):
    assert prior.apply_covariance(y) is y
    np.testing.assert_array_equal(prior.covariance(2, 1), np.eye(3))
  assert MIXED.apply_covariance(y) is not y


def test_a_prior_is_a_static_value():
  assert hash(NoisePrior()) == hash(NoisePrior('independent', 0))
  assert NoisePrior('mixed', 1) == MIXED != NoisePrior('progressive', 1)
  draw = jax.jit(NoisePrior.sample, static_argnums=(0, 2))
  np.testing.assert_allclose(
    draw(MIXED, keys(2), (3, 2, 2, 1)),
    MIXED.sample(keys(2), (3, 2, 2, 1)),
    atol=1e-6,
  )


@pytest.mark.parametrize(
  'kind, alpha, message',
  [
    ('pink', 0.0, "'pink'; use one of independent, mixed, progressive"),
    ('independent', 1.0, 'independent noise has alpha 0, not 1.0'),
    ('progressive', np.inf, 'singular'),
    ('mixed', 1e200, 'singular'),
    ('mixed', np.nan, 'alpha is nan; it must be'),
    ('progressive', -1.0, 'at least 0'),
  ],
)
def test_what_is_no_prior_is_refused_in_one_line(kind, alpha, message):
  with pytest.raises(ValueError, match=message) as e:
    NoisePrior(kind, alpha)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('kind', ['mixed', 'progressive'])
def test_the_most_that_frames_may_share_can_be_whitened(kind):
  """In float32, to the rounding error that its L⁻¹ magnifies 1000 times."""
  prior = NoisePrior(kind, noise.MAX_ALPHA)
  eps = prior.sample(keys(2), (16, 8, 8, 3))
  whitened = noise.mix_frames(prior.whitening(16), eps)
  np.testing.assert_allclose(whitened, white(2, (16, 8, 8, 3)), atol=0.01)
  assert np.float32(prior.covariance(2)[0, 1]) < 1
