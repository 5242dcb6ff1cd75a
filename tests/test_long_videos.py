"""Long and conditional videos: windows, given frames, kills, memory."""

import jax
import numpy as np
import pytest

from tests import tiny
from tests.standins import Gaussian
from tests.test_given import write_lossless
from vdm_jax import given, request, sample, sharding, store
from vdm_jax.conditions import Conditions
from vdm_jax.generate import Generator

ONE = jax.devices()[:1]
TOLD = Conditions(classes=('a', 'b'), strides=(1, 2))


class Dying(Exception):
  """What ends a process in the middle of its work."""


class Recorder(Generator):
  """A generator of Gaussian videos that keeps what it made, and may die.

  Attributes:
    calls: the options and the video of every call.
    dies: after so many calls.
  """

  def __init__(self, **overrides):
    c = long_config(**overrides)
    super().__init__(c, Gaussian(), sharding.make_mesh(devices=ONE))
    self.calls, self.dies = [], None

  def __call__(self, params, **options):
    if len(self.calls) == self.dies:
      raise Dying
    video = super().__call__(params, **options)
    self.calls.append(options | {'video': video})
    return video


def long_config(**overrides):
  """Nine frames, from a model of three."""
  base = {
    'data__strides': (1, 2),
    'diffusion__prediction': 'x',
    'diffusion__weight': 'x',
    'sample__count': 5,
    'sample__batch_size': 4,
    'sample__frames': 9,
    'sample__overlap': 1,
    'sample__key_stride': 2,
    'sample__guidance_weight': 1.0,
  }
  return tiny.config(**(base | overrides))


def asked(generate, **overrides):
  """A model and a request, of these changes of the long config."""
  c = long_config(**overrides)
  generate.calls.clear()
  generate.dies = None
  return sample.Model(c, {}, generate, TOLD, 0), request.make(c, TOLD)


def draw(generate, **overrides):
  """A request, and the videos that it gets."""
  model, wanted = asked(generate, **overrides)
  return wanted, sample.in_memory(model, wanted, quiet=True).videos


@pytest.fixture(scope='module')
def generate():
  return Recorder()


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  """A video of 12 frames, and its file, which loses nothing."""
  blocks = np.random.default_rng(3).integers(0, 256, (12, 4, 4, 3), np.uint8)
  pictures = blocks.repeat(2, 1).repeat(2, 2)
  path = tmp_path_factory.mktemp('film') / 'film.avi'
  return write_lossless(path, pictures), pictures


def test_windows_continue_what_the_one_before_has_made(generate):
  wanted, videos = draw(generate)
  assert videos.shape == (5, 9, 8, 8, 3)
  starts = [w.start for w in wanted.windows]
  assert starts == [0, 2, 4, 6] and len(generate.calls) == 2 * len(starts)
  for unit, call in enumerate(generate.calls):
    rows = np.arange(4) if unit < 4 else np.array([4])
    start = starts[unit % 4]
    made = call['video'][: len(rows)]
    # Known frames are those of the store, to the bit, and the rest goes there.
    np.testing.assert_array_equal(made, videos[rows, start : start + 3])
    if start:
      assert call['observation'].known == (0,)
      before = generate.calls[unit - 1]['video'][: len(rows)]
      np.testing.assert_array_equal(made[:, 0], before[:, 2])
      assert np.mean(made[:, 1:] != before[:, 1:]) > 0.9
    else:
      assert call['observation'] is None


def test_what_is_made_fits_what_is_known(generate):
  """Neighbours have the correlation 0.9, at seams too if there is overlap."""

  def across(overlap, seams):
    _, videos = draw(
      generate,
      sample__overlap=overlap,
      sample__steps=16,
      sample__count=4,
      sample__label=0,
    )
    a, b = (videos[:, [s + i for s in seams]].ravel() for i in (-1, 0))
    return np.corrcoef(a, b)[0, 1]

  inside = across(1, (1, 2))
  assert inside > 0.8
  assert across(1, (3, 5, 7)) > 0.6
  assert abs(across(0, (3, 6))) < 0.1


@pytest.mark.parametrize('dies', [0, 3, 6])
def test_a_killed_start_is_continued_to_the_same_bits(generate, dies, tmp_path):
  _, whole = draw(generate)
  model, wanted = asked(generate)
  generate.dies = dies
  with pytest.raises(Dying):
    sample.draw(model, wanted, sample.open_store(tmp_path, model, wanted))
  model, wanted = asked(generate)
  again = sample.open_store(tmp_path, model, wanted)
  assert again.done == dies
  videos = sample.draw(model, wanted, again, quiet=True).videos
  np.testing.assert_array_equal(videos, whole)
  assert len(generate.calls) == 8 - dies


def test_frames_that_are_written_but_not_finished_are_made_again(
  generate, tmp_path, monkeypatch
):
  _, whole = draw(generate)
  model, wanted = asked(generate)
  with monkeypatch.context() as patch, pytest.raises(Dying):

    def commit(self, done, commit=store.FrameStore.commit):
      if done == 3:
        raise Dying
      commit(self, done)

    patch.setattr(store.FrameStore, 'commit', commit)
    sample.draw(model, wanted, sample.open_store(tmp_path, model, wanted))
  again = sample.open_store(tmp_path, model, wanted)
  assert again.done == 2
  videos = sample.draw(model, wanted, again, quiet=True).videos
  np.testing.assert_array_equal(videos, whole)


@pytest.mark.parametrize(
  'override',
  [{'sample__seed': 1}, {'sample__gamma': 0.5}, {'data__stride': 2}],
)
def test_samples_of_another_request_are_not_continued(
  generate, override, tmp_path
):
  model, wanted = asked(generate)
  generate.dies = 2
  with pytest.raises(Dying):
    sample.draw(model, wanted, sample.open_store(tmp_path, model, wanted))
  assert sample.open_store(tmp_path, *asked(generate)).done == 2
  assert sample.open_store(tmp_path, *asked(generate, **override)).done == 0


@pytest.mark.parametrize(
  'override',
  [
    {'data__workers': 1},
    {'data__path': 'moved'},
    {'train__steps': 9},
    {'sample__frame_rate': 3.0},
  ],
)
def test_what_changes_no_sample_costs_none(generate, override, tmp_path):
  model, wanted = asked(generate)
  generate.dies = 2
  with pytest.raises(Dying):
    sample.draw(model, wanted, sample.open_store(tmp_path, model, wanted))
  assert sample.open_store(tmp_path, *asked(generate, **override)).done == 2


def test_known_frames_of_another_video_are_another_request(
  generate, film, tmp_path
):
  options = {'sample__video': str(film[0]), 'sample__known': ':1'}
  model, wanted = asked(generate, **options)
  generate.dies = 1
  folder = tmp_path / 'store'
  with pytest.raises(Dying):
    sample.draw(model, wanted, sample.open_store(folder, model, wanted))
  assert sample.open_store(folder, *asked(generate, **options)).done == 1
  # The same path, and other pictures.
  other = write_lossless(tmp_path / 'other.avi', 255 - film[1])
  model, _ = asked(generate, **options)
  seen = given.from_video(other, frames=9, size=8, stride=1, known=':1')
  wanted = request.make(model.config, TOLD, given=seen)
  assert sample.open_store(folder, model, wanted).done == 0


def test_key_frames_are_made_first_and_kept(generate):
  wanted, videos = draw(
    generate, sample__order='interpolation', sample__count=4
  )
  assert [w.spacing for w in wanted.windows] == [2, 2, 1, 1, 1, 1]
  assert wanted.strides == (1, 1, 0, 0, 0, 0)
  for window, stride, call in zip(
    wanted.windows, wanted.strides, generate.calls, strict=True
  ):
    assert set(call['told']['stride']) == {stride}
    frames = list(window.frames)
    np.testing.assert_array_equal(call['video'], videos[:, frames])
    if window.spacing == 1:
      assert call['observation'].known == (0, 2)
  # Windows know the key frames, and make what lies between them.
  keys = np.concatenate([call['video'] for call in generate.calls[:2]], 1)
  np.testing.assert_array_equal(videos[:, ::2], keys[:, [0, 1, 2, 4, 5]])


def test_the_frame_stride_asked_for_is_the_one_told(generate):
  draw(generate, sample__stride=2, sample__count=1)
  assert {int(s) for c in generate.calls for s in c['told']['stride']} == {1}


@pytest.mark.parametrize(
  'known, frames',
  [('0:1', (0,)), ('-1:', (8,)), ('0,2', (0, 2)), ('1:8:3', (1, 4, 7))],
)
def test_frames_of_a_given_video_are_kept_to_the_bit(
  generate, film, known, frames
):
  path, pictures = film
  _, videos = draw(
    generate, sample__video=str(path), sample__known=known, sample__start=2
  )
  for i in range(9):
    assert np.array_equal(videos[0, i], videos[4, i]) == (i in frames)
    assert np.all(videos[:, i] == pictures[2 + i]) == (i in frames)
  # Those who make frames beside them know them.
  for unit, call in enumerate(generate.calls):
    start = 2 * (unit % 4)
    here = {f - start for f in frames if 0 <= f - start < 3}
    assert here | ({0} if start else set()) == set(
      call['observation'].known if call['observation'] else ()
    )


def test_a_given_video_at_the_stride_asked_for(generate, film):
  path, pictures = film
  _, videos = draw(
    generate,
    sample__video=str(path),
    sample__known='::4',
    sample__stride=2,
    sample__frames=5,
  )
  assert np.all(videos[:, ::4] == pictures[[0, 8]])


def test_given_key_frames_are_filled_in(generate, film):
  path, pictures = film
  wanted, videos = draw(
    generate,
    sample__video=str(path),
    sample__known='::2',
    sample__order='interpolation',
  )
  assert [w.spacing for w in wanted.windows] == [1] * 4
  assert wanted.strides == (0,) * 4
  assert np.all(videos[:, ::2] == pictures[:9:2])
  assert not np.array_equal(videos[0, 1::2], videos[1, 1::2])


def test_videos_agree_with_the_coarse_video_that_is_given(generate, film):
  path, pictures = film
  options = {'sample__steps': 32, 'sample__count': 4}
  seen = {'sample__video': str(path), 'sample__factor': 2}

  def distance(videos):
    t, coarse = videos.shape[1], pictures[: videos.shape[1], ::2, ::2]
    blocks = videos.reshape(4, t, 4, 2, 4, 2, 3).mean((3, 5))
    return np.sqrt(np.mean((blocks - coarse) ** 2))

  free = distance(draw(generate, **options)[1])
  _, guided = draw(generate, **options, **seen)
  assert distance(guided) < 0.3 * free
  # Its frames may be known, too.
  _, both = draw(generate, sample__known='0,2', **options, **seen)
  assert np.all(both[:, [0, 2]] == pictures[[0, 2]])
  assert distance(both) < distance(guided)


def test_replacement_makes_long_videos_too(film):
  path, pictures = film
  options = {'sample__video': str(path), 'sample__known': '0,4'}
  for conditioning in ('replacement', 'replacement_marginal'):
    generate = Recorder(sample__conditioning=conditioning)
    _, videos = draw(generate, sample__conditioning=conditioning, **options)
    assert np.all(videos[:, [0, 4]] == pictures[[0, 4]])
    before, after = (generate.calls[i]['video'] for i in (0, 1))
    np.testing.assert_array_equal(before[:, 2], after[:, 0])


class Measured(Generator):
  """A generator of 16 frames at once, and the device's memory meanwhile.

  Attributes:
    hoard: it keeps all that it was given, as the negative control.
    most: bytes of all arrays that are there beyond those from before.
  """

  def __init__(self, c, hoard):
    super().__init__(c, Gaussian(), sharding.make_mesh(devices=ONE))
    self.hoard, self.kept = hoard, []

  def measure(self, c) -> int:
    self.before, self.most = jax.live_arrays(), 0
    wanted = request.make(c, TOLD)
    model = sample.Model(c, {}, self, TOLD, 0)
    sample.in_memory(model, wanted, quiet=True)
    return self.most

  def __call__(self, params, *, tick, **options):
    known = {id(a) for a in self.before}

    def measure(steps):
      new = [a.nbytes for a in jax.live_arrays() if id(a) not in known]
      self.most = max(self.most, sum(new))
      tick(steps)

    if self.hoard:
      self.kept.append(options)
    return super().__call__(params, tick=measure, **options)


@pytest.mark.parametrize('hoard', [False, True])
def test_device_memory_does_not_grow_with_the_length(hoard):
  """256 frames from a model of 16 need what 32 need, and no more programs."""

  def of(frames):
    return long_config(
      data__frames=16,
      sample__overlap=8,
      sample__count=1,
      sample__batch_size=1,
      sample__steps=2,
      sample__frames=frames,
    )

  generate, most = Measured(of(32), hoard), {}
  generate.measure(of(32))  # it compiles, and keeps constants
  for frames in (32, 256):
    most[frames] = generate.measure(of(frames))
    generate.kept.clear()
    assert generate._advance._cache_size() == 2
  print('bytes of arrays on the device:', most)
  assert 0 < most[32] < most[256] if hoard else 0 < most[32] == most[256]
  for frames in (37, 45):  # the last window overlaps more
    generate.measure(of(frames))
    assert generate._advance._cache_size() == 3
