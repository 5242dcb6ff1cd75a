"""Several real processes on one machine: one run, and one end.

Most of them only add up numbers (`loop`); those that train do what users do.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import ipaddress
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from unittest import mock

import jax
import numpy as np
import pytest

from tests import tiny, toy
from tests.listeners import listening
from vdm_jax import (
  build,
  checkpoint,
  checks,
  cluster,
  distributed,
  errors,
  identity,
  logs,
  runtime,
  sharding,
  train,
)
from vdm_jax.conditions import Conditions
from vdm_jax.data import pipeline, shapes

ROOT = pathlib.Path(__file__).parents[1]
RETRY = errors.RetryError.status
HEARTBEAT = 5
START = 500  # seconds that a busy machine may take to start and compile


class Job:
  """Processes of one run, and what they have printed."""

  def __init__(self, folder, commands, mishap):
    env = {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    env['MISHAP'] = json.dumps(mishap)
    self.logs = [folder / f'log_{i}' for i in range(len(commands))]
    self.processes = []
    for command, log in zip(commands, self.logs, strict=True):
      with log.open('wb') as out:
        self.processes.append(
          subprocess.Popen(
            command,
            env=os.environ | env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
          )
        )

  def text(self, i: int) -> str:
    return self.logs[i].read_text(errors='replace')

  def ends(self, seconds: float = START) -> list[tuple[int, float]]:
    """The status of each process, and after how many seconds it ended."""
    begin, found = time.monotonic(), {}
    while len(found) < len(self.processes):
      for i, process in enumerate(self.processes):
        if i not in found and process.poll() is not None:
          found[i] = process.returncode, time.monotonic() - begin
      if time.monotonic() - begin > seconds:
        pytest.fail(f'still running: {found}, {[*map(self.text, range(2))]}')
      time.sleep(0.02)
    return [found[i] for i in range(len(found))]

  def statuses(self, seconds: float = START) -> list[int]:
    return [status for status, _ in self.ends(seconds)]

  def wait_for(self, path: pathlib.Path, step: int):
    """Returns when a file of `loop` or of metrics has come to a step."""
    end = time.monotonic() + START
    while time.monotonic() < end:
      with contextlib.suppress(OSError, ValueError, IndexError):
        last = path.read_text().strip().splitlines()[-1]
        if int(json.loads(last)['step'] if '{' in last else last) >= step:
          return
      texts = [self.text(i) for i in range(len(self.processes))]
      assert all(p.poll() is None for p in self.processes), texts
      time.sleep(0.02)
    pytest.fail(f'{path} has not come to step {step}: {texts}')


@pytest.fixture
def launch(tmp_path):
  """Starts processes; kills what is left of them at the end of the test."""
  jobs = []

  def start(
    workdir, count=2, *, devices=1, mishap=None, flags=(), own=None, **config
  ):
    folder = tmp_path / f'job_{len(jobs)}'
    folder.mkdir()
    config = tiny.config(
      mesh__heartbeat=float(HEARTBEAT), mesh__cpu_devices=devices, **config
    )
    saved = folder / 'config.json'
    saved.write_text(identity.to_json(config))
    command = [sys.executable, 'tests/distributed_worker.py']
    command += [f'--config={ROOT}/vdm_jax/saved_config.py:{saved}']
    command += [f'--workdir={workdir}', *flags]
    port = free_port()
    place = [f'--coordinator=127.0.0.1:{port}', f'--processes={count}']
    commands = [
      [*command, *place, f'--process={i}', *(own or {}).get(i, ())]
      for i in range(count)
    ]
    jobs.append(Job(folder, commands if count > 1 else [command], mishap or {}))
    return jobs[-1]

  yield start
  for process in itertools.chain(*(job.processes for job in jobs)):
    if process.poll() is None:
      process.kill()
      process.wait()


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def loop(launch, workdir, *, mishap=None, count=2, **options):
  """A job of `loop`, that many steps under way."""
  workdir.mkdir()
  options = {'train__steps': 100_000, 'train__watchdog': 0.0} | options
  job = launch(
    workdir, count, mishap={'loop': True} | (mishap or {}), **options
  )
  return job


# How they end.


@pytest.mark.parametrize('victim', [0, 1])
def test_a_dead_process_ends_the_others(launch, tmp_path, victim):
  job = loop(launch, tmp_path / 'run')
  job.wait_for(tmp_path / 'run' / 'steps_1', 20)
  for process in job.processes:  # the default would be all interfaces
    assert {ipaddress.ip_address(a).is_loopback for a in listening(process.pid)}
    assert not {'0.0.0.0', '::'} & set(listening(process.pid))
  job.processes[victim].kill()
  other, seconds = job.ends()[1 - victim]
  print(f'process {victim} killed: the other left after {seconds:.1f} s')
  assert other == RETRY, job.text(1 - victim)
  assert seconds < HEARTBEAT + 5


def test_a_stopped_process_ends_the_others(launch, tmp_path):
  """SIGSTOP, under a heartbeat that would take longer than the watchdog."""
  watchdog = 4.0
  job = loop(
    launch,
    tmp_path / 'run',
    train__watchdog=watchdog,
    flags=['--config.mesh.heartbeat=60'],
  )
  job.wait_for(tmp_path / 'run' / 'steps_0', 20)
  stopped = job.processes[1]
  stopped.send_signal(signal.SIGSTOP)
  begin = time.monotonic()
  assert job.processes[0].wait(60) == RETRY
  seconds = time.monotonic() - begin
  print(f'process 1 stopped: the other left after {seconds:.1f} s')
  assert watchdog - 0.5 < seconds < watchdog + 1
  text = job.text(0)
  assert 'no step is done for 4 s' in text
  assert 'Current thread' in text and 'in run' in text  # the stacks
  stopped.send_signal(signal.SIGCONT)
  assert job.statuses(30) == [RETRY, RETRY]


def test_a_process_that_hangs_ends_all(launch, tmp_path):
  watchdog = 4.0
  job = loop(
    launch,
    tmp_path / 'run',
    train__watchdog=watchdog,
    mishap={'sleep': {'0': 20}},
  )
  job.wait_for(tmp_path / 'run' / 'steps_0', 20)
  ends = job.ends()
  print(f'process 0 hangs: they left after {ends}')
  assert [status for status, _ in ends] == [RETRY, RETRY]
  assert max(seconds for _, seconds in ends) < watchdog + 1
  assert re.search(r'distributed_worker\.py", line \d+ in run', job.text(0))


def test_one_that_fails_tells_the_others(launch, tmp_path):
  job = loop(launch, tmp_path / 'run', mishap={'data': {'1': True}})
  assert job.statuses() == [3, 3]
  assert 'error: a file is not there; bring it' in job.text(1)
  assert 'process 1 failed: a file is not there' in job.text(0)
  assert 'Traceback' not in job.text(0) + job.text(1)


def test_a_defect_ends_all_and_keeps_its_traceback(launch, tmp_path):
  job = loop(launch, tmp_path / 'run', mishap={'defect': {'0': 3}})
  assert job.statuses() == [1, 1]
  assert "KeyError: 'a defect'" in job.text(0)
  assert 'process 0 failed' in job.text(1)


def test_ctrl_c_ends_all_in_a_line(launch, tmp_path):
  job = loop(launch, tmp_path / 'run')
  job.wait_for(tmp_path / 'run' / 'steps_0', 20)
  job.processes[1].send_signal(signal.SIGINT)
  assert job.statuses() == [130, 130]
  assert job.text(1).count('vdm_jax: stopped: interrupted; ') == 1
  assert 'stopped: process 1 failed: interrupted' in job.text(0)
  assert 'Traceback' not in job.text(0) + job.text(1)


@pytest.mark.parametrize('saves', [True, False])
def test_ctrl_c_is_passed_on_where_sigterm_saves(monkeypatch, saves):
  """The second one is not caught; without saving not even the first."""
  got = []
  handlers = {
    signal.SIGTERM: lambda number, _: got.append(number),
    signal.SIGINT: signal.default_int_handler,
  }
  before = {n: signal.signal(n, h) for n, h in handlers.items()}
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    runtime.jax, 'config', mock.Mock(jax_enable_preemption_service=saves)
  )
  try:
    with runtime.Stop() as stop:
      if saves:
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
      else:
        with pytest.raises(KeyboardInterrupt):
          signal.raise_signal(signal.SIGINT)
    assert got == [signal.SIGTERM] * saves and not stop.requested
    assert {n: signal.getsignal(n) for n in handlers} == handlers
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


# How they begin.


def test_other_settings_are_refused(launch, tmp_path):
  job = loop(
    launch,
    tmp_path / 'run',
    own={1: ['--config.train.batch_size=16', '--config.data.size=16']},
  )
  assert job.statuses() == [2, 2]
  lines = [t for t in job.text(1).splitlines() if t.startswith('vdm_jax: ')]
  expected = (
    'vdm_jax: error: process 1 has other settings than process 0 '
    '(config.data.size: 8 → 16; config.train.batch_size: 8 → 16); start all '
    'with the same command, config and versions'
  )
  assert lines == [expected]
  assert 'process 1 has other settings than process 0' in job.text(0)
  assert not (tmp_path / 'run' / 'steps_0').exists()


class Coordinator:
  """The client of the coordination service, of threads that are processes."""

  def __init__(self, count):
    self.keys, self._lock = {}, threading.Lock()
    self._barriers = collections.defaultdict(
      lambda: threading.Barrier(count, timeout=30)
    )

  def key_value_set(self, key, text, allow_overwrite=False):
    assert allow_overwrite or key not in self.keys
    self.keys[key] = text

  def key_value_dir_get(self, folder):
    return [item for item in self.keys.items() if item[0].startswith(folder)]

  def wait_at_barrier(self, name, milliseconds):
    del milliseconds
    with self._lock:
      barrier = self._barriers[name]
    barrier.wait()


@pytest.fixture
def processes(monkeypatch):
  """Calls a function of a process's number in threads; what each returns."""
  here = threading.local()
  monkeypatch.setattr(distributed, '_state', lambda: here.state)
  monkeypatch.setattr(distributed, 'active', lambda: True)

  def run(count, call):
    client = Coordinator(count)

    def process(i):
      here.state = types.SimpleNamespace(
        process_id=i, num_processes=count, client=client
      )
      try:
        return call(i)
      except errors.UserError as e:
        return e

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
      return [*pool.map(process, range(count))]

  return run


def test_what_differs_is_said_by_all(processes):
  """And the next exchange of that name compares what is new."""
  kind = {'error': errors.DataError, 'advice': 'copy it'}

  def compare(facts):
    return processes(
      3, lambda i: [distributed.check_same('data', f[i], **kind) for f in facts]
    )

  same = [{'files': 'a', 'told': {'words': ('x', 'y')}}] * 3
  later = [{'files': 'b'}] * 3
  assert compare([same, later]) == [[None, None]] * 3
  other = [*same[:2], {'files': 'a', 'told': {'words': ('x',)}}]
  told = compare([same, later, other])
  assert {type(e) for e in told} == {errors.DataError}
  assert {str(e) for e in told} == {
    'process 2 has other data than process 0 (told.words: without y); copy it'
  }


FEWER = shapes.Shapes(frames=3, size=8, length=999)


@pytest.mark.parametrize(
  'change, said',
  [
    (lambda source, told: (FEWER, told), 'elements: 1048576 → 999'),
    (
      lambda source, told: (source, dataclasses.replace(told, words=('disc',))),
      'told.words: with disc',
    ),
    (
      lambda source, told: (source, dataclasses.replace(told, text_dim=8)),
      'told.text_dim: 0 → 8',
    ),
  ],
)
def test_other_data_are_refused(processes, change, said):
  config = tiny.config()
  data = build.data(config)

  def check(*of):
    return processes(2, lambda i: checks.same_data(*of[i], config))

  assert check(data, build.data(config)) == [None, None]
  for found in check(data, change(*data)):
    assert isinstance(found, errors.DataError)
    assert 'process 1 has other data than process 0 (' in str(found)
    assert said in str(found) and len(str(found)) <= 300


@pytest.mark.slow
def test_an_incomplete_copy_is_found_before_compiling(launch, tmp_path):
  job = launch(tmp_path / 'run', mishap={'lacks': {'1': 3}})
  assert job.statuses() == [3, 3]
  for i in range(2):
    assert 'process 1 has other data than process 0' in job.text(i)
    assert 'Traceback' not in job.text(i) and 'compiled' not in job.text(i)
  assert not (tmp_path / 'run').exists()


def test_a_process_that_never_comes_is_not_waited_for(launch, tmp_path):
  (tmp_path / 'run').mkdir()
  flags = [f'--coordinator=127.0.0.1:{free_port()}', '--processes=2']
  flags += ['--process=0', '--config.mesh.patience=3']
  job = launch(tmp_path / 'run', 1, mishap={'loop': True}, flags=flags)
  assert job.statuses() == [RETRY]
  assert '2 processes did not meet' in job.text(0)


def test_a_process_may_come_late(launch, tmp_path):
  mishap = {'skew': {'1': 3}}
  job = loop(launch, tmp_path / 'run', mishap=mishap, train__steps=5)
  assert job.statuses() == [0, 0]
  assert (tmp_path / 'run' / 'steps_1').read_text() == '5'


@pytest.mark.slow
@pytest.mark.parametrize('barrier', [True, False])
def test_a_process_may_compile_for_45_seconds_more(launch, tmp_path, barrier):
  """Without the barrier the first collective gives up after 30 s."""
  mishap = {'skew': {'1': 45}, 'no barrier': not barrier}
  job = launch(tmp_path / 'run', mishap=mishap, train__steps=3)
  statuses = job.statuses()
  assert statuses == [0, 0] if barrier else 0 not in statuses
  if not barrier:
    assert 'DEADLINE_EXCEEDED' in job.text(0)


def test_a_process_alone_opens_no_port(launch, tmp_path):
  job = loop(launch, tmp_path / 'run', count=1)
  job.wait_for(tmp_path / 'run' / 'steps_0', 20)
  assert listening(job.processes[0].pid) == []
  assert not distributed.active()
  assert distributed.exchange('x', 'mine') == ['mine']
  distributed.barrier('x')
  distributed.finish()


@pytest.mark.parametrize(
  'flags, message',
  [
    (('10.0.0.1:80', 0, -1), 'give all three'),
    (('', 2, 0), 'give all three'),
    (('10.0.0.1:80', 2, 2), 'number them from 0'),
    (('10.0.0.1', 2, 0), 'is not host:port'),
    (('10.0.0.1:http', 2, 0), 'is not host:port'),
  ],
)
def test_flags_that_do_not_fit_are_refused(flags, message):
  with pytest.raises(errors.ConfigError, match=message) as caught:
    cluster.place(*flags)
  assert '\n' not in str(caught.value)


SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_STEP_NODELIST': 'node[03-04]',
  'SLURM_NTASKS': '2',
  'SLURM_PROCID': '1',
  'SLURM_LOCALID': '0',
}


def test_a_cluster_says_where_a_process_stands(monkeypatch):
  assert cluster.place() is None
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('SLURM_STEP_TASKS_PER_NODE', '1(x2)')
  port = 7 + 65535 - 2**12 + 1
  found = cluster.place()
  assert found == cluster.Place(f'node03:{port}', 2, 1)
  assert cluster.place(processes=1) is None
  # One process for each device of a machine.
  monkeypatch.setenv('SLURM_STEP_TASKS_PER_NODE', '2')
  assert cluster.place().devices == (0,)
  monkeypatch.setenv('SLURM_NTASKS', '1')
  assert cluster.place() is None


def test_the_coordinator_listens_on_one_address(monkeypatch):
  assert cluster.bind_address('127.0.0.1:80') == '127.0.0.1:80'
  assert cluster.bind_address('localhost:80') in ('127.0.0.1:80', '[::1]:80')
  assert cluster.bind_address('[::1]:80') == '[::1]:80'
  # A machine whose name stands for its loopback, as Debian has it.
  found = [(2, 1, 6, '', ('127.0.1.1', 0))]
  monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **__: found)
  monkeypatch.setattr(cluster, '_outward', lambda: '10.0.0.7')
  assert cluster.bind_address('node03:80') == '10.0.0.7:80'
  found[0] = (2, 1, 6, '', ('203.0.113.9', 0))  # an address of somebody else
  assert cluster.bind_address('node03:80') == '10.0.0.7:80'


# What they compute.


def test_the_data_are_the_same_for_any_number_of_processes():
  source = build.data(tiny.config())[0]

  def batches(rows):
    stream = pipeline.batches(source, batch_size=8, seed=3, rows=rows)
    return [next(stream)['video'] for _ in range(2)]

  whole = batches(None)
  mesh = sharding.make_mesh(devices=jax.devices()[:4])
  assert sharding.own_rows(mesh, 8) == tuple(range(8))
  # Neighbours in a mesh need not be devices of one process.
  for shares in ([(0, 1, 2, 3), (4, 5, 6, 7)], [(0, 1, 6, 7), (2, 3, 4, 5)]):
    for rows in shares:
      for share, batch in zip(batches(rows), whole, strict=True):
        np.testing.assert_array_equal(share, batch[list(rows)])


def losses(workdir) -> list[float]:
  return [r['loss'] for r in logs.read(pathlib.Path(workdir, 'metrics.jsonl'))]


def state(workdir, devices):
  """The newest state of a run, on devices of this process."""
  config = tiny.config()
  mesh = sharding.make_mesh(devices=devices)
  model = build.model(config, Conditions())
  _, abstract = train.make_init(config, model, build.optimizer(config), mesh)
  checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
  return checkpoints.restore(abstract)[0]


def assert_bitwise(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), b)


@pytest.mark.slow
def test_two_processes_train_as_one(launch, tmp_path):
  """And one goes on from their checkpoint."""
  workdir, alone = tmp_path / 'run', tmp_path / 'alone'
  config = {'train__steps': 20, 'train__checkpoint_every': 10}
  job = launch(workdir, devices=1, **config)
  assert job.statuses() == [0, 0], (job.text(0), job.text(1))
  longer = config | {'train__steps': 23}
  train.run(tiny.config(**longer), alone, jax.devices()[:2])
  np.testing.assert_allclose(losses(workdir), losses(alone)[:20], rtol=1e-6)
  # Written once: the second process prints and writes nothing.
  assert [r['step'] for r in logs.read(workdir / 'metrics.jsonl')] == [
    *range(1, 21)
  ]
  assert 'loss' not in job.text(1)
  saved = checkpoint.Checkpoints(workdir, read_only=True)
  assert saved.steps() == [10, 20]
  one = jax.device_get(state(workdir, jax.devices()[:1]))
  assert_bitwise(state(workdir, jax.devices()[:4]), one)
  train.run(tiny.config(**longer), workdir, jax.devices()[:2])
  assert len(losses(workdir)) == 23
  np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-6)


@pytest.mark.slow
def test_bad_clips_are_the_same_for_any_number_of_processes(launch, tmp_path):
  """Of those that are not finite, and those that cannot be read."""
  order = pipeline.Order(1000, 8, 0)
  # Of the second process' half of a batch.
  white, broken = int(order.step(3)[6]), int(order.step(1)[7])
  mishap = {'white': [white], 'broken': [broken]}
  found = {}
  for count in (1, 2):
    workdir = tmp_path / f'by_{count}'
    job = launch(
      workdir, count, devices=2 // count, mishap=mishap, train__steps=8
    )
    assert job.statuses() == [0] * count, job.text(0)
    told = [job.text(i) for i in range(count)]
    assert [f'clip {broken} is damaged' in t for t in told][-1]
    rows = (workdir / 'bad_steps.jsonl').read_text().splitlines()
    bad = [json.loads(row) for row in rows]
    assert [r['step'] for r in bad] == [4]
    found[count] = losses(workdir), state(workdir, jax.devices()[:1])
  curves = np.array([found[count][0] for count in (1, 2)], float)
  assert np.flatnonzero(np.isnan(curves).any(0)).tolist() == [3]
  np.testing.assert_allclose(curves[1], curves[0], rtol=1e-6)
  one, two = (jax.tree.leaves(jax.device_get(found[n][1])) for n in (1, 2))
  for a, b in zip(one, two, strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)
  # Too many end all of them, each with the status of its kind.
  everything = list(range(1000))
  for mishap, status in (
    ({'white': everything, 'broken': []}, 5),
    ({'white': [], 'broken': everything}, 3),
  ):
    job = launch(tmp_path / str(status), 2, mishap=mishap, train__steps=100_000)
    assert job.statuses() == [status, status], (job.text(0), job.text(1))


@pytest.mark.slow
def test_a_table_by_two_processes_is_that_of_one(tmp_path):
  found = {}
  for count in (1, 2):
    folder = tmp_path / f'by_{count}'
    folder.mkdir()
    command = [sys.executable, '-m', 'vdm_jax.main', '--mode=table']
    command += ['--config=configs/repro/vdm_table6.py:tiny']
    command += [f'--config.mesh.cpu_devices={2 // count}']
    command += [f'--workdir={folder}']
    place = [f'--coordinator=127.0.0.1:{free_port()}', f'--processes={count}']
    commands = [[*command, *place, f'--process={i}'] for i in range(count)]
    job = Job(folder, commands if count > 1 else [command], {})
    assert job.statuses() == [0] * count, [*map(job.text, range(count))]
    found[count] = json.loads((folder / 'table.json').read_text())
    cells = len([*(folder / 'cells').iterdir()])
    assert cells == 6 and (folder / 'table.md').read_text() in job.text(0)
    # Kept cells are taken by both, and nothing is trained.
    again = Job(folder, commands if count > 1 else [command], {})
    assert again.statuses() == [0] * count, [*map(again.text, range(count))]
    assert again.text(0).count('scores are there') == cells
  assert 'table' not in job.text(1)
  rows = [found[count]['rows'] for count in (1, 2)]
  assert rows[0].keys() == rows[1].keys() and len(rows[0]) >= 3
  for name, seeds in rows[0].items():
    for ours, theirs in zip(seeds, rows[1][name], strict=True):
      assert ours.keys() == theirs.keys()
      for score, value in ours.items():
        np.testing.assert_allclose(theirs[score], value, atol=0.1)


@pytest.mark.slow
def test_four_processes_hand_over_to_one_and_to_two(launch, tmp_path):
  config = {'train__steps': 20, 'train__checkpoint_every': 10}
  longer = config | {'train__steps': 25}
  curves = {}
  for count in (1, 2, 4):
    workdir = tmp_path / f'by_{count}'
    job = launch(workdir, count, devices=4 // count, **config)
    assert job.statuses() == [0] * count, job.text(0)
    curves[count] = losses(workdir)
    print(count, 'processes', max(abs(np.divide(curves[count], curves[1]) - 1)))
  for count in (2, 4):
    np.testing.assert_allclose(curves[count], curves[1], rtol=1e-6)
  by_four = jax.device_get(state(tmp_path / 'by_4', jax.devices()[:1]))
  for count in (1, 2, 4):
    copy = tmp_path / f'from_4_by_{count}'
    shutil.copytree(tmp_path / 'by_4', copy)
    assert_bitwise(state(copy, jax.devices()[:count]), by_four)
    job = launch(copy, count, devices=4 // count, **longer)
    assert job.statuses() == [0] * count, job.text(0)
    curves[f'from 4 by {count}'] = losses(copy)
  for count in (1, 2):
    np.testing.assert_allclose(
      curves[f'from 4 by {count}'], curves['from 4 by 4'], rtol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, victim', [('SIGTERM', 0), ('SIGTERM', 1), ('SIGINT', 0), ('SIGINT', 1)]
)
def test_a_signal_to_either_saves_the_same_step(launch, tmp_path, name, victim):
  workdir, whole = tmp_path / 'run', tmp_path / 'whole'
  config = {'train__checkpoint_every': 1000}
  job = launch(
    workdir, mishap={name: {str(victim): 5}}, train__steps=10_000, **config
  )
  statuses = job.statuses()
  assert statuses == [errors.Preempted.status] * 2, job.text(0)
  [step] = checkpoint.Checkpoints(workdir, read_only=True).steps()
  print(f'{name} in process {victim} at step 5: both saved step {step}')
  for i in range(2):
    assert f'step {step} is saved' in job.text(i)
  assert len(losses(workdir)) == step
  steps = step + 5
  for folder in (workdir, whole):
    job = launch(folder, train__steps=steps, **config)
    assert job.statuses() == [0, 0], job.text(0)
  assert losses(workdir) == losses(whole)
  assert_bitwise(
    state(workdir, jax.devices()[:1]),
    jax.device_get(state(whole, jax.devices()[:1])),
  )


@pytest.mark.slow
def test_a_killed_training_ends_and_goes_on(launch, tmp_path):
  job = launch(tmp_path / 'run', train__steps=100_000)
  job.wait_for(tmp_path / 'run' / 'metrics.jsonl', 7)
  job.processes[1].kill()
  status, seconds = job.ends()[0]
  print(f'process 1 killed: the other left after {seconds:.1f} s')
  assert status == RETRY, job.text(0)
  assert seconds < HEARTBEAT + 5
  last = checkpoint.Checkpoints(tmp_path / 'run', read_only=True).steps()[-1]
  for folder in ('run', 'whole'):
    job = launch(tmp_path / folder, train__steps=last + 5)
    assert job.statuses() == [0, 0], job.text(0)
  assert losses(tmp_path / 'run') == losses(tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('count, kills', [(2, 10), (4, 6)])
def test_killed_again_and_again_it_ends_the_same(
  launch, tmp_path, count, kills
):
  """SIGKILL to a random process at a random moment, most of them in a save."""
  rng, workdir = random.Random(count), tmp_path / 'run'
  config = {'train__checkpoint_every': 4, 'train__keep': 2}
  mishap, late, points, steps = {'save': True}, [], [], 0
  reader = checkpoint.Checkpoints(workdir, read_only=True)
  for _ in range(kills):
    job = launch(workdir, count, mishap=mishap, train__steps=100_000, **config)
    log = workdir / f'steps_{rng.randrange(count)}'
    log.unlink(missing_ok=True)
    job.wait_for(log, steps + rng.randrange(1, 20))
    time.sleep(rng.uniform(0, 1))
    victim = rng.randrange(count)
    job.processes[victim].kill()
    ends = job.ends()
    del ends[victim]
    assert {status for status, _ in ends} == {RETRY}, job.text(0)
    late.append(max(seconds for _, seconds in ends))
    points.append(max(reader.steps(), default=0))
    # Of the saves that had begun the last may be lost, and no other; that of
    # the last step, which waits for the one before, need not have begun.
    last = max(int(p.read_text() or 0) for p in workdir.glob('steps_*'))
    assert points[-1] >= (last - 1) // 4 * 4 - 4
    steps = points[-1]
  assert points == sorted(points) and max(late) < HEARTBEAT + 5
  arrays = []
  for folder in (workdir, tmp_path / 'whole'):
    job = launch(folder, count, mishap=mishap, train__steps=steps + 8, **config)
    assert job.statuses() == [0] * count, job.text(0)
    found = checkpoint.Checkpoints(folder, read_only=True)
    arrays.append(found.newest_meta()['arrays'])
    ema = jax.eval_shape(toy.first).ema_params
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    places = sharding.tree_shardings(mesh, ema)
    found.restore_ema(checkpoint.abstract_like(ema, places))
  assert arrays[0] == arrays[1]
  print(
    f'{kills} SIGKILLs in {count} processes: restarts at {points}; the others '
    f'left after at most {max(late):.1f} s'
  )


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 2])
def test_a_disk_that_fills_stops_no_training(launch, tmp_path, count):
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', str(disk)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('mounting is not permitted here')
  try:
    _fill_and_empty(launch, disk / 'run', count)
  finally:
    subprocess.run(['umount', '-l', str(disk)], check=True)


def _fill_and_empty(launch, workdir, count):
  def come_to(step):
    job.wait_for(workdir / 'metrics.jsonl', step)
    return logs.read(workdir / 'metrics.jsonl')[-1]['step']

  reader = checkpoint.Checkpoints(workdir, read_only=True)
  config = {'train__checkpoint_every': 2, 'train__keep': 2}
  job = launch(workdir, count, train__steps=100_000, **config)
  last = come_to(5)
  filler = workdir.parent / 'filler'
  with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(2**12))
  with filler.open('r+b') as file:  # a little room, for the metrics
    file.truncate(filler.stat().st_size - 2**16)
  last = come_to(last + 10)
  text = job.text(0)
  assert 'a save failed (checkpoint' in text and 'the disk is full' in text
  assert 'Traceback' not in text
  before = reader.steps()
  assert before and before[-1] < last
  filler.unlink()
  come_to(last + 10)
  assert reader.steps()[-1] > last
  job.processes[0].send_signal(signal.SIGTERM)
  assert job.statuses() == [errors.Preempted.status] * count, job.text(0)
  # And one whose last save fails.
  last = logs.read(workdir / 'metrics.jsonl')[-1]['step']
  job = launch(workdir, count, train__steps=100_000, **config)
  come_to(last + 3)
  with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(2**12))
  job.processes[0].send_signal(signal.SIGTERM)
  assert job.statuses(120) == [4] * count, job.text(0)
  assert 'the last save failed' in job.text(0)
  filler.unlink()
  state(workdir, jax.devices()[:1])


@pytest.mark.slow
def test_two_processes_sample_as_one(launch, tmp_path):
  workdir = tmp_path / 'run'
  config = {
    'train__steps': 3,
    'train__sample_first': 2,
    'train__sample_count': 4,
    'train__sample_steps': 2,
    'sample__count': 6,
    'sample__batch_size': 4,
    'sample__steps': 2,
    'sample__frames': 4,
    'sample__overlap': 1,
    'sample__arrays': True,
  }
  job = launch(workdir, **config)
  assert job.statuses() == [0, 0], (job.text(0), job.text(1))
  folders = {p.name for p in (workdir / 'samples').iterdir()}
  assert {'final', 'step_0000002'} <= folders
  found = []
  for count in (2, 1):
    flags = ['--mode=sample', '--config.sample.seed=5']
    job = launch(workdir, count, devices=2 // count, flags=flags, **config)
    assert job.statuses() == [0] * count, (job.text(0), job.text(-1))
    [folder] = (workdir / 'samples').glob('sample_step_3_seed_5_*')
    [array] = folder.glob('*.npy')
    found.append(np.load(array).astype(int))
    folder.rename(tmp_path / f'by_{count}')
  assert found[0].shape == (6, 4, 8, 8, 3)
  assert np.abs(found[0] - found[1]).max() <= 1
