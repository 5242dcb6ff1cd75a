"""Training is exact: resumed, killed, moved to other devices."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import quick, tiny
from vdm_jax import (
  build,
  checkpoint,
  claims,
  errors,
  identity,
  logs,
  meters,
  sharding,
  train,
)
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.data import pipeline

TWO = jax.devices()[:2]


@pytest.fixture(scope='module', autouse=True)
def programs():
  with pytest.MonkeyPatch.context() as patch:
    quick.programs_once(patch)
    yield


def saved_state(config, workdir, devices=TWO):
  """The newest state on disk, restored onto the given devices."""
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  model = build.model(config, Conditions())
  _, abstract = train.make_init(config, model, build.optimizer(config), mesh)
  checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
  return checkpoints.restore(abstract)[0]


def assert_bitwise(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), b)


def losses(workdir):
  return [r['loss'] for r in logs.read(pathlib.Path(workdir, 'metrics.jsonl'))]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Ten undisturbed steps: the truth that the others are held against."""
  workdir = tmp_path_factory.mktemp('whole')
  train.run(tiny.config(), workdir, TWO)
  return saved_state(tiny.config(), workdir), losses(workdir)


@pytest.mark.slow
def test_ten_steps_are_five_and_five(whole, tmp_path):
  train.run(tiny.config(train__steps=5), tmp_path, TWO)
  half = saved_state(tiny.config(), tmp_path)
  assert int(half.step) == 5
  train.run(tiny.config(), tmp_path, TWO)
  state, curve = whole
  assert_bitwise(saved_state(tiny.config(), tmp_path), jax.device_get(state))
  assert losses(tmp_path) == curve
  # The comparison can fail: five steps are not ten.
  with pytest.raises(AssertionError):
    assert_bitwise(half, jax.device_get(state))


def command(workdir, **overrides):
  """Trains in a process of its own; `overrides` as for `tiny.config`.

  It has as many devices as this process: XLA makes a thread for each, and how
  a sum is split among threads decides its last bit.
  """
  code = """
import pathlib, sys, jax
jax.config.update('jax_num_cpu_devices', 8)
from tests import quick, tiny
from vdm_jax import errors, runtime, train
try:
  config = tiny.config(**eval(sys.argv[2]))
  train.run(config, pathlib.Path(sys.argv[1]), jax.devices()[:2])
except errors.UserError as e:
  print(e)
  runtime.leave(e.status)
"""
  return subprocess.Popen(
    [sys.executable, '-c', code, str(workdir), repr(overrides)],
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': '.'},
    stdout=subprocess.PIPE,
    text=True,
  )


def wait_for(condition, process):
  for _ in range(3600):
    if condition():
      return
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  pytest.fail('what was waited for did not happen')


def wait_for_step(workdir, step, process):
  metrics = pathlib.Path(workdir, 'metrics.jsonl')
  wait_for(
    lambda: metrics.exists() and f'"step": {step},' in metrics.read_text(),
    process,
  )


@pytest.mark.slow
def test_killed_between_checkpoints(whole, tmp_path):
  process = command(tmp_path, train__steps=100_000)
  wait_for_step(tmp_path, 7, process)
  wait_for(lambda: (tmp_path / 'checkpoints' / '5').is_dir(), process)
  process.kill()
  process.communicate()
  last = checkpoint.Checkpoints(tmp_path, read_only=True).steps()[-1]
  # Enough steps beyond the kill that what was lost is made again.
  steps = max(10, last + 5)
  config = tiny.config(train__steps=steps)
  train.run(config, tmp_path, TWO)
  undisturbed = tmp_path / 'undisturbed'
  train.run(config, undisturbed, TWO)
  assert_bitwise(
    saved_state(config, tmp_path),
    jax.device_get(saved_state(config, undisturbed)),
  )
  assert losses(tmp_path)[:10] == whole[1]


@pytest.mark.slow
def test_sigterm_saves_and_leaves(tmp_path):
  process = command(tmp_path, train__steps=100_000, train__keep=1)
  wait_for_step(tmp_path, 3, process)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == errors.Preempted.status
  saved = checkpoint.Checkpoints(tmp_path, read_only=True).steps()[-1]
  assert f'step {saved} is saved' in output
  assert logs.read(tmp_path / 'metrics.jsonl')[-1]['step'] == saved


@pytest.mark.slow
def test_other_devices_continue_the_same_run(tmp_path):
  copy, tmp_path = tmp_path / 'copy', tmp_path / 'run'
  config = tiny.config(train__steps=5, mesh__fsdp=4)
  train.run(config, tmp_path, jax.devices())
  on_eight = saved_state(config, tmp_path, jax.devices())
  on_two = saved_state(tiny.config(), tmp_path, TWO)
  assert_bitwise(on_two, jax.device_get(on_eight))
  assert len(on_two.params['conv_in']['kernel'].devices()) == 2

  shutil.copytree(tmp_path, copy)
  train.run(tiny.config(mesh__fsdp=4), tmp_path, jax.devices())
  train.run(tiny.config(mesh__fsdp=2), copy, TWO)
  np.testing.assert_allclose(losses(copy), losses(tmp_path), rtol=1e-6)
  assert losses(copy)[:5] == losses(tmp_path)[:5]


def test_next_clips_do_not_depend_on_where_a_run_stopped():
  source = build.data(tiny.config())[0]
  order = dict(batch_size=8, seed=0)
  first = pipeline.batches(source, **order)
  for _ in range(5):
    next(first)
  resumed = pipeline.batches(source, start_step=5, **order)
  a, b = next(first), next(resumed)
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


def truncate(folder: pathlib.Path):
  """Cuts every file with data of arrays below a folder in half."""
  files = [f for f in folder.rglob('d/*') if f.is_file()]
  assert files
  for file in files:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.slow
def test_truncated_checkpoint_falls_back_to_the_one_before(
  whole, tmp_path, capsys
):
  config = tiny.config()
  train.run(config, tmp_path, TWO)
  for item in checkpoint.ARRAYS:
    truncate(tmp_path / 'checkpoints' / '10' / item)
  train.run(config, tmp_path, TWO)
  assert 'checkpoint of step 10 cannot be read' in capsys.readouterr().err
  assert (tmp_path / 'damaged' / '10').is_dir()
  assert_bitwise(saved_state(config, tmp_path), jax.device_get(whole[0]))
  assert losses(tmp_path) == whole[1]


def test_no_readable_checkpoint_is_an_error(tmp_path):
  config = tiny.config(train__steps=5)
  train.run(config, tmp_path, TWO)
  truncate(tmp_path / 'checkpoints' / '5' / 'params')
  with pytest.raises(errors.CheckpointError, match='can be read'):
    train.run(config, tmp_path, TWO)
  assert (tmp_path / 'checkpoints' / '5').is_dir()


def test_workdir_of_another_config_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  train.run(tiny.config(train__steps=1), tmp_path, TWO)
  saved = (tmp_path / 'config.json').read_text()
  same = tiny.config(train__steps=7, sample__steps=9)
  identity.refuse_other(saved, same, what='it', advice='')
  with pytest.raises(errors.CheckpointError, match=r'model\.channels: 8 → 16'):
    train.run(tiny.config(model__channels=16), tmp_path, TWO)
  assert (tmp_path / 'config.json').read_text() == saved


def test_a_start_without_a_checkpoint_does_not_bind(
  tmp_path, monkeypatch, capsys
):
  """What it has left to look at goes aside, and is not shown as of the next."""
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  claims.claim(tmp_path, tiny.config())
  (tmp_path / 'goodput.json').write_text('of a start that took no step')
  files = {
    'metrics.jsonl': '{"step": 3, "loss": 7.0}\n',
    'samples/step_0000003/0000.mp4': 'red discs',
    'notes.txt': 'of the user',
  }

  def run(batch_size, **changes):
    config = tiny.config(
      train__steps=1, train__batch_size=batch_size, **changes
    )
    train.run(config, tmp_path, TWO)
    saved = json.loads((tmp_path / 'config.json').read_text())
    assert saved['train']['batch_size'] == batch_size
    starts = json.loads((tmp_path / 'goodput.json').read_text())['starts']
    assert len(starts) == 1  # the other's are not counted
    shutil.rmtree(tmp_path / 'checkpoints')

  run(4)  # there was nothing to look at
  assert not (tmp_path / 'earlier1').exists()
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  run(2)
  assert 'train.batch_size: 4 → 2' in capsys.readouterr().out
  for name, text in files.items():
    earlier = tmp_path / 'earlier1' / name
    assert (
      not earlier.exists() if 'notes' in name else (earlier.read_text() == text)
    )
  assert losses(tmp_path) == [1.0] and not (tmp_path / 'samples').exists()
  assert (tmp_path / 'notes.txt').is_file()
  run(4)  # metrics of the second one go aside, not into the first's folder
  assert losses(tmp_path / 'earlier2') == [1.0]
  (tmp_path / 'config.json').write_text('{')
  run(4)
  assert losses(tmp_path / 'earlier3') == [1.0]


def test_what_a_start_of_the_same_config_left_stays(tmp_path, monkeypatch):
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  config = tiny.config(train__steps=1)
  claims.claim(tmp_path, config)
  shown = tmp_path / 'samples' / 'step_0000003'
  shown.mkdir(parents=True)
  train.run(config, tmp_path, TWO)
  assert shown.is_dir() and not (tmp_path / 'earlier1').exists()


def test_checkpoints_of_another_config_are_told_from_damaged_ones(tmp_path):
  train.run(tiny.config(train__steps=1), tmp_path, TWO)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(errors.CheckpointError, match='another config'):
    train.run(tiny.config(model__channels=16), tmp_path, TWO)
  assert checkpoint.Checkpoints(tmp_path, read_only=True).steps() == [1]


def test_a_run_that_cannot_start_claims_nothing(tmp_path):
  workdir = tmp_path / 'run'
  config = tiny.config(data__source='folder', data__path=str(tmp_path))
  with pytest.raises(errors.DataError):
    train.run(config, workdir, TWO)
  assert not workdir.exists()


def test_loss_that_is_not_finite_stops_with_the_step():
  window = meters.Window()
  good = dict(
    loss=np.float32(1),
    grad_norm=np.float32(1),
    finite=np.bool_(True),
    band_sum=np.ones(6),
    band_count=np.ones(6),
  )
  window.add(1, good)
  window.add(2, good | {'finite': np.bool_(False), 'loss': np.float32('nan')})
  with pytest.raises(errors.DivergedError, match='step 2 '):
    window.close()


def test_bands_are_means_over_the_window():
  window = meters.Window()
  for n, value in enumerate((1.0, 3.0)):
    sums, counts = np.zeros(6), np.zeros(6)
    sums[n], counts[n] = value, 2
    window.add(
      n,
      dict(
        loss=value,
        grad_norm=0.0,
        finite=True,
        band_sum=sums,
        band_count=counts,
      ),
    )
  row = window.close()
  names = meters.band_names(step_lib.BAND_EDGES)
  assert row['loss'] == 2.0
  assert row[names[0]] == 0.5 and row[names[1]] == 1.5
  assert names[2] not in row  # an empty band is absent, not zero


def test_a_finished_run_is_shown_without_its_metrics(tmp_path, monkeypatch):
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  quick.Windows(monkeypatch)
  config = tiny.config(train__steps=3, sample__count=1)
  train.run(config, tmp_path, TWO)
  page = tmp_path / 'index.html'
  whole = page.read_text()
  page.unlink()
  (tmp_path / 'metrics.jsonl').unlink()
  train.run(config, tmp_path, TWO)
  fact = '>step</th><td>3<'
  assert fact in whole and fact in page.read_text()


def test_config_is_stored_with_the_checkpoint(tmp_path):
  config = tiny.config(train__steps=1)
  train.run(config, tmp_path, TWO)
  meta = checkpoint.Checkpoints(tmp_path, read_only=True).newest_meta()
  assert meta['config']['model']['channels'] == 8
  assert meta['step'] == 1
  assert meta['prior'] == {'kind': 'independent', 'alpha': 0.0}
  assert json.loads((tmp_path / 'config.json').read_text()) == meta['config']
