"""Files of weights that mean harm, and harmless ones that are damaged."""

import io
import json
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np


class Payload:
  """Makes a folder (the canary) when it is unpickled, by os.system."""

  def __init__(self, canary: Path):
    self.canary = canary

  def __reduce__(self):
    return os.system, (f'mkdir {self.canary}',)


class Evaluated(Payload):
  """The same by builtins.eval."""

  def __reduce__(self):
    return eval, (f"__import__('os').mkdir({str(self.canary)!r})",)


def protocol_0(canary: Path) -> bytes:
  """The oldest form of a pickle, which no protocol number precedes."""
  return f"cos\nsystem\n(S'mkdir {canary}'\ntR.".encode()


def instance(canary: Path) -> bytes:
  """The same by the operation that makes objects of old classes."""
  return f"(S'mkdir {canary}'\nios\nsystem\n.".encode()


def state_setter(canary: Path) -> bytes:
  """An allowed name whose attributes are set by the operation BUILD."""
  return (
    b'\x80\x02ccollections\nOrderedDict\n)R'
    b'}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb'
    + f"S'mkdir {canary}'\nb.".encode()
  )


def torch_zip(data_pickle: bytes, storages: dict[str, bytes] = {}) -> bytes:  # noqa: B006
  """A zip as of torch.save with a pickle of our own."""
  members = {'a/data.pkl': data_pickle}
  members |= {f'a/data/{k}': v for k, v in storages.items()}
  return zipped(members)


def zipped(members: dict[str, bytes], method=zipfile.ZIP_STORED) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', method) as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return file.getvalue()


def tensor_pickle(
  shape, strides, *, offset=0, count=4, key='0', storage='FloatStorage'
) -> bytes:
  """A state dict of one tensor 'w', its claims as given."""

  class Name:
    def __init__(self, module, name):
      self.text = f'c{module}\n{name}\n'.encode()

  def put(value) -> bytes:
    if isinstance(value, Name):
      return value.text
    if isinstance(value, tuple):
      return b'(' + b''.join(map(put, value)) + b't'
    if isinstance(value, str):
      return b'X' + struct.pack('<I', len(value)) + value.encode()
    return f'L{int(value)}L\n'.encode()

  identity = ('storage', Name('torch', storage), key, 'cpu', count)
  tensor = (
    put(Name('torch._utils', '_rebuild_tensor_v2'))
    + b'('
    + put(identity)
    + b'Q'
    + put(offset)
    + put(tuple(shape))
    + put(tuple(strides))
    + b'\x89ccollections\nOrderedDict\n)RtR'
  )
  return b'\x80\x02}' + put('w') + tensor + b's.'


def npy(shape, data: bytes, descr='<f4') -> bytes:
  """An array of NumPy's format, its claims as given."""
  header = repr({'descr': descr, 'fortran_order': False, 'shape': shape})
  text = header.encode().ljust(117) + b'\n'
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text + data


def object_npz(canary: Path) -> bytes:
  file = io.BytesIO()
  np.savez(file, a=np.array([Payload(canary)], object))
  return file.getvalue()


def link_zip(target: str) -> bytes:
  """A member that is a symbolic link."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    member = zipfile.ZipInfo('a.npy')
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(member, target)
  return file.getvalue()


def with_field(data: bytes, offset: int, value: int, size: int = 4) -> bytes:
  """A zip whose first entry of the directory claims something else."""
  start = data.index(b'PK\x01\x02') + offset
  return data[:start] + value.to_bytes(size, 'little') + data[start + size :]


def overlapping() -> bytes:
  """A zip whose two members are the same bytes of the file."""
  a = npy((4096,), bytes(16384))
  data = zipped({'a.npy': a, 'b.npy': a})
  second = data.index(b'PK\x01\x02', data.index(b'PK\x01\x02') + 4)
  # The second points at the first's bytes, which are cut down to one copy.
  head = data.index(b'PK\x03\x04', 4)
  cut = data[:head] + data[data.index(b'PK\x01\x02') :]
  moved = second - (data.index(b'PK\x01\x02') - head)
  cut = cut[: moved + 42] + bytes(4) + cut[moved + 46 :]
  end = cut.index(b'PK\x05\x06')
  return cut[: end + 16] + head.to_bytes(4, 'little') + cut[end + 20 :]


def safetensors(header: object, data: bytes, length: int | None = None):
  text = json.dumps(header).encode()
  return (
    struct.pack('<Q', len(text) if length is None else length) + text + data
  )


def pickled(value) -> bytes:
  return pickle.dumps(value, protocol=2)
