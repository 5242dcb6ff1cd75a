"""Weights of Hugging Face folders, as parameters of the modules here.

Only safetensors files are opened: they hold numbers and names. The pickles of
older folders (`*.bin`, `*.pt`) can run any program and are never touched.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from vdm_jax.errors import WeightsError

PyTree = Any
SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
# Whole numbers would need the scales of some quantisation.
FLOATS = ('F64', 'F32', 'F16', 'BF16')


@dataclasses.dataclass(frozen=True)
class Names:
  """How one kind of network names its tensors.

  Attributes:
    tensors: name of a tensor: path of a parameter. `{i}` counts the layers. A
      kernel is the tensor transposed, everything else the tensor itself.
    skipped: patterns of the tensors that the encoder does not need.
    prefix: pattern of what may stand in front of a name.
    spellings: (pattern, replacement) of other ways to write a name.
  """

  tensors: Mapping[str, str]
  skipped: tuple[str, ...]
  prefix: str = ''
  spellings: tuple[tuple[str, str], ...] = ()

  def resolve(self, name: str) -> str | None:
    """The name as the table writes it; None if it is not needed."""
    name = re.sub(f'^{self.prefix}', '', name)
    for pattern, replacement in self.spellings:
      name = re.sub(pattern, replacement, name)
    return None if any(re.match(s, name) for s in self.skipped) else name

  def paths(self, layers: int) -> dict[str, str]:
    """The table written out for a number of layers."""
    return {
      name.format(i=i): path.format(i=i)
      for name, path in self.tensors.items()
      for i in range(layers if '{i}' in name else 1)
    }


def _affine(table: Mapping[str, str]) -> dict[str, str]:
  """Weights and biases of dense layers (name: path) as entries of a table."""
  return {
    f'{name}.{tensor}': f'{path}/{leaf}'
    for name, path in table.items()
    for tensor, leaf in (('weight', 'kernel'), ('bias', 'bias'))
  }


def _norms(table: Mapping[str, str]) -> dict[str, str]:
  """Weights and biases of layer norms, likewise."""
  return {
    f'{name}.{tensor}': f'{path}/{leaf}'
    for name, path in table.items()
    for tensor, leaf in (('weight', 'scale'), ('bias', 'bias'))
  }


_LAYER = 'encoder.layer.{i}'
BERT = Names(
  tensors={
    'embeddings.word_embeddings.weight': 'token/embedding',
    'embeddings.position_embeddings.weight': 'position/embedding',
    'embeddings.token_type_embeddings.weight': 'kind/embedding',
    **_norms(
      {
        'embeddings.LayerNorm': 'norm',
        f'{_LAYER}.attention.output.LayerNorm': 'layer_{i}/attention_norm',
        f'{_LAYER}.output.LayerNorm': 'layer_{i}/norm',
      }
    ),
    **_affine(
      {
        f'{_LAYER}.attention.self.query': 'layer_{i}/attention/query',
        f'{_LAYER}.attention.self.key': 'layer_{i}/attention/key',
        f'{_LAYER}.attention.self.value': 'layer_{i}/attention/value',
        f'{_LAYER}.attention.output.dense': 'layer_{i}/attention/out',
        f'{_LAYER}.intermediate.dense': 'layer_{i}/up',
        f'{_LAYER}.output.dense': 'layer_{i}/down',
      }
    ),
  },
  skipped=(r'embeddings\.(position|token_type)_ids$', r'pooler\.', r'cls\.'),
  prefix=r'bert\.',
  # As converted from TensorFlow; google-bert's own files are so.
  spellings=((r'\.gamma$', '.weight'), (r'\.beta$', '.bias')),
)

_LAYER = 'encoder.layers.{i}'
CLIP = Names(
  tensors={
    'embeddings.token_embedding.weight': 'token/embedding',
    'embeddings.position_embedding.weight': 'position/embedding',
    **_norms(
      {
        'final_layer_norm': 'norm',
        f'{_LAYER}.layer_norm1': 'layer_{i}/attention_norm',
        f'{_LAYER}.layer_norm2': 'layer_{i}/norm',
      }
    ),
    **_affine(
      {
        f'{_LAYER}.self_attn.q_proj': 'layer_{i}/attention/query',
        f'{_LAYER}.self_attn.k_proj': 'layer_{i}/attention/key',
        f'{_LAYER}.self_attn.v_proj': 'layer_{i}/attention/value',
        f'{_LAYER}.self_attn.out_proj': 'layer_{i}/attention/out',
        f'{_LAYER}.mlp.fc1': 'layer_{i}/up',
        f'{_LAYER}.mlp.fc2': 'layer_{i}/down',
      }
    ),
  },
  skipped=(
    r'embeddings\.position_ids$',
    r'text_projection\.',
    r'vision_model\.',
    r'visual_projection\.',
    r'logit_scale$',
  ),
  prefix=r'text_model\.',
)

_LAYER = 'encoder.block.{i}.layer'
_T5 = {
  'shared.weight': 'token/embedding',
  'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight': (
    'position/embedding'
  ),
  'encoder.final_layer_norm.weight': 'norm/scale',
  f'{_LAYER}.0.layer_norm.weight': 'layer_{i}/attention_norm/scale',
  f'{_LAYER}.0.SelfAttention.q.weight': 'layer_{i}/attention/query/kernel',
  f'{_LAYER}.0.SelfAttention.k.weight': 'layer_{i}/attention/key/kernel',
  f'{_LAYER}.0.SelfAttention.v.weight': 'layer_{i}/attention/value/kernel',
  f'{_LAYER}.0.SelfAttention.o.weight': 'layer_{i}/attention/out/kernel',
  f'{_LAYER}.1.layer_norm.weight': 'layer_{i}/norm/scale',
  f'{_LAYER}.1.DenseReluDense.wo.weight': 'layer_{i}/down/kernel',
}
_T5_NAMES = {
  'skipped': (r'decoder\.', r'lm_head\.'),
  # One table under two names, of which files hold either or both.
  'spellings': ((r'^encoder\.embed_tokens\.weight$', 'shared.weight'),),
}
T5 = Names(
  tensors=_T5 | {f'{_LAYER}.1.DenseReluDense.wi.weight': 'layer_{i}/up/kernel'},
  **_T5_NAMES,
)
T5_GATED = Names(
  tensors=_T5
  | {
    f'{_LAYER}.1.DenseReluDense.wi_0.weight': 'layer_{i}/up/kernel',
    f'{_LAYER}.1.DenseReluDense.wi_1.weight': 'layer_{i}/linear/kernel',
  },
  **_T5_NAMES,
)


def files(folder: Path) -> list[Path]:
  """The safetensors files of a folder: one, or those that an index names.

  Raises:
    WeightsError: there are none, the index is damaged, or a file is missing.
  """
  if (folder / SINGLE).is_file():
    return [folder / SINGLE]
  if not (folder / INDEX).is_file():
    raise WeightsError(_no_weights(folder))
  try:
    names = set(json.loads((folder / INDEX).read_text())['weight_map'].values())
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise WeightsError(
      f'the index of the weights cannot be read ({folder / INDEX}: '
      f'{type(error).__name__}); fetch the folder again'
    ) from error
  for name in sorted(map(str, names)):
    if name != Path(name).name or not name.endswith('.safetensors'):
      raise WeightsError(
        f'the index of the weights names no file of its folder ({folder}: '
        f'{name!r}); fetch the folder again'
      )
    if not (folder / name).is_file():
      raise WeightsError(
        f'a file of weights is missing ({folder / name}); fetch it'
      )
  return sorted(folder / name for name in names)


def load(folder: Path, names: Names, layers: int, shapes: PyTree) -> PyTree:
  """Parameters from the weights of a folder: all of them, each used once.

  Args:
    folder: holds `model.safetensors`, or several files and their index.
    names: of the kind of network.
    layers: number of layers.
    shapes: the tree of parameters that the module expects.

  Returns:
    The tree with float32 arrays in the host's memory.

  Raises:
    WeightsError: a file is missing or damaged; or tensors are missing, left
      over, of another shape, not finite, or not of a floating type.
  """
  paths = names.paths(layers)
  expected = flax.traverse_util.flatten_dict(shapes, sep='/')
  if set(paths.values()) != set(expected):
    raise ValueError(f'the table misses {set(paths.values()) ^ set(expected)}')
  params, unknown = {}, []
  wanted = lambda name: names.resolve(name) in paths  # noqa: E731
  for name, value in _tensors(files(folder), wanted):
    if value is None:
      unknown += [name] if names.resolve(name) else []
      continue
    _check(folder, name, value)
    path = paths[names.resolve(name)]
    value = value.T if path.endswith('/kernel') else value
    if value.shape != expected[path].shape:
      raise WeightsError(
        f'a tensor has another shape than config.json says ({folder}: {name} '
        f'as {path} is {value.shape}, not {expected[path].shape}); fetch both '
        'from one place'
      )
    if path in params and not np.array_equal(params[path], value):
      raise WeightsError(
        f'two tensors are for one parameter ({folder}: {name} and another for '
        f'{path}); fetch the folder again'
      )
    params[path] = np.ascontiguousarray(value)
  missing = [name for name, path in paths.items() if path not in params]
  if missing or unknown:
    raise WeightsError(
      f'the weights are of another network than config.json says ({folder}: '
      f'{_some("missing", missing)}, {_some("unknown", unknown)}); fetch both '
      'from one place'
    )
  return flax.traverse_util.unflatten_dict(params, sep='/')


def _tensors(
  paths: list[Path], wanted: Callable[[str], bool]
) -> Iterator[tuple[str, np.ndarray | None]]:
  """Names of all tensors, and those that are wanted as float32."""
  try:
    import safetensors
  except ImportError as error:
    raise WeightsError(
      'text encoders need a package that is not installed (safetensors); '
      "run pip install 'vdm_jax[text]'"
    ) from error
  for path in paths:
    try:
      with safetensors.safe_open(path, 'numpy') as file:
        for name in sorted(file.keys()):
          yield name, _read(file, path, name) if wanted(name) else None
    except (safetensors.SafetensorError, OSError) as error:
      text = str(error).splitlines()[0]
      raise WeightsError(
        f'a file of weights is damaged ({path}: {text}); fetch it again'
      ) from error


def _read(file, path: Path, name: str) -> np.ndarray:
  kind = file.get_slice(name).get_dtype()
  if kind not in FLOATS:
    raise WeightsError(
      f'a tensor is not of a floating type ({path}: {name} is {kind}); take '
      'weights that are not quantised'
    )
  return np.asarray(file.get_tensor(name), np.float32)


def _check(folder: Path, name: str, value: np.ndarray):
  if not np.isfinite(value).all():
    raise WeightsError(
      f'a tensor holds values that are not finite ({folder}: {name}); fetch '
      'the folder again'
    )


def _no_weights(folder: Path) -> str:
  pickles = [
    path.name
    for pattern in ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl')
    for path in sorted(folder.glob(pattern))
  ]
  if pickles:
    return (
      f'there are only weights that could run programs ({folder}: '
      f'{pickles[0]}), which are not opened; fetch or make a {SINGLE}'
    )
  return f'there are no weights ({folder}: no {SINGLE}); fetch them'


def _some(what: str, names: list[str], most: int = 2) -> str:
  if not names:
    return f'{what}: none'
  more = len(names) - most
  return f'{what}: {", ".join(names[:most])}' + (
    f' and {more} more' if more > 0 else ''
  )
