"""Tensors of TensorFlow's checkpoints and SavedModels.

Only the variables are read, by TensorFlow's own reader of tables of tensors;
no graph is loaded, and none is run.
"""

import math
from pathlib import Path

import numpy as np

from vdm_jax.errors import WeightsError
from vdm_jax.metrics.archives import Refused, shown

VARIABLES = Path('variables/variables')  # in a SavedModel or a TF-Hub module
_OBJECT = '/.ATTRIBUTES/VARIABLE_VALUE'  # behind names of TensorFlow 2


def is_checkpoint(prefix: Path) -> bool:
  """Whether `prefix` is the name of a checkpoint (its `.index` is there)."""
  return prefix.with_name(f'{prefix.name}.index').is_file()


def checkpoints(folder: Path) -> list[Path]:
  """Names of the checkpoints in a folder, a SavedModel's first.

  The folder's `checkpoint` file is not asked: it may name any place.

  Raises:
    WeightsError: there are several.
  """
  if is_checkpoint(folder / VARIABLES):
    return [folder / VARIABLES]
  found = [p.with_suffix('') for p in sorted(folder.glob('*.index'))]
  if len(found) > 1:
    raise WeightsError(
      f'there are several checkpoints in a folder ({folder}: '
      f'{", ".join(p.name for p in found[:3])}); name one of them'
    )
  return found


def read(prefix: Path) -> tuple[dict[str, np.ndarray], list[Path]]:
  """Variables of a checkpoint by name (without ':0'), and its files.

  Raises:
    Refused: a part is missing, or the tensors are larger than the files.
    WeightsError: TensorFlow is not installed.
  """
  parts = sorted(prefix.parent.glob(f'{_escaped(prefix.name)}.data-*-of-*'))
  if not parts:
    raise Refused('its .data file is missing')
  try:
    import tensorflow as tf
  except ImportError as error:
    raise WeightsError(
      f'a file of weights needs a package that is not installed ({prefix}: '
      'tensorflow); run pip install tensorflow-cpu'
    ) from error
  reader = tf.train.load_checkpoint(str(prefix))
  shapes = reader.get_variable_to_shape_map()
  types = reader.get_variable_to_dtype_map()
  numbers = [n for n in sorted(shapes) if types[n].is_floating]
  numbers += [n for n in sorted(shapes) if types[n].is_integer]
  claimed = sum(math.prod(shapes[n]) * types[n].size for n in numbers)
  size = sum(p.stat().st_size for p in parts)
  if claimed > size:
    raise Refused(f'its tensors claim {claimed} bytes, and have {size}')
  values = {}
  for variable in numbers:
    name = variable.removesuffix(_OBJECT).removesuffix(':0')
    if name in values:
      raise Refused(f'it names {shown(name)} twice')
    values[name] = reader.get_tensor(variable)
  index = prefix.with_name(f'{prefix.name}.index')
  return values, [index, *parts]


def _escaped(name: str) -> str:
  return ''.join(f'[{c}]' if c in '*?[' else c for c in name)
