"""Evaluation as a program: from a workdir or a folder to metrics.json."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests import judges, quick, saved, tiny
from tests.test_given import write_lossless
from vdm_jax import build, errors, evaluate, main
from vdm_jax import config as config_lib
from vdm_jax import sample as sample_lib
from vdm_jax.evaluation import clips as clips_lib
from vdm_jax.evaluation import files as files_lib
from vdm_jax.evaluation import report as report_lib
from vdm_jax.evaluation import samples as samples_lib
from vdm_jax.metrics import features, inception_score, protocols
from vdm_jax.metrics.protocols import (
  Data,
  Feature,
  Measure,
  Protocol,
  Reference,
)

ONE = jax.devices()[:1]
FVD = Measure('fvd', 'frechet', Feature('i3d', 'logits'))
FRAMES, SIZE = 3, 8


def image(name, output, view, statistic='frechet', **options):
  return Measure(name, statistic, Feature('inception', output, view), **options)


TOY = Protocol(
  title='Toy',
  data=Data('shapes', SIZE),
  references=(Reference('', 'seed 1', 30),),
  measures=(
    FVD,
    image('fid_avg', 'pool3', 'average'),
    image('fid_first', 'pool3', 'first'),
    image('is_avg', 'logits_unbiased', 'average', 'inception_score'),
  ),
  samples=24,
  frames=FRAMES,
  conditions='any',
)
PREDICTED = dataclasses.replace(
  TOY,
  references=(Reference('', 'seed 1', 8),),
  measures=(FVD,),
  known=1,
)
TWO = dataclasses.replace(
  TOY,
  data=Data('folder', SIZE),
  references=(
    Reference('train', 'train', 12),
    Reference('validation', 'validation', 12),
  ),
  measures=(FVD, TOY.measures[3]),
  samples=12,
)

CAPTIONED = dataclasses.replace(TWO, conditions='captions')
PROMPTED = dataclasses.replace(
  TOY,
  measures=(
    dataclasses.replace(TOY.measures[3], weighted=True, samples=20),
    FVD,
  ),
  conditions='class_prompts',
)
STILLS = dataclasses.replace(
  TOY,
  data=Data('folder', SIZE, frames=1),
  references=(Reference('', 'test', 20, per_video=3),),
  measures=(image('fid', 'pool3', 'frames'),),
  samples=6,
)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  toys = {'toy': TOY, 'predicted': PREDICTED, 'two': TWO, 'stills': STILLS}
  toys['prompted'] = PROMPTED
  for name, toy in toys.items():
    monkeypatch.setitem(protocols.PROTOCOLS, name, toy)


@pytest.fixture
def files(monkeypatch, tmp_path):
  return judges.install(monkeypatch, tmp_path / 'weights')


@pytest.fixture
def config(files, tmp_path):
  """Makes configs; dotted keys are given with '__' for '.'."""

  def make(protocol='toy', **overrides):
    options = {f'evaluate__weights__{k}': v for k, v in files.items()}
    options |= {
      'evaluate__protocol': protocol,
      'evaluate__cache': str(tmp_path / 'cache'),
      'evaluate__draws': 4,
      'evaluate__batch_size': 8,
      'data__workers': 1,
    }
    return tiny.config(**(options | overrides))

  return make


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('trained') / 'run'
  c = tiny.config()
  saved.run(folder, c, build.data(c)[1])
  return folder


@pytest.fixture
def trained(run, tmp_path):
  return shutil.copytree(run, tmp_path / 'run')


def evaluated(c, workdir):
  """Everything in metrics.json but times."""
  before = set(workdir.glob('evaluations/*/metrics.json'))
  evaluate.run(c, workdir, ONE)
  found = set(workdir.glob('evaluations/*/metrics.json'))
  (path,) = found - before or found
  return json.loads(path.read_text())


def numbers(c, workdir):
  return evaluated(c, workdir)['numbers']


def real_clips(count=30, seed=1, frames=FRAMES):
  """The reference clips of a toy."""
  source = clips_lib.shapes.Shapes(frames=frames, size=SIZE, seed=seed)
  real, _ = clips_lib.draws(
    source, Reference('', '', count), count=count, more=0, frames=frames, seed=0
  )
  return real.read(np.arange(count))


def folder_of(tmp_path, videos, name='videos'):
  (tmp_path / name).mkdir(exist_ok=True)
  np.save(tmp_path / name / 'all.npy', videos)
  return str(tmp_path / name)


def test_real_clips_against_themselves(config, tmp_path, monkeypatch):
  toy = dataclasses.replace(TOY, samples=30)
  monkeypatch.setitem(protocols.PROTOCOLS, 'toy', toy)
  videos = real_clips()
  c = config(evaluate__videos=folder_of(tmp_path, videos))
  report = evaluated(c, tmp_path / 'out')
  found = report['numbers']
  assert set(found) == {'fvd', 'fid_avg', 'fid_first', 'is_avg'}
  assert report['deviations'] == []
  for name in ('fvd', 'fid_avg', 'fid_first'):
    floor = found[name]['floor']
    assert found[name]['value'] < 1e-9 * floor['value'] + 1e-9
    # Other clips of the same distribution: no floor is 0, nor of these clips.
    assert floor['value'] > 1e-4 and floor['n'] == [30, 30]
    assert found[name]['n'] == [30, 30]
  assert found['is_avg']['value'] == pytest.approx(
    found['is_avg']['real']['value']
  )
  wrong = folder_of(tmp_path, 255 - videos, 'wrong')
  spoilt = numbers(config(evaluate__videos=wrong), tmp_path / 'out')
  for name in ('fvd', 'fid_avg', 'fid_first'):
    assert spoilt[name]['value'] > 10 * found[name]['floor']['value']


def test_inception_score_of_known_value(config, tmp_path, files, monkeypatch):
  """A network that sees the colour, and three colours: IS is 3."""
  params = {
    f'fc/{k}': np.zeros(s) for k, s in (('kernel', (15, 6)), ('bias', 6))
  }
  params |= {'head/kernel': 1000 * np.eye(15, 5), 'head/bias': np.zeros(5)}
  judges.filling.save(
    files['inception'],
    params,
    network='inception',
    layout='own',
    source='',
    sha256='',
    licence='',
  )
  videos = np.zeros((24, FRAMES, SIZE, SIZE, 3), np.uint8)
  videos[np.arange(24), ..., np.arange(24) % 3] = 255
  c = config(
    evaluate__videos=folder_of(tmp_path, videos),
    evaluate__measures=('is_avg',),
  )
  found = numbers(c, tmp_path / 'out')
  assert set(found) == {'is_avg'}
  assert found['is_avg']['value'] == pytest.approx(3, abs=1e-6)
  assert found['is_avg']['n'] == [24]


def test_average_and_first_are_of_activations(config, tmp_path):
  """Against the network's own features, averaged and not, by hand."""
  videos = real_clips(24, seed=5)
  found = numbers(
    config(evaluate__videos=folder_of(tmp_path, videos)), tmp_path / 'out'
  )
  c = config()
  mesh = evaluate.sharding.of_config(c, ONE)
  params, _ = judges.filling.load(c.evaluate.weights.inception, 'inception')
  network = features.Extractor('inception', params, mesh)
  ours, theirs = (network(v) for v in (videos, real_clips()))
  from vdm_jax.metrics import frechet

  for name, reduce in (
    ('fid_avg', lambda x: x.mean(1)),
    ('fid_first', lambda x: x[:, 0]),
  ):
    pair = [reduce(np.float64(side['pool3'])) for side in (ours, theirs)]
    expected = frechet.frechet_distance(*pair).value
    assert found[name]['value'] == pytest.approx(expected, rel=1e-5)
  p = inception_score.softmax(ours['logits_unbiased'].mean(1))
  expected = inception_score.inception_score(p).mean
  assert found['is_avg']['value'] == pytest.approx(expected, rel=1e-5)


def test_an_interrupted_evaluation_is_continued(
  config, trained, tmp_path, monkeypatch
):
  c, other = config(), tmp_path / 'other'
  shutil.copytree(trained, other)
  drawn = quick.Windows(monkeypatch)
  whole = evaluated(c, trained)
  assert len(drawn.calls) == 3
  drawn.calls.clear()
  drawn.most = 2
  with pytest.raises(KeyboardInterrupt):
    evaluate.run(c, other, ONE)
  drawn.most = 3
  distance = report_lib.scoring.distance
  monkeypatch.setattr(report_lib.scoring, 'distance', None)
  with pytest.raises(TypeError):
    evaluate.run(c, other, ONE)
  assert len(drawn.calls) == 3
  # All that is left to do is arithmetic.
  monkeypatch.setattr(report_lib.scoring, 'distance', distance)
  monkeypatch.setattr(report_lib.scoring, 'collect', None)
  again = evaluated(c, other)
  assert again['numbers'] == whole['numbers']
  assert len(again['numbers']) == 4 and len(drawn.calls) == 3


def test_numbers_of_less_have_other_names(config, tmp_path):
  c = config(
    evaluate__videos=folder_of(tmp_path, real_clips(10, seed=4)),
    evaluate__reference=20,
    evaluate__measures=('fvd', 'is_avg'),
  )
  report = evaluated(c, tmp_path / 'out')
  assert set(report['numbers']) == {
    'fvd_10_of_24_samples_against_20_of_30',
    'is_avg_10_of_24_samples',
  }
  assert report['deviations'] == [
    '10 samples, of 24 of the protocol',
    '20 real clips, of 30 of the protocol',
  ]
  larger = real_clips(24, seed=4).repeat(2, 2).repeat(2, 3)
  c = config(
    evaluate__videos=folder_of(tmp_path, larger, 'larger'),
    evaluate__measures=('fvd',),
  )
  assert set(numbers(c, tmp_path / 'out')) == {'fvd_resized_from_16x16'}


def test_two_reference_sets(config, tmp_path):
  rng = np.random.default_rng(0)
  sides = {k: tmp_path / k for k in ('train', 'validation')}
  for i, side in enumerate(sides.values()):
    side.mkdir()
    videos = rng.integers(0, 100 + 100 * i, (12, FRAMES, 16, 16, 3), np.uint8)
    for n, video in enumerate(videos):
      write_lossless(side / f'{n:02d}.avi', video[:, :SIZE, :SIZE])
  both = config(
    'two',
    evaluate__path=str(sides['train']),
    evaluate__validation=str(sides['validation']),
    evaluate__videos=str(sides['validation']),
  )
  found = numbers(both, tmp_path / 'out')
  assert set(found) == {'fvd_train', 'fvd_validation', 'is_avg'}
  assert found['fvd_validation']['value'] < 1e-9
  assert found['fvd_train']['value'] > 1
  # There are no other clips: the floor is of halves, and says so.
  assert found['fvd_train']['floor']['n'] == [6, 6]
  assert 'half' in found['fvd_train']['floor']['how']
  alone = config(
    'two',
    evaluate__path=str(sides['train']),
    evaluate__videos=str(sides['validation']),
    evaluate__references=('train',),
  )
  found = numbers(alone, tmp_path / 'alone')
  assert set(found) == {'fvd', 'is_avg'} and found['fvd']['value'] > 1


def sorted_by_classes(tmp_path, classes=10, each=30):
  """A folder of still clips: the grey of each is its class, in path order."""
  folder = tmp_path / 'sorted'
  for n in range(classes):
    (folder / f'class_{n}').mkdir(parents=True)
    videos = np.full((each, FRAMES, SIZE, SIZE, 3), n, np.uint8)
    np.save(folder / f'class_{n}' / 'all.npy', videos)
  return folder


def test_videos_of_a_sorted_folder_are_of_all_its_classes(tmp_path):
  folder = sorted_by_classes(tmp_path)

  def classes(count, seed=0):
    files = files_lib.open_files(
      folder, count=count, frames=0, size=SIZE, resize='crop', seed=seed
    )
    assert len(files) == count and files.there == 300
    return files.read(np.arange(count))[:, 0, 0, 0, 0].astype(int)

  whole, few = classes(300), classes(60)
  np.testing.assert_array_equal(np.bincount(whole), [30] * 10)
  np.testing.assert_array_equal(few, whole[:60])
  # In the order of paths there would be two classes of ten.
  assert set(few) == set(range(10)) and np.bincount(few).max() < 16
  assert (classes(60, seed=1) != few).any()
  # Splits, too: of a sorted folder each is a class or two, whose score is 1.
  score, control = (
    inception_score.inception_score(np.eye(10)[order], splits=10).mean
    for order in (whole, np.sort(whole))
  )
  assert score > 8 and control == pytest.approx(1)


def test_a_folder_is_not_chosen_from_as_the_real_clips_are(tmp_path):
  """Half of the data against half of it: not the same half."""
  folder = sorted_by_classes(tmp_path, classes=1, each=200)
  files = files_lib.open_files(
    folder, count=100, frames=0, size=SIZE, resize='crop', seed=0
  )
  source = clips_lib.shapes.Shapes(frames=3, size=8, length=200)
  real, _ = clips_lib.draws(
    source, Reference('', '', 100), count=100, more=0, frames=3, seed=0
  )
  common = {row for _, row in files.places} & set(real.chosen[:, 0].tolist())
  assert 30 < len(common) < 70


def test_videos_that_are_chosen_are_told(config, tmp_path):
  videos = folder_of(tmp_path, real_clips(30, seed=4))
  c = config(evaluate__videos=videos, evaluate__measures=('fvd',))
  report = evaluated(c, tmp_path / 'out')
  assert report['samples']['of'] == 30 and report['samples']['seed'] == 0
  assert report['notes'] == ['24 of 30 videos are taken, drawn by seed 0']


def test_classes_are_known_of_a_model_alone(config, tmp_path):
  c = config(
    'prompted', evaluate__videos=folder_of(tmp_path, real_clips(24, seed=4))
  )
  found = numbers(c, tmp_path / 'out')
  assert set(found) == {'is_avg_unweighted', 'fvd'}
  assert not found['is_avg_unweighted']['weighted']
  plan = samples_lib.Plan('', PROMPTED, 404, {}, {}, 0)
  classes = samples_lib.classes(plan, 404)
  np.testing.assert_array_equal(np.bincount(classes), [4] * 101)
  told = samples_lib.prompts(c, plan)
  assert all(told[k] == told[i % 101] for i, k in enumerate(classes))
  plan = dataclasses.replace(plan, protocol=TOY)
  assert samples_lib.classes(plan, 404) is None


@pytest.mark.parametrize(
  'labels, prompts, protocol, told, endings',
  [
    (None, (), TOY, 0, []),
    ([0], (), TOY, 0, ['class_conditional']),
    (None, ('a',), TOY, 0, ['text_conditional']),
    ([0], ('a',), TOY, 0, ['class_conditional', 'text_conditional']),
    (None, ('a',), CAPTIONED, 12, []),
    (None, ('a',), CAPTIONED, 5, ['5_captions']),
    (None, ('a',), PROMPTED, 5, []),  # every prompt several times
  ],
)
def test_what_a_model_is_told_is_named(
  labels, prompts, protocol, told, endings, config
):
  clips = sample_lib.Clips(
    videos=np.zeros((1, 2, SIZE, SIZE, 3), np.uint8),
    items=[{}],
    labels=None if labels is None else np.array(labels),
    prompts=prompts,
  )

  def named(protocol, told):
    plan = samples_lib.Plan('', protocol, protocol.samples, {}, {}, 0)
    return list(samples_lib._of_model(config(), plan, clips, told, SIZE, 1))

  if protocol is TOY:
    assert not named(TOY, 0)
    protocol = dataclasses.replace(TOY, conditions='none')
  assert named(protocol, told) == endings


def test_captions_are_of_all_videos(monkeypatch, config):
  # A list of 20 captions of each of 50 videos, in their order.
  there = [f'{k} of video {v}' for v in range(50) for k in range(20)]
  monkeypatch.setattr(clips_lib, 'captions', lambda *_: there)

  def told(samples):
    plan = samples_lib.Plan('', CAPTIONED, samples, {}, {}, 0)
    return samples_lib.prompts(config(), plan)

  assert len(set(told(100))) == 100 and told(100) == told(100)
  videos = {text.split()[-1] for text in told(100)}
  assert len(videos) > 35
  assert len({text.split()[-1] for text in there[:100]}) == 5
  assert told(1000) == told(2000) == tuple(there)


def test_frames_are_of_videos_and_a_reference_of_all_is_fixed(
  config, tmp_path, monkeypatch
):
  """Twenty frames of all seven videos; of five of them, chance is in both."""
  entry = dataclasses.replace(features.NETWORKS['inception'], least_frames=1)
  monkeypatch.setitem(features.NETWORKS, 'inception', entry)
  folder = tmp_path / 'real'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for n in range(7):
    video = rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8)
    write_lossless(folder / f'{n}.avi', video)
  c = config(
    'stills',
    evaluate__path=str(folder),
    evaluate__videos=folder_of(tmp_path, real_clips(6, seed=4)),
  )
  found = numbers(c, tmp_path / 'out')['fid']
  assert found['n'] == [6 * FRAMES, 20] and found['videos'] == [6, 7]
  assert found['interval']['resampled'] == 'samples'
  # Halves of three videos each, one of which may have two frames alone.
  assert set(found['floor']['n']) <= {8, 9}
  few = config_lib.varied(c, {'evaluate.reference': 5})
  (found,) = numbers(few, tmp_path / 'few').values()
  assert found['videos'] == [6, 5] and found['n'] == [6 * FRAMES, 5]
  assert found['interval']['resampled'] == 'samples and real clips'


def test_known_frames_are_not_scored(config, tmp_path):
  videos = real_clips(24, seed=3)
  altered = videos.copy()
  altered[:, 0] = 255 - altered[:, 0]
  options = [
    folder_of(tmp_path, v, f'v{i}') for i, v in enumerate((videos, altered))
  ]

  def scored(**more):
    return [
      numbers(
        config('predicted', evaluate__videos=v, **more), tmp_path / f'out{i}'
      )
      for i, v in enumerate(options)
    ]

  one, two = scored()
  assert one == two and set(one) == {'fvd'}
  one, two = scored(evaluate__score_known=True)
  assert set(one) == {'fvd_known_scored'}
  values = [found['fvd_known_scored']['value'] for found in (one, two)]
  assert values[1] > 2 * values[0]


def test_predictions_continue_the_clips_of_the_protocol(
  config, trained, tmp_path, monkeypatch
):
  drawn = quick.Windows(monkeypatch)
  report = evaluated(config('predicted'), trained)
  clips = real_clips(8)
  seen = np.concatenate([call.known[0] for call in drawn.calls])
  assert all(set(call.known) == {0} for call in drawn.calls)
  # [−1, 1] and back is exact, and sample i continues clip i mod 8.
  assert np.array_equal(seen, clips[np.arange(24) % 8, 0])
  assert report['numbers']['fvd']['n'] == [24, 8]
  assert report['samples']['scored_from'] == 1
  kept = np.load(f'{report["samples"]["samples"]}/frames.npy')
  assert np.array_equal(kept[:, 0], seen)


@pytest.mark.parametrize('asked', [-1, 3])
def test_predictions_are_told_the_classes_of_their_clips(
  config, tmp_path, monkeypatch, asked
):
  """Of the protocol's clips, unless another class is asked for."""
  toy = dataclasses.replace(PREDICTED, conditions='none')
  monkeypatch.setitem(protocols.PROTOCOLS, 'predicted', toy)
  drawn = quick.Windows(monkeypatch)
  c = config('predicted', model__labels=True, sample__label=asked)
  saved.run(tmp_path / 'run', c, build.data(c)[1])
  report = evaluated(c, tmp_path / 'run')
  source = clips_lib.shapes.Shapes(frames=FRAMES, size=SIZE, seed=1)
  real, _ = clips_lib.draws(
    source, Reference('', '', 8), count=8, more=0, frames=FRAMES, seed=0
  )
  own = [int(clip['label']) for clip in real.clips(np.arange(8))]
  seen = np.concatenate([call.told['label'] for call in drawn.calls])
  assert seen.tolist() == (3 * own if asked < 0 else 24 * [asked])
  assert report['deviations'] == ['the model is told the class']


def test_references_are_computed_once(config, tmp_path, monkeypatch, files):
  c = config(evaluate__videos=folder_of(tmp_path, real_clips(24, seed=6)))
  first = numbers(c, tmp_path / 'a')
  parts, collect = [], report_lib.scoring.collect

  def counted(*args, name, **options):
    parts.append(name)
    return collect(*args, name=name, **options)

  monkeypatch.setattr(report_lib.scoring, 'collect', counted)
  again = numbers(c, tmp_path / 'b')
  assert parts == ['features of the samples'] and again == first
  # Of other weights they are not those that are wanted.
  params, about = judges.filling.load(files['i3d'], 'i3d')
  params['fc']['bias'] = params['fc']['bias'] + 1
  judges.filling.save(files['i3d'], params, **about)
  parts.clear()
  numbers(c, tmp_path / 'b')
  assert len(parts) == 3


def test_floor_is_of_other_videos():
  source = clips_lib.shapes.Shapes(frames=3, size=8, length=50)
  options = {'frames': 3, 'seed': 0}
  real, other = clips_lib.draws(
    source, Reference('', '', 30), count=30, more=20, **options
  )
  chosen = [set(map(tuple, side.chosen)) for side in (real, other)]
  assert [len(c) for c in chosen] == [30, 20] and not chosen[0] & chosen[1]
  _, none = clips_lib.draws(
    source, Reference('', '', 30), count=30, more=21, **options
  )
  assert none is None
  several, _ = clips_lib.draws(
    source, Reference('', '', 90, per_video=2), count=90, more=0, **options
  )
  assert len(set(map(tuple, several.chosen))) == 90
  assert set(several.chosen[:, 1]) == {0, 1}


def test_measure_gives_numbers_for_tables(config, trained, monkeypatch):
  quick.Windows(monkeypatch)
  c1 = config()
  mesh = evaluate.sharding.of_config(c1, ONE)
  checkpoints = evaluate.sample.checkpoints_of(c1, trained)
  told = evaluate.sample.trained_with(checkpoints, c1)
  model = evaluate.sample.restore(c1, checkpoints, told, mesh)
  found = evaluate.measure(
    c1, model, 'toy', workdir=trained, mesh=mesh, measures=('fvd',)
  )
  assert set(found) == {'fvd'} and found['fvd'] > 0
  assert numbers(c1, trained)['fvd']['value'] == found['fvd']


MISTAKES = {
  'one sample': (
    {'evaluate__samples': 1},
    errors.ConfigError,
    'there are 1 samples, and fvd needs 2',
  ),
  'three clips': (
    {'evaluate__reference': 3},
    errors.ConfigError,
    'use 4 or more',
  ),
  'protocol': ({'protocol': 'toys'}, errors.ConfigError, 'it must be one of'),
  'no protocol': (
    {'protocol': ''},
    errors.ConfigError,
    "''; it must be one of",
  ),
  'measure': (
    {'evaluate__measures': ('is',)},
    errors.ConfigError,
    'fvd, fid_avg',
  ),
  'reference': (
    {'protocol': 'two', 'evaluate__references': ('test',)},
    errors.ConfigError,
    'train, validation',
  ),
  'no weights': (
    {'evaluate__weights__i3d': ''},
    errors.ConfigError,
    r'weights.i3d is empty.*--mode=convert --network=i3d.*fid_avg,fid_first',
  ),
  'missing weights': (
    {'evaluate__weights__i3d': 'no.safetensors'},
    errors.WeightsError,
    'no.safetensors.*--mode=convert --network=i3d',
  ),
  'more': ({'evaluate__samples': 25}, errors.ConfigError, 'toy has 24'),
  'no data': (
    {'protocol': 'two'},
    errors.ConfigError,
    'evaluate.path is empty',
  ),
  'no validation': (
    {'protocol': 'two', 'evaluate__path': '.'},
    errors.UserError,
    'validation|no videos',
  ),
  'few frames': (
    {'evaluate__samples': 4, 'frames': 4},
    errors.ConfigError,
    'fvd of toy would be of 3 frames, and the network i3d needs 4 or more',
  ),
  'refines': (
    {'refine__kind': 'upsample', 'refine__factor': 2},
    errors.ConfigError,
    'cascade',
  ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_are_said_before_anything_is_made(
  name, config, trained, monkeypatch
):
  overrides, error, message = MISTAKES[name]
  overrides = dict(overrides)
  if frames := overrides.pop('frames', 0):
    entry = dataclasses.replace(features.NETWORKS['i3d'], least_frames=frames)
    monkeypatch.setitem(features.NETWORKS, 'i3d', entry)
  drawn = quick.Windows(monkeypatch)
  monkeypatch.setattr(samples_lib.sample, 'restore', None)
  with pytest.raises(error, match=message) as caught:
    evaluate.run(config(**overrides), trained, ONE)
  assert '\n' not in str(caught.value) and '; ' in str(caught.value)
  assert not drawn.calls and not (trained / 'evaluations').exists()


@pytest.mark.parametrize(
  'videos, message',
  [
    (None, 'no such folder'),
    ({}, 'no videos'),
    ({'a.npy': np.zeros((2, SIZE, SIZE, 3), np.uint8)}, 'fewer than 3 frames'),
    ({'a.npy': np.zeros((3, SIZE, SIZE, 3))}, 'float64'),
    ({'a.npy': b'none'}, 'cannot be read'),
    ({'a.mp4': b'none'}, 'cannot be read'),
  ],
)
def test_folders_that_do_not_do(videos, message, config, tmp_path):
  folder = tmp_path / 'videos'
  if videos is not None:
    folder.mkdir()
    for name, value in videos.items():
      if isinstance(value, bytes):
        (folder / name).write_bytes(value)
      else:
        np.save(folder / name, value)
  with pytest.raises(errors.DataError, match=message) as caught:
    evaluate.run(config(evaluate__videos=str(folder)), tmp_path / 'out', ONE)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'out').exists()


def test_the_command(config, tmp_path, trained, capsys):
  argv = ['vdm', '--mode=evaluate', f'--workdir={trained}']
  argv += ['--config.evaluate.protocol=toy', '--config.evaluate.measures=fvd,']
  c = config()
  assert main.main([*argv, '--config.evaluate.weights.i3d=']) == 2
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'weights.i3d is empty' in line
  argv += [f'--config.evaluate.videos={folder_of(tmp_path, real_clips(24))}']
  argv += [f'--config.evaluate.cache={tmp_path}', '--config.evaluate.draws=4']
  assert (
    main.main(
      [*argv, f'--config.evaluate.weights.i3d={c.evaluate.weights.i3d}']
    )
    == 0
  )
  out = capsys.readouterr().out
  assert 'fvd' in out and '24 / 30' in out
  assert 'fvd' in (trained / 'index.html').read_text()


def test_every_setting_is_in_the_section():
  c = config_lib.default().evaluate
  assert set(c.weights) >= {
    m.feature.network for p in protocols.PROTOCOLS.values() for m in p.measures
  }


def test_the_judge_alone_needs_no_weights(config, trained, monkeypatch):
  quick.Windows(monkeypatch)
  c = config(
    'shapes',
    evaluate__weights__shapes='',
    evaluate__measures=('judge',),
    evaluate__samples=8,
  )
  report = evaluated(c, trained)
  found = report['numbers']['judge_success_8_of_512_samples']
  # Noise is no shape; real clips are, even if 3 frames of 8 pixels are few.
  assert found['value'] == 0 and found['interval']['high'] < 0.4
  valid = report['numbers']['judge_valid_8_of_512_samples']
  assert valid['value'] < valid['real']['value']
  assert report['deviations'] == ['8 samples, of 512 of the protocol']
  assert report['networks'] == {}
