"""Samples a trained model: from a workdir to videos and a gallery page."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vdm_jax import build, checkpoint, errors, rng, runtime, sharding
from vdm_jax import config as config_lib
from vdm_jax import state as state_lib
from vdm_jax import step as step_lib
from vdm_jax.data import shapes
from vdm_jax.diffusion import denoiser, samplers, schedules
from vdm_jax.media import gallery
from vdm_jax.progress import Progress


@dataclasses.dataclass(frozen=True)
class Clips:
  """Videos and what each of them was made from.

  Attributes:
    videos: uint8 `[n, t, h, w, 3]`.
    items: per video its seed, index and conditions.
    labels: int32 `[n]`, or None without classes.
  """

  videos: UInt8[np.ndarray, 'n t h w 3']
  items: list[dict]
  labels: np.ndarray | None = None


def run(config, workdir: pathlib.Path, devices=None):
  """Samples the newest checkpoint of a workdir.

  Args:
    config: the settings, validated; those of the run but for `sample`.
    workdir: of a run that was trained.
    devices: the devices to sample on, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  if not config.sample.count:
    raise errors.ConfigError('config.sample.count is 0; ask for 1 or more')
  checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
  trained = checkpoints.newest_meta()
  refuse_other(trained, config)
  classes = tuple(trained['classes'])
  model = build.model(config, len(classes))
  ema, meta = checkpoints.restore_ema(abstract_params(config, model, mesh))
  runtime.say(f'sampling the averaged parameters of step {meta["step"]}')
  clips = Generator(config, model, mesh)(
    ema, count=config.sample.count, steps=config.sample.steps, classes=classes
  )
  if jax.process_index():
    return
  step, seed = meta['step'], config.sample.seed
  folder = write(
    config,
    workdir,
    clips,
    name=f'sample_step_{step}_seed_{seed}',
    title=f'Samples of step {step}, seed {seed}',
  )
  scores = score(config, clips)
  page = gallery.rebuild(workdir, title=config.name, facts=facts(config))
  runtime.say(f'{len(clips.videos)} samples in {folder}: open {page}')
  print_scores(scores)


def refuse_other(trained: dict, config):
  """Raises CheckpointError if a checkpoint was trained with another config."""
  saved = config_lib.from_json(json.dumps(trained['config']))
  differing = config_lib.differences(saved, config)
  if differing:
    raise errors.CheckpointError(
      f'the checkpoint is of another config ({"; ".join(differing[:3])}); undo '
      'the change'
    )


def abstract_params(config, model, mesh):
  """Shapes and shardings of the parameters, without making any."""
  c = config.data
  shapes = jax.eval_shape(
    lambda key: state_lib.init_params(model, key, frames=c.frames, size=c.size),
    jax.random.key(0),
  )
  return checkpoint.abstract_like(shapes, sharding.tree_shardings(mesh, shapes))


class Generator:
  """Draws videos; sample i is the same for any batch size and mesh.

  Three programs are compiled once each: the first latent, a run of steps, and
  the last step. The host only counts, so that there is progress to report.
  """

  def __init__(self, config, model, mesh):
    self.config = config
    self.model = model
    self.objective = build.objective(config)
    self.step = build.sampler(config)
    self.place = sharding.batch_sharding(mesh)
    # A batch fills every device; what is too much is thrown away.
    self.batch_size = -(-config.sample.batch_size // mesh.size) * mesh.size
    c = config.data
    self.shape = (c.frames, c.size, c.size, 3)
    self._start = jax.jit(self._first_latent, out_shardings=self.place)
    self._advance = jax.jit(
      self._steps, donate_argnums=1, out_shardings=self.place
    )
    self._finish = jax.jit(self._last_step, out_shardings=self.place)

  def __call__(
    self, params, *, count: int, steps: int, classes=(), quiet: bool = False
  ) -> Clips:
    """Samples 0 … count − 1 of the config's seed.

    Args:
      params: the parameters to sample with, usually the averaged ones.
      count: how many videos.
      steps: of the sampler.
      classes: names of the classes, for models with labels.
      quiet: report no progress.
    """
    seed = self.config.sample.seed
    indices = np.arange(count)
    labels = self._labels(indices)
    batches = -(-count // self.batch_size)
    progress = Progress(
      batches * steps,
      name='sampling',
      quiet=quiet or jax.process_index() > 0,
    )
    videos = []
    for b in range(batches):
      part = (b * self.batch_size + np.arange(self.batch_size)) % count
      keys = rng.per_example(
        rng.stream(seed, 'sample'), jnp.asarray(indices[part])
      )
      label = None if labels is None else labels[part]
      done = b * steps
      for step, video in self._batch(params, keys, label, steps):
        progress.update(done + step)
        if step == steps:
          videos.append(_gather(video))
    items = [{'seed': seed, 'index': int(i)} for i in indices]
    if labels is not None:
      for item, label in zip(items, labels, strict=True):
        item['class'] = classes[label]
    return Clips(np.concatenate(videos)[:count], items, labels)

  def _batch(self, params, keys, label, steps: int):
    """Yields (steps done, videos so far), about twenty times."""
    if label is not None:
      label = jax.device_put(label, self.place)
    keys = jax.device_put(keys, self.place)
    levels = jnp.asarray(schedules.logsnr_grid(steps, self.objective.schedule))
    z = self._start(keys)
    stride = max(1, steps // 20)
    for begin in range(0, steps - 1, stride):
      end = min(begin + stride, steps - 1)
      z = self._advance(params, z, keys, levels, begin, end, label)
      yield end, z.block_until_ready()
    yield steps, self._finish(params, z, levels[-2], label)

  def _labels(self, indices):
    classes, chosen = self.model.num_classes, self.config.sample.label
    if chosen >= classes:
      raise errors.ConfigError(
        f'config.sample.label is {chosen}, but the model knows {classes} '
        'classes; use −1, or a number below that'
      )
    if not classes:
      return None
    label = indices % classes if chosen < 0 else np.full_like(indices, chosen)
    return label.astype(np.int32)

  def _denoise(self, params, label):
    network = step_lib.bind(self.model.apply, params, label)
    return denoiser.clipped(
      denoiser.from_network(network, self.objective.prediction)
    )

  def _first_latent(self, keys):
    return samplers.first_latent(
      keys=keys, shape=self.shape, prior=self.objective.prior
    )

  def _steps(self, params, z, keys, levels, begin, end, label):
    return samplers.advance(
      self._denoise(params, label),
      self.step,
      z=z,
      keys=keys,
      logsnrs=levels,
      prior=self.objective.prior,
      begin=begin,
      end=end,
    )

  def _last_step(self, params, z, logsnr, label):
    level = jnp.broadcast_to(logsnr, z.shape[:1])
    return step_lib.to_uint8(self._denoise(params, label)(z, level))


def write(
  config,
  workdir,
  clips: Clips,
  *,
  name: str,
  title: str | None = None,
  step: int | None = None,
) -> pathlib.Path:
  """Writes a set of samples; the gallery is made by its caller.

  Args:
    config: the whole config.
    workdir: of the run.
    clips: the samples.
    name: of their folder below `samples`.
    title: their heading in the gallery; made from step or name if None.
    step: of training, for samples made while it goes on; else None.
  """
  c = config.sample
  steps = c.steps if step is None else config.train.sample_steps
  about = {'sampler': c.sampler, 'steps': steps, 'seed': c.seed}
  if c.sampler == 'ancestral':
    about['gamma'] = c.gamma
  return gallery.write_samples(
    workdir,
    name,
    clips.videos,
    c.frame_rate,
    clips.items,
    about,
    step=step,
    title=title,
    gifs=step is None,
    array=c.arrays,
  )


def facts(config) -> dict:
  """What a gallery says of the run."""
  c = config.data
  return {
    'data': f'{c.source} {c.path}'.strip(),
    'video': f'{c.frames}×{c.size}×{c.size}',
    'prediction': config.diffusion.prediction,
    'noise prior': config.diffusion.prior,
    'batch': config.train.batch_size,
  }


def score(config, clips: Clips) -> dict[str, float] | None:
  """The judge's scores, for the data set that has a judge."""
  if config.data.source != 'shapes':
    return None
  return shapes.scores(
    clips.videos, labels=clips.labels, stride=float(config.data.stride)
  )


def print_scores(scores: dict[str, float] | None):
  """The scores as lines, each with what it means."""
  if scores is None:
    return
  meaning = {
    'valid': 'frames that show one shape of one colour',
    'identity': "frames that keep the clip's shape and colour",
    'on_path': 'clips of one shape and colour, within a pixel of a path',
    'moves': 'clips that move',
    'success': 'clips that do both, and closely for their speed',
    'label': 'clips of the class asked for',
    'trajectory_error': 'median distance to the best such path, pixels',
  }
  runtime.say("the judge's scores:")
  for name, value in scores.items():
    text = f'{value:.2f}' if name == 'trajectory_error' else f'{value:.1%}'
    runtime.say(f'  {name:<17}{text:>7}  {meaning.get(name, "")}'.rstrip())


def _gather(video) -> np.ndarray:
  if jax.process_count() == 1:
    return np.asarray(video)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(video, tiled=True))
