"""The weighted loss: equal in every space, and its weights in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import losses, process
from vdm_jax.diffusion.noise import NoisePrior

LEVELS = np.array([-20.0, -6.0, -0.7, 1.2, 8.0, 20.0])
SHAPE = (3, 2, 2, 1)
SNR = np.exp(LEVELS)


def exact_weights(snr):
  sigma2, data2 = 1 / snr, 0.25  # Karras22 write σ for 1/√SNR
  return {
    'eps': snr,
    'v': snr + 1,
    'x': np.ones_like(snr),
    'edm': (sigma2 + data2) / (sigma2 * data2),
    'truncated_snr': np.maximum(snr, 1),
    'min_snr_5': np.minimum(snr, 5),
  }


EXACT = exact_weights(SNR)


def keys(n=6):
  return jax.random.split(jax.random.key(0), n)


def estimate(z, logsnr):
  return jnp.tanh(z) + process.over_video(logsnr) / 40


def unseen(seen, level):
  """z and λ, from c_in z/α and λ + 2 ln σ_d (Karras22 eq. 7)."""
  logsnr = level + 2 * np.log(2)
  s2 = process.over_video(jnp.exp(-logsnr))
  return seen * jnp.sqrt((s2 + 0.25) / (1 + s2)), logsnr


def edm_from_x(*, z, x, logsnr):
  """F = (x − c_skip y)/c_out (Karras22 eq. 7)."""
  s2 = process.over_video(jnp.exp(-logsnr))
  y = z * jnp.sqrt(1 + s2)
  return (x - 0.25 / (s2 + 0.25) * y) * jnp.sqrt((s2 + 0.25) / (0.25 * s2))


def network(prediction):
  """The network of a prediction type whose x̂ is `estimate`."""
  convert = {
    'eps': process.eps_from_x,
    'v': process.v_from_x,
    'x': lambda *, z, x, logsnr: x,
    'edm': edm_from_x,
  }[prediction]

  def apply(z, logsnr):
    if prediction == 'edm':
      z, logsnr = unseen(z, logsnr)
    return convert(z=z, x=estimate(z, logsnr), logsnr=logsnr)

  return apply


def data(n=6):
  return jax.random.uniform(jax.random.key(1), (n, *SHAPE), minval=-1)


@pytest.mark.parametrize('weight', losses.WEIGHTS)
@pytest.mark.parametrize('prediction', process.PREDICTIONS)
def test_the_loss_is_the_weighted_error_of_x_hat(x64, prediction, weight):
  x, logsnr = data(), jnp.array(LEVELS)
  got = losses.denoising_loss(
    network(prediction),
    x=x,
    logsnr=logsnr,
    keys=keys(),
    prior=NoisePrior(),
    prediction=prediction,
    weight=weight,
  )
  eps = NoisePrior().sample(keys(), SHAPE)
  z = process.diffuse(x=x, eps=eps, logsnr=logsnr)
  error = np.mean((estimate(z, logsnr) - x) ** 2, axis=(2, 3, 4))
  assert got.shape == (len(LEVELS), 3)
  np.testing.assert_allclose(got, EXACT[weight][:, None] * error, rtol=1e-9)
  # Negative control: no other weight fits.
  for other in set(losses.WEIGHTS) - {weight}:
    ratio = np.asarray(got) / (EXACT[other][:, None] * error)
    assert np.abs(np.log(ratio)).max() > 0.1


@pytest.mark.parametrize('weight', losses.WEIGHTS)
@pytest.mark.parametrize('prediction', process.PREDICTIONS)
def test_float32_weights_are_exact_at_the_ends(prediction, weight):
  got = losses.output_weight(
    weight, prediction=prediction, logsnr=jnp.array(LEVELS)
  )
  levels = LEVELS.astype(np.float32).astype(np.float64)
  snr = np.exp(levels)
  exact = exact_weights(snr)
  np.testing.assert_allclose(got, exact[weight] / exact[prediction], rtol=5e-6)
  if weight == prediction:
    np.testing.assert_array_equal(got, np.ones(len(LEVELS)))


def test_images_count_by_their_weight():
  loss = jax.random.uniform(jax.random.key(0), (4, 5))
  video, image = loss[:, :3].mean(), loss[:, 3:].mean()

  def mean(weight, images=2):
    return losses.mean_of_frames(loss, image_frames=images, image_weight=weight)

  np.testing.assert_array_equal(mean(1.0), jnp.mean(loss))
  np.testing.assert_allclose(mean(0.0), video, rtol=1e-6)
  for weight in (0.5, 3.0):
    exact = (3 * video + weight * 2 * image) / (3 + weight * 2)
    np.testing.assert_allclose(mean(weight), exact, rtol=1e-6)
  # Without images there is nothing to weigh.
  np.testing.assert_array_equal(mean(0.5, images=0), jnp.mean(loss))


def test_eps_weight_on_a_v_network_is_a_sigmoid(x64):
  levels = jnp.linspace(-20, 20, 41)
  got = losses.output_weight('eps', prediction='v', logsnr=levels)
  np.testing.assert_allclose(got, 1 / (1 + np.exp(-levels)), rtol=1e-13)


@pytest.mark.parametrize(
  'prior', [NoisePrior(), NoisePrior('progressive', 2.0)], ids=lambda p: p.kind
)
def test_the_edm_loss_is_the_v_loss_of_x_of_unit_variance(x64, prior):
  x, logsnr = data(), jnp.array(LEVELS)

  def raw(z, logsnr):
    return jnp.sin(3 * z) + process.over_video(logsnr) / 40

  def v_loss(level):
    return losses.denoising_loss(
      lambda z, logsnr: -raw(z, logsnr),
      x=x / 0.5,
      logsnr=level,
      keys=keys(),
      prior=prior,
      prediction='v',
      weight='v',
    )

  edm = losses.denoising_loss(
    raw,
    x=x,
    logsnr=logsnr,
    keys=keys(),
    prior=prior,
    prediction='edm',
    weight='edm',
  )
  np.testing.assert_allclose(edm, v_loss(logsnr + 2 * np.log(0.5)), rtol=1e-12)
  # Negative control: not at the log-SNR of x itself.
  assert np.abs(v_loss(logsnr) / edm - 1).max() > 0.1


def test_a_loss_of_the_right_answer_is_zero_and_frames_stay_apart():
  x, logsnr = data(2), jnp.array([-1.0, 2.0])

  def oracle(z, logsnr):
    eps = process.eps_from_x(z=z, x=x, logsnr=logsnr)
    return eps.at[:, 1].add(0.5)

  loss = losses.denoising_loss(
    oracle,
    x=x,
    logsnr=logsnr,
    keys=keys(2),
    prior=NoisePrior(),
    prediction='eps',
    weight='eps',
    image_frames=1,
  )
  np.testing.assert_allclose(loss[:, [0, 2]], jnp.zeros((2, 2)), atol=1e-10)
  np.testing.assert_allclose(loss[:, 1], jnp.full(2, 0.25), rtol=1e-5)


def test_levels_per_frame():
  x = data(1)
  levels = jnp.array([[-1.0, 2.0, 0.3]])
  kwargs = {
    'x': x,
    'prior': NoisePrior(),
    'prediction': 'v',
    'weight': 'eps',
  }
  together = losses.denoising_loss(
    network('v'), logsnr=levels, keys=keys(1), **kwargs
  )
  for frame in range(3):
    alone = losses.denoising_loss(
      network('v'), logsnr=levels[:, frame], keys=keys(1), **kwargs
    )
    np.testing.assert_allclose(together[:, frame], alone[:, frame], rtol=1e-6)


def test_unknown_names_list_the_known_ones():
  with pytest.raises(
    ValueError, match='use one of eps, v, x, edm, truncated_snr'
  ):
    losses.output_weight('snr', prediction='v', logsnr=jnp.zeros(1))
  with pytest.raises(ValueError, match='use one of eps, v, x'):
    losses.output_weight('eps', prediction='score', logsnr=jnp.zeros(1))


def test_bands_partition_the_loss():
  logsnr = jnp.array([-9.0, -2.0, -2.5, 0.0, 30.0])
  loss = jnp.arange(10.0).reshape(5, 2)
  sums, counts = losses.banded(loss, logsnr, (-5.0, -2.0, 0.0, 10.0, 20.0))
  # λ = −2 and λ = 0 lie on edges and belong to the band above them.
  np.testing.assert_array_equal(sums, [1, 9, 5, 13, 0, 17])
  np.testing.assert_array_equal(counts, [2, 2, 2, 2, 0, 2])


def test_a_band_keeps_its_infinities_to_itself():
  loss = jnp.array([[1.0], [jnp.nan]])
  sums, _ = losses.banded(loss, jnp.array([[-1.0], [1.0]]), (0.0,))
  assert sums[0] == 1 and np.isnan(sums[1])
  with pytest.raises(ValueError, match='must increase'):
    losses.banded(loss, jnp.zeros(2), (1.0, 0.0))
