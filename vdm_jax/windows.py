"""Long videos from a model of few frames: which frames each window makes.

Ho22 §3.1: the video is extended window by window, each conditioned on frames
of the ones before, or the frames between the key frames of a video of a lower
frame rate are filled in. Pure index arithmetic; the conditions themselves are
`diffusion.observation`.
"""

import dataclasses
from collections.abc import Collection

from vdm_jax import errors


@dataclasses.dataclass(frozen=True)
class Window:
  """A part of the video that is sampled at once.

  Attributes:
    start: its first frame in the video.
    size: how many frames the model makes.
    known: positions in the window, 0 … size − 1 and increasing, whose frames
      exist before it is sampled.
    new: positions whose frames it makes; what is neither is thrown away.
    spacing: from one of its frames to the next, in frames of the video.
  """

  start: int
  size: int
  known: tuple[int, ...]
  new: tuple[int, ...]
  spacing: int = 1

  @property
  def frames(self) -> range:
    """Its frames in the video."""
    end = self.start + self.size * self.spacing
    return range(self.start, end, self.spacing)


def plan(
  frames: int,
  window: int,
  *,
  order: str = 'extension',
  overlap: int = 0,
  key_stride: int = 1,
  given: Collection[int] = (),
) -> list[Window]:
  """The windows that make a video, of which some frames may be given.

  Args:
    frames: of the video.
    window: frames that the model makes at once.
    order: 'extension' makes windows from the first to the last;
      'interpolation' makes every key_stride-th frame so, and then fills in.
    overlap: frames that a window of `extension` knows of the one before.
    key_stride: the distance of the key frames.
    given: frames of the video that are known beforehand: they are known to
      every window that they lie in, and no window makes them.

  Raises:
    ConfigError: sizes that do not fit together.
  """
  if frames == window:
    windows = extension(frames, window, 0)
  elif order == 'extension':
    windows = extension(frames, window, overlap)
  else:
    windows = interpolation(frames, window, key_stride)
    if not set(range(0, frames, key_stride)) <= set(given):
      windows = _key_frames(frames, window, overlap, key_stride) + windows
  windows = [_know(w, frozenset(given)) for w in windows]
  return [w for w in windows if w.new]


def extension(frames: int, window: int, overlap: int) -> list[Window]:
  """Windows that extend a video to `frames`, each from the one before.

  The first window is sampled freely; each further one knows its first
  `overlap` frames. The last one ends with the video, and for that may overlap
  more: so there are at most three patterns of known frames, hence programs.

  Raises:
    ConfigError: the video is shorter than a window, or the overlap is not in
      [0, window).
  """
  _check_sizes(frames, window)
  if not 0 <= overlap < window:
    raise errors.ConfigError(
      f'an overlap of {overlap} frames leaves nothing to a window of {window}; '
      f'use 0 to {window - 1}'
      if overlap >= window
      else f'the overlap of windows is negative ({overlap}); use 0 or more'
    )
  starts = _starts(frames, window, window - overlap)
  return _plan(starts, window, made=set(), kept=window)


def interpolation(frames: int, window: int, stride: int) -> list[Window]:
  """Windows that fill in a video of which every `stride`-th frame is known.

  Each window makes what lies before its last key frame, so that every new
  frame has known ones on both sides, and the next one begins at that key
  frame; the last one ends with the video. A window knows the key frames in it
  and what other windows have made.

  Raises:
    ConfigError: the video is shorter than a window, does not end at a key
      frame, or a window does not reach from one key frame to the next.
  """
  _check_sizes(frames, window)
  if not 1 <= stride < window:
    raise errors.ConfigError(
      f'windows of {window} frames do not join key frames that are {stride} '
      f'apart; use a distance of 1 to {window - 1}'
    )
  if (frames - 1) % stride:
    raise errors.ConfigError(
      f'{frames} frames with a key frame every {stride} do not end at one; '
      f'use {frames - (frames - 1) % stride} frames'
    )
  advance = (window - 1) // stride * stride
  plan = _plan(
    _starts(frames, window, advance),
    window,
    made=set(range(0, frames, stride)),
    kept=advance + 1,
  )
  return [w for w in plan if w.new]


def _key_frames(
  frames: int, window: int, overlap: int, stride: int
) -> list[Window]:
  """Windows that make every stride-th frame, as a video of its own.

  As many of them as the model makes at once are one window, with no overlap.
  """
  keys = (frames - 1) // stride + 1
  if keys < window:
    raise errors.ConfigError(
      f'{frames} frames with a key frame every {stride} have {keys} of them, '
      f'and the model makes {window} at once; ask for '
      f'{stride * (window - 1) + 1} frames or more'
    )
  return [
    dataclasses.replace(w, start=w.start * stride, spacing=stride)
    for w in extension(keys, window, overlap if keys > window else 0)
  ]


def _know(window: Window, given: frozenset[int]) -> Window:
  """The window when some frames of the video are given."""
  there = {i for i, frame in enumerate(window.frames) if frame in given}
  return dataclasses.replace(
    window,
    known=tuple(sorted(there | set(window.known))),
    new=tuple(i for i in window.new if i not in there),
  )


def _check_sizes(frames: int, window: int) -> None:
  if not 1 <= window <= frames:
    raise errors.ConfigError(
      f'a video of {frames} frames has no room for a window of {window}; ask '
      f'for {window} frames or more'
      if window >= 1
      else f'a window must have 1 frame or more ({window})'
    )


def _starts(frames: int, window: int, advance: int) -> list[int]:
  """0, advance, 2 advance, …, and the last one where the video ends."""
  return [*range(0, frames - window, advance), frames - window]


def _plan(
  starts: list[int], window: int, *, made: set[int], kept: int
) -> list[Window]:
  """Windows at `starts`, of which all but the last keep `kept` frames."""
  plan = []
  for start in starts:
    known = tuple(i for i in range(window) if start + i in made)
    end = window if start == starts[-1] else kept
    new = tuple(i for i in range(end) if start + i not in made)
    plan.append(Window(start, window, known, new))
    made = made | {start + i for i in new}
  return plan
