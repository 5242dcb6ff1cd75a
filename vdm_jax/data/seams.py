"""Do the blocks of a long video fit together? Measured on moving shapes.

A long video is sampled in blocks: the last frames of what there is are known,
and the model goes on from them. At the first new frame, a seam, the motion of
the past may be lost. The judge's fit says from the past where the shape must
be next, and the seam error is how far from there it is. It is at its largest
wherever the past itself is no path; the seam jump is of the seam alone.
"""

import operator
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from vdm_jax.data.judge import COLOURS, MAX_ERROR, examine, fold, follow

PAST = 8  # frames before a seam that the path is fitted to
LEAST = 4  # ... and how many of them must show the shape
NEW = 2  # frames after a seam that are compared with it
CAP = 0.25  # largest distance / smaller side of a frame


def seam_error(
  video: UInt8[np.ndarray, 't h w 3'],
  starts: Sequence[int],
  *,
  stride: float = 1.0,
) -> Float[np.ndarray, ' n']:
  """Distance of the first new frames from the path of the past, per seam.

  A bouncing path is fitted to the up to PAST frames before the seam, and the
  distances at the NEW frames behind it are averaged.

  No distance counts for more than CAP of the frame's side. Two unrelated
  places in the room of a shape are 0.3 sides apart on average, and the fastest
  shape moves 0.1 sides per frame: farther off says nothing more, and is no
  worse than no shape at all. So the capped distance is also what a new frame
  counts that shows no valid shape, or another shape or colour than the past.

  It is the error of the whole seam if the past has no path to go on from: fewer
  than LEAST frames, or not most of the past, show one shape of one colour, or
  these do not move along a trajectory by the judge's standards. Nothing can be
  continued rightly from there, and a video that falls apart or stands still
  must not win by being consistent. Look at the past of such seams first.

  If a block has fewer than PAST new frames, the past holds an earlier seam,
  whose error can count twice.

  Args:
    video: the long video.
    starts: the first new frame of each block that follows on others.
    stride: see `judge`.

  Returns:
    The seam errors in pixels, as many as starts.

  Raises:
    ValueError: a start leaves fewer than LEAST frames before it or none from
      it on.
  """
  starts = _starts(video, starts)
  return _errors(examine(video), starts, video.shape[1:3], stride)


def seam_jump(
  video: UInt8[np.ndarray, 't h w 3'], starts: Sequence[int]
) -> Float[np.ndarray, ' n']:
  """|p_s − 2 p_{s−1} + p_{s−2}|, p the shape's place and s the first new frame.

  How far the shape is from where the last two frames lead. Whether they are of
  a path, or the shape stays the same one, is not asked: a frozen video has no
  jumps, and a bounce is one.

  Returns:
    The jumps in pixels, as many as starts; NaN where one of the three frames
    shows no valid shape.

  Raises:
    ValueError: as `seam_error`.
  """
  starts = _starts(video, starts)
  return _jumps(examine(video), starts)


def seam_errors(
  videos: UInt8[np.ndarray, 'b t h w 3'],
  starts: Sequence[int],
  *,
  stride: float = 1.0,
) -> dict[str, float]:
  """Seam errors of many long videos, all made in the same blocks.

  Returns:
    Over all seams, in pixels: `seam_error`, their mean, its spread
    `seam_error_std` (of the seams, not of the mean), `seam_error_median`; and
    `seam_lost`, the share of seams whose error is the largest possible: no
    path before or nothing near it behind. And `seam_jump`, the median of the
    jumps in pixels, or the cap without any.

  Raises:
    ValueError: no videos, no starts, or starts that `seam_error` refuses.
  """
  if not len(videos) or not len(starts):
    raise ValueError(
      f'seam_errors: {len(starts)} seams in {len(videos)} videos; give one or '
      'more of each'
    )
  size = videos.shape[2:4]
  cap = CAP * min(size)
  starts = _starts(videos[0], starts)
  seen = [examine(video) for video in videos]
  errors = np.concatenate([_errors(s, starts, size, stride) for s in seen])
  jumps = np.concatenate([_jumps(s, starts) for s in seen])
  jumps = jumps[np.isfinite(jumps)]
  return {
    'seam_error': float(errors.mean()),
    'seam_error_std': float(errors.std()),
    'seam_error_median': float(np.median(errors)),
    'seam_lost': float(np.mean(errors == cap)),
    'seam_jump': float(np.median(jumps)) if len(jumps) else cap,
  }


def _starts(video, starts) -> Int[np.ndarray, ' n']:
  """The first new frames of blocks; ValueError if one cannot be."""
  starts = [operator.index(start) for start in starts]
  for start in starts:
    if not LEAST <= start < len(video):
      raise ValueError(
        f'seams: start {start} of {len(video)} frames; give starts with '
        f'{LEAST} frames or more before them, in the video'
      )
  return np.array(starts, int)


def _jumps(
  seen: Mapping[str, np.ndarray], s: Int[np.ndarray, ' n']
) -> Float[np.ndarray, ' n']:
  """`seam_jump`, of what `examine` saw."""
  p, valid = seen['position'], seen['valid']
  jump = np.linalg.norm(p[s] - 2 * p[s - 1] + p[s - 2], axis=-1)
  return np.where(valid[s] & valid[s - 1] & valid[s - 2], jump, np.nan)


def _errors(
  seen: Mapping[str, np.ndarray],
  starts: Int[np.ndarray, ' n'],
  size: Sequence[int],
  stride: float,
) -> Float[np.ndarray, ' n']:
  """`seam_error`, of what `examine` saw."""
  errors = []
  for start in starts.tolist():
    past = min(start, PAST)
    around = slice(start - past, start + NEW)
    window = {name: values[around] for name, values in seen.items()}
    errors.append(_distances(window, past, size, stride).mean())
  return np.array(errors, np.float64)


def _distances(
  seen: Mapping[str, np.ndarray],
  past: int,
  size: Sequence[int],
  stride: float,
) -> Float[np.ndarray, ' n']:
  """From the path of the first `past` frames, at the others, capped."""
  cap = CAP * min(size)
  lost = np.full(len(seen['valid']) - past, cap)
  labels = seen['shape'] * len(COLOURS) + seen['colour']
  counts = np.bincount(labels[:past][seen['valid'][:past]], minlength=1)
  same = seen['valid'] & (labels == counts.argmax())
  times = np.flatnonzero(same[:past])
  if len(times) < LEAST or 2 * len(times) <= past:
    return lost
  wall = float(np.median(seen['radius'][times]))
  start, velocity, error, moves = follow(
    times, track=seen['position'][times], wall=wall, size=size, stride=stride
  )
  if not moves or error >= MAX_ERROR:
    return lost
  later = np.arange(past, len(same))[:, None]
  room = np.array(size[::-1]) - 2.0 * wall
  path = wall + fold(start + later * velocity, room=room)
  distance = np.linalg.norm(path - seen['position'][past:], axis=1)
  return np.where(same[past:], np.minimum(distance, cap), cap)
