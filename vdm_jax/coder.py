"""From frames to their noises and back, with a trained model of images.

The denoiser is not clipped here, unlike in sampling: a flow through a clipped
denoiser has no inverse, since it takes different frames to the same place.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from vdm_jax import build, errors, runtime, sample, sharding
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion import denoiser, inversion
from vdm_jax.progress import Progress

MOST = 16  # times as many steps as asked for, if the way back needs them


@dataclasses.dataclass(frozen=True)
class Encoded:
  """The noises of clips, and how exact they are.

  Attributes:
    eps: `[m, n, h, w, 3]`.
    steps: of the solver.
    round_trip: relative RMS of what encoding and decoding lose, all frames.
    worst: the same of the worst frame.
    moved: relative RMS by which the noises of some frames change from half as
      many steps to these. The error of the noises is about a third of it.
  """

  eps: Float[np.ndarray, 'm n h w 3']
  steps: int
  round_trip: float
  worst: float
  moved: float

  @property
  def rms(self) -> float:
    """Of the noises; 1 if they are of the prior."""
    return float(np.sqrt(np.mean(np.square(self.eps))))


@dataclasses.dataclass(frozen=True)
class Coder:
  """Carries frames to noises, and noises to frames, in batches.

  Attributes:
    config: the whole config.
    model: the network.
    params: the parameters.
    mesh: the devices.
    step: of training, of the parameters.
  """

  config: Any
  model: Any
  params: Any
  mesh: jax.sharding.Mesh
  step: int

  @property
  def batch_size(self) -> int:
    """Frames at a time; they fill every device."""
    return sharding.whole_batch(self.mesh, self.config.sample.batch_size)

  def programs(self, steps: int):
    """(encode, decode) along so many steps, each compiled once.

    Both take parameters, frames in [−1, 1] or noises `[b, 1, h, w, 3]`, and
    conditions.
    """
    levels = build.levels(self.config, steps + 1)

    def along(way):
      def program(params, batch, told):
        network = step_lib.bind(self.model.apply, params, told)
        denoise = denoiser.from_network(
          network, self.config.diffusion.prediction
        )
        return way(denoise, batch, logsnrs=levels)

      whole = sharding.replicated(self.mesh)
      return jax.jit(program, out_shardings=whole)

    return along(inversion.encode), along(inversion.decode)

  def __call__(
    self,
    program,
    batch: Float[np.ndarray, 'k 1 h w c'],
    told: dict[str, np.ndarray],
    name: str = '',
  ) -> Float[np.ndarray, 'k 1 h w c']:
    """Runs one of the programs on any number of frames.

    Args:
      program: see `programs`.
      batch: frames or noises.
      told: their conditions.
      name: of the progress that is reported; none is if it is empty.
    """
    count, size, found = len(batch), self.batch_size, []
    place = sharding.batch_sharding(self.mesh)
    quiet = not name or jax.process_index() > 0
    progress = Progress(count, name=name, unit='frames', quiet=quiet)
    for begin in range(0, count, size):
      rows = (begin + np.arange(size)) % count
      given = batch[rows], {k: v[rows] for k, v in told.items()}
      found.append(
        np.asarray(program(self.params, *jax.device_put(given, place)))
      )
      progress.update(min(begin + size, count))
    return np.concatenate(found)[:count]


def restore(config, told: Conditions, checkpoints, mesh) -> Coder:
  """A coder with the averaged parameters of the newest checkpoint."""
  model = build.model(config, told)
  sharding.check_space(mesh, model, config.data.size)
  abstract = sample.abstract_params(config, model, mesh)
  params, meta = checkpoints.restore_ema(abstract)
  return Coder(config, model, params, mesh, meta['step'])


def encode(
  coder: Coder,
  frames: UInt8[np.ndarray, 'm n h w 3'],
  told: dict[str, np.ndarray],
) -> Encoded:
  """The noises of all frames, by as many steps as the way back needs.

  Args:
    coder: the model.
    frames: n of each of m videos.
    told: the conditions, a row per video.

  Raises:
    CheckpointError: the flow of the model leads nowhere.
  """
  m, n = frames.shape[:2]
  x = frames.reshape(m * n, 1, *frames.shape[2:]).astype(np.float32) / 127.5 - 1
  told = {k: np.repeat(v, n, axis=0) for k, v in told.items()}
  few = np.linspace(0, m * n - 1, min(m * n, coder.batch_size)).astype(int)
  tried = settle(coder, x[few], {k: v[few] for k, v in told.items()})
  there, back = tried.programs
  eps = coder(there, x, told, name='encoding')
  if not np.isfinite(eps).all():
    raise errors.CheckpointError(
      f'the noises by the model of step {coder.step} are not finite; train it '
      'for longer'
    )
  again = coder(back, eps, told, name='decoding')
  found = Encoded(
    eps.reshape(m, n, *eps.shape[2:]),
    tried.steps,
    relative(again, x),
    max(relative(a, b) for a, b in zip(again, x, strict=True)),
    tried.moved,
  )
  bound = coder.config.analyze.round_trip
  if not found.round_trip <= bound:
    reason = 'raise config.analyze.steps'
    if tried.resolved:
      reason = (
        'it is not the steps, for the noises are settled: the way back '
        'enlarges rounding; train the model for longer (its noises have an RMS '
        f'of {found.rms:.2f}, those of the prior 1), or lower '
        'config.sample.sigma_max'
      )
    runtime.warn(
      f'{found.round_trip:.2%} of the frames is lost there and back, not the '
      f'{bound:.2%} asked for; {reason}'
    )
  return found


@dataclasses.dataclass(frozen=True)
class Tried:
  """The steps that were settled on.

  Attributes:
    steps: of the solver.
    programs: (encode, decode).
    moved: see `Encoded`.
    resolved: as many that noises no longer move, by as much as is asked for.
  """

  steps: int
  programs: tuple[Callable, Callable]
  moved: float
  resolved: bool


def settle(coder: Coder, x, told) -> Tried:
  """Doubles `config.analyze.steps` until frames come back as they are.

  What is lost falls by 8 each time, the solver being of second order and its
  errors of that order being undone on the way back. Where noises that no
  longer move do not lead back, it is not for want of steps.

  Args:
    coder: the model.
    x: a batch of frames `[b, 1, h, w, 3]`.
    told: their conditions.
  """
  c = coder.config.analyze
  eps = coder(coder.programs(c.steps // 2)[0], x, told)
  steps = c.steps
  while True:
    before, programs = eps, coder.programs(steps)
    eps = coder(programs[0], x, told)
    lost = relative(coder(programs[1], eps, told), x)
    moved = relative(before, eps)
    runtime.say(
      f'{steps} steps of the solver: {lost:.2%} lost there and back on '
      f'{len(x)} frames; half as many move the noises by {moved:.2%}'
    )
    resolved = moved <= c.round_trip
    if lost <= c.round_trip or resolved or steps >= MOST * c.steps:
      return Tried(steps, programs, moved, resolved)
    steps *= 2


def relative(value: np.ndarray, reference: np.ndarray) -> float:
  """The RMS of the difference over that of the reference."""
  lost = np.linalg.norm((value - reference).ravel())
  return float(lost / np.linalg.norm(reference.ravel()))
