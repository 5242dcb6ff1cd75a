"""Videos, and what can be wrong with them."""

import av
import numpy as np


def video(path, count=9, *, height=32, width=32, codec='libx264', **options):
  """Writes a moving picture of so many frames; returns its path.

  Args:
    path: the file, whose ending is the container's.
    count: frames.
    height: of a frame.
    width: likewise.
    codec: of the stream.
    **options: `pix_fmt`, and `stamps`: the time stamp of each frame.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (height, width, 3), np.uint8)
  stamps = options.pop('stamps', range(count))
  pix_fmt = options.pop('pix_fmt', 'yuv444p')
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=25)
    stream.height, stream.width = height, width
    stream.pix_fmt, stream.gop_size = pix_fmt, 8
    for i, stamp in zip(range(count), stamps, strict=True):
      frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * i, axis=1))
      frame = frame.reformat(format=pix_fmt)
      frame.pts = stamp
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def empty(path):
  path.write_bytes(b'')


def text(path):
  path.write_text('no video at all\n' * 99)


def noise(path):
  path.write_bytes(np.random.default_rng(0).bytes(9999))


def cut(path):
  """The table of the frames is at the end, and goes."""
  data = video(path).read_bytes()
  path.write_bytes(data[: len(data) // 2])


def overwritten(path):
  data = bytearray(video(path).read_bytes())
  data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 4)
  path.write_bytes(data)


def audio(path):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=8000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
    )
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def short(path):
  video(path, 2)
