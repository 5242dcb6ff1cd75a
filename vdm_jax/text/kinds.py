"""From the configuration of a Hugging Face folder to a module."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from vdm_jax.errors import WeightsError
from vdm_jax.text import bert, clip, t5, weights
from vdm_jax.text.layers import ACTIVATIONS


class Config:
  """Values of a configuration, of the right type or a WeightsError."""

  def __init__(self, path: Path, values: Mapping[str, Any]):
    self.path, self.values = path, values

  def take(self, name: str, default: Any) -> Any:
    """A value of the type of `default`, which stands for a missing one."""
    value = self.values.get(name, default)
    if isinstance(default, float) and type(value) is int:
      value = float(value)
    if type(value) is not type(default):
      self.refuse(name, f'a {type(default).__name__}')
    if not isinstance(value, bool | str) and value <= 0:
      self.refuse(name, 'a positive number')
    return value

  def activation(self, name: str, value: str) -> str:
    """A name of an activation that there is."""
    if value not in ACTIVATIONS:
      self.refuse(name, f'one of {", ".join(ACTIVATIONS)}')
    return value

  def refuse(self, name: str, wanted: str):
    """Raises WeightsError."""
    raise WeightsError(
      f'a text encoder cannot be built ({self.path}: {name} is '
      f'{self.values.get(name)!r}); take one where it is {wanted}'
    )

  def fill(self, module: nn.Module, names: Mapping[str, str]) -> nn.Module:
    """The module with the values there are.

    Args:
      module: has the values that stand for missing ones.
      names: per field of the module, its name in the configuration.
    """
    values = {
      field: self.take(name, getattr(module, field))
      for field, name in names.items()
    }
    return module.clone(**values)


_NAMES = {
  'vocab': 'vocab_size',
  'dim': 'hidden_size',
  'layers': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'ff_dim': 'intermediate_size',
  'positions': 'max_position_embeddings',
  'activation': 'hidden_act',
  'eps': 'layer_norm_eps',
}
_T5_NAMES = {
  'vocab': 'vocab_size',
  'dim': 'd_model',
  'layers': 'num_layers',
  'heads': 'num_heads',
  'head_dim': 'd_kv',
  'ff_dim': 'd_ff',
  'buckets': 'relative_attention_num_buckets',
  'max_distance': 'relative_attention_max_distance',
  'eps': 'layer_norm_epsilon',
}
# Where a configuration says nothing, `transformers` takes these values.
_BERT = bert.Bert(
  vocab=30522, dim=768, layers=12, heads=12, ff_dim=3072, positions=512
)
_CLIP = clip.ClipText(
  vocab=49408, dim=512, layers=12, heads=8, ff_dim=2048, positions=77
)
_T5 = t5.T5(vocab=32128, dim=512, layers=6, heads=8, head_dim=64, ff_dim=2048)


def _bert(config: Config) -> tuple[nn.Module, weights.Names]:
  if config.take('is_decoder', False):
    config.refuse('is_decoder', 'false')
  if config.take('position_embedding_type', 'absolute') != 'absolute':
    config.refuse('position_embedding_type', "'absolute'")
  module = config.fill(_BERT, _NAMES | {'types': 'type_vocab_size'})
  return _check(config, module), weights.BERT


def _clip_text(config: Config) -> tuple[nn.Module, weights.Names]:
  return _check(config, config.fill(_CLIP, _NAMES)), weights.CLIP


def _check(config: Config, module):
  config.activation('hidden_act', module.activation)
  if module.dim % module.heads:
    config.refuse('num_attention_heads', f'a divisor of {module.dim}')
  return module


def _clip(config: Config) -> tuple[nn.Module, weights.Names]:
  """The text half; older files write its values twice, the second holds."""
  text = config.values.get('text_config_dict') or config.values.get(
    'text_config'
  )
  if not isinstance(text, dict):
    config.refuse('text_config', 'a table')
  return _clip_text(Config(config.path, text))


def _t5(config: Config) -> tuple[nn.Module, weights.Names]:
  form = config.take('feed_forward_proj', 'relu')
  gated = form.startswith('gated-')
  # The published 1.1 models mean the approximation.
  name = 'gelu_new' if form == 'gated-gelu' else form.removeprefix('gated-')
  activation = config.activation('feed_forward_proj', name)
  module = config.fill(_T5.clone(activation=activation, gated=gated), _T5_NAMES)
  if module.buckets < 4 or module.max_distance <= module.buckets // 4:
    config.refuse('relative_attention_num_buckets', '4 or more, and not more')
  return module, weights.T5_GATED if gated else weights.T5


# By the `model_type` of config.json.
KINDS: Mapping[str, Callable[[Config], tuple[nn.Module, weights.Names]]] = {
  'bert': _bert,
  'clip': _clip,
  'clip_text_model': _clip_text,
  't5': _t5,
}


def build(folder: Path) -> tuple[nn.Module, weights.Names]:
  """The module that the `config.json` of a folder describes, and its names.

  Raises:
    WeightsError: the file is missing, damaged, or describes another network
      than those of `KINDS`.
  """
  values = _read(folder)
  kind = values.get('model_type')
  if kind not in KINDS:
    raise WeightsError(
      f'a text encoder of an unknown kind ({folder}: model_type {kind!r}); '
      f'take one of {", ".join(KINDS)}'
    )
  return KINDS[kind](Config(folder / 'config.json', values))


def _read(folder: Path) -> dict[str, Any]:
  if not folder.is_dir():
    raise WeightsError(
      f'no such folder of a text encoder ({folder}); nothing is fetched: '
      'download it and name its folder'
    )
  path = folder / 'config.json'
  try:
    config = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError as error:
    raise WeightsError(
      f'a text encoder has no configuration ({path}); fetch it'
    ) from error
  except (OSError, ValueError) as error:
    raise WeightsError(
      f'the configuration of a text encoder cannot be read ({path}: '
      f'{type(error).__name__}); fetch it again'
    ) from error
  if not isinstance(config, dict):
    raise WeightsError(
      f'the configuration of a text encoder is no table ({path}); fetch it '
      'again'
    )
  return config
