"""What to sample: the wishes of `config.sample`, checked and made concrete."""

import dataclasses
from collections.abc import Callable

import numpy as np

from vdm_jax import config as config_lib
from vdm_jax import errors, refine, runtime, windows
from vdm_jax import given as given_lib
from vdm_jax import told as told_lib
from vdm_jax.conditions import Conditions
from vdm_jax.data.source import checked
from vdm_jax.given import Given
from vdm_jax.refine import Low, Refine, Upsample
from vdm_jax.text import prompts
from vdm_jax.told import Told


@dataclasses.dataclass(frozen=True)
class Request:
  """What to sample, checked.

  Attributes:
    seed: of the samples.
    steps: of the sampler.
    frames: of a video.
    windows: the parts in which a video is made.
    given: what is known of the videos beforehand.
    low: the videos that are refined, by a model that refines.
    told: what the model is told of each video.
    strides: per window the index of its frame stride; empty if the model is
      not told it.
    items: per video what the gallery says of it.
    labels: see `Clips`.
    prompts: see `Clips`.
  """

  seed: int
  steps: int
  frames: int
  windows: list[windows.Window]
  given: Given
  low: Low | None
  told: Told
  strides: tuple[int, ...]
  items: list[dict]
  labels: np.ndarray | None
  prompts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Handed:
  """What is given in memory instead of by `config.sample`.

  Attributes:
    video: uint8 `[n, t, h, w, 3]` for the file `config.sample.video`; n is the
      number of videos to sample, or 1. Its frames are those of the sampled
      video, at whatever stride that has, from `config.sample.start` on.
    prompts: captions, in turn; each as `config.sample.prompt`.
    labels: classes, in turn; each as `config.sample.label`.
  """

  video: np.ndarray | None = None
  prompts: tuple[str, ...] = ()
  labels: tuple[int, ...] = ()


NOTHING = Handed()


@dataclasses.dataclass(frozen=True)
class Shown:
  """Clips of the data that a model which refines shows what it does with.

  Attributes:
    low: the clips, made coarse.
    told: what is told of each.
    captions: their captions, if they are told.
    labels: likewise.
  """

  low: Low
  told: Told
  captions: list[str]
  labels: np.ndarray | None


def make(
  config,
  trained: Conditions,
  *,
  given: Given | None = None,
  alike: bool = False,
  shown: Shown | None = None,
  mesh=None,
  handed: Handed = NOTHING,
  encode: Callable[..., prompts.Table] = prompts.encode,
) -> Request:
  """Checks what `config.sample` asks of a model, and reads what it names.

  Args:
    config: the whole config.
    trained: what the model was trained with.
    given: what is known of the videos; from `config.sample.video` if None,
      and with it what a model that refines is to refine.
    alike: whether what made these was told the same, as in a cascade.
    shown: clips for such a model, in place of a video.
    mesh: the devices that encode prompts.
    handed: what is given in memory.
    encode: of the prompts; `prompts.shared()` for several models.

  Raises:
    UserError: for what does not fit the model.
  """
  c = config.sample
  if not c.count:
    raise errors.ConfigError('config.sample.count is 0; ask for 1 or more')
  check_guidance(config, trained)
  frames = c.frames or config.data.frames
  stage, low = refine.of_config(config), None
  if given is None:
    given, low = _beforehand(config, stage, frames, shown, handed)
  plan = windows.plan(
    frames,
    config.data.frames,
    order=c.order,
    overlap=c.overlap,
    key_stride=c.key_stride,
    given=given.frames,
  )
  if stage:
    check_keys(plan, stage.form.key_stride)
  if shown:
    told, captions, labels = shown.told, shown.captions, shown.labels
  else:
    told, captions, labels = told_lib.of_config(
      config,
      trained,
      mesh=mesh,
      labels=handed.labels,
      captions=handed.prompts,
      known=not alike and bool(given.frames or given.low_frames or low),
      encode=encode,
    )
  return Request(
    seed=c.seed,
    steps=c.steps,
    frames=frames,
    windows=plan,
    given=given,
    low=low,
    told=told,
    strides=() if shown else strides_of(config, trained, plan),
    items=_items(c, trained, labels, captions),
    labels=labels,
    prompts=tuple(captions),
  )


def _beforehand(
  config, stage: Refine | None, frames: int, shown: Shown | None, handed: Handed
) -> tuple[Given, Low | None]:
  """What is known of the videos, and what a model that refines is to refine."""
  if not stage:
    return given_video(config, frames, handed), None
  low = shown.low if shown else low_video(config, stage, frames, handed)
  return stage.given(low.videos, frames), low


def _items(c, trained: Conditions, labels, captions) -> list[dict]:
  """Per video what the gallery says of it."""
  items = [{'seed': c.seed, 'index': i} for i in range(c.count)]
  for i, item in enumerate(items):
    if labels is not None:
      item['class'] = trained.classes[labels[i]]
    if captions:
      item['caption'] = captions[i]
  return items


def plain(
  config, trained: Conditions, source=None, *, count: int, steps: int
) -> Request:
  """What training shows: so many videos, as long as the model makes them.

  Args:
    config: the whole config.
    trained: what the model is trained with.
    source: of the clips that a model shows which refines.
    count: of the videos.
    steps: of the sampler.
  """
  shown = None
  if config.refine.kind != 'none':
    shown = clips_to_refine(config, trained, source, count)
  asked = {'count': count, 'steps': steps}
  asked |= {'frames': 0, 'video': '', 'known': '', 'factor': 1}
  config = config_lib.varied(
    config, {f'sample.{k}': v for k, v in asked.items()}
  )
  return make(config, trained, shown=shown)


def at_the_end(config, trained: Conditions, source) -> Request:
  """What training shows at last: what `config.sample` asks for.

  A model that refines and is given no video shows what it makes of clips of
  the data.
  """
  c = config.sample
  if config.refine.kind == 'none' or c.video:
    return make(config, trained)
  return plain(config, trained, source, count=c.count, steps=c.steps)


def check(config, trained: Conditions):
  """Raises UserError where `at_the_end` does, without reading clips."""
  refines = config.refine.kind != 'none' and not config.sample.video
  make(config, trained, given=Given() if refines else None)


def clips_to_refine(config, trained: Conditions, source, count: int) -> Shown:
  """Clips from all over the data, as the stage before would have made them."""
  form, frames = refine.of_config(config).form, config.data.frames
  names = [f'text{n}{end}' for n in trained.texts for end in ('', '_mask')]
  low, rows, captions = [], [], []
  for i in range(count):
    place = i * len(source) // count
    clip = checked(source, place, np.random.default_rng([config.seed, i]))
    low.append(form.lower(clip['video'][None, :frames])[0])
    row = {name: clip[name][:1] for name in names}
    if trained.classes:
      row['label'] = np.ravel(clip['label'])[0]
    if trained.strides:
      row['stride'] = clip['stride']
    rows.append(row)
    captions += [clip['caption']] if names else []
  own = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  low = Low(np.stack(low), form.key_stride)
  return Shown(low, Told(own), captions, own.get('label'))


def low_video(
  config, stage: Refine, frames: int, handed: Handed = NOTHING
) -> Low:
  """What `config.sample.video` gives a model that refines.

  Frames that are smaller than those of the model are taken for frames of the
  stage before already, and so is a video of exactly as many frames, from
  `config.sample.start` on, as there are key frames.

  Raises:
    UserError: no video is named, or it does not do.
  """
  c, kind = config.sample, config.refine.kind
  film, stride = _film(config, handed)
  if film is None:
    raise errors.ConfigError(
      f'the model refines videos (config.refine.kind is {kind!r}), and none is '
      'given; name one with --config.sample.video=FILE, or make them with '
      '--mode=cascade'
    )
  if c.known or c.factor > 1:
    raise errors.ConfigError(
      'config.sample.known or factor is set, but the model refines all of the '
      f'video, as config.refine.kind {kind!r} says; leave them out'
    )
  options = {'size': config.data.size, 'resize': config.data.resize}
  options |= {'start': c.start}
  factor = stage.form.factor
  if isinstance(stage.form, Upsample):
    found = given_lib.from_video(
      film, frames=frames, stride=stride, factor=factor, **options
    )
    if len(found.low_frames) < frames:
      raise errors.DataError(
        f'the video is too short ({c.video or "the array"} has '
        f'{len(found.low_frames)} frames at stride {stride} from {c.start} on, '
        f'and {frames} are refined); use a longer one'
      )
    return Low(found.low, 1)
  known, keys = f'::{factor}', -(-frames // factor)
  if given_lib.length(film) - c.start == keys:
    runtime.say(
      f'{c.video or "the array"} has {keys} frames from {c.start} on, as many '
      f'as {frames} frames have key frames: it is taken for these'
    )
    frames, stride, known = keys + 1, 1, f':{keys}'
  found = given_lib.from_video(
    film, frames=frames, stride=stride, known=known, **options
  )
  return Low(found.full, factor)


def check_keys(plan, key_stride: int):
  """Raises ConfigError unless windows have their key frames as in training."""
  for window in plan:
    found = [i for i, n in enumerate(window.frames) if not n % key_stride]
    if found != list(range(0, window.size, key_stride)):
      raise errors.ConfigError(
        f'a window begins at frame {window.start}, but its key frames must be '
        f'every {key_stride}-th one from its first; use as many frames as the '
        'model makes at once, or an overlap that makes windows begin at '
        f'multiples of {key_stride}'
      )


def check_guidance(config, trained: Conditions):
  """Raises ConfigError for guidance that the model cannot give."""
  c, drop = config.sample, config.train.drop
  if c.guidance_scale != 1:
    if not trained.droppable:
      raise errors.ConfigError(
        f'config.sample.guidance_scale is {c.guidance_scale}, but the model '
        'was trained without classes and text; set it to 1'
      )
    kept = [k for k in trained.droppable if not drop[k]]
    if kept:
      raise errors.ConfigError(
        f'config.sample.guidance_scale is {c.guidance_scale}, but the model '
        f'was trained with config.train.drop.{kept[0]} = 0 and does not know '
        'the null condition; set the scale to 1, or train with 0.1'
      )
  if c.weight_schedule == 'pigdm' and c.guidance_weight < 1:
    raise errors.ConfigError(
      f'config.sample.guidance_weight is {c.guidance_weight}, the largest '
      "weight of 'pigdm', which begins at 1; use 1 or more, or the "
      "weight_schedule 'constant'"
    )
  if c.conditioning != 'reconstruction' and c.factor > 1:
    raise errors.ConfigError(
      f'config.sample.conditioning is {c.conditioning!r}, which needs frames '
      'that are known completely, not at 1/config.sample.factor of the '
      "resolution; use 'reconstruction'"
    )


def _film(config, handed: Handed):
  """The video that is given, or None, and from one frame used to the next."""
  c, video = config.sample, handed.video
  if video is None:
    return c.video or None, base_stride(config)
  given_lib.check_pixels(video)
  if len(video) not in (1, c.count):
    raise errors.DataError(
      f'{len(video)} videos are given for {c.count} to sample; give one for '
      'each, or one for all'
    )
  return video, 1


def given_video(config, frames: int, handed: Handed = NOTHING) -> Given:
  """What `config.sample.video` gives; nothing if there is none."""
  c = config.sample
  film, stride = _film(config, handed)
  if film is not None:
    return given_lib.from_video(
      film,
      frames=frames,
      size=config.data.size,
      stride=stride,
      start=c.start,
      known=c.known,
      factor=c.factor,
      resize=config.data.resize,
    )
  if c.known or c.factor > 1:
    raise errors.ConfigError(
      'config.sample.known or factor is set, but no video; name one with '
      '--config.sample.video=FILE'
    )
  return Given()


def strides_of(config, trained: Conditions, plan) -> tuple[int, ...]:
  """The index of each window's frame stride, if the model is told it.

  Raises:
    ConfigError: a window needs a stride that the model was not trained with.
  """
  strides, base = trained.strides or (config.data.stride,), base_stride(config)
  if base not in strides:
    raise errors.ConfigError(
      f'config.sample.stride is {base}, but the model was trained with the '
      f'frame strides {strides}; use one of these'
    )
  wanted = [base * window.spacing for window in plan]
  for stride in wanted:
    if stride not in strides:
      raise errors.ConfigError(
        f'key frames {stride // base} apart are needed first, but the model '
        f'was trained with the frame strides {strides} only; train it with '
        'config.data.strides, give the key frames by config.sample.video, or '
        "use the order 'extension'"
      )
  return tuple(map(strides.index, wanted)) if trained.strides else ()


def base_stride(config) -> int:
  """The frame stride of the videos to sample."""
  return config.sample.stride or config.data.stride
