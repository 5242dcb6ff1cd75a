"""Embeds captions: made once by a text encoder, read by training from disk."""

import pathlib
import shlex
import time

import jax

from vdm_jax import build, errors, runtime, sharding
from vdm_jax.conditions import TEXTS
from vdm_jax.data import images
from vdm_jax.progress import duration, number
from vdm_jax.text import cache as cache_lib
from vdm_jax.text import captions as captions_lib
from vdm_jax.text import encoder as encoder_lib


def run(config, workdir: pathlib.Path, devices=None):
  """Makes the embeddings of all captions, or those that are not there yet.

  Those of `config.text.encoder` go to `config.text.cache`, a folder of their
  own: several runs may read the same embeddings. Those of `encoder2` go to
  `cache2`; either encoder may be named, or both. Asked to stop, it keeps what
  there is, and the same command continues.

  Args:
    config: the settings, validated.
    workdir: not used; every mode is called with it.
    devices: the devices to compute on, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  del workdir
  if jax.process_count() > 1:
    raise errors.ConfigError(
      f'embeddings are made by one process ({jax.process_count()} run); start '
      'a single one'
    )
  mesh = sharding.of_config(config, devices)
  folders = _folders(config)
  texts, origin = captions(config)
  runtime.say(f'{len(texts)} different captions in {origin}')
  for n, folder in folders.items():
    _make(config.text[f'encoder{n}'], folder, texts, config, mesh)
  runtime.say(_advice(config, folders))


def _make(path, folder: pathlib.Path, texts: list[str], config, mesh):
  """Fills the cache of the encoder in `path`."""
  begin = time.monotonic()
  encoder = encoder_lib.load(path, mesh=mesh)
  length = config.text.max_length
  cache = cache_lib.create(folder, encoder, max_length=length)
  missing = cache.missing(texts)
  runtime.say(
    f'encoder loaded in {duration(time.monotonic() - begin)}: {encoder.hash}\n'
    f'{len(texts) - len(missing)} of {len(texts)} captions are embedded already'
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
  runtime.say(_summary(cache, texts, len(missing), seconds))


def captions(config) -> tuple[list[str], str]:
  """All captions, each once, and where they are from.

  Those of the videos, and those beside the images of `config.data.image_path`.

  Raises:
    ConfigError: nothing is named, and the data has no captions of its own.
    DataError: the captions cannot be read.
  """
  texts, origin = _captions_of_videos(config)
  folder = config.data.image_path
  beside = images.captions_beside(folder) if folder else {}
  if beside:
    texts += [text for each in beside.values() for text in each]
    origin += f' and {folder}'
  return list(dict.fromkeys(texts)), origin


def _captions_of_videos(config) -> tuple[list[str], str]:
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
  return [text for _, text in captions_lib.read(path)], str(path)


def _folders(config) -> dict[str, pathlib.Path]:
  """The cache's folder of each encoder, by their names' endings.

  Absolute, so that training finds them from anywhere. Both encoders are looked
  at before the first one starts.
  """
  c, folders = config.text, {}
  for n in TEXTS:
    if not c[f'encoder{n}']:
      continue
    if not c[f'cache{n}']:
      raise errors.ConfigError(
        f'config.text.cache{n} is empty; name a folder for the embeddings, '
        f'which training reads: --config.text.cache{n}='
        f'embeddings/{config.name}{n}'
      )
    encoder_lib.check(c[f'encoder{n}'], c.max_length)
    folders[n] = _absolute(c[f'cache{n}'])
  if not folders:
    raise errors.ConfigError(
      'config.text.encoder is empty; name the folder of a text encoder from '
      'Hugging Face: --config.text.encoder=FOLDER'
    )
  if len({folder.resolve() for folder in folders.values()}) < len(folders):
    raise errors.ConfigError(
      f'config.text.cache and cache2 are the same folder ({folders[""]}); name '
      'one for each encoder'
    )
  return folders


def _absolute(path: str) -> pathlib.Path:
  return pathlib.Path(path).expanduser().absolute()


def _summary(cache, texts, made: int, seconds: float) -> str:
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
  return '\n'.join(lines)


def _advice(config, folders: dict[str, pathlib.Path]) -> str:
  """What to type next."""
  c, options = config.text, {'kind': 'embeddings'}
  for n in TEXTS:
    if n in folders or c[f'cache{n}']:
      options[f'cache{n}'] = str(_absolute(c[f'cache{n}']))
  # Lines of text are of no video; they are prompts to be.
  if c.captions and not c.captions.endswith('.txt'):
    options['captions'] = c.captions
  options['max_length'] = str(c.max_length)
  typed = [shlex.quote(f'--config.text.{k}={v}') for k, v in options.items()]
  return 'to train with them, start --mode=train with\n  ' + ' '.join(typed)
