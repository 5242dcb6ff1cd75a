"""Checkpoints: fingerprints, what fits, the lock, the disk, readers."""

import dataclasses
import errno
import fcntl
import itertools
import json
import os
import resource
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import (
  checkpoint,
  errors,
  fingerprint,
  lock,
  logs,
  preflight,
  sharding,
  storage,
)
from vdm_jax.state import TrainState

META = {'config': {}, 'data': {'elements': 3}}
TX = optax.adam(1e-2)


def state_of(step=1, *, width=16, tx=TX, dtype=np.float32, layers=1):
  rng = np.random.default_rng(step)
  params = {
    f'layer_{i}': {
      'kernel': rng.standard_normal((8, width)).astype(dtype),
      'bias': np.zeros(3, dtype),
    }
    for i in range(layers)
  }
  params = jax.tree.map(jnp.asarray, params)
  ema = jax.tree.map(lambda p: 0.5 * p, params)
  moments = jax.tree.map(
    lambda a: a + jnp.asarray(step, a.dtype), tx.init(params)
  )
  return TrainState(jnp.int32(step), params, ema, moments)


def abstract(state):
  place = sharding.replicated(sharding.make_mesh(devices=jax.devices()[:1]))
  return jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), state
  )


def save(workdir, *steps, **options):
  with checkpoint.Checkpoints(workdir, keep=len(steps)) as found:
    for step in steps:
      found.save(state_of(step, **options), META)
      found.wait()


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


# Fingerprints.


def words(x) -> int:
  found = fingerprint.Fingerprints()({'x': jnp.asarray(x)})
  return found.values['x']


def by_hand(values: np.ndarray) -> int:
  """The formula in Python's integers."""
  bits = values.reshape(-1).view(f'u{values.dtype.itemsize}')
  total = 0
  for i, b in enumerate(bits):
    h = int(b) ^ (i * 0x9E3779B9 % 2**32)
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    total += h ^ h >> 16
  return total % 2**32


@pytest.mark.parametrize(
  'dtype', ['float32', 'bfloat16', 'float16', 'int32', 'uint8', 'bool']
)
def test_fingerprint_is_the_formula(dtype):
  rng = np.random.default_rng(0)
  values = (
    rng.integers(0, 2, (3, 4, 5))
    if dtype == 'bool'
    else (100 * rng.standard_normal((3, 4, 5)))
  )
  values = np.asarray(jnp.asarray(np.abs(values)).astype(dtype))
  assert words(values) == by_hand(values)


def test_every_bit_and_every_swap_is_seen():
  rng = np.random.default_rng(0)
  values = rng.standard_normal(40).astype(np.float32)
  # What a plain weighted sum misses: an element and its negative, 0 and −0.
  values[:6] = [1.5, -1.5, 0.0, -0.0, np.float32(1e-40), 2.0]
  truth = words(values)
  changed = []
  for i, bit in itertools.product(range(40), range(32)):
    other = values.copy()
    other.view(np.uint32)[i] ^= np.uint32(1 << bit)
    changed.append(other)
  for i, j in itertools.combinations(range(40), 2):
    other = values.copy()
    other[[i, j]] = other[[j, i]]
    changed.append(other)
  seen = jax.jit(jax.vmap(fingerprint._of_array))(np.stack(changed))
  assert len(changed) == 40 * 32 + 40 * 39 / 2
  assert (np.asarray(seen)[:, 0] != truth).all()


def test_keys_have_fingerprints():
  keys = jax.random.split(jax.random.key(0), 5)
  assert words(keys) == words(jax.random.key_data(keys))
  assert words(keys) != words(keys[::-1])


def test_fingerprints_are_the_same_on_any_mesh():
  values = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
  truth, seen = by_hand(values), set()
  for data, fsdp in ((1, 8), (2, 4), (8, 1)):
    mesh = sharding.make_mesh(data, fsdp)
    for spec in (P(), P('fsdp'), P(None, 'fsdp'), P('data', 'fsdp')):
      array = jax.device_put(values, NamedSharding(mesh, spec))
      seen.add(words(array))
  assert seen == {truth}


def test_what_is_not_finite_is_named():
  of = fingerprint.Fingerprints()
  for bad in (np.nan, np.inf, -np.inf):
    for dtype in (jnp.float32, jnp.bfloat16):
      tree = {'a': jnp.ones(3), 'b': jnp.asarray([1, bad, 2], dtype)}
      assert of({'p': tree}).not_finite == ('p/b',)
  largest = jnp.finfo(jnp.float32).max
  tree = {'a': jnp.asarray([largest, 0, -1]), 'b': jnp.int32(2**31 - 1)}
  assert of({'p': tree}).not_finite == ()


@pytest.mark.slow
def test_cost_of_fingerprints(optimised):
  del optimised
  of = fingerprint.Fingerprints()
  big = {f'k{i}': jnp.full((3, 3, 512, 512), 0.1 * i) for i in range(28)}
  size = storage.size(big)
  of({'p': big})
  begin = time.monotonic()
  of({'p': big})
  seconds = time.monotonic() - begin
  [program] = [p for k, p in of._programs.items() if len(k) == 1]
  extra = program.memory_analysis().temp_size_in_bytes
  print(f'{size / 2**30 / seconds:.2f} GiB/s; {extra} bytes besides')
  assert extra < 2**20


# A state that is not finite.


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
  save(tmp_path, 1, 2)
  bad = state_of(3)
  bad.ema_params['layer_0']['kernel'] = (
    bad.ema_params['layer_0']['kernel'].at[2, 1].set(jnp.inf)
  )
  with checkpoint.Checkpoints(tmp_path, keep=2) as found:
    with pytest.raises(errors.DivergedError, match='ema/layer_0/kernel'):
      found.save(bad, META)
    assert found.steps() == [1, 2]
  assert checkpoint.Checkpoints(tmp_path, read_only=True).steps() == [1, 2]


# What does not fit.


CHANGES = {
  'width': (
    {'width': 32},
    r'params/layer_0/kernel: shape \(8, 16\) → \(8, 32\); .* and 2 more',
  ),
  'a layer more': ({'layers': 2}, 'it lacks 8 arrays such as params/layer_1'),
  'optimizer': (
    {'tx': optax.sgd(1e-2, momentum=0.9)},
    'it lacks 2 arrays such as optimizer/0/trace.* it has besides',
  ),
  'type': (
    {'dtype': jnp.bfloat16},
    'params/layer_0/bias: float32 → bfloat16',
  ),
}


@pytest.mark.parametrize('name', CHANGES)
def test_another_state_is_refused_in_a_line(tmp_path, name, capfd):
  options, expected = CHANGES[name]
  save(tmp_path, 1, 2)
  with checkpoint.Checkpoints(tmp_path, keep=2) as found:
    with pytest.raises(errors.CheckpointError, match=expected) as caught:
      found.restore(abstract(state_of(**options)))
    assert found.steps() == [1, 2]
  text = str(caught.value)
  assert 'step 2' in text and 'step 1' not in text  # no way back from that
  assert '\n' not in text and len(text) <= 300
  assert capfd.readouterr().err == ''


def test_a_missing_average_is_said(tmp_path):
  save(tmp_path, 1)
  meta = checkpoint.Checkpoints(tmp_path, read_only=True).newest_meta()
  arrays = {k: v for k, v in meta['arrays'].items() if k[:4] != 'ema/'}
  wanted = {'ema': state_of().ema_params}
  assert preflight.differences(arrays, wanted) == ['it has no ema']
  assert preflight.differences(meta['arrays'], wanted) == []


def test_a_step_that_is_not_there_is_answered_with_those_that_are(tmp_path):
  save(tmp_path, 1, 2, 3)
  ema = abstract(state_of()).ema_params
  found = checkpoint.Checkpoints(tmp_path, read_only=True, step=2)
  assert_same(found.restore_ema(ema)[0], state_of(2).ema_params)
  assert found.newest_meta()['step'] == 2
  found = checkpoint.Checkpoints(tmp_path, read_only=True, step=5)
  with pytest.raises(errors.CheckpointError, match='there are: 1, 2, 3'):
    found.restore_ema(ema)


def test_other_data_are_refused_unless_allowed():
  files = {'files': 64 * 'a', 'classes': ['cat', 'dog']}
  old = {'source': {'size': 8, 'flipped': files}, 'elements': 9, 'seed': 0}
  assert preflight.refuse_data(old, dict(old), allowed=False) == ''
  for change, told in (
    ({'elements': 10}, 'elements: 9 → 10'),
    ({'seed': 1}, 'seed: 0 → 1'),
    (
      {'source': {'size': 9, 'flipped': files | {'classes': ['cat']}}},
      'source.size: 8 → 9; source.flipped.classes: without dog',
    ),
  ):
    with pytest.raises(errors.CheckpointError) as refused:
      preflight.refuse_data(old, old | change, allowed=False)
    assert f'have changed ({told}); bring' in str(refused.value)
    assert len(str(refused.value)) <= 300
    said = preflight.refuse_data(old, old | change, allowed=True)
    assert f'have changed ({told}), as' in said


# Meshes.


def test_restored_on_other_meshes_bit_for_bit(tmp_path):
  """Saved on eight devices, restored on six meshes."""
  state = state_of(7)

  def placed(mesh):
    shardings = sharding.tree_shardings(mesh, state)
    return checkpoint.abstract_like(state, shardings)

  mesh = sharding.make_mesh(4, 2)
  spread = jax.tree.map(
    lambda a, s: jax.device_put(a, s.sharding), state, placed(mesh)
  )
  with checkpoint.Checkpoints(tmp_path) as found:
    found.save(spread, META)
  of, digests = fingerprint.Fingerprints(), []
  reader = checkpoint.Checkpoints(tmp_path, read_only=True)
  for data, fsdp in ((4, 2), (2, 4), (2, 2), (1, 2), (2, 1), (1, 1)):
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    restored, _ = reader.restore(placed(mesh))
    kernel = restored.params['layer_0']['kernel']
    assert kernel.sharding == placed(mesh).params['layer_0']['kernel'].sharding
    digests.append(of({'state': restored}).values)
    assert_same(jax.device_get(restored), state)
  assert all(d == of({'state': state}).values for d in digests)


# The lock.


def held(folder, **options):
  """What another process holds until its input ends."""
  code = (
    'import pathlib, sys\n'
    'from vdm_jax import errors, lock\n'
    'lock.BEAT = 0.1\n'
    'try:\n'
    f'  with lock.hold(pathlib.Path(sys.argv[1]), **{options!r}):\n'
    '    print("held", flush=True)\n'
    '    sys.stdin.read()\n'
    'except errors.CheckpointError as e:\n'
    '  print(e, flush=True)\n'
  )
  return subprocess.Popen(
    [sys.executable, '-c', code, str(folder)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
  first = held(tmp_path)
  assert first.stdout.readline() == 'held\n'
  with (
    pytest.raises(errors.CheckpointError, match=f'process {first.pid} on'),
    lock.hold(tmp_path),
  ):
    pass
  # Readers ask nobody.
  checkpoint.Checkpoints(tmp_path, read_only=True).steps()
  first.kill()
  first.wait()
  begin = time.monotonic()
  with lock.hold(tmp_path):
    assert time.monotonic() - begin < 1
    # The same process is refused as any other.
    with (
      pytest.raises(errors.CheckpointError, match='another run'),
      lock.hold(tmp_path),
    ):
      pass
  with pytest.raises(KeyError), lock.hold(tmp_path):
    raise KeyError
  with lock.hold(tmp_path):
    pass


def test_where_flock_ends_at_the_machine_the_touches_count(
  tmp_path, monkeypatch
):
  """Two names stand for two machines, between which nothing is locked."""
  monkeypatch.setattr(fcntl, 'flock', lambda *_: None)
  monkeypatch.setattr(lock, 'SILENCE', 1.0)
  there = held(tmp_path, host='there')
  assert there.stdout.readline() == 'held\n'
  with (
    pytest.raises(errors.CheckpointError, match='on there'),
    lock.hold(tmp_path, host='here'),
  ):
    pass
  there.kill()
  there.wait()
  begin = time.monotonic()
  with lock.hold(tmp_path, host='here'):
    assert 0.3 < time.monotonic() - begin < 3


def test_of_a_bucket_another_machine_sees_the_holder_and_its_end(
  bucket, monkeypatch
):
  """There, a file appears when it is closed, and `flock` reaches nobody."""
  monkeypatch.setattr(lock, 'SILENCE', 1.0)
  # Not so of a record that is kept open: both would write.
  with (bucket.here / lock.RECORD).open('w') as file:
    json.dump({'host': 'there', 'pid': 1}, file)
    file.flush()
    os.utime(file.fileno())
    bucket.show()
    with lock.hold(bucket.there, host='here'):
      pass
  with bucket.shown():
    there = held(bucket.here, host='there')
    assert there.stdout.readline() == 'held\n'
    bucket.show()
    for wait in (0, 1.5 * lock.SILENCE):
      time.sleep(wait)
      with (
        pytest.raises(errors.CheckpointError, match='on there'),
        lock.hold(bucket.there, host='here'),
      ):
        pass
    there.kill()
    there.wait()
    with lock.hold(bucket.there, host='here'):
      pass


def test_a_holder_that_ends_is_not_waited_for(tmp_path):
  record = tmp_path / lock.RECORD
  record.write_text(json.dumps({'host': 'there', 'pid': 1}))
  end = threading.Timer(0.2, record.unlink)
  end.start()
  begin = time.monotonic()
  with lock.hold(tmp_path, host='here'):
    assert 0.2 < time.monotonic() - begin < 5 < lock.SILENCE
  end.join()


def test_a_run_that_was_taken_for_dead_leaves_the_new_holder_alone(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(lock, 'BEAT', 0.02)
  record = tmp_path / lock.RECORD
  other = json.dumps({'host': 'there', 'pid': 1})
  with lock.hold(tmp_path):
    record.with_name('new').write_text(other)
    record.with_name('new').replace(record)
    time.sleep(0.2)
    assert record.read_text() == other
  assert record.read_text() == other


def test_without_flock_a_dead_process_is_known_by_its_number(
  tmp_path, monkeypatch
):
  def unsupported(*_):
    raise OSError(errno.ENOLCK, 'no locks available')

  monkeypatch.setattr(fcntl, 'flock', unsupported)
  first = held(tmp_path)
  assert first.stdout.readline() == 'held\n'
  with (
    pytest.raises(errors.CheckpointError, match=f'process {first.pid}'),
    lock.hold(tmp_path),
  ):
    pass
  first.kill()
  first.wait()
  with lock.hold(tmp_path):
    pass


# Readers.


@pytest.mark.parametrize('opens', [4, pytest.param(20, marks=pytest.mark.slow)])
def test_readers_harm_no_writer(tmp_path, opens):
  """Opened again and again while every save is under way."""
  seen, stop = [], threading.Event()
  save(tmp_path, 1)
  ema = abstract(state_of()).ema_params

  def read():
    while not stop.is_set():
      found = checkpoint.Checkpoints(tmp_path, read_only=True)
      values, meta = found.restore_ema(ema)
      assert_same(values, state_of(meta['step']).ema_params)
      seen.append(meta['step'])

  reader = threading.Thread(target=read)
  reader.start()
  step = 1
  with checkpoint.Checkpoints(tmp_path, keep=2) as found:
    while reader.is_alive() and (len(seen) < opens or step < opens // 2):
      step += 1
      found.save(state_of(step), META)
      found.wait()
      assert found.steps()[-1] == step
    stop.set()
    reader.join()
  assert len(seen) >= opens and sorted(seen) == seen
  assert checkpoint.Checkpoints(tmp_path, read_only=True).steps()[-1] == step
  print(f'{len(seen)} opens during {step - 1} saves: none lost')


# The disk.


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
  whole = state_of(width=2**12)
  needed = storage.size((whole.params, whole.ema_params, whole.opt_state))
  assert needed == 4 * 4 * (8 * 2**12 + 3) + 4
  free = [0]
  monkeypatch.setattr(
    storage.shutil,
    'disk_usage',
    lambda _: dataclasses.make_dataclass('Usage', ['free'])(free[0]),
  )
  with checkpoint.Checkpoints(tmp_path, keep=2) as found:
    free[0] = 3 * needed
    found.require_room(whole)
    free[0] = 3 * needed - 1
    with pytest.raises(errors.CheckpointError, match=r'2 \+ 1 checkpoints'):
      found.require_room(whole)
    (tmp_path / 'checkpoints' / '1').mkdir()
    (tmp_path / 'checkpoints' / '1' / 'd').write_bytes(b'x' * needed)
    free[0] = 2 * needed  # what is there goes when another comes
    found.require_room(whole)


@pytest.mark.parametrize('where', ['', 'checkpoints'])
def test_a_path_that_is_a_file_is_refused(tmp_path, where):
  workdir = tmp_path / 'run'
  if where:
    workdir.mkdir()
  (workdir / where).write_text('')
  with (
    pytest.raises(errors.CheckpointError, match='cannot be written') as e,
    lock.hold(workdir),
  ):
    checkpoint.Checkpoints(workdir)
  assert '\n' not in str(e.value)


class Mounted:
  """A file system of a few megabytes, which can be filled."""

  def __init__(self, folder):
    self.folder = folder
    folder.mkdir()
    options = ['-t', 'tmpfs', '-o', 'size=12m,nr_inodes=2000', 'tmpfs']
    if subprocess.run(
      ['mount', *options, str(folder)], capture_output=True
    ).returncode:
      pytest.skip('mounting is not permitted here')

  def fill(self, leave: int):
    free = os.statvfs(self.folder)
    free = free.f_bavail * free.f_frsize
    (self.folder / 'filler').write_bytes(b'x' * (free - leave))

  def empty(self):
    (self.folder / 'filler').unlink()

  def close(self):
    subprocess.run(['umount', '-l', str(self.folder)], check=True)


class Limited:
  """A limit on the size of a file, where nothing can be mounted."""

  def __init__(self, folder):
    self.folder = folder
    folder.mkdir()
    self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

  def fill(self, leave: int):
    resource.setrlimit(resource.RLIMIT_FSIZE, (leave // 8, self.limits[1]))

  def empty(self):
    resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)

  close = empty


class Filling(Mounted):
  """One that seems to have room when a save begins."""


@pytest.fixture(params=[Mounted, Filling, Limited])
def disk(request, tmp_path, monkeypatch):
  made = request.param(tmp_path / 'disk')
  if request.param is not Mounted:
    monkeypatch.setattr(storage, 'shortage', lambda *_, **__: '')
  yield made
  made.close()


def noticed(found, capsys) -> str:
  """What is said of a save while training goes on and polls."""
  text, end = '', time.monotonic() + 20
  while found._writer._pending is not None and time.monotonic() < end:
    found.poll()
    time.sleep(0.01)
  return text + capsys.readouterr().err


def test_a_disk_that_fills_costs_its_saves_alone(disk, capsys):
  state = state_of(width=2**13)  # about 1 MiB a checkpoint

  def save(found, step):
    found.save(dataclasses.replace(state, step=jnp.int32(step)), META)
    return noticed(found, capsys)

  folder = disk.folder / 'checkpoints'
  with checkpoint.Checkpoints(disk.folder, keep=2) as found:
    assert [save(found, n) for n in (1, 2, 3)] == ['', '', '']
    for n, good, then in ((4, 3, 5), (6, 5, 8)):
      disk.fill(leave=2**19)
      for failing in range(n, then):
        text = save(found, failing)
        assert f'a save failed (checkpoint {failing}: ' in text
        assert f'step {good} is on disk' in text and text.count('\n') == 1
        assert found.steps()[-1] == good and len(found.steps()) == 2
        assert not [p for p in folder.iterdir() if 'tmp' in p.name]
      disk.empty()
      assert save(found, then) == ''  # the first one that can be
      assert found.steps() == [good, then]
    restored, meta = found.restore(abstract(state))
    assert meta['step'] == 8
    assert_same(jax.device_get(restored.params), state.params)
  # The last one fails: the run ends with an error, and soon.
  begin = time.monotonic()
  with (
    pytest.raises(errors.CheckpointError, match='step 8 is on disk') as e,
    checkpoint.Checkpoints(disk.folder, keep=2) as found,
  ):
    disk.fill(leave=2**19)
    found.save(dataclasses.replace(state, step=jnp.int32(9)), META)
  assert 'the last save failed: checkpoint 9' in str(e.value)
  assert time.monotonic() - begin < 20
  disk.empty()
  reader = checkpoint.Checkpoints(disk.folder, read_only=True)
  assert_same(
    reader.restore_ema(abstract(state).ema_params)[0], state.ema_params
  )


def test_a_process_whose_save_failed_ends(tmp_path):
  """No folder can be made: Orbax's threads would wait for five minutes."""
  code = """
import pathlib, sys
from tests import test_checkpoint as t
from vdm_jax import checkpoint, errors, runtime
try:
  with checkpoint.Checkpoints(sys.argv[1]) as found:
    found.folder.rmdir()
    found.folder.write_text('')
    found.save(t.state_of(1), t.META)
except errors.CheckpointError as e:
  print(e, flush=True)
  runtime.leave(e.status)
"""
  begin = time.monotonic()
  ended = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)],
    env=os.environ | {'PYTHONPATH': '.'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  seconds = time.monotonic() - begin
  assert ended.returncode == 4, ended
  assert 'the last save failed' in ended.stdout
  print(f'ended after {seconds:.1f} s')


def test_metrics_wait_for_room(tmp_path):
  disk = Mounted(tmp_path / 'disk')
  try:
    with logs.MetricWriter(disk.folder) as writer:
      writer.write(1, {'loss': 1.0})
      disk.fill(leave=0)
      for step in range(2, 200):  # more than the rest of a page
        writer.write(step, {'loss': 0.5})
      disk.empty()
      writer.write(200, {'loss': 0.25})
    rows = logs.read(disk.folder / logs.FILE)
    assert [r['step'] for r in rows] == [*range(1, 201)]
  finally:
    disk.close()
