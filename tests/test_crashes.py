"""Killed at any moment, a run loses little and ends with the same bits."""

import functools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import quick, tiny
from vdm_jax import checkpoint, errors, logs, train
from vdm_jax.data import pipeline

ROOT = pathlib.Path(__file__).parents[1]
STEPS, EVERY = 12, 2


class Nursery:
  """Processes forked from one that has imported everything."""

  def __init__(self, log):
    self.log = log.open('wb')
    self.process = subprocess.Popen(
      [sys.executable, '-m', 'tests.crash_worker'],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self.log,
      text=True,
    )

  def __call__(self, job, workdir, **options) -> dict:
    request = {'job': job, 'workdir': str(workdir)} | options
    print(json.dumps(request), file=self.process.stdin, flush=True)
    line = self.process.stdout.readline()
    assert line, pathlib.Path(self.log.name).read_text()[-3000:]
    return json.loads(line)


@pytest.fixture(scope='module')
def nursery(tmp_path_factory):
  made = Nursery(tmp_path_factory.mktemp('nursery') / 'log')
  yield made
  made.process.stdin.close()
  made.process.wait(30)


def final(workdir) -> list[bytes]:
  with np.load(workdir / 'final.npz') as arrays:
    return [arrays[k].tobytes() for k in sorted(arrays)]


@pytest.fixture(scope='module')
def undisturbed(nursery, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed')
  told = nursery('toy', workdir, steps=STEPS, every=EVERY)
  assert told['status'] == 0, told
  return final(workdir)


@pytest.mark.parametrize(
  'kills', [3, pytest.param(100, marks=pytest.mark.slow)]
)
def test_killed_while_saving(nursery, undisturbed, tmp_path, kills):
  """SIGKILL at random moments of a run that is nearly always saving."""
  rng, done, runs, lost = random.Random(kills), 0, 0, []
  while done < kills or runs == 0:
    workdir = tmp_path / f'run_{runs}'
    saved, saving = 0, 0
    while True:
      seconds = rng.uniform(0, 1.5) if done < kills else None
      told = nursery(
        'toy',
        workdir,
        steps=STEPS,
        every=EVERY,
        keep=1 + runs % 2,
        seconds=seconds,
      )
      assert told['status'] in (0, -9), told
      # It begins with what was on disk, at most one save before the last.
      assert saved <= told['begun'] and saving - EVERY <= told['begun']
      lost.append(saving - told['begun'])
      saved, saving = told.get('saved', saved), told.get('saving', saving)
      if told['status'] == 0:
        break
      done += 1
    assert final(workdir) == undisturbed
    runs += 1
  print(f'{done} SIGKILLs, {runs} runs; steps behind the newest save: {lost}')


def chosen(count: int, most: int) -> list[int]:
  """The first and the last, and some in between."""
  return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))})


@pytest.mark.parametrize(
  'most', [3, pytest.param(1000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize('keep', [1, 2])
def test_killed_before_a_change_of_a_file(nursery, tmp_path, most, keep):
  """One child dies before each change that a save and its cleaning make."""
  if most < 1000 and keep == 2:
    pytest.skip('in the long form')
  options = {'steps': 4, 'every': 1, 'keep': keep, 'arm': 3}
  told = nursery('toy', tmp_path / 'whole', **options)
  assert told['status'] == 0, told
  names, truth = told['mutations'], final(tmp_path / 'whole')
  assert any('_METADATA' in n for n in names)
  assert any(n.startswith('os.rename') for n in names)
  assert names[-1].startswith('os.rmdir'), names[-3:]  # the oldest is gone
  begun = []
  for n in chosen(len(names), most):
    workdir = tmp_path / f'before_{n}'
    told = nursery('toy', workdir, fatal=n, **options)
    if told['status'] == 0 and len(told['mutations']) <= n:
      continue  # not every save writes as many files
    assert told['status'] == -9, (names[n], told)
    told = nursery('toy', workdir, **options)
    assert told['status'] == 0, (names[n], told)
    assert told['begun'] in (2, 3), (names[n], told)
    assert final(workdir) == truth
    left = {p.name for p in (workdir / 'checkpoints').iterdir()}
    assert left == {str(4 - i) for i in range(keep)}, (names[n], left)
    begun.append(told['begun'])
  assert len(begun) >= 0.9 * len(chosen(len(names), most)) - 1
  print(f'killed before {len(begun)} changes of {len(names)}; began: {begun}')


@pytest.mark.slow
@pytest.mark.parametrize('kills', [12])
def test_a_training_is_killed_while_saving(nursery, tmp_path, kills):
  """The same with the real trainer."""
  settings = {'train__checkpoint_every': 1, 'train__keep': 2}
  rng, workdir, begun, saving = random.Random(0), tmp_path / 'run', [], 0
  for _ in range(kills):
    told = nursery(
      'trainer',
      workdir,
      seconds=rng.uniform(0, 2),
      saves=rng.randrange(1, 4),
      train__steps=100_000,
      **settings,
    )
    assert told['status'] == -9, told
    assert saving - 1 <= told['begun'], (saving, told)
    begun.append(told['begun'])
    saving = told.get('saving', saving)
  assert begun == sorted(begun) and begun[-1] > 3
  steps = saving + 2
  for folder in (workdir, tmp_path / 'whole'):
    told = nursery('trainer', folder, train__steps=steps, **settings)
    assert told['status'] == 0, told
  assert arrays_of(workdir) == arrays_of(tmp_path / 'whole')
  assert losses(workdir) == losses(tmp_path / 'whole')
  print(f'{kills} SIGKILLs; began at steps {begun} of {steps}')


def arrays_of(workdir) -> dict:
  """The fingerprints of the newest checkpoint, which are checked first."""
  meta = checkpoint.Checkpoints(workdir, read_only=True).newest_meta()
  assert len(meta['arrays']) > 100
  return meta['arrays'] | {'step': meta['step']}


def losses(workdir) -> list[tuple]:
  rows = logs.read(workdir / 'metrics.jsonl')
  return [(r['step'], r['loss'], r['grad_norm']) for r in rows]


class Reused:
  """The programs of training, compiled once; what each step was given."""

  def __init__(self, monkeypatch):
    self.batches, self.state = {}, None
    quick.programs_once(monkeypatch)
    self.programs = train.programs
    monkeypatch.setattr(train, 'programs', self.reuse)

  def reuse(self, *args, **options):
    init, abstract, step = self.programs(*args, **options)
    return init, abstract, functools.partial(self.step, step)

  def step(self, compiled, state, batch):
    n = int(state.step) + 1
    self.batches[n] = {k: np.asarray(v).tobytes() for k, v in batch.items()}
    self.state, metrics = compiled(state, batch)
    return self.state, metrics

  def run(self, workdir, **settings):
    """Batches by step, the last state and the losses of a run."""
    self.batches = {}
    train.run(tiny.config(**settings), workdir, jax.devices()[:2])
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(self.state))
    state = {str(path): np.asarray(a).tobytes() for path, a in leaves}
    return self.batches, state, losses(workdir)


@pytest.mark.parametrize(
  'steps, starts',
  [
    (2, (1,)),
    pytest.param(31, range(1, 31), marks=pytest.mark.slow),
  ],
)
def test_resumed_at_any_step_bit_for_bit(
  monkeypatch, tmp_path, capsys, steps, starts
):
  """Losses, clips, parameters, averages and moments of each step after it."""
  reused, whole = Reused(monkeypatch), tmp_path / 'whole'
  settings = {'train__steps': steps}
  batches, state, curve = reused.run(
    whole, train__checkpoint_every=1, train__keep=steps, **settings
  )
  assert len(state) > 100 and len({*map(str, batches.values())}) == steps
  for start in starts:
    workdir = tmp_path / f'from_{start}'
    saved = pathlib.Path('checkpoints', str(start))
    shutil.copytree(whole / saved, workdir / saved)
    shutil.copy(whole / 'metrics.jsonl', workdir)
    again = reused.run(workdir, train__checkpoint_every=steps, **settings)
    after = {n: b for n, b in batches.items() if n > start}
    assert again == (after, state, curve), start
  # With other data it is not resumed, unless that is meant.
  sign = pipeline.data_signature
  monkeypatch.setattr(
    pipeline, 'data_signature', lambda *a, **b: sign(*a, **b) | {'elements': 7}
  )
  shutil.rmtree(workdir / 'checkpoints' / str(steps))
  with pytest.raises(
    errors.CheckpointError, match=r'changed \(elements: .*7\)'
  ):
    reused.run(workdir, **settings)
  again = reused.run(workdir, train__allow_data_change=True, **settings)
  assert again[1:] == (state, curve)
  assert capsys.readouterr().err.count('changed (elements: ') == 1
