"""What a table at the papers' scale needs: said before anything starts."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vdm_jax import config as config_lib
from vdm_jax import errors, runtime
from vdm_jax.conditions import TEXTS, Conditions
from vdm_jax.metrics import protocols
from vdm_jax.planning.forward import forward
from vdm_jax.reproduction import cascades, cost
from vdm_jax.reproduction.bench import Bench, folder_name, shared
from vdm_jax.reproduction.report import markdown

# By source: what it is, and how TFDS calls it.
TFDS = {'ucf101': 'ucf101', 'bair': 'bair_robot_pushing_small'}
TITLES = {
  'ucf101': 'UCF-101, prepared by TFDS',
  'ucf101_files': 'UCF-101, the official files',
  'bair': 'BAIR robot pushing, prepared by TFDS',
  'kinetics600': 'the videos of Kinetics-600',
  'folder': 'videos and their captions',
}


@dataclasses.dataclass(frozen=True)
class Need:
  """Something that must be there.

  Attributes:
    what: in words.
    setting: that names it, without `config.`.
    value: of the setting.
    there: whether it is.
    error: that is raised if what is named is missing.
  """

  what: str
  setting: str
  value: str
  there: bool
  error: type[errors.UserError] = errors.DataError

  def __str__(self) -> str:
    state = 'there' if self.there else 'missing'
    value = self.value or '(empty)'
    return f'  {state:<8} {self.what}: config.{self.setting} = {value}'


@dataclasses.dataclass(frozen=True)
class Work:
  """FLOPs of a row, for all of its seeds.

  Attributes:
    training: of the models that no row before it trains.
    sampling: of its videos.
  """

  training: float
  sampling: float

  @property
  def hours(self) -> float:
    """Of one H100."""
    return cost.hours(self.training + self.sampling)


def check(bench: Bench):
  """Says what is needed, and stops if something is missing.

  Raises:
    ConfigError: a setting is empty.
    DataError: data that is named is missing.
    WeightsError: weights that are named are missing or of another network.
  """
  found = needs(bench)
  protocol = bench.table.protocol
  if jax.process_index() == 0:
    runtime.say(f'{bench.table.title}\nis made of:')
    runtime.say('\n'.join(map(str, found)))
    if protocol:
      runtime.say(f'and scored by the protocol {protocol}:')
      for what, whence in protocols.protocol(protocol).whence.items():
        runtime.say(f'  {what}: {whence}')
    tell_work(bench, work(bench))
  refuse_missing(found)
  if protocol:
    from vdm_jax.evaluation import plan

    # What is there is read, so that it is not found wanting after weeks.
    plan.make(config_lib.varied(bench.config, {'evaluate.protocol': protocol}))


def refuse_missing(found: list[Need]):
  """Raises the error of the first thing that is missing; names all."""
  missing = [need for need in found if not need.there]
  if not missing:
    return
  first = missing[0]
  empty = [need for need in missing if not need.value]
  error = errors.ConfigError if empty else first.error
  lines = '; '.join(f'{n.what} (config.{n.setting})' for n in missing)
  raise error(
    f'{len(missing)} of {len(found)} things are missing: {lines}; name them as '
    f'in --config.{first.setting}=…, or ask for --scale=small'
  )


def needs(bench: Bench) -> list[Need]:
  """All that must be there, each thing once."""
  found: dict[str, Need] = {}
  for config in configs(bench):
    for need in (*data_needs(bench, config), *text_needs(bench, config)):
      found.setdefault(need.setting, need)
  for need in protocol_needs(bench):
    found.setdefault(need.setting, need)
  return list(found.values())


def configs(bench: Bench) -> Iterator[Any]:
  """The configs of all runs of a table."""
  for name in bench.table.rows:
    row = bench.row(name, bench.seeds()[0])
    if bench.table.kind == 'cascade':
      for stage in (*row.cascade.order, *row.reproduce.starts.values()):
        yield cascades.run_of(row, stage)
      continue
    if bench.tuned(name):
      yield bench.images(name, row)
    yield row


def data_needs(bench: Bench, config) -> list[Need]:
  """The data to train on."""
  c, title = config.data, TITLES[config.data.source]
  found = []
  if c.source in TFDS:
    there = prepared(c.path, c.source) or _is_there(c.videos)
    found.append(
      Need(f'{title} (or data.videos, to prepare from)', *_at(config), there)
    )
  else:
    found.append(Need(title, *_at(config), _is_there(c.path)))
  if c.source == 'kinetics600':
    found.append(
      Need('its official list', 'data.list', c.list, _is_there(c.list))
    )
  if 'data.image_path' in bench.config.reproduce.get('required', ()):
    path = c.image_path
    found.append(
      Need(
        'images and their captions', 'data.image_path', path, _is_there(path)
      )
    )
  return found


def _at(config) -> tuple[str, str]:
  return 'data.path', config.data.path or config.data.videos


def text_needs(bench: Bench, config) -> list[Need]:
  """The embeddings to train on, and the encoders of prompts."""
  found = []
  dims = bench.config.reproduce.get('text_dims', ())
  names = bench.config.reproduce.get('encoders', ())
  for n, _, name in zip(TEXTS, dims, names, strict=False):
    for what, setting, error in (
      ('embeddings of the captions by', f'text.cache{n}', errors.DataError),
      ('the encoder', f'text.encoder{n}', errors.WeightsError),
    ):
      value = config_lib.flat(config)[setting]
      if setting.startswith('text.encoder') and not bench.table.protocol:
        continue  # nothing is prompted
      there = _is_there(value)
      found.append(Need(f'{what} {name}', setting, value, there, error))
  return found


def protocol_needs(bench: Bench) -> list[Need]:
  """What the protocol needs: real clips, and weights of feature networks."""
  if not bench.table.protocol:
    return []
  c, found = bench.config.evaluate, []
  protocol = protocols.protocol(bench.table.protocol)
  source = protocol.data.source
  own = bench.config.data.source == source
  # What a folder holds is not said; a test set is not what is trained on.
  other = any(r.split == 'test' for r in protocol.references)
  if not own or (source == 'folder' and other):
    what = f'real clips: {TITLES[source]}'
    found.append(Need(what, 'evaluate.path', c.path, _is_there(c.path)))
  if source == 'kinetics600':
    what = 'the official list of the test set'
    found.append(Need(what, 'evaluate.list', c.list, _is_there(c.list)))
  if any(r.split == 'validation' for r in protocol.references):
    path = c.validation
    what = 'videos of the validation set'
    found.append(Need(what, 'evaluate.validation', path, _is_there(path)))
  for network in dict.fromkeys(m.feature.network for m in protocol.measures):
    path = c.weights.get(network, '')
    found.append(
      Need(
        f'weights of {network}, converted',
        f'evaluate.weights.{network}',
        path,
        _is_there(path),
        errors.WeightsError,
      )
    )
  return found


def _is_there(path: str) -> bool:
  return bool(path) and pathlib.Path(path).expanduser().exists()


def prepared(path: str, source: str) -> bool:
  """Whether TFDS has prepared a data set in a folder."""
  folder = pathlib.Path(path or '~/tensorflow_datasets').expanduser()
  return any(folder.glob(f'{TFDS[source]}/**/dataset_info.json'))


def told_of(bench: Bench, config) -> Conditions:
  """What a model is told, with the encoders of the paper."""
  dims = tuple(bench.config.reproduce.get('text_dims', ()))
  strides = tuple(config.data.strides)
  if not dims:
    return Conditions(strides=strides)
  dims = (*dims, 0)[:2]
  return Conditions(
    text='embeddings', text_dim=dims[0], text2_dim=dims[1], strides=strides
  )


def work(bench: Bench) -> dict[str, Work]:
  """What each row costs; what rows share is the first one's."""
  done: set[str] = set()
  found = {}
  times = len(bench.seeds())
  cells = times * len(bench.config.reproduce.seeds)

  def new(parts: Mapping[str, Any]) -> list:
    """Those that no row before has made."""
    values = [v for k, v in parts.items() if k not in done]
    done.update(parts)
    return values

  for name in bench.table.rows:
    row = bench.row(name, bench.seeds()[0])
    models = new(dict(_models(bench, name, row)))
    training = sum(cost.training(m, told_of(bench, m)) for m in models)
    sampling = sum(new(_sampling(bench, name, row)))
    found[name] = Work(times * training, cells * sampling)
  return found


def _models(bench: Bench, name: str, row) -> Iterator[tuple[str, Any]]:
  """The models of a row by the names of their folders."""
  if bench.table.kind == 'cascade':
    for stage in row.cascade.order:
      start = row.reproduce.starts.get(stage, '')
      if start:
        yield start, cascades.run_of(row, start)
      yield stage, cascades.run_of(row, stage)
      for half in cascades.HALVES if stage in row.reproduce.experts else ():
        yield f'{stage}_{half}', cascades.expert(row, stage, half, stage)
    return
  if bench.tuned(name):
    images = bench.images(name, row)
    yield f'images_{folder_name(bench, images)}', images
  if name not in bench.table.stills:
    tuned = '_tuned' if bench.tuned(name) else ''
    yield f'{folder_name(bench, row)}{tuned}', row


def _sampling(bench: Bench, name: str, row) -> dict[str, float]:
  """FLOPs of the samples of one cell, by what rows may share."""
  if bench.table.kind == 'noises':
    a = row.analyze
    # Encoding and decoding, by a solver of two calls a step.
    calls = a.videos * a.frames * a.steps * 4
    return {name: calls * forward(row, told_of(bench, row)).padded}
  protocol = protocols.protocol(bench.table.protocol)
  samples = row.evaluate.samples or protocol.samples
  if bench.table.kind == 'cascade':
    order, prefixes = row.cascade.order, cascades.prefixes(row)
    return {
      f'videos {prefix}': samples * _stage(bench, row, stage)
      for stage, prefix in zip(order, prefixes, strict=True)
    }
  if name in bench.table.stills:
    row = bench.images(name, row)
  frames = bench.table.frames or protocol.frames
  frames = frames if frames > row.data.frames else 0
  told = told_of(bench, row)
  one = cost.sampling(row, told, frames=frames, known=protocol.known)
  return {f'videos {name}': samples * one}


def _stage(bench: Bench, row, stage: str) -> float:
  """FLOPs of one video of a stage."""
  c = row.cascade[stage]
  chosen = {f'sample.{k}': v for k, v in c.sample.items()}
  run = shared(row, row.reproduce.runs[stage], chosen)
  return cost.sampling(run, told_of(bench, run), frames=c.frames)


def tell_work(bench: Bench, found: dict[str, Work]):
  """Prints what the rows cost."""
  total = Work(
    sum(w.training for w in found.values()),
    sum(w.sampling for w in found.values()),
  )
  runtime.say(
    markdown(
      [
        {
          '': row,
          'training': cost.short(w.training),
          'sampling': cost.short(w.sampling),
          'H100 hours': f'{w.hours:,.0f}',
        }
        for row, w in (found | {'in all': total}).items()
      ]
    )
  )
  seeds = len(bench.seeds()), len(bench.config.reproduce.seeds)
  runtime.say(
    f'for {seeds[0]} training(s) times {seeds[1]} seed(s); what rows share is '
    'counted in the first of them. Convolutions and matrix products alone, at '
    f'{cost.UTILISATION:.0%} of the {cost.PEAK / 1e12:.0f} TFLOP/s of an H100 '
    'in bfloat16; feature networks are not counted'
  )
