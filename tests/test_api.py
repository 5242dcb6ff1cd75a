"""The Python interface: the command's own videos, from calls."""

import contextlib
import functools
import subprocess
import sys

import jax
import numpy as np
import pytest

import vdm_jax
from tests import saved, tiny
from tests.standins import Gaussian
from tests.test_given import write_lossless
from vdm_jax import api, build, errors, sample, sharding
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions
from vdm_jax.generate import Generator

ONE = jax.devices()[:1]
TOLD = Conditions(
  classes=('a', 'b', 'c'),
  text='words',
  words=('disc', 'left', 'red', 'right'),
  examples=('red disc left', 'red disc right'),
)
MODELS = {
  'plain': {
    'model__labels': True,
    'text__kind': 'words',
    'text__max_length': 3,
    'data__stride': 2,
    'train__drop__label': 0.1,
    'sample__count': 64,
    'sample__batch_size': 4,
    'sample__guidance_weight': 1.0,
  },
  'interpolate': {
    'refine__kind': 'interpolate',
    'refine__factor': 2,
    'refine__augment': False,
  },
  'upsample': {'refine__kind': 'upsample', 'refine__factor': 2},
}


def config(**overrides):
  """A network without attention within frames, which compiles soon."""
  return tiny.config(model__attention_resolutions=(), **overrides)


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
  """Runs of random parameters, by name."""
  folder = tmp_path_factory.mktemp('runs')
  for name, options in MODELS.items():
    told = TOLD if name == 'plain' else Conditions()
    saved.run(folder / name, config(**options), told)
  return folder


@pytest.fixture(scope='module')
def models(workdirs):
  return {name: vdm_jax.load(workdirs / name, devices=ONE) for name in MODELS}


@pytest.fixture(scope='module')
def model(models):
  return models['plain']


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  """A file of 13 frames of 8×8 pixels, which loses nothing."""
  pixels = np.random.default_rng(0).integers(0, 256, (13, 8, 8, 3), np.uint8)
  return write_lossless(tmp_path_factory.mktemp('film') / 'film.avi', pixels)


def pixels(*shape, seed=0):
  shape = (*shape, 3)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pooled(videos, factor):
  b, t, h, w, c = videos.shape
  blocks = videos.reshape(b, t, h // factor, factor, w // factor, factor, c)
  return blocks.mean((3, 5))


@contextlib.contextmanager
def compilations():
  """A list that grows with every program that is compiled."""
  seen = []

  def listen(event, *_, **__):
    if event == '/jax/core/compile/backend_compile_duration':
      seen.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


# By name: the model, a call, and the settings of the command that is the same.
SAME = {
  'sample': (
    'plain',
    lambda m, film: m.sample(
      3, prompts='red disc left', guidance_scale=2.0, seed=5, sampler='ddim'
    ),
    {
      'count': 3,
      'prompt': 'red disc left',
      'guidance_scale': 2.0,
      'seed': 5,
      'sampler': 'ddim',
    },
  ),
  'extend': (
    'plain',
    lambda m, film: m.extend(
      m.read(film, start=1)[:, :2], 5, overlap=2, count=2
    ),
    {'count': 2, 'frames': 5, 'start': 1, 'known': ':2', 'overlap': 2},
  ),
  'interpolate': (
    'plain',
    lambda m, film: m.interpolate(m.read(film)[:, ::2], 2, count=2),
    {
      'count': 2,
      'frames': 7,
      'known': '::2',
      'order': 'interpolation',
      'key_stride': 2,
    },
  ),
  'upsample': (
    'plain',
    lambda m, film: m.upsample(m.read(film)[:, :3], 2, count=2),
    {'count': 2, 'frames': 3, 'factor': 2},
  ),
  'interpolate by a network': (
    'interpolate',
    lambda m, film: m.interpolate(m.read(film)[:, :5:2], count=2),
    {'count': 2, 'frames': 5, 'overlap': 1},
  ),
  'upsample by a network': (
    'upsample',
    lambda m, film: m.upsample(m.read(film)[:, :3], count=2),
    {'count': 2, 'frames': 3},
  ),
}


@pytest.mark.parametrize('name', SAME)
def test_a_call_makes_the_videos_of_the_command(
  name, workdirs, models, film, monkeypatch
):
  """To the bit, of files of any frame stride too."""
  kind, call, settings = SAME[name]
  videos = call(models[kind], film)
  if name not in ('sample', 'extend'):  # to compile once
    monkeypatch.setattr(
      sample, 'generator', lambda c, *_: models[kind]._generator(c)
    )
  if name != 'sample':
    settings = settings | {'video': str(film)}
  settings = {'sample.arrays': True} | {
    f'sample.{k}': v for k, v in settings.items()
  }
  c = config_lib.varied(config(**MODELS[kind]), settings)
  folder = workdirs / kind
  earlier = set(folder.glob('samples/sample_*'))
  sample.run(c, folder, ONE)
  (new,) = set(folder.glob('samples/sample_*')) - earlier
  np.testing.assert_array_equal(videos, np.load(new / 'videos.npy'))
  assert videos.dtype == np.uint8 and videos.flags.writeable
  assert videos.std() > 10


def test_a_second_call_compiles_nothing(model):
  options = {'frames': 5, 'overlap': 1, 'quiet': True}
  first = model.sample(2, **options)
  with compilations() as seen:
    other = model.sample(
      2, seed=1, labels=2, prompts='red disc right', **options
    )
    longer = model.sample(2, **(options | {'frames': 7}))
    again = model.sample(2, **options)
  assert seen == []
  np.testing.assert_array_equal(again, first)
  np.testing.assert_array_equal(longer[:, :3], first[:, :3])
  assert np.abs(other.astype(int) - first).max() > 10
  with compilations() as seen:
    model.sample(2, gamma=0.3, quiet=True)
  assert seen


def test_prompts_and_labels_in_a_list_are_those_one_by_one(model):
  options = {'seed': 3, 'quiet': True}
  both = model.sample(
    prompts=['red disc left', 'disc'], labels=[2, 0], **options
  )
  assert len(both) == 2
  for row, (text, label) in enumerate((('red disc left', 2), ('disc', 0))):
    one = model.sample(2, prompts=text, labels=label, **options)
    np.testing.assert_array_equal(one[row], both[row])
    assert not np.array_equal(one[1 - row], both[1 - row])
  turn = model.sample(
    2, prompts=('red disc right',), labels=np.arange(2), **options
  )
  plain = model.sample(2, prompts='red disc right', **options)
  np.testing.assert_array_equal(turn, plain)


def test_videos_that_are_extended_are_told_what_they_show(model, capsys):
  """The labels given, or none; not all classes in turn."""
  video = pixels(2, 2, 8, 8)
  options = {'frames': 3, 'quiet': True, 'guidance_weight': 1.0}
  extend = functools.partial(model.extend, video, **options)
  alone = extend()
  assert 'null condition' in capsys.readouterr().out
  prompts = {'prompts': ['red disc left', 'red disc right']}
  in_turn = extend(labels=[0, 1], **prompts)
  assert 'null condition' not in capsys.readouterr().out
  assert not np.array_equal(alone, in_turn)
  for label in (0, 2):
    own = extend(labels=[label, 1], **prompts)
    assert np.array_equal(own[0], in_turn[0]) == (label == 0)
    np.testing.assert_array_equal(own[1], in_turn[1])


def test_known_frames_stay_of_each_video_its_own(model):
  video = pixels(2, 4, 8, 8)
  longer = model.extend(video, 7, overlap=2, quiet=True)
  assert longer.shape == (2, 7, 8, 8, 3)
  np.testing.assert_array_equal(longer[:, :4], video)
  assert not np.array_equal(longer[0, 4:], longer[1, 4:])
  more = model.interpolate(video, 2, quiet=True)
  assert more.shape == (2, 7, 8, 8, 3)
  np.testing.assert_array_equal(more[:, ::2], video)
  assert (more[:, 1::2] != video[:, :-1]).mean() > 0.5
  ends = model.sample(video=video, known='0,-1', frames=3, quiet=True)
  np.testing.assert_array_equal(ends[:, [0, 2]], video[:, [0, 2]])
  one = model.sample(2, video=video[:1, :3], known=':2', quiet=True)
  assert len(one) == 2 and (one[:, :2] == video[:1, :2]).all()


def test_networks_that_refine_are_called_alike(models):
  keys = pixels(2, 3, 8, 8)
  more = models['interpolate'].interpolate(keys, quiet=True)
  assert more.shape == (2, 5, 8, 8, 3)
  np.testing.assert_array_equal(more[:, ::2], keys)
  coarse = pixels(2, 3, 4, 4)
  large = models['upsample'].upsample(coarse, quiet=True)
  assert large.shape == (2, 3, 8, 8, 3)
  other = models['upsample'].upsample(coarse[::-1].copy(), quiet=True)
  assert not np.array_equal(large, other)


@pytest.fixture
def gaussian(monkeypatch):
  """A model of Gaussian videos, exact, of three frames of 8×8."""
  monkeypatch.setattr(build, 'model', lambda *_: Gaussian())
  c = tiny.config(
    diffusion__prediction='x', diffusion__weight='x', sample__steps=32
  )
  mesh = sharding.make_mesh(devices=ONE)
  generate = Generator(c, Gaussian(), mesh)
  return api.VideoModel(sample.Model(c, {}, generate, Conditions(), 0), mesh)


def test_a_larger_video_made_small_is_the_one_given(gaussian):
  free = gaussian.sample(4, quiet=True)
  low = pooled(gaussian.sample(4, seed=1, quiet=True), 4).round()
  low = low.astype(np.uint8)
  assert low.shape == (4, 3, 2, 2, 3)
  large = gaussian.upsample(low, quiet=True)
  apart = [np.std(pooled(v, 4) - low) for v in (large, free)]
  assert apart[0] < 0.2 * apart[1]
  # It is a video of the model: pixels within a block differ as they should.
  inside = [
    np.std(v - pooled(v, 4).repeat(4, 2).repeat(4, 3)) for v in (large, free)
  ]
  assert 0.7 < inside[0] / inside[1] < 1.3


WRONG = [
  (lambda m: m.sample(step=3), r"'step'; did you mean 'steps'\?"),
  (lambda m: m.sample(label=3), "did you mean 'labels'"),
  (lambda m: m.sample(steps='many'), 'wrong kind'),
  (lambda m: m.sample(steps=0), 'above 0'),
  (lambda m: m.sample(sampler='dim'), "did you mean 'ddim'"),
  (lambda m: m.sample(0), 'count is 0'),
  (lambda m: m.sample(labels=3), 'knows 3 classes'),
  (lambda m: m.sample(labels=[0, -1]), 'knows 3 classes'),
  (lambda m: m.sample(prompts='a cat'), 'cat'),
  (lambda m: m.sample(prompts=['disc', '']), 'blank'),
  (lambda m: m.sample(frames=2), 'ask for 3'),
  (lambda m: m.sample(frames=5, overlap=3), '0 to 2'),
  (lambda m: m.sample(known=':2'), 'no video'),
  (lambda m: m.sample(video='nonesuch.mp4', known=':2'), 'no such video'),
  (lambda m: m.extend(np.zeros((1, 2, 8, 8, 3)), 5), 'uint8'),
  (lambda m: m.extend(pixels(2, 8, 8), 5), r'\[n t h w 3\]'),
  (lambda m: m.extend(pixels(2, 2, 8, 8), 5, count=3), '2 videos .* for 3'),
  (lambda m: m.extend(pixels(1, 5, 8, 8), 5), 'nothing to sample'),
  (lambda m: m.extend(pixels(1, 2, 8, 8), 5, known='0'), 'sets known itself'),
  (lambda m: m.interpolate(pixels(1, 4, 8, 8)), 'must be 2 or more'),
  (lambda m: m.interpolate(pixels(1, 4, 8, 8), 3), 'distance of 1 to 2'),
  (lambda m: m.upsample(pixels(1, 3, 3, 3)), 'no whole part'),
  (lambda m: m.upsample(pixels(1, 3, 4, 4), 3), 'divisor of 8'),
  (lambda m: m.upsample(pixels(1, 2, 4, 4)), 'ask for 3'),
]


@pytest.mark.parametrize('number', range(len(WRONG)))
def test_what_cannot_work_is_said_in_a_line(number, model, monkeypatch):
  """Before anything is sampled, in the words of the command."""
  monkeypatch.setattr(sample, 'in_memory', None)
  call, said = WRONG[number]
  with pytest.raises(errors.UserError, match=said) as caught:
    call(model)
  assert '\n' not in str(caught.value) and ';' in str(caught.value)


def test_what_a_network_was_not_trained_for(models):
  video = pixels(1, 3, 8, 8)
  upsampler, interpolator = models['upsample'], models['interpolate']
  for call, said in (
    (lambda: upsampler.interpolate(video, 2), 'trained to upsample by 2'),
    (lambda: interpolator.upsample(video), 'trained to interpolate'),
    (lambda: interpolator.interpolate(video, 3), 'factor 2'),
    (lambda: upsampler.sample(), 'none is given'),
    (lambda: upsampler.extend(video, 5), 'refines all'),
  ):
    with pytest.raises(errors.ConfigError, match=said):
      call()


def test_loading(workdirs, tmp_path):
  model = vdm_jax.load(
    workdirs / 'plain', devices=ONE, steps=7, **{'text.max_length': 3}
  )
  assert model.config.sample.steps == 7 and model.shape == (3, 8, 8, 3)
  assert 'plain' not in repr(model) and '3×8×8' in repr(model)
  for options, error, said in (
    ({'stepss': 7}, errors.ConfigError, "did you mean 'steps'"),
    ({'text.max_lenght': 3}, errors.ConfigError, 'text.max_length'),
    ({'text.max_length': 4}, errors.CheckpointError, 'another config'),
    ({'mesh.data': 3}, errors.ConfigError, '1×1'),
  ):
    with pytest.raises(error, match=said):
      vdm_jax.load(workdirs / 'plain', devices=ONE, **options)
  with pytest.raises(errors.CheckpointError, match='holds no run'):
    vdm_jax.load(tmp_path)
  with pytest.raises(errors.DataError, match='no such video'):
    model.read(tmp_path / 'nonesuch.mp4')


def test_fitting_is_training(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(api.train, 'run', lambda *args: calls.append(args))
  monkeypatch.chdir(tmp_path)
  vdm_jax.fit(tiny.config(train__steps=7).unlock(), 'run', ONE)
  ((c, workdir, devices),) = calls
  assert c.train.steps == 7 and c.is_locked and devices == ONE
  assert workdir == tmp_path / 'run'
  with pytest.raises(errors.ConfigError, match='above 0'):
    vdm_jax.fit(tiny.config(train__steps=0), 'run')


def test_importing_the_package_costs_nothing():
  program = (
    'import sys, vdm_jax\n'
    'assert {"load", "fit", "VideoModel"} <= set(dir(vdm_jax))\n'
    'assert "jax" not in sys.modules and "numpy" not in sys.modules\n'
    'from vdm_jax import errors\n'
    'assert not hasattr(vdm_jax, "nonesuch") and "jax" not in sys.modules\n'
  )
  subprocess.run([sys.executable, '-c', program], check=True)
