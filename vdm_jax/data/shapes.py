"""Moving shapes: an endless data set whose every clip is known exactly.

A disc, a square or a triangle of one of seven colours flies over a plain dark
ground at constant velocity and bounces off the borders. There is nothing to
download, a small model learns it in minutes, and `judge` tells from pixels
alone whether a generated clip obeys the same laws.
"""

import dataclasses
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float, Int, UInt8

from vdm_jax.data.judge import (
  BACKGROUND,
  COLOURS,
  DIRECTIONS,
  MAX_ERROR,
  RADIUS,
  SHAPES,
  SPEED,
  Verdict,
  coverage,
  direction,
  fold,
  judge,
)
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.text.words import words_of

__all__ = [
  'BACKGROUND',
  'BASE_FRAME_RATE',
  'CLASSES',
  'COLOURS',
  'DIRECTIONS',
  'SHAPES',
  'Shapes',
  'State',
  'Verdict',
  'judge',
  'matches',
  'render',
  'scores',
]

CLASSES = len(SHAPES) * len(COLOURS)
BASE_FRAME_RATE = 8.0  # frames per second at stride 1
TILT = math.radians(35.0)  # how far a path may lean away from its direction
CLEAR = 2.0  # frames at stride 1 before the first bounce along the direction


@dataclasses.dataclass(frozen=True)
class State:
  """The truth behind a clip.

  Attributes:
    shape: index into SHAPES.
    colour: index into COLOURS.
    radius: half the side of the box around the shape, in pixels.
    velocity: (x, y) at the first frame, in pixels per frame.
    positions: (x, y) of the box's centre in every frame, in pixels.
  """

  shape: int
  colour: int
  radius: float
  velocity: Float[np.ndarray, ' 2']
  positions: Float[np.ndarray, 't 2']

  @property
  def label(self) -> int:
    """Class of shape and colour: `shape * len(COLOURS) + colour`."""
    return self.shape * len(COLOURS) + self.colour

  @property
  def caption(self) -> str:
    """For example 'a red disc moving left': how the clip begins."""
    colour, shape = list(COLOURS)[self.colour], SHAPES[self.shape]
    return _caption(colour, shape, direction(self.velocity))


def _caption(colour: str, shape: str, way: str) -> str:
  return f'a {colour} {shape} moving {way}'


def render(state: State, *, size: int) -> UInt8[np.ndarray, 't h w 3']:
  """Draw a clip of `size` by `size` pixels with smooth edges."""
  cover = coverage(
    state.shape,
    centre=state.positions,
    radius=np.full(len(state.positions), state.radius),
    height=size,
    width=size,
  )
  ground = np.array(BACKGROUND, np.float64)
  paint = np.array(list(COLOURS.values())[state.colour], np.float64) - ground
  # Coverage is in [0, 1], hence + 0.5 and truncation is rounding.
  return (cover[..., None] * paint + (ground + 0.5)).astype(np.uint8)


class Shapes:
  """A source of clips; clip `index` is a function of (seed, index) alone.

  In units of the frame size a clip is the same at every size; and at stride k
  it is exactly every k-th frame of the clip at stride 1.
  """

  def __init__(
    self,
    *,
    frames: int,
    size: int,
    stride: float = 1.0,
    length: int = 2**20,
    seed: int = 0,
  ):
    """Describe the clips; nothing is drawn yet.

    Args:
      frames: frames of a clip.
      size: height and width of a frame in pixels, at least 8.
      stride: motion per frame, as a multiple of that at 8 frames per second.
      length: number of different clips; a small one makes a finite data set.
      seed: another seed gives other clips, for validation say.

    Raises:
      ConfigError: a number is out of its range.
    """
    for name, value, least in (
      ('frames', frames, 1),
      ('size', size, 8),
      ('length', length, 1),
      ('seed', seed, 0),
    ):
      if operator.index(value) < least:
        raise ConfigError(f'shapes: {name} ({value}); give at least {least}')
    if not (math.isfinite(stride) and stride > 0):
      raise ConfigError(f'shapes: stride ({stride}); give a positive number')
    self.frames, self.size, self.stride = frames, size, stride
    self.length, self.seed = length, seed

  def __len__(self) -> int:
    return self.length

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes, such as 'red disc', in the order of labels."""
    return tuple(f'{c} {s}' for s in SHAPES for c in COLOURS)

  @property
  def words(self) -> tuple[str, ...]:
    """All words of all captions, sorted."""
    return words_of(self.captions())

  def captions(self, n: int | None = None) -> list[str]:
    """Captions of the first `n` clips; all that there can be if n is None."""
    if n is not None:
      return [self.state(i % self.length).caption for i in range(n)]
    kinds = itertools.product(COLOURS, SHAPES, DIRECTIONS)
    return sorted(_caption(*kind) for kind in kinds)

  def signature(self) -> dict[str, Any]:
    """What tells these clips from those of other arguments, as JSON."""
    return {
      'source': 'shapes',
      'frames': self.frames,
      'size': self.size,
      'stride': self.stride,
      'length': self.length,
      'seed': self.seed,
    }

  @property
  def frame_rate(self) -> float:
    """Frames per second."""
    return BASE_FRAME_RATE / self.stride

  def name(self, index: SupportsIndex) -> str:
    """The `id` of a clip."""
    return f'shapes-{self.seed}-{operator.index(index)}'

  def state(self, index: SupportsIndex) -> State:
    """Everything there is to know about clip `index`.

    Raises:
      IndexError: `index` is not in [0, len(self)).
    """
    index = operator.index(index)
    if not 0 <= index < self.length:
      raise IndexError(f'shapes: clip {index} of {self.length}')
    rng = np.random.default_rng((self.seed, index))
    shape, colour, heading = (
      int(rng.integers(n)) for n in (len(SHAPES), len(COLOURS), len(DIRECTIONS))
    )
    radius, speed = rng.uniform(*RADIUS), rng.uniform(*SPEED)
    tilt = rng.uniform(-TILT, TILT)
    room = 1.0 - 2.0 * radius
    start = room * rng.uniform(size=2)
    main, ahead = heading % 2, 1.0 if heading < 2 else -1.0
    velocity = np.empty(2)
    velocity[main] = ahead * speed * math.cos(tilt)
    velocity[1 - main] = speed * math.sin(tilt)
    # The caption tells the first movement, so it must last long enough.
    start[main] *= 1.0 - CLEAR * abs(velocity[main]) / room
    if ahead < 0:
      start[main] = room - start[main]
    times = np.arange(self.frames)[:, None] * float(self.stride)
    path = radius + fold(start[None] + times * velocity[None], room=room)
    return State(
      shape=shape,
      colour=colour,
      radius=radius * self.size,
      velocity=velocity * (self.size * float(self.stride)),
      positions=path * self.size,
    )

  def clip(
    self, index: SupportsIndex, rng: np.random.Generator | None = None
  ) -> dict[str, Any]:
    """One example: `video`, `label`, `caption` and `id`.

    Args:
      index: which clip, in [0, len(self)).
      rng: not needed; sources of longer videos choose their window by it.

    Returns:
      `video` uint8 `[t, h, w, 3]`, `label` int32 in [0, CLASSES), `caption`,
      and `id`, which names seed and index.

    Raises:
      IndexError: `index` is not in [0, len(self)).
    """
    del rng
    index = operator.index(index)
    state = self.state(index)
    return {
      'video': render(state, size=self.size),
      'label': np.int32(state.label),
      'caption': state.caption,
      'id': self.name(index),
    }


def matches(verdict: Verdict, caption: str) -> dict[str, bool]:
  """Whether a clip shows what its caption says: shape, colour, direction.

  Args:
    verdict: of the clip.
    caption: with one of each of SHAPES, COLOURS and DIRECTIONS among its words.

  Raises:
    DataError: a word of a kind is missing.
  """
  words = caption.lower().replace('.', ' ').replace(',', ' ').split()
  asked = {}
  for kind, known in (
    ('shape', SHAPES),
    ('colour', tuple(COLOURS)),
    ('direction', DIRECTIONS),
  ):
    named = [word for word in words if word in known]
    if len(named) != 1:
      raise DataError(
        f'caption ({caption!r}); name one {kind} of {", ".join(known)}'
      )
    asked[kind] = named[0]
  label = verdict.label
  if label is None:
    return dict.fromkeys(asked, False)
  shape, colour = divmod(label, len(COLOURS))
  return {
    'shape': SHAPES[shape] == asked['shape'],
    'colour': list(COLOURS)[colour] == asked['colour'],
    'direction': verdict.direction == asked['direction'],
  }


def scores(
  videos: UInt8[np.ndarray, 'b t h w 3'],
  *,
  captions: Sequence[str] | None = None,
  labels: Int[np.ndarray, ' b'] | None = None,
  stride: float = 1.0,
) -> dict[str, float]:
  """Judge many clips.

  Args:
    videos: the clips.
    captions: what each should show; adds `caption_shape`, `caption_colour`,
      `caption_direction` and `caption`, all three at once.
    labels: the class each should show; adds `label`, the share that does.
    stride: see `judge`.

  Returns:
    Means of `valid` (over frames), `identity`, `on_path`, `moves` and
    `success`, and the median `trajectory_error` in pixels; that is absent where
    most clips have no track. `on_path` is `success` without the demands that
    the clip moves and stays close to its path for its speed: a frozen clip
    passes.

  Raises:
    ValueError: no videos, or not as many captions or labels as videos.
    DataError: a caption that does not name shape, colour and direction.
  """
  if not len(videos):
    raise ValueError('scores: no videos')
  verdicts = [judge(video, stride=stride) for video in videos]
  means = {
    'valid': [v.valid.mean() for v in verdicts],
    'identity': [v.identity for v in verdicts],
    'on_path': [
      v.identity == 1 and v.trajectory_error < MAX_ERROR for v in verdicts
    ],
    'moves': [v.moves for v in verdicts],
    'success': [v.success for v in verdicts],
  }
  if captions is not None:
    pairs = zip(verdicts, captions, strict=True)
    met = [matches(verdict, caption) for verdict, caption in pairs]
    for kind in ('shape', 'colour', 'direction'):
      means[f'caption_{kind}'] = [m[kind] for m in met]
    means['caption'] = [all(m.values()) for m in met]
  if labels is not None:
    pairs = zip(verdicts, labels, strict=True)
    means['label'] = [v.label == int(label) for v, label in pairs]
  result = {name: float(np.mean(values)) for name, values in means.items()}
  error = float(np.median([v.trajectory_error for v in verdicts]))
  if math.isfinite(error):
    result['trajectory_error'] = error
  return result
