"""From a source to batches: which clip stands where, and the read-ahead.

Everything is a function of the position of a clip in the stream: clip i of step
n has position n * batch_size + i. Position p takes element p mod len(source) of
the shuffle of epoch p div len(source), and reads it with a generator seeded by
(seed, p). So a run may stop at any step, start again at any other at no cost,
and be split over any number of processes, and sees the same global batches.

Where an element cannot be read, one drawn from (seed, p, 1) takes its place,
then one from (seed, p, 2), …: again a function of the position, and of which
elements cannot be read. A reading that fails at times only makes a difference.

A source with fewer elements than a batch is fine: elements then repeat within a
batch, each time with new randomness. A batch is never short.
"""

import collections
import contextlib
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from vdm_jax.data import workers as workers_lib
from vdm_jax.data.faults import Faults
from vdm_jax.data.source import Source, checked, named
from vdm_jax.errors import ConfigError, DataError

# What a number drawn from the seed is for.
_SHUFFLE, _CLIP, _OTHER = 0, 1, 2
TRIES = 100  # elements that a position tries
_SLICE = 1.0  # seconds of one wait; no more count, be the machine asleep
# What a batch has of its clips, where they have it; see `Source.clip`.
_TEXTS = ('text', 'text_mask', 'text2', 'text2_mask')
ARRAYS = ('video', 'label', *_TEXTS, 'stride')


@dataclasses.dataclass(frozen=True)
class Order:
  """Which element, and which randomness, stands at each position.

  Attributes:
    length: number of elements of the source.
    batch_size: clips of a global batch.
    seed: any non-negative integer.
  """

  length: int
  batch_size: int
  seed: int

  def element(self, position: int, attempt: int = 0) -> int:
    """The element at a position; each once per epoch, in a new order.

    Args:
      position: in the stream.
      attempt: above 0, the element in place of those that cannot be read.
    """
    if attempt:
      other = np.random.default_rng([self.seed, _OTHER, position, attempt])
      return int(other.integers(self.length))
    epoch, place = divmod(position, self.length)
    return int(_permutation(self.length, self.seed, epoch)[place])

  def rng(self, position: int, attempt: int = 0) -> np.random.Generator:
    """The generator of the clip at a position."""
    seeds = [self.seed, _CLIP, position, *([attempt] if attempt else [])]
    return np.random.default_rng(seeds)

  def step(self, step: int) -> np.ndarray:
    """The elements of one global batch, int64 `[batch_size]`."""
    first = step * self.batch_size
    positions = range(first, first + self.batch_size)
    return np.array([self.element(p) for p in positions], np.int64)

  def clip(self, source: Source, position: int) -> dict[str, Any]:
    """Reads the clip at a position; raises DataError."""
    return checked(source, self.element(position), self.rng(position))


@functools.lru_cache(maxsize=2)  # threads may be on both sides of an end
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
  # Grain's shuffle needs no memory, but 5 ms an element where there are few.
  return np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(length)


@dataclasses.dataclass(frozen=True)
class _Stream:
  """The clips one process reads, in its order: what grain iterates over.

  Attributes:
    read: (element, generator) -> clip; raises DataError.
    order: which clip stands where.
    first: position of the first one.
    rows: places of this process's clips in a batch.
    faults: what could not be read.
    busy: what is being read: since when, and which element, by position.
    tally: of the clips that were read.
    shape: of the first video, which the others must have, too.
  """

  read: Callable[[int, np.random.Generator], dict[str, Any]]
  order: Order
  first: int
  rows: Sequence[int]
  faults: Faults
  tally: '_Tally'
  busy: dict[int, tuple[float, int]] = dataclasses.field(default_factory=dict)
  shape: dict[str, tuple] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, k) -> dict[str, Any]:
    step, i = divmod(int(k), len(self.rows))
    try:
      return self._clip(
        self.first + step * self.order.batch_size + self.rows[i]
      )
    finally:
      self.tally.add(step)

  def _clip(self, position: int) -> dict[str, Any]:
    for attempt in range(TRIES):
      self.faults.draw()
      index = self.order.element(position, attempt)
      self.busy[position] = time.monotonic(), index
      try:
        clip = self.read(index, self.order.rng(position, attempt))
        self._check_shape(clip)
      except DataError as error:
        self.faults.note(error)
        continue
      finally:
        del self.busy[position]
      arrays = {name: clip[name] for name in ARRAYS if name in clip}
      return arrays | {'index': np.int64(index)}
    raise DataError(
      f'none of {TRIES} clips in a row can be read; mend the data (the first '
      'ones are named above)'
    )

  def _check_shape(self, clip):
    own = clip['video'].shape
    first = self.shape.setdefault('video', own)
    if own != first:
      raise DataError(
        f'a clip is {list(own)}, and the first one was {list(first)} '
        f'({clip["id"]}); mend the source'
      )


class _Tally:
  """How many clips of each batch are there; of so many."""

  def __init__(self, size: int):
    self._size = size
    self._there = collections.Counter()
    self._news = threading.Condition()

  def add(self, batch: int) -> None:
    """Notes that a clip is there, or failed."""
    with self._news:
      self._there[batch] += 1
      if self._there[batch] == self._size:
        self._news.notify_all()

  def wait(self, batch: int, seconds: float) -> bool:
    """Whether all clips of a batch are there; waits so long for them."""
    with self._news:
      return self._news.wait_for(
        lambda: self._there[batch] >= self._size, seconds
      )

  def remove(self, batch: int) -> None:
    """Forgets a batch."""
    with self._news:
      del self._there[batch]


def batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  rows: Sequence[int] | None = None,
  workers: int = 2,
  processes: int = 0,
  ahead: int = 2,
  faults: Faults | None = None,
  seconds: float = 0.0,
  memory: float = 0.0,
) -> 'Batches':
  """The batches of one process from `start_step` on, without end.

  Args:
    source: where clips come from.
    batch_size: clips of a global batch; this process yields the contiguous
      slice `process_index` of `process_count` equal ones.
    seed: of the order and of everything random in the clips.
    start_step: the step of the first batch.
    process_index: which slice.
    process_count: number of slices.
    rows: the places in a batch of the clips that this process yields instead,
      where they are not such a slice.
    workers: threads that read clips ahead; 0 reads in the caller's thread, when
      asked and as long as it takes. Decoders and resizing release the GIL.
    processes: that do so in the place of threads. There a decoder that crashes
      or hangs costs its clip; the source must be picklable.
    ahead: batches kept ready beyond the one in use.
    faults: the account of clips that cannot be read, which are replaced; None
      makes the first one an error.
    seconds: that reading a clip may take; 0: any time. A thread that takes
      longer cannot be stopped, and makes an error.
    memory: bytes that a process may take besides the source; 0: no limit.

  Returns:
    An iterator of what the clips have: `video` uint8 `[b, t, h, w, 3]`,
    `label` int32 `[b]` or `[b, s]`, `text` `[b, s, l…]` with `text_mask`
    `[b, s, l]`, `text2` likewise, `stride` int32 `[b]`; and `index` int64
    `[b]`, the elements of the source. `close()` ends it, as does an error.

  Raises:
    ConfigError: at the call, for sizes that cannot work; while iterating, if
      a worker process does not come up.
    DataError: at the call, for an empty source; while iterating, for a clip
      that cannot be read, with its name, or for too many of them.
  """
  _validate(batch_size, process_index, process_count, seed, start_step)
  _validate_reading(workers, processes, ahead)
  if not len(source):
    raise DataError('the source has no clips (0); give it at least one')
  local = batch_size // process_count
  pool = _pool(source, processes, memory)
  rows = rows or range(local * process_index, local * (process_index + 1))
  stream = _Stream(
    read=_reader(source, pool, seconds),
    order=Order(len(source), batch_size, seed),
    first=start_step * batch_size,
    rows=rows,
    faults=faults or Faults(),
    tally=_Tally(len(rows)),
  )
  threads = processes or workers
  iterator = _read_ahead(stream, threads, ahead)
  seconds = 0.0 if processes else seconds
  return Batches(iterator, stream, source, pool, threads, seconds)


def _pool(source, processes: int, memory: float) -> workers_lib.Workers | None:
  if not processes:
    return None
  read = functools.partial(checked, source)
  return workers_lib.Workers(read, processes, memory=memory)


def _reader(source: Source, pool, seconds: float) -> Callable:
  """Reads a clip, here or in a worker."""
  if pool is None:
    return functools.partial(checked, source)

  def read(index, rng):
    try:
      return pool(index, rng, seconds=seconds)
    except workers_lib.Lost as error:
      raise DataError(
        f'{named(source, index)} cannot be read ({error}); remove or replace it'
      ) from error

  return read


def _read_ahead(stream: _Stream, threads, ahead) -> grain.DatasetIterator:
  count = len(stream.rows)
  reading = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=max(ahead * count, threads)
  )
  clips = grain.MapDataset.source(stream).to_iter_dataset(reading)
  iterator = iter(clips.batch(count, drop_remainder=True))
  iterator.start_prefetch()
  return iterator


class Batches:
  """The batches of one process, an iterator; see `batches`."""

  def __init__(self, iterator, stream, source, pool, threads, seconds):
    self._iterator, self._stream = iterator, stream
    self._source, self._pool = source, pool
    self._threads, self._seconds = threads, seconds
    self._late: dict[tuple[int, float], float] = {}
    self._count = 0  # of the batches taken
    self._closed = False

  def __iter__(self) -> 'Batches':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    # After a failure grain would go on with the following clip, and every later
    # batch would be shifted: end instead.
    if self._closed:
      raise StopIteration
    try:
      while not self.ready(_SLICE):
        pass
      batch = next(self._iterator)
    except BaseException:
      self.close()
      raise
    self._stream.tally.remove(self._count)
    self._late.clear()
    self._count += 1
    return batch

  def ready(self, seconds: float) -> bool:
    """Whether the next batch is there, or the error in its place.

    Args:
      seconds: to wait for it.

    Raises:
      DataError: a clip that is waited for takes too long.
    """
    if not self._threads or self._closed:
      return True
    there = self._stream.tally.wait(self._count, seconds)
    if not there and self._seconds:
      self._check_times(seconds)
    return there

  def _check_times(self, waited: float):
    now = time.monotonic()
    for position, (begin, index) in list(self._stream.busy.items()):
      late = self._late.get((position, begin), 0.0) + min(now - begin, waited)
      self._late[position, begin] = late
      if late >= self._seconds:
        raise DataError(
          f'{named(self._source, index)} is being read for '
          f'{self._seconds:.0f} s and more; remove it, raise '
          'config.data.timeout, or set config.data.processes, with which that '
          'costs one clip'
        )

  def close(self) -> None:
    """Ends the reading ahead."""
    if self._closed:
      return
    self._closed = True
    self._iterator.close()
    if self._pool is not None:
      self._pool.close()

  def __del__(self):
    with contextlib.suppress(Exception):  # at the interpreter's end
      self.close()


def data_signature(
  source: Source, *, batch_size: int, seed: int
) -> dict[str, Any]:
  """What must be unchanged for a run to go on with the same data.

  Grain's own iterator state is a bare position, and goes on silently with
  other data: so keep this in the checkpoint, and compare it on resuming.
  """
  return {
    'source': source.signature(),
    'elements': len(source),
    'batch_size': batch_size,
    'seed': seed,
  }


def _validate(batch_size, process_index, process_count, seed, start_step):
  if batch_size < 1:
    raise ConfigError(
      f'batch_size must be at least 1 (got {batch_size}); set it higher'
    )
  if process_count < 1 or not 0 <= process_index < process_count:
    raise ConfigError(
      f'process_index must be in [0, process_count) (got {process_index} of '
      f'{process_count}); check the launcher'
    )
  if batch_size % process_count:
    low = batch_size // process_count * process_count
    legal = [size for size in (low, low + process_count) if size]
    raise ConfigError(
      f'batch_size must be a multiple of the number of processes (got '
      f'{batch_size} for {process_count}); use '
      f'{" or ".join(map(str, legal))}'
    )
  if seed < 0 or start_step < 0:
    raise ConfigError(
      f'seed and start_step must not be negative (got {seed}, {start_step}); '
      'use 0 or more'
    )


def _validate_reading(workers, processes, ahead):
  if workers < 0 or processes < 0 or ahead < 1:
    raise ConfigError(
      f'workers and processes must be 0 or more and ahead 1 or more (got '
      f'{workers}, {processes}, {ahead}); mend the data options'
    )
