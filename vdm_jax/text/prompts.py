"""Prompts: texts to sample from, and what the network takes of them."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Int

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


@dataclasses.dataclass(frozen=True)
class Table:
  """Texts as the network takes them, made when they are asked for.

  Attributes:
    read: numbers of texts `[b]` to (array, mask): of words int32 ids `[b, l]`,
      of embeddings float32 `[b, l, d]`; True where there is a word or token.
    digest: SHA-256 of what all texts together are, in hexadecimal.
  """

  read: Callable[[Int[np.ndarray, ' b']], tuple[np.ndarray, np.ndarray]]
  digest: str


def embed(
  texts: Sequence[str],
  encoder: str | os.PathLike,
  *,
  max_length: int,
  mesh: jax.sharding.Mesh | None,
  sha256: str | None,
  setting: str,
) -> dict[str, np.ndarray]:
  """Embeddings float32 `[tokens, d]` by text; see `encoder.load`."""
  coder = encoder_lib.load(encoder, mesh=mesh, sha256=sha256, setting=setting)
  found = {}
  for start in range(0, len(texts), coder.batch_size):
    batch = texts[start : start + coder.batch_size]
    x, mask = coder.encode(batch, max_length)
    found |= {t: x[i][mask[i]] for i, t in enumerate(batch)}
  return found


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
  embed: Callable[..., dict[str, np.ndarray]] = embed,
) -> Table:
  """Texts as the network takes them.

  Embeddings come out of the cache as they did in training: each is checked
  here, and stays on the disk. Only for texts that are not in it is the encoder
  loaded, for as long as this takes; of these the tokens are kept in memory,
  without padding.

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
    embed: loads an encoder and runs it; see `shared`.

  Raises:
    ConfigError: a text is in no cache and there is no encoder to embed it; or
      it has words that the model does not know, or too many.
    DataError: the cache is damaged or of another encoder.
    WeightsError: the encoder is damaged, or another than the model's.
  """
  if kind == 'words':
    ids, mask = Words(tuple(vocabulary), max_length).encode(texts, cut=cut)
    digest = hashlib.sha256(ids).hexdigest()
    return Table(lambda numbers: (ids[numbers], mask[numbers]), digest)
  if kind != 'embeddings':
    raise ValueError(f'texts are words or embeddings, not {kind!r}')
  known = _open(cache, encoder_hash or None, max_length, bool(encoder))
  missing = tuple(
    text for text in dict.fromkeys(texts) if known is None or text not in known
  )
  made = {}
  if missing and not encoder:
    raise _no_embedding(missing[0], cache, ending)
  if missing:
    made = embed(
      missing,
      encoder,
      max_length=max_length,
      # Of embeddings on many hosts, each would see a part.
      mesh=mesh if jax.process_count() == 1 else None,
      sha256=encoder_hash or (known.encoder if known is not None else None),
      setting=f'config.text.encoder{ending}',
    )
  return _embeddings(texts, made, known, max_length, ending)


def nothing(*, max_length: int, dim: int = 0) -> Table:
  """A table of one text that is none: the null condition.

  Args:
    max_length: l, tokens.
    dim: of embeddings; 0 for words.
  """
  shape = (1, max_length, dim) if dim else (1, max_length)
  text = np.zeros(shape, np.float32 if dim else np.int32)
  mask = np.zeros((1, max_length), bool)
  return Table(lambda numbers: (text[numbers], mask[numbers]), digest='')


def shared() -> Callable[..., Table]:
  """`encode`, for several models: what they have in common is made once.

  An encoder is loaded once for the same length and the same texts that are in
  no cache, and a table is made once for the same of everything. All arguments
  are hashable.
  """
  return functools.partial(
    functools.cache(encode), embed=functools.cache(embed)
  )


def _embeddings(
  texts: Sequence[str],
  made: Mapping[str, np.ndarray],
  known: cache_lib.EmbeddingCache | None,
  max_length: int,
  ending: str,
) -> Table:
  """A table of texts, each of which is either made or known."""

  def row(text: str) -> np.ndarray:
    return made[text] if text in made else known.row(text)

  digest, full = hashlib.sha256(), {}
  for text in texts:
    tokens = row(text)
    digest.update(f'{tokens.shape}'.encode())
    digest.update(np.ascontiguousarray(tokens))
    full |= {text: True} if len(tokens) == max_length else {}
  if full:
    runtime.warn(
      f'{len(full)} prompts take all {max_length} tokens of '
      f'config.text.encoder{ending} and may have been cut, such as '
      f'{next(iter(full))[:60]!r}'
    )
  dim = tokens.shape[1]

  def read(numbers):
    rows = [row(texts[n]) for n in numbers]
    return cache_lib.padded(rows, max_length=max_length, dim=dim)

  return Table(read, digest.hexdigest())


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
