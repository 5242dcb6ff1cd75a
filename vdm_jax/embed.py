"""Embeds captions: made once by a text encoder, read by training from disk."""

import pathlib
import shlex
import time

import jax

from vdm_jax import build, errors, runtime, sharding
from vdm_jax.progress import duration, number
from vdm_jax.text import cache as cache_lib
from vdm_jax.text import captions as captions_lib
from vdm_jax.text import encoder as encoder_lib


def run(config, workdir: pathlib.Path, devices=None):
  """Makes the embeddings of all captions, or those that are not there yet.

  They go to `config.text.cache`, a folder of their own: several runs may read
  the same embeddings. Asked to stop, it keeps what there is, and the same
  command continues.

  Args:
    config: the settings, validated.
    workdir: not used; every mode is called with it.
    devices: the devices to compute on, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  del workdir
  c = config.text
  if jax.process_count() > 1:
    raise errors.ConfigError(
      f'embeddings are made by one process ({jax.process_count()} run); start '
      'a single one'
    )
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  folder = _folder(config)
  texts, origin = captions(config)
  begin = time.monotonic()
  encoder = encoder_lib.load(c.encoder, mesh=mesh)
  cache = cache_lib.create(folder, encoder, max_length=c.max_length)
  missing = cache.missing(texts)
  runtime.say(
    f'{len(texts)} different captions in {origin}, '
    f'{len(texts) - len(missing)} of them embedded already\n'
    f'encoder loaded in {duration(time.monotonic() - begin)}: {encoder.hash}'
  )
  begin = time.monotonic()
  with runtime.Stop() as stop:
    cache_lib.fill(cache, encoder, missing, stopping=lambda: stop.requested)
  left, seconds = len(cache.missing(missing)), time.monotonic() - begin
  if left:
    raise errors.Preempted(
      f'asked to stop; {len(texts) - left} of {len(texts)} captions are '
      f'embedded in {folder}, and the same command continues from there'
    )
  runtime.say(_summary(config, cache, texts, len(missing), seconds))


def captions(config) -> tuple[list[str], str]:
  """All captions, each once, and where they are from.

  Raises:
    ConfigError: nothing is named, and the data has no captions of its own.
    DataError: the captions cannot be read.
  """
  c, path = config.data, config.text.captions
  if not path and c.source == 'shapes':
    return sorted(build.shapes_source(config).captions()), 'the shapes'
  if not path and c.source != 'folder':
    raise errors.ConfigError(
      f'the data {c.source!r} has no captions of its own; name a .txt, .csv or '
      '.jsonl file, or a folder of videos with .txt files beside them: '
      '--config.text.captions=PATH'
    )
  path = path or c.path
  if not path:
    raise errors.ConfigError(
      'config.data.path and config.text.captions are empty; name a folder of '
      'videos with .txt files beside them: --config.data.path=FOLDER'
    )
  texts = dict.fromkeys(text for _, text in captions_lib.read(path))
  return list(texts), str(path)


def _folder(config) -> pathlib.Path:
  """The cache's folder, absolute, so that training finds it from anywhere."""
  c = config.text
  if not c.encoder:
    raise errors.ConfigError(
      'config.text.encoder is empty; name the folder of a text encoder from '
      'Hugging Face: --config.text.encoder=FOLDER'
    )
  if not c.cache:
    raise errors.ConfigError(
      'config.text.cache is empty; name a folder for the embeddings, which '
      f'training reads: --config.text.cache=embeddings/{config.name}'
    )
  return pathlib.Path(c.cache).expanduser().absolute()


def _summary(config, cache, texts, made: int, seconds: float) -> str:
  c = config.text
  lines = []
  if made:
    lines.append(
      f'{made} captions embedded in {duration(seconds)}, '
      f'{number(made / seconds)} captions/s'
    )
  lines.append(
    f'{len(texts)} captions of up to {cache.max_length} tokens × {cache.dim} '
    f'channels in {cache.folder}'
  )
  full = cache.full(texts)
  if full:
    lines.append(
      f'{full} of them take all {cache.max_length} tokens and may have been '
      'cut; config.text.max_length sets how many there are'
    )
  options = {'kind': 'embeddings', 'cache': str(cache.folder)}
  # Lines of text are of no video; they are prompts to be.
  if c.captions and not c.captions.endswith('.txt'):
    options['captions'] = c.captions
  options['max_length'] = str(c.max_length)
  typed = [shlex.quote(f'--config.text.{k}={v}') for k, v in options.items()]
  lines += [
    'to train with them, start --mode=train with',
    '  ' + ' '.join(typed),
  ]
  return '\n'.join(lines)
