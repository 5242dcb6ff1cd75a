"""A tiny random BERT in a Hugging Face folder, made without PyTorch."""

import json
import string

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.text import kinds, weights

LETTERS = string.ascii_lowercase + string.digits
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
POSITIONS = 24  # the longest text, tokens


def write(folder, seed=0, dim=8, positions=POSITIONS):
  """Writes configuration, weights and a tokenizer of a token a letter."""
  transformers = pytest.importorskip('transformers')
  safetensors = pytest.importorskip('safetensors.numpy')
  vocab = [*SPECIAL, *LETTERS, *('##' + a for a in LETTERS)]
  config = {
    'model_type': 'bert',
    'vocab_size': len(vocab),
    'hidden_size': dim,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'intermediate_size': 16,
    'max_position_embeddings': positions,
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  module, names = kinds.build(folder)
  token = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), token, token > 0)
  shapes = flax.traverse_util.flatten_dict(shapes['params'], sep='/')
  rng = np.random.default_rng(seed)
  tensors = {}
  for name, path in names.paths(module.layers).items():
    value = rng.standard_normal(shapes[path].shape, np.float32)
    value = value.T if path.endswith('/kernel') else value
    tensors[name] = np.ascontiguousarray(value)
  safetensors.save_file(tensors, folder / weights.SINGLE)
  transformers.BertTokenizer(
    vocab={word: i for i, word in enumerate(vocab)}
  ).save_pretrained(folder)
  return folder
