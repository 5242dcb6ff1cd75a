"""UCF-101 through TensorFlow Datasets, as in Ho22: all 13,320 videos.

TFDS stores every frame as a JPEG, scaled without regard to the aspect by
ffmpeg. Only those that a clip needs are decoded here. TensorFlow is imported by
`UCF101(…)` and `prepare(…)` alone.
"""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vdm_jax.data import frames as frames_lib
from vdm_jax.data import tfds_frames
from vdm_jax.errors import ConfigError, DataError

VIDEOS = 13320  # of train and test together, in each of the three splits
_LISTS = 'ucfTrainTestlist'
_TITLE = 'UCF-101'


class UCF101:
  """One element per video; a clip starts anywhere in it at random.

  The shortest videos have 29 frames: clips that cover more run on from the
  first frame.

  Attributes:
    classes: the 101 names, in alphabetical order.
    problems: (path, reason) where videos are missing.
  """

  def __init__(
    self,
    data_dir: str | os.PathLike | None = None,
    *,
    frames: int,
    size: int,
    stride: int = 1,
    resize: str = 'squash',
    split: str = 'train+test',
    split_number: int = 1,
    stored_size: int | None = None,
    videos: str | os.PathLike | None = None,
    download: bool = False,
  ):
    """Opens the prepared data, after preparing it if told from what.

    Args:
      data_dir: folder of TFDS; its own default if None or empty.
      frames: frames of a clip.
      size: height and width of a frame, pixels.
      stride: every stride-th frame is taken.
      resize: 'squash', and nothing else: so TFDS has stored the frames.
      split: in TFDS' language: 'train+test' is all, 'train', 'test[:50%]', ….
      split_number: which of the three official splits, 1 to 3.
      stored_size: at which size the frames are stored; `size` if None. 256 is
        TFDS' own configuration: read at size 64 it costs half as much again,
        and is closer to the video (39 dB against 37, measured on two clips).
      videos: folder to prepare from if needed; see `prepare`.
      download: download the videos if needed, 6.5 GB.

    Raises:
      ConfigError: options that cannot work, or TensorFlow is not installed.
      DataError: the data is not prepared, or cannot be.
    """
    frames_lib.validate(frames=frames, size=size, stride=stride, resize=resize)
    tfds_frames.check_resize(resize, _TITLE)
    self.data_dir = data_dir
    self.frames, self.size, self.stride = frames, size, stride
    self.split, self.split_number = split, split_number
    self.stored_size = stored_size or size
    make = functools.partial(_builder, data_dir, self.stored_size, split_number)
    builder = make()
    if not builder.is_prepared():
      if not (videos or download):
        raise DataError(_not_prepared(builder, data_dir, self.stored_size))
      prepare(
        data_dir,
        videos or None,
        size=self.stored_size,
        split_number=split_number,
      )
      builder = make()
    self._records = tfds_frames.Records(make, split, _TITLE)
    self.classes = tuple(builder.info.features['label'].names)
    # Another ffmpeg gives other frames, and so nearly always other sizes.
    count, self._bytes = tfds_frames.counts(builder)
    self.problems: list[tuple[str, str]] = []
    if count != VIDEOS:
      reason = f'{count} of the {VIDEOS} videos were there to be prepared'
      self.problems.append((str(builder.data_dir), reason))

  def __len__(self) -> int:
    return len(self._records)

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reads a clip: `video` uint8 `[t, h, w, 3]`, `label` and `id`."""
    features = self._records[index]
    jpegs = features['video'].bytes_list.value
    numbers = frames_lib.window(
      len(jpegs), frames=self.frames, stride=self.stride, rng=rng
    )
    return {
      'video': np.stack(
        [tfds_frames.decode(jpegs[n], self.size) for n in numbers]
      ),
      'label': np.int32(features['label'].int64_list.value[0]),
      'id': self.name(index),
    }

  def name(self, index: int) -> str:
    """The `id` of a clip."""
    return f'ucf101 {self.split} {index}'

  def signature(self) -> dict[str, Any]:
    """JSON-able identity: number and bytes of the videos, and the options."""
    return {
      'source': 'ucf101',
      'videos': len(self),
      'bytes': self._bytes,
      'split': self.split,
      'split_number': self.split_number,
      'stored_size': self.stored_size,
      'frames': self.frames,
      'size': self.size,
      'stride': self.stride,
    }


def prepare(
  data_dir: str | os.PathLike | None,
  videos: str | os.PathLike | None,
  *,
  size: int,
  split_number: int = 1,
) -> None:
  """Runs TFDS' builder of UCF-101; less than an hour for all videos.

  One process does; others of the same folder wait for it.

  Args:
    data_dir: folder of TFDS, to write to; its own default if None or empty.
    videos: folder with `ucfTrainTestlist/*.txt`, and with the files `v_*.avi`
      in `UCF101/` or, as in the official archive, in `UCF-101/<class>/`. Files
      that the lists name and that are not there are left out. None downloads.
    size: height and width at which frames are stored.
    split_number: which of the three official splits, 1 to 3.

  Raises:
    ConfigError: TensorFlow or ffmpeg is not installed.
    DataError: the layout is another, or a video cannot be decoded.
  """
  make = functools.partial(_builder, data_dir, size, split_number)
  with tfds_frames.turn(make(), _TITLE), contextlib.ExitStack() as stack:
    builder = make()
    if builder.is_prepared():
      return
    stack.enter_context(_ffmpeg())
    source = None
    if videos is not None:
      source = stack.enter_context(_flat(Path(videos).expanduser()))
    tfds_frames.prepare(
      builder,
      title=_TITLE,
      folder=source,
      told=videos,
      advice='mend or remove what is named, and start again',
    )


def _builder(data_dir, size, split_number):
  if split_number not in (1, 2, 3):
    raise ConfigError(
      f'split_number must be 1, 2 or 3 (got {split_number}); choose one'
    )
  module = tfds_frames.module('video.ucf101', _TITLE)
  name = f'ucf101_{split_number}_{size}'
  config = module.Ucf101Config(
    name=name, width=size, height=size, split_number=split_number
  )
  own = [c.name for c in module.Ucf101.BUILDER_CONFIGS]
  make = functools.partial(
    module.Ucf101, config=name if name in own else config
  )
  return tfds_frames.builder(make, data_dir, _TITLE)


def _not_prepared(builder, data_dir, size) -> str:
  where = repr(os.fspath(data_dir)) if data_dir else None
  command = (
    'python -c "from vdm_jax.data import ucf101; '
    f"ucf101.prepare({where}, 'VIDEOS', size={size}, "
    f'split_number={builder.builder_config.split_number})"'
  )
  return (
    f'UCF-101 is not prepared (looked in {builder.data_dir}); run {command} '
    'with VIDEOS the folder that holds UCF101/ and ucfTrainTestlist/, or give '
    'that folder as config.data.videos'
  )


@contextlib.contextmanager
def _flat(videos: Path) -> Iterator[Path]:
  """A folder in the layout that TFDS expects, made of links."""
  if not (videos / _LISTS).is_dir():
    raise DataError(
      f'no folder {_LISTS} with the official lists ({videos}); put it beside '
      'the folder of the videos'
    )
  files = [p for p in videos.glob('UCF*101/**/v_*.avi') if p.is_file()]
  if not files:
    raise DataError(
      f'no videos UCF101/v_*.avi ({videos}); unpack the archive there'
    )
  logging.info('preparing UCF-101 from %d videos', len(files))
  with tempfile.TemporaryDirectory() as folder:
    flat = Path(folder)
    (flat / _LISTS).symlink_to((videos / _LISTS).resolve())
    (flat / 'UCF101').mkdir()
    for file in files:
      # The builder asks for this spelling whatever the lists say.
      name = file.name.replace('HandStandPushups', 'HandstandPushups')
      link = flat / 'UCF101' / name
      if not link.is_symlink():
        link.symlink_to(file.resolve())
    yield flat


@contextlib.contextmanager
def _ffmpeg() -> Iterator[None]:
  """Puts an `ffmpeg` program on the path, which the builder calls."""
  if shutil.which('ffmpeg'):
    yield
    return
  try:
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
  except (ImportError, RuntimeError) as error:
    raise ConfigError(
      f'preparing UCF-101 needs the program ffmpeg ({error}); install ffmpeg, '
      'or run pip install imageio-ffmpeg'
    ) from error
  before = os.environ.get('PATH', '')
  with tempfile.TemporaryDirectory() as folder:
    Path(folder, 'ffmpeg').symlink_to(program)
    os.environ['PATH'] = os.pathsep.join([folder, before])
    try:
      yield
    finally:
      os.environ['PATH'] = before
