"""BAIR robot pushing, the small version, through TensorFlow Datasets.

About 44,000 videos of 30 frames of 64×64 (Ebert et al. 2017). TFDS stores every
frame of both cameras as a PNG; the main camera's frames that a clip needs are
decoded here. TensorFlow is imported by `BAIR(…)` and `prepare(…)` alone.
"""

import contextlib
import functools
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vdm_jax.data import frames as frames_lib
from vdm_jax.data import tfds_frames
from vdm_jax.errors import ConfigError, DataError

VIDEOS = 43264 + 256  # of train and of test
FRAMES = 30  # of every video
ARCHIVE = 'bair_robot_pushing_dataset_v0.tar'
_FOLDER = 'softmotion30_44k'  # in the archive
_TITLE = 'BAIR robot pushing'


class BAIR:
  """One element per video; a clip starts anywhere in it at random.

  Attributes:
    classes: none.
    problems: (path, reason) where videos are missing.
  """

  classes: tuple[str, ...] = ()

  def __init__(
    self,
    data_dir: str | os.PathLike | None = None,
    *,
    frames: int = 16,
    size: int = 64,
    stride: int = 1,
    resize: str = 'squash',
    split: str = 'train',
    videos: str | os.PathLike | None = None,
    download: bool = False,
  ):
    """Opens the prepared data, after preparing it if told from what.

    Args:
      data_dir: folder of TFDS; its own default if None or empty.
      frames: frames of a clip.
      size: height and width of a frame, pixels; stored are 64.
      stride: every stride-th frame is taken.
      resize: 'squash', and nothing else, of frames that are square as stored.
      split: in TFDS' language: 'train', 'test', 'train[:50%]', ….
      videos: what to prepare from if needed; see `prepare`.
      download: download the archive if needed, 32 GB.

    Raises:
      ConfigError: options that cannot work, or TensorFlow is not installed.
      DataError: the data is not prepared, or cannot be.
    """
    frames_lib.validate(frames=frames, size=size, stride=stride, resize=resize)
    tfds_frames.check_resize(resize, _TITLE)
    if frames_lib.span(frames, stride) > FRAMES:
      raise ConfigError(
        f'a clip covers {frames_lib.span(frames, stride)} frames, and a video '
        f'of {_TITLE} has {FRAMES}; lower frames ({frames}) or stride '
        f'({stride})'
      )
    self.frames, self.size, self.stride = frames, size, stride
    self.split = split
    make = functools.partial(_builder, data_dir)
    builder = make()
    if not builder.is_prepared():
      if not (videos or download):
        raise DataError(_not_prepared(builder, data_dir))
      prepare(data_dir, videos or None)
      builder = make()
    self._records = tfds_frames.Records(make, split, _TITLE)
    count, self._bytes = tfds_frames.counts(builder)
    self.problems: list[tuple[str, str]] = []
    if count != VIDEOS:
      reason = f'{count} of the {VIDEOS} videos were there to be prepared'
      self.problems.append((str(builder.data_dir), reason))

  def __len__(self) -> int:
    return len(self._records)

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reads a clip: `video` uint8 `[t, h, w, 3]`, `label` (0) and `id`."""
    pictures = self._records[index]['image_main'].bytes_list.value
    numbers = frames_lib.window(
      len(pictures), frames=self.frames, stride=self.stride, rng=rng
    )
    return {
      'video': np.stack(
        [tfds_frames.decode(pictures[n], self.size) for n in numbers]
      ),
      'label': np.int32(0),
      'id': self.name(index),
    }

  def name(self, index: int) -> str:
    """The `id` of a clip."""
    return f'bair {self.split} {index}'

  def signature(self) -> dict[str, Any]:
    """JSON-able identity: number and bytes of the videos, and the options."""
    return {
      'source': 'bair',
      'videos': len(self),
      'bytes': self._bytes,
      'split': self.split,
      'frames': self.frames,
      'size': self.size,
      'stride': self.stride,
    }


def prepare(
  data_dir: str | os.PathLike | None, videos: str | os.PathLike | None
) -> None:
  """Runs TFDS' builder of the data set.

  One process does; others of the same folder wait for it.

  Args:
    data_dir: folder of TFDS, to write to; its own default if None or empty. An
      archive is unpacked there too, and what was unpacked removed at the end.
    videos: the official archive `bair_robot_pushing_dataset_v0.tar`, a folder
      that holds it or, unpacked, its folder `softmotion30_44k`, or that folder
      itself, with `train/*.tfrecords` and `test/*.tfrecords`. None downloads.

  Raises:
    ConfigError: TensorFlow is not installed.
    DataError: the layout is another, or a file cannot be read.
  """
  make = functools.partial(_builder, data_dir)
  with tfds_frames.turn(make(), _TITLE), contextlib.ExitStack() as stack:
    builder = make()
    if builder.is_prepared():
      return
    source = None
    if videos is not None:
      root = Path(builder.data_dir).parents[1]
      source = stack.enter_context(_clean(Path(videos).expanduser(), root))
    tfds_frames.prepare(
      builder,
      title=_TITLE,
      folder=source,
      told=videos,
      advice='take the official files, all of them and whole',
    )


def _builder(data_dir):
  name = 'bair_robot_pushing_small'
  module = tfds_frames.module(f'datasets.{name}.{name}_dataset_builder', _TITLE)
  return tfds_frames.builder(module.Builder, data_dir, _TITLE)


def _not_prepared(builder, data_dir) -> str:
  where = repr(os.fspath(data_dir)) if data_dir else None
  command = (
    'python -c "from vdm_jax.data import bair; '
    f"bair.prepare({where}, 'VIDEOS')\""
  )
  return (
    f'{_TITLE} is not prepared (looked in {builder.data_dir}); run {command} '
    f'with VIDEOS the folder that holds {ARCHIVE} or {_FOLDER}/, or give that '
    'folder as config.data.videos'
  )


@contextlib.contextmanager
def _clean(videos: Path, root: Path) -> Iterator[Path]:
  """A folder with links to the official files, and nothing else in it."""
  with contextlib.ExitStack() as stack:
    folder = _unpacked(videos)
    if folder is None:
      folder = stack.enter_context(_unpack(videos, root))
    clean = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for split in ('train', 'test'):
      files = sorted((folder / split).glob('*.tfrecords'))
      if not files:
        raise DataError(
          f'no videos {split}/*.tfrecords ({folder}); unpack the whole archive '
          'there'
        )
      logging.info(
        'preparing %s of %s from %d files', split, _TITLE, len(files)
      )
      place = clean / _FOLDER / split
      place.mkdir(parents=True)
      for file in files:
        (place / file.name).symlink_to(file.resolve())
    yield clean


def _unpacked(videos: Path) -> Path | None:
  """The folder of the archive, if it is there."""
  for folder in (videos / _FOLDER, videos):
    if (folder / 'train').is_dir() or (folder / 'test').is_dir():
      return folder
  return None


@contextlib.contextmanager
def _unpack(videos: Path, root: Path) -> Iterator[Path]:
  """Unpacks the archive below `root` for as long as it is needed."""
  archive = videos / ARCHIVE if videos.is_dir() else videos
  if not archive.is_file():
    raise DataError(
      f'neither {_FOLDER}/ nor {ARCHIVE} is there ({videos}); name the folder '
      'that holds one of them'
    )
  root.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=root, prefix='unpacked_') as place:
    try:
      with tarfile.open(archive, 'r:') as tar:
        tar.extractall(place, filter='data')
    except (tarfile.TarError, OSError) as error:
      raise DataError(
        f'an archive cannot be unpacked ({archive}: '
        f'{tfds_frames.reason(error)}); there must be room for it in {root}, '
        'and it must be whole'
      ) from error
    folder = _unpacked(Path(place))
    if folder is None:
      raise DataError(
        f'an archive holds no folder {_FOLDER} ({archive}); take {ARCHIVE}'
      )
    yield folder
