"""Videos that TensorFlow Datasets keeps as single pictures, read at random.

TFDS' own builders prepare the data, as `array_record` files. What it reads is
parsed and not decoded, so that only the frames of a clip cost time. TensorFlow
is imported by these functions alone.
"""

import contextlib
import importlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from vdm_jax.data import frames as frames_lib
from vdm_jax.data import turns
from vdm_jax.errors import ConfigError, DataError


def module(name: str, title: str) -> ModuleType:
  """A module of TFDS, such as 'video.ucf101'.

  Args:
    name: below `tensorflow_datasets`; '' for that itself.
    title: of the data set, for the message.

  Raises:
    ConfigError: TensorFlow or TFDS is not installed.
  """
  try:
    importlib.import_module('tensorflow')  # builders need it
    importlib.import_module('tensorflow_datasets')
    return importlib.import_module(f'tensorflow_datasets.{name}'.rstrip('.'))
  except ImportError as error:
    raise ConfigError(
      f'{title} is read by TensorFlow Datasets, which is not installed '
      f'({error}); run pip install "vdm_jax[tfds]"'
    ) from error


def builder(make: Callable, data_dir: str | os.PathLike | None, title: str):
  """A builder of TFDS whose files can be read at random.

  Args:
    make: the builder's class, or a function with the same arguments.
    data_dir: folder of TFDS; its own default if None or empty.
    title: of the data set, for the message.

  Raises:
    DataError: the data is there, but in another format.
  """
  try:
    return make(
      data_dir=os.fspath(data_dir) if data_dir else None,
      file_format='array_record',
    )
  except ValueError as error:
    raise DataError(
      f'{title} cannot be read at random ({reason(error)}); choose another '
      f'data_dir than {data_dir or "the default of TFDS"}, to prepare it anew'
    ) from error


@contextlib.contextmanager
def turn(builder, title: str) -> Iterator[None]:
  """Around preparing, which one process does while the others wait.

  Make the builder again inside, and see whether it is prepared by now.

  Args:
    builder: what `builder` returned.
    title: of the data set, for the message.

  Raises:
    DataError: the folder of TFDS cannot be written.
  """
  above, version = os.path.split(os.fspath(builder.data_dir))
  folder, name = os.path.split(above)
  with contextlib.ExitStack() as stack:
    try:
      path = f'{folder}/.{name}_{version}.lock'
      stack.enter_context(turns.turn(path, f'prepare {title} in {folder}'))
    except OSError as error:
      raise DataError(
        f'{title} cannot be prepared ({folder}: {error.strerror}); choose '
        'another config.data.path, or change its permissions'
      ) from error
    yield


def prepare(
  builder,
  *,
  title: str,
  folder: Path | None,
  told: str | os.PathLike | None,
  advice: str,
) -> None:
  """Runs a builder of TFDS.

  Args:
    builder: what `builder` returned.
    title: of the data set, for the message.
    folder: the unpacked files, in the layout of the download; None downloads.
    told: what the user gave, for the message.
    advice: the end of the message, what to do.

  Raises:
    DataError: it fails; the message has the builder's first line, and the
      file's name where that stands further down.
  """
  if folder is not None:
    split_generators = builder._split_generators
    # On this one object: a subclass of ours would lose TFDS' checksums.
    builder._split_generators = lambda _: split_generators(_Local(folder))
  broken = importlib.import_module('tensorflow').errors.OpError
  try:
    builder.download_and_prepare()
  except (
    AssertionError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    broken,
  ) as error:
    where = 'by download' if told is None else f'from {told}'
    raise DataError(
      f'{title} cannot be prepared ({where}: {reason(error)}); {advice}'
    ) from error


class _Local:
  """Stands in for TFDS' download manager: everything is in one folder."""

  def __init__(self, folder: Path):
    self._folder = os.fspath(folder)

  def download_and_extract(self, urls):
    """The folder, once per name where `urls` is a table."""
    if isinstance(urls, dict):
      return dict.fromkeys(urls, self._folder)
    return self._folder


class Records:
  """The examples of a split, as TFDS stores them; it can be pickled.

  Args:
    make: makes the prepared builder; a function that can be pickled.
    split: in TFDS' language: 'train', 'train+test', 'test[:50%]', ….
    title: of the data set, for the message.

  Raises:
    DataError: there is no such split, or the files cannot be opened.
  """

  def __init__(self, make: Callable[[], Any], split: str, title: str):
    self._make, self._split, self._title = make, split, title
    self._records = self._open()

  def _open(self):
    tfds = module('', self._title)
    builder = self._make()
    try:
      # Parsed but not decoded: the pictures stay as they are.
      return builder.as_data_source(
        split=self._split,
        deserialize_method=tfds.decode.DeserializeMethod.DESERIALIZE_NO_DECODE,
      )
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
      raise DataError(
        f'{self._title} cannot be opened ({builder.data_dir}, split '
        f'{self._split!r}: {reason(error)}); check the split, or prepare it '
        'again'
      ) from error

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int):
    """The features of an example, from names to TensorFlow's lists."""
    return self._records[index].features.feature

  def __getstate__(self) -> dict[str, Any]:
    # TFDS' own object forgets its format when pickled: open it anew.
    return {k: v for k, v in self.__dict__.items() if k != '_records'}

  def __setstate__(self, state: dict[str, Any]):
    self.__dict__.update(state)
    self._records = self._open()


def counts(builder) -> tuple[int, int]:
  """Examples and bytes of all splits of a prepared builder."""
  parts = builder.info.splits.values()
  return (
    sum(part.num_examples for part in parts),
    sum(part.num_bytes for part in parts),
  )


def check_resize(resize: str, title: str) -> None:
  """Raises ConfigError unless frames are squashed, as `decode` does it.

  What TFDS has squashed when it stored it cannot be cropped any more; videos
  that a model is given are treated as those that it was trained on.

  Args:
    resize: what is asked for.
    title: of the data set, for the message.
  """
  if resize != 'squash':
    raise ConfigError(
      f'the frames of {title} are squashed, not cropped (got resize '
      f"{resize!r}); set config.data.resize to 'squash'"
    )


def decode(picture: bytes, size: int) -> np.ndarray:
  """A JPEG or PNG, brought to `[size, size, 3]`, its aspect not kept."""
  image = Image.open(io.BytesIO(picture))
  image.draft('RGB', (size, size))  # a JPEG at a half, a quarter… if enough
  return frames_lib.fit(
    np.asarray(image.convert('RGB')), size=size, resize='squash'
  )


def reason(error: Exception) -> str:
  """The first line, and the file where one is named further down."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  file = re.search(r'[\w.-]+\.(avi|tfrecords)', str(error))
  name = f' {file[0]}' if file and file[0] not in lines[0] else ''
  return lines[0] + name
