"""Statistics of a reference set on disk, with what they are of.

A file is an npz without pickles:

  provenance  uint8, JSON: format and the fields of `Provenance`
  n           int64 []
  mean        float64 [d]
  scatter     float64 [d, d]
  rows        float32 [m, d], features of some or all of the samples
  indices     int64 [m], of those samples

It is written under another name first, so that it is there or it is not. The
archive holds a checksum of every array, so that damage is seen.
"""

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int64

from vdm_jax.errors import DataError
from vdm_jax.metrics import clusters as clusters_lib
from vdm_jax.metrics.moments import Accumulator, Moments

FORMAT = 1
_ARRAYS = {
  'n': (np.int64, 0),
  'mean': (np.float64, 1),
  'scatter': (np.float64, 2),
  'rows': (np.float32, 2),
  'indices': (np.int64, 1),
}


@dataclasses.dataclass(frozen=True)
class Provenance:
  """What statistics are of; those of another one are not to be used.

  Attributes:
    data: where the samples are from, such as 'ucf101' or a hash of a folder.
    split: of the data.
    protocol: by which clips are chosen and numbers made.
    preprocessing: from a file's frames to the network's input.
    network: name of the feature network.
    sha256: of the file of its weights.
    feature: which of its outputs.
    counts: 'samples', 'frames', 'height' and the like.
  """

  data: str
  split: str
  protocol: str
  preprocessing: str
  network: str
  sha256: str
  feature: str
  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
  """Statistics of a set, and a bounded sample of its features.

  Attributes:
    moments: of all samples.
    rows: features of the samples that were kept.
    indices: of those samples.
    provenance: what all this is of.
    video_of: the video of each clip, by any number, where a clip makes several
      samples or a video several clips; None: every sample is of its own. It
      belongs to the clips, and no file holds it.

  Raises:
    ValueError: the samples are no multiple of the clips.
  """

  moments: Moments
  rows: Float32[np.ndarray, 'm d']
  indices: Int64[np.ndarray, ' m']
  provenance: Provenance
  video_of: Int[np.ndarray, ' c'] | None = None

  def __post_init__(self):
    if self.video_of is not None and self.moments.n % len(self.video_of):
      raise ValueError(
        f'{self.moments.n} samples are not of {len(self.video_of)} clips'
      )

  @classmethod
  def of(cls, stream: Accumulator, provenance: Provenance) -> 'Reference':
    """What an accumulator holds."""
    return cls(stream.moments, stream.rows, stream.indices, provenance)

  @property
  def videos(self) -> int:
    """How many videos all samples are of."""
    if self.video_of is None:
      return self.moments.n
    return len(np.unique(self.video_of))

  @property
  def clusters(self) -> Int[np.ndarray, ' m']:
    """Which rows are of one video (see `clusters`)."""
    if self.video_of is None:
      return np.arange(len(self.rows))
    each = self.moments.n // len(self.video_of)
    return clusters_lib.of(self.video_of[self.indices // each])


def save(path: str | os.PathLike, reference: Reference) -> None:
  """Writes statistics, as a whole or not at all; on one host only.

  Raises:
    DataError: they cannot be written.
  """
  path = Path(path).expanduser()
  described = {'format': FORMAT} | dataclasses.asdict(reference.provenance)
  text = json.dumps(described, sort_keys=True).encode()
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open('wb') as file:
      np.savez(
        file,
        provenance=np.frombuffer(text, np.uint8),
        n=np.int64(reference.moments.n),
        mean=reference.moments.mean,
        scatter=reference.moments.scatter,
        rows=reference.rows,
        indices=reference.indices,
      )
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
    raise DataError(
      f'statistics cannot be written ({path}: {error.strerror}); make room, or '
      'change the permissions'
    ) from error


def load(
  path: str | os.PathLike, wanted: Provenance | None = None
) -> Reference:
  """Reads statistics, if they are of what is wanted.

  Args:
    path: of the file.
    wanted: what they must be of; of `counts`, those that it names. None takes
      whatever there is.

  Raises:
    DataError: there is no such file, it is damaged, or of something else; the
      message names every difference.
  """
  path = Path(path).expanduser()
  try:
    arrays, described = _read(path)
    provenance = Provenance(**described)
    moments = Moments(int(arrays['n']), arrays['mean'], arrays['scatter'])
    _check(moments, arrays['rows'], arrays['indices'])
  except FileNotFoundError as error:
    raise DataError(
      f'no statistics of the reference ({path}); compute them first'
    ) from error
  except _BROKEN as error:
    raise DataError(
      f'statistics are damaged ({path}: {_line(error)}); delete the file and '
      'compute them again'
    ) from error
  if wanted is not None:
    _check_same(path, provenance, wanted)
  return Reference(moments, arrays['rows'], arrays['indices'], provenance)


_BROKEN = (
  OSError,
  ValueError,
  KeyError,
  TypeError,
  EOFError,
  MemoryError,
  NotImplementedError,
  zipfile.BadZipFile,
)


def _line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
    described = json.loads(archive['provenance'].tobytes())
    if described.pop('format') != FORMAT:
      raise ValueError('another format')
    return {name: archive[name] for name in _ARRAYS}, described


def _check(moments: Moments, rows: np.ndarray, indices: np.ndarray):
  """Raises ValueError if arrays contradict each other."""
  arrays = (np.int64(moments.n), moments.mean, moments.scatter, rows, indices)
  for (name, (dtype, rank)), array in zip(_ARRAYS.items(), arrays, strict=True):
    if array.dtype != dtype or array.ndim != rank:
      raise ValueError(f'{name} is {array.dtype} of rank {array.ndim}')
    if not np.isfinite(array).all():
      raise ValueError(f'{name} is not finite')
  dim = len(moments.mean)
  if moments.scatter.shape != (dim, dim) or rows.shape != (len(indices), dim):
    raise ValueError('the shapes do not fit')
  if len(rows) > moments.n:
    raise ValueError('more rows than samples')


def _check_same(path: Path, found: Provenance, wanted: Provenance):
  pairs = {
    field.name: (getattr(found, field.name), getattr(wanted, field.name))
    for field in dataclasses.fields(Provenance)
    if field.name != 'counts'
  } | {
    f'number of {name}': (found.counts.get(name), count)
    for name, count in wanted.counts.items()
  }
  differences = [
    f'{name} {old!r}, not {new!r}'
    for name, (old, new) in pairs.items()
    if old != new
  ]
  if differences:
    raise DataError(
      f'statistics of another reference ({path}: {"; ".join(differences)}); '
      'name another file, or delete this one and compute it again'
    )
