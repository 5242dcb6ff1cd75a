"""The programs of a config as a target runs them, without data or arrays."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import pathlib
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax

from vdm_jax import (
  build,
  conditions,
  errors,
  refine,
  runtime,
  sharding,
  train,
)
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions
from vdm_jax.generate import Generator
from vdm_jax.planning import describe, flops, forward, hlo, hlo_cost, passes
from vdm_jax.planning.targets import Target

# What is not read from data, where it is the same for everybody.
CLASSES = {'ucf101': 101, 'kinetics600': 600}
# What stands in for data that nobody has seen; a plan says so.
SOME_CLASSES = 1000
SOME_WORDS = 1000
TEXT_DIM = 1024  # BERT-large, T5-large, T5-11B
TEXT2_DIM = 768  # CLIP ViT-L
# What a program is made of, and what is read from it.
SOURCES = ('nn/*.py', 'diffusion/*.py')
SOURCES += ('planning/[cp]*.py', 'planning/hlo*.py')
SOURCES += tuple(
  f'{name}.py'
  for name in (
    'build',
    'conditions',
    'generate',
    'optim',
    'refine',
    'sharding',
    'state',
    'step',
    'train',
  )
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_WANTED = (
  r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm',
  r'\(([\d.]+)([KMGT]?)\) exceeds available',
)
_TRACING = threading.Lock()


def told(config) -> tuple[Conditions, list[str]]:
  """What a model is told, of the config alone, and what was assumed for it."""
  c, assumed, known = config.text, [], {}
  if config.model.labels:
    count = CLASSES.get(config.data.source)
    if config.data.source == 'shapes':
      count = len(build.shapes_source(config).classes)
    if count is None:
      count = SOME_CLASSES
      assumed.append(f'{count} classes')
    known['classes'] = tuple(map(str, range(count)))
  if c.kind == 'words':
    assumed.append(f'a vocabulary of {SOME_WORDS} words')
    known['words'] = tuple(map(str, range(SOME_WORDS)))
  if c.kind == 'embeddings':
    second = bool(c.encoder2 or c.cache2)
    sizes = c.dims or (TEXT_DIM, TEXT2_DIM)[: 1 + second]
    for n, size in zip(conditions.TEXTS, sizes, strict=False):
      known[f'text{n}_dim'] = _dim(c[f'cache{n}'])
      if not known[f'text{n}_dim']:
        known[f'text{n}_dim'] = size
        assumed.append(f'text{n} embeddings of {size} channels')
  strides = tuple(config.data.strides)
  return Conditions(text=c.kind, strides=strides, **known), assumed


def _dim(folder: str) -> int:
  """Channels of the embeddings in a folder; 0 if there is none."""
  from vdm_jax.text import cache

  if not folder or not pathlib.Path(folder).is_dir():
    return 0
  return cache.open_cache(folder).dim


@dataclasses.dataclass(frozen=True)
class Case:
  """A program to compile, and how: what differs from the config.

  Attributes:
    program: 'training' or 'sampling'.
    remat: as `config.model.remat`.
    fsdp: as `config.mesh.fsdp`.
    batch: examples of a shard of the batch, at once.
    accumulate: as `config.train.accumulate`.
  """

  program: str
  remat: str
  fsdp: int
  batch: int
  accumulate: int = 1

  def config(self, config, target: Target):
    """The config of it."""
    shards = len(target.devices) // config.mesh.space
    return config_lib.varied(
      config,
      {
        'model.remat': self.remat,
        'mesh.data': -1,
        'mesh.fsdp': self.fsdp,
        'train.batch_size': shards * self.batch * self.accumulate,
        'train.accumulate': self.accumulate,
        'sample.batch_size': shards * self.batch,
      },
    )

  def text(self) -> str:
    """One line of it."""
    parts = f', {self.accumulate} parts' if self.accumulate > 1 else ''
    return (
      f'{self.program}, {self.batch} a chip{parts}, remat {self.remat}, '
      f'fsdp {self.fsdp}'
    )


def key(config, target: Target, case: Case) -> str:
  """What tells a compilation from all others."""
  facts = {
    'config': config_lib.flat(case.config(config, target)),
    'case': dataclasses.asdict(case),
    'target': [target.name, target.kind, len(target.devices)],
    'versions': versions(),
  }
  text = json.dumps(facts, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def versions() -> dict[str, str]:
  """Of what compiles, and of the part of this program that is compiled."""
  source = hashlib.sha256()
  root = pathlib.Path(__file__).parents[1]
  for pattern in SOURCES:
    for path in sorted(root.glob(pattern)):
      source.update(path.read_bytes())
  found = {}
  for name in (*runtime.PACKAGES, 'libtpu'):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found | {'source': source.hexdigest()[:8]}


def trace(config, target: Target, case: Case):
  """The program of a case, traced, of which nothing is compiled."""
  config = case.config(config, target)
  mesh = sharding.of_config(config, list(target.devices))
  known, _ = told(config)
  model = build.model(config, known)
  sharding.check_space(mesh, model, refine.training_size(config))
  _, abstract, step = train.pure_programs(config, model, mesh)
  shapes = train.batch_shapes(config, known, mesh)
  if case.program == 'training':
    return train.trace_step(step, abstract, shapes)
  generate = Generator(config, model, mesh)
  rows = {
    k: jax.ShapeDtypeStruct(
      (generate.batch_size, *_one_slot(k, v.shape[1:])),
      v.dtype,
      sharding=v.sharding,
    )
    for k, v in shapes.items()
    if k in conditions.NAMES
  }
  return generate.trace(abstract.ema_params, rows)


def _one_slot(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of a condition of videos without packed images."""
  if name == 'label':
    return ()
  return (1, *shape[1:]) if name.startswith('text') else shape


def compile_case(
  config, target: Target, case: Case, seconds: float = math.inf
) -> dict[str, Any] | None:
  """Compiles a case; what there is to know of it, as JSON takes it.

  For TPUs it stops before the machine code, which is most of the work.
  A program that does not fit is an answer, too: `fits` is False, and `needed`
  is what the compiler says that it needs, after it has tried to save.

  Args:
    config: the whole config.
    target: what to compile for.
    case: the program.
    seconds: that it may take, where the work can be ended.

  Returns:
    The facts; None if the time was over.
  """
  begin = time.monotonic()
  job = dataclasses.asdict(case)
  if target.described:
    made = passes.compile_passes(config, target.name, job, seconds)
  else:
    made = _compile_here(config, target, case)
  if made is None:
    return None
  facts = job | {'seconds': time.monotonic() - begin}
  facts['counted'] = made['counted'] / len(target.devices)
  if 'error' in made:
    return facts | {'fits': False, 'needed': wanted(made['error'])}
  facts |= {'fits': True, 'memory': made['memory']}
  facts['needed'] = made['memory']['total']
  if target.memory and facts['needed'] > target.memory:
    facts['fits'] = False
  module = hlo.parse(made['text'])
  facts['collectives'] = hlo.totals(hlo.collectives(module))
  facts['exchanges'] = largest_exchanges(module)
  peak = target.flops or math.inf, target.bandwidth or math.inf
  bound = hlo_cost.bound(module, flops=peak[0], bandwidth=peak[1])
  facts['parts'] = describe.by_part(bound.pop('sources'))
  return facts | {'bound': bound}


def _compile_here(config, target: Target, case: Case) -> dict[str, Any]:
  """The same by the compiler of the devices at hand."""
  with _TRACING:
    traced = trace(config, target, case)
    lowered = traced.lower()
  made = {'counted': flops.count(traced.jaxpr.jaxpr)}
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    return made | {'error': str(e)}
  return made | {'memory': memory(compiled), 'text': compiled.as_text()}


def largest_exchanges(module: hlo.Module, most: int = 5) -> list[dict]:
  """The exchanges of most bytes, to see what they are of."""
  found = sorted(hlo.collectives(module), key=lambda c: -c.bytes * c.times)
  return [dataclasses.asdict(c) for c in found[:most]]


def wanted(message: str) -> float | None:
  """Bytes that a program would take that does not fit, from the message."""
  for pattern in _WANTED:
    if found := re.search(pattern, message):
      return float(found[1]) * _UNITS[found[2]]
  return None


def memory(compiled) -> dict[str, int]:
  """Bytes of a device that a program takes, and for what."""
  m = compiled.memory_analysis()
  parts = {
    'arguments': m.argument_size_in_bytes,
    'outputs': m.output_size_in_bytes,
    'aliased': m.alias_size_in_bytes,
    'temporaries': m.temp_size_in_bytes,
    'code': m.generated_code_size_in_bytes,
  }
  kept = parts['arguments'] + parts['outputs'] - parts['aliased']
  return parts | {'total': kept + parts['temporaries'] + parts['code']}


def state_bytes(
  config, target: Target, sizes: Sequence[int]
) -> dict[int, dict[str, int]]:
  """Bytes a device of the training state and of the averaged parameters.

  Args:
    config: the whole config.
    target: the devices.
    sizes: of fsdp.
  """
  model = build.model(config, told(config)[0])
  mesh = sharding.make_mesh(devices=list(target.devices))
  _, shapes, _ = train.pure_programs(config, model, mesh)
  table = {}
  for size in sizes:
    config = Case('training', config.model.remat, size, 1).config(
      config, target
    )
    mesh = sharding.of_config(config, list(target.devices))
    places = sharding.tree_shardings(mesh, shapes)

    def total(shapes, places):
      each = jax.tree.map(
        lambda a, p: math.prod(p.shard_shape(a.shape)) * a.dtype.itemsize,
        shapes,
        places,
      )
      return sum(jax.tree.leaves(each))

    table[size] = {
      'state': total(shapes, places),
      'average': total(shapes.ema_params, places.ema_params),
      'parameters': train.parameter_count(shapes.params),
    }
  return table


def forward_flops(config) -> dict[str, float]:
  """FLOPs of the network for one example: with images, and the video alone."""
  known, _ = told(config)
  images = config.data.images
  return {
    'training': forward.forward(config, known, images=images).flops,
    'sampling': forward.forward(config, known, whole=True).flops,
  }


def check(config, target: Target):
  """Raises ConfigError for what could not train on the target."""
  mesh = sharding.of_config(config, list(target.devices))
  sharding.check_batch(mesh, config.train.batch_size, config.train.accumulate)
  build.objective(config)
  build.sampler(config)
  if config.train.batch_size < 1:
    raise errors.ConfigError('config.train.batch_size is below 1')
