"""Real clips of the protocols' data sets, always the same ones."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vdm_jax import errors
from vdm_jax.data import shapes
from vdm_jax.data.source import Source, checked
from vdm_jax.media import listing
from vdm_jax.metrics.protocols import Data, Reference
from vdm_jax.text import captions as captions_lib

_LISTS = 'ucfTrainTestlist'


@dataclasses.dataclass(frozen=True, eq=False)
class Real:
  """Real clips of a reference set.

  Attributes:
    source: where they are cut from.
    chosen: which, (element of the source, how many-th clip of it).
    frames: of each clip, the first ones.
    seed: of where they begin.
    workers: threads that decode.
  """

  source: Source
  chosen: Int[np.ndarray, 'n 2']
  frames: int
  seed: int
  workers: int = 2

  def __len__(self) -> int:
    return len(self.chosen)

  def read(self, numbers: np.ndarray) -> UInt8[np.ndarray, 'n t h w 3']:
    """Clips by their numbers; see `clips`."""
    return np.stack([clip['video'] for clip in self.clips(numbers)])

  def clips(self, numbers: np.ndarray) -> list[dict[str, Any]]:
    """Clips by their numbers, with what the source says of them.

    Each is always the same.

    Raises:
      DataError: one cannot be read.
    """
    with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
      return list(pool.map(self._clip, numbers.tolist()))

  def _clip(self, number: int) -> dict[str, Any]:
    element, which = (int(n) for n in self.chosen[number])
    rng = np.random.default_rng((self.seed, element, which))
    clip = checked(self.source, element, rng)
    return clip | {'video': clip['video'][: self.frames]}

  def signature(self) -> str:
    """What tells these clips from others, as JSON."""
    digest = hashlib.sha256(np.ascontiguousarray(self.chosen)).hexdigest()
    about = {'source': self.source.signature(), 'chosen': digest}
    about |= {'frames': self.frames, 'seed': self.seed}
    return json.dumps(about, sort_keys=True)


def draws(
  source: Source,
  reference: Reference,
  *,
  count: int,
  more: int,
  frames: int,
  seed: int,
  workers: int = 2,
) -> tuple[Real, Real | None]:
  """The clips of a reference set, and as many more of other videos.

  Args:
    source: of its split.
    reference: how many clips a video has.
    count: clips.
    more: other clips.
    frames: of each.
    seed: of the choice.
    workers: threads that decode.

  Returns:
    The reference, smaller where there are too few videos; and the others, or
    None where there are too few.
  """
  each = reference.per_video
  wanted = min(count, len(source) * each)
  order = np.random.default_rng(seed).permutation(len(source))
  videos = min(len(source), wanted)  # few clips are of many videos
  real = _passes(order[:videos], wanted)
  rest = _passes(order[videos : videos + more], more)
  make = functools.partial(
    Real, source, frames=frames, seed=seed, workers=workers
  )
  enough = 0 < more <= (len(order) - videos) * each
  return make(real), make(rest) if enough else None


def _passes(elements: np.ndarray, count: int) -> Int[np.ndarray, 'n 2']:
  """Every element once, then every element again."""
  places = np.arange(count if len(elements) else 0)
  which = places // max(len(elements), 1)
  return np.stack([elements[places - which * len(elements)], which], axis=1)


def open_source(config, data: Data, reference: Reference) -> Source:
  """The source of a reference set.

  Args:
    config: the whole config.
    data: the real clips, with their frames, size and stride.
    reference: the set.

  Raises:
    UserError: the data are not there, or cannot be read.
  """
  options = {
    'frames': data.lead or data.frames,
    'size': data.size,
    'stride': data.stride,
  }
  return SOURCES[data.source](config, data, reference, options)


def _ucf101(config, data: Data, reference: Reference, options) -> Source:
  from vdm_jax.data import ucf101

  return ucf101.UCF101(
    path(config, data), split=reference.split, **options, **_prepared(config)
  )


def _bair(config, data: Data, reference: Reference, options) -> Source:
  from vdm_jax.data import bair

  return bair.BAIR(
    path(config, data), split=reference.split, **options, **_prepared(config)
  )


def _kinetics600(config, data: Data, reference: Reference, options) -> Source:
  from vdm_jax.data import kinetics

  if not config.evaluate.list:
    raise errors.ConfigError(
      f'config.evaluate.list is empty; name the official CSV list of the '
      f'{reference.split} set with --config.evaluate.list=FILE'
    )
  return kinetics.Kinetics600(
    path(config, data, needed=True),
    config.evaluate.list,
    split=reference.split,
    resize=data.resize,
    **options,
  )


def _folder(config, data: Data, reference: Reference, options) -> Source:
  from vdm_jax.data import folder

  where = path(config, data, needed=True)
  if reference.split == 'validation':
    where = config.evaluate.validation
    if not where:
      raise errors.ConfigError(
        'config.evaluate.validation is empty; name the folder of the '
        'validation set with --config.evaluate.validation=FOLDER, or leave its '
        'numbers out with --config.evaluate.references=train'
      )
  return folder.Folder(where, resize=data.resize, **options)


def _ucf101_files(config, data: Data, reference: Reference, options) -> Source:
  """The official files, of which the first official list names a split."""
  from vdm_jax.data import folder

  where = pathlib.Path(path(config, data, needed=True)).expanduser()
  lists = [where / _LISTS / f'{reference.split}list01.txt']
  lists += [where.parent / _LISTS / lists[0].name]
  file = next((p for p in lists if p.is_file()), None)
  if file is None:
    raise errors.DataError(
      f'no list of the {reference.split} videos ({lists[0]}); name the folder '
      f'that holds {_LISTS}/ and UCF-101/ with --config.evaluate.path=FOLDER'
    )
  rows = [line.split()[0] for line in file.read_text().splitlines() if line]
  stems = {pathlib.PurePosixPath(row).stem: row.split('/')[0] for row in rows}
  names, _ = listing.find(where)
  labels = {
    name: stems[stem]
    for name in names
    if (stem := pathlib.PurePosixPath(name).stem) in stems
  }
  if not labels:
    raise errors.DataError(
      f'none of the {len(rows)} videos of {file.name} is there ({where}); '
      'unpack the archive of UCF-101 there'
    )
  return folder.Folder(where, labels=labels, resize=data.resize, **options)


def _shapes(config, data: Data, reference: Reference, options) -> Source:
  seed = int(reference.split.removeprefix('seed '))
  return shapes.Shapes(**options, seed=seed)


SOURCES: dict[str, Callable[..., Source]] = {
  'ucf101': _ucf101,
  'ucf101_files': _ucf101_files,
  'bair': _bair,
  'kinetics600': _kinetics600,
  'folder': _folder,
  'shapes': _shapes,
}


def path(config, data: Data, *, needed: bool = False) -> str:
  """Where the protocol's data are; those of the run if they are the same."""
  found = config.evaluate.path
  if not found and config.data.source == data.source:
    found = config.data.path
  if needed and not found:
    raise errors.ConfigError(
      f'config.evaluate.path is empty; name the data of the protocol '
      f'({data.source}) with --config.evaluate.path=FOLDER'
    )
  return found


def _prepared(config) -> dict[str, str]:
  return {'videos': config.data.videos}


def captions(config, data: Data) -> list[str]:
  """The captions of the protocol's data, in the order of file or videos.

  Raises:
    DataError: they cannot be read.
  """
  own = config.evaluate.validation or path(config, data, needed=True)
  found = captions_lib.read(config.evaluate.captions or own)
  return [caption.text for caption in found]
