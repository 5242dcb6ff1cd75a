"""Tensors of PyTorch's files, without PyTorch and without running anything.

Three kinds: the zip of `torch.save`, the pickles of before PyTorch 1.6, and
the archives of TorchScript, whose programs (`code/`) are not looked at.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import Any

import numpy as np

from vdm_jax.metrics import archives, pickles
from vdm_jax.metrics.archives import Refused, shown
from vdm_jax.metrics.pickles import Storage, View

MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE = 2**26  # bytes; names and shapes of 100 000 tensors take 20 MB
MAX_TENSORS = 100_000
MAX_NODES = 1_000_000
MAX_DEPTH = 64
MAX_NAME = 500
# Under which training programs keep a state dict beside other things.
WRAPPERS = ('state_dict', 'model_state_dict', 'model_state', 'model', 'net')
CONSTANTS = 'constants'

Arrays = dict[str, np.ndarray]


def root(archive: zipfile.ZipFile) -> str | None:
  """The folder in a zip that holds the pickle of PyTorch; None if none does."""
  names = [n.split('/') for n in archive.namelist()]
  found = [n[0] for n in names if len(n) == 2 and n[1] == 'data.pkl']
  if len(found) > 1:
    raise Refused('it holds several state dicts')
  return found[0] if found else None


def zipped(archive: zipfile.ZipFile) -> tuple[Arrays, str]:
  """Tensors of a zip by `torch.save` or `torch.jit.save`.

  Args:
    archive: as `archives.directory` returns it, with a `root`.

  Returns:
    The tensors by their dotted names, views of read-only memory; and
    'pytorch' or 'torchscript'. What a frozen TorchScript has instead of
    attributes is named 'constants.0', 'constants.1', …

  Raises:
    Refused: for whatever is wrong with the file.
  """
  folder, names = root(archive), set(archive.namelist())
  script = f'{folder}/constants.pkl' in names
  script = script or any(n.startswith(f'{folder}/code/') for n in names)
  order = _byte_order(archive, f'{folder}/byteorder')
  tree = _pickled(archive, f'{folder}/data.pkl')
  if not script:
    tree = _state_dict(tree)
  values = _resolve(_flatten(tree), _members(archive, f'{folder}/data', order))
  if script and f'{folder}/constants.pkl' in names:
    constants = _pickled(archive, f'{folder}/constants.pkl')
    if not isinstance(constants, tuple | list):
      raise Refused('its constants are damaged')
    load = _members(archive, f'{folder}/constants', order)
    views = _flatten({CONSTANTS: list(constants)})
    if values.keys() & views.keys():
      raise Refused(f'it names {shown(min(views))} twice')
    values |= _resolve(views, load)
  return values, 'torchscript' if script else 'pytorch'


def legacy(file: BufferedIOBase) -> Arrays:
  """Tensors of a file by `torch.save` before PyTorch 1.6.

  Five pickles (a magic number, the version, the machine's kinds of numbers,
  the tensors, the names of the storages), then the storages.

  Raises:
    Refused: for whatever is wrong with the file.
  """
  size = file.seek(0, 2)
  file.seek(0)
  first = pickles.evaluate(file)
  if first != MAGIC:
    raise Refused(
      'it is a pickle of unknown content, not a state dict',
      pickles.STATE_DICT,
    )
  version, machine = pickles.evaluate(file), pickles.evaluate(file)
  if version != 1001:
    raise Refused(f'it is of the unknown version {shown(version)}')
  if not isinstance(machine, dict) or machine.get('little_endian') is not True:
    raise Refused('it is not in little-endian order', pickles.STATE_DICT)
  tree = pickles.evaluate(file)
  views = _flatten(_state_dict(tree))
  keys = pickles.evaluate(file)
  if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
    raise Refused('its list of storages is damaged')
  if file.tell() > MAX_PICKLE:
    raise Refused('its pickles are too large')
  named = {v.storage.key: v.storage for v in _flatten(tree).values()}
  stored = _storages(file, size, keys, named)

  def load(storage: Storage) -> np.ndarray:
    if storage.key not in stored:
      raise Refused('one of its storages is missing')
    return stored[storage.key]

  return _resolve(views, load)


def _storages(
  file: BufferedIOBase, size: int, keys: list[str], named: dict[str, Storage]
) -> Arrays:
  """The storages behind the pickles, each after its length."""
  stored = {}
  for key in keys:
    header = file.read(8)
    if len(header) != 8:
      raise Refused('it is truncated')
    (count,) = struct.unpack('<q', header)
    if key not in named:
      # Without its type there is no telling where the next one begins.
      raise Refused('it holds a storage that is of none of its tensors')
    storage = named[key]
    if count != storage.count or key in stored:
      raise Refused('one of its storages is of another length than it claims')
    length = count * storage.dtype.itemsize
    if length > size - file.tell():
      raise Refused('it is truncated')
    stored[key] = np.frombuffer(file.read(length), storage.dtype)
  return stored


def _pickled(archive: zipfile.ZipFile, name: str) -> Any:
  data = archives.content(archive, name, MAX_PICKLE)
  return pickles.evaluate(io.BytesIO(data))


def _byte_order(archive: zipfile.ZipFile, name: str) -> str:
  if name not in archive.namelist():
    return '<'  # files of before it was noted
  text = archives.content(archive, name, 16)
  if text not in (b'little', b'big'):
    raise Refused(f'its byte order is {shown(text)}')
  return '<' if text == b'little' else '>'


def _members(
  archive: zipfile.ZipFile, folder: str, order: str
) -> Callable[[Storage], np.ndarray]:
  """Reads storages from the members of a folder in the zip, each once."""
  read: Arrays = {}

  def load(storage: Storage) -> np.ndarray:
    name = f'{folder}/{storage.key}'
    dtype = storage.dtype.newbyteorder(order)
    if name not in read:
      data = archives.content(archive, name)
      if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise Refused(f'its member {shown(name)} is compressed')
      if len(data) != storage.count * dtype.itemsize:
        raise Refused(
          f'its member {shown(name)} has {len(data)} bytes for '
          f'{storage.count} numbers of {dtype}'
        )
      read[name] = np.frombuffer(data, dtype)
    if read[name].dtype != dtype or read[name].size != storage.count:
      raise Refused(f'its member {shown(name)} is of two types or lengths')
    return read[name]

  return load


def _state_dict(tree: Any) -> Any:
  """The state dict in what a training program saved, or all of it."""
  for _ in range(MAX_DEPTH):
    if not isinstance(tree, dict) or any(
      isinstance(v, View) for v in tree.values()
    ):
      break
    inner = [tree[w] for w in WRAPPERS if isinstance(tree.get(w), dict)]
    if not inner:
      break
    tree = inner[0]
  if not isinstance(tree, dict):
    raise Refused('it holds no state dict', pickles.STATE_DICT)
  return tree


def _flatten(tree: Any) -> dict[str, View]:
  """Tensors of a tree by their dotted names, in their order."""
  views, left = {}, MAX_NODES
  pending: list[Iterator] = [iter([('', tree)])]
  while pending:
    name, value = next(pending[-1], (None, None))
    if name is None:
      pending.pop()
      continue
    left -= 1
    if left < 0 or len(pending) > MAX_DEPTH or len(name) > MAX_NAME:
      raise Refused('its names are nested without an end')
    if isinstance(value, View):
      if name in views:
        raise Refused(f'it names {shown(name)} twice')
      views[name] = value
    elif isinstance(value, dict):
      pending.append(_named(name, value.items()))
    elif isinstance(value, tuple | list):
      pending.append(_named(name, enumerate(value)))
  if len(views) > MAX_TENSORS:
    raise Refused(f'it claims {len(views)} tensors')
  return views


def _named(prefix: str, pairs) -> Iterator[tuple[str, Any]]:
  for key, value in pairs:
    yield f'{prefix}.{key}' if prefix else str(key), value


def _resolve(
  views: dict[str, View], load: Callable[[Storage], np.ndarray]
) -> Arrays:
  return {name: _array(name, v, load(v.storage)) for name, v in views.items()}


def _array(name: str, view: View, storage: np.ndarray) -> np.ndarray:
  """The elements of a tensor, without a copy of them."""
  count = 1
  for n in view.shape:
    count *= n
  last = view.offset + sum(
    (n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)
  )
  if count == 0:
    last = view.offset - 1
  if last >= storage.size or view.offset > storage.size:
    raise Refused(f'its tensor {shown(name)} reaches beyond its storage')
  if count > storage.size:
    # A stride of 0 makes any size of one number.
    raise Refused(f'its tensor {shown(name)} repeats its storage')
  if count == 0:
    return np.zeros(view.shape, storage.dtype)
  return np.lib.stride_tricks.as_strided(
    storage[view.offset :],
    view.shape,
    [s * storage.dtype.itemsize for s in view.strides],
    writeable=False,
  )
