"""Samples a trained model: from a workdir to videos and a gallery page."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vdm_jax import (
  build,
  checkpoint,
  distributed,
  ensemble,
  identity,
  refine,
  rng,
  runtime,
  sharding,
)
from vdm_jax import config as config_lib
from vdm_jax import given as given_lib
from vdm_jax import request as request_lib
from vdm_jax import state as state_lib
from vdm_jax.conditions import Conditions
from vdm_jax.data import shapes
from vdm_jax.generate import Generator
from vdm_jax.given import Given
from vdm_jax.media import gallery
from vdm_jax.progress import Progress
from vdm_jax.request import Request
from vdm_jax.store import FrameStore, MemoryStore


@dataclasses.dataclass(frozen=True)
class Clips:
  """Videos and what each of them was made from.

  Attributes:
    videos: uint8 `[n, t, h, w, 3]`, perhaps on disk.
    items: per video its seed, index and conditions.
    labels: int32 `[n]`, or None without classes.
    prompts: a caption per video; empty without text.
  """

  videos: UInt8[np.ndarray, 'n t h w 3']
  items: list[dict]
  labels: np.ndarray | None = None
  prompts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Model:
  """A trained model, ready to be sampled.

  Attributes:
    config: the settings, those of its run but for `sample` and `mesh`.
    params: the averaged parameters.
    generate: draws batches.
    conditions: what it was trained with.
    step: of training.
    expert_steps: the same of the experts besides.
  """

  config: Any
  params: Any
  generate: Generator
  conditions: Conditions
  step: int
  expert_steps: tuple[int, ...] = ()


def run(config, workdir: pathlib.Path, devices=None):
  """Samples a checkpoint of a workdir, the newest by default.

  Args:
    config: the settings, validated; those of the run but for `sample`.
    workdir: of a run that was trained.
    devices: the devices to sample on, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  mesh = sharding.of_config(config, devices)
  checkpoints = checkpoints_of(config, workdir)
  trained = trained_with(checkpoints, config)
  wanted = request_lib.make(config, trained, mesh=mesh)
  model = restore(config, checkpoints, trained, mesh)
  name = f'sample_step_{model.step}_seed_{wanted.seed}_{digest(config)}'
  with kept(workdir / 'samples' / f'.{name}', model, wanted) as store:
    clips = draw(model, wanted, store)
    if jax.process_index():
      return
    folder = write(
      config,
      workdir,
      clips,
      name=name,
      title=f'Samples of step {model.step}, seed {wanted.seed}',
    )
    scores = score(config, clips)
  page = gallery.rebuild(workdir, title=config.name, facts=facts(config))
  runtime.say(f'{len(clips.items)} samples in {folder}: open {page}')
  print_scores(scores)


def checkpoints_of(config, workdir) -> checkpoint.Checkpoints:
  """The checkpoints of a run, to read that which `config.sample` asks for."""
  step = config.sample.step
  return checkpoint.Checkpoints(workdir, read_only=True, step=step)


def trained_with(checkpoints, config) -> Conditions:
  """What the model of a checkpoint was trained with.

  Raises:
    CheckpointError: there is none, or it is of another config.
  """
  meta = checkpoints.newest_meta()
  identity.refuse_other(
    json.dumps(meta['config']),
    config,
    what='the checkpoint',
    advice='undo the change',
  )
  return Conditions.from_json(meta['conditions'])


def restore(config, checkpoints, trained: Conditions, mesh) -> Model:
  """The averaged parameters of the newest checkpoint that can be read.

  With `config.sample.experts` also those of the experts.
  """
  others = ensemble.find(config, trained)
  model = build.model(config, trained)
  abstract = abstract_params(config, model, mesh)
  params, meta = checkpoints.restore_ema(abstract)
  runtime.say(f'sampling the averaged parameters of step {meta["step"]}')
  generate, steps = generator(config, model, mesh), ()
  if others:
    params, steps = others.restore(params, abstract)
  return Model(config, params, generate, trained, meta['step'], steps)


def generator(config, model, mesh) -> Generator:
  """A generator whose batches are no larger than what is asked for."""
  c = config.sample
  few = max(1, min(c.batch_size, c.count))
  return Generator(
    config_lib.varied(config, {'sample.batch_size': few}), model, mesh
  )


def abstract_params(config, model, mesh):
  """Shapes and shardings of the parameters, without making any."""
  sizes = {'frames': config.data.frames, 'size': refine.training_size(config)}
  shapes = jax.eval_shape(
    lambda key: state_lib.init_params(model, key, **sizes), jax.random.key(0)
  )
  return checkpoint.abstract_like(shapes, sharding.tree_shardings(mesh, shapes))


def digest(config) -> str:
  """Six letters that tell one set of sampling options from another."""
  told = ['sample']
  if config.refine.kind != 'none':
    told.append('refine.augment_level')
  options = identity.counted(config, told, identity.SHOWN)
  text = json.dumps(options, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:6]


@contextlib.contextmanager
def kept(folder: pathlib.Path, model: Model, wanted: Request):
  """A store on disk for as long as it is not finished."""
  store = open_store(folder, model, wanted)
  yield store
  store.remove()


def open_store(folder: pathlib.Path, model: Model, wanted: Request):
  """A store on disk, which continues that of the same model and request.

  Only the first process writes; the others keep nothing.
  """
  shape = (len(wanted.items), wanted.frames, *model.generate.shape[1:])
  if jax.process_index():
    store = MemoryStore((0, *shape[1:]))
    store.done = int(from_first(np.zeros((), int)))
    return store
  known = hashlib.sha256()
  beforehand = [wanted.given.full, wanted.given.low]
  beforehand += [wanted.low and wanted.low.videos]
  for array in beforehand:
    if array is not None:
      known.update(np.ascontiguousarray(array))
  known.update(wanted.told.identity())
  about = {
    'step': model.step,
    'config': identity.counted(
      model.config, identity.SAMPLED, identity.NOT_SAMPLED
    ),
    'batch_size': model.generate.batch_size,
    'known': known.hexdigest(),
  }
  if model.expert_steps:
    about['experts'] = list(model.expert_steps)
  store = FrameStore(folder, shape=shape, request=about)
  from_first(np.asarray(store.done))
  return store


def draw(model: Model, wanted: Request, store, *, quiet: bool = False) -> Clips:
  """Samples what a request asks for, window by window, into a store.

  What the store holds already is not made again.

  Args:
    model: the model.
    wanted: the request.
    store: where the frames go.
    quiet: report no progress.
  """
  count, batch = len(wanted.items), model.generate.batch_size
  order = [
    (first, w)
    for first in range(0, count, batch)
    for w in range(len(wanted.windows))
  ]
  progress = Progress(
    len(order) * wanted.steps,
    start=store.done * wanted.steps,
    name='sampling',
    quiet=quiet or jax.process_index() > 0,
  )
  scale = model.config.sample.guidance_scale
  if scale != 1 and not quiet:
    runtime.say(f'guidance scale {scale:g} (w = {scale - 1:g})')
  if store.done:
    runtime.say(f'continuing after {store.done} of {len(order)} windows')
  elif jax.process_index() == 0:
    _write_given(wanted.given, store, count)
  patience = model.config.train.watchdog and distributed.PATIENCE
  with distributed.Watchdog(patience) as watchdog:
    for unit in range(store.done, len(order)):
      first, w = order[unit]

      def tick(steps, unit=unit):
        watchdog.feed()
        progress.update(unit * wanted.steps + steps)

      rows = (first + np.arange(batch)) % count
      videos = _window(model, wanted, store, rows, w, tick)
      if jax.process_index() == 0:
        rows = rows[: count - first]
        numbers = list(wanted.windows[w].frames)
        new = list(wanted.windows[w].new)
        store.write(rows, [numbers[i] for i in new], videos[: len(rows), new])
        store.commit(unit + 1)
  return Clips(store.videos, wanted.items, wanted.labels, wanted.prompts)


def _window(model: Model, wanted: Request, store, rows, w: int, tick):
  """The videos of one window of one batch."""
  window = wanted.windows[w]
  numbers = list(window.frames)
  made = [i for i in window.known if numbers[i] not in wanted.given.frames]
  # A network that refines sees what it is given: that guides nothing.
  known = Given() if wanted.low else wanted.given
  observation = known.observe(
    numbers,
    rows,
    made=made,
    videos=_read(store, rows, [numbers[i] for i in made]),
    read=of_first,
  )
  told = wanted.told.of(rows)
  if wanted.strides:
    told['stride'] = np.full(len(rows), wanted.strides[w], np.int32)
  low = {'low': wanted.low.of(rows, numbers, of_first)} if wanted.low else {}
  return model.generate(
    model.params,
    keys=rng.per_example(
      rng.stream(wanted.seed, 'sample', w), jnp.asarray(rows)
    ),
    told=told,
    observation=observation,
    steps=wanted.steps,
    tick=tick,
    **low,
  )


def _write_given(given: Given, store, count: int):
  """Puts the frames that are known completely in their place."""
  for row in range(count if given.frames else 0):
    known = given.full[row % len(given.full)]
    store.write([row], given.frames, known[None])


def _read(store, rows, numbers):
  """Frames of the store, which the first process keeps, for all of them."""
  if not numbers:
    return None
  if jax.process_index():
    shape = (len(rows), len(numbers), *store.videos.shape[2:])
    return from_first(np.zeros(shape, np.uint8))
  return from_first(store.read(rows, numbers))


def of_first(videos: np.ndarray, rows, places) -> np.ndarray:
  """Frames of videos, as `given.take` reads them, for all processes.

  The first process has the videos; of others only the shape of a frame counts.
  """
  if jax.process_index():
    shape = (len(rows), len(places), *videos.shape[2:])
    return from_first(np.zeros(shape, np.uint8))
  return from_first(given_lib.take(videos, rows, places))


def from_first(value: np.ndarray) -> np.ndarray:
  """The first process's value, of the same shape in all of them."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  distributed.barrier('from first')
  return np.asarray(multihost_utils.broadcast_one_to_all(value))


def in_memory(model: Model, wanted: Request, *, quiet: bool = False) -> Clips:
  """Samples what a request asks for, and keeps it in memory."""
  shape = (len(wanted.items), wanted.frames, *model.generate.shape[1:])
  return draw(model, wanted, MemoryStore(shape), quiet=quiet)


def write(
  config,
  workdir,
  clips: Clips,
  *,
  name: str,
  title: str | None = None,
  note: str = '',
  step: int | None = None,
) -> pathlib.Path:
  """Writes a set of samples; the gallery is made by its caller.

  Args:
    config: the whole config.
    workdir: of the run.
    clips: the samples.
    name: of their folder below `samples`.
    title: their heading in the gallery; made from step or name if None.
    note: a sentence below it.
    step: of training, for samples made while it goes on; else None.
  """
  c = config.sample
  steps = c.steps if step is None else config.train.sample_steps
  about = {'sampler': c.sampler, 'steps': steps, 'seed': c.seed}
  if c.sampler in ('ancestral', 'predictor_corrector'):
    about['gamma'] = c.gamma
  if c.guidance_scale != 1:
    w = c.guidance_scale - 1
    about['guidance scale'] = f'{c.guidance_scale:g} (w = {w:g})'
  refines = config.refine.kind != 'none'
  if refines:
    r = config.refine
    about['refines'] = f'{r.kind}, factor {r.factor}'
    about['noise level'] = f'{r.augment_level:g}' if r.augment else 'none'
  guided = (c.video and not refines) or c.frames > config.data.frames
  if step is None and guided:
    about['conditioning'] = c.conditioning
    if c.conditioning == 'reconstruction':
      about['w_r'] = f'{c.guidance_weight:g}, {c.weight_schedule}'
  return gallery.write_samples(
    workdir,
    name,
    clips.videos,
    c.frame_rate,
    clips.items,
    about,
    step=step,
    title=title,
    note=note,
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
    clips.videos,
    labels=clips.labels,
    captions=clips.prompts or None,
    stride=float(request_lib.base_stride(config)),
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
