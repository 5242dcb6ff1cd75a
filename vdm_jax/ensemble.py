"""Experts: models of parts of the noise levels, sampled as one (Balaji22).

An expert is a run whose `config.diffusion.interval` is less than the whole
probability mass of ln s, s = σ/α. Ge23's are two, trained on from one model
with its lower and its upper half. In sampling, those of `config.sample.experts`
denoise the levels that they know, and the workdir's own model does the rest.
"""

import dataclasses
import itertools
import math
from typing import Any

from vdm_jax import errors, identity, runs, runtime
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion import schedules
from vdm_jax.diffusion.experts import Experts

PyTree = Any
Interval = tuple[float, float]

WHOLE = (0.0, 1.0)
# What they must share, for they draw one video together.
TIED = ('model', 'diffusion', 'refine', 'data.frames', 'data.size')
FREE = (
  'model.dropout',
  'model.dtype',
  'model.remat',
  'diffusion.weight',
  'diffusion.interval',
  'refine.crop',
  'refine.augment_level',
)
TOUCH = 1e-6  # intervals of mass that are closer than this meet


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Experts and the levels of each, checked but not read yet.

  Attributes:
    names: the workdirs of the experts.
    checkpoints: of each.
    pieces: (mass where it begins, where it ends, which expert; −1 for the
      workdir's own model), from the least noise up.
    levels: s where a piece ends and the next one begins.
  """

  names: tuple[str, ...]
  checkpoints: tuple
  pieces: tuple[tuple[float, float, int], ...]
  levels: tuple[float, ...]

  def restore(self, own: PyTree, abstract: PyTree):
    """The parameters of all of them, and the steps of the experts.

    Args:
      own: the parameters of the workdir's model.
      abstract: their shapes and shardings, which the experts get too.

    Returns:
      `Experts`, and a tuple of steps, one for each name.

    Raises:
      CheckpointError: one has no checkpoint that can be read.
    """
    found = [c.restore_ema(abstract) for c in self.checkpoints]
    edges = (0.0, *self.levels, math.inf)
    for i, (*_, who) in enumerate(self.pieces):
      name = 'the model of the workdir'
      if who >= 0:
        name = f'step {found[who][1]["step"]} of {self.names[who]}'
      runtime.say(f'σ/α from {edges[i]:.4g} to {edges[i + 1]:.4g}: {name}')
    params = [p for p, _ in found] + [own]
    steps = tuple(meta['step'] for _, meta in found)
    intervals = tuple(itertools.pairwise(edges))
    return Experts(intervals, tuple(params[p[2]] for p in self.pieces)), steps


def find(config, trained: Conditions) -> Ensemble | None:
  """What `config.sample.experts` names; None if the model needs no other.

  Args:
    config: the settings, those of the workdir's run but for `sample`.
    trained: what its model is told of a video.

  Raises:
    ConfigError: they overlap, or some noise levels are left out.
    CheckpointError: one is no run, or of another network, diffusion or noise
      prior.
  """
  names, c = listed(config), config.diffusion
  if not names and is_whole(config):
    return None
  if c.schedule != 'lognormal':
    raise errors.ConfigError(
      f'config.sample.experts is set, but the model has the schedule '
      f'{c.schedule!r}, which has no intervals; leave it out'
    )
  checkpoints, intervals = [], []
  for name in names:
    opened, saved, known = runs.open_run(name, 'sample.experts')
    apart = identity.differences(saved, config, TIED, FREE)
    apart += runs.told_apart(known, trained)
    if apart:
      raise errors.CheckpointError(
        f'the expert {name} does not fit the model ({"; ".join(apart[:3])}); '
        'name a run that differs in diffusion.interval alone'
      )
    checkpoints.append(opened)
    intervals.append(tuple(saved.diffusion.interval))
  pieces = tiled(tuple(c.interval), intervals, names)
  levels = [
    schedules.expert_split(p[1], c.p_mean, c.p_std) for p in pieces[:-1]
  ]
  return Ensemble(
    tuple(names), tuple(checkpoints), tuple(pieces), tuple(levels)
  )


def listed(config) -> list[str]:
  """The workdirs of `config.sample.experts`, which may be one text 'a,b'."""
  names = [n for text in config.sample.experts for n in text.split(',')]
  return [n.strip() for n in names if n.strip()]


def is_whole(config) -> bool:
  """Whether the model knows all noise levels by itself."""
  return tuple(config.diffusion.interval) == WHOLE


def check_training(config):
  """Says so if the run trains an expert, which makes no samples by itself.

  Raises:
    ConfigError: it names experts to sample with.
  """
  if not is_whole(config):
    low, high = config.diffusion.interval
    runtime.say(
      f'an expert of the mass {low:g} to {high:g} of the noise levels: no '
      'samples before it is one of config.sample.experts'
    )
  if listed(config):
    raise errors.ConfigError(
      f'config.sample.experts is {config.sample.experts}, but this trains a '
      'model; name them with --mode=sample'
    )


def tiled(
  own: Interval, experts: list[Interval], names: list[str]
) -> list[tuple[float, float, int]]:
  """Who denoises which part of the mass, from the least noise up.

  Args:
    own: the mass that the workdir's own model was trained on.
    experts: that of each expert.
    names: their workdirs, for messages.

  Returns:
    (low, high, which expert, or −1): all of the mass, without overlaps.

  Raises:
    ConfigError: two experts overlap, or no model knows some levels.
  """
  pieces, end, before = [], 0.0, ''
  for low, high, who in sorted((*e, i) for i, e in enumerate(experts)):
    if low < end - TOUCH:
      raise errors.ConfigError(
        f'the experts {before} and {names[who]} both know the mass from '
        f'{low:g} to {min(end, high):g}; leave one out of config.sample.experts'
      )
    if low > end + TOUCH:
      pieces.append((end, low, -1))
    pieces.append((low, high, who))
    end, before = high, names[who]
  if end < 1 - TOUCH:
    pieces.append((end, 1.0, -1))
  for low, high, who in pieces:
    if who < 0 and (low < own[0] - TOUCH or high > own[1] + TOUCH):
      raise errors.ConfigError(
        f'no model knows all noise levels of the mass {low:g} to {high:g}, for '
        f'that of the workdir was trained on {own[0]:g} to {own[1]:g}; '
        'name the workdirs of the others with config.sample.experts'
      )
  return pieces
