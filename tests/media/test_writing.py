"""Files of videos: they decode to what was written, and browsers play them."""

import io
import itertools
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from vdm_jax.media import writing


def smooth(t, h, w):
  """A video of slow colours, which every codec keeps."""
  y, x = np.mgrid[:h, :w] / max(h, w)
  frames = [
    np.stack([255 * y, 255 * x, np.full_like(x, 40 + 20 * i)], -1)
    for i in range(t)
  ]
  return np.clip(frames, 0, 255).astype(np.uint8)


def decode(data):
  with av.open(io.BytesIO(data)) as container:
    stream = container.streams.video[0]
    frames = [f.to_ndarray(format='rgb24') for f in container.decode(stream)]
    return np.stack(frames), stream


def boxes(data):
  """The names of an MP4 file's outermost boxes, in order."""
  names, at = [], 0
  while at < len(data):
    size = int.from_bytes(data[at : at + 4], 'big')
    names.append(data[at + 4 : at + 8].decode())
    at += size
  return names


def error(a, b):
  return np.abs(a.astype(float) - b.astype(float)).mean()


@pytest.mark.parametrize(
  ('t', 'h', 'w', 'height', 'width'),
  [
    (5, 16, 16, 128, 128),
    (2, 17, 31, 136, 248),  # 8 times each side
    (1, 1, 1, 128, 128),
    (3, 64, 48, 192, 144),
    (2, 129, 131, 130, 132),  # one line more
    (1, 3, 401, 6, 802),  # as far as the longer side may grow
  ],
)
def test_mp4_decodes_to_the_same_video(t, h, w, height, width):
  video = smooth(t, h, w)
  frames, _ = decode(writing.encode_mp4(video, 8))
  assert frames.shape == (t, height, width, 3)
  scale = height // h
  back = frames[:, scale // 2 :: scale, scale // 2 :: scale][:, :h, :w]
  assert error(back, video) < 4
  if h > 1:
    assert error(back[..., ::-1], video) > 20  # the check sees swapped colours


def test_mp4_is_what_browsers_play():
  data = writing.encode_mp4(smooth(3, 20, 20), 8)
  _, stream = decode(data)
  assert stream.codec_context.name == 'h264'
  assert stream.codec_context.pix_fmt == 'yuv420p'
  assert stream.codec_context.colorspace == 1  # BT.709, said aloud
  assert boxes(data).index('moov') < boxes(data).index('mdat')


def test_index_comes_last_without_faststart():
  data = io.BytesIO()
  with av.open(data, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=8)
    stream.height = stream.width = 16
    frame = av.VideoFrame.from_ndarray(smooth(1, 16, 16)[0], format='rgb24')
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  names = boxes(data.getvalue())
  assert names.index('moov') > names.index('mdat')


@pytest.mark.parametrize('fps', [8, 0.5, 60, Fraction(24000, 1001)])
def test_mp4_lasts_as_long_as_its_frames(fps):
  _, stream = decode(writing.encode_mp4(smooth(5, 16, 16), fps))
  assert stream.average_rate == Fraction(fps)
  seconds = stream.duration * stream.time_base
  assert seconds == pytest.approx(float(5 / Fraction(fps)), rel=1e-3)


def test_enlarging_keeps_the_colour_of_each_pixel():
  video = np.zeros((1, 16, 16, 3), np.uint8)
  video[:, ::2, ::2] = video[:, 1::2, 1::2] = [220, 30, 30]
  video[:, ::2, 1::2] = video[:, 1::2, ::2] = [30, 30, 220]
  enlarged, _ = decode(writing.encode_mp4(video, 8))
  plain, _ = decode(writing.encode_mp4(video, 8, min_side=1))
  assert error(enlarged[:, 4::8, 4::8], video) < 6
  assert error(plain, video) > 30  # 4:2:0 mixes neighbours


def test_display_scale_is_the_least_that_serves():
  for h, w in itertools.product(
    [1, 7, 16, 63, 64, 127, 128, 500, 3000], [1, 9, 128, 1025]
  ):
    scale = writing.display_scale(h, w)
    short, long = sorted((h, w))
    assert scale == 1 or scale * long <= writing.MAX_SIDE
    assert scale == 1 or (scale - 1) * short < writing.MIN_SIDE
    if scale * short < writing.MIN_SIDE:
      assert (scale + 1) * long > writing.MAX_SIDE


def test_mp4_bytes_are_a_function_of_the_video():
  video = smooth(2, 16, 16)
  data = writing.encode_mp4(video, 8)
  assert data == writing.encode_mp4(video.copy(), 8)
  assert data != writing.encode_mp4(255 - video, 8)


def test_gif_of_few_colours_is_exact_and_endless(tmp_path):
  rng = np.random.default_rng(0)
  colours = rng.integers(0, 256, (7, 3), np.uint8)
  video = colours[rng.integers(0, 7, (6, 9, 11))]
  writing.write_gif(tmp_path / 'a.gif', video, 7)
  with Image.open(tmp_path / 'a.gif') as gif:
    assert gif.info['loop'] == 0
    assert gif.n_frames == 6
    total = 0
    for i in range(6):
      gif.seek(i)
      total += gif.info['duration']
      frame = np.asarray(gif.convert('RGB'))
      assert frame.shape == (135, 165, 3)
      np.testing.assert_array_equal(frame[7::15, 7::15], video[i])
  assert total == 860  # 6/7 s in hundredths; 6 rounded frames would be 840


def test_gif_never_goes_below_what_browsers_keep(tmp_path):
  writing.write_gif(tmp_path / 'a.gif', smooth(3, 8, 8), 100)
  with Image.open(tmp_path / 'a.gif') as gif:
    assert gif.info['duration'] == 20


def test_contact_sheet_has_every_frame_in_its_place():
  videos = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 6, 3), np.uint8)
  sheet = writing.contact_sheet(videos, gap=2)
  assert sheet.shape == (3 * 7 + 2, 4 * 8 + 2, 3)
  for i, j in np.ndindex(3, 4):
    top, left = 2 + 7 * i, 2 + 8 * j
    frame = sheet[top : top + 5, left : left + 6]
    np.testing.assert_array_equal(frame, videos[i, j])
    sheet[top : top + 5, left : left + 6] = 255
  assert (sheet == 255).all()


@pytest.mark.parametrize(('columns', 'used'), [(None, 3), (2, 2), (9, 5)])
def test_grid_has_every_clip_in_its_place(columns, used):
  videos = np.random.default_rng(0).integers(0, 255, (5, 3, 4, 4, 3), np.uint8)
  video = writing.grid(videos, columns=columns, gap=1)
  rows = -(-5 // used)
  assert video.shape == (3, rows * 5 + 1, used * 5 + 1, 3)
  for i in range(5):
    top, left = 1 + 5 * (i // used), 1 + 5 * (i % used)
    tile = video[:, top : top + 4, left : left + 4]
    np.testing.assert_array_equal(tile, videos[i])
    tile[:] = 255
  assert (video == 255).all()


def test_grid_mp4_is_one_video_of_all(tmp_path):
  videos = np.stack([smooth(2, 16, 16)] * 4)
  writing.write_grid_mp4(tmp_path / 'grid.mp4', videos, 8)
  frames, _ = decode((tmp_path / 'grid.mp4').read_bytes())
  assert frames.shape == (2, 38 * 8, 38 * 8, 3)
  small = frames[:, 4::8, 4::8]
  assert error(small, writing.grid(videos)) < 6


def peak(function, *args):
  """Most memory in bytes that Python and numpy hold during a call."""
  tracemalloc.start()
  try:
    function(*args)
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize(
  'write',
  [
    lambda path, videos: writing.write_mp4(path, videos[0], 8),
    lambda path, videos: writing.write_grid_mp4(path, videos, 8),
  ],
)
def test_memory_does_not_grow_with_the_length(tmp_path, write):
  """A video may be a map of a file of any length."""
  videos = np.lib.format.open_memmap(
    tmp_path / 'a.npy', 'w+', np.uint8, shape=(2, 96, 16, 16, 3)
  )
  videos[:] = smooth(96, 16, 16)
  path = tmp_path / 'a.mp4'
  write(path, videos[:, :8])  # what is made once
  short = peak(write, path, videos[:, :8])
  long = peak(write, path, videos)
  frames, _ = decode(path.read_bytes())
  assert len(frames) == 96
  assert short > frames[0].nbytes  # the control: one enlarged frame is seen
  assert long < short + frames[0].nbytes  # 88 more are not


def test_a_full_grid_stays_decodable():
  for h, w in [(16, 16), (64, 64), (256, 128), (1024, 1024), (3000, 9)]:
    n = min(writing.grid_capacity(h, w), 64)
    shape = writing.grid(np.zeros((n, 1, h, w, 3), np.uint8)).shape
    assert n == 1 or max(shape[1:3]) <= 2 * writing.MAX_SIDE + 2 + max(h, w)


def test_png_and_array_are_exact(tmp_path):
  videos = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5, 3), np.uint8)
  writing.write_array(tmp_path / 'new' / 'a.npy', videos)
  np.testing.assert_array_equal(np.load(tmp_path / 'new' / 'a.npy'), videos)
  writing.write_png(tmp_path / 'a.png', videos[0, 0])
  with Image.open(tmp_path / 'a.png') as image:
    np.testing.assert_array_equal(np.asarray(image), videos[0, 0])


def test_json_takes_array_elements(tmp_path):
  writing.write_json(tmp_path / 'a', {'a': np.float32(0.5), 'b': tmp_path})
  text = (tmp_path / 'a').read_text()
  assert '0.5' in text and str(tmp_path) in text


def test_a_failed_writing_leaves_the_old_file(tmp_path):
  path = tmp_path / 'a'
  writing.write_bytes(path, b'old')
  with pytest.raises(RuntimeError), writing.atomic_file(path) as part:
    part.write_bytes(b'half')
    raise RuntimeError
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]


BAD = [
  np.zeros((2, 8, 8, 3), np.float32),
  np.zeros((8, 8, 3), np.uint8),
  np.zeros((2, 8, 8, 4), np.uint8),
  np.zeros((0, 8, 8, 3), np.uint8),
]


@pytest.mark.parametrize('video', BAD)
def test_other_arrays_are_refused(video, tmp_path):
  with pytest.raises(ValueError, match=r'must be .*, got'):
    writing.encode_mp4(video, 8)
  with pytest.raises(ValueError, match=r'must be .*, got'):
    writing.write_gif(tmp_path / 'a', video, 8)
  for function in (writing.contact_sheet, writing.grid):
    with pytest.raises(ValueError, match=r'must be .*, got'):
      function(video[None])
  with pytest.raises(ValueError, match=r'must be .*, got'):
    writing.write_array(tmp_path / 'a', video[None])
  with pytest.raises(ValueError, match=r'must be .*, got'):
    writing.write_png(tmp_path / 'a', video[..., None])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('fps', [0, -1.0, float('nan'), float('inf'), 1e-9])
def test_other_rates_are_refused(fps):
  with pytest.raises(ValueError, match='fps'):
    writing.encode_mp4(smooth(1, 8, 8), fps)
