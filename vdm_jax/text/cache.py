"""Embeddings of captions on disk: made once, read during training.

A cache belongs to one encoder and one length. Its shards hold the embeddings
of tokens, without padding, one caption after another:

  cache.json           format, encoder, length, dim
  <shard>.npy          float32 [tokens, d]
  <shard>.index.npz    keys [n, 16], lengths [n], checksums [n]

An index is written last, and like every file under another name first. So a
shard is there or it is not, wherever the process is stopped; its name comes
from its keys, so that writing it twice does no harm.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Float32

from vdm_jax import runtime
from vdm_jax.errors import DataError
from vdm_jax.progress import Progress
from vdm_jax.text.encoder import TextEncoder

FORMAT = 1
_META = 'cache.json'
_INDEX = '.index.npz'
_STALE = 3600.0  # seconds after which a half-written file is nobody's
# What NumPy raises for files that are not what their names say.
_UNREADABLE = (
  OSError,
  ValueError,
  KeyError,
  TypeError,
  AttributeError,
  EOFError,
  MemoryError,
  zipfile.BadZipFile,
  zlib.error,
)


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where the embeddings of one caption are."""

  shard: str
  start: int
  length: int
  checksum: int


class EmbeddingCache:
  """Embeddings by caption; made by `create`, opened by `open_cache`.

  The index, some 300 bytes a caption, is in memory; embeddings are read from
  the disk as they are asked for. Instances can be sent to other processes.

  Attributes:
    folder: where it is.
    encoder: hash of the encoder.
    max_length: l, tokens.
    dim: d, channels.
  """

  def __init__(self, folder: Path, encoder: str, max_length: int, dim: int):
    self.folder, self.encoder = folder, encoder
    self.max_length, self.dim = max_length, dim
    self._places: dict[bytes, _Place] = {}
    for path in sorted(folder.glob(f'*{_INDEX}')):
      self._places.update(_read_index(path, dim))

  def __len__(self) -> int:
    return len(self._places)

  def __contains__(self, caption: str) -> bool:
    return self.key(caption) in self._places

  def key(self, caption: str) -> bytes:
    """16 bytes of SHA-256 over encoder, length and caption."""
    text = f'{self.encoder}\n{self.max_length}\n{caption}'
    return hashlib.sha256(text.encode()).digest()[:16]

  def lookup(
    self, captions: Sequence[str]
  ) -> tuple[Float32[np.ndarray, 'n l d'], Bool[np.ndarray, 'n l']]:
    """Embeddings, 0 at padding, and True where there is a token.

    Raises:
      DataError: a caption is not in the cache, or its shard is damaged.
    """
    rows = [self.row(caption) for caption in captions]
    return padded(rows, max_length=self.max_length, dim=self.dim)

  def row(self, caption: str) -> Float32[np.ndarray, 't d']:
    """The embeddings of a caption without padding; see `lookup`."""
    place = self._places.get(self.key(caption))
    if place is None:
      raise DataError(
        f'a caption has no embedding ({self.folder}: {caption[:60]!r}); add '
        'it with --mode=embed'
      )
    return self._read(place)

  def _read(self, place: _Place) -> np.ndarray:
    path = self.folder / f'{place.shard}.npy'
    try:
      shard = np.load(path, mmap_mode='r', allow_pickle=False)
      rows = np.array(shard[place.start : place.start + place.length])
    except _UNREADABLE as error:
      raise _damaged(path) from error
    if zlib.crc32(rows.tobytes()) != place.checksum:
      raise _damaged(path)
    return rows

  def missing(self, captions: Iterable[str]) -> list[str]:
    """Those that have no embeddings, each once, in their order."""
    return [text for text in dict.fromkeys(captions) if text not in self]

  def full(self, captions: Iterable[str]) -> int:
    """How many of the captions take all l tokens, and may have been cut."""
    places = [self._places[self.key(text)] for text in dict.fromkeys(captions)]
    return sum(place.length == self.max_length for place in places)

  def add(self, captions: Sequence[str], embeddings: Sequence[np.ndarray]):
    """Writes a shard.

    Args:
      captions: different ones, one or more.
      embeddings: float32 `[tokens, d]` of each, without padding.
    """
    rows = np.concatenate(embeddings)
    keys = [self.key(caption) for caption in captions]
    shard = hashlib.sha256(b''.join(keys)).hexdigest()[:24]
    sums = [zlib.crc32(part.tobytes()) for part in embeddings]
    table = {
      'keys': np.frombuffer(b''.join(keys), np.uint8).reshape(-1, 16),
      'lengths': np.array([len(part) for part in embeddings], np.int32),
      'checksums': np.array(sums, np.uint32),
    }
    _write(self.folder / f'{shard}.npy', lambda file: np.save(file, rows))
    path = self.folder / f'{shard}{_INDEX}'
    _write(path, lambda file: np.savez(file, **table))
    self._places.update(_places(shard, table))


def padded(
  rows: Sequence[np.ndarray], *, max_length: int, dim: int
) -> tuple[Float32[np.ndarray, 'n l d'], Bool[np.ndarray, 'n l']]:
  """Embeddings `[tokens, d]` of texts with 0 after them, and where they are."""
  out = np.zeros((len(rows), max_length, dim), np.float32)
  mask = np.zeros(out.shape[:2], bool)
  for i, row in enumerate(rows):
    out[i, : len(row)] = row
    mask[i, : len(row)] = True
  return out, mask


def create(
  folder: str | os.PathLike, encoder: TextEncoder, *, max_length: int
) -> EmbeddingCache:
  """Makes an empty cache, or opens the one that is there to add to it.

  Args:
    folder: of the cache; made if it is not there.
    encoder: that of the cache, if there is one.
    max_length: tokens; that of the cache, if there is one.

  Raises:
    ConfigError: the encoder cannot take so many tokens.
    DataError: the cache is of another encoder or length, or cannot be written.
  """
  folder = Path(folder).expanduser()
  encoder.check_length(max_length)
  meta = {
    'format': FORMAT,
    'encoder': encoder.hash,
    'max_length': max_length,
    'dim': encoder.dim,
  }
  if (folder / _META).exists():
    _check_same(folder, _read_meta(folder), meta)
  else:
    text = json.dumps(meta, indent=2).encode()
    _write(folder / _META, lambda file: file.write(text))
  _remove_stale(folder)
  return open_cache(folder)


def fill(
  cache: EmbeddingCache,
  encoder: TextEncoder,
  captions: Iterable[str],
  *,
  shard: int = 1024,
  stopping: Callable[[], bool] = lambda: False,
):
  """Adds the captions that a cache does not have.

  What a kill loses is at most one shard. One process does it.

  Args:
    cache: of `create`, with the same encoder.
    encoder: makes the embeddings.
    captions: in any order, also several times.
    shard: captions per shard, of which as many are in memory at a time.
    stopping: asked after each batch; if it says so, what there is is written,
      and the rest is left.

  Raises:
    DataError: the cache cannot be written.
  """
  missing = cache.missing(captions)
  step, waiting, done = min(shard, encoder.batch_size), [], 0
  if not missing:
    return
  with Progress(len(missing), name='embedding captions', unit='captions') as p:
    while done < len(missing):
      texts = missing[done : done + step]
      x, mask = encoder.encode(texts, cache.max_length)
      waiting += [row[real] for row, real in zip(x, mask, strict=True)]
      done, stop = done + len(texts), stopping()
      if len(waiting) >= shard or done == len(missing) or stop:
        cache.add(missing[done - len(waiting) : done], waiting)
        waiting = []
      p.update(done)
      if stop:
        return


def build(
  folder: str | os.PathLike,
  encoder: TextEncoder,
  captions: Iterable[str],
  *,
  max_length: int,
  shard: int = 1024,
) -> EmbeddingCache:
  """A cache that has the captions: `create`, then `fill`."""
  cache = create(folder, encoder, max_length=max_length)
  fill(cache, encoder, captions, shard=shard)
  return cache


def open_cache(
  folder: str | os.PathLike,
  encoder: str | None = None,
  max_length: int | None = None,
) -> EmbeddingCache:
  """Opens a cache to read; needs neither the encoder nor `transformers`.

  Args:
    folder: of the cache.
    encoder: the hash that its encoder must have, if it matters.
    max_length: the length that it must have, tokens, if it matters.

  Raises:
    DataError: there is no cache, it is damaged, or of another encoder or
      length.
  """
  folder = Path(folder).expanduser()
  meta = _read_meta(folder)
  wanted = {'encoder': encoder, 'max_length': max_length}
  for name, value in wanted.items():
    if value is not None:
      _check_same(folder, meta, meta | {name: value})
  del meta['format']
  return EmbeddingCache(folder, **meta)


def _read_meta(folder: Path) -> dict[str, Any]:
  path = folder / _META
  try:
    meta = json.loads(path.read_text())
    types = {name: type(value) for name, value in meta.items()}
  except FileNotFoundError as error:
    raise DataError(
      f'no embeddings of captions ({folder}); make them with --mode=embed'
    ) from error
  except (OSError, ValueError, AttributeError) as error:
    raise _damaged(path) from error
  fields = {'format': int, 'encoder': str, 'max_length': int, 'dim': int}
  if meta.get('format') != FORMAT or types != fields:
    raise DataError(
      f'embeddings of another format ({path}); delete the folder and make them '
      'again with --mode=embed'
    )
  return meta


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]):
  for name, what in (('encoder', 'encoder'), ('max_length', 'length')):
    if old[name] != new[name]:
      raise DataError(
        f'the embeddings are of another {what} ({folder}: {old[name]}, not '
        f'{new[name]}); name another folder, or delete this one'
      )


def _read_index(path: Path, dim: int) -> Iterator[tuple[bytes, _Place]]:
  """The places in a shard; none if index or shard are damaged."""
  shard = path.name.removesuffix(_INDEX)
  try:
    with np.load(path, allow_pickle=False) as file:
      if any(member.compress_type for member in file.zip.infolist()):
        raise ValueError('it is compressed, of which embeddings are not')
      table = {name: file[name] for name in ('keys', 'lengths', 'checksums')}
    # Fails if the file is shorter than its header says.
    rows = np.load(
      path.with_name(f'{shard}.npy'), mmap_mode='r', allow_pickle=False
    )
    if (rows.shape, rows.dtype) != ((table['lengths'].sum(), dim), np.float32):
      raise ValueError('another shape than the index says')
  except _UNREADABLE as error:
    runtime.warn(f'a shard of embeddings is unusable ({path}: {error})')
    return iter(())
  return _places(shard, table)


def _places(shard: str, table) -> Iterator[tuple[bytes, _Place]]:
  lengths = table['lengths'].tolist()
  starts = np.cumsum([0, *lengths]).tolist()
  sums = table['checksums'].tolist()
  for i, key in enumerate(table['keys']):
    yield key.tobytes(), _Place(shard, starts[i], lengths[i], sums[i])


def _write(path: Path, content: Callable[[BinaryIO], Any]):
  """Writes a file as a whole or not at all."""
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open('wb') as file:
      content(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
    raise DataError(
      f'embeddings cannot be written ({path}: {error.strerror}); make room, or '
      'change the permissions'
    ) from error


def _remove_stale(folder: Path):
  for path in folder.glob('.*.part'):
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE:
        path.unlink()


def _damaged(path: Path) -> DataError:
  return DataError(
    f'embeddings are damaged ({path}); delete the file and make it again with '
    '--mode=embed'
  )
