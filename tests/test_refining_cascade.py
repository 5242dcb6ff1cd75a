"""Cascades of stages that see the one before, and such a model by itself.

Key frames two apart, then twice the pixels: 3×8×8, 5×8×8, 5×16×16. Where only
the bookkeeping matters a stand-in draws the videos.
"""

import re

import jax
import ml_collections
import numpy as np
import pytest

from tests import quick, saved, tiny
from tests.test_given import write_lossless
from vdm_jax import cascade, errors, request, sample, sharding, train
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions

ONE = jax.devices()[:1]
INTERPOLATE = {
  'refine__kind': 'interpolate',
  'refine__factor': 2,
  'refine__augment': False,
  'data__frames': 5,
}
UPSAMPLE = {
  'refine__kind': 'upsample',
  'refine__factor': 2,
  'data__frames': 5,
  'data__size': 16,
}
MODELS = {
  'base': {'data__strides': (2, 4)},
  'between': INTERPOLATE,
  'above': UPSAMPLE,
  'guided': {'data__frames': 3, 'data__size': 32},
}
# By model: frames, size, stride.
STAGES = {
  'base': (3, 8, 2),
  'between': (5, 8, 1),
  'above': (5, 16, 1),
  'guided': (5, 32, 1),
}


def model(name, **overrides):
  options = {'model__attention_resolutions': (), 'sample__batch_size': 4}
  return tiny.config(**(options | MODELS[name] | overrides))


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The folder of the models' workdirs, all of random parameters."""
  folder = tmp_path_factory.mktemp('runs')
  for name in MODELS:
    c = model(name)
    saved.run(folder / name, c, Conditions(strides=c.data.strides))
  again = model('between', refine__augment=True)
  saved.run(folder / 'again', again)
  return folder


@pytest.fixture
def drawn(monkeypatch):
  return quick.Windows(monkeypatch)


@pytest.fixture
def unseen(monkeypatch):
  """Writes no files of the samples."""
  monkeypatch.setattr(cascade, 'show', lambda *_, **__: None)


def config(runs, *names, count=3):
  c = tiny.config(sample__count=count, sample__batch_size=4).unlock()
  c.cascade = ml_collections.ConfigDict({'order': names})
  for name in names:
    stage = config_lib.stage(overlap=1)
    stage.workdir = str(runs / name)
    stage.frames, stage.size, stage.stride = STAGES[name]
    c.cascade[name] = stage
  return c


def videos(workdir, name):
  return np.load(workdir / 'stages' / name / 'frames.npy')


def test_each_stage_sees_the_one_before(runs, tmp_path, drawn, capsys):
  """Both kinds of conditions in one cascade."""
  c = config(runs, *MODELS)
  cascade.run(c, tmp_path, ONE)
  found = {name: videos(tmp_path, name) for name in MODELS}
  assert {k: v.shape for k, v in found.items()} == {
    'base': (3, 3, 8, 8, 3),
    'between': (3, 5, 8, 8, 3),
    'above': (3, 5, 16, 16, 3),
    'guided': (3, 5, 32, 32, 3),
  }
  base, between, above, *guided = drawn.calls
  assert base.low is None and not base.known
  for call, before in ((between, 'base'), (above, 'between')):
    assert not call.known and not call.seen  # nothing is guided
    np.testing.assert_array_equal(call.low[:3], found[before])
  # Key frames without noise are kept, and only they.
  np.testing.assert_array_equal(found['between'][:, ::2], found['base'])
  # The last stage is guided: two windows of three frames.
  assert [sorted(call.seen) for call in guided] == [[0, 1, 2], [1, 2]]
  assert all(call.low is None for call in guided)
  text = capsys.readouterr().out
  apart = dict(re.findall(r'stage (\w+): sub.* by ([\d.]+)/255', text))
  assert apart['between'] == '0.00' and float(apart['above']) > 10
  page = (tmp_path / 'index.html').read_text()
  assert 'interpolate, factor 2' in page and 'upsample, factor 2' in page


def test_key_frames_with_noise_are_made_again(runs, tmp_path, drawn, unseen):
  c = config(runs, 'base', 'between')
  c.cascade.between.workdir = str(runs / 'again')
  cascade.run(c, tmp_path / 'a', ONE)
  base, again = (videos(tmp_path / 'a', n) for n in c.cascade.order)
  assert np.mean(again[:, ::2] != base) > 0.9
  c.cascade.between.augment_level = 0.0
  cascade.run(c, tmp_path / 'b', ONE)
  kept = videos(tmp_path / 'b', 'between')
  np.testing.assert_array_equal(kept[:, ::2], videos(tmp_path / 'b', 'base'))


def test_long_interpolation_by_windows(runs, tmp_path, drawn, unseen):
  """Nine frames by windows of five that meet in a key frame."""
  c = config(runs, 'base', 'between')
  c.cascade.base.frames, c.cascade.between.frames = 5, 9
  cascade.run(c, tmp_path, ONE)
  base, between = (videos(tmp_path, n) for n in c.cascade.order)
  np.testing.assert_array_equal(between[:, ::2], base)
  *_, first, second = drawn.calls
  np.testing.assert_array_equal(first.low[:3], base[:, :3])
  np.testing.assert_array_equal(second.low[:3], base[:, 2:])
  assert not second.known  # the frame they share is a key frame


def test_another_video_below_is_refined_anew(runs, tmp_path, drawn, unseen):
  counts, changes = [], {}
  for change in (
    {},
    {},
    {'cascade.between.augment_level': 0.5},
    {'cascade.base.sample.seed': 7},  # of which the second says nothing itself
  ):
    changes |= change
    c = config(runs, 'base', 'between')
    c.cascade.between.workdir = str(runs / 'again')
    c.update_from_flattened_dict(changes)
    drawn.calls = []
    cascade.run(c, tmp_path, ONE)
    counts.append(len(drawn.calls))
  assert counts == [2, 0, 1, 2]


BAD = {
  'first': (('between', 'above'), {}, 'between: it refines .* cannot be the f'),
  'frames': (
    ('base', 'above'),
    {},
    'above: it was trained to make 2× .* not 2× .* and 2× the frames; mend',
  ),
  'both': (
    ('base', 'between'),
    {'cascade.base.stride': 4, 'cascade.between.frames': 9},
    'between: it was trained to make 1× .* 2× the fr.*, not .* 4× the frames',
  ),
  'level': (
    ('base', 'between', 'above'),
    {'cascade.above.augment_level': 2.0},
    'cascade.above.augment_level is 2.0; use 0 to 1, or −1',
  ),
  'another negative level': (
    ('base', 'between', 'above'),
    {'cascade.above.augment_level': -0.5},
    'cascade.above.augment_level is -0.5; use 0 to 1, or −1',
  ),
  'no number': (
    ('base', 'between', 'above'),
    {'cascade.above.augment_level': float('nan')},
    'cascade.above.augment_level is nan; use 0 to 1',
  ),
  'no noise': (
    ('base', 'between'),
    {'cascade.between.augment_level': 0.2},  # what its run has, unused
    r'between: no noise .*\.between.augment_level at −1 \(got 0.2\)',
  ),
  'nothing is seen': (
    ('base', 'between'),
    {'cascade.base.augment_level': 0.0},
    'base: no noise is added .* leave',
  ),
  'experts': (
    ('base', 'between'),
    {'cascade.between.sample.experts': ('nowhere',)},
    'stage between: .*experts is set, but .*; leave it out',
  ),
  'windows': (
    ('base', 'between'),
    {
      'cascade.base.frames': 5,
      'cascade.between.frames': 9,
      'cascade.between.sample.overlap': 2,
    },
    'between: a window begins at frame 3, but its key frames',
  ),
}


@pytest.mark.parametrize('kind', BAD)
def test_what_does_not_fit_is_refused_first(runs, tmp_path, drawn, kind):
  names, changes, message = BAD[kind]
  c = config(runs, *names)
  c.update_from_flattened_dict(changes)
  with pytest.raises(errors.UserError, match=message) as caught:
    cascade.run(c, tmp_path / 'out', ONE)
  text = str(caught.value)
  assert '\n' not in text and '; ' in text and len(text) < 300
  assert drawn.calls == [] and not (tmp_path / 'out').exists()


def alone(runs, name, drawn, **options):
  """Samples one model of a video, by --mode=sample."""
  c = model(name, sample__count=2, **options).copy_and_resolve_references()
  workdir = runs / name
  sample.run(c, workdir, ONE)
  return drawn.calls[-1].low


def film(folder, *, frames, size, seed=0):
  rng = np.random.default_rng(seed)
  pictures = rng.integers(0, 256, (frames, size, size, 3), np.uint8)
  return str(
    write_lossless(folder / f'{frames}x{size}.avi', pictures)
  ), pictures


def test_a_video_of_ones_own_is_refined(runs, tmp_path, drawn):
  path, fine = film(tmp_path, frames=9, size=16)
  low = alone(runs, 'above', drawn, sample__video=path, sample__start=2)
  blocks = fine[2:7].reshape(5, 8, 2, 8, 2, 3).mean((2, 4)).round()
  for row in low:
    np.testing.assert_array_equal(row, blocks)
  # A video that is small already is what it is.
  path, coarse = film(tmp_path, frames=5, size=8)
  low = alone(runs, 'above', drawn, sample__video=path)
  np.testing.assert_array_equal(low[0], coarse)


def test_a_video_of_just_the_key_frames_is_taken_for_them(
  runs, tmp_path, drawn, capsys
):
  """Every second one of five frames, or three from the start on."""
  path, coarse = film(tmp_path, frames=5, size=8)
  low = alone(runs, 'between', drawn, sample__video=path)
  np.testing.assert_array_equal(low[0], coarse[::2])
  assert 'key frames' not in capsys.readouterr().out
  low = alone(runs, 'between', drawn, sample__video=path, sample__start=2)
  np.testing.assert_array_equal(low[0], coarse[2:])
  assert '3 frames from 2 on, as many as 5' in capsys.readouterr().out
  # Four are neither; none of them is left out silently.
  drawn.calls.clear()
  with pytest.raises(errors.DataError, match=r'too short .* has 5 frames'):
    alone(runs, 'between', drawn, sample__video=path, sample__start=1)
  assert drawn.calls == []


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('above', {}, 'and none is given; name one with --config.sample.video'),
    ('between', {'video': 'SHORT'}, 'too short'),
    (
      'above',
      {'video': 'SHORT'},
      'too short .* 2 frames .* 5 are refined.; use',
    ),
    ('above', {'video': 'SHORT', 'known': '0:2'}, 'refines all of the video'),
    ('above', {'video': 'none.mp4'}, 'no such video'),
  ],
)
def test_a_video_that_does_not_do(
  runs, tmp_path, drawn, name, options, message
):
  path, _ = film(tmp_path, frames=2, size=8)
  given = {k: path if v == 'SHORT' else v for k, v in options.items()}
  given = {f'sample__{k}': v for k, v in given.items()}
  with pytest.raises(errors.UserError, match=message) as caught:
    alone(runs, name, drawn, **given)
  assert '\n' not in str(caught.value) and '; ' in str(caught.value)
  assert drawn.calls == []


def test_training_shows_refined_clips_of_the_data(tmp_path, drawn, monkeypatch):
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  c = model(
    'above',
    model__labels=True,
    text__kind='words',
    data__images=1,
    sample__count=3,
    train__steps=2,
    train__sample_first=1,
    train__sample_count=2,
  )
  train.run(c, tmp_path, ONE)
  first, last = drawn.calls
  assert first.low.shape == last.low.shape == (4, 5, 8, 8, 3)
  assert len({low.tobytes() for low in last.low[:3]}) == 3  # three clips
  assert last.told['label'].shape == (4,)
  assert last.told['text'].shape[:2] == (4, 1)
  # What is told is of the clip: the judge recognises its shape in the caption.
  source, told = train.build.data(c)
  wanted = request.at_the_end(c, told, source)
  clip = source.clip(0, np.random.default_rng([c.seed, 0]))
  assert wanted.prompts[0] == clip['caption']
  assert wanted.labels[0] == np.ravel(clip['label'])[0]
  blocks = clip['video'][:5].reshape(5, 8, 2, 8, 2, 3).mean((2, 4)).round()
  np.testing.assert_array_equal(wanted.low.videos[0], blocks)
  np.testing.assert_array_equal(last.low[0], blocks)


@pytest.mark.slow
def test_four_stages_from_a_caption(tmp_path, capsys):
  """Trained for a step each, and sampled: 3×8×8 to 5×32×32.

  The second stage by two experts.
  """
  common = {
    'text__kind': 'words',
    'text__max_length': 8,
    'model__channels': 4,
    'model__head_dim': 4,
    'model__groups': 1,
    'model__attention_resolutions': (),
    'diffusion__prediction': 'edm',
    'diffusion__weight': 'edm',
    'diffusion__schedule': 'lognormal',
    'diffusion__prior': 'progressive',
    'diffusion__prior_alpha': 2.0,
    'train__steps': 1,
    'train__batch_size': 2,
  }
  fine = UPSAMPLE | {
    'model__kind': 'efficient',
    'model__temporal': False,
    'model__temporal_convolution': True,
  }
  stages = {
    'base': {'data__stride': 2, 'data__images': 1},
    'between': INTERPOLATE,
    'above': fine,
    'top': fine | {'data__size': 32, 'refine__crop': 16},
  }
  c = tiny.config(
    sample__count=2, sample__prompt='a red disc moving left'
  ).unlock()
  c.sample.update(
    batch_size=2, sampler='deis', grid='karras', steps=3, guidance_scale=2.0
  )
  c.cascade = ml_collections.ConfigDict({'order': tuple(stages)})
  for name, options in stages.items():
    of_run = tiny.config(**(common | options))
    train.run(of_run, tmp_path / name, ONE)
    stage = config_lib.stage()
    stage.workdir, stage.size = str(tmp_path / name), of_run.data.size
    stage.frames, stage.stride = of_run.data.frames, of_run.data.stride
    c.cascade[name] = stage
  _, told = train.build.data(of_run)
  halves = {'low': (0.0, 0.5), 'high': (0.5, 1.0)}
  for name, mass in halves.items():
    expert = common | INTERPOLATE | {'diffusion__interval': mass}
    saved.run(tmp_path / name, tiny.config(**expert), told)
  experts = tuple(str(tmp_path / name) for name in halves)
  c.cascade.between.sample.experts = experts
  cascade.run(c, tmp_path / 'all', ONE)
  used = re.findall(r'σ/α from .*: step 1 of (.*)', capsys.readouterr().out)
  assert tuple(used) == experts
  found = [videos(tmp_path / 'all', name) for name in stages]
  assert [v.shape[1:4] for v in found] == [
    (3, 8, 8),
    (5, 8, 8),
    (5, 16, 16),
    (5, 32, 32),
  ]
  np.testing.assert_array_equal(found[1][:, ::2], found[0])
  assert all(len(np.unique(v[0] != v[1])) == 2 for v in found)
  mesh = sharding.make_mesh(devices=ONE)
  seeds = {stage.wanted.seed for stage in cascade.check(c, mesh)}
  assert len(seeds) == 4
