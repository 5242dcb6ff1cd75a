"""Tiny random networks of `transformers` in folders, and a plain encoder."""

import json
import shutil
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.text.bert import Bert
from vdm_jax.text.encoder import TextEncoder

LETTERS = string.ascii_lowercase + string.digits
WIDE = {'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 4}


def _words(start='', end=''):
  letters = [start + a + b for a in LETTERS for b in ('', end) if a + b]
  return list(dict.fromkeys(letters))


def _bert(t):
  special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  vocab = special + list(LETTERS) + ['##' + a for a in LETTERS]
  config = t.BertConfig(
    vocab_size=len(vocab),
    intermediate_size=48,
    max_position_embeddings=24,
    layer_norm_eps=1e-12,
    **WIDE,
  )
  return t.BertModel(config), t.BertTokenizer(
    vocab={w: i for i, w in enumerate(vocab)}
  )


def _t5(t, form='relu', **kwargs):
  vocab = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', -9.0), ('▁', -2.0)]
  vocab += [(a, -3.0) for a in LETTERS]
  config = t.T5Config(
    vocab_size=len(vocab),
    d_model=32,
    d_kv=12,  # 4 heads of 12 are more than 32
    d_ff=48,
    num_layers=3,
    num_heads=4,
    feed_forward_proj=form,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=20,
    **kwargs,
  )
  return t.T5EncoderModel(config), t.T5Tokenizer(vocab=vocab, extra_ids=0)


def _clip(t, act='quick_gelu', eos=None):
  vocab = list(LETTERS) + [a + '</w>' for a in LETTERS]
  vocab += ['<|startoftext|>', '<|endoftext|>']
  config = t.CLIPTextConfig(
    vocab_size=len(vocab),
    intermediate_size=48,
    max_position_embeddings=24,
    hidden_act=act,
    bos_token_id=len(vocab) - 2,
    eos_token_id=len(vocab) - 1 if eos is None else eos,
    pad_token_id=len(vocab) - 1,
    **WIDE,
  )
  return t.CLIPTextModel(config), t.CLIPTokenizer(
    vocab={w: i for i, w in enumerate(vocab)}, merges=[]
  )


NETWORKS = {
  'bert': _bert,
  't5': _t5,
  't5_gated': lambda t: _t5(t, 'gated-gelu', tie_word_embeddings=False),
  't5_silu': lambda t: _t5(t, 'gated-silu'),
  'clip': _clip,
  'clip_gelu': lambda t: _clip(t, 'gelu', eos=2),
}


@pytest.fixture(scope='session')
def torch():
  torch = pytest.importorskip('torch', reason='torch is the reference')
  torch.set_num_threads(1)
  return torch


@pytest.fixture(scope='session')
def reference(torch, tmp_path_factory):
  """A function: name in NETWORKS to (model of transformers, its folder)."""
  transformers = pytest.importorskip(
    'transformers', reason='transformers is the reference'
  )
  pytest.importorskip('safetensors', reason='weights are safetensors files')
  made = {}

  def make(name):
    if name not in made:
      model, tokenizer = NETWORKS[name](transformers)
      randomize(torch, model)
      folder = tmp_path_factory.mktemp(name)
      model.eval().save_pretrained(folder)
      tokenizer.save_pretrained(folder)
      made[name] = model, folder
    return made[name]

  return make


@pytest.fixture
def copy(reference, tmp_path):
  """A function: name in NETWORKS to a folder of its own, to be changed."""

  def make(name='bert'):
    shutil.copytree(reference(name)[1], tmp_path / 'copy')
    return tmp_path / 'copy'

  return make


def randomize(torch, model):
  """Weights of order 1/√fan_in, so that every term matters."""
  random = torch.Generator().manual_seed(3)
  with torch.no_grad():
    for name, p in model.named_parameters():
      noise = torch.randn(p.shape, generator=random)
      if 'embed' in name or 'shared' in name or 'relative' in name:
        p.copy_(noise)
      elif p.ndim == 2:
        # T5 has no scale in its dot products: it is in the queries.
        scale = p.shape[1] * (12 if name.endswith('.q.weight') else 1)
        p.copy_(noise * 1.5 / scale**0.5)
      else:
        p.copy_(0.2 * noise + (1 if name.endswith('weight') else 0))


class LetterTokenizer:
  """A token a letter, then an end of text, then padding; counts calls."""

  def __call__(self, texts, *, max_length, **_):
    ids = np.zeros((len(texts), max_length), int)
    mask = np.zeros_like(ids)
    for i, text in enumerate(texts):
      tokens = [2 + ord(c) % 28 for c in text[: max_length - 1]] + [1]
      ids[i, : len(tokens)] = tokens
      mask[i, : len(tokens)] = 1
    return {'input_ids': ids.tolist(), 'attention_mask': mask.tolist()}


@pytest.fixture(scope='session')
def plain():
  """An encoder that needs none of the packages of others."""
  module = Bert(vocab=30, dim=8, layers=1, heads=2, ff_dim=8, positions=16)
  token = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), token, token > 0)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: rng.standard_normal(s.shape, np.float32), shapes['params']
  )
  return TextEncoder(module, params, LetterTokenizer(), 'a' * 64, batch_size=4)


@pytest.fixture
def edit_json():
  """A function that changes values of a JSON file; None removes one."""

  def edit(path, **changes):
    values = json.loads(path.read_text()) | changes
    values = {k: v for k, v in values.items() if v is not None}
    path.write_text(json.dumps(values))

  return edit
