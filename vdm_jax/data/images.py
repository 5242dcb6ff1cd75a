"""A folder of still images as a source of videos with one frame."""

import concurrent.futures
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vdm_jax.data import captioned
from vdm_jax.data import frames as frames_lib
from vdm_jax.data.folder import summary
from vdm_jax.errors import DataError
from vdm_jax.media import listing, reading
from vdm_jax.progress import Progress
from vdm_jax.text import captions as captions_lib

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')
# By content, whatever the name; others that Pillow knows run programs.
_FORMATS = ('BMP', 'JPEG', 'PNG', 'WEBP')


class _Header(NamedTuple):
  """What the head of a file says: pixels, and the length of the file."""

  width: int
  height: int
  bytes: int


class Images:
  """One element per image, as a video of one frame.

  Rotation by EXIF is carried out, what is transparent lies on black, and gray,
  palette and deep pictures become 8-bit RGB. Of moving pictures the first one
  counts.

  Attributes:
    problems: (path, reason) of every file that is left out.
    classes: names of the classes, if there are any, sorted.
    files: paths of the elements, relative to the folder.
    captions, words: see `Source`; only with captions.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    size: int,
    resize: str = 'crop',
    classes: bool = False,
    labels: Mapping[str, str] | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    workers: int | None = None,
  ):
    """Lists the folder, and reads the head of every file.

    That finds what is no image, or too large, and damage to a PNG. Damage to
    the pixels of others shows when they are read.

    Args:
      path: the folder; sub-folders are searched, links followed.
      size: height and width, pixels.
      resize: 'crop' keeps the aspect and cuts the largest square out of the
        middle, 'squash' keeps the whole.
      classes: take the sub-folders of `path` as classes; see `Folder`.
      labels: the class of each image by its path; see `Folder`.
      captions: one or more captions of each image by its path, of which one is
        drawn; other images are left out. See `captions_beside`.
      workers: files opened at a time; one per core if None.

    Raises:
      ConfigError: options that cannot work.
      DataError: the folder is missing, cannot be listed, or holds nothing that
        can be used.
    """
    frames_lib.validate(frames=1, size=size, stride=1, resize=resize)
    self.path = Path(path).expanduser()
    self.size, self.resize = size, resize
    names, self.problems = _find(self.path)
    self._classes = captioned.Classes(
      self.path, names, folders=classes, labels=labels, what='images'
    )
    self.classes = self._classes.names
    names, left_out = captioned.choose(names, self._classes, captions)
    self._headers, problems = _headers(
      self.path, names, workers or os.cpu_count() or 1
    )
    self.problems = sorted(self.problems + left_out + problems)
    self.files = sorted(self._headers)
    if not self.files:
      raise DataError(
        f'no usable image ({self.path}: {summary(self.problems)}); replace them'
      )
    if captions is not None:
      self.captions = captioned.Captions(captions, self.files)
    self._warn_of_small_images()

  def __len__(self) -> int:
    return len(self.files)

  @property
  def words(self) -> tuple[str, ...]:
    """All words of all captions, sorted; only with captions."""
    return self.captions.words

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reads an image; `video` is `[1, h, w, 3]`, `id` the path. See `Source`.

    Raises:
      DataError: the file cannot be read.
    """
    name = self.files[index]
    picture = read(self.path / name, size=self.size)
    video = frames_lib.fit(picture, size=self.size, resize=self.resize)[None]
    clip = {'video': video, 'label': self._classes.label(name), 'id': name}
    if hasattr(self, 'captions'):
      clip['caption'] = self.captions.draw(name, rng)
    return clip

  def name(self, index: int) -> str:
    """The `id` of a clip."""
    return self.files[index]

  def signature(self) -> dict[str, Any]:
    """JSON-able identity: the options and a hash of paths and lengths."""
    files = json.dumps([[name, *self._headers[name]] for name in self.files])
    captions = getattr(self, 'captions', None)
    return {
      'source': 'images',
      'files': hashlib.sha256(files.encode()).hexdigest(),
      'size': self.size,
      'resize': self.resize,
      **self._classes.signature(),
      **(captions.signature() if captions else {}),
    }

  def _warn_of_small_images(self):
    small = [
      name for name in self.files if min(self._headers[name][:2]) < self.size
    ]
    if small:
      from vdm_jax import runtime  # with JAX, which workers do without

      runtime.warn(
        f'{len(small)} images are smaller than {self.size} pixels and will be '
        f'enlarged, such as {small[0]}'
      )


def captions_beside(path: str | os.PathLike) -> dict[str, list[str]]:
  """Captions from `.txt` files of the images' names, whose lines make one.

  Args:
    path: the folder of images; those without such a file have no caption.

  Raises:
    DataError: the folder cannot be listed, or a caption cannot be read.
  """
  root = Path(path).expanduser()
  names, _ = _find(root)
  files = {name: (root / name).with_suffix('.txt') for name in names}
  return {
    name: [' '.join(line.text for line in captions_lib.read(file))]
    for name, file in files.items()
    if file.is_file()
  }


def read(
  path: str | os.PathLike, *, size: int = 0
) -> UInt8[np.ndarray, 'h w 3']:
  """Reads an image as RGB.

  Args:
    path: the file.
    size: if above 0, the image may come at a half, a quarter, … of its size,
      but with no side below this, where that is faster.

  Raises:
    DataError: the file cannot be read as an image.
  """
  try:
    with Image.open(path, formats=_FORMATS) as image:
      _check_size(image)
      if size:
        image.draft(None, (size, size))
      return _rgb(ImageOps.exif_transpose(image))
  except Exception as error:  # of any kind where a file means harm
    raise DataError(
      f'an image cannot be read ({path}: {_reason(error)}); remove or replace '
      'the file'
    ) from error


def _rgb(image: Image.Image) -> np.ndarray:
  if image.mode.startswith('I'):  # 16 bits a pixel
    gray = np.clip(np.asarray(image, np.float64) / 257, 0, 255)
    return np.repeat((gray + 0.5).astype(np.uint8)[..., None], 3, axis=2)
  if image.has_transparency_data:
    image = image.convert('RGBA')
    black = Image.new('RGBA', image.size, (0, 0, 0, 255))
    image = Image.alpha_composite(black, image)
  return np.array(image.convert('RGB'))


def _check_size(image):
  if image.width * image.height > reading.MAX_PIXELS:
    raise Image.DecompressionBombError


def _reason(error: Exception) -> str:
  if isinstance(error, Image.UnidentifiedImageError):
    return 'no BMP, JPEG, PNG or WebP'
  if isinstance(error, Image.DecompressionBombError):
    return 'too many pixels'
  text = getattr(error, 'strerror', None) or str(error).split('\n')[0]
  return text or type(error).__name__


def _headers(
  root: Path, names: Sequence[str], workers: int
) -> tuple[dict[str, _Header], list[tuple[str, str]]]:
  """The heads of the files that can be used, (path, reason) of the others."""
  known, problems = {}, []
  if not names:
    return known, problems
  with (
    warnings.catch_warnings(),
    concurrent.futures.ThreadPoolExecutor(workers) as pool,
    Progress(len(names), name='opening images', unit='files') as progress,
  ):
    # Images so large are left out here, and need no words of Pillow's.
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    heads = pool.map(_header, [root / name for name in names])
    for count, (name, head) in enumerate(zip(names, heads, strict=True), 1):
      if isinstance(head, str):
        problems.append((name, head))
      else:
        known[name] = head
      progress.update(count)
  return known, problems


def _header(path: Path) -> _Header | str:
  try:
    with Image.open(path, formats=_FORMATS) as image:
      _check_size(image)
      header = _Header(*image.size, path.stat().st_size)
      image.verify()
  except Exception as error:  # of any kind where a file means harm
    return _reason(error)
  return header


def _find(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
  """As `listing.find`, for images, of which there must be some."""
  names, problems = listing.find(root, SUFFIXES, 'images')
  if not names:
    raise DataError(
      f'no images ({root}); put files with the endings {", ".join(SUFFIXES)} '
      'there'
    )
  return names, problems
