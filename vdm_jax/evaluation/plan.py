"""What an evaluation is to do, and by which weights; checked beforehand."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from vdm_jax import config as config_lib
from vdm_jax import errors
from vdm_jax.metrics import features, filling, reading
from vdm_jax.metrics import protocols as protocols_lib
from vdm_jax.metrics.protocols import Protocol

LEAST = 4  # real clips: halves have a covariance, too


@dataclasses.dataclass(frozen=True)
class Weights:
  """The weights of a feature network.

  Attributes:
    params: its parameters.
    about: the file, its SHA-256, and what it says of where it is from.
  """

  params: Any
  about: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What an evaluation is to do, checked as far as can be without data.

  Attributes:
    name: of the protocol.
    protocol: as far as it is asked for.
    samples: how many there shall be.
    clips: real ones, by the reference's name; those of the protocol or fewer.
    weights: of the networks, by their names.
    known: frames at the beginning that are not scored.
    frame_count: frames of each video, where another number is asked for; −1.
  """

  name: str
  protocol: Protocol
  samples: int
  clips: dict[str, int]
  weights: dict[str, Weights]
  known: int
  frame_count: int = -1


def make(config) -> Plan:
  """What is to be done; weights are read and checked.

  Raises:
    ConfigError: an option that the protocol does not have.
    WeightsError: weights are missing or of another network.
  """
  c = config.evaluate
  if config.refine.kind != 'none' and not c.videos:
    raise errors.ConfigError(
      f'the model refines videos (config.refine.kind is '
      f'{config.refine.kind!r}); make the videos with --mode=cascade, and name '
      'their folder with --config.evaluate.videos=FOLDER'
    )
  protocol = protocols_lib.protocol(c.protocol, listed(c.measures))
  names = [r.name for r in protocol.references]
  asked = listed(c.references) or tuple(names)
  for name in asked:
    config_lib.choose('config.evaluate.references', name, tuple(names))
  chosen = tuple(r for r in protocol.references if r.name in asked)
  protocol = dataclasses.replace(protocol, references=chosen)
  if c.frame_count >= 0:
    protocol = _with_frames(protocol, c.frame_count)
  for key, most in (
    ('samples', protocol.samples),
    ('reference', max(r.clips for r in protocol.references)),
  ):
    if c[key] > most:
      raise errors.ConfigError(
        f'config.evaluate.{key} is {c[key]}, but {c.protocol} has {most}; use '
        'fewer, or 0 for all'
      )
  clips = {
    r.name: min(c.reference or r.clips, r.clips) for r in protocol.references
  }
  return Plan(
    name=c.protocol,
    protocol=protocol,
    samples=c.samples or protocol.samples,
    clips=clips,
    weights=read_weights(c, protocol),
    known=0 if c.score_known else protocol.known,
    frame_count=c.frame_count,
  )


def listed(values: Iterable[str]) -> tuple[str, ...]:
  """Names, which the command line may give as one text: 'fvd,is_c3d'."""
  return tuple(n for text in values for n in text.split(',') if n)


def _with_frames(protocol: Protocol, count: int) -> Protocol:
  """The protocol, with another number of frames of each video."""
  changed = tuple(
    dataclasses.replace(m, feature=dataclasses.replace(m.feature, frames=count))
    if m.feature.view == 'frames'
    else m
    for m in protocol.measures
  )
  return dataclasses.replace(protocol, measures=changed)


def read_weights(c, protocol: Protocol) -> dict[str, Weights]:
  """The weights of all networks that a protocol needs.

  Raises:
    ConfigError: a file is not named, or there is no such network.
    WeightsError: as of `filling.load`.
  """
  found: dict[str, Weights] = {}
  for m in protocol.measures:
    name = m.feature.network
    features.network(name)
    if name in found:
      continue
    file = c.weights.get(name, '')
    if not file:
      how = f'--mode=convert --network={name} --weights=FILE'
      if name == 'shapes':
        how = '--mode=features --config=configs/shapes_features.py'
      rest = [o.name for o in protocol.measures if o.feature.network != name]
      rest += ['judge'] * protocol.judge
      without = f', or leave {m.name} out with --config.evaluate.measures'
      raise errors.ConfigError(
        f'config.evaluate.weights.{name} is empty, and {m.name} needs the '
        f'weights of {name}; make them by {how}, and name the file with '
        f'--config.evaluate.weights.{name}=FILE.safetensors'
        + (f'{without}={",".join(rest)},' if rest else '')
      )
    path = pathlib.Path(file).expanduser()
    params, about = filling.load(path, name)
    digest = reading.sha256([path])
    about = {'file': str(path), 'file_sha256': digest} | about
    found[name] = Weights(params, about)
  return found


def check_frames(plan: Plan, frames: int):
  """Raises ConfigError unless every network takes videos of so many frames."""
  scored = frames - plan.known
  for m in plan.protocol.measures:
    entry = features.network(m.feature.network)
    most = entry.most_frames or scored
    if entry.kind == 'video' and not entry.least_frames <= scored <= most:
      number = f'{entry.least_frames} or more'
      if entry.most_frames == entry.least_frames:
        number = f'exactly {entry.most_frames}'
      raise errors.ConfigError(
        f'{m.name} of {plan.name} would be of {scored} frames, and the network '
        f'{m.feature.network} needs {number}; make longer videos, or leave it '
        'out with --config.evaluate.measures'
      )
    if scored < 1:
      raise errors.ConfigError(
        f'{plan.name} knows {plan.known} frames, and the videos have {frames}; '
        'make longer ones'
      )


def check_count(plan: Plan, samples: int):
  """Raises ConfigError unless there are samples and clips for all numbers."""
  for m in plan.protocol.measures:
    least = max(2, m.splits * m.repeats)
    if samples < least:
      raise errors.ConfigError(
        f'there are {samples} samples, and {m.name} needs {least}; give more, '
        'or leave it out with --config.evaluate.measures'
      )
  if min(plan.clips.values()) < LEAST:
    raise errors.ConfigError(
      f'config.evaluate.reference is {min(plan.clips.values())}; use {LEAST} '
      'or more, or 0 for all'
    )
