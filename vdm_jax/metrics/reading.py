"""Tensors of files of weights, whatever program wrote them.

No file is trusted: nothing in it is executed, imported or extracted, what it
claims is checked before memory is taken, and whatever is wrong with it ends in
one line that says so.
"""

import dataclasses
import hashlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.errors import WeightsError
from vdm_jax.metrics import archives, tensorflow_files, torch_files
from vdm_jax.metrics.archives import Refused, shown

MAX_MSGPACK = 2**32  # bytes of a file that is read as a whole
# What a folder of Hugging Face may hold, the safest first.
FOLDER = ('model.safetensors', 'flax_model.msgpack', 'pytorch_model.bin')
PICKLES = ('.pt', '.pth', '.bin', '.ckpt', '.pkl', '.pickle')
_KINDS = 'fiub'  # of numpy types that weights may have: numbers
_MAPS = {*range(0x81, 0x90), 0xDE, 0xDF}  # first bytes of a msgpack
_OTHERS = (
  (b'\x1f\x8b', 'is compressed by gzip', 'unpack it, and name what is inside'),
  (b'\x89HDF', 'is HDF5, which is not read', 'take another format'),
  (b'version https://git-lfs', 'is a pointer of Git LFS', 'fetch the file'),
  (b'<', 'is a web page', 'fetch the file itself'),
)

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tensors:
  """What is in a file of weights.

  Attributes:
    values: tensors by name, in the order and the types of the file; read-only.
    kind: 'pytorch', 'torchscript', 'npz', 'safetensors', 'msgpack' or
      'tensorflow'.
    sha256: of the file, or of each with commas between.
    source: the name of the file, or of each likewise.
    metadata: texts that a safetensors file carries.
  """

  values: dict[str, np.ndarray]
  kind: str
  sha256: str
  source: str = ''
  metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read(path: str | os.PathLike | Sequence[str | os.PathLike]) -> Tensors:
  """Reads a file of weights, or several that belong together.

  Args:
    path: of a state dict of PyTorch (a zip or an old pickle), a TorchScript, a
      Chainer or NumPy .npz, a .safetensors, a Flax .msgpack, the folder of a
      TensorFlow SavedModel or the name of a TensorFlow checkpoint, or a
      folder of Hugging Face. The tensors of several files are put together.

  Raises:
    WeightsError: a file is missing, of no known kind, damaged, not harmless,
      or claims to be larger than it can be; the message names it.
  """
  if not isinstance(path, str | os.PathLike):
    return _together([read(p) for p in path])
  path = _locate(Path(path))
  try:
    values, kind, metadata, parts = _read(path)
  except Refused as error:
    raise WeightsError(
      f'a file of weights cannot be used ({path}: {error}); {error.advice}'
    ) from error
  except OSError as error:
    raise WeightsError(
      f'a file of weights cannot be read ({path}: '
      f'{error.strerror or type(error).__name__}); make it readable'
    ) from error
  except MemoryError as error:
    raise WeightsError(
      f'a file of weights is larger than the memory ({path}); free some'
    ) from error
  except WeightsError:
    raise
  except Exception as error:
    # Bytes that make no sense may raise anything in the libraries' readers.
    text = shown(' '.join(str(error).split()), 100)
    raise WeightsError(
      f'a file of weights is damaged ({path}: {type(error).__name__}: {text}); '
      'fetch it again from its publisher'
    ) from error
  return Tensors(values, kind, sha256(parts), path.name, metadata)


def sha256(paths: Sequence[Path]) -> str:
  """SHA-256 of a file, or of the contents of several one after another."""
  digest = hashlib.sha256()
  for path in paths:
    with path.open('rb') as file:
      while piece := file.read(2**20):
        digest.update(piece)
  return digest.hexdigest()


def _locate(path: Path) -> Path:
  """The file, or the prefix of a TensorFlow checkpoint, that is meant."""
  if path.is_file():
    is_index = path.suffix == '.index'
    return path.with_suffix('') if is_index else path
  if tensorflow_files.is_checkpoint(path):
    return path
  if path.is_dir():
    found = [path / n for n in FOLDER if (path / n).is_file()]
    found += tensorflow_files.checkpoints(path)
    if found:
      return found[0]
    raise WeightsError(
      f'there are no weights in a folder ({path}); name the file itself'
    )
  if path.exists():
    raise WeightsError(f'weights are not a file ({path}); name a file')
  raise WeightsError(f'a file of weights is missing ({path}); fetch it')


def _read(path: Path) -> tuple[Arrays, str, Mapping[str, str], list[Path]]:
  if tensorflow_files.is_checkpoint(path):
    values, parts = tensorflow_files.read(path)
    return values, 'tensorflow', {}, parts
  with path.open('rb') as file:
    head = file.read(512)
    file.seek(0)
    if _is_safetensors(path, head):
      values, metadata = _safetensors(path)
      return values, 'safetensors', metadata, [path]
    values, kind = _reader(path.suffix.lower(), head)(file)
  return values, kind, {}, [path]


def _is_safetensors(path: Path, head: bytes) -> bool:
  """By its name, or by a length and JSON at its beginning."""
  length = int.from_bytes(head[:8], 'little')
  likely = head[8:9] == b'{' and 8 + length <= path.stat().st_size
  return path.suffix == '.safetensors' or (likely and path.suffix != '.msgpack')


def _reader(
  suffix: str, head: bytes
) -> Callable[[BufferedIOBase], tuple[Arrays, str]]:
  """What reads a file, by its first bytes and the ending of its name."""
  if head[:2] == b'PK' or suffix in ('.npz', '.zip'):
    return _zip
  if not head:
    raise Refused('it is empty')
  for start, what, advice in _OTHERS:
    if head.startswith(start):
      raise Refused(f'it {what}', advice)
  if suffix == '.msgpack' or head[0] in _MAPS:
    return _msgpack
  if head[257:262] == b'ustar':
    raise Refused('it is a tar', 'unpack it, and name what is inside')
  if head[0] == 0x80 or suffix in PICKLES:
    return lambda file: (torch_files.legacy(file), 'pytorch')
  raise Refused('it is of no known kind', 'see the README for those that are')


def _zip(file: BufferedIOBase) -> tuple[Arrays, str]:
  archive = archives.directory(file)
  if torch_files.root(archive) is not None:
    return torch_files.zipped(archive)
  names = archive.namelist()
  others = [n for n in names if not n.endswith('.npy')]
  if others or not names:
    what = shown(others[0]) if others else 'nothing'
    raise Refused(
      f'it is a zip of something else (it holds {what})',
      'name a file of weights',
    )
  return {n.removesuffix('.npy'): _npy(archive, n) for n in names}, 'npz'


def _npy(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  """An array of NumPy's format, of plain numbers only."""
  file = io.BytesIO(archives.content(archive, name))
  shape, fortran, dtype = _header(file, name)
  if dtype.hasobject:
    raise Refused(
      f'its array {shown(name)} holds objects, which only a pickle could read',
      'save it as plain numbers, by code that you trust',
    )
  if dtype.kind not in _KINDS:
    raise Refused(f'its array {shown(name)} is of type {shown(dtype.str)}')
  data = file.read()
  count = math.prod(shape)
  if any(n < 0 for n in shape) or count * dtype.itemsize != len(data):
    raise Refused(
      f'its array {shown(name)} claims the shape {shown(shape)} of '
      f'{dtype}, and has {len(data)} bytes'
    )
  value = np.frombuffer(data, dtype)
  return value.reshape(shape, order='F' if fortran else 'C')


def _header(file: BufferedIOBase, name: str):
  formats = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  try:
    return formats[np.lib.format.read_magic(file)](file)
  except Exception as error:
    # NumPy reads the header as a literal of Python, and raises what that does.
    raise Refused(f'its array {shown(name)} has a damaged header') from error


def _msgpack(file: BufferedIOBase) -> tuple[Arrays, str]:
  """A tree of Flax: its decoder makes arrays, numbers and containers only."""
  size = file.seek(0, 2)
  if size > MAX_MSGPACK:
    raise Refused(f'it has {size / 2**30:.1f} GiB, too many for its format')
  file.seek(0)
  import flax.serialization

  tree = flax.serialization.msgpack_restore(file.read())
  if not isinstance(tree, dict):
    raise Refused('it holds no parameters')
  if list(tree) == ['params'] and isinstance(tree['params'], dict):
    tree = tree['params']
  values: Arrays = {}
  _collect(tree, '', values)
  return values, 'msgpack'


def _collect(tree: dict, prefix: str, values: Arrays):
  # msgpack itself stops at 1024 levels; a network has ten.
  if prefix.count('/') > torch_files.MAX_DEPTH:
    raise Refused('its names are nested without an end')
  for key, value in tree.items():
    name = f'{prefix}{key}'
    if isinstance(value, dict):
      _collect(value, f'{name}/', values)
    elif isinstance(value, np.ndarray | np.generic):
      if name in values:
        raise Refused(f'it names {shown(name)} twice')
      values[name] = _numbers(np.asarray(value), name)


def _safetensors(path: Path) -> tuple[Arrays, Mapping[str, str]]:
  try:
    import safetensors
  except ImportError as error:
    raise _not_installed('safetensors') from error
  values: Arrays = {}
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      for name in file.keys():  # noqa: SIM118 (it is no dict)
        values[name] = _numbers(file.get_tensor(name), name)
      metadata = file.metadata() or {}
  except safetensors.SafetensorError as error:
    raise Refused(
      f'it is no intact safetensors file, {shown(str(error), 120)}'
    ) from error
  return values, metadata


def _numbers(value: np.ndarray, name: str) -> np.ndarray:
  """The array, if it is of plain numbers or bfloat16."""
  if value.dtype.kind not in _KINDS and value.dtype.name != 'bfloat16':
    raise Refused(f'its tensor {shown(name)} is of type {value.dtype}')
  return value


def _not_installed(package: str) -> WeightsError:
  return WeightsError(
    f'a file of weights needs a package that is not installed ({package}); '
    f'run pip install {package}'
  )


def _together(files: list[Tensors]) -> Tensors:
  """The tensors of several files, whose names must differ."""
  if not files:
    raise WeightsError('no file of weights is named; name one')
  values: dict[str, Any] = {}
  for file in files:
    twice = values.keys() & file.values.keys()
    if twice:
      raise WeightsError(
        f'two files of weights name the same tensor ({file.source}: '
        f'{shown(min(twice))}); name files that belong together'
      )
    values |= file.values
  return Tensors(
    values,
    ','.join(dict.fromkeys(f.kind for f in files)),
    ','.join(f.sha256 for f in files),
    ','.join(f.source for f in files),
    files[0].metadata if len(files) == 1 else {},
  )
