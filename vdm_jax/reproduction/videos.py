"""Rows that are videos of a model: of nothing, of prompts, of known frames."""

import dataclasses

import jax
import numpy as np

from vdm_jax import build, request, sample, windows
from vdm_jax import config as config_lib
from vdm_jax.data import seams, shapes
from vdm_jax.media import gallery
from vdm_jax.reproduction.bench import Bench, Kind, trained
from vdm_jax.reproduction.cells import Scores, slug
from vdm_jax.reproduction.tables import REAL
from vdm_jax.request import Handed

SHOWN = 8  # videos of each row on the page
HELD_OUT = 1  # the seed of clips that no model is trained on


def check(bench: Bench, name: str, row):
  """Raises UserError unless the row can be trained and sampled."""
  build.objective(row)
  build.sampler(row)
  if bench.scale == 'paper':
    return
  told = build.data(row)[1]
  request.make(row, told, mesh=bench.mesh, handed=handed(row))
  if bench.tuned(name):
    images = bench.images(name, row)
    build.model(images, build.data(images)[1])


def handed(row) -> Handed:
  """What the videos of a row are given: parts of other clips, or prompts."""
  c = row.sample
  if c.known:
    source = held_out(row)
    number = row.reproduce.get('clips', 0) or c.count
    clips = [source.clip(i) for i in range(number)]
    clips = [clips[i % number] for i in range(c.count)]
    labels = tuple(int(clip['label']) for clip in clips)
    captions = tuple(clip['caption'] for clip in clips)
    return Handed(
      video=np.stack([clip['video'] for clip in clips]),
      labels=labels if row.model.labels else (),
      prompts=captions if row.text.kind != 'none' else (),
    )
  if row.reproduce.get('prompts', 0):
    every = shapes.Shapes(frames=1, size=8).captions()
    chosen = np.linspace(0, len(every) - 1, row.reproduce.prompts).round()
    return Handed(prompts=tuple(every[int(i)] for i in chosen))
  return Handed()


def held_out(config, frames: int = 0, size: int = 0) -> shapes.Shapes:
  """Clips of the length that is sampled, none of which was trained on."""
  return shapes.Shapes(
    frames=frames or config.sample.frames or config.data.frames,
    size=size or config.data.size,
    stride=request.base_stride(config),
    seed=HELD_OUT,
  )


def prepare(bench: Bench, name: str, row) -> sample.Model:
  """The model of a row, trained."""
  row, folder = trained(bench, name, row)
  checkpoints = sample.checkpoints_of(row, folder)
  known = sample.trained_with(checkpoints, row)
  return sample.restore(row, checkpoints, known, bench.mesh)


def score(bench: Bench, name: str, model: sample.Model, seed: int) -> Scores:
  """Samples a row with one seed and judges it."""
  row = config_lib.varied(model.config, {'sample.seed': seed})
  model = dataclasses.replace(model, config=row)
  videos = bench.workdir / 'videos' / bench.cell(name, row, seed)
  if bench.scale == 'paper':
    from vdm_jax.reproduction import measuring

    return measuring.of_model(bench, row, model, videos)
  known = handed(row)
  wanted = request.make(row, model.conditions, mesh=bench.mesh, handed=known)
  store = sample.open_store(videos, model, wanted)
  clips = sample.draw(model, wanted, store)
  if jax.process_index():
    return {}
  if bench.shows(row, seed):
    show(bench, row, clips, name)
  return judged(bench, row, clips)


def judged(bench: Bench, row, clips: sample.Clips) -> Scores:
  """The judge's scores, the seam error where windows are joined, and more."""
  found = sample.score(row, clips)
  starts = seam_starts(row)
  if starts and min(starts) >= seams.LEAST:
    stride = float(request.base_stride(row))
    found |= seams.seam_errors(clips.videos, starts, stride=stride)
  if bench.distance:
    frames, size = clips.videos.shape[1:3]
    real = held_out(row, frames, size)
    found['shapes_fd'] = bench.distance(clips.videos, real)
  return found


def seam_starts(config) -> list[int]:
  """The first new frames of the windows that follow on others."""
  c, own = config.sample, config.data.frames
  plan = windows.plan(
    c.frames or own,
    own,
    order=c.order,
    overlap=c.overlap,
    key_stride=c.key_stride,
  )
  return [w.frames[w.new[0]] for w in plan[1:]]


def show(bench: Bench, row, clips: sample.Clips, name: str):
  """Writes some videos of a row for the page."""
  clips = dataclasses.replace(
    clips, videos=clips.videos[:SHOWN], items=clips.items[:SHOWN]
  )
  folder = f'{bench.number(name)}_{slug(name)}'
  sample.write(row, bench.workdir, clips, name=folder, title=name)


def controls(bench: Bench) -> dict[str, Scores]:
  """Shows real clips of the same length, joined nowhere; their scores."""
  config = bench.config
  c, own = config.sample, config.data
  frames, size = c.frames or own.frames, own.size
  if bench.table.kind == 'cascade':
    last = config.cascade[config.cascade.order[-1]]
    frames, size = last.frames, last.size
  config = config_lib.varied(
    config, {'data.frames': frames, 'data.size': size, 'data.images': 0}
  )
  source, _ = build.data(config)
  rng = np.random.default_rng(0)
  found = [source.clip(i, rng) for i in range(c.count)]
  clips = sample.Clips(
    np.stack([clip['video'] for clip in found]),
    [{'clip': clip['id'], 'caption': clip['caption']} for clip in found],
    prompts=tuple(clip['caption'] for clip in found),
  )
  if jax.process_index() == 0:
    gallery.write_samples(
      bench.workdir,
      f'{bench.number(REAL)}_{slug(REAL)}',
      clips.videos[:SHOWN],
      c.frame_rate,
      clips.items[:SHOWN],
      {},
      title=REAL,
    )
  return {REAL: judged(bench, bench.config, clips)}


KIND = Kind(check, prepare, score, controls)
