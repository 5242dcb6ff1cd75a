"""What is known before sampling: index ranges, positions, values, files."""

import functools
import itertools
import pathlib

import av
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import given as given_lib
from vdm_jax import step, windows
from vdm_jax.data import frames as frames_lib
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.media import reading

CLIPS = pathlib.Path(__file__).parents[2] / 'shared/data/clips'
SIZE, FACTOR, LENGTH = 8, 2, 9

# Ranges of a video of LENGTH frames, at either resolution or both at once.
LAYOUTS = {
  'first': (':3', ''),
  'last': ('-3:', ''),
  'both ends': ('0,-1', ''),
  'every third': ('::3', ''),
  'backwards': ('::-4', ''),
  'low': ('', ':'),
  'low keys': ('', '::4'),
  'low and first': (':3', ':'),
  'low and last': ('-2:', ':'),
  'low keys and every third': ('1::3', '::2'),
  'low end and first': (':2', '-4:'),
}


def write_lossless(path, pictures):
  """An AVI whose frames come back bit for bit."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('ffv1', rate=25)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = 'bgr0'
    for picture in pictures:
      frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
      container.mux(stream.encode(frame.reformat(format='bgr0')))
    container.mux(stream.encode())
  return path


@functools.cache
def truth(count=1, frames=LENGTH):
  """Videos of random blocks of FACTOR × FACTOR equal pixels."""
  side = SIZE // FACTOR
  blocks = np.random.default_rng(0).integers(
    0, 256, (count, frames, side, side, 3), np.uint8
  )
  return blocks.repeat(FACTOR, 2).repeat(FACTOR, 3)


def make(layout, count=1):
  full, low = (given_lib.ranges(text, LENGTH) for text in LAYOUTS[layout])
  videos = truth(count)
  return given_lib.Given(
    full=videos[:, list(full)] if full else None,
    frames=full,
    low=videos[:, list(low), ::FACTOR, ::FACTOR] if low else None,
    low_frames=low,
    factor=FACTOR if low else 1,
  )


def residuals(seen, x):
  return [np.asarray(u) for u in seen.residual(x)]


@pytest.mark.parametrize('frames', [1, 2, 7])
def test_ranges_are_python_slices(frames):
  bounds = [None, *range(-frames, frames + 1)]
  steps = [None, -3, -1, 1, 2, 9]
  for a, b, c in itertools.product(bounds, bounds, steps):
    text = ':'.join('' if v is None else str(v) for v in (a, b, c))
    expected = sorted(range(frames)[a:b:c])
    if expected:
      assert list(given_lib.ranges(text, frames)) == expected, text
    else:
      with pytest.raises(ConfigError, match='selects none'):
        given_lib.ranges(text, frames)


def test_ranges_join_without_repetition():
  assert given_lib.ranges('', 16) == ()
  assert given_lib.ranges('0,15', 16) == (0, 15)
  assert given_lib.ranges('-1, 0 ,15,:3,2:4', 16) == (0, 1, 2, 3, 15)
  assert given_lib.ranges('0:16:4', 16) == (0, 4, 8, 12)


@pytest.mark.parametrize(
  'text',
  [
    *('x', '1-3', '0:5;', ',', '0,', '0,,5', '1:2:3:4', '1 2', '1.0', '--1'),
    *('1e1', '٣', '0:5:0', '16', '-17', '0:17', '-17:', '5:5', '9:3'),
    '0' * 13,
  ],
)
def test_other_ranges_are_refused_in_one_line(text):
  with pytest.raises(ConfigError) as caught:
    given_lib.ranges(text, 16)
  assert '\n' not in str(caught.value) and '; ' in str(caught.value)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('start', [0, 2, 4])
@pytest.mark.parametrize('made', [(), (0, 1), (4,), (0, 2, 3)])
def test_every_layout_observes_the_frames_it_means(layout, start, made):
  # The true video has no residual, to the bit, and pinning leaves it alone;
  # moved by a frame, both fail.
  numbers = range(start, start + 5)
  video = truth()[:, start : start + 5]
  given = make(layout)
  seen = given.observe(numbers, [0], made=made, videos=video[:, list(made)])
  known = {n for n in numbers if n in given.frames}
  known |= {numbers[i] for i in made}
  coarse = {n for n in numbers if n in given.low_frames} - known
  if not known | coarse:
    assert seen is None
    return
  seen.check((5, SIZE, SIZE, 3))
  assert seen.known == tuple(sorted(n - start for n in known))
  observed = {numbers[i] for p in seen.parts for i in p.indices}
  assert observed == known | coarse
  assert len(seen.parts) == bool(known) + bool(coarse)
  x = step.to_float(jnp.asarray(video))
  assert all((u == 0).all() for u in residuals(seen, x))
  assert (seen.pin(x) == x).all()
  other = jnp.roll(x, 1, axis=1)
  assert all((u != 0).any() for u in residuals(seen, other))
  changed = (seen.pin(other) != other).any(axis=(0, 2, 3, 4))
  assert np.flatnonzero(changed).tolist() == list(seen.known)


def test_key_frames_are_observed_by_their_numbers():
  # A window need not be contiguous: here it is every fourth frame.
  numbers = range(0, LENGTH, 4)
  seen = make('low and last').observe(numbers, [0])
  assert seen.known == (2,)
  assert [p.indices for p in seen.parts] == [(2,), (0, 1)]
  x = step.to_float(jnp.asarray(truth()[:, list(numbers)]))
  assert all((u == 0).all() for u in residuals(seen, x))


def test_values_are_exact_and_in_range():
  full = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1)
  full = full.repeat(3, -1)
  seen = given_lib.Given(full=full, frames=(0,)).observe([0], [0])
  values = seen.parts[0].values
  assert values.dtype == jnp.float32
  assert values.min() == -1 and values.max() == 1
  assert (step.to_uint8(values) == full).all()


def test_one_video_serves_all_rows_and_several_serve_their_own():
  numbers = range(LENGTH)
  shared = make('low and first').observe(numbers, [5, 7, 0])
  x = step.to_float(jnp.asarray(truth().repeat(3, 0)))
  assert all((u == 0).all() for u in residuals(shared, x))
  rows = np.array([2, 0])
  own = make('low and first', count=3).observe(numbers, rows)
  x = step.to_float(jnp.asarray(truth(3)[rows]))
  assert all((u == 0).all() for u in residuals(own, x))
  assert all((u != 0).any() for u in residuals(own, x[::-1]))


def test_given_frames_count_before_made_ones():
  made = np.zeros((1, 1, SIZE, SIZE, 3), np.uint8)
  seen = make('first').observe(range(LENGTH), [0], made=(1,), videos=made)
  x = step.to_float(jnp.asarray(truth()))
  assert all((u == 0).all() for u in residuals(seen, x))


def test_where_frames_come_from_makes_no_new_program():
  numbers = range(LENGTH)
  video = truth()
  given = make('first').observe(numbers, [0])
  made = given_lib.Given().observe(
    numbers, [0], made=(2, 0, 1), videos=video[:, [2, 0, 1]]
  )
  (ours,), (theirs,) = given.parts, made.parts
  assert ours.indices == theirs.indices
  assert (ours.values == theirs.values).all()
  assert given_lib.Given().observe(numbers, [0]) is None


@pytest.mark.parametrize('order', ['extension', 'interpolation'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_sampler_that_obeys_gives_the_true_video(order, layout):
  # Each window starts from grey and pins what it knows: all the known frames
  # come out true, and nothing else is touched.
  plan = (
    windows.extension(LENGTH, 5, 2)
    if order == 'extension'
    else windows.interpolation(LENGTH, 5, 4)
  )
  given, out = make(layout), np.full_like(truth(), 128)
  for window in plan:
    seen = given.observe(
      window.frames,
      [0],
      made=window.known,
      videos=out[:, [window.frames[i] for i in window.known]],
    )
    z = jnp.zeros((1, 5, SIZE, SIZE, 3))
    made = np.asarray(step.to_uint8(z if seen is None else seen.pin(z)))
    for i in window.new:
      out[:, window.start + i] = made[:, i]
  right = (out == truth()).all(axis=(0, 2, 3, 4))
  keys = range(0, LENGTH, 4) if order == 'interpolation' else ()
  expected = set(given.frames) - set(keys)
  assert set(np.flatnonzero(right)) == expected


@pytest.mark.parametrize('start', [0, 3])
@pytest.mark.parametrize('stride', [1, 2])
def test_a_file_is_read_at_the_right_frames(tmp_path, start, stride):
  video = truth(frames=30)[0]
  path = write_lossless(tmp_path / 'video.avi', video)
  given = given_lib.from_video(
    path,
    frames=LENGTH,
    size=SIZE,
    stride=stride,
    start=start,
    known='1,-2:',
    factor=FACTOR,
  )
  sampled = video[start::stride][:LENGTH]
  assert given.frames == (1, 7, 8)
  assert given.low_frames == tuple(range(LENGTH))
  assert (given.full == sampled[None, [1, 7, 8]]).all()
  assert (given.low == sampled[None, :, ::FACTOR, ::FACTOR]).all()


def test_a_coarse_file_is_taken_as_it_is_and_may_end_early(tmp_path):
  coarse = truth(frames=5)[0]
  path = write_lossless(tmp_path / 'video.avi', coarse)
  given = given_lib.from_video(
    path, frames=LENGTH, size=2 * SIZE, stride=2, start=1, factor=2
  )
  assert given.low_frames == (0, 1)
  assert (given.low == coarse[None, 1::2]).all()
  assert given.full is None and given.frames == ()


def test_coarse_frames_are_the_means_of_the_fine_ones(tmp_path):
  # What the model is told that they are. A bicubic reduction is not.
  rng = np.random.default_rng(1)
  video = rng.integers(0, 256, (3, 24, 32, 3), np.uint8)
  path = write_lossless(tmp_path / 'video.avi', video)
  options = {'frames': 4, 'size': 8, 'stride': 1}
  fine = given_lib.from_video(path, known=':3', **options)
  coarse = given_lib.from_video(path, factor=4, **options)
  x = step.to_float(jnp.asarray(fine.full))
  (error,) = residuals(coarse.observe(range(3), [0]), x)
  assert np.abs(error).max() <= 0.5001 / 127.5
  bicubic = np.stack([frames_lib.fit(f, size=2, resize='crop') for f in video])[
    None
  ]
  other = given_lib.Given(low=bicubic, low_frames=(0, 1, 2), factor=4)
  (error,) = residuals(other.observe(range(3), [0]), x)
  assert np.abs(error).max() > 2 / 127.5


@pytest.mark.parametrize(
  'options, said',
  [
    ({}, 'config.sample.known'),
    ({'factor': 0}, '1 or more'),
    ({'factor': -2}, '1 or more'),
    ({'factor': 3}, 'divisor of 8'),
    ({'known': ':'}, 'nothing to sample'),
    ({'known': ':', 'factor': 2}, 'nothing to sample'),
    ({'known': '9'}, 'video of 9 frames'),
    ({'known': '0', 'start': -1}, 'negative'),
  ],
)
def test_impossible_wishes_are_refused_before_reading(options, said):
  wish = {'frames': LENGTH, 'size': SIZE, 'known': '', 'factor': 1} | options
  with pytest.raises(ConfigError, match=said) as caught:
    given_lib.check(**wish)
  assert '\n' not in str(caught.value) and '; ' in str(caught.value)
  with pytest.raises(ConfigError, match=said):
    given_lib.from_video('/does/not/exist.mp4', stride=1, **wish)


def test_files_that_do_not_serve_are_named(tmp_path):
  options = {'frames': LENGTH, 'size': SIZE, 'stride': 2, 'known': '0,-1'}
  missing, text = tmp_path / 'missing.mp4', tmp_path / 'text.mp4'
  text.write_text('no video')
  for path in (missing, text, tmp_path):
    with pytest.raises(DataError, match=path.name) as caught:
      given_lib.from_video(path, **options)
    assert '\n' not in str(caught.value)
  path = write_lossless(tmp_path / 'short.avi', truth(frames=19)[0])
  given_lib.from_video(path, start=2, **options)
  with pytest.raises(DataError, match=r'has 19 frames.*needs 20'):
    given_lib.from_video(path, start=3, **options)
  options['known'] = ''
  with pytest.raises(DataError, match=r'has 19 frames.*needs 20'):
    given_lib.from_video(path, start=19, factor=2, **options)


@pytest.mark.skipif(not CLIPS.is_dir(), reason='no clips')
def test_a_real_clip():
  path = CLIPS / 'ucf_a.avi'
  given = given_lib.from_video(
    path, frames=16, size=32, stride=4, start=5, known='::5', factor=4
  )
  fit = functools.partial(frames_lib.fit, size=32, resize='crop')
  expected = reading.read(path, [5, 25, 45, 65], fit=fit)
  assert (given.full == expected[None]).all()
  assert given.low.shape == (1, 16, 8, 8, 3)
  seen = given.observe(range(16), [0])
  assert seen.known == (0, 5, 10, 15)
  assert len(seen.parts[1].indices) == 12
