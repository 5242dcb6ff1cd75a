"""The command line: one line and a status for every mistake."""

import errno
import os
import subprocess
import sys

import jax
import pytest

from tests import quick, tiny
from vdm_jax import claims, command, convert, identity, main, plan, train
from vdm_jax.generate import Generator

TINY = (
  '--config=configs/shapes.py:tiny',
  '--config.mesh.cpu_devices=0',
  '--config.train.batch_size=8',
)


def run(monkeypatch, capsys, *argv):
  """(exit status, standard error) of a command, run in this process."""
  argv = ['main.py', *argv]
  monkeypatch.setattr(sys, 'argv', argv)
  status = main.main(argv)
  return status, capsys.readouterr().err


BAD = {
  'no config': ((), 2, '--config=configs/shapes.py'),
  'config file missing': (('--config=configs/nonesuch.py',), 2, 'nonesuch'),
  'misspelt override': (
    (*TINY, '--config.optim.learning_rat=1'),
    2,
    'learning_rate',
  ),
  'override of the wrong type': ((*TINY, '--config.data.frames=8.5'), 2, '8.5'),
  'unknown flag': ((*TINY, '--wrokdir=x'), 2, 'wrokdir'),
  'stray word': ((*TINY, 'configs/folder.py'), 2, 'configs/folder.py'),
  'unknown mode': ((*TINY, '--mode=smaple'), 2, 'smaple'),
  'unknown variant': (('--config=configs/shapes.py:tyni',), 2, 'tiny'),
  'number out of range': ((*TINY, '--config.optim.ema=2.0'), 2, 'optim.ema'),
  'size the network halves too often': (
    (*TINY, '--config.data.size=15'),
    2,
    '16',
  ),
  'batch the mesh does not divide': (
    (*TINY[:2], '--config.train.batch_size=12'),
    2,
    '16',
  ),
  'mesh larger than the machine': ((*TINY, '--config.mesh.fsdp=3'), 2, '4×2'),
  'folder not named': (
    (
      '--config=configs/folder.py',
      '--config.mesh.cpu_devices=0',
    ),
    2,
    'data.path',
  ),
  'sampler unknown': (
    (*TINY, '--config.sample.sampler=ancestal'),
    2,
    'ancestral',
  ),
  'table unknown': (('--mode=table', '--table=vdm7'), 2, 'vdm6'),
  'scale unknown': (('--table=vdm6', '--scale=large'), 2, 'paper'),
  'scale of no table': ((*TINY, '--scale=small'), 2, '--table'),
  'table and config': ((*TINY, '--table=vdm6'), 2, 'use one'),
  'table in another mode': (('--mode=train', '--table=vdm6'), 2, 'mode=table'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, monkeypatch, capsys, tmp_path):
  argv, status, mend = BAD[name]
  workdir = [f'--workdir={tmp_path / "run"}'] if argv else []
  got, text = run(monkeypatch, capsys, *argv, *workdir)
  assert got == status, text
  lines = text.strip().splitlines()
  assert len(lines) == 1, text
  assert lines[0].startswith('vdm_jax: error: ') and len(lines[0]) <= 320
  assert mend in lines[0]


def folder_flags(path, workdir):
  return (
    '--config=configs/folder.py:tiny',
    '--config.mesh.cpu_devices=0',
    '--config.train.batch_size=8',
    f'--config.data.path={path}',
    f'--workdir={workdir}',
  )


@pytest.mark.parametrize('kind', ['missing', 'file', 'empty', 'broken'])
def test_bad_folder(kind, monkeypatch, capsys, tmp_path):
  path = tmp_path / 'videos'
  if kind == 'file':
    path.write_text('')
  elif kind != 'missing':
    path.mkdir()
  if kind == 'broken':
    (path / 'a.mp4').write_bytes(b'no video')
  status, text = run(monkeypatch, capsys, *folder_flags(path, tmp_path / 'run'))
  assert status == 3, text
  assert 'videos' in text and text.count('vdm_jax: error: ') == 1
  assert len(text.strip().splitlines()[-1]) <= 320


@pytest.mark.parametrize('mode', [train, plan, convert])
def test_a_full_disk_is_one_line(mode, monkeypatch, capsys, tmp_path):
  def full(*_, **__):
    raise OSError(number, os.strerror(number), 'final.mp4')

  monkeypatch.setattr(mode, 'run', full)
  name = mode.__name__.rpartition('.')[2]
  argv = [*TINY, f'--mode={name}', f'--workdir={tmp_path}']
  if mode is convert:
    argv = ['--mode=convert', '--network=inception', '--weights=a.pt']
  number = errno.ENOSPC
  status, text = run(monkeypatch, capsys, *argv)
  assert status == 4 and 'final.mp4 cannot be written (No space' in text
  assert 'make room' in text and text.count('\n') == 1
  number = errno.EIO  # any other is a defect, and keeps its traceback
  with pytest.raises(OSError, match=r'final\.mp4'):
    run(monkeypatch, capsys, *argv)


@pytest.mark.parametrize('mode', [train, plan, convert])
def test_ctrl_c_is_one_line(mode, monkeypatch, capsys, tmp_path):
  def interrupted(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(mode, 'run', interrupted)
  name = mode.__name__.rpartition('.')[2]
  argv = [*TINY, f'--mode={name}', f'--workdir={tmp_path}']
  if mode is convert:
    argv = ['--mode=convert', '--network=inception', '--weights=a.pt']
  status, text = run(monkeypatch, capsys, *argv)
  assert status == 130 and text.startswith('vdm_jax: stopped: interrupted; ')
  assert text.count('\n') == 1
  assert 'Traceback' in run(monkeypatch, capsys, *argv, '--debug')[1]


def test_sampling_needs_a_run(monkeypatch, capsys, tmp_path):
  status, text = run(
    monkeypatch, capsys, '--mode=sample', f'--workdir={tmp_path}'
  )
  assert status == 4 and 'config.json' in text
  claims.claim(tmp_path, tiny.config(sample__count=1))
  status, text = run(
    monkeypatch, capsys, '--mode=sample', f'--workdir={tmp_path}'
  )
  assert status == 4 and 'no checkpoint' in text


NO_MEMORY = 'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte.'


@pytest.mark.parametrize('place', ['compiling', 'init', 'step', 'sampling'])
def test_a_model_that_does_not_fit(place, monkeypatch, capsys, tmp_path):
  """One line says what to lower, and the workdir takes the smaller batch."""
  message = NO_MEMORY

  def full(*_, **__):
    raise jax.errors.JaxRuntimeError(message)

  def init(*given):
    made, abstract = make_init(*given)
    return (full if place == 'init' else made), abstract

  compilers = {'compiling': full, 'step': lambda *_: full}
  make_init = train.make_init
  compiler = compilers.get(place, quick.no_step)
  monkeypatch.setattr(train, 'compile_step', compiler)
  monkeypatch.setattr(train, 'make_init', init)
  monkeypatch.setattr(Generator, '__call__', full)
  steps = ('--config.train.steps=1', '--config.sample.count=1')
  argv = (*TINY, *steps, f'--workdir={tmp_path}')
  status, text = run(monkeypatch, capsys, *argv)
  lines = [t for t in text.splitlines() if 'error' in t]
  assert status == 2 and len(lines) == 1 and len(lines[0]) <= 300, text
  assert 'allocate 1 byte.); lower config.train.batch_size' in lines[0]
  for name in ('sample.batch_size', 'accumulate', 'remat', 'mesh.fsdp'):
    assert name in lines[0]
  message = 'INTERNAL: a defect'  # which keeps its traceback
  with pytest.raises(jax.errors.JaxRuntimeError, match='defect'):
    run(monkeypatch, capsys, *argv)
  if place == 'compiling':
    monkeypatch.setattr(train, 'compile_step', quick.no_step)
    smaller = ('--config.train.batch_size=16', '--config.sample.count=0')
    assert run(monkeypatch, capsys, *argv, *smaller)[0] == 0


def test_workdir_of_another_config(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  train.run(tiny.config(train__steps=1), tmp_path, jax.devices()[:1])
  status, text = run(monkeypatch, capsys, *TINY, f'--workdir={tmp_path}')
  assert status == 4 and 'another config' in text


def test_workdir_that_is_a_file(monkeypatch, capsys, tmp_path):
  path = tmp_path / 'run'
  path.write_text('')
  status, text = run(monkeypatch, capsys, *TINY, f'--workdir={path}')
  assert status == 4 and '--workdir' in text


@pytest.mark.parametrize('form', [['--workdir=RUN'], ['--workdir', 'RUN']])
def test_saved_config_is_found_in_the_workdir(form, tmp_path):
  claims.claim(tmp_path, tiny.config())
  argv = [
    'main.py',
    '--mode=sample',
    *(f.replace('RUN', str(tmp_path)) for f in form),
  ]
  added = command.with_saved_config(argv)
  assert added[1].endswith(f'saved_config.py:{tmp_path / "config.json"}')
  assert added[2:] == argv[1:]
  given = [*argv, '--config=configs/shapes.py']
  assert command.with_saved_config(given) == given
  saved = identity.from_json((tmp_path / 'config.json').read_text())
  assert saved == tiny.config()


@pytest.mark.parametrize('scale', [(), ('--scale=small',)])
def test_a_table_is_a_config(scale):
  argv = ['main.py', '--table=vdm6', *scale]
  config, workdir, mode, *_ = command.parse(argv)
  assert (mode, config.reproduce.table) == ('table', 'vdm6')
  assert workdir.name == 'vdm6'


def test_help_names_the_modes():
  done = subprocess.run(
    [sys.executable, '-m', 'vdm_jax.main', '--help'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert '<train|sample|' in done.stdout
