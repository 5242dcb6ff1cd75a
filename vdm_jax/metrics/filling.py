"""Weights of others as parameters of the networks here, and as files of ours.

Ours are safetensors with the paths of parameters for names, such as
'Conv3d_1a_7x7/conv/kernel'. They say what they were made of.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from vdm_jax import sharding
from vdm_jax.errors import WeightsError
from vdm_jax.metrics import features, reading
from vdm_jax.metrics.archives import shown
from vdm_jax.metrics.layout import Layout, Source

PyTree = Any
Shapes = Mapping[str, Any]
FIELDS = ('network', 'layout', 'source', 'sha256', 'licence')
# How much of a network a file must hold to be taken for one of it.
_ALIKE = 0.9
# Numbers in the programs of a TorchScript, which may be weights or not.
_LITERAL = re.compile(r'constants\.\d+')


@dataclasses.dataclass(frozen=True)
class _Match:
  """What a layout finds in a file.

  Attributes:
    found: the layout's name of a tensor: the file's.
    missing: names of the layout that the file lacks.
    unknown: names of the file that the layout lacks.
  """

  found: Mapping[str, str]
  missing: list[str]
  unknown: list[str]

  @property
  def distance(self) -> tuple[float, int]:
    """How far a file is from the layout, for comparison."""
    wanted = len(self.found) + len(self.missing)
    return len(self.missing) / max(wanted, 1), len(self.unknown)


def fill(
  layouts: Mapping[str, Layout],
  tensors: reading.Tensors,
  shapes: PyTree,
  network: str,
) -> tuple[PyTree, str]:
  """Parameters out of a file: all of them, and nothing of the file left over.

  Args:
    layouts: by name; the one whose names are the file's is taken.
    tensors: of the file.
    shapes: of the parameters, as a tree or by paths.
    network: what the file should be of, for messages.

  Returns:
    The tree of parameters, float32 in the host's memory, and the layout's name.

  Raises:
    WeightsError: tensors are missing, unknown or of another shape than the
      network has, of no floating type, or not finite.
  """
  shapes = _flat(shapes)
  matches = {k: _match(v, tensors.values) for k, v in layouts.items()}
  name = min(matches, key=lambda k: matches[k].distance)
  layout, match = layouts[name], matches[name]
  if set(layout.sources) != set(shapes):
    odd = sorted(set(layout.sources) ^ set(shapes))
    raise ValueError(f'layout {name!r} of {network} has other paths: {odd[:3]}')
  params, wrong = _converted(layout, match, tensors, shapes)
  if not match.found:
    some = _short(next(iter(tensors.values), 'nothing'))
    raise WeightsError(
      f'weights are of another network ({_short(tensors.source)} as {network}: '
      f'it holds {len(tensors.values)} tensors, such as {some}, and none of '
      f'{network}); ' + _advice(network, tensors.values)
    )
  if match.missing or match.unknown or wrong:
    raise WeightsError(
      f'weights do not fit the network ({_short(tensors.source)} as {network}, '
      f'layout {name}: {_listed(match, wrong)}); '
      + _advice(network, tensors.values)
    )
  return flax.traverse_util.unflatten_dict(params, sep='/'), name


def _match(layout: Layout, names: Collection[str]) -> _Match:
  wanted = {s.name for s in layout.sources.values() if isinstance(s, Source)}
  prefix = re.compile(f'(?:{layout.prefix})')
  ignored = [re.compile(p) for p in layout.ignored]
  found: dict[str, str] = {}
  unknown = []
  for name in names:
    start = prefix.match(name)
    forms = [name[start.end() :] if start else name, name]
    form = next((f for f in forms if f in wanted), None)
    if form is not None and form not in found:
      found[form] = name
    elif form is not None or not (
      _LITERAL.fullmatch(name)
      or any(p.fullmatch(f) for p in ignored for f in forms)
    ):
      # Also the second of two tensors for one name.
      unknown.append(name)
  return _Match(found, sorted(wanted - set(found)), unknown)


def _converted(
  layout: Layout,
  match: _Match,
  tensors: reading.Tensors,
  shapes: Shapes,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The parameters whose shapes are right, and names of the others."""
  params, wrong, used = {}, [], {}
  for path, source in layout.sources.items():
    shape = tuple(shapes[path].shape)
    if not isinstance(source, Source):
      params[path] = np.full(shape, source, np.float32)
      continue
    name = match.found.get(source.name)
    if name is None:
      continue
    tensor = tensors.values[name]
    try:
      value = source.convert(tensor)
    except (ValueError, IndexError, TypeError):
      value = None  # it has too few axes, say
    if value is None or value.shape != shape:
      got = list(tensor.shape if value is None else value.shape)
      wrong.append(f'{_short(name)} ({got}, not {list(shape)})')
      continue
    used.setdefault(name, []).append(value.size)
    params[path] = _floats(value, name, tensors.source)
  for name, sizes in used.items():
    if len(sizes) > 1 and sum(sizes) != tensors.values[name].size and not wrong:
      raise ValueError(f'the slices of {name!r} are not the whole of it')
  return params, wrong


def _floats(value: np.ndarray, name: str, source: str) -> np.ndarray:
  """The tensor in float32, contiguous, a copy."""
  if value.dtype.kind != 'f' and value.dtype.name != 'bfloat16':
    raise WeightsError(
      f'a tensor is not of a floating type ({source}: {shown(name)} is '
      f'{value.dtype}); take weights that are not quantised'
    )
  with np.errstate(over='ignore', invalid='ignore'):
    made = np.array(value, np.float32, order='C')
  if not np.isfinite(made).all():
    raise WeightsError(
      f'a tensor holds values that are not finite ({source}: {shown(name)}); '
      'fetch the file again'
    )
  return made


def _advice(network: str, names: Collection[str]) -> str:
  """What to do about a file that does not fit."""
  alike = resembles(names)
  if alike and network not in alike:
    return (
      f'these are tensors of {alike[0]}: use --network={alike[0]}, or name '
      f'a file of {network}'
    )
  return f'name all files of {network}, and no others'


def resembles(names: Collection[str]) -> list[str]:
  """Networks of `features.NETWORKS` whose files name their tensors so."""
  found = []
  for name, entry in features.NETWORKS.items():
    matches = [_match(v, names) for v in entry.layouts().values()]
    if any(m.distance[0] <= 1.0 - _ALIKE for m in matches):
      found.append(name)
  return found


def save(
  path: str | os.PathLike,
  params: PyTree,
  *,
  network: str,
  layout: str,
  source: str,
  sha256: str,
  licence: str,
) -> str:
  """Writes parameters as safetensors, the same bytes for the same parameters.

  The file is whole or not there at all.

  Args:
    path: of the file; missing folders are made.
    params: as a tree or by paths; written in float32.
    network: its name.
    layout: the kind of file that they are from.
    source: that file's name.
    sha256: of that file.
    licence: of the weights.

  Returns:
    SHA-256 of the file that is written.

  Raises:
    WeightsError: it cannot be written.
  """
  values = {
    k: np.array(v, '<f4', order='C') for k, v in sorted(_flat(params).items())
  }
  texts = (network, layout, source, sha256, licence)
  metadata = dict(zip(FIELDS, texts, strict=True))
  header: dict[str, Any] = {'__metadata__': metadata}
  begin = 0
  for name, value in values.items():
    end = begin + value.nbytes
    header[name] = {
      'dtype': 'F32',
      'shape': list(value.shape),
      'data_offsets': [begin, end],
    }
    begin = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # the library's own writer varies its order
  try:
    with _atomic(Path(path)) as part, part.open('wb') as file:
      file.write(len(text).to_bytes(8, 'little') + text)
      for value in values.values():
        file.write(value.data)
      file.flush()
      os.fsync(file.fileno())
    return reading.sha256([Path(path)])
  except OSError as error:
    raise WeightsError(
      f'weights cannot be written ({path}: {error.strerror}); name another '
      'place or make room'
    ) from error


def load(
  path: str | os.PathLike, network: str, shapes: PyTree | None = None
) -> tuple[PyTree, dict[str, str]]:
  """Parameters of a file that `save` wrote, checked.

  Args:
    path: of the file.
    network: that it must be of.
    shapes: of its parameters, as a tree or by paths; those of the entry in
      `features.NETWORKS` if None.

  Returns:
    The tree of parameters, float32 in the host's memory, and the metadata:
    what they were made of.

  Raises:
    WeightsError: the file is missing, damaged, not one of `save`, of another
      network, or its parameters are not those of the network.
  """
  path = Path(path)
  how = f'run --mode=convert --network={network} --weights=FILE'
  if not path.is_file():
    raise WeightsError(
      f'converted weights are missing ({path}); for those of others {how}'
    )
  if path.suffix != '.safetensors':
    raise WeightsError(f'weights are not converted yet ({path}); {how}')
  tensors = reading.read(path)
  metadata = {k: tensors.metadata.get(k) for k in FIELDS}
  if None in metadata.values():
    raise WeightsError(
      f'weights are not converted yet ({path} does not say what it was made '
      f'of); {how}'
    )
  if metadata['network'] != network:
    raise WeightsError(
      f'weights are of another network ({path} is of '
      f'{shown(metadata["network"])}, not of {network}); name another file'
    )
  if shapes is None:
    shapes = features.parameter_shapes(network)
  shapes = _flat(shapes)
  # Its names are ours: a layout in which every parameter is itself.
  own = {'converted': Layout({name: Source(name) for name in shapes})}
  params, _ = fill(own, tensors, shapes, network)
  return params, metadata


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[Path]:
  """A path to write to, which becomes `path` unless the block raises."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    yield part
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def _flat(tree: PyTree) -> dict[str, Any]:
  """Leaves by paths such as 'conv/kernel'; of what is so already, itself."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def size(params: PyTree) -> int:
  """How many numbers there are in all."""
  return sum(math.prod(v.shape) for v in _flat(params).values())


def _short(name: str) -> str:
  return shown(name, 48)


def _listed(match: _Match, wrong: list[str], most: int = 2) -> str:
  """Some of the names that are wrong, and how many there are of each kind."""
  kinds = {
    'missing': [_short(n) for n in match.missing],
    'unknown': [_short(n) for n in match.unknown],
    'of another shape': wrong,
  }
  return '; '.join(
    f'{len(names)} {kind}: {", ".join(names[:most])}'
    + (', …' if len(names) > most else '')
    for kind, names in kinds.items()
    if names
  )
