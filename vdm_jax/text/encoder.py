"""Text encoders behind one interface, from local Hugging Face folders."""

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from vdm_jax import sharding
from vdm_jax.errors import ConfigError, WeightsError
from vdm_jax.text import bert, clip, kinds, t5, weights

# What decides the ids of a text, as far as a folder has it.
TOKENIZER_FILES = (
  'added_tokens.json',
  'merges.txt',
  'special_tokens_map.json',
  'spiece.model',
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'vocab.json',
  'vocab.txt',
)


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
  """Texts to embeddings; made by `load`.

  Attributes:
    module: the network.
    params: its parameters, on the device or devices.
    tokenizer: of `transformers`.
    hash: SHA-256 over configuration, weights and tokenizer, in hexadecimal.
    batch_size: texts that the device takes at a time.
    mesh: over which batches and parameters are split; None for one device.
  """

  module: bert.Bert | clip.ClipText | t5.T5
  params: Any
  tokenizer: Any
  hash: str
  batch_size: int = 32
  mesh: jax.sharding.Mesh | None = None

  @property
  def dim(self) -> int:
    """Channels of an embedding."""
    return self.module.dim

  def encode(
    self, texts: Sequence[str], max_length: int
  ) -> tuple[Float32[np.ndarray, 'n l d'], Bool[np.ndarray, 'n l']]:
    """The last hidden states of texts.

    What is longer than `max_length` tokens is cut; its last token is then the
    end-of-text token too. Padding follows the text, and its embeddings are 0,
    so that a text has the same embeddings in any company and, but for
    rounding, at any length that holds it.

    Args:
      texts: any number, none included; a text may be empty.
      max_length: l, tokens, start and end of text included.

    Returns:
      The embeddings, and True where there is a token.

    Raises:
      ConfigError: the network cannot take so many tokens.
      WeightsError: tokenizer and network do not fit, or overflow.
    """
    ids, mask = self.tokenize(texts, max_length)
    out = np.zeros((*ids.shape, self.dim), np.float32)
    for start in range(0, len(ids), self.batch_size):
      part = slice(start, start + self.batch_size)
      count = len(ids[part])
      fill = np.zeros(self.batch_size, int)
      fill[:count] = np.arange(count)
      batch = (ids[part][fill], mask[part][fill])
      if self.mesh is not None:
        batch = jax.device_put(batch, sharding.batch_sharding(self.mesh))
      out[part] = np.asarray(_forward(self.module, self.params, *batch))[:count]
    if not np.isfinite(out).all():
      raise WeightsError(
        'the text encoder gives embeddings that are not finite '
        f'(hash {self.hash[:12]}); fetch its weights again'
      )
    return out, mask

  def tokenize(
    self, texts: Sequence[str], max_length: int
  ) -> tuple[Int[np.ndarray, 'n l'], Bool[np.ndarray, 'n l']]:
    """Token ids, int32, and True where there is a token; see `encode`."""
    self.check_length(max_length)
    if not texts:
      empty = np.zeros((0, max_length))
      return empty.astype(np.int32), empty.astype(bool)
    tokens = self.tokenizer(
      list(texts),
      padding='max_length',
      truncation=True,
      max_length=max_length,
      return_attention_mask=True,
    )
    ids = np.asarray(tokens['input_ids'], np.int32)
    mask = np.asarray(tokens['attention_mask'], bool)
    if ids.min() < 0 or ids.max() >= self.module.vocab:
      raise WeightsError(
        f'the tokenizer is of another network (token id {ids.max()}, the '
        f'network knows {self.module.vocab}); fetch both from one place'
      )
    return ids, mask

  def check_length(self, max_length: int):
    """Raises ConfigError unless the network takes texts of so many tokens."""
    _check_length(self.module, max_length)


def check(folder: str | os.PathLike, max_length: int):
  """Finds early, without its weights, what an encoder will not do.

  Args:
    folder: of the encoder; see `load`.
    max_length: tokens.

  Raises:
    WeightsError: the folder describes no encoder that there is.
    ConfigError: the network cannot take so many tokens.
  """
  module, _ = kinds.build(Path(folder).expanduser())
  _check_length(module, max_length)


def _check_length(module: nn.Module, max_length: int):
  most = getattr(module, 'positions', math.inf)
  if not 2 <= max_length <= most:
    raise ConfigError(
      f'the text encoder cannot take texts of {max_length} tokens; set '
      'config.text.max_length to 2 or more'
      + (f', up to {most}' if most < math.inf else '')
    )


def load(
  folder: str | os.PathLike,
  *,
  tokenizer: str | os.PathLike | None = None,
  mesh: jax.sharding.Mesh | None = None,
  batch_size: int = 32,
  sha256: str | None = None,
  setting: str = 'config.text.encoder',
) -> TextEncoder:
  """A text encoder from a local folder; nothing is fetched.

  The folder holds `config.json` with a `model_type` of `kinds.KINDS`, the
  weights as `model.safetensors` or several such files with their index, and
  the tokenizer's files. Parameters and computation are float32.

  Args:
    folder: the folder.
    tokenizer: the folder of the tokenizer, where it is another.
    mesh: splits batches over its devices, and parameters by the rules of
      `sharding`; None takes the default device.
    batch_size: texts that the device takes at a time; with a mesh, as many
      more as fill its devices.
    sha256: the hash of the encoder that a model was trained with, or the
      beginning of it; another one is refused.
    setting: where the folder was named, for messages.

  Raises:
    WeightsError: something is missing, damaged, unknown or does not fit.
  """
  folder = Path(folder).expanduser()
  words = Path(tokenizer).expanduser() if tokenizer else folder
  if mesh is not None:
    batch_size = -(-batch_size // mesh.size) * mesh.size
  module, names = kinds.build(folder)
  digest = _hash(folder, words)
  if sha256 is not None and not digest.startswith(sha256.lower()):
    raise WeightsError(
      'the text encoder is another than the one that the model was trained '
      f'with ({folder}: SHA-256 {digest}, not {sha256}); name that one with '
      f'--{setting}'
    )
  token = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), token, token > 0)
  params = weights.load(folder, names, module.layers, shapes['params'])
  if mesh is None:
    params = jax.device_put(params)
  else:
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))
  return TextEncoder(
    module, params, _load_tokenizer(words), digest, batch_size, mesh
  )


@functools.partial(jax.jit, static_argnums=0)
def _forward(
  module: nn.Module,
  params: Any,
  ids: Int[Array, 'b l'],
  mask: Bool[Array, 'b l'],
) -> Float[Array, 'b l d']:
  # Accelerators would round float32 factors to 10 bits or fewer.
  with jax.default_matmul_precision('highest'):
    x = module.apply({'params': params}, ids, mask)
  return jnp.where(mask[:, :, None], x, 0.0)


def _hash(folder: Path, words: Path) -> str:
  """SHA-256 over names and contents of the files that decide embeddings."""
  paths = [folder / 'config.json', *weights.files(folder)]
  paths += [words / name for name in TOKENIZER_FILES]
  digest = hashlib.sha256()
  for path in paths:
    if path.is_file():
      try:
        with path.open('rb') as file:
          content = hashlib.file_digest(file, 'sha256').hexdigest()
      except OSError as error:
        raise WeightsError(
          f'a file of a text encoder cannot be read ({path}: '
          f'{error.strerror}); change its permissions or fetch it again'
        ) from error
      digest.update(f'{path.name}\t{content}\n'.encode())
  return digest.hexdigest()


def _load_tokenizer(folder: Path) -> Any:
  try:
    from transformers import AutoTokenizer
  except ImportError as error:
    raise WeightsError(
      'text encoders need a package that is not installed (transformers); '
      "run pip install 'vdm_jax[text]'"
    ) from error
  if not any((folder / name).is_file() for name in TOKENIZER_FILES):
    raise WeightsError(
      f'a text encoder has no tokenizer ({folder}: no tokenizer.json); fetch '
      'it, or name the folder where it is'
    )
  try:
    tokenizer = AutoTokenizer.from_pretrained(
      str(folder), local_files_only=True, trust_remote_code=False
    )
  except Exception as error:  # The library raises whatever its parts raise.
    text = (str(error).splitlines() or [''])[0][:200]
    raise WeightsError(
      f'a tokenizer cannot be read ({folder}: {text}); fetch it again'
    ) from error
  if tokenizer.pad_token_id is None:
    raise WeightsError(
      f'a tokenizer has no token for padding ({folder}); fetch it again'
    )
  tokenizer.padding_side = tokenizer.truncation_side = 'right'
  return tokenizer
