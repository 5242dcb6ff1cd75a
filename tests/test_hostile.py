"""Files that mean harm, through every command that takes files of others.

Nothing in them is executed, nothing is written outside, no memory is taken for
what they claim, and the file is named. Beside each stands what it does to a
reader that trusts it.
"""

import io
import json
import pickle
import resource
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from tests.command_line import FOLDER, ROOT, TINY, check_line, contents, run
from tests.metrics import hostile
from tests.text import tiny_encoder

BIG = 64 * 2**20  # bytes in a bomb of a few thousand
MEMORY = 300 * 2**20  # that all commands together may take


def tar(members: list[tuple[str, str | bytes]]) -> bytes:
  """An archive of files (bytes) and symbolic links (text: where they lead)."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    for name, content in members:
      member = tarfile.TarInfo(name)
      if isinstance(content, str):
        member.type, member.linkname = tarfile.SYMTYPE, content
        archive.addfile(member)
      else:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
  return file.getvalue()


def tensors(header) -> bytes:
  return hostile.safetensors(header, bytes(16))


def entry(begin, end):
  return {'dtype': 'F32', 'shape': [4], 'data_offsets': [begin, end]}


# What they are made of, given the folder that must stay empty.
FILES = {
  'pickle': lambda out: pickle.dumps(hostile.Payload(out / 'canary')),
  'objects.npz': lambda out: hostile.object_npz(out / 'canary'),
  'dots.tar': lambda out: tar([('../outside/canary', b'!')]),
  'link.tar': lambda out: tar([('a', str(out)), ('a/canary', b'!')]),
  'bomb.zip': lambda out: hostile.zipped(
    {'a.npy': bytes(BIG)}, zipfile.ZIP_DEFLATED
  ),
  'bomb.npy': lambda out: hostile.npy((2**40,), bytes(16)),
  'length.safetensors': lambda out: struct.pack('<Q', 2**60) + bytes(99),
  'beyond.safetensors': lambda out: tensors({'w': entry(2**40, 2**40 + 16)}),
  'twice.safetensors': lambda out: tensors(
    {'v': entry(0, 16), 'w': entry(0, 16)}
  ),
}


@pytest.fixture
def outside(tmp_path):
  """A folder in which nothing may appear."""
  folder = tmp_path / 'outside'
  folder.mkdir()
  return folder


# What they do to a reader that trusts them.


def extract(data, inside):
  inside.mkdir()
  with tarfile.open(fileobj=io.BytesIO(data)) as archive:
    archive.extractall(inside, filter='fully_trusted')


def trusting(data: bytes) -> dict[str, np.ndarray]:
  """Tensors of a safetensors file, as its header says and no further look."""
  (length,) = struct.unpack_from('<Q', data)
  header = json.loads(bytes(bytearray(length)) and data[8 : 8 + length])
  return {
    name: np.frombuffer(
      data[8 + length :][slice(*about['data_offsets'])], np.float32
    )
    for name, about in header.items()
  }


def test_the_files_are_dangerous(outside, tmp_path):
  made = {name: make(outside) for name, make in FILES.items()}
  canary = outside / 'canary'
  pickle.loads(made['pickle'])
  assert canary.is_dir()
  canary.rmdir()
  dict(np.load(io.BytesIO(made['objects.npz']), allow_pickle=True))
  assert canary.is_dir()
  canary.rmdir()
  for name in ('dots.tar', 'link.tar'):
    extract(made[name], tmp_path / name)
    assert canary.read_bytes() == b'!'
    canary.unlink()
  with zipfile.ZipFile(io.BytesIO(made['bomb.zip'])) as archive:
    assert len(archive.read('a.npy')) > 900 * len(made['bomb.zip'])
  with pytest.raises(MemoryError):
    np.lib.format.read_array(io.BytesIO(made['bomb.npy']))
  with pytest.raises((MemoryError, OverflowError)):
    trusting(made['length.safetensors'])
  assert trusting(made['beyond.safetensors'])['w'].size == 0  # no error, no 4
  assert len(trusting(made['twice.safetensors'])) == 2  # of the same bytes


# The commands, and where they find the file.


def convert(data, place):
  (place / 'file').write_bytes(data)
  return ('--mode=convert', f'--weights={place / "file"}', '--network=i3d')


def text_encoder(data, place):
  tiny_encoder.write(place / 'encoder')
  (place / 'encoder' / 'model.safetensors').write_bytes(data)
  options = (f'encoder={place}/encoder', f'cache={place}/cache', 'max_length=8')
  return (*TINY, '--mode=embed', *(f'--config.text.{o}' for o in options))


def pickled_encoder(data, place):
  tiny_encoder.write(place / 'encoder')
  (place / 'encoder' / 'model.safetensors').unlink()
  (place / 'encoder' / 'pytorch_model.bin').write_bytes(data)
  options = (f'encoder={place}/encoder', f'cache={place}/cache', 'max_length=8')
  return (*TINY, '--mode=embed', *(f'--config.text.{o}' for o in options))


def feature_weights(data, place):
  (place / 'file.safetensors').write_bytes(data)
  (place / 'videos').mkdir()
  np.save(place / 'videos' / 'a.npy', np.zeros((4, 6, 16, 16, 3), np.uint8))
  options = ('protocol=shapes', 'measures=shapes_fd,')
  options += (f'weights.shapes={place}/file.safetensors',)
  options += (f'videos={place}/videos',)
  return (
    *TINY,
    '--mode=evaluate',
    *(f'--config.evaluate.{o}' for o in options),
  )


def arrays(data, place):
  (place / 'videos').mkdir()
  (place / 'videos' / 'a.npy').write_bytes(data)
  options = ('protocol=shapes', 'measures=judge,', f'videos={place}/videos')
  return (
    *TINY,
    '--mode=evaluate',
    *(f'--config.evaluate.{o}' for o in options),
  )


def videos(data, place):
  (place / 'videos').mkdir()
  (place / 'videos' / 'a.mp4').write_bytes(data)
  return (*FOLDER, f'--config.data.path={place}/videos')


def pictures(data, place):
  (place / 'images').mkdir()
  (place / 'images' / 'a.png').write_bytes(data)
  options = ('images=2', f'image_path={place}/images')
  return (*TINY, *(f'--config.data.{o}' for o in options))


def embeddings(data, place):
  (place / 'cache').mkdir()
  about = {'format': 1, 'encoder': 'a', 'max_length': 64, 'dim': 8}
  (place / 'cache' / 'cache.json').write_text(json.dumps(about))
  (place / 'cache' / 'a.index.npz').write_bytes(data)
  (place / 'cache' / 'a.npy').write_bytes(data)
  options = ('kind=embeddings', f'cache={place}/cache')
  return (*TINY, *(f'--config.text.{o}' for o in options))


WEIGHTS = (convert, text_encoder, pickled_encoder, feature_weights)
DATA = (arrays, videos, pictures, embeddings)


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path, outside):
  """Runs a command on a hostile file, and sees that it is refused."""

  def call(name, command, status, mend):
    place = tmp_path / 'place'
    place.mkdir()
    argv = command(FILES[name](outside), place)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    before = contents(place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workdir = () if command is convert else (f'--workdir={tmp_path / "run"}',)
    said = run(monkeypatch, capsys, [*argv, *workdir])
    check_line(said, status, mend)
    assert f'{place}/' in said.err
    assert contents(place) == before
    assert not list(outside.iterdir()) and not (tmp_path / 'run').exists()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert 1024 * grown < MEMORY

  return call


@pytest.mark.parametrize('command', WEIGHTS)
@pytest.mark.parametrize('name', FILES)
def test_hostile_weights(name, command, refused):
  refused(name, command, 6, '/place/')


@pytest.mark.parametrize('command', DATA)
@pytest.mark.parametrize('name', FILES)
def test_hostile_data(name, command, refused):
  # Files of embeddings are left out with a warning, and then there are none.
  refused(
    name, command, 3, 'text.cache' if command is embeddings else '/place/'
  )


def test_an_archive_of_data_stays_inside(outside, tmp_path):
  """BAIR comes as a tar, which is unpacked."""
  bair = pytest.importorskip('vdm_jax.data.bair')
  from vdm_jax.errors import DataError

  for name in ('dots.tar', 'link.tar'):
    place = tmp_path / name
    place.mkdir()
    (place / bair.ARCHIVE).write_bytes(FILES[name](outside))
    with (
      pytest.raises(DataError, match='cannot be unpacked'),
      bair._unpack(place, tmp_path / 'root'),
    ):
      pass
    assert not list(outside.iterdir())
    assert not list((tmp_path / 'root').iterdir())
