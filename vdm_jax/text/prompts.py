"""Prompts: texts to sample from, and what the network takes of them."""

import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Bool

from vdm_jax import runtime
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.text import cache as cache_lib
from vdm_jax.text import captions, class_prompts
from vdm_jax.text import encoder as encoder_lib
from vdm_jax.text.words import Words

NAMED = {'ucf101': class_prompts.prompts}


def read(prompt: str, path: str | os.PathLike) -> list[str]:
  """The prompts of `config.sample.prompt` or `config.sample.prompts`.

  Args:
    prompt: a text, or ''.
    path: a file of texts as `captions.read` takes it, or a name of NAMED
      (a file or folder of that name is './' and the name), or ''.

  Returns:
    The one, or those of the file in its order; none if neither is given.

  Raises:
    ConfigError: both are given, or the prompt is no text.
    DataError: the file cannot be read.
  """
  if prompt and path:
    raise ConfigError(
      f'both config.sample.prompt ({prompt[:60]!r}) and config.sample.prompts '
      f'({path}) are given; leave one out'
    )
  if path in NAMED:
    return list(NAMED[path]())
  if path:
    return [caption.text for caption in captions.read(path)]
  if not prompt:
    return []
  try:
    prompt.encode()
  except UnicodeEncodeError as error:
    raise ConfigError(
      f'config.sample.prompt is not UTF-8 ({prompt[:60]!r}); write it so'
    ) from error
  if not prompt.strip():
    raise ConfigError(
      f'config.sample.prompt is blank ({prompt!r}); write a text, or leave it '
      'out'
    )
  return [prompt.strip()]


def encode(
  texts: Sequence[str],
  *,
  kind: str,
  max_length: int,
  vocabulary: Sequence[str] = (),
  encoder_hash: str = '',
  cache: str | os.PathLike = '',
  encoder: str | os.PathLike = '',
  ending: str = '',
  mesh: jax.sharding.Mesh | None = None,
  cut: bool = False,
) -> tuple[np.ndarray, Bool[np.ndarray, 'n l']]:
  """Texts as the network takes them.

  Embeddings come out of the cache as they did in training. Only for texts
  that are not in it is the encoder loaded, for as long as this takes.

  Args:
    texts: one or more.
    kind: 'words' or 'embeddings', as in `config.text.kind`.
    max_length: l, tokens.
    vocabulary: words: those that the model knows.
    encoder_hash: embeddings: of the encoder that the model was trained with;
      '' takes any.
    cache: embeddings: the folder of a cache, or ''.
    encoder: embeddings: the folder of the encoder, or ''.
    ending: of the settings' names in messages; '2' for a second encoder.
    mesh: over which the encoder is split; None for one device.
    cut: words: leave out those beyond `max_length`, as with embeddings.

  Returns:
    words: int32 ids `[n, l]`; embeddings: float32 `[n, l, d]`; and True where
    there is a word or token.

  Raises:
    ConfigError: a text is in no cache and there is no encoder to embed it; or
      it has words that the model does not know, or too many.
    DataError: the cache is damaged or of another encoder.
    WeightsError: the encoder is damaged, or another than the model's.
  """
  if kind == 'words':
    return Words(tuple(vocabulary), max_length).encode(texts, cut=cut)
  if kind != 'embeddings':
    raise ValueError(f'texts are words or embeddings, not {kind!r}')
  known = _open(cache, encoder_hash or None, max_length, bool(encoder))
  texts, found = list(texts), {}
  if known is not None:
    found = _rows([text for text in texts if text in known], known.lookup)
  missing = list(dict.fromkeys(text for text in texts if text not in found))
  if missing and not encoder:
    raise _no_embedding(missing[0], cache, ending)
  if missing:
    coder = encoder_lib.load(
      encoder,
      # Of embeddings on many hosts, each would see a part.
      mesh=mesh if jax.process_count() == 1 else None,
      sha256=encoder_hash or (known.encoder if known is not None else None),
      setting=f'config.text.encoder{ending}',
    )
    found |= _rows(missing, lambda texts: coder.encode(texts, max_length))
  cut = [text for text in dict.fromkeys(texts) if found[text][1].all()]
  if cut:
    runtime.warn(
      f'{len(cut)} prompts take all {max_length} tokens of '
      f'config.text.encoder{ending} and may have been cut, such as '
      f'{cut[0][:60]!r}'
    )
  embeddings, mask = zip(*(found[text] for text in texts), strict=True)
  return np.stack(embeddings), np.stack(mask)


def _rows(texts: list[str], embed: Callable) -> dict[str, tuple]:
  """Embeddings and mask by text."""
  return dict(zip(texts, zip(*embed(texts), strict=True), strict=True))


def _open(
  folder, encoder_hash: str | None, max_length: int, replaceable: bool
) -> cache_lib.EmbeddingCache | None:
  """The cache; None if there is none, or it cannot be used but replaced."""
  if not folder:
    return None
  try:
    return cache_lib.open_cache(folder, encoder_hash, max_length)
  except DataError as error:
    if not replaceable:
      raise
    runtime.warn(f'the prompts are embedded anew: {error}')
    return None


def _no_embedding(text: str, cache, ending: str) -> ConfigError:
  where = (
    f'is not in {cache} (config.text.cache{ending})'
    if cache
    else f'needs an encoder, and config.text.cache{ending} is empty'
  )
  return ConfigError(
    f'the prompt {text[:60]!r} {where}; name the encoder that the model was '
    f'trained with: --config.text.encoder{ending}=FOLDER'
  )
