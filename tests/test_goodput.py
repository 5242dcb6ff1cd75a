"""Every second of a training is accounted for, over kills and restarts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from tests import quick, tiny
from tests.test_divergence import Micro
from vdm_jax import build, goodput, train
from vdm_jax.goodput import FILE, KINDS, Goodput


class Clock:
  """A clock that goes on when it is told to."""

  def __init__(self, now=1000.0):
    self.now = now

  def __call__(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds


@pytest.fixture
def clock():
  return Clock()


def read(workdir):
  return json.loads((workdir / FILE).read_text())


def total(found):
  return sum(found['seconds'].values())


def train_for(
  account, clock, *, first, last, every, step=1.0, save=0.5, die=False
):
  """A start whose every step takes a second, with a checkpoint at times."""
  account.open()
  clock.sleep(3)
  with account.spend('compiling'):
    clock.sleep(7)
  account.restored(first)
  for n in range(first + 1, last + 1):
    clock.sleep(step)
    account.step(n)
    if n % every == 0:
      account.saved(n)
      with account.spend('saving'):
        clock.sleep(save)
    account.write()
  if not die:
    account.write(always=True)


def test_a_start_by_a_clock(tmp_path, clock):
  account = Goodput(tmp_path, clock=clock, write=True)
  assert not (tmp_path / FILE).exists()
  train_for(account, clock, first=0, last=20, every=5)
  with account.spend('sampling'):
    clock.sleep(4)
    with account.spend('saving'):
      clock.sleep(1)
    clock.sleep(4)
  clock.sleep(2)
  account.write(always=True)
  found = read(tmp_path)
  assert found['seconds'] == {
    'productive': 19 + 2,
    'compiling': 7,
    'data': 0,
    'saving': 4 * 0.5 + 1,
    'sampling': 8,
    # The first step ends what begins a run.
    'starting': 3 + 1,
    'redone': 0,
  }
  assert total(found) == found['wall'] == clock.now - 1000
  assert found['goodput'] == pytest.approx(21 / 43)
  line = account.line()
  for part in ('goodput 49% of 43s', '21s productive', '7s compiling'):
    assert part in line
  assert 'data' not in line and 'starts' not in line


def test_time_before_the_account_counts_if_it_is_told(tmp_path, clock):
  account = Goodput(tmp_path, clock=clock, write=True, began=clock.now - 5)
  account.open()
  assert read(tmp_path)['seconds']['starting'] == 5


def test_what_was_lost_is_found_again(tmp_path, clock):
  """Killed after step 17, which is 2 steps after the last checkpoint."""
  first = Goodput(tmp_path, clock=clock, write=True)
  train_for(first, clock, first=0, last=17, every=5, die=True)
  assert read(tmp_path)['seconds']['redone'] == 0
  clock.sleep(100)
  second = Goodput(tmp_path, clock=clock, write=True)
  train_for(second, clock, first=15, last=25, every=5)
  found = read(tmp_path)
  assert found['seconds']['redone'] == 2
  # 17 steps and 10, but for the two that began a start and the two lost.
  assert found['seconds']['productive'] == 27 - 2 - 2
  assert found['away'] == 100
  assert total(found) == found['wall'] == clock.now - 1000 - 100
  assert [s['step'] for s in found['starts']] == [15, 25]
  assert 'in 2 starts' in second.line()


def test_a_fall_back_loses_more(tmp_path, clock):
  """The third start goes on at step 5: the checkpoints after it were bad."""
  train_for(
    Goodput(tmp_path, clock=clock, write=True), clock, first=0, last=12, every=5
  )
  train_for(
    Goodput(tmp_path, clock=clock, write=True),
    clock,
    first=10,
    last=20,
    every=5,
  )
  third = Goodput(tmp_path, clock=clock, write=True)
  third.open()
  third.restored(5)
  found = read(tmp_path)
  assert found['starts'][0]['seconds']['productive'] == 4
  assert found['starts'][0]['seconds']['redone'] == 7
  assert found['starts'][1]['seconds']['productive'] == 0
  assert found['starts'][1]['seconds']['redone'] == 9
  assert total(found) == found['wall'] == clock.now - 1000
  # Between two checkpoints, as after a change of how often there is one, the
  # steps are taken for equally long.
  fourth = Goodput(tmp_path, clock=clock, write=True)
  fourth.open()
  fourth.restored(3)
  productive = read(tmp_path)['starts'][0]['seconds']['productive']
  assert productive == pytest.approx(4 * 3 / 5)


@pytest.mark.parametrize('seconds', [1.0, 0.01])
def test_a_kill_loses_a_hundredth(tmp_path, clock, seconds):
  """Whenever it comes, and however long the steps are below that."""
  account = Goodput(tmp_path, clock=clock, write=True)
  account.open()
  account.restored(0)
  clock.sleep(100)
  writings = 0
  before = None
  for n in range(1, 600):
    account.step(n)
    account.write()
    found = read(tmp_path)
    writings += found != before
    before = found
    clock.sleep(seconds)
    spent = clock.now - 1000
    assert spent - found['wall'] <= 0.01 * spent + seconds
    assert total(found) == pytest.approx(found['wall'], abs=1e-6)
  assert writings < 320  # and not 600


class Device:
  """Computes until a time, and data comes at another."""

  def __init__(self, clock, done, there):
    self.clock, self.done, self.there = clock, done, there

  def busy(self):
    return self.clock.now < self.done

  def ready(self, seconds):
    wait = min(seconds, max(self.there - self.clock.now, 0))
    self.clock.sleep(wait)
    return self.clock.now >= self.there


@pytest.mark.parametrize(
  ('done', 'there', 'data'),
  [(0, 0, 0), (5, 0, 0), (5, 3, 0), (0, 3, 3), (2, 3, 1)],
)
def test_a_wait_counts_once_the_device_waits(
  tmp_path, clock, done, there, data
):
  account = Goodput(tmp_path, clock=clock, write=True)
  account.step(1)
  device = Device(clock, clock.now + done, clock.now + there)
  account.wait(device.ready, device.busy)
  seconds = account.summary()['seconds']
  assert seconds['data'] == pytest.approx(data, abs=0.01)
  assert seconds['productive'] == pytest.approx(there - data, abs=0.01)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"starts": [1]}', '{"a": 1}'])
def test_a_damaged_account_begins_anew(tmp_path, clock, text, capsys):
  (tmp_path / FILE).write_text(text)
  account = Goodput(tmp_path, clock=clock, write=True)
  account.open()
  assert len(read(tmp_path)['starts']) == 1
  assert 'begins anew' in capsys.readouterr().err


def test_a_disk_that_is_full_ends_nothing(tmp_path, clock, capsys, monkeypatch):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(goodput.writing, 'write_json', fail)
  account = Goodput(tmp_path, clock=clock, write=True)
  train_for(account, clock, first=0, last=20, every=5)
  assert capsys.readouterr().err.count('No space left') <= 3


def test_clocks_that_are_set_back_take_nothing(tmp_path, clock):
  account = Goodput(tmp_path, clock=clock, write=True)
  clock.sleep(5)
  with account.spend('saving'):
    clock.sleep(-60)
  account.open()
  found = read(tmp_path)
  assert total(found) == found['wall'] == 5
  assert min(found['seconds'].values()) == 0


class Killed(BaseException):
  """In place of SIGKILL: nothing is written any more."""


@pytest.fixture
def start(tmp_path, monkeypatch):
  """Trains with a step that learns nothing; may be killed at a step."""
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  monkeypatch.setattr(build, 'model', lambda config, told: Micro())
  monkeypatch.setattr(goodput, '_PART', 0.0)  # these starts are short
  after_step, leave = train.Trainer.after_step, Goodput.__exit__

  def begin(steps, kill=None):
    ended = []

    def after(self, state, n, *args, **options):
      time.sleep(0.05)
      after_step(self, state, n, *args, **options)
      if n == kill:
        ended.append(time.time())
        self.checkpoints.wait()
        raise Killed

    def gone(self, kind=None, *rest):
      if kind is not Killed:
        leave(self, kind, *rest)

    monkeypatch.setattr(train.Trainer, 'after_step', after)
    monkeypatch.setattr(Goodput, '__exit__', gone)
    began = time.time()
    with contextlib.suppress(Killed):
      config = tiny.config(train__steps=steps, train__checkpoint_every=6)
      train.run(config, tmp_path, jax.devices()[:2])
    return (*ended, time.time())[0] - began

  return begin


def test_a_run_that_was_killed_three_times(start, tmp_path, capsys):
  seconds = [start(24, kill) for kill in (9, 14, 22)]
  seconds.append(start(24))
  found = read(tmp_path)
  assert set(found['seconds']) == set(KINDS)
  assert [s['first'] for s in found['starts']] == [0, 6, 12, 18]
  assert [s['step'] for s in found['starts']] == [6, 12, 18, 24]
  assert total(found) == pytest.approx(found['wall'], rel=1e-6)
  for entry, outside in zip(found['starts'], seconds, strict=True):
    inside = entry['ended'] - entry['began']
    # What follows the last writing: the step under way.
    assert outside - inside < 0.01 * outside + 1
    assert inside <= outside + 0.01
  # 3, 2 and 4 steps were lost, each of 50 ms; of the last one it is not known.
  assert found['seconds']['redone'] > 0.05 * (2 + 1 + 3)
  for entry in found['starts'][:-1]:
    assert entry['seconds']['redone'] > 0
  assert found['starts'][-1]['seconds']['redone'] == 0
  assert f'goodput {found["goodput"]:.0%}'[:9] in capsys.readouterr().out


CHILD = """
import pathlib, sys, jax
jax.config.update('jax_num_cpu_devices', 2)
from tests import quick, tiny
from vdm_jax import train
import time
train.compile_step = quick.no_step
after_step = train.Trainer.after_step
def after(self, state, n, *args, **options):
  time.sleep(0.05)
  after_step(self, state, n, *args, **options)
train.Trainer.after_step = after
print('begun', time.time(), flush=True)
train.run(tiny.config(train__steps=int(sys.argv[2])), pathlib.Path(sys.argv[1]))
print('ended', time.time(), flush=True)
"""


@pytest.mark.slow
def test_a_run_under_sigkill(tmp_path):
  """Killed three times by the system, at whatever it is doing."""
  outside, steps = 0.0, 200
  for kill in (25, 60, 110, None):
    process = subprocess.Popen(
      [sys.executable, '-c', CHILD, str(tmp_path), str(steps)],
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': '.'},
      stdout=subprocess.PIPE,
      text=True,
    )
    begun = float(process.stdout.readline().split()[1])
    if kill is None:
      output, _ = process.communicate(timeout=300)
      assert process.returncode == 0
      outside += float(output.split('ended ')[1].split()[0]) - begun
      continue
    metrics = tmp_path / 'metrics.jsonl'
    while f'"step": {kill},' not in (
      metrics.read_text() if metrics.exists() else ''
    ):
      assert process.poll() is None
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    outside += time.time() - begun
  found = read(tmp_path)
  assert len(found['starts']) == 4
  assert total(found) == pytest.approx(found['wall'], rel=1e-6)
  assert found['wall'] == pytest.approx(outside, rel=0.02)
  assert found['seconds']['redone'] > 0
  assert found['starts'][-1]['step'] == steps
