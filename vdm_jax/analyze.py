"""Measures how the noises of frames correlate (Ge23 Table 1 and Fig. 2).

A model of images carries the frames of videos to the noises that make them, by
the probability flow run backwards, unclipped (see `coder`). What is lost on the
way there and back is measured too.
"""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vdm_jax import (
  build,
  checks,
  coder,
  conditions,
  ensemble,
  errors,
  rng,
  runs,
  runtime,
  sample,
  sharding,
  train,
)
from vdm_jax import config as config_lib
from vdm_jax.conditions import Conditions
from vdm_jax.data import frames as frames_lib
from vdm_jax.data import source as source_lib
from vdm_jax.diffusion import correlation, noise
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.media import gallery, noises, writing

OF, SAME, OTHER = 'cosine similarity', 'same video', 'different videos'
CAVEAT = (
  'The α that matches is not the best one to train with: Ge23 measure 0.206 ± '
  '0.156, and find best mixed α = 1 and progressive α = 2, whose frames '
  'correlate by 0.50 and, over 16 of them, 0.57 on average.'
)


@dataclasses.dataclass(frozen=True)
class Clips:
  """Frames of videos, and what the model is told of them.

  Attributes:
    names: of the videos.
    frames: uint8 `[m, n, h, w, 3]`.
    told: the conditions, a row per video.
  """

  names: tuple[str, ...]
  frames: UInt8[np.ndarray, 'm n h w 3']
  told: dict[str, np.ndarray]


def run(config, workdir: pathlib.Path, devices=None):
  """Analyses the newest checkpoint of a run that makes images.

  Leaves in the workdir: `analysis.json`, `analysis.png` and, in the gallery,
  the picture and the table.

  Args:
    config: the settings, validated; those of the run but for `analyze`, and
      for the levels of `sample`.
    workdir: of a run that was trained.
    devices: the devices to use, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  noises.check()
  if jax.process_count() > 1:
    raise errors.ConfigError(
      f'noises are analysed by one process ({jax.process_count()} run); start '
      'a single one'
    )
  config = config_lib.varied(config, {'sample.grid': 'karras'})
  mesh = sharding.of_config(config, devices)
  checkpoints = sample.checkpoints_of(config, workdir)
  told = sample.trained_with(checkpoints, config)
  check(config, told)
  clips = read(config, told, mesh)
  model = coder.restore(config, told, checkpoints, mesh)
  encoded = coder.encode(model, clips.frames, clips.told)
  if jax.process_index() == 0:
    report(config, workdir, model.step, clips, encoded)


def check(config, told: Conditions):
  """Raises ConfigError for a model or settings that cannot be analysed."""
  c, drop = config.analyze, config.train.drop
  for name, least in (
    ('videos', 2),
    ('frames', 2),
    ('stride', 1),
    ('steps', 2),
  ):
    if c[name] < least:
      raise errors.ConfigError(
        f'config.analyze.{name} is {c[name]}; it must be at least {least}'
      )
  build.levels(config, c.steps)  # a mistake in them ends here
  if not 0 < c.round_trip < 1:
    raise errors.ConfigError(
      f'config.analyze.round_trip is {c.round_trip}; it must be between 0 and '
      '1, such as 0.01'
    )
  if config.data.frames > 1:
    raise errors.ConfigError(
      f'the run makes videos of {config.data.frames} frames, whose noises are '
      'not those of single frames; analyse a run with config.data.frames=1, '
      'such as of configs/folder_image.py'
    )
  if config.refine.kind != 'none':
    raise errors.ConfigError(
      f'the run refines other videos (config.refine.kind is '
      f'{config.refine.kind!r}); analyse the run of a base model'
    )
  if not ensemble.is_whole(config):
    raise errors.ConfigError(
      f'the run knows the noise levels {config.diffusion.interval} alone; '
      'analyse the run that it began from'
    )
  kept = [k for k in told.droppable if not drop[k]]
  if c.path and kept:
    raise errors.ConfigError(
      f'the model was trained with config.train.drop.{kept[0]} = 0 and does '
      f'not know frames without a {kept[0]}, such as those of '
      'config.analyze.path; leave it empty, for the data of the run'
    )


def read(config, told: Conditions, mesh) -> Clips:
  """Frames of some videos, with the null condition where they have none.

  Raises:
    DataError: fewer than two videos can be used.
  """
  c = config.analyze
  videos = _reading(config)
  source, found = build.data(videos)
  checks.same_data(source, found, videos)
  runtime.say(checks.describe(source))
  if len(source) < 2:
    need = frames_lib.span(c.frames, c.stride)
    raise errors.DataError(
      f'too few usable videos ({len(source)}: '
      f'{c.path or config.data.path or config.data.source}); the analysis '
      f'compares two or more, of at least {need} frames each'
    )
  if not c.path:
    _refuse_other(told, found)
  order = np.random.default_rng(c.seed).permutation(len(source))[: c.videos]
  clips = [
    source_lib.checked(source, i, np.random.default_rng((c.seed, i)))
    for i in np.sort(order).tolist()
  ]
  if len(clips) < c.videos:
    runtime.say(f'{len(clips)} videos, not the {c.videos} asked for')
  shapes = train.batch_shapes(videos, told, mesh)
  known = {
    k: jnp.zeros((len(clips), *s.shape[1:]), s.dtype)
    for k, s in shapes.items()
    if k != 'video'
  }
  known = {k: np.asarray(v) for k, v in conditions.null(known).items()}
  for name in () if c.path else known:
    if name in clips[0]:
      known[name] = np.stack([clip[name] for clip in clips])
  return Clips(
    tuple(clip['id'] for clip in clips),
    np.stack([clip['video'] for clip in clips]),
    known,
  )


def _reading(config):
  """The settings that read videos where those of the run read frames."""
  c = config.analyze
  changes = {
    'data.frames': c.frames,
    'data.stride': c.stride,
    'data.strides': (),
    'data.images': 0,
    'data.flip': False,
    'data.short': 'skip',
  }
  if c.path:
    changes |= {
      'data.source': 'folder',
      'data.path': c.path,
      'data.classes': False,
      'model.labels': False,
      'text.kind': 'none',
    }
  return config_lib.varied(config, changes)


def _refuse_other(told: Conditions, found: Conditions):
  """Raises CheckpointError if the data tell other things than in training."""
  apart = runs.told_apart(dataclasses.replace(told, strides=()), found)
  if apart:
    raise errors.CheckpointError(
      f'the data of the run have changed ({"; ".join(apart[:3])}); bring the '
      'old data back, or name other videos with --config.analyze.path=FOLDER'
    )


def report(config, workdir, step: int, clips: Clips, encoded: coder.Encoded):
  """Prints what was found, and writes it, the picture and the page."""
  c, eps = config.analyze, encoded.eps
  draws = prior_draws(NoisePrior(), eps.shape, c.seed)
  compared = {
    'noises of frames': eps,
    'independent draws': draws,
    # The noises are like these for a model that has learned nothing.
    'pixels of frames': clips.frames / 127.5 - 1,
  }
  similar = {k: correlation.similarity(v) for k, v in compared.items()}
  lags = similar['noises of frames'].by_lag
  fits = {kind: fit(lags.mean(0)) for kind, fit in correlation.FITS.items()}
  facts = {
    'step': step,
    'videos': len(eps),
    'frames of each': eps.shape[1],
    'stride': c.stride,
    'steps of the solver': encoded.steps,
    'lost there and back': encoded.round_trip,
    'worst frame': encoded.worst,
    'moved from half the steps': encoded.moved,
    'RMS of the noises': encoded.rms,
  }
  alphas = {}
  for kind, fit in fits.items():
    error = correlation.standard_error(correlation.FITS[kind], lags)
    alphas[kind] = fit._asdict() | {'standard_error': error}
  lines = table(similar, c.stride)
  runtime.say(
    f'{encoded.steps} steps: {encoded.round_trip:.2%} of the frames lost there '
    f'and back, {encoded.worst:.2%} of the worst one; RMS of the noises '
    f'{encoded.rms:.3f}, of a prior 1'
  )
  text = [*aligned(lines), *alpha_lines(alphas), CAVEAT]
  if c.stride > 1:
    text.append(f'Neighbours are {c.stride} frames of the video apart.')
  runtime.say('\n'.join(text))
  writing.write_json(
    workdir / 'analysis.json',
    finite(
      facts
      | {
        'names': clips.names,
        'similarity': {
          k: {'same_video': v.within._asdict()}
          | {'different_videos': v.between._asdict()}
          for k, v in similar.items()
        },
        'by_lag': lags.tolist(),
        'alpha': alphas,
      }
    ),
  )
  picture = draw(eps, draws, lags, fits, c)
  writing.write_png(workdir / 'analysis.png', picture)
  page = show(config, workdir, picture, lines, facts, alphas)
  runtime.say(f'the picture is {workdir / "analysis.png"}; open {page}')


def prior_draws(prior: NoisePrior, shape, seed: int):
  """Noises `[m, n, …]` of a prior."""
  keys = rng.per_example(rng.stream(seed, 'analyze'), jnp.arange(shape[0]))
  return np.asarray(prior.sample(keys, tuple(shape[1:])))


def draw(eps, draws, lags, fits, c) -> UInt8[np.ndarray, 'h w 3']:
  """The picture, with draws of the progressive prior that correlates alike."""
  k = np.arange(1, lags.shape[1] + 1)
  mixed, progressive = fits['mixed'], fits['progressive']
  alpha = min(progressive.alpha, noise.MAX_ALPHA)
  prior = NoisePrior('progressive', alpha)
  flat = (*eps.shape[:2], -1)
  return noises.draw(
    eps.reshape(flat),
    draws=draws.reshape(flat),
    prior=prior_draws(prior, eps.shape, c.seed + 1).reshape(flat),
    name=f'progressive noise, α = {alpha:.2g}',
    lags=lags,
    curves={
      f'mixed, α = {mixed.alpha:.2g}': mixed.correlation + 0.0 * k,
      f'progressive, α = {alpha:.2g}': progressive.correlation**k,
    },
    stride=c.stride,
    seed=c.seed,
  )


def table(similar, stride: int) -> list[dict[str, str]]:
  """The lines of the table: what is compared, then the noises by lag."""

  def cell(mean, videos, pairs):
    return f'{mean:6.3f} ± {videos:.3f} ({pairs:.3f})'

  lines = [
    {OF: name, SAME: cell(*s.within[:3]), OTHER: cell(*s.between[:3])}
    for name, s in similar.items()
  ]
  by_lag = next(iter(similar.values())).by_lag
  for i, of_videos in enumerate(by_lag.T, start=1):
    text = f'{of_videos.mean():6.3f} ± {of_videos.std(ddof=1):.3f}'
    lines.append({OF: f'noises {i * stride} apart', SAME: text, OTHER: ''})
  return lines


def aligned(lines: list[dict[str, str]]) -> list[str]:
  """The lines as text, below a heading."""
  rows = [list(lines[0]), *(list(line.values()) for line in lines)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    'mean ± standard deviation over videos (over pairs)',
    *('  '.join(map(str.ljust, row, widths)).rstrip() for row in rows),
  ]


def alpha_lines(alphas) -> list[str]:
  """Which α either prior would need."""
  symbol = {'mixed': 'r', 'progressive': 'ρ'}
  return [
    f'{kind} noise correlates alike with α = {a["alpha"]:.3g} ± '
    f'{a["standard_error"]:.2g} ({symbol[kind]} = {a["correlation"]:.3f}; '
    f'misfit {a["misfit"]:.3f} RMS)'
    for kind, a in alphas.items()
  ]


def finite(tree):
  """A tree of dicts, None in place of what JSON has no number for."""
  if isinstance(tree, dict):
    return {k: finite(v) for k, v in tree.items()}
  return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def show(config, workdir, picture, lines, facts, alphas) -> pathlib.Path:
  """Puts the picture and the table on the run's page."""
  gallery.write_samples(
    workdir,
    'analysis',
    picture[None, None],
    1,
    [{'videos': facts['videos'], 'frames': facts['frames of each']}],
    facts,
    step=facts['step'],  # as those made in training, it is shown large
    title='Noises of frames (Ge23 Table 1, Fig. 2)',
    note=' '.join([*alpha_lines(alphas), CAVEAT]),
    gifs=False,
  )
  path = workdir / 'samples' / 'gallery.json'
  scores = json.loads(path.read_text())['scores'] if path.exists() else []
  return gallery.rebuild(
    workdir,
    title=config.name,
    facts=None if path.exists() else sample.facts(config),
    scores=[row for row in scores if OF not in row] + lines,
  )
