"""A cascade: each stage makes finer videos of what the one before has made.

A first model makes a video of low resolution and frame rate, the next ones make
more frames of it, or larger ones. A stage knows the one before in either of two
ways, which one cascade may mix:

Its network was trained to see it (`refine.py`; Ge23 Fig. 3). So says the config
of the run that trained it, `config.refine`: all frames at 1/factor of the size,
or every factor-th frame.

Or by reconstruction guidance towards it (Ho22 Fig. 2), of a model that was
trained to make videos of nothing. It makes more frames, larger ones, or both at
once: those before are seen at 1/factor of its resolution, at every k-th of its
frames, while it extends its own windows.

A config of a cascade has the section `cascade`: `order`, the names of the
stages from the first to the last, and a `config.stage` by each name. What the
stages share (`count`, `seed`, `prompt`, …) stands in `sample`.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from vdm_jax import (
  build,
  checkpoint,
  distributed,
  ensemble,
  errors,
  identity,
  refine,
  request,
  rng,
  runtime,
  sample,
  sharding,
  validation,
)
from vdm_jax.conditions import Conditions
from vdm_jax.given import Given
from vdm_jax.media import gallery
from vdm_jax.refine import Low, Refine
from vdm_jax.text import prompts

Videos = UInt8[np.ndarray, 'n t h w 3']

# Options of sampling that a stage fills in, with what leaves them alone.
FILLED_IN = {
  'frames': 0,
  'stride': 0,
  'video': '',
  'start': 0,
  'known': '',
  'factor': 1,
}
SHOWN = 8  # videos of each stage but the last on the page


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage, checked.

  Attributes:
    name: as the config calls it.
    config: of the run that trained it, with the cascade's `sample` section.
    checkpoints: of that run.
    trained: what its model was trained with.
    wanted: what it is to sample; what is given is filled in when it is made.
    seen: the frames of its videos that the stage before has made.
    factor: its size over that of the stage before.
    refine: how its network sees them; None: it does not.
  """

  name: str
  config: Any
  checkpoints: checkpoint.Checkpoints
  trained: Conditions
  wanted: request.Request
  seen: tuple[int, ...]
  factor: int
  refine: Refine | None = None


def run(config, workdir: pathlib.Path, devices=None):
  """Samples all stages, from the first to the last.

  Leaves in the workdir: `stages/NAME/frames.npy`, samples of every stage and
  the gallery. A run that was interrupted continues where it was.

  Args:
    config: of a cascade.
    workdir: where the videos go.
    devices: the devices to sample on, all by default.

  Raises:
    UserError: for whatever does not fit, before anything is sampled.
  """
  mesh = sharding.of_config(config, devices)
  stages = check(config, mesh)
  previous = None
  for number, stage in enumerate(stages, 1):
    clips = make(stage, previous, workdir, mesh)
    if jax.process_index() == 0:
      note = '' if previous is None else agreement(stage, clips, previous)
      last = number == len(stages)
      show(stage, workdir, clips, number, note, most=None if last else SHOWN)
    distributed.barrier('shown')
    previous = clips.videos
  if jax.process_index():
    return
  runtime.say(f'open {gallery.rebuild(workdir, title=config.name)}')
  sample.print_scores(sample.score(stages[-1].config, clips))


def check(config, mesh) -> list[Stage]:
  """All stages, with everything checked that can be before sampling.

  Raises:
    UserError: a stage has no checkpoint, is not of the size or stride that the
      config says, does not fit the stage before, or cannot be sampled as asked.
  """
  if 'cascade' not in config:
    raise errors.ConfigError(
      'the config has no stages; use --config=configs/cascade.py, or add the '
      'section `cascade` to yours'
    )
  order = config.cascade.order
  if not order:
    raise errors.ConfigError(
      'config.cascade.order is empty; name the stages, from the first to the '
      'last'
    )
  for name in order:
    if name == 'order' or name not in config.cascade:
      raise errors.ConfigError(
        f'config.cascade.order names {name!r}, which config.cascade does not '
        'describe; add it, or leave it out'
      )
    _check_section(config, name)
  for key, unset in FILLED_IN.items():
    if config.sample[key] != unset:
      raise errors.ConfigError(
        f'config.sample.{key} is {config.sample[key]!r}, but the stages of a '
        'cascade say or make that themselves; leave it out'
      )
  encode = prompts.shared()
  return [_check_stage(config, i, mesh, encode) for i in range(len(order))]


def _check_stage(config, number: int, mesh, encode) -> Stage:
  """The stage of that number, from 0; `encode` makes tables of prompts."""
  name = config.cascade.order[number]
  c = config.cascade[name]
  seen, factor = (), 1
  if number:
    before = config.cascade[config.cascade.order[number - 1]]
    seen, factor = _positions(name, before, c), c.size // before.size
  try:
    of_run = _config_of(config, name, factor)
    checkpoints = sample.checkpoints_of(of_run, c.workdir)
    trained = sample.trained_with(checkpoints, of_run)
    ensemble.find(of_run, trained)  # a mistake in it ends the cascade here
    given = Given(frames=seen if factor == 1 else ())
    if sees := refine.of_config(of_run):
      _check_refines(of_run, seen, factor, first=not number)
      given = sees.given(None, c.frames)
    wanted = request.make(
      of_run, trained, given=given, alike=True, mesh=mesh, encode=encode
    )
    sharding.check_space(mesh, _network(of_run, trained), c.size)
  except (errors.ConfigError, errors.CheckpointError) as e:
    raise type(e)(f'stage {name}: {e}') from e
  wanted = dataclasses.replace(wanted, seed=_seed(wanted.seed, number))
  return Stage(name, of_run, checkpoints, trained, wanted, seen, factor, sees)


def _network(of_run, trained: Conditions):
  return refine.for_whole_frames(of_run, build.model(of_run, trained))


def _check_refines(of_run, seen, factor: int, *, first: bool):
  """Raises ConfigError unless what a network sees is what it is given."""
  c = of_run.refine
  if first:
    raise errors.ConfigError(
      f'it refines videos (config.refine.kind is {c.kind!r}) and cannot be the '
      'first; put the stage that makes them before it'
    )
  apart = seen[1] - seen[0] if len(seen) > 1 else 1
  trained = (c.factor, 1) if c.kind == 'upsample' else (1, c.factor)
  if (factor, apart) != trained:
    raise errors.ConfigError(
      f'it was trained to make {_times(*trained)} of the stage before, not '
      f'{_times(factor, apart)}; mend the sizes and strides of the stages, or '
      'its workdir'
    )


def _times(pixels: int, frames: int) -> str:
  parts = (f'{pixels}× the pixels a side', f'{frames}× the frames')
  return ' and '.join(parts)


def _check_section(config, name: str):
  """Raises UserError for what is wrong with `config.cascade.NAME` alone."""
  c, here = config.cascade[name], f'config.cascade.{name}'
  if not c.workdir:
    raise errors.ConfigError(
      f'{here}.workdir is empty; name the workdir of the run that trained this '
      'stage'
    )
  if not (pathlib.Path(c.workdir) / 'config.json').is_file():
    raise errors.CheckpointError(
      f'stage {name}: {c.workdir} holds no run; train it first, or mend '
      f'{here}.workdir'
    )
  for key in ('frames', 'size', 'stride'):
    if c[key] < 1:
      raise errors.ConfigError(f'{here}.{key} is {c[key]}; use 1 or more')
  if c.augment_level != -1 and not 0 <= c.augment_level <= 1:
    raise errors.ConfigError(
      f'{here}.augment_level is {c.augment_level}; use 0 to 1, or −1 for that '
      'of its run'
    )
  free = set(config.sample) - set(FILLED_IN) - {'count'}
  for key in sorted(set(c.sample) - free):
    raise errors.ConfigError(
      f'{here}.sample.{key} is nothing that a stage can choose; leave it out, '
      'or use another name of config.sample'
    )


def _positions(name: str, before, c) -> tuple[int, ...]:
  """Where the frames of the stage before lie among those of this one."""
  if before.stride % c.stride:
    raise errors.ConfigError(
      f'stage {name} has the frame stride {c.stride}, which does not divide '
      f'{before.stride}, that of the stage before; use a divisor'
    )
  if c.size % before.size:
    raise errors.ConfigError(
      f'stage {name} has {c.size} pixels, no multiple of the {before.size} of '
      'the stage before; use a multiple'
    )
  apart = before.stride // c.stride
  last = apart * (before.frames - 1)
  if not last < c.frames <= last + apart:
    raise errors.ConfigError(
      f'stage {name} is to make {c.frames} frames from {before.frames} that '
      f'are {apart} apart; use {last + 1} to {last + apart}'
    )
  if c.size == before.size and apart == 1:
    raise errors.ConfigError(
      f'stage {name} has the size and the frame stride of the stage before; '
      'leave it out'
    )
  return tuple(range(0, last + 1, apart))


def _config_of(config, name: str, factor: int):
  """The config of the run of a stage, with what it is to sample."""
  c, order = config.cascade[name], config.cascade.order
  saved = pathlib.Path(c.workdir) / 'config.json'
  of_run = identity.from_json(saved.read_text()).unlock()
  of_run.sample.update(config.sample)
  # The files of all stages play at the same speed.
  rate = config.sample.frame_rate * config.cascade[order[-1]].stride / c.stride
  of_run.sample.frame_rate = rate
  of_run.sample.update(c.sample)
  if of_run.refine.kind != 'none':
    factor = 1  # which is of reconstruction guidance
  if c.augment_level != -1:
    if of_run.refine.kind == 'none' or not of_run.refine.augment:
      raise errors.ConfigError(
        'no noise is added to what its model sees of the stage before; leave '
        f'config.cascade.{name}.augment_level at −1 (got {c.augment_level})'
      )
    of_run.refine.augment_level = c.augment_level
  of_run.sample.update(frames=c.frames, stride=c.stride, factor=factor)
  # To encode the prompts with.
  for key in ('encoder', 'cache', 'encoder2', 'cache2'):
    of_run.text[key] = config.text[key] or of_run.text[key]
  validation.validate(of_run)
  if of_run.data.size != c.size:
    raise errors.ConfigError(
      f'it was trained at {of_run.data.size} pixels, not {c.size}; mend '
      f'config.cascade.{name}.size or workdir'
    )
  return of_run.lock()


def _seed(seed: int, number: int) -> int:
  """A seed for each stage: with the same one they would draw the same noise.

  The first stage makes what its model alone makes of the seed.
  """
  if not number:
    return seed
  return int(jax.random.bits(rng.stream(seed, 'stage', number)))


def make(stage: Stage, previous: Videos | None, workdir, mesh) -> sample.Clips:
  """Samples one stage, as far as it is not finished.

  Only the first process has the videos, those before too; of the others' only
  the shape of a frame counts.
  """
  c, wanted = stage.config.data, stage.wanted
  runtime.say(
    f'stage {stage.name}: {wanted.frames}×{c.size}×{c.size} in '
    f'{len(wanted.windows)} windows of {c.frames} frames'
  )
  if stage.refine:
    wanted = dataclasses.replace(
      wanted,
      given=stage.refine.given(previous, wanted.frames),
      low=Low(previous, stage.refine.form.key_stride),
    )
  elif previous is not None:
    wanted = dataclasses.replace(wanted, given=seen(stage, previous))
  model = sample.restore(stage.config, stage.checkpoints, stage.trained, mesh)
  store = sample.open_store(workdir / 'stages' / stage.name, model, wanted)
  return sample.draw(model, wanted, store)


def seen(stage: Stage, previous: Videos) -> Given:
  """What a stage knows that is guided: the videos of the stage before."""
  if stage.factor == 1:
    return Given(full=previous, frames=stage.seen)
  return Given(low=previous, low_frames=stage.seen, factor=stage.factor)


def agreement(stage: Stage, clips: sample.Clips, previous: Videos) -> str:
  """How far a stage's videos, made coarse again, are from those before."""
  total, count, factor = 0.0, 0, stage.factor
  for video, coarse in zip(clips.videos, previous, strict=True):
    for place, frame in zip(stage.seen, coarse, strict=True):
      h, w, c = frame.shape
      blocks = video[place].reshape(h, factor, w, factor, c)
      total += np.sum((blocks.mean((1, 3)) - frame) ** 2)
      count += frame.size
  text = (
    'subsampled and downsampled it differs from the stage before by '
    f'{(total / count) ** 0.5:.2f}/255 (root mean square)'
  )
  runtime.say(f'stage {stage.name}: {text}')
  return text


def show(
  stage: Stage,
  workdir,
  clips: sample.Clips,
  number: int,
  note: str,
  most: int | None,
):
  """Writes the first `most` samples of a stage; all of them if None."""
  shown = dataclasses.replace(
    clips, videos=clips.videos[:most], items=clips.items[:most]
  )
  sample.write(
    stage.config,
    workdir,
    shown,
    name=f'stage_{number}_{stage.name}',
    title=f'Stage {number}: {stage.name}',
    note=note,
  )
