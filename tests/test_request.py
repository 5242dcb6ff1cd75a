"""Requests: wishes that fit the model become arrays, others one line."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.test_given import write_lossless
from vdm_jax import conditions, errors, request
from vdm_jax.conditions import Conditions
from vdm_jax.given import Given

UNTOLD = Conditions()
CLASSES = Conditions(classes=('disc', 'square', 'star'))
WORDS = Conditions(
  text='words',
  words=('a', 'blue', 'disc', 'red'),
  examples=('a red disc', 'a blue disc'),
)
TWO = Conditions(text='embeddings', text_dim=4, text2_dim=3)
STRIDES = Conditions(strides=(1, 2))
ALL = Conditions(
  classes=CLASSES.classes,
  text='words',
  words=WORDS.words,
  strides=(1, 2),
  examples=WORDS.examples,
)


def config(**overrides):
  base = {
    'sample__count': 5,
    'sample__overlap': 1,
    'sample__key_stride': 2,
    'text__max_length': 4,
  }
  return tiny.config(**(base | overrides))


def make(trained=UNTOLD, given=None, **overrides):
  return request.make(config(**overrides), trained, given=given)


def told(wanted):
  """What all the videos are told."""
  return wanted.told.of(np.arange(len(wanted.items)))


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  pictures = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
  path = tmp_path_factory.mktemp('film') / 'film.avi'
  return str(write_lossless(path, pictures))


# For each: what the model was trained with, what is asked, what to say of it.
REFUSED = {
  'nothing': (UNTOLD, {'sample__count': 0}, 'ask for 1 or more'),
  'prompt without text': (
    CLASSES,
    {'sample__prompt': 'a red disc'},
    'without text; leave out',
  ),
  'label without classes': (WORDS, {'sample__label': 0}, 'knows 0 classes'),
  'label too high': (CLASSES, {'sample__label': 3}, 'knows 3 classes'),
  'guidance without conditions': (
    STRIDES,
    {'sample__guidance_scale': 2.0},
    'without classes and text; set it to 1',
  ),
  'guidance without the null class': (
    CLASSES,
    {'sample__guidance_scale': 2.0, 'train__drop__label': 0.0},
    'drop.label = 0',
  ),
  'guidance without the null text': (
    ALL,
    {'sample__guidance_scale': 2.0, 'train__drop__text': 0.0},
    'drop.text = 0',
  ),
  'guidance without the null second text': (
    TWO,
    {'sample__guidance_scale': 2.0, 'train__drop__text2': 0.0},
    'drop.text2 = 0',
  ),
  'overlap of a window': (
    UNTOLD,
    {'sample__frames': 9, 'sample__overlap': 3},
    'use 0 to 2',
  ),
  'too few frames': (UNTOLD, {'sample__frames': 2}, 'ask for 3 frames or more'),
  'known without a video': (
    UNTOLD,
    {'sample__known': ':1'},
    'name one with --config.sample.video',
  ),
  'factor without a video': (
    UNTOLD,
    {'sample__factor': 2},
    'name one with --config.sample.video',
  ),
  'coarse replacement': (
    UNTOLD,
    {'sample__factor': 2, 'sample__conditioning': 'replacement'},
    "use 'reconstruction'",
  ),
  'a weight below the schedule': (
    UNTOLD,
    {'sample__guidance_weight': 0.5},
    "or the weight_schedule 'constant'",
  ),
  'key frames of one stride': (
    UNTOLD,
    {'sample__frames': 9, 'sample__order': 'interpolation'},
    "or use the order 'extension'",
  ),
  'key frames at another stride': (
    STRIDES,
    {
      'sample__frames': 9,
      'sample__order': 'interpolation',
      'sample__stride': 2,
    },
    'key frames 2 apart',
  ),
  'key frames too few': (
    STRIDES,
    {'sample__frames': 5, 'sample__order': 'interpolation', 'data__frames': 4},
    'ask for 7 frames or more',
  ),
  'stride not trained': (STRIDES, {'sample__stride': 3}, 'use one of these'),
  'stride of a model of one': (
    UNTOLD,
    {'sample__stride': 2},
    'use one of these',
  ),
  'unknown word': (WORDS, {'sample__prompt': 'a green disc'}, "'green'"),
  'near word': (WORDS, {'sample__prompt': 'a red disk'}, 'did you mean disc'),
  'too many words': (WORDS, {'sample__prompt': 'a red disc a a'}, 'at most 4'),
  'prompt and prompts': (
    WORDS,
    {'sample__prompt': 'a red disc', 'sample__prompts': 'file.txt'},
    'leave one out',
  ),
  'nothing of the video': (UNTOLD, {'sample__video': 'v.mp4'}, 'nothing of it'),
  'video missing': (
    UNTOLD,
    {'sample__video': 'v.mp4', 'sample__known': ':1'},
    'no such video',
  ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(name):
  trained, overrides, mend = REFUSED[name]
  with pytest.raises(errors.UserError) as error:
    make(trained, **overrides)
  text = str(error.value)
  assert mend in text
  assert '\n' not in text and '; ' in text and len(text) <= 300


# What each of these lacks beside the request above, so that it is accepted.
MENDED = {
  'prompt without text': (WORDS, {}),
  'label without classes': (CLASSES, {}),
  'guidance without conditions': (CLASSES, {}),
  'guidance without the null class': (CLASSES, {'train__drop__label': 0.1}),
  'guidance without the null text': (ALL, {'train__drop__text': 0.1}),
  'overlap of a window': (UNTOLD, {'sample__overlap': 2}),
  'too few frames': (UNTOLD, {'sample__frames': 3}),
  'key frames of one stride': (STRIDES, {}),
  'key frames at another stride': (STRIDES, {'sample__stride': 1}),
  'key frames too few': (STRIDES, {'sample__frames': 7}),
  'stride not trained': (STRIDES, {'sample__stride': 2}),
  'unknown word': (WORDS, {'sample__prompt': 'A blue disc!'}),
  'prompt and prompts': (WORDS, {'sample__prompts': ''}),
}


@pytest.mark.parametrize('name', MENDED)
def test_what_is_mended_is_accepted(name):
  trained, changes = MENDED[name]
  make(trained, **(REFUSED[name][1] | changes))


def test_classes_in_turn_or_one_of_them():
  wanted = make(CLASSES)
  np.testing.assert_array_equal(told(wanted)['label'], [0, 1, 2, 0, 1])
  assert [i['class'] for i in wanted.items[:3]] == ['disc', 'square', 'star']
  assert [i['index'] for i in wanted.items] == [*range(5)]
  one = make(CLASSES, sample__label=1)
  assert one.labels.tolist() == [1] * 5 and one.items[4]['class'] == 'square'
  assert told(make()) == {} and make().labels is None


def test_prompts_in_turn_and_examples_without_any(tmp_path):
  wanted = make(WORDS)
  assert wanted.prompts[:3] == ('a red disc', 'a blue disc', 'a red disc')
  assert [i['caption'] for i in wanted.items] == list(wanted.prompts)
  text, mask = (told(wanted)[name] for name in ('text', 'text_mask'))
  assert text.shape == (5, 1, 4)
  np.testing.assert_array_equal(text[0, 0], [1, 4, 3, 0])
  np.testing.assert_array_equal(mask[0, 0], [True] * 3 + [False])
  one = make(WORDS, sample__prompt='a disc')
  assert set(one.prompts) == {'a disc'}
  file = tmp_path / 'prompts.txt'
  file.write_text('blue disc\nred disc\nblue\n')
  several = make(WORDS, sample__prompts=str(file))
  assert several.prompts == (
    *('blue disc', 'red disc', 'blue'),
    *('blue disc', 'red disc'),
  )


def test_windows_are_told_their_frame_stride():
  long = {'sample__frames': 9}
  assert make(**long).strides == ()
  assert make(STRIDES, **long).strides == (0,) * 4
  assert make(STRIDES, sample__stride=2, **long).strides == (1,) * 4
  by_keys = make(STRIDES, sample__order='interpolation', **long)
  assert by_keys.strides == (1, 1, 0, 0, 0, 0)
  assert [w.spacing for w in by_keys.windows] == [2, 2, 1, 1, 1, 1]


def test_a_given_video_makes_its_frames_known(film):
  wanted = make(
    sample__video=film, sample__known='0,-1', sample__frames=9, sample__count=2
  )
  assert wanted.given.frames == (0, 8)
  assert wanted.windows[0].known == (0,) and wanted.windows[-1].known == (0, 2)
  made = [w.frames[i] for w in wanted.windows for i in w.new]
  assert made == [*range(1, 8)]
  # Key frames that are given need no model of their stride.
  keys = make(
    sample__video=film,
    sample__known='::2',
    sample__frames=9,
    sample__order='interpolation',
  )
  assert {w.spacing for w in keys.windows} == {1}


def test_a_coarse_video_makes_nothing_known_completely(film):
  wanted = make(sample__video=film, sample__factor=2, sample__frames=9)
  assert wanted.given.frames == () and wanted.given.low_frames == (*range(9),)
  assert wanted.windows == make(sample__frames=9).windows


def test_a_given_video_is_told_nothing_that_nobody_asked_for(film, capsys):
  """Not the classes and captions in turn, which are of other videos."""
  given = {'sample__video': film, 'sample__known': ':1'}
  wanted = make(ALL, **given)
  assert wanted.labels is None and wanted.prompts == ()
  assert not any({'class', 'caption'} & set(item) for item in wanted.items)
  found = told(wanted)
  assert found.keys() == told(make(ALL)).keys()
  null = conditions.null({k: jnp.asarray(v) for k, v in found.items()})
  for name, array in null.items():
    np.testing.assert_array_equal(found[name], array)
  assert (found['label'] == -1).all() and not found['text_mask'].any()
  (line,) = capsys.readouterr().out.splitlines()
  assert 'without a class and a prompt: the model is told the null' in line
  assert 'guidance' not in line and len(line) < 300
  make(ALL, sample__guidance_scale=2.0, **given)
  assert 'and guidance does nothing' in capsys.readouterr().out
  # What is asked for is told.
  one = make(ALL, sample__label=1, **given)
  assert one.labels.tolist() == [1] * 5 and not told(one)['text_mask'].any()
  assert 'without a prompt' in capsys.readouterr().out
  both = make(ALL, sample__label=1, sample__prompt='a disc', **given)
  assert told(both)['text_mask'].any() and both.prompts == ('a disc',) * 5
  make(UNTOLD, **given)
  assert capsys.readouterr().out == ''


# What the model never went without, and what mends it.
NEVER_WITHOUT = {
  'label': (CLASSES, {'sample__label': 2}, 'set config.sample.label, or'),
  'text': (WORDS, {'sample__prompt': 'a disc'}, 'set config.sample.prompt, or'),
  'text2': (TWO, {}, 'config.train.drop.text2 = 0'),
}


@pytest.mark.parametrize('name', NEVER_WITHOUT)
def test_a_given_video_without_what_the_model_needs(name, film):
  trained, asked, mend = NEVER_WITHOUT[name]
  given = {'sample__video': film, 'sample__factor': 2, 'sample__frames': 9}
  never = {f'train__drop__{name}': 0.0}
  with pytest.raises(errors.ConfigError, match='without a ') as error:
    make(trained, **given, **never)
  text = str(error.value)
  assert mend in text and len(text) <= 280 and '\n' not in text
  make(trained, **given)
  if asked:
    make(trained, **given, **never, **asked)
    make(trained, **never)  # in turn, of videos of nothing


def test_a_stage_is_told_what_the_one_before_was():
  given = Given(frames=(0, 2))
  alone, stage = (
    request.make(config(), CLASSES, given=given, alike=alike)
    for alike in (False, True)
  )
  assert alone.labels is None and (told(alone)['label'] == -1).all()
  assert stage.labels.tolist() == [0, 1, 2, 0, 1]


def test_what_a_cascade_gives_replaces_the_video():
  given = Given(frames=(0, 2, 4))
  wanted = make(given=given, sample__frames=5, sample__video='no such file')
  assert wanted.given is given
  assert [w.frames[i] for w in wanted.windows for i in w.new] == [1, 3]


def test_training_shows_plain_videos(film):
  c = config(
    sample__video=film,
    sample__known=':1',
    sample__frames=9,
    sample__prompt='a disc',
  )
  wanted = request.plain(c, WORDS, count=2, steps=7)
  assert (len(wanted.items), wanted.steps, wanted.frames) == (2, 7, 3)
  assert len(wanted.windows) == 1 and wanted.given == Given()
  assert wanted.prompts == ('a disc', 'a disc')
  assert c.sample.frames == 9  # the config stays as it is


def test_requests_tell_what_the_conditions_are_called():
  wanted = make(ALL)
  assert set(told(wanted)) <= set(conditions.NAMES)
  rows = {len(v) for v in told(wanted).values()}
  assert rows == {len(wanted.items)} == {5}
