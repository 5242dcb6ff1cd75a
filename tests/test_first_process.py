"""Videos that the first process alone has: all others see what they need.

A process is played after the other in this one: what the first sends is kept,
and is what the second receives.
"""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from tests import tiny
from vdm_jax import request, sample
from vdm_jax.conditions import Conditions
from vdm_jax.generate import Generator
from vdm_jax.given import Given
from vdm_jax.refine import Low
from vdm_jax.store import MemoryStore

COUNT, FRAMES, SIZE = 5, 9, 8


class Generate(Generator):
  """Makes grey videos, and keeps what it was given.

  Attributes:
    calls: arrays of what each call was given.
  """

  batch_size = 4
  shape = (3, SIZE, SIZE, 3)

  def __init__(self):
    self.calls = []

  def __call__(self, params, *, keys, told, observation, steps, tick, low=None):
    del params, keys, told, steps, tick
    known = [*jax.tree.leaves(observation), [] if low is None else low]
    self.calls.append([np.asarray(array) for array in known])
    return np.full((4, *self.shape), len(self.calls), np.uint8)


class Processes:
  """What one process after the other does, `index` of two.

  Attributes:
    sent: bytes, by what was sent.
  """

  def __init__(self, monkeypatch):
    self.patch, self.queue, self.sent = monkeypatch, collections.deque(), 0

  def play(self, index, model, wanted, store):
    self.patch.setattr(jax, 'process_index', lambda: index)
    self.patch.setattr(
      sample, 'from_first', self.send if not index else self.get
    )
    sample.draw(model, wanted, store, quiet=True)
    return model.generate.calls

  def send(self, value):
    self.queue.append(np.array(value))
    self.sent += value.nbytes
    return value

  def get(self, value):
    received = self.queue.popleft()
    assert (value.shape, value.dtype) == (received.shape, received.dtype)
    return received


def pixels(*shape):
  shape = (*shape, 3)
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def full(videos):
  return {'given': Given(full=videos, frames=(0, 4, 8))}


def coarse(videos):
  low = videos[:, :, ::2, ::2]
  return {'given': Given(low=low, low_frames=(0, 4, 8), factor=2)}


def refined(videos):
  return {'low': Low(videos, 4)}


@pytest.mark.parametrize('known', [full, coarse, refined])
@pytest.mark.parametrize('own', [COUNT, 1], ids=['its own', 'one for all'])
def test_the_others_see_what_the_first_does(monkeypatch, known, own):
  c = tiny.config(
    sample__count=COUNT,
    sample__frames=FRAMES,
    sample__overlap=1,
    train__watchdog=0.0,
  )
  videos = pixels(own, 3, SIZE, SIZE)
  plain = request.make(
    c, Conditions(), given=known(videos).get('given', Given())
  )
  processes, seen = Processes(monkeypatch), []
  for index, (mine, rows) in enumerate(((videos, COUNT), (videos[:0], 0))):
    wanted = dataclasses.replace(plain, **known(mine))
    model = sample.Model(c, {}, Generate(), Conditions(), 0)
    store = MemoryStore((rows, FRAMES, SIZE, SIZE, 3))
    seen.append(processes.play(index, model, wanted, store))
  assert len(seen[0]) == len(seen[1]) == 2 * len(plain.windows)
  for first, other in zip(*seen, strict=True):
    assert len(first) == len(other)
    for a, b in zip(first, other, strict=True):
      np.testing.assert_array_equal(a, b)
  assert not processes.queue
  # The control: of the first batch, each row sees its own.
  first = seen[1][: len(plain.windows)]
  values = [v for call in first for v in call if v.ndim == 5]
  assert any(np.ptp(v, axis=0).max() > 0 for v in values) == (own > 1)


def test_no_more_is_sent_than_a_window_needs(monkeypatch):
  """A window of three frames sees at most as many of a batch."""
  c = tiny.config(sample__count=COUNT, sample__frames=FRAMES, sample__overlap=1)
  videos = pixels(COUNT, 3, SIZE, SIZE)
  given = Given(full=videos, frames=(0, 4, 8))
  wanted = request.make(c, Conditions(), given=given)
  processes = Processes(monkeypatch)
  model = sample.Model(c, {}, Generate(), Conditions(), 0)
  store = MemoryStore((COUNT, FRAMES, SIZE, SIZE, 3))
  processes.play(0, model, wanted, store)
  frame = SIZE * SIZE * 3
  known = sum(len(window.known) for window in wanted.windows)
  assert processes.sent == 2 * model.generate.batch_size * known * frame
