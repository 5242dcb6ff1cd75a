"""What to sample: the wishes of `config.sample`, checked and made concrete."""

import dataclasses

import numpy as np

from vdm_jax import errors, windows
from vdm_jax import given as given_lib
from vdm_jax.conditions import Conditions
from vdm_jax.given import Given
from vdm_jax.text import prompts


@dataclasses.dataclass(frozen=True)
class Request:
  """What to sample, checked.

  Attributes:
    seed: of the samples.
    steps: of the sampler.
    frames: of a video.
    windows: the parts in which a video is made.
    given: what is known of the videos beforehand.
    told: the arrays of the conditions, a row per video.
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
  told: dict[str, np.ndarray]
  strides: tuple[int, ...]
  items: list[dict]
  labels: np.ndarray | None
  prompts: tuple[str, ...]


def make(
  config, trained: Conditions, *, given: Given | None = None, mesh=None
) -> Request:
  """Checks what `config.sample` asks of a model, and reads what it names.

  Args:
    config: the whole config.
    trained: what the model was trained with.
    given: what is known of the videos; from `config.sample.video` if None.
    mesh: the devices that encode prompts.

  Raises:
    UserError: for what does not fit the model.
  """
  c = config.sample
  if not c.count:
    raise errors.ConfigError('config.sample.count is 0; ask for 1 or more')
  check_guidance(config, trained)
  frames = c.frames or config.data.frames
  if given is None:
    given = given_video(config, frames)
  plan = windows.plan(
    frames,
    config.data.frames,
    order=c.order,
    overlap=c.overlap,
    key_stride=c.key_stride,
    given=given.frames,
  )
  told, captions, labels = conditions_of(config, trained, mesh)
  items = [{'seed': c.seed, 'index': i} for i in range(c.count)]
  for i, item in enumerate(items):
    if labels is not None:
      item['class'] = trained.classes[labels[i]]
    if captions:
      item['caption'] = captions[i]
  return Request(
    seed=c.seed,
    steps=c.steps,
    frames=frames,
    windows=plan,
    given=given,
    told=told,
    strides=strides_of(config, trained, plan),
    items=items,
    labels=labels,
    prompts=tuple(captions),
  )


def plain(config, trained: Conditions, *, count: int, steps: int) -> Request:
  """What training shows: so many videos, as long as the model makes them."""
  config = config.copy_and_resolve_references().unlock()
  config.sample.update(
    count=count, steps=steps, frames=0, video='', known='', factor=1
  )
  return make(config, trained)


def check_guidance(config, trained: Conditions):
  """Raises ConfigError for guidance that the model cannot give."""
  c, drop = config.sample, config.train.drop
  if c.guidance_scale != 1:
    rates = {
      'label': drop.label if trained.classes else None,
      'text': drop.text if trained.text != 'none' else None,
    }
    rates = {k: rate for k, rate in rates.items() if rate is not None}
    if not rates:
      raise errors.ConfigError(
        f'config.sample.guidance_scale is {c.guidance_scale}, but the model '
        'was trained without classes and text; set it to 1'
      )
    kept = [k for k, rate in rates.items() if not rate]
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


def given_video(config, frames: int) -> Given:
  """What `config.sample.video` gives; nothing if there is none."""
  c = config.sample
  if c.video:
    return given_lib.from_video(
      c.video,
      frames=frames,
      size=config.data.size,
      stride=base_stride(config),
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


def conditions_of(config, trained: Conditions, mesh=None):
  """The conditions of `config.sample.count` videos: (arrays, captions, labels).

  Raises:
    UserError: for a condition that the model was not trained with.
  """
  c, count = config.sample, config.sample.count
  told, captions, labels = {}, [], None
  classes = len(trained.classes)
  if c.label >= classes:
    raise errors.ConfigError(
      f'config.sample.label is {c.label}, but the model knows {classes} '
      'classes; use −1, or a number below that'
    )
  if classes:
    labels = np.arange(count) % classes if c.label < 0 else c.label
    labels = np.broadcast_to(labels, (count,)).astype(np.int32)
    told['label'] = labels
  texts = prompts.read(c.prompt, c.prompts)
  if texts and trained.text == 'none':
    raise errors.ConfigError(
      'a prompt is given, but the model was trained without text; leave out '
      'config.sample.prompt and prompts'
    )
  if trained.text != 'none':
    texts = texts or list(trained.examples)
    array, mask = prompts.encode(
      texts,
      kind=trained.text,
      max_length=config.text.max_length,
      vocabulary=trained.words,
      encoder_hash=trained.encoder,
      cache=config.text.cache,
      encoder=config.text.encoder,
      mesh=mesh,
    )
    chosen = np.arange(count) % len(texts)
    captions = [texts[i] for i in chosen]
    told |= {'text': array[chosen, None], 'text_mask': mask[chosen, None]}
  return told, captions, labels


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
