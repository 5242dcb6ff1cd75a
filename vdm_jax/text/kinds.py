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

  def transformer(self, **defaults) -> dict[str, Any]:
    """Arguments that Bert and ClipText have in common."""
    numbers = {
      'vocab': self.take('vocab_size', defaults['vocab']),
      'dim': self.take('hidden_size', defaults['dim']),
      'layers': self.take('num_hidden_layers', 12),
      'heads': self.take('num_attention_heads', defaults['heads']),
      'ff_dim': self.take('intermediate_size', defaults['ff_dim']),
      'positions': self.take('max_position_embeddings', defaults['positions']),
      'activation': self.activation(
        'hidden_act', self.take('hidden_act', defaults['activation'])
      ),
      'eps': self.take('layer_norm_eps', defaults['eps']),
    }
    if numbers['dim'] % numbers['heads']:
      self.refuse('num_attention_heads', f'a divisor of {numbers["dim"]}')
    return numbers


# Where a configuration says nothing, `transformers` takes these values.
def _bert(config: Config) -> tuple[nn.Module, weights.Names]:
  if config.take('is_decoder', False):
    config.refuse('is_decoder', 'false')
  if config.take('position_embedding_type', 'absolute') != 'absolute':
    config.refuse('position_embedding_type', "'absolute'")
  numbers = config.transformer(
    vocab=30522,
    dim=768,
    heads=12,
    ff_dim=3072,
    positions=512,
    activation='gelu',
    eps=1e-12,
  )
  types = config.take('type_vocab_size', 2)
  return bert.Bert(**numbers, types=types), weights.BERT


def _clip_text(config: Config) -> tuple[nn.Module, weights.Names]:
  numbers = config.transformer(
    vocab=49408,
    dim=512,
    heads=8,
    ff_dim=2048,
    positions=77,
    activation='quick_gelu',
    eps=1e-5,
  )
  return clip.ClipText(**numbers), weights.CLIP


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
  activation = form.removeprefix('gated-')
  # The published 1.1 models mean the approximation.
  activation = 'gelu_new' if form == 'gated-gelu' else activation
  module = t5.T5(
    vocab=config.take('vocab_size', 32128),
    dim=config.take('d_model', 512),
    layers=config.take('num_layers', 6),
    heads=config.take('num_heads', 8),
    head_dim=config.take('d_kv', 64),
    ff_dim=config.take('d_ff', 2048),
    activation=config.activation('feed_forward_proj', activation),
    gated=gated,
    buckets=config.take('relative_attention_num_buckets', 32),
    max_distance=config.take('relative_attention_max_distance', 128),
    eps=config.take('layer_norm_epsilon', 1e-6),
  )
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
