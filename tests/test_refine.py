"""Refining models: what they see is a function of the coarse video alone."""

import dataclasses
import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vdm_jax import (
  build,
  errors,
  generate,
  refine,
  rng,
  sample,
  sharding,
  train,
)
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion import process
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.refine import Interpolate, Refine, Upsample

PRIOR = NoisePrior('progressive', 2.0)
BATCH, FRAMES, SIZE = 3, 7, 8


def keys(count=BATCH, seed=0):
  return rng.per_example(rng.stream(seed, 'refine'), jnp.arange(count))


def clips(frames=FRAMES, size=SIZE, count=BATCH, seed=0):
  shape = (count, frames, size, size, 3)
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return jnp.asarray(pixels)


@functools.partial(jax.jit, static_argnums=(0, 3))
def training(stage, video, keys, image_frames=0):
  """Clips or crops of them, and what the network sees."""
  return stage.training(
    video, keys=keys, prior=PRIOR, image_frames=image_frames
  )


@functools.partial(jax.jit, static_argnums=(0, 3))
def sampling(stage, low, keys, frames):
  return stage.sampling(low, keys=keys, prior=PRIOR, frames=frames)


def seen(stage, video, image_frames=0):
  return training(stage, video, keys(), image_frames)[1]


def same(a, b):
  return all(bool(jnp.array_equal(a[k], b[k])) for k in a)


def swapped(video):
  """Other pixels, the same means of blocks of 2×2: two of each change place."""
  first, second = video[:, :, 0::2, 0::2], video[:, :, 1::2, 1::2]
  return video.at[:, :, 0::2, 0::2].set(second).at[:, :, 1::2, 1::2].set(first)


@pytest.mark.parametrize('crop', [0, 4])
def test_upsampling_sees_means_of_blocks_alone(crop):
  stage = Refine(Upsample(2), crop=crop)
  video = clips()
  other = swapped(video)
  assert np.mean(np.asarray(video != other)) > 0.4
  assert same(seen(stage, video), seen(stage, other))
  # A mean that changes by two grey levels is seen, in its frame alone.
  brighter = video.at[0, 2, :2, :2, 0].set(100).at[0, 2, 0, 0, 0].set(108)
  darker = brighter.at[0, 2, 0, 0, 0].set(100)
  a, b = (seen(Refine(Upsample(2)), v)['extra'] for v in (brighter, darker))
  moved = np.abs(a - b).max((2, 3, 4))
  assert moved[0, 2] > 0 and np.count_nonzero(moved) == 1


@pytest.mark.parametrize('crop', [0, 4])
def test_interpolation_sees_key_frames_alone(crop):
  stage = Refine(Interpolate(3), crop=crop)
  video = clips()
  between = np.array([1, 2, 4, 5])
  other = video.at[:, between].set(clips(seed=1)[:, between])
  assert same(seen(stage, video), seen(stage, other))
  changed = seen(stage, video.at[:, 3].add(9))
  assert not same(seen(stage, video), changed)
  extra = seen(stage, video)['extra']
  keyed = np.isin(np.arange(FRAMES), (0, 3, 6))
  assert extra.shape[-1] == 4
  np.testing.assert_array_equal(extra[0, :, 0, 0, 3], keyed)
  np.testing.assert_array_equal(extra[:, ~keyed], 0)
  assert np.abs(extra[:, keyed, ..., :3]).mean() > 0.1


@pytest.mark.parametrize('form', [Upsample(2), Interpolate(3)])
def test_training_sees_what_sampling_sees(form):
  """Of a clip, and of what the stage before would have made of it."""
  video = clips()
  low = form.lower(video)
  np.testing.assert_array_equal(low, form.lower(np.asarray(video)))
  clean = Refine(form, augment=False)
  in_training = seen(clean, video)
  assert set(in_training) == {'extra'}
  assert same(in_training, sampling(clean, low, keys(), FRAMES))
  # No noise is none at all; but the network is told that there is none.
  none = sampling(Refine(form, level=0.0), low, keys(), FRAMES)
  assert same(in_training, none) and set(none) == {'extra', 'augment'}
  some = sampling(Refine(form, level=0.1), low, keys(), FRAMES)
  assert not same(in_training, some)
  assert np.all(some['augment'] < none['augment'])


def test_a_low_video_is_rounded_means_of_blocks():
  video = clips(size=12)
  for factor in (2, 3, 4):
    low = np.asarray(Upsample(factor).lower(video), np.float64)
    for y, x in ((0, 0), (2, 1)):
      rows = slice(y * factor, (y + 1) * factor)
      columns = slice(x * factor, (x + 1) * factor)
      mean = np.mean(np.asarray(video)[:, :, rows, columns], (2, 3))
      assert np.abs(low[:, :, y, x] - mean).max() <= 0.5


@pytest.mark.parametrize('factor', [2, 3, 4])
def test_bilinear_is_that_of_jax_image(factor):
  low = jax.random.uniform(jax.random.key(0), (2, 3, 4, 4, 3))
  ours = Upsample(factor).extra(low, frames=3)
  shape = (2, 3, 4 * factor, 4 * factor, 3)
  theirs = jax.image.resize(low, shape, 'bilinear')
  np.testing.assert_allclose(ours, theirs, atol=1e-6)
  nearest = jax.image.resize(low, shape, 'nearest')
  assert np.abs(ours - nearest).max() > 0.1


@pytest.mark.parametrize('form', [Upsample(2), Interpolate(3)])
def test_crops_are_cut_from_the_whole(form):
  count = 40
  video = clips(size=12, count=count)
  stage = Refine(form, crop=8)
  crops, part = jax.device_get(training(stage, video, keys(count)))
  whole_video, whole = jax.device_get(
    training(Refine(form), video, keys(count))
  )
  video = np.asarray(video)
  np.testing.assert_array_equal(whole_video, video)
  np.testing.assert_array_equal(part['augment'], whole['augment'])
  found = []
  for i in range(count):
    (place,) = [
      (y, x)
      for y in range(5)
      for x in range(5)
      if np.array_equal(crops[i], video[i, :, y : y + 8, x : x + 8])
    ]
    y, x = place
    np.testing.assert_array_equal(
      part['extra'][i], whole['extra'][i, :, y : y + 8, x : x + 8]
    )
    found.append(place)
  every = {
    (y, x) for y in range(0, 5, form.grid) for x in range(0, 5, form.grid)
  }
  assert set(found) <= every and len(set(found)) > 0.6 * len(every)
  # Where a crop lies is the example's own.
  alone = training(stage, jnp.asarray(video[3:4]), keys(count)[3:4])
  np.testing.assert_array_equal(alone[0][0], crops[3])
  np.testing.assert_array_equal(alone[1]['extra'][0], part['extra'][3])


def test_images_are_upsampled_and_have_no_key_frames():
  video = clips(frames=6)
  extra = seen(Refine(Interpolate(2), augment=False), video, 2)['extra']
  np.testing.assert_array_equal(extra[:, 4:], 0)
  np.testing.assert_array_equal(
    extra[:, :4], seen(Refine(Interpolate(2), False), video[:, :4])['extra']
  )
  extra = seen(Refine(Upsample(2), augment=False), video, 2)['extra']
  np.testing.assert_array_equal(
    extra[:, 4:], seen(Refine(Upsample(2), False), video[:, 4:])['extra']
  )


def test_the_added_noise_has_its_variance_and_the_priors_covariance():
  low = jnp.zeros((400, 3, 4, 4, 1))
  levels = jnp.full(400, 0.4)
  options = {'keys': keys(400), 'prior': PRIOR}
  noise, logsnr = refine.add_noise(low, levels=levels, **options)
  _, sigma = process.alpha_sigma(logsnr[0])
  # The cosine schedule: sigma is the sine of the level's right angle.
  assert abs(float(sigma) - np.sin(0.2 * np.pi)) < 1e-3
  values = np.moveaxis(np.asarray(noise), 1, 0).reshape(3, -1) / float(sigma)
  np.testing.assert_allclose(
    np.cov(values), PRIOR.covariance(3), atol=4 / np.sqrt(values.shape[1])
  )
  other, _ = refine.add_noise(low + 1, levels=levels, **options)
  alpha, _ = process.alpha_sigma(logsnr[0])
  np.testing.assert_allclose(other - noise, alpha, atol=1e-6)


def test_levels_are_uniform_in_training():
  stage = Refine(Upsample(2))
  video = jnp.zeros((500, 1, 2, 2, 3), jnp.uint8)
  told = training(stage, video, keys(500))[1]['augment']
  first, last = (np.arctan(np.exp(end)) for end in (-10, 10))  # of ±20
  levels = np.arctan(np.exp(-np.asarray(told) / 2))
  levels = np.sort((levels - first) / (last - first))
  even = (np.arange(500) + 0.5) / 500
  assert np.abs(levels - even).max() < 0.07  # Kolmogorov–Smirnov, 1 %


def options(**overrides):
  base = {'refine__kind': 'upsample', 'refine__factor': 2}
  return tiny.config(**(base | overrides))


def test_the_loss_meets_what_is_seen():
  """A network that copies what it sees has no error where that is exact."""
  video = clips(frames=3)
  part = {
    'video': video,
    'logsnr': jnp.zeros(BATCH),
    'index': jnp.arange(BATCH),
  }

  def copy(variables, z, logsnr, *, extra, augment=None, **rest):
    del variables, logsnr, augment, rest
    assert extra.shape[:4] == z.shape[:4]
    return extra[..., :3]

  found = {}
  for name, flat, augment in (
    ('flat', True, False),
    ('rough', False, False),
    ('noisy', True, True),
  ):
    c = options(
      refine__augment=augment,
      diffusion__prediction='x',
      diffusion__weight='x',
      refine__crop=4,
    )
    objective = build.objective(c)
    whole = jnp.broadcast_to(video[:, :, :1, :1], video.shape)
    found[name], _ = step_lib.part_loss(
      {},
      copy,
      objective,
      part | {'video': whole if flat else video},
      noise=rng.stream(0, 'noise'),
      drop=rng.stream(0, 'drop'),
      dropout=rng.stream(0, 'dropout'),
      refine=rng.stream(0, 'refine'),
    )
  assert found['flat'] < 1e-12
  assert min(found['rough'], found['noisy']) > 0.05


@dataclasses.dataclass(frozen=True)
class Detail:
  """A network that predicts E[x|z] of what it sees with white detail added.

  The detail has the standard deviation 0.3, and its mean is 0.05 (label + 1),
  so 0 for the null condition.
  """

  remat: str = 'none'
  attention_resolutions: tuple = ()

  def apply(self, variables, z, logsnr, *, extra, label, augment=None):
    del variables, augment
    alpha, sigma = (process.over_video(a) for a in process.alpha_sigma(logsnr))
    mean = extra[..., :3] + process.over_video(0.05 * (label + 1.0))
    gain = alpha * 0.3**2 / (alpha**2 * 0.3**2 + sigma**2)
    return mean + gain * (z - alpha * mean)


@pytest.mark.parametrize('scale', [1.0, 3.0])
def test_samples_are_what_is_seen_and_detail(scale):
  """With the detail's variance, and both twins of guidance see the same."""
  count = 32
  c = options(
    refine__augment=False,
    diffusion__prediction='x',
    diffusion__weight='x',
    sample__batch_size=count,
    sample__sampler='heun',
    sample__guidance_scale=scale,
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  draw = generate.Generator(c, Detail(), mesh)
  low = np.random.default_rng(0).integers(100, 156, (count, 3, 4, 4, 3))
  low = low.astype(np.uint8)
  video = draw(
    {},
    keys=keys(count),
    told={'label': np.zeros(count, np.int32)},
    low=low,
    steps=64,
  )
  seen_of_it = Upsample(2).extra(step_lib.to_float(jnp.asarray(low)), frames=3)
  detail = step_lib.to_float(jnp.asarray(video)) - seen_of_it
  bound = 4 * 0.3 / np.sqrt(detail.size)
  assert abs(np.mean(detail) - scale * 0.05) < bound
  np.testing.assert_allclose(np.std(detail), 0.3, rtol=0.02)
  other = step_lib.to_float(jnp.asarray(video)) - jnp.flip(seen_of_it, 0)
  assert np.std(other) > 0.32


# Channels of T5-XXL and of CLIP ViT-L/14.
TEXTS = Conditions(text='embeddings', text_dim=4096, text2_dim=768)
PYOCO = {
  'base': 1080,
  'interpolation': 1080,
  'sr256': 313,
  'sr1024': 313,
}


def load(name, variant=''):
  path = pathlib.Path(f'configs/{name}.py')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param('base', marks=pytest.mark.slow),
    pytest.param('interpolation', marks=pytest.mark.slow),
    'sr256',
    'sr1024',
  ],
)
def test_pyocos_stages_have_their_parameters(name):
  c = load(f'pyoco_{name}')
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  shapes = sample.abstract_params(c, build.model(c, TEXTS), mesh)
  millions = train.parameter_count(shapes) / 1e6
  assert millions == pytest.approx(PYOCO[name], rel=0.03)


def test_pyocos_stages_fit_together():
  """And Table 3's configurations take experts of more and more stages."""
  c = load('pyoco_cascade')
  assert tuple(PYOCO) == c.cascade.order
  for name in PYOCO:
    of_run, stage = load(f'pyoco_{name}'), c.cascade[name]
    assert stage.workdir == f'runs/{of_run.name}'
    data = of_run.data
    assert (stage.frames, stage.size) == (data.frames, data.size)
    assert stage.stride == data.stride
    tiny_run, stage = (
      load(f'pyoco_{name}', 'tiny'),
      load('pyoco_cascade', 'tiny').cascade[name],
    )
    assert stage.workdir == f'runs/{tiny_run.name}'
    data = tiny_run.data
    assert (stage.frames, stage.size) == (data.frames, data.size)
    assert stage.stride == data.stride
  with_experts = {
    variant: {
      name
      for name in PYOCO
      if load('pyoco_cascade', variant).cascade[name].sample.experts
    }
    for variant in 'abcd'
  }
  assert with_experts == {
    'a': set(),
    'b': {'sr256', 'sr1024'},
    'c': {'sr256', 'sr1024', 'interpolation'},
    'd': set(PYOCO),
  }


def test_the_network_fits_what_it_sees():
  net = build.model(options(), Conditions())
  assert net.extra_channels == 3 and net.augmented
  c = options(refine__kind='interpolate', refine__augment=False)
  net = build.model(c, Conditions())
  assert net.extra_channels == 4 and not net.augmented
  net = build.model(tiny.config(), Conditions())
  assert net.extra_channels == 0 and not net.augmented


def test_attention_stays_at_its_levels():
  """Sides of maps are those in training, so of crops where there are any."""
  c = options(
    data__size=32,
    refine__crop=8,
    model__multipliers=(1, 1),
    model__attention_resolutions=(4,),
  )
  net = build.model(c, Conditions())
  whole = refine.for_whole_frames(c, net)
  assert net.attention_resolutions == (4,)
  assert whole.attention_resolutions == (16,)
  names = []
  for network, size in ((net, 8), (whole, 32), (net, 32)):
    shape = (1, 3, size, size)
    args = jnp.zeros((*shape, 3)), jnp.zeros(1)
    told = {'extra': jnp.zeros((*shape, 3)), 'augment': jnp.zeros(1)}
    try:
      tree = jax.eval_shape(network.init, jax.random.key(0), *args, **told)
      names.append(jax.tree.map(lambda a: a.shape, tree))
    except errors.ConfigError as e:
      names.append(str(e))
  assert names[0] == names[1]
  assert 'attention_resolutions' in names[2]


BAD = {
  'factor': ({'refine__factor': 1}, 'factor is 1, which refines nothing'),
  'no multiple': ({'refine__factor': 3}, 'data.size is 8, no multiple'),
  'crop': ({'refine__crop': 3}, 'crop is 3, no multiple .* use 2'),
  'large crop': ({'refine__crop': 16}, 'crop is 16, more than'),
  'key frames': (
    {'refine__kind': 'interpolate', 'refine__factor': 3},
    '3 frames have no second key frame .* to 4 or more',
  ),
  'levels': (
    {'refine__crop': 8, 'data__size': 12},
    'data.size is 12, no multiple of config.refine.crop',
  ),
}


@pytest.mark.parametrize('kind', BAD)
def test_what_does_not_fit_is_refused(kind):
  changes, message = BAD[kind]
  with pytest.raises(errors.ConfigError, match=message) as caught:
    build.model(options(**changes), Conditions())
  assert '\n' not in str(caught.value) and '; ' in str(caught.value)


def test_what_is_kept():
  """Key frames without noise, which are a part of the videos."""
  video = clips(frames=3)
  for stage, kept in (
    (Refine(Interpolate(2), augment=False, level=0.5), (0, 2, 4)),
    (Refine(Interpolate(2), level=0.0), (0, 2, 4)),
    (Refine(Interpolate(2), level=0.5), ()),
    (Refine(Upsample(2), augment=False), ()),
  ):
    assert stage.given(np.asarray(video), 5).frames == kept
  assert dataclasses.replace(stage, level=0.1) != stage
