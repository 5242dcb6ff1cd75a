"""The noise analysis: similarities, the priors' α, encoding, the mode."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests import saved, tiny
from vdm_jax import analyze, coder, errors, main, sharding
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion import correlation, denoiser, inversion, process
from vdm_jax.diffusion.correlation import Fit
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.media import gallery, writing

ONE = jax.devices()[:1]
SHAPE = (16, 16, 3)


@pytest.mark.parametrize('alpha', [0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize('frames', [2, 3, 16, 40])
@pytest.mark.parametrize('kind', ['mixed', 'progressive'])
def test_alpha_of_a_prior_is_recovered(kind, frames, alpha):
  lags = NoisePrior(kind, alpha).covariance(frames)[0, 1:]
  fit = correlation.FITS[kind](lags)
  assert fit.alpha == pytest.approx(alpha, rel=1e-9)
  assert fit.correlation == pytest.approx(lags[0], rel=1e-12)
  assert fit.misfit < 1e-9
  (other,) = set(correlation.FITS) - {kind}
  if frames > 2:
    assert correlation.FITS[other](lags).misfit > 1e-3


def test_alpha_where_no_prior_correlates_alike():
  for fit in correlation.FITS.values():
    assert fit(np.full(3, -0.1))[:2] == (0.0, 0.0)
    assert fit(np.ones(3))[:2] == (np.inf, 1.0)


def test_fits_are_the_least_squares():
  """Over all pairs of frames, of which n − k are k apart."""
  rng = np.random.default_rng(0)
  rates, k = np.linspace(0, 1, 4001)[:, None], np.arange(1, 8)
  curves = {'mixed': rates + 0 * k, 'progressive': rates**k}
  for kind, fit in correlation.FITS.items():
    for _ in range(20):
      lags = np.sort(rng.uniform(-0.2, 0.9, 7))[::-1]
      losses = np.average((curves[kind] - lags) ** 2, axis=1, weights=8 - k)
      assert fit(lags).misfit <= np.sqrt(losses.min()) + 1e-12
      assert fit(lags).misfit == pytest.approx(np.sqrt(losses.min()), rel=1e-4)


def test_similarities_by_hand():
  """Two videos of three frames, whose noises lie in a plane."""
  degrees = np.array([[0, 60, 120], [90, 90, 150]])
  eps = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], -1)
  eps *= np.arange(1, 7).reshape(2, 3, 1)  # lengths do not matter
  found = correlation.similarity(eps)
  own = np.array([[0.5, -0.5, 0.5], [1.0, 0.5, 0.5]])
  assert found.within == pytest.approx(
    (own.mean(), own.mean(1).std(ddof=1), own.std(ddof=1), 6)
  )
  half = np.sqrt(0.75)
  other = np.array([0, 0, -half, half, half, 0, half, half, half])
  assert found.between.mean == pytest.approx(other.mean())
  assert found.between.over_videos == pytest.approx(0, abs=1e-12)
  assert found.between.pairs == 9
  np.testing.assert_allclose(found.by_lag, [[0.5, -0.5], [0.75, 0.5]])


def test_the_standard_error_is_that_of_a_mean():
  lags = np.random.default_rng(1).normal(size=(7, 1))
  error = correlation.standard_error(lambda v: Fit(v[0], 0, 0), lags)
  assert error == pytest.approx(lags.std(ddof=1) / np.sqrt(7))
  assert np.isnan(correlation.standard_error(correlation.mixed, lags**0))


def test_independent_noises_are_alike_by_chance_alone():
  eps = analyze.prior_draws(NoisePrior(), (8, 6, *SHAPE), 0)
  found, d = correlation.similarity(eps), np.prod(SHAPE)
  for mean in (found.within, found.between):
    assert abs(mean.mean) < 4 / np.sqrt(d * mean.pairs)
    assert mean.over_pairs == pytest.approx(1 / np.sqrt(d), rel=0.15)
  shared = analyze.prior_draws(NoisePrior('mixed', 1.0), eps.shape, 0)
  assert correlation.similarity(shared).within.mean == pytest.approx(
    0.5, abs=0.05
  )


@dataclasses.dataclass(frozen=True)
class GaussianImages:
  """Videos whose frames are Gaussian images, and the network of such images.

  A pixel has the variance `variance`, and from frame to frame the correlation
  `rho`. Half of them vary much and slowly, half little and fast.
  """

  mean: np.ndarray
  variance: np.ndarray
  rho: np.ndarray

  def apply(self, variables, z, logsnr):
    """E[x|z], which leaves [−1, 1] where the mean does."""
    alpha, sigma = process.alpha_sigma(process.over_video(logsnr))
    variance = jnp.asarray(self.variance, z.dtype)[None, None]
    mean = jnp.asarray(self.mean, z.dtype)[None, None]
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return mean + gain * (z - alpha * mean)

  def noise(self, x, low=0.002, high=80.0):
    """Where the flow leads: (y − mean) grows like √(variance + s²)."""
    wide = np.sqrt(self.variance + high**2)
    grown = (x - self.mean) * wide / np.sqrt(self.variance + low**2)
    return (self.mean + grown) / np.sqrt(1 + high**2)

  def videos(self, m, n):
    """uint8 `[m, n, h, w, 3]`."""
    rng = np.random.default_rng(0)
    eps = rng.normal(size=(n, m, *SHAPE))
    for i in range(1, n):
      eps[i] = self.rho * eps[i - 1] + np.sqrt(1 - self.rho**2) * eps[i]
    x = self.mean + np.sqrt(self.variance) * eps
    return ((np.clip(x, -1, 1) + 1) * 127.5).round().astype('u1').swapaxes(0, 1)


def images():
  slow = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 2 == 0
  mean = np.where(np.arange(16)[:, None, None] < 1, 1.2, 0.1)
  return GaussianImages(
    np.broadcast_to(mean, SHAPE),
    np.where(slow, 0.3**2, 0.05**2),
    np.where(slow, 0.95, 0.2),
  )


def model(law, **overrides):
  options = {'diffusion__prediction': 'x', 'data__frames': 1}
  config = tiny.config(**(options | overrides))
  mesh = sharding.make_mesh(devices=ONE)
  return coder.Coder(karras(config), law, {}, mesh, 7)


def test_encoded_frames_correlate_as_their_law_says():
  """Every pixel alike, however much it varies: unlike the pixels do."""
  law, k = images(), np.arange(1, 6)
  frames = law.videos(16, 6)
  found = coder.encode(
    model(law, analyze__round_trip=1e-3, sample__batch_size=20), frames, {}
  )
  x = frames / 127.5 - 1
  exact = law.noise(x)
  assert coder.relative(found.eps, exact) < 0.01
  assert found.round_trip < 1e-3 and found.round_trip <= found.worst
  used = (slice(None), slice(None), slice(1, None))  # the first row is clipped
  lags = correlation.similarity(found.eps[used]).by_lag.mean(0)
  np.testing.assert_allclose(lags, (0.95**k + 0.2**k) / 2, atol=0.03)
  centred = (x - law.mean)[used]
  shares = np.array([0.3**2, 0.05**2]) / (0.3**2 + 0.05**2)
  pixels = correlation.similarity(centred).by_lag.mean(0)
  expected = shares @ np.array([0.95**k, 0.2**k])
  np.testing.assert_allclose(pixels, expected, atol=0.03)
  assert np.abs(pixels - lags).min() > 0.1
  other = correlation.similarity(found.eps[used]).between
  assert abs(other.mean) < 0.03


def test_the_denoiser_is_not_clipped():
  """A clipped one does not lead to the noise that the law says."""
  law = images()
  gaussian = model(law)
  x = law.videos(2, 2).reshape(4, 1, *SHAPE).astype(np.float32) / 127.5 - 1
  eps = gaussian(gaussian.programs(64)[0], x, {})
  assert coder.relative(eps, law.noise(x)) < 0.01
  levels = analyze.build.levels(gaussian.config, 65)
  exact = denoiser.from_network(lambda z, logsnr: law.apply({}, z, logsnr), 'x')
  clipped = inversion.encode(
    denoiser.clipped(exact), jnp.asarray(x), logsnrs=levels
  )
  assert coder.relative(np.asarray(clipped), law.noise(x)) > 0.1


def test_the_round_trip_is_of_third_order_the_noises_of_second():
  law = images()
  gaussian = model(law)
  x = law.videos(2, 4).reshape(8, 1, *SHAPE).astype(np.float32) / 127.5 - 1
  off, lost, noises = [], [], []
  for steps in (16, 32, 64):
    there, back = gaussian.programs(steps)
    noises.append(gaussian(there, x, {}))
    off.append(coder.relative(noises[-1], law.noise(x)))
    lost.append(coder.relative(gaussian(back, noises[-1], {}), x))
  print('noises', off, 'round trip', lost)
  for values, order in ((off, 2), (lost, 3)):
    slopes = np.log2(np.array(values[:-1]) / values[1:])
    assert np.all(np.abs(slopes - order) < 0.4), slopes
  moved = coder.relative(noises[1], noises[2])
  assert moved / 3 == pytest.approx(off[2], rel=0.2)


def test_steps_are_doubled_until_the_frames_come_back(capsys):
  law = images()
  frames = law.videos(2, 2)
  gaussian = model(law, analyze__steps=8, analyze__round_trip=0.002)
  found = coder.encode(gaussian, frames, {})
  assert found.steps in (16, 32, 64) and found.round_trip < 0.002
  assert capsys.readouterr().err.count('warning') == 0
  gaussian = model(law, analyze__steps=2, analyze__round_trip=1e-9)
  found = coder.encode(gaussian, frames, {})
  assert found.steps == 2 * coder.MOST and found.round_trip > 1e-9
  assert 'raise config.analyze.steps' in capsys.readouterr().err


class Expanding:
  """A network whose flow takes all frames to nearly the same noise."""

  def apply(self, variables, z, logsnr):
    """x̂ = 2.5 z/α − 1.5: z/α − 1 shrinks like s^−1.5, to 1e-7 of itself."""
    alpha, _ = process.alpha_sigma(process.over_video(logsnr))
    return 2.5 * z / alpha - 1.5


def test_steps_that_do_not_help_are_not_taken(capsys):
  found = coder.encode(
    model(Expanding(), analyze__steps=4), images().videos(2, 2), {}
  )
  assert found.steps < 4 * coder.MOST and found.round_trip > 0.1
  text = capsys.readouterr().err
  assert 'it is not the steps' in text and f'{found.rms:.2f}' in text


def config(**overrides):
  base = {
    'data__frames': 1,
    'model__temporal': False,
    'diffusion__prediction': 'edm',
    'diffusion__weight': 'edm',
    'diffusion__schedule': 'lognormal',
    'analyze__videos': 4,
    'analyze__frames': 3,
    'analyze__steps': 8,
    'analyze__round_trip': 0.5,
  }
  return tiny.config(**(base | overrides))


def karras(config):
  return config_lib.varied(config, {'sample.grid': 'karras'})


@pytest.fixture
def clips(tmp_path):
  """A folder of three videos that can be used, and one that is too short."""
  rng = np.random.default_rng(0)
  for name, frames in (('a', 5), ('b', 5), ('c', 5), ('short', 2)):
    video = rng.integers(0, 256, (frames, 16, 16, 3), np.uint8)
    writing.write_mp4(tmp_path / 'clips' / f'{name}.mp4', video, 8, min_side=1)
  return tmp_path / 'clips'


def test_from_a_checkpoint_to_the_page(tmp_path, clips, capsys):
  c = config(analyze__path=str(clips))
  saved.run(tmp_path / 'run', c, step=3, scale=0.2)
  gallery.rebuild(tmp_path / 'run', scores=[{'valid': '37 %'}])
  analyze.run(c, tmp_path / 'run', ONE)
  out = capsys.readouterr().out
  assert 'lost there and back' in out and 'not the best one' in out
  assert 'short.mp4' in out and '3 videos, not the 4' in out
  found = json.loads((tmp_path / 'run' / 'analysis.json').read_text())
  assert found['names'] == ['a.mp4', 'b.mp4', 'c.mp4']
  noises = found['similarity']['noises of frames']
  assert noises['same_video']['pairs'] == 3 * 3
  assert noises['different_videos']['pairs'] == 3 * 9
  lags = np.mean(found['by_lag'], 0)
  fit = correlation.mixed(lags)
  assert found['alpha']['mixed']['alpha'] == pytest.approx(fit.alpha)
  assert np.asarray(Image.open(tmp_path / 'run' / 'analysis.png')).std() > 5
  page = (tmp_path / 'run' / 'index.html').read_text()
  assert page.count('independent draws') == 1 and '37 %' in page
  assert page.count('<video') == 1 and 'Ge23 Table 1' in page


@pytest.mark.slow
def test_a_second_analysis_is_of_the_data_of_the_run(tmp_path, clips):
  c = config(analyze__path=str(clips))
  saved.run(tmp_path, c, step=3, scale=0.2)
  analyze.run(c, tmp_path, ONE)
  analyze.run(config(), tmp_path, ONE)
  assert (tmp_path / 'index.html').read_text().count('independent draws') == 1


def test_frames_bring_their_conditions_or_none(clips):
  mesh = sharding.make_mesh(devices=ONE)
  own = config(model__labels=True)
  told = analyze.build.data(own)[1]
  labels = analyze.read(own, told, mesh).told['label']
  assert labels.shape == (4,) and (labels >= 0).all()
  other = config(model__labels=True, analyze__path=str(clips))
  read = analyze.read(other, told, mesh)
  assert (read.told['label'] == -1).all()
  assert read.frames.shape == (3, 3, 8, 8, 3)


@pytest.mark.parametrize(
  'overrides, message',
  [
    ({'data__frames': 3}, 'videos of 3 frames'),
    ({'refine__kind': 'upsample'}, 'base model'),
    ({'diffusion__interval': (0.5, 1.0)}, 'noise levels'),
    ({'analyze__videos': 1}, 'videos is 1; it must be at least 2'),
    ({'analyze__frames': 1}, 'frames is 1'),
    ({'analyze__round_trip': 0.0}, 'round_trip'),
    ({'sample__sigma_min': 90.0}, '0.002'),
    (
      {'train__drop__label': 0.0, 'analyze__path': 'clips'},
      'does not know frames without a label',
    ),
  ],
)
def test_what_cannot_be_analysed(overrides, message):
  told = Conditions(classes=('a', 'b'))
  analyze.check(config(), told)
  with pytest.raises(errors.ConfigError, match=message) as e:
    analyze.check(karras(config(**overrides)), told)
  assert '\n' not in str(e.value)


def test_too_few_videos(clips):
  for name in 'bc':
    (clips / f'{name}.mp4').unlink()
  mesh = sharding.make_mesh(devices=ONE)
  with pytest.raises(errors.DataError, match='two or more, of at least 3'):
    analyze.read(config(analyze__path=str(clips)), Conditions(), mesh)


def test_without_the_extra_nothing_is_begun(tmp_path, monkeypatch, capsys):
  saved.run(tmp_path, config())
  monkeypatch.setattr('vdm_jax.media.noises.REQUIRED', ('nonesuch',))
  argv = ['main.py', '--mode=analyze', f'--workdir={tmp_path}']
  monkeypatch.setattr(sys, 'argv', argv)
  assert main.main(argv) == 2
  text = capsys.readouterr().err.strip()
  assert "pip install -e '.[plots]'" in text and '\n' not in text


def test_several_processes_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(errors.ConfigError, match=r'one process \(2'):
    analyze.run(config(), tmp_path)
