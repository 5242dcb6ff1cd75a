import pickle
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vdm_jax.errors import DataError
from vdm_jax.media import reading
from vdm_jax.media.reading import Index, VideoError

CLIPS = Path(__file__).parents[3] / 'shared/data/clips'
REAL = {
  'arm_wrestling.mp4': 280,
  'beach.mp4': 270,
  'bigbuckbunny.mp4': 132,
  'bikes.mp4': 250,
  'carphone.mp4': 120,
  'kinetics_a.mp4': 300,
  'low_fps_57_frames.mp4': 57,
  'pancake.mkv': 310,
  'short_10_frames.gif': 10,
  'structuralize.mp4': 300,
  'ucf_a.avi': 164,
  'ucf_b.avi': 131,
  'v_CricketShot_g04_c01.gif': 79,
}
BITS = 7
STATUS = Path('/proc/self/statm')


def numbered(number, height=32, width=56):
  """A picture with BITS vertical bars: the number in binary."""
  bits = (number >> np.arange(BITS)) & 1
  row = np.repeat(np.where(bits, 230, 20), width // BITS).astype(np.uint8)
  return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(picture):
  """The number that `numbered` has drawn."""
  bars = np.array_split(picture.mean(axis=(0, 2)), BITS)
  return sum(int(bar.mean() > 125) << i for i, bar in enumerate(bars))


def write(path, pictures, *, codec='libx264', pix_fmt='yuv420p', **options):
  """Encodes pictures; `gop` and `aspect` apart, options are the encoder's."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=25)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = pix_fmt
    stream.gop_size = options.pop('gop', 12)
    stream.codec_context.sample_aspect_ratio = Fraction(
      options.pop('aspect', 1)
    )
    stream.options = {k: str(v) for k, v in options.items()}
    for picture in pictures:
      kind = 'rgba' if picture.shape[2] == 4 else 'rgb24'
      frame = av.VideoFrame.from_ndarray(picture, format=kind)
      container.mux(stream.encode(frame.reformat(format=pix_fmt)))
    container.mux(stream.encode())
  return path


def plain(tmp_path, count=40, **options):
  name = options.pop('name', 'video.mp4')
  return write(tmp_path / name, [numbered(i) for i in range(count)], **options)


KINDS = {
  'b-frames.mp4': {'bf': 3},
  'open-gop.mp4': {'bf': 3, 'x264-params': 'open-gop=1'},
  'refresh.mp4': {'bf': 0, 'x264-params': 'intra-refresh=1'},
  'all-key.mov': {'gop': 1},
  'h264.mkv': {'bf': 2},
  'xvid.avi': {'codec': 'mpeg4', 'bf': 2},
  'mjpeg.avi': {'codec': 'mjpeg', 'pix_fmt': 'yuvj420p'},
  'vp9.webm': {'codec': 'libvpx-vp9', 'cpu-used': 8, 'deadline': 'realtime'},
  'palette.gif': {'codec': 'gif', 'pix_fmt': 'rgb8'},
}


@pytest.mark.parametrize('name', KINDS)
def test_the_frames_asked_for_are_the_frames_given(tmp_path, name):
  path = plain(tmp_path, name=name, **KINDS[name])
  index = reading.scan(path)
  assert (index.frames, index.height, index.width) == (40, 32, 56)
  assert index.frame_rate == pytest.approx(25, rel=0.01)
  whole = reading.read(path, range(40))
  assert [number_of(frame) for frame in whole] == list(range(40))
  for start in range(0, 38):
    wanted = [start, start + 2]
    found = reading.read(path, wanted, index=index)
    np.testing.assert_array_equal(found, whole[wanted])


@pytest.mark.parametrize(
  'name', ['b-frames.mp4', 'open-gop.mp4', 'h264.mkv', 'xvid.avi', 'vp9.webm']
)
def test_decoding_starts_at_a_key_frame(tmp_path, name):
  """Not at the beginning: a lie in the index is seen in the frames."""
  path = plain(tmp_path, name=name, **KINDS[name])
  jumps = reading.scan(path).jumps
  assert len(jumps) >= 3
  for number, stamp in jumps:
    true = Index(40, 32, 56, 25.0, ((number, stamp),))
    assert (
      number_of(reading.read(path, [number + 2], index=true)[0]) == number + 2
    )
    lie = Index(40, 32, 56, 25.0, ((number + 1, stamp),))
    assert (
      number_of(reading.read(path, [number + 2], index=lie)[0]) == number + 1
    )


def test_a_jump_that_misses_is_made_good(tmp_path):
  path = plain(tmp_path)
  for stamp in (-1, 1, 10**6, -(10**18)):
    index = Index(40, 32, 56, 25.0, ((12, stamp),))
    assert number_of(reading.read(path, [20], index=index)[0]) == 20


def test_jumps_that_do_not_land_are_not_kept(tmp_path, monkeypatch):
  path = plain(tmp_path, **KINDS['b-frames.mp4'])
  (_, *_, (number, stamp)) = reading.scan(path).jumps
  for shift, kept in ((0, True), (1, False)):
    jumps = ((number + shift, stamp),)
    monkeypatch.setattr(reading, '_jumps', lambda *_, jumps=jumps: jumps)
    assert reading.scan(path).jumps == (jumps if kept else ())


def test_frames_come_in_any_order_and_repeat(tmp_path):
  path, wanted = plain(tmp_path), [30, 3, 3, 39, 0]
  index = reading.scan(path)
  for known in (None, index):
    found = reading.read(path, wanted, index=known)
    assert [number_of(frame) for frame in found] == wanted


def test_fit_is_applied_to_each_frame(tmp_path):
  path = plain(tmp_path, aspect='3/2')
  aspects = []

  def fit(picture, *, aspect):
    assert picture.shape == (32, 56, 3)
    aspects.append(aspect)
    return picture[:4, :4]

  assert reading.read(path, [5, 6], fit=fit).shape == (2, 4, 4, 3)
  assert aspects == pytest.approx([1.5, 1.5])


def test_a_frame_that_is_not_there(tmp_path):
  path = plain(tmp_path)
  with pytest.raises(VideoError, match='there is no frame 40'):
    reading.read(path, [0, 40])
  for numbers in ([], [-1]):
    with pytest.raises(ValueError, match='frame numbers'):
      reading.read(path, numbers)


COLOURS = [
  (0, 0, 0),
  (255, 255, 255),
  (200, 40, 40),
  (30, 160, 60),
  (40, 60, 210),
]


@pytest.mark.parametrize(
  ('name', 'codec', 'pix_fmt', 'tolerance'),
  [
    ('a.mp4', 'libx264', 'yuv420p', 4),
    ('a.mp4', 'libx264', 'yuv444p10le', 4),
    ('a.avi', 'mjpeg', 'yuvj444p', 6),
    ('a.mkv', 'ffv1', 'bgra', 0),
    ('a.mkv', 'ffv1', 'gbrp16le', 1),
    ('a.mov', 'png', 'rgba', 0),
    ('a.gif', 'gif', 'bgr8', 30),
  ],
)
def test_every_kind_of_picture_becomes_rgb(
  tmp_path, name, codec, pix_fmt, tolerance
):
  pictures = [np.full((32, 32, 3), c, np.uint8) for c in COLOURS]
  path = write(tmp_path / name, pictures, codec=codec, pix_fmt=pix_fmt)
  found = reading.read(path, range(len(COLOURS)))
  assert found.dtype == np.uint8
  error = np.abs(found.mean(axis=(1, 2)) - COLOURS)  # palettes dither
  assert error.max() <= tolerance


def test_gray_becomes_rgb(tmp_path):
  ramp = np.broadcast_to(np.arange(0, 256, 8, np.uint8)[:, None], (32, 32, 3))
  ramp = np.ascontiguousarray(np.broadcast_to(ramp[:, :1], (32, 32, 3)))
  path = write(tmp_path / 'a.mkv', [ramp] * 2, codec='ffv1', pix_fmt='gray')
  found = reading.read(path, [1])[0]
  assert np.ptp(found, axis=2).max() == 0
  assert np.abs(found.astype(int) - ramp.astype(int)).max() <= 1


def test_matrix_of_high_definition_is_honoured(tmp_path):
  """The same samples mean other colours under BT.709 than under BT.601."""
  picture = np.full((32, 32, 3), (30, 160, 60), np.uint8)
  found = {}
  for name, matrix in (('bt709', 1), ('smpte170m', 6)):
    path = tmp_path / f'{name}.mp4'
    with av.open(str(path), 'w') as container:
      stream = container.add_stream('libx264', rate=25)
      stream.height = stream.width = 32
      stream.pix_fmt = 'yuv444p'
      stream.codec_context.colorspace = matrix
      stream.options = {'qp': '0'}
      frame = av.VideoFrame.from_ndarray(picture).reformat(
        format='yuv444p', dst_colorspace='ITU709'
      )
      frame.colorspace = matrix
      container.mux(stream.encode(frame))
      container.mux(stream.encode())
    found[name] = reading.read(path, [0])[0, 16, 16].astype(int)
  assert np.abs(found['bt709'] - (30, 160, 60)).max() <= 3
  assert np.abs(found['smpte170m'] - (30, 160, 60)).max() > 8  # the control


@pytest.mark.parametrize('quarters', [0, 1, 2, 3])
def test_rotation_is_carried_out(tmp_path, quarters):
  """A telephone held upright writes lying frames, and how to turn them."""
  path = plain(tmp_path, count=3, aspect='3/2')
  data = bytearray(path.read_bytes())
  a, b = ((1, 0), (0, -1), (-1, 0), (0, 1))[quarters]
  matrix = (a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
  place = data.index(b'tkhd') + 44
  data[place : place + 36] = struct.pack('>9i', *matrix)
  path.write_bytes(data)
  aspects = []

  def fit(picture, *, aspect):
    aspects.append(aspect)
    return picture

  found = reading.read(path, [2], fit=fit)[0]
  turned = np.rot90(numbered(2), quarters)
  assert found.shape == turned.shape
  assert np.abs(found.astype(int) - turned.astype(int)).mean() < 10
  assert aspects == pytest.approx([2 / 3 if quarters % 2 else 3 / 2])
  index = reading.scan(path)
  assert (index.height, index.width) == found.shape[:2]


def audio_only(path):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=8000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
    )
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def cut(path):
  path.write_bytes(path.read_bytes()[:-200])  # the table of frames is last


def overwritten(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 4)
  path.write_bytes(data)


def folder(path):
  path.unlink()
  path.mkdir()


DAMAGE = {
  'missing': Path.unlink,
  'empty': lambda path: path.write_bytes(b''),
  'text': lambda path: path.write_text('no video at all\n' * 99),
  'noise': lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)),
  'cut': cut,
  'overwritten': overwritten,
  'audio': audio_only,
  'folder': folder,
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_what_cannot_be_read_gets_one_line(tmp_path, kind):
  path = plain(tmp_path)
  reading.scan(path)  # the control
  DAMAGE[kind](path)
  with pytest.raises(DataError) as caught:
    reading.scan(path)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)
  assert caught.value.reason


def test_huge_pictures_are_refused(tmp_path, monkeypatch):
  path = plain(tmp_path)
  monkeypatch.setattr(reading, 'MAX_PIXELS', 32 * 56 - 1)
  with pytest.raises(VideoError):
    reading.scan(path)


def test_the_error_survives_a_trip_between_processes():
  error = pickle.loads(pickle.dumps(VideoError('a.mp4', 'no frames')))
  assert 'a.mp4: no frames' in str(error)
  assert error.reason == 'no frames'


SOAK = """
import resource, sys
from vdm_jax.media import reading

def grown(keep):
  before, kept = resident(), []
  for _ in range(400):
    kept.append(reading.read(sys.argv[1], range(20, 36), index=index))
    del kept[:-keep]
  return resident() - before

def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * resource.getpagesize()

index = reading.scan(sys.argv[1])
for _ in range(3):
  grown(1)
print(grown(1), grown(400))
"""


@pytest.mark.skipif(not STATUS.exists(), reason=f'needs {STATUS}')
def test_memory_stays_where_it_is(tmp_path):
  result = subprocess.run(
    [sys.executable, '-c', SOAK, str(plain(tmp_path))],
    cwd=Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=True,
  )
  dropped, kept = map(int, result.stdout.split())
  assert dropped < 4e6  # a leak of four frames per clip would show
  assert kept > 10e6  # the control: clips that are kept do


needs_clips = pytest.mark.skipif(
  not CLIPS.is_dir(), reason=f'no real clips in {CLIPS}'
)


@needs_clips
@pytest.mark.parametrize('name', REAL)
def test_real_clips_are_exact_wherever_decoding_starts(name):
  path = CLIPS / name
  index = reading.scan(path)
  assert index.frames == REAL[name]

  def small(picture, *, aspect):
    del aspect
    return np.ascontiguousarray(picture[::4, ::4])

  whole = reading.read(path, range(index.frames), fit=small)
  assert len({frame.tobytes() for frame in whole}) > len(whole) // 2
  places = [number for number, _ in index.jumps][:6]
  starts = {0, index.frames - 1, *places, *(n - 1 for n in places)}
  for start in sorted(starts | {n + 5 for n in places}):
    wanted = range(start, min(start + 3, index.frames))
    found = reading.read(path, wanted, index=index, fit=small)
    np.testing.assert_array_equal(found, whole[start : start + 3])


@needs_clips
def test_jumping_saves_time():
  path = CLIPS / 'arm_wrestling.mp4'
  index = reading.scan(path)
  times = []
  for known in (None, index):
    begin = time.process_time()
    reading.read(path, [270], index=known)
    times.append(time.process_time() - begin)
  assert times[1] < times[0] / 3


@needs_clips
def test_the_real_damaged_clip_is_refused():
  with pytest.raises(VideoError):
    reading.scan(CLIPS / 'corrupted.mp4')
