"""The 64 mistakes: a status and a line each, at once, and nothing is lost.

Rows are numbered as in the list of mistakes; several tests may share a row.
Most run in this process. What must start processes, or damages what a run has
written, has a file of its own, which `ELSEWHERE` names.
"""

import ast
import itertools
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import damage, quick
from tests.command_line import (
  FOLDER,
  ROOT,
  TINY,
  Started,
  check_line,
  contents,
  run,
)
from tests.text import tiny_encoder
from vdm_jax import command as command_lib
from vdm_jax import lock, main, sharding

DISTRIBUTED = 'tests/test_distributed.py::test_'
ROWS = range(1, 65)
ELSEWHERE = {
  22: DISTRIBUTED + 'a_process_that_never_comes_is_not_waited_for',
  23: DISTRIBUTED + 'flags_that_do_not_fit_are_refused',
  25: DISTRIBUTED + 'other_settings_are_refused',
  54: 'tests/test_damage.py::test_no_bit_is_silently_wrong',
  64: 'tests/test_hostile.py::test_hostile_weights',
}


@pytest.fixture
def workdir(tmp_path):
  """A folder of something dear."""
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'notes.txt').write_text('do not lose me')
  return folder


@pytest.fixture
def command(monkeypatch, capsys, workdir):
  """Runs a command that must end before it compiles or writes anything."""

  def compiled(*_):
    raise AssertionError('it would have been compiled')

  def claimed(*_):
    raise Started('nothing is wrong; so begin')

  monkeypatch.setattr('vdm_jax.train.compile_step', compiled)
  monkeypatch.setattr('vdm_jax.claims.claim', claimed)
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('XDG_CACHE_HOME', str(workdir.parent / 'cache'))

  def call(*argv, own_workdir=False):
    before = contents(workdir)
    given = [] if own_workdir else [f'--workdir={workdir}']
    said = run(monkeypatch, capsys, [*argv, *given])
    if said.status != Started.status:
      assert contents(workdir) == before
    return said

  return call


def test_the_control_starts(command):
  assert command(*TINY).status == Started.status


# 1 to 25: the command, the config, the mesh. {0} is a config file.

HEAD = 'from vdm_jax import config\ndef get_config():\n  c = config.default()\n'
REQUIRED = 'config_dict.required_placeholder(int)'
FILES = {
  'empty': '',
  'syntax': 'def get_config(:\n  pass\n',
  'none': HEAD + '  return None\n',
  'name': HEAD + '  return d\n',
  'raises': HEAD + '  raise ValueError("a\\nb")\n',
  'type': HEAD + '  c.train.steps = "many"\n  return c\n',
  'setting': HEAD + '  c.train.stepz = 5\n  return c\n',
  'section': HEAD + '  c.trian.steps = 5\n  return c\n',
  'bare': 'import ml_collections\n'
  'def get_config():\n  return ml_collections.ConfigDict({"name": "x"})\n',
  'unset': 'from ml_collections import config_dict\n'
  + HEAD
  + '  c.data.size = config_dict.placeholder(int)\n  return c\n',
  'required': 'from ml_collections import config_dict\n'
  + HEAD
  + f'  c.data.size = {REQUIRED}\n  return c\n',
}


def override(name, value):
  return (*TINY, f'--config.{name}={value}')


def mistakes():
  """(row, what, arguments, what the line must say), all of status 2."""
  yield 1, 'no config', (), '--config=configs/shapes.py'
  yield 2, 'missing', ('--config=configs/nonesuch.py',), 'nonesuch.py'
  yield 2, 'a folder', ('--config=configs',), 'configs'
  yield 2, 'a URL', ('--config=https://x.org/a.py',), 'https://x.org/a.py'
  yield 2, 'empty', ('--config=',), 'configs/shapes.py'
  yield 3, 'syntax', ('syntax',), 'syntax.py:1'
  yield 4, 'no get_config', ('empty',), 'get_config'
  yield 4, 'returns none', ('none',), 'get_config'
  yield 4, 'fails', ('name',), "name.py:4: NameError: name 'd'"
  yield 4, 'raises', ('raises',), 'raises.py:4: ValueError: a b'
  yield 4, 'a wrong type', ('type',), 'type.py:4: TypeError'
  yield 4, 'another config', ('bare',), 'config.'
  yield 5, 'misspelt override', override('optim.learning_rat', 1), 'ing_rate?'
  yield 5, 'misspelt in the file', ('setting',), 'did you mean config.train.st'
  yield 5, 'section in the file', ('section',), 'section.py:4: '
  yield 6, 'unknown flag', (*TINY, '--confg.lr=1'), 'confg.lr'
  yield 6, 'flag file', (*TINY, '--flagfile=a'), '--flagfile'
  yield 6, 'excused flag', (*TINY, '--undefok=a', '--a=1'), '--undefok'
  yield 6, 'mode', (*TINY, '--mode=smaple'), 'sample'
  yield 7, 'stray', (*TINY, 'configs/folder.py'), 'configs/folder.py'
  yield 8, 'word for a number', override('optim.learning_rate', 'abc'), '0.0003'
  yield 9, 'fraction of a batch', override('train.batch_size', 8.5), '8.5'
  for value in ('nan', 'inf', '-1'):
    yield 10, value, override('optim.learning_rate', value), 'above 0'
  for name in ('train.batch_size', 'data.frames', 'train.steps', 'data.size'):
    for value in (0, -1):
      yield 11, f'{name} {value}', override(name, value), f'config.{name}'
  for value in ("('x',)", '2.5', '()', '(1, 0)', '(True,)'):
    yield 12, value, override('model.multipliers', value), 'whole numbers'
  efficient = (*TINY, '--config.model.kind=efficient')
  wrong = (*efficient, '--config.model.level_blocks=(1, 1, 1)')
  yield 12, 'wrong length', wrong, 'blocks'
  wrong = override('diffusion.interval', '(0.5,)')
  yield 12, 'one number', wrong, 'two growing numbers'
  for name, near in {
    'data.source': 'folder',
    'sample.sampler': 'ancestral',
    'diffusion.schedule': 'cosine',
    'diffusion.prediction': 'eps',
    'diffusion.weight': 'eps',
    'diffusion.prior': 'mixed',
    'model.kind': 'efficient',
    'model.dtype': 'bfloat16',
    'model.remat': 'block',
    'model.resample': 'residual',
    'model.image_mode': 'bypass',
    'text.kind': 'words',
    'data.resize': 'squash',
    'refine.kind': 'upsample',
    'sample.grid': 'karras',
    'mesh.platform': 'tpu',
  }.items():
    yield 13, name, override(name, 'nonesuch'), near
  for size, legal in ((15, '14'), (17, '18')):
    yield 14, str(size), override('data.size', size), legal
  for size, legal in ((60, '64'), (63, '64')):
    wrong = (*override('data.size', size), '--config.model.multipliers=1,2,2,4')
    wrong += ('--config.model.attention_resolutions=8,',)
    yield 14, str(size), wrong, legal
  yield 15, 'groups', override('model.groups', 3), 'groups'
  yield 15, 'heads', override('model.head_dim', 5), 'head_dim'
  yield 16, 'nested', override('model.nope.x', 1), 'config.model.nope'
  yield 16, 'below a value', override('data.frames.x', 1), 'config.data.frames'
  yield 17, 'unset', ('unset',), '--config.data.size='
  yield 17, 'required', ('required',), 'required.py'
  yield 18, 'too few', override('mesh.fsdp', 3), '4×2'
  yield (
    18,
    'too many',
    (*override('mesh.data', 4), '--config.mesh.fsdp=4'),
    '2×4',
  )
  for value in (0, -2):
    yield 19, f'data {value}', override('mesh.data', value), '8×1'
  yield 19, 'both free', override('mesh.fsdp', -1), '1×8'
  yield 19, 'space 0', override('mesh.space', 0), 'mesh.space'
  yield 20, 'batch', override('train.batch_size', 12), '16'
  yield 21, 'accumulation', override('train.accumulate', 3), '24'
  yield (
    22,
    'port',
    (*TINY, '--coordinator=a', '--processes=2', '--process=0'),
    'host:port',
  )
  yield (
    23,
    'number',
    (*TINY, '--coordinator=a:1', '--processes=2', '--process=2'),
    'number them from 0',
  )
  yield 23, 'not all', (*TINY, '--processes=2'), 'give all three'
  yield 24, 'tpu', override('mesh.platform', 'tpu'), "set it to ''"
  yield 24, 'gpu', override('mesh.platform', 'gpu'), 'cuda'


MISTAKES = list(mistakes())


@pytest.mark.parametrize(
  'row, what, argv, mend', MISTAKES, ids=[f'{r}-{w}' for r, w, *_ in MISTAKES]
)
def test_command_and_config(row, what, argv, mend, command, tmp_path):
  if argv and argv[0] in FILES:
    path = tmp_path / f'{argv[0]}.py'
    path.write_text(FILES[argv[0]])
    argv = (f'--config={path}', *TINY[1:])
  check_line(command(*argv, own_workdir=row == 1), 2, mend)


def test_24_an_accelerator_that_is_not_there(tmp_path):
  """In a process of its own: here JAX has its devices already."""
  argv = [*TINY, f'--workdir={tmp_path / "run"}']
  done = real(argv, {'JAX_PLATFORMS': 'cuda'})
  assert done.returncode == 2, done.stderr
  assert 'JAX_PLATFORMS=cuda' in line_of(done)
  assert 'Traceback' not in done.stderr and not (tmp_path / 'run').exists()


# In processes of their own, from the first import on.

REAL = {
  'config missing': (('--config=configs/nonesuch.py',), 2),
  'mesh': ((*TINY[:1], '--config.mesh.fsdp=7'), 2),
  'no folder': ((*FOLDER[:1], '--config.data.path=nonesuch'), 3),
  'no weights': (('--mode=convert', '--weights=a.pt', '--network=i3d'), 6),
}


def real(argv, env=None):
  """The program in a process of its own.

  It may use ten seconds of the processor: other tests run beside it.
  """
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  done = subprocess.run(
    [sys.executable, '-m', 'vdm_jax.main', *map(str, argv)],
    capture_output=True,
    text=True,
    timeout=100,
    cwd=ROOT,
    env=os.environ | (env or {}),
  )
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  assert used < 10, f'{used:.1f} s'
  return done


def line_of(done) -> str:
  return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize('name', REAL)
def test_a_process_ends_in_ten_seconds(name, tmp_path):
  argv, status = REAL[name]
  place = () if '--mode=convert' in argv else (f'--workdir={tmp_path / "run"}',)
  done = real([*argv, *place])
  assert done.returncode == status, done.stderr
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  assert line_of(done).startswith('vdm_jax: error: ')
  assert len(line_of(done)) <= 300
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize('row, what, argv, mend', MISTAKES)
def test_every_process_ends_in_ten_seconds(row, what, argv, mend, tmp_path):
  if argv and argv[0] in FILES:
    path = tmp_path / f'{argv[0]}.py'
    path.write_text(FILES[argv[0]])
    argv = (f'--config={path}', *TINY[1:])
  argv = [*argv, '--config.mesh.cpu_devices=8'] if row >= 18 else argv
  done = real([*argv, *([f'--workdir={tmp_path / "run"}'] if row > 1 else [])])
  assert done.returncode == 2, done.stderr
  assert mend in line_of(done)
  assert not (tmp_path / 'run').exists()


def test_debug_shows_where_and_keeps_the_status(command):
  said = command(*TINY, '--config.train.steps=0', '--debug')
  assert said.status == 2 and 'Traceback' in said.err
  assert 'validation.py' in said.err


# 26 to 45: data, as a run finds them when it starts.


@pytest.fixture
def videos(tmp_path):
  """A folder with one good video."""
  damage.video(tmp_path / 'videos' / 'good.mp4', 20)
  return tmp_path / 'videos'


def on(folder, *options):
  return (*FOLDER, f'--config.data.path={folder}', *options)


def test_26_no_folder(command, tmp_path):
  check_line(command(*on(tmp_path / 'nonesuch')), 3, 'name a folder')
  (tmp_path / 'file').touch()
  check_line(command(*on(tmp_path / 'file')), 3, 'not a folder')


def test_27_no_permission(command, videos, monkeypatch):
  scandir = os.scandir

  def barred(path):
    if pathlib.Path(path) == videos:
      raise PermissionError(13, 'Permission denied', str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', barred)
  check_line(command(*on(videos)), 3, 'permissions')


def test_28_an_empty_folder(command, tmp_path):
  (tmp_path / 'videos').mkdir()
  check_line(command(*on(tmp_path / 'videos')), 3, '.mp4')


BROKEN = {
  '29-zero length': damage.empty,
  '30-text': damage.text,
  '30-random bytes': damage.noise,
  '31-truncated': damage.cut,
  '32-overwritten': damage.overwritten,
  '33-audio only': damage.audio,
  '35-short': damage.short,
}


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_video_is_skipped_and_named(name, command, videos):
  BROKEN[name](videos / 'bad.mp4')
  said = command(*on(videos))
  assert said.status == Started.status, said.err
  assert '1 videos or clips' in said.out
  assert 'not used: bad.mp4: ' in said.out


@pytest.mark.parametrize('name', BROKEN)
def test_nothing_but_broken_videos(name, command, tmp_path):
  (tmp_path / 'videos').mkdir()
  BROKEN[name](tmp_path / 'videos' / 'bad.mp4')
  check_line(command(*on(tmp_path / 'videos')), 3, 'bad.mp4')


def test_34_a_folder_called_like_a_video(command, videos):
  (videos / 'folder.mp4').mkdir()
  assert command(*on(videos)).status == Started.status


GOOD = {
  '36-odd': {'height': 18, 'width': 34},
  '37-gray': {'pix_fmt': 'gray'},
  '37-deep': {'pix_fmt': 'yuv420p10le'},
  '38-irregular': {'stamps': [*range(10), *range(30, 50, 2)]},
}


@pytest.mark.parametrize('name', GOOD)
def test_an_unusual_video_is_used(name, command, tmp_path):
  damage.video(tmp_path / 'videos' / 'a.mp4', 20, **GOOD[name])
  said = command(*on(tmp_path / 'videos'))
  assert said.status == Started.status, said.err
  assert '1 videos or clips' in said.out and 'not used' not in said.out


ARRAYS = {
  '39-not finite': np.full((1, 8, 16, 16, 3), np.nan, np.float32),
  '40-floats to 255': np.full((1, 8, 16, 16, 3), 200.0, np.float32),
  '41-no time': np.zeros((16, 16, 3), np.uint8),
}


@pytest.mark.parametrize('name', ARRAYS)
def test_arrays_that_are_no_videos(name, command, tmp_path):
  (tmp_path / 'arrays').mkdir()
  np.save(tmp_path / 'arrays' / 'a.npy', ARRAYS[name])
  said = command(*evaluation(tmp_path / 'arrays'))
  check_line(said, 3, 'write uint8')


def evaluation(folder, measure='judge'):
  options = ('protocol=shapes', f'measures={measure},', f'videos={folder}')
  options = [f'--config.evaluate.{option}' for option in options]
  return (*TINY, '--mode=evaluate', *options)


def test_42_fewer_clips_than_a_batch(command, tmp_path):
  damage.video(tmp_path / 'videos' / 'a.mp4', 10)  # 7 clips of 4 frames
  data = on(tmp_path / 'videos', '--config.data.stride=1')
  check_line(command(*data), 3, '7 of 8')
  assert command(*data, '--config.data.repeat=True').status == Started.status
  damage.video(tmp_path / 'videos' / 'b.mp4', 4)  # one more
  assert command(*data).status == Started.status


CAPTIONS = {
  'missing': (None, 'have no captions'),
  'empty': (b'', 'is empty'),
  'not UTF-8': (b'caf\xe9', 'UTF-8'),
}


@pytest.mark.parametrize('name', CAPTIONS)
def test_43_captions(name, command, videos):
  content, mend = CAPTIONS[name]
  if content is not None:
    (videos / 'good.txt').write_bytes(content)
  said = command(*on(videos, '--config.text.kind=words'))
  check_line(said, 3, mend)


def test_43_a_caption_too_long_is_cut_and_counted(command, videos):
  (videos / 'good.txt').write_text('word ' * 9999)
  said = command(*on(videos, '--config.text.kind=words'))
  assert said.status == Started.status, said.err
  assert '1 captions have more than 64 words and are cut' in said.out


def test_44_a_frame_too_large(command, videos, monkeypatch):
  monkeypatch.setattr('vdm_jax.media.reading.MAX_PIXELS', 1000)
  check_line(command(*on(videos)), 3, 'good.mp4')


@pytest.mark.parametrize(
  'name', ['../good.mp4', '/etc/passwd', 'a/../../b.mp4']
)
def test_45_a_list_that_leads_outside(name, command, videos, tmp_path):
  listed = tmp_path / 'captions.csv'
  listed.write_text(f'video,caption\ngood.mp4,a\n{name},b\n')
  options = (f'--config.text.captions={listed}', '--config.text.kind=words')
  check_line(command(*on(videos, *options)), 3, 'below it')
  listed.write_text('video,caption\ngood.mp4,a\na/../good.mp4,b\n')
  assert command(*on(videos, *options)).status == Started.status


# 46 to 62: workdirs and checkpoints.


def on_one_device(patch):
  """Programs for one compile sooner."""
  of_config = sharding.of_config
  patch.setattr(
    'vdm_jax.sharding.of_config',
    lambda config, devices=None: of_config(config, jax.devices()[:1]),
  )


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run of two steps, with a checkpoint of each, and its videos."""
  folder = tmp_path_factory.mktemp('finished')
  damage.video(folder / 'videos' / 'a.mp4', 20)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('vdm_jax.train.compile_step', quick.no_step)
    on_one_device(patch)
    patch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
    patch.chdir(ROOT)
    argv = ['main.py', *on(folder / 'videos'), f'--workdir={folder / "run"}']
    argv += ['--config.train.steps=2', '--config.train.checkpoint_every=1']
    argv += ['--config.sample.count=0', '--config.train.log_every=1']
    assert main.main(argv) == 0
  return folder


@pytest.fixture
def resume(finished, workdir, monkeypatch, capsys):
  """Continues a copy of that run for a step; `workdir` is the copy."""
  shutil.rmtree(workdir)
  shutil.copytree(finished / 'run', workdir)
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('XDG_CACHE_HOME', str(finished / 'cache'))
  monkeypatch.setattr('vdm_jax.train.compile_step', quick.no_step)
  on_one_device(monkeypatch)

  def call(*argv, compiles=True):
    step = quick.no_step if compiles else None
    monkeypatch.setattr('vdm_jax.train.compile_step', step)
    before = contents(workdir)
    given = [f'--workdir={workdir}', '--config.train.steps=3']
    said = run(monkeypatch, capsys, [*given, *argv])
    if said.status:
      assert contents(workdir) == before
    return said

  return call


def test_the_control_continues(resume):
  said = resume()
  assert said.status == 0 and 'continuing from step 2' in said.out


OTHER = {
  '46-width': 'model.channels=16',
  '47-levels': 'model.multipliers=(1, 1)',
  '48-optimizer': 'optim.clip=0.5',
  '50-type': 'model.dtype=bfloat16',
  '61-seed': 'seed=1',
  '61-batch': 'train.batch_size=16',
  '62-another experiment': 'diffusion.prior=mixed',
}


@pytest.mark.parametrize('name', OTHER)
def test_a_workdir_of_another_config(name, resume):
  option = f'--config.{OTHER[name]}'
  alpha = ('--config.diffusion.prior_alpha=1',) if 'prior' in option else ()
  said = resume(option, *alpha, compiles=False)
  check_line(said, 4, OTHER[name].partition('=')[0])
  assert 'another --workdir' in said.line


def item(workdir, step, name):
  return workdir / 'checkpoints' / str(step) / name


def largest(folder):
  files = [p for p in folder.rglob('*') if p.is_file() and p.parent.name == 'd']
  return max(files, key=lambda p: p.stat().st_size)


DAMAGED = {
  '49-no average': lambda w: shutil.rmtree(item(w, 2, 'ema')),
  '52-metadata': lambda w: os.truncate(item(w, 2, 'ema') / '_METADATA', 9),
  '53-truncated': lambda w: os.truncate(largest(item(w, 2, 'ema')), 100),
  '53-zeroed': lambda w: largest(item(w, 2, 'ema')).write_bytes(bytes(9999)),
  '55-empty step': lambda w: (w / 'checkpoints' / '9').mkdir(),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_checkpoint(name, resume, workdir):
  """Of all kinds of damage, see test_damage.py; here, of what is said."""
  DAMAGED[name](workdir)
  if name in ('52-metadata', '53-truncated'):
    strict = resume('--config.train.strict_resume=True')
    check_line(strict, 4, 'strict_resume')
    return
  said = resume()
  assert said.status == 0, said.err
  good = 2 if name == '55-empty step' else 1
  assert f'continuing from step {good}' in said.out
  warnings = [at for at in said.err.splitlines() if 'warning' in at]
  assert warnings and all(len(at) <= 300 for at in warnings)


def test_51_a_step_that_is_not_there(resume):
  said = resume('--mode=sample', '--config.sample.step=7')
  check_line(said, 4, '1, 2')


def test_56_a_workdir_that_is_a_file(command, tmp_path):
  (tmp_path / 'file').write_text('dear')
  said = command(*TINY, f'--workdir={tmp_path / "file"}', own_workdir=True)
  if said.status != Started.status:
    check_line(said, 4, '--workdir')
  assert (tmp_path / 'file').read_text() == 'dear'


def test_57_a_relative_path_is_made_absolute(monkeypatch, tmp_path):
  monkeypatch.chdir(ROOT)
  found = command_lib.parse(['main.py', *TINY, '--workdir=a/b'])
  assert found.workdir == ROOT / 'a/b'


@pytest.mark.parametrize('place', ['/proc/none', '/sys/kernel/none'])
def test_58_a_workdir_that_cannot_be_written(place, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  said = run(monkeypatch, capsys, [*TINY, f'--workdir={place}'])
  check_line(said, 4, 'permissions')


def test_59_a_disk_too_small(resume, monkeypatch):
  usage = shutil.disk_usage('/')._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  check_line(resume('--config.train.keep=999', compiles=False), 4, 'make room')


def test_60_a_second_writer(resume, workdir):
  with lock.hold(workdir):
    said = resume(compiles=False)
  check_line(said, 4, f'process {os.getpid()}')


def test_61_other_data(resume, finished):
  extra = damage.video(finished / 'videos' / 'b.mp4', 20)
  try:
    check_line(resume(compiles=False), 4, 'allow_data_change')
    said = resume('--config.train.allow_data_change=True')
  finally:
    extra.unlink()
  assert said.status == 0, said.err


# 63: weights of others; 64 is test_hostile.py.


def embedding(folder):
  options = (f'--config.text.encoder={folder}', '--config.text.max_length=8')
  return (*TINY, '--mode=embed', *options)


def forged(change):
  def write(folder):
    tiny_encoder.write(folder)
    path = folder / 'model.safetensors'
    path.write_bytes(change(path.read_bytes()))

  return write


ENCODERS = {
  'no folder': (lambda folder: None, 'no such folder'),
  'no weights': (lambda folder: folder.mkdir(), ''),
  'truncated': (forged(lambda data: data[:-100]), 'model.safetensors'),
  'a lying header': (
    forged(lambda d: b'\xff' * 7 + d[7:]),
    'model.safetensors',
  ),
}


@pytest.mark.parametrize('name', ENCODERS)
def test_63_a_text_encoder(name, command, tmp_path):
  make, mend = ENCODERS[name]
  make(tmp_path / 'encoder')
  cache = f'--config.text.cache={tmp_path / "embeddings"}'
  said = command(*embedding(tmp_path / 'encoder'), cache)
  check_line(said, 6, mend)
  assert str(tmp_path / 'encoder') in said.line
  assert not (tmp_path / 'embeddings').exists()


def test_63_weights_of_a_metric(command, tmp_path):
  weights = f'--config.evaluate.weights.shapes={tmp_path / "a.safetensors"}'
  np.save(tmp_path / 'a.npy', np.zeros((4, 6, 16, 16, 3), np.uint8))
  check_line(command(*evaluation(tmp_path, 'shapes_fd'), weights), 6, 'a.safe')


# Each row is here, or where `ELSEWHERE` says.


def test_every_row_has_a_test(request):
  names = [i.name for i in request.session.items if i.path == request.path]
  numbers = [re.findall(r'[\[_](\d+)[-_\]]', name) for name in names]
  found = {int(n) for n in itertools.chain(*numbers)}
  for row, place in ELSEWHERE.items():
    path, _, test = place.partition('::')
    tree = ast.parse((ROOT / path).read_text())
    assert test in {getattr(node, 'name', None) for node in ast.walk(tree)}
    found.add(row)
  assert found >= set(ROWS), set(ROWS) - found
