"""The program from Python: train a model, load it, call it.

    model = vdm_jax.load('runs/shapes')
    videos = model.sample(4, seed=1, steps=64)
    longer = model.extend(videos, 24)

Videos are numpy arrays uint8 `[b, t, h, w, 3]`, RGB from 0 to 255, going in
and coming out. All goes the way of `--mode=sample`, so that the same settings
on the same devices make the same videos to the bit; and whatever that refuses
raises the error here whose line it prints, a subclass of `errors.UserError`.

A setting is called as in `config.sample`. What a call leaves out is what the
workdir's run says, or what was said to `load`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from vdm_jax import (
  build,
  errors,
  given,
  identity,
  request,
  runtime,
  sharding,
  train,
  validation,
)
from vdm_jax import config as config_lib
from vdm_jax import sample as sample_lib
from vdm_jax.conditions import Conditions
from vdm_jax.generate import Generator

Videos = UInt8[np.ndarray, 'b t h w 3']

# Settings of `config.sample` that calls have other names for, or no use.
NOT_SETTINGS = (
  'step',
  'count',
  'label',
  'prompt',
  'prompts',
  'video',
  'frames',
  'experts',
  'frame_rate',
  'arrays',
)
# Those that change what a program is given, not what it computes.
GIVEN = (
  *NOT_SETTINGS,
  'seed',
  'steps',
  'stride',
  'order',
  'overlap',
  'key_stride',
  'start',
  'known',
  'factor',
)
ARGUMENTS = ('count', 'prompts', 'labels', 'frames', 'video', 'quiet')
COUNT = 4  # videos, where nothing says how many


@runtime.memory_told()
def fit(config, workdir: str | os.PathLike, devices=None):
  """Trains a model, as `--mode=train` does; a second call continues.

  Prints how far it is, and leaves checkpoints and a gallery in the workdir.

  Args:
    config: all settings, as a file of `configs/` returns them.
    workdir: where the run lives; for `load` then.
    devices: the devices to train on, all by default.

  Raises:
    UserError: for whatever can be mended; see `errors`.
  """
  validation.validate(config)
  _start(config)
  folder = pathlib.Path(workdir).expanduser().absolute()
  train.run(config_lib.varied(config, {}), folder, devices)


@runtime.memory_told()
def load(
  workdir: str | os.PathLike, *, devices=None, **settings: Any
) -> 'VideoModel':
  """The newest checkpoint of a workdir, ready to be sampled.

  Args:
    workdir: of a run that was trained.
    devices: the devices to sample on, all by default.
    **settings: of `config.sample`, for all calls; others by dotted names, such
      as `**{'mesh.fsdp': 8, 'text.encoder': 'FOLDER'}`.

  Raises:
    CheckpointError: there is no checkpoint that can be read.
    ConfigError: a setting is unknown or cannot work.
  """
  folder = pathlib.Path(workdir).expanduser().absolute()
  saved = folder / 'config.json'
  if not saved.is_file():
    raise errors.CheckpointError(
      f'{folder} holds no run (there is no config.json in it); name the '
      'workdir of a run that was trained'
    )
  config = identity.from_json(saved.read_text())
  dotted = {k: k for k in config_lib.flat(config) if '.' in k}
  known = dotted | _settings(config)
  known |= {name: f'sample.{name}' for name in ('experts', 'step')}
  config = _changed(config, settings, known)
  _start(config)
  mesh = sharding.of_config(config, devices)
  checkpoints = sample_lib.checkpoints_of(config, folder)
  trained = sample_lib.trained_with(checkpoints, config)
  model = sample_lib.restore(config, checkpoints, trained, mesh)
  checkpoints.close()
  return VideoModel(model, mesh)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VideoModel:
  """A trained model; made by `load`.

  Programs are compiled at the first call of their kind and then kept: another
  seed, prompt or number of windows compiles nothing.

  Attributes:
    model: the averaged parameters, the settings, and what it was trained with.
    mesh: the devices.
  """

  model: sample_lib.Model
  mesh: jax.sharding.Mesh
  _generators: dict[tuple, Generator] = dataclasses.field(default_factory=dict)

  def __repr__(self) -> str:
    t, h, w, _ = self.shape
    name, step = self.config.name, self.model.step
    return f'VideoModel({name!r}, {t}×{h}×{w}, step {step})'

  @property
  def config(self):
    """All settings: of the run, changed by those of `load`."""
    return self.model.config

  @property
  def conditions(self) -> Conditions:
    """What it was trained with: `classes`, the kind of `text`, `strides`."""
    return self.model.conditions

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """(t, h, w, 3) of the videos that it makes at once."""
    return self.model.generate.shape

  def read(self, path: str | os.PathLike, *, start: int = 0) -> Videos:
    """A file as a video `[1, t, h, w, 3]` of the model's size and frame stride.

    Args:
      path: mp4, avi, mkv, webm, mov or gif.
      start: its first frame that is used.

    Raises:
      DataError: it is missing or cannot be read, or has no such frame.
    """
    c = self.config.data
    return given.read(
      path,
      size=c.size,
      stride=request.base_stride(self.config),
      start=start,
      resize=c.resize,
    )

  @runtime.memory_told()
  def sample(
    self,
    count: int | None = None,
    *,
    prompts: str | Sequence[str] | None = None,
    labels: int | Sequence[int] | np.ndarray | None = None,
    frames: int = 0,
    video: np.ndarray | str | os.PathLike | None = None,
    quiet: bool = False,
    **settings: Any,
  ) -> Videos:
    """Makes videos of nothing, or of what is known of them.

    Args:
      count: how many; by default as many as there are prompts, labels or
        videos in a list, else 4.
      prompts: a caption for all, or captions in turn, of a model of text.
        Captions of its training by default, and none with a video.
      labels: a class for all, or classes in turn, of a model of classes: 0 to
        len(conditions.classes) − 1. All in turn by default, and none with a
        video: a model that was trained with classes always must be told them.
      frames: of each; 0 for as many as the model makes at once, more for long
        videos, window by window.
      video: what `known` and `factor` speak of, or what a model that refines
        refines: uint8 `[count or 1, t, h, w, 3]`, whose frames are those of
        the sampled video, or a file. Pixels are brought to the model's size.
      quiet: show no progress.
      **settings: of `config.sample`: `seed`, `steps`, `sampler`,
        `guidance_scale` (1 + w), `batch_size`, `overlap`, `order`, `known`
        (frames kept, such as '0:3'), `factor`, …. An overlap that is neither
        given here nor fits is half of what the model makes at once.

    Returns:
      uint8 `[count, frames, h, w, 3]`.

    Raises:
      UserError: for what the command refuses too.
    """
    texts, classes = _listed(prompts, str), _listed(labels, int)
    pixels = video if isinstance(video, np.ndarray) else None
    changes = {'count': count, 'frames': frames}
    if count is None:
      listed = (texts, classes, () if pixels is None else pixels)
      changes['count'] = max(map(len, listed)) or COUNT
    if isinstance(prompts, str):
      changes |= {'prompt': prompts, 'prompts': ''}
    if classes == () and labels is not None:
      changes['label'] = labels
    if video is not None:
      changes['video'] = '' if pixels is not None else os.fspath(video)
    known = _settings(self.config)
    for name in settings:
      config_lib.choose('a setting', name, (*known, *ARGUMENTS))
    asked = _changed(self.config, settings, known)
    own = {name: f'sample.{name}' for name in changes}
    config = self._fitting(_changed(asked, changes, own), settings)
    wanted = request.make(
      config,
      self.conditions,
      mesh=self.mesh,
      handed=request.Handed(pixels, texts, classes),
    )
    model = dataclasses.replace(
      self.model, config=config, generate=self._generator(config)
    )
    clips = sample_lib.in_memory(model, wanted, quiet=quiet)
    return sample_lib.from_first(np.array(clips.videos))

  def extend(self, video: np.ndarray, frames: int, **options: Any) -> Videos:
    """Continues videos; the frames that are given stay as they are.

    Args:
      video: uint8 `[b, t, h, w, 3]`, the first frames.
      frames: of the result, those included.
      **options: of `sample`. Besides, `conditioning`: how frames that are
        known are kept to, 'reconstruction', or as baselines 'replacement' and
        'replacement_marginal'; `guidance_weight`, w_r.

    Returns:
      uint8 `[count, frames, h, w, 3]`, count being b unless it is given.
    """
    given.check_pixels(video)
    fixed = {'known': f':{video.shape[1]}', 'factor': 1, 'start': 0}
    return self._of(video, frames, 'extend', options, fixed)

  def interpolate(
    self, video: np.ndarray, factor: int | None = None, **options: Any
  ) -> Videos:
    """Makes the frames between those of videos.

    Frame i becomes frame i · factor. It stays as it is, but for networks that
    were trained to interpolate and to which noise on it is added
    (`config.refine.augment_level`): these make it anew too.

    Args:
      video: uint8 `[b, t, h, w, 3]`, of two frames or more.
      factor: how many times as many frames, 2 or more; of a model that was
        trained to interpolate, its own.
      **options: of `sample`.

    Returns:
      uint8 `[count, (t − 1) factor + 1, h, w, 3]`, of no fewer frames than the
      model makes at once.
    """
    given.check_pixels(video)
    factor = self._factor('interpolate', factor)
    frames, more = (video.shape[1] - 1) * factor + 1, 0
    fixed = {'factor': 1, 'start': 0, 'known': ''}
    if self.config.refine.kind == 'none':
      fixed |= {'order': 'interpolation', 'key_stride': factor}
      fixed |= {'known': f'::{factor}'}
    else:
      # Windows begin at key frames, and the last one ends with the video.
      window = self.shape[0]
      more = (window - 1) % factor
      free = window - self.config.sample.overlap
      if free < 1 or free % factor:
        options.setdefault('overlap', window - (window - 1) // factor * factor)
    # Of the frames between only the places count.
    spread = np.repeat(video, factor, 1)[:, : frames + more]
    made = self._of(spread, frames + more, 'interpolate', options, fixed)
    return made[:, :frames]

  def upsample(
    self, video: np.ndarray, factor: int | None = None, **options: Any
  ) -> Videos:
    """Makes larger videos, of which blocks of pixels have the mean given.

    By reconstruction guidance, or by a network that was trained for it.

    Args:
      video: uint8 `[b, t, h/factor, w/factor, 3]`, of as many frames as the
        model makes at once or more. A video as large as the model's, or
        larger, is made coarse first.
      factor: how many times as many pixels a side; by default what brings
        `video` to the size of the model. Of a model that was trained to
        upsample, its own.
      **options: of `sample`; see `extend`.

    Returns:
      uint8 `[count, t, h, w, 3]`.
    """
    given.check_pixels(video)
    if factor is None and self.config.refine.kind == 'none':
      factor, rest = divmod(self.shape[1], video.shape[2])
      if rest or factor < 2 or video.shape[2] != video.shape[3]:
        raise errors.DataError(
          f'frames of {video.shape[2]}×{video.shape[3]} are no whole part of '
          f'{self.shape[1]}×{self.shape[2]}; name the factor by which they are '
          'to be enlarged'
        )
    factor = self._factor('upsample', factor)
    refines = self.config.refine.kind != 'none'
    fixed = {'known': '', 'factor': 1 if refines else factor, 'start': 0}
    return self._of(video, video.shape[1], 'upsample', options, fixed)

  def _of(self, video, frames: int, method: str, options, fixed) -> Videos:
    """Samples with settings that a method fixes."""
    for name in sorted({*fixed, 'frames', 'video'} & set(options)):
      raise errors.ConfigError(
        f'{method} sets {name} itself (got {options[name]!r}); leave it out, '
        'or use sample'
      )
    return self.sample(**options, **fixed, frames=frames, video=video)

  def _factor(self, method: str, factor: int | None) -> int:
    """The factor of a call, or that of a model which refines."""
    c = self.config.refine
    if c.kind == 'none':
      if factor is None or factor < 2:
        raise errors.ConfigError(
          f'the factor of {method} is {factor}; it must be 2 or more'
        )
      return factor
    if c.kind != method or factor not in (None, c.factor):
      raise errors.ConfigError(
        f'the model was trained to {c.kind} by {c.factor}, and cannot {method} '
        f'by {factor or "another factor"}; use {c.kind} with factor {c.factor}'
      )
    return c.factor

  def _fitting(self, config, settings: Mapping):
    """The config, with an overlap that fits unless one is asked for."""
    window = self.shape[0]
    if 'overlap' in settings or config.sample.overlap < window:
      return config
    return config_lib.varied(config, {'sample.overlap': window // 2})

  def _generator(self, config) -> Generator:
    """The programs for such settings, those of an earlier call if there are."""
    c = config.sample
    key = tuple(c[k] for k in sorted(c) if k not in (*GIVEN, 'batch_size'))
    key = (min(c.batch_size, c.count), *key)
    if key not in self._generators:
      network = build.model(config, self.conditions)
      self._generators[key] = sample_lib.generator(config, network, self.mesh)
    return self._generators[key]


def _start(config):
  """Starts JAX as the command does, as far as it is not running yet."""
  c = config.mesh
  try:
    runtime.start(cpu_devices=c.cpu_devices, platform=c.platform)
  except RuntimeError:  # too late to split the CPU
    runtime.start(platform=c.platform)
  runtime.check_platform(c.platform)


def _settings(config) -> dict[str, str]:
  """The keys of the config by the names of settings of calls."""
  return {k: f'sample.{k}' for k in config.sample if k not in NOT_SETTINGS}


def _changed(config, changes: Mapping[str, Any], known: Mapping[str, str]):
  """The config with other settings.

  Args:
    config: the settings.
    changes: new values.
    known: the keys of the config by the names that may be given.

  Raises:
    ConfigError: another name, or a value of another kind or out of range.
  """
  values = {}
  for name, value in changes.items():
    config_lib.choose('a setting', name, tuple(known))
    value = value.item() if isinstance(value, np.generic) else value
    values[known[name]] = tuple(value) if isinstance(value, list) else value
  try:
    config = config_lib.varied(config, values)
  except (TypeError, ValueError) as e:
    raise errors.ConfigError(
      f'a setting is of the wrong kind ({" ".join(str(e).split())[:200]}); '
      'see vdm_jax/config.py'
    ) from e
  validation.validate(config)
  return config


def _listed(values, kind: type) -> tuple:
  """The elements of a list of them; none of a single one or None."""
  if values is None or isinstance(values, kind | np.integer):
    return ()
  return tuple(kind(value) for value in values)
