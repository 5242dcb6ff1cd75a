"""Where the samples of an evaluation come from: a model, or a folder."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vdm_jax import config as config_lib
from vdm_jax import errors, request, sample
from vdm_jax.conditions import Conditions
from vdm_jax.data import frames as frames_lib
from vdm_jax.evaluation import clips as clips_lib
from vdm_jax.evaluation import files as files_lib
from vdm_jax.evaluation.clips import Real
from vdm_jax.evaluation.files import Files
from vdm_jax.evaluation.plan import Plan, check_count, check_frames
from vdm_jax.given import Given
from vdm_jax.text import class_prompts


@dataclasses.dataclass(frozen=True)
class Samples:
  """Videos to be evaluated.

  Attributes:
    folder: where the evaluation is kept.
    read: the scored frames of videos by their numbers.
    count: how many there are.
    frames: of each, known ones included.
    size: of the frames that are scored.
    identity: what tells them from others.
    about: what a report says of them.
    deviations: what about them departs from the protocol: a sentence for each
      ending of a number's name.
    notes: what else is to be known.
    labels: the classes asked for, for a judge.
    captions: likewise.
    classes: what each video should be of, by the prompts of classes; None
      where that is not known.
    stride: of their frames.
  """

  folder: pathlib.Path
  read: Callable[[np.ndarray], UInt8[np.ndarray, 'n t h w 3']]
  count: int
  frames: int
  size: int
  identity: str
  about: Mapping[str, Any]
  deviations: Mapping[str, str]
  notes: tuple[str, ...]
  labels: np.ndarray | None = None
  captions: tuple[str, ...] = ()
  classes: np.ndarray | None = None
  stride: int = 1


@dataclasses.dataclass(frozen=True)
class Set:
  """A reference set, and as many other real clips as there are samples.

  Attributes:
    real: the clips to compare with.
    other: the others; None where the data do not have them.
    fixed: whether every video that there is is among those of `real`.
    problems: how many of the data cannot be used.
  """

  real: Real
  other: Real | None
  fixed: bool
  problems: int


def of_files(config, plan: Plan, workdir) -> tuple[Samples, dict[str, Set]]:
  """The videos of a folder, and the real clips to compare them with."""
  c, data = config.evaluate, plan.protocol.data
  files = files_lib.open_files(
    c.videos,
    count=plan.samples,
    frames=plan.protocol.frames,
    size=data.size,
    resize=data.resize,
    seed=plan.protocol.seed,
    workers=config.data.workers,
  )
  size = data.size or files.shape[1]
  check_frames(plan, files.frames)
  check_count(plan, len(files))
  sets = real_sets(config, plan, frames=files.frames, size=size, stride=1)
  identity = files.signature()
  name = f'{plan.name}_{files.root.name}_{identity[:6]}'
  return Samples(
    folder=workdir / 'evaluations' / name,
    read=without(files, plan.known),
    count=len(files),
    frames=files.frames,
    size=size,
    identity=identity,
    about={
      'videos': str(files.root),
      'identity': identity,
      'of': files.there,
      'seed': files.seed,
    },
    deviations=_of_files(files),
    notes=(*_drawn(files), *_longer(files)),
  ), sets


def _of_files(files: Files) -> dict[str, str]:
  if not files.resized:
    return {}
  _, h, w = files.shape
  return {
    f'resized_from_{h}x{w}': f'videos of {h}×{w} are brought to '
    f'{files.size}×{files.size} ({files.resize})'
  }


def _drawn(files: Files) -> tuple[str, ...]:
  if len(files) == files.there:
    return ()
  return (
    f'{len(files)} of {files.there} videos are taken, drawn by seed '
    f'{files.seed}',
  )


def _longer(files: Files) -> tuple[str, ...]:
  if not files.longer:
    return ()
  return (
    f'{files.longer} of {len(files)} videos are longer; their first '
    f'{files.frames} frames are taken',
  )


def without(clips: Any, first: int) -> Callable[[np.ndarray], np.ndarray]:
  """What reads clips without their first frames."""
  return lambda numbers: clips.read(numbers)[:, first:]


def of_model(
  config, plan: Plan, workdir, trained: Conditions, restore, mesh, seconds
) -> tuple[Samples, dict[str, Set]]:
  """Samples of a model, and the real clips to compare them with.

  Args:
    config: the whole config.
    plan: what is to be done.
    workdir: where the samples are kept.
    trained: what the model was trained with.
    restore: makes the model of the settings with which it is sampled.
    mesh: the devices.
    seconds: where the time is noted.
  """
  asked = settings(config, plan)
  frames = asked.sample.frames or config.data.frames
  scored = plan.protocol.frames or frames
  check_frames(plan, scored)
  check_count(plan, plan.samples)
  own, size = config.data.size, plan.protocol.data.size or config.data.size
  stride = request.base_stride(config)
  sets = real_sets(config, plan, frames=scored, size=size, stride=stride)
  name = f'{plan.name}_seed_{asked.sample.seed}_{sample.digest(asked)}'
  folder = workdir / 'evaluations' / name
  first = next(iter(sets.values())).real
  known, labels = None, ()
  if plan.protocol.known:
    known, labels = beginnings(plan, folder.parent, first, own)
  alike = trained.classes and first.source.classes == trained.classes
  if asked.sample.label >= 0 or not alike:
    labels = ()
  told = prompts(config, plan)
  handed = request.Handed(prompts=told, labels=labels)
  wanted = request.make(asked, trained, given=known, mesh=mesh, handed=handed)
  model = restore(asked)
  folder = folder.with_name(f'{name}_step_{model.step}')
  with seconds.on('sampling'):
    store = sample.open_store(folder / 'samples', model, wanted)
    clips = sample.draw(model, wanted, store)
    sample.from_first(np.zeros(()))  # until the frames are written
  videos = np.load(folder / 'samples' / 'frames.npy', mmap_mode='r')
  fit = None
  if size != own:
    fit = functools.partial(
      frames_lib.fit, size=size, resize=plan.protocol.data.resize
    )
  identity = hashlib.sha256(
    (folder / 'samples' / 'request.json').read_bytes()
  ).hexdigest()
  return Samples(
    folder=folder,
    read=functools.partial(_stored, videos, plan.known, scored, fit),
    count=len(wanted.items),
    frames=scored,
    size=size,
    identity=identity,
    about={
      'step': model.step,
      'sample': asked.sample.to_dict(),
      'samples': str(folder / 'samples'),
    },
    deviations=_of_model(config, plan, clips, len(told), size, stride),
    notes=(),
    labels=clips.labels,
    captions=clips.prompts,
    classes=classes(plan, len(wanted.items)),
    stride=stride,
  ), sets


def _stored(videos, first: int, last: int, fit, numbers) -> np.ndarray:
  """Scored frames of samples on disk, brought to their size."""
  chosen = np.array(videos[numbers, first:last])
  if fit is None:
    return chosen
  return np.stack([[fit(frame) for frame in video] for video in chosen])


def _of_model(
  config, plan: Plan, clips: sample.Clips, told: int, size: int, stride: int
) -> dict[str, str]:
  """What departs from the protocol; the model is told so many prompts."""
  found, own, data = {}, config.data.size, plan.protocol.data
  if size != own:
    found[f'resized_from_{own}x{own}'] = (
      f'samples of {own}×{own} are brought to {size}×{size} ({data.resize})'
    )
  if data.stride not in (0, stride):
    found[f'stride_{stride}'] = (
      f'samples have the frame stride {stride}, real clips {data.stride}'
    )
  conditions = plan.protocol.conditions
  if clips.labels is not None and conditions == 'none':
    found['class_conditional'] = 'the model is told the class'
  if clips.prompts and conditions == 'none':
    found['text_conditional'] = 'the model is told a text'
  if conditions == 'captions' and told < plan.samples:
    found[f'{told}_captions'] = (
      f'{told} captions are told in turn, to {plan.samples} samples'
    )
  return found


def settings(config, plan: Plan):
  """The settings with which the model is sampled.

  What else an evaluation is asked for changes no sample, so it is left out:
  the samples are those of another evaluation, too.
  """
  own, frames = config.data.frames, plan.protocol.frames
  changes: dict[str, Any] = {'count': plan.samples, 'video': '', 'known': ''}
  changes |= {'factor': 1}
  if frames:
    changes['frames'] = frames if frames > own else 0
  if plan.protocol.conditions in ('class_prompts', 'captions'):
    changes |= {'prompt': '', 'prompts': ''}
  plain = config_lib.flat(config_lib.default().evaluate)
  return config_lib.varied(
    config,
    {f'sample.{k}': v for k, v in changes.items()}
    | {f'evaluate.{k}': v for k, v in plain.items()},
  )


def prompts(config, plan: Plan) -> tuple[str, ...]:
  """What the model is told, in turn; nothing if it is not for the protocol.

  Of more captions than samples some are drawn: lists are often in the order of
  their videos, of which the first captions would be a few.
  """
  match plan.protocol.conditions:
    case 'class_prompts':
      return class_prompts.prompts()
    case 'captions':
      found = clips_lib.captions(config, plan.protocol.data)
      order = np.random.default_rng((plan.protocol.seed, 2))
      chosen = order.permutation(len(found))[: plan.samples]
      return tuple(found[i] for i in np.sort(chosen))
  return ()


def classes(plan: Plan, count: int) -> np.ndarray | None:
  """The class that each sample of a model should be of, if prompts say so.

  Prompts are told in turn; of the videos of other programs nobody knows.
  """
  if plan.protocol.conditions != 'class_prompts':
    return None
  return np.arange(count) % len(class_prompts.prompts())


def beginnings(
  plan: Plan, folder: pathlib.Path, real: Real, size: int
) -> tuple[Given, tuple[int, ...]]:
  """The first frames of every sample, on disk, and classes of clips in turn.

  Sample i continues clip i modulo the number of clips.

  Raises:
    ConfigError: they are of another size than the model's.
  """
  known, count, labels = plan.protocol.known, plan.samples, []
  shape = real.read(np.arange(1)).shape[2:]
  if shape[0] != size:
    raise errors.ConfigError(
      f'{plan.name} is of frames of {shape[0]}×{shape[0]}, but the model makes '
      f'{size}×{size}; evaluate a model of that size'
    )
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'.known_{os.getpid()}.npy'
  videos = np.lib.format.open_memmap(
    path, 'w+', np.uint8, (count, known, *shape)
  )
  path.unlink()  # the space is free again when this process ends
  for start in range(0, min(count, len(real)), 64):
    numbers = np.arange(start, min(start + 64, count, len(real)))
    for i, clip in zip(numbers, real.clips(numbers), strict=True):
      videos[i :: len(real)] = clip['video'][:known]
      labels.append(int(np.ravel(clip['label'])[0]))
  return Given(full=videos, frames=tuple(range(known))), tuple(labels)


def real_sets(
  config, plan: Plan, *, frames: int, size: int, stride: int
) -> dict[str, Set]:
  """The reference sets by their names.

  Args:
    config: the whole config.
    plan: what is to be done.
    frames: of the samples.
    size: of the frames that are scored.
    stride: of the samples' frames.

  Raises:
    UserError: the data are not there, or are of too short clips.
  """
  protocol, found = plan.protocol, {}
  data = dataclasses.replace(
    protocol.data,
    frames=protocol.data.frames or protocol.frames or frames,
    size=size,
    stride=protocol.data.stride or stride,
  )
  compared = max(
    (
      min(plan.samples, protocol.wanted(m))
      for m in protocol.measures
      if m.statistic == 'frechet'
    ),
    default=0,
  )
  for reference in protocol.references:
    source = clips_lib.open_source(config, data, reference)
    count = plan.clips[reference.name]
    real, other = clips_lib.draws(
      source,
      reference,
      count=count,
      more=compared if config.evaluate.floor else 0,
      frames=data.frames,
      seed=protocol.seed,
      workers=config.data.workers,
    )
    found[reference.name] = Set(
      real=real,
      other=other,
      fixed=len(np.unique(real.chosen[:, 0])) == len(source),
      problems=len(getattr(source, 'problems', ())),
    )
  return found
