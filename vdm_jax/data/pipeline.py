"""From a source to batches: which clip stands where, and the read-ahead.

Everything is a function of the position of a clip in the stream: clip i of step
n has position n * batch_size + i. Position p takes element p mod len(source) of
the shuffle of epoch p div len(source), and reads it with a generator seeded by
(seed, p). So a run may stop at any step, start again at any other at no cost,
and be split over any number of processes, and sees the same global batches.

A source with fewer elements than a batch is fine: elements then repeat within a
batch, each time with new randomness. A batch is never short.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from vdm_jax.data.source import Source, checked
from vdm_jax.errors import ConfigError, DataError

# What a number drawn from the seed is for.
_SHUFFLE, _CLIP = 0, 1
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

  def element(self, position: int) -> int:
    """The element at a position; each once per epoch, in a new order."""
    epoch, place = divmod(position, self.length)
    return int(_permutation(self.length, self.seed, epoch)[place])

  def rng(self, position: int) -> np.random.Generator:
    """The generator of the clip at a position."""
    return np.random.default_rng([self.seed, _CLIP, position])

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
  """The clips one process reads, in its order: what grain iterates over."""

  source: Source
  order: Order
  first: int
  rows: Sequence[int]

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, k) -> dict[str, Any]:
    step, i = divmod(int(k), len(self.rows))
    position = self.first + step * self.order.batch_size + self.rows[i]
    clip = self.order.clip(self.source, position)
    arrays = {name: clip[name] for name in ARRAYS if name in clip}
    return arrays | {'index': np.int64(self.order.element(position))}


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
) -> Iterator[dict[str, np.ndarray]]:
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
    workers: threads that read clips ahead (in each worker process); 0 reads
      in the caller's thread when asked.
    processes: worker processes; 0 reads in this process. The source must be
      picklable, and the caller's script importable. Decoders and resizing
      release the GIL, so threads usually do.
    ahead: batches kept ready beyond the one in use.

  Returns:
    An iterator of what the clips have: `video` uint8 `[b, t, h, w, 3]`,
    `label` int32 `[b]` or `[b, s]`, `text` `[b, s, l…]` with `text_mask`
    `[b, s, l]`, `text2` likewise, `stride` int32 `[b]`; and `index` int64
    `[b]`, the elements of the source. Reading ahead starts at once; `close()`
    ends it, and so does an error.

  Raises:
    ConfigError: at the call, for sizes that cannot work.
    DataError: at the call, for an empty source; while iterating, for a clip
      that cannot be read, with its name.
  """
  _validate(batch_size, process_index, process_count, seed, start_step)
  _validate_reading(workers, processes, ahead)
  if not len(source):
    raise DataError('the source has no clips (0); give it at least one')
  local = batch_size // process_count
  stream = _Stream(
    source=source,
    order=Order(len(source), batch_size, seed),
    first=start_step * batch_size,
    rows=rows or range(local * process_index, local * (process_index + 1)),
  )
  return _until_error(_read_ahead(stream, workers, processes, ahead))


def _read_ahead(stream, workers, processes, ahead) -> grain.DatasetIterator:
  share = -(-ahead * len(stream.rows) // max(processes, 1))
  reading = grain.ReadOptions(
    num_threads=workers, prefetch_buffer_size=max(share, workers)
  )
  clips = grain.MapDataset.source(stream).to_iter_dataset(reading)
  if processes:
    if not flags.FLAGS.is_parsed():  # grain reads flags; notebooks parse none
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(
      processes, per_worker_buffer_size=max(share, 1)
    )
    clips = clips.mp_prefetch(options)
  iterator = iter(clips.batch(len(stream.rows), drop_remainder=True))
  iterator.start_prefetch()
  return iterator


def _until_error(iterator):
  # After a failure grain would go on with the following clip, and every later
  # batch would be shifted: end instead.
  try:
    yield from iterator
  finally:
    iterator.close()


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
