"""What a clip of moving shapes is, and a judge who tells it from the pixels.

The first part says how shapes look and move; `vdm_jax.data.shapes` draws by it.
The second part measures a clip, whoever made it: it fits each shape to every
frame, follows the best one, and asks whether one thing of one colour flew on
straight lines between the borders.

Coordinates are (x, y) in pixels, y downwards; pixel i covers [i, i + 1].
"""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

SHAPES = ('disc', 'square', 'triangle')
COLOURS = {
  'red': (228, 48, 52),
  'green': (52, 190, 76),
  'blue': (58, 104, 246),
  'yellow': (250, 222, 60),
  'magenta': (226, 66, 216),
  'cyan': (56, 216, 232),
  'white': (240, 240, 240),
}
DIRECTIONS = ('right', 'down', 'left', 'up')
BACKGROUND = (20, 20, 28)
RADIUS = (0.17, 0.23)  # half the width of the box around a shape / frame size
SPEED = (0.05, 0.1)  # path length between two frames at stride 1 / frame size

# What the judge lets pass.
MIN_EXPLAINED = 0.9  # share of a frame's contrast that the fitted shape draws
SOFTNESS = 0.05  # sigma of the blur before comparing / frame size
MIN_SHARE = 0.8  # share of the foreground that hangs together
MAX_COLOUR_ERROR = 80.0  # distance to the palette in 8-bit RGB
MAX_BACKGROUND_ERROR = 40.0
MAX_ERROR = 1.0  # pixels of root mean square around the trajectory; any size
MAX_SPREAD = 0.4  # ... and as a share of the spread of the track
SLACK = 1.15  # by how much a speed may exceed the data's range
SIZE_SLACK = 1.3  # ... and a radius


def fold(u: np.ndarray, *, room: float | np.ndarray) -> np.ndarray:
  """Reflect a free path `u` at 0 and `room`: a triangle wave in [0, room]."""
  return room - np.abs(room - np.mod(u, 2.0 * room))


def coverage(
  shape: int,
  *,
  centre: Float[np.ndarray, 'n 2'],
  radius: Float[np.ndarray, ' n'],
  height: int,
  width: int,
  rows: int = 8,
) -> Float[np.ndarray, 'n h w']:
  """Share of each pixel that a shape covers, in [0, 1].

  Every shape touches all four sides of the box `centre` ± `radius`; the
  triangle stands on its base. Each pixel is cut into `rows` strips, and the
  length of a strip inside the shape is exact, so an axis-parallel edge is too.

  Args:
    shape: index into SHAPES.
    centre: (x, y) of the box.
    radius: half the side of the box.
    height: rows of the picture.
    width: columns of the picture.
    rows: strips of a pixel.
  """
  lines = ((np.arange(height * rows) + 0.5) / rows).astype(centre.dtype)
  columns = np.arange(width).astype(centre.dtype)
  radius = radius[:, None]
  dy = lines[None] - centre[:, 1:]
  inside = np.clip((radius - np.abs(dy)) * rows + 0.5, 0.0, 1.0)
  u = np.clip(dy / radius, -1.0, 1.0)
  if SHAPES[shape] == 'disc':
    half = radius * np.sqrt(1.0 - u * u)
  elif SHAPES[shape] == 'square':
    half = radius * np.ones_like(u)
  else:
    half = radius * (1.0 + u) / 2.0
  right = (centre[:, :1] + half)[..., None] - columns[None, None]
  left = (centre[:, :1] - half)[..., None] - columns[None, None]
  strips = np.clip(right, 0.0, 1.0) - np.clip(left, 0.0, 1.0)
  strips *= inside[..., None]
  return strips.reshape(-1, height, rows, width).mean(axis=2)


def direction(velocity: Float[np.ndarray, ' 2']) -> str:
  """The one of DIRECTIONS that a velocity (x, y) mostly points to."""
  x, y = float(velocity[0]), float(velocity[1])
  if abs(x) >= abs(y):
    return 'right' if x > 0 else 'left'
  return 'down' if y > 0 else 'up'


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the judge sees in a clip.

  Attributes:
    shape: per frame, index into SHAPES of the shape that fits best.
    colour: per frame, index of the nearest of COLOURS.
    position: per frame, (x, y) of the box around the shape, in pixels.
    radius: per frame, half the side of that box, in pixels.
    explained: per frame, share of the contrast that the fitted shape draws.
    valid: per frame, whether it shows one compact thing of a known shape, a
      palette colour and a plausible size on a plain dark ground, and no more.
    identity: share of the frames that are valid and of the clip's most frequent
      shape and colour.
    velocity: (x, y) of the best trajectory at the first frame, pixels per
      frame; zero where there is no trajectory.
    trajectory_error: root mean square distance of the valid positions to the
      best trajectory, in pixels; infinite with fewer than four valid frames.
    moves: whether that trajectory is faster than half the data's least speed,
      and far closer to the positions than any resting point.
    success: one shape of one colour in all frames, which moves and stays within
      MAX_ERROR of its trajectory.
  """

  shape: Int[np.ndarray, ' t']
  colour: Int[np.ndarray, ' t']
  position: Float[np.ndarray, 't 2']
  radius: Float[np.ndarray, ' t']
  explained: Float[np.ndarray, ' t']
  valid: Bool[np.ndarray, ' t']
  identity: float
  velocity: Float[np.ndarray, ' 2']
  trajectory_error: float
  moves: bool
  success: bool

  @property
  def label(self) -> int | None:
    """The most frequent class among valid frames; None without a valid one."""
    labels = (self.shape * len(COLOURS) + self.colour)[self.valid]
    return int(np.bincount(labels).argmax()) if len(labels) else None

  @property
  def direction(self) -> str | None:
    """The direction of the first movement; None for what does not move."""
    return direction(self.velocity) if self.moves else None


def judge(
  video: UInt8[np.ndarray, 't h w 3'], *, stride: float = 1.0
) -> Verdict:
  """Judge one clip from its pixels.

  Args:
    video: frames of at least 8 by 8 pixels.
    stride: that of the source which the clip should resemble: it sets the
      range of speeds. Beyond 2 or so, trajectories alias and prove little.

  Raises:
    ValueError: `video` is not uint8 `[t, h, w, 3]`.
  """
  video = np.asarray(video)
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
    raise ValueError(
      f'judge: video ({video.dtype} {video.shape}); give uint8 [t, h, w, 3]'
    )
  frames = examine(video)
  valid = frames['valid']
  labels = frames['shape'] * len(COLOURS) + frames['colour']
  counts = np.bincount(labels[valid], minlength=1)
  identity = float(counts.max() / len(labels))
  velocity, error, moves = np.zeros(2), np.inf, False
  if valid.sum() >= 4:
    _, velocity, error, moves = follow(
      np.flatnonzero(valid),
      track=frames['position'][valid],
      wall=float(np.median(frames['radius'][valid])),
      size=video.shape[1:3],
      stride=stride,
    )
  return Verdict(
    **frames,
    identity=identity,
    velocity=velocity,
    trajectory_error=error,
    moves=moves,
    success=bool(identity == 1.0 and moves and error < MAX_ERROR),
  )


def follow(
  times: Int[np.ndarray, ' n'],
  *,
  track: Float[np.ndarray, 'n 2'],
  wall: float,
  size: tuple[int, int],
  stride: float,
) -> tuple[Float[np.ndarray, ' 2'], Float[np.ndarray, ' 2'], float, bool]:
  """The trajectory wall + fold(start + velocity * time) nearest to a track.

  Args:
    times: frame numbers, four or more.
    track: (x, y) at these frames, in pixels.
    wall: the radius: how near the centre comes to a border, in pixels.
    size: height and width of a frame.
    stride: see `judge`.

  Returns:
    Start and velocity (x, y) at time 0, in pixels, and the trajectory_error
    and moves of a Verdict.
  """
  extent = np.array(size[::-1], np.float64)
  axes = [
    fit_path(
      times,
      track=track[:, axis] - wall,
      room=extent[axis] - 2.0 * wall,
      max_speed=SPEED[1] * stride * SLACK * extent[axis],
    )
    for axis in range(2)
  ]
  start, velocity, residual = np.transpose(axes)
  error = float(np.linalg.norm(residual))
  spread = float(np.sqrt(track.var(axis=0).sum()))
  speed = float(np.linalg.norm(velocity / extent)) / stride
  slow, fast = SPEED[0] / 2.0, SPEED[1] * SLACK
  moves = slow < speed < fast and error < MAX_SPREAD * spread
  return start, velocity, error, moves


def fit_bounces(times: Int[np.ndarray, ' n'], **path) -> tuple[float, float]:
  """The velocity and the error of `fit_path`."""
  return fit_path(times, **path)[1:]


def fit_path(
  times: Int[np.ndarray, ' n'],
  *,
  track: Float[np.ndarray, ' n'],
  room: float,
  max_speed: float,
) -> tuple[float, float, float]:
  """The path fold(start + velocity * time) nearest to a track, in one axis.

  A grid over start and velocity finds the valleys. In the best of them the
  track is unfolded along the path, which leaves a straight line to fit.

  Args:
    times: frame numbers.
    track: positions, in [0, room] but for errors of measurement.
    room: distance between the two walls, in pixels.
    max_speed: largest speed, in pixels per frame. Without such a bound a fast
      path passes near any track.

  Returns:
    Start in [0, room] and velocity, both at time 0, and the root mean square
    error, in pixels.
  """
  t = times.astype(np.float64) - times.mean()
  step = room / 16.0
  count = 2 * math.ceil(2.0 * max_speed * t[-1] / step) + 1
  starts = np.arange(0.0, 2.0 * room, step)
  speeds = np.linspace(-max_speed, max_speed, count)
  start, speed = (a.ravel() for a in np.meshgrid(starts, speeds))

  def errors(start, speed):
    path = fold(start[:, None] + speed[:, None] * t[None], room=room)
    return np.square(path - track[None]).mean(axis=1)

  found = errors(start, speed)
  best = np.argsort(found)[:16]
  tried = [(start[best], speed[best], found[best])]
  for _ in range(4):
    start, speed, _ = tried[-1]
    free = start[:, None] + speed[:, None] * t[None]
    lap, phase = np.divmod(free, 2.0 * room)
    line = np.where(phase <= room, track[None], 2.0 * room - track[None])
    line += lap * 2.0 * room
    slope = (line @ t) / (t @ t)
    speed = np.clip(slope, -max_speed, max_speed)
    start = line.mean(axis=1)
    tried.append((start, speed, errors(start, speed)))
  start, speed, found = (np.concatenate(a) for a in zip(*tried, strict=True))
  best = int(np.argmin(found))
  first = np.mod(start[best] + speed[best] * (t[0] - times[0]), 2.0 * room)
  back = -1.0 if first > room else 1.0
  start, error = min(first, 2.0 * room - first), np.sqrt(found[best])
  return float(start), float(back * speed[best]), float(error)


def examine(video: UInt8[np.ndarray, 't h w 3']) -> dict[str, np.ndarray]:
  """The per-frame part of a Verdict, as a dict of its arrays."""
  frames = video.astype(np.float32)
  ground = np.median(frames, axis=(1, 2))
  contrast = frames - ground[:, None, None]
  channels = contrast.transpose(3, 0, 1, 2)
  contrast = np.stack([_soften(c) for c in channels], axis=-1)
  energy = np.square(contrast).sum(axis=-1)
  total = energy.sum(axis=(1, 2)) + 1e-6
  # Weighted by its energy, the mean contrast is that of the thing's inside.
  paint = np.einsum('thw,thwc->tc', energy, contrast) / total[:, None]
  # The contrast along the mean one: about 1 inside, 0 on the ground.
  light = np.einsum('thwc,tc->thw', contrast, paint)
  light /= np.square(paint).sum(axis=-1)[:, None, None] + 1e-6
  thing, share = _largest_part(light > 0.5)

  fits = []
  for shape in range(len(SHAPES)):
    place = _fit(shape, light, _guess(shape, thing))
    template = _template(shape, place, video.shape[1:3])
    mass = np.square(template).sum(axis=(1, 2)) + 1e-6
    colour = np.einsum('thw,thwc->tc', template, contrast) / mass[:, None]
    explained = mass * np.square(colour).sum(axis=-1) / total
    fits.append((place, colour + ground, explained))
  place, colour, explained = (
    np.stack(a).astype(np.float64) for a in zip(*fits, strict=True)
  )
  shape = explained.argmax(axis=0)
  pick = (shape, np.arange(len(shape)))
  palette = np.array(list(COLOURS.values()), np.float64)
  off = np.linalg.norm(colour[pick][:, None] - palette[None], axis=-1)
  dark = np.linalg.norm(ground - np.array([BACKGROUND], np.float32), axis=-1)
  size = place[pick][:, 2] / min(video.shape[1:3])
  return {
    'shape': shape,
    'colour': off.argmin(axis=1),
    'position': place[pick][:, :2],
    'radius': place[pick][:, 2],
    'explained': explained[pick],
    'valid': (
      (explained[pick] > MIN_EXPLAINED)
      & (share > MIN_SHARE)
      & (off.min(axis=1) < MAX_COLOUR_ERROR)
      & (dark < MAX_BACKGROUND_ERROR)
      & (size > RADIUS[0] / SIZE_SLACK)
      & (size < RADIUS[1] * SIZE_SLACK)
    ),
  }


def _largest_part(
  mask: Bool[np.ndarray, 't h w'],
) -> tuple[Bool[np.ndarray, 't h w'], Float[np.ndarray, ' t']]:
  """The largest connected part of each mask, and its share of the mask."""
  t, h, w = mask.shape
  names = np.arange(1, h * w + 1).reshape(1, h, w) * mask
  while True:
    near = np.pad(names, ((0, 0), (1, 1), (1, 1)))
    down, right = near[:, 2:, 1:-1], near[:, 1:-1, 2:]
    up, left = near[:, :-2, 1:-1], near[:, 1:-1, :-2]
    near = np.max([names, up, down, left, right], axis=0) * mask
    if np.array_equal(near, names):
      break
    names = near
  names = names + (h * w + 1) * np.arange(t)[:, None, None]
  sizes = np.bincount(names.ravel(), minlength=t * (h * w + 1))
  sizes = sizes.reshape(t, h * w + 1)[:, 1:]
  largest = sizes.argmax(axis=1) + 1 + (h * w + 1) * np.arange(t)
  share = sizes.max(axis=1) / np.maximum(sizes.sum(axis=1), 1)
  return mask & (names == largest[:, None, None]), share


def _guess(
  shape: int, thing: Bool[np.ndarray, 't h w']
) -> Float[np.ndarray, 't 3']:
  """Centre (x, y) and radius of a shape with the area and mean of a mask."""
  area = np.maximum(thing.sum(axis=(1, 2)), 1)
  x = (thing.sum(axis=1) @ (np.arange(thing.shape[2]) + 0.5)) / area
  y = (thing.sum(axis=2) @ (np.arange(thing.shape[1]) + 0.5)) / area
  radius = np.sqrt(area / (math.pi, 4.0, 2.0)[shape])
  if SHAPES[shape] == 'triangle':
    y = y - radius / 3.0  # from its centre of mass to that of its box
  return np.stack([x, y, radius], axis=1).astype(np.float32)


def _template(shape, place, size):
  """`coverage` at places (x, y, radius), softened as the frames are."""
  sides = {'height': size[0], 'width': size[1], 'rows': max(1, 64 // size[0])}
  centre, radius = place[:, :2], place[:, 2]
  return _soften(coverage(shape, centre=centre, radius=radius, **sides))


def _soften(pictures: Float[np.ndarray, 'n h w']) -> Float[np.ndarray, 'n h w']:
  """Blur by SOFTNESS, so that soft edges count little in the comparison."""
  down, across = (_blur(n, SOFTNESS * n) for n in pictures.shape[1:])
  return down @ pictures @ across.T


@functools.lru_cache
def _blur(length: int, sigma: float) -> Float[np.ndarray, 'n n']:
  """A matrix that blurs a line of pixels by a Gaussian."""
  x = np.arange(length)
  kernel = np.exp(-0.5 * np.square((x[:, None] - x[None]) / sigma))
  kernel /= kernel[length // 2].sum()
  return kernel.astype(np.float32)


def _fit(
  shape: int,
  light: Float[np.ndarray, 't h w'],
  guess: Float[np.ndarray, 't 3'],
) -> Float[np.ndarray, 't 3']:
  """Least squares for amplitude * coverage(x, y, radius) = light.

  Levenberg-Marquardt for each frame, by differences of templates. The shape
  stays inside the picture: a larger one, cut by the border, can look the same.
  """
  t, height, width = light.shape
  step = np.float32(0.1)
  shifts = step * np.eye(4, 3, -1, dtype=np.float32)
  extent = np.array([[width, height]], np.float32)
  low, high = 0.05 * min(height, width), 0.4 * min(height, width)
  p, kept = guess, guess
  best, damping = np.full(t, -1.0), np.full(t, 1e-2, np.float32)
  normal, right = np.zeros((t, 4, 4), p.dtype), np.zeros((t, 4, 1), p.dtype)
  for _ in range(8):
    radius = np.clip(p[:, 2:], low, high)
    centre = np.clip(p[:, :2], radius, extent - radius)
    p = np.concatenate([centre, radius], axis=1)
    q = (p[:, None] + shifts[None]).reshape(4 * t, 3)
    basis = _template(shape, q, (height, width)).reshape(t, 4, -1)
    basis[:, 1:] = (basis[:, 1:] - basis[:, :1]) / step
    now = basis @ basis.transpose(0, 2, 1)
    match = basis @ light.reshape(t, -1, 1)
    gain = match[:, 0, 0] ** 2 / (now[:, 0, 0] + 1e-6)
    up = gain > best
    best, kept = np.where(up, gain, best), np.where(up[:, None], p, kept)
    normal = np.where(up[:, None, None], now, normal)
    right = np.where(up[:, None, None], match, right)
    damping = damping * np.where(up, 0.2, 10.0).astype(np.float32)
    ridge = damping[:, None] * normal.diagonal(axis1=1, axis2=2) + 1e-4
    ridge = ridge[..., None] * np.diag(np.float32([0.0, 1.0, 1.0, 1.0]))
    solution = np.linalg.solve(normal + ridge, right)[..., 0]
    move = solution[:, 1:] / np.maximum(solution[:, :1], 0.2)
    p = kept + np.clip(move, -radius / 2.0, radius / 2.0)
  return kept
