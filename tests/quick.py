"""Quick stand-ins: a step that learns nothing, windows that are noise.

And what need not be made twice: the programs of training.
"""

import dataclasses

import jax
import numpy as np

from vdm_jax import config as config_lib
from vdm_jax import step, train

# Parts of a config that no program of training depends on.
ASIDE = ('sample.', 'evaluate.', 'reproduce.', 'analyze.', 'init.', 'mesh.')
ASIDE += ('train.steps', 'train.keep', 'train.checkpoint_every', 'train.log')
ASIDE += ('train.allow_data_change',)
_made = {}


def programs_once(monkeypatch):
  """Equal runs of a test process share their programs: `train.programs`."""
  make = train.programs

  def programs(config, model, mesh, shapes, check=None):
    flat = config_lib.flat(config).items()
    parts = [(k, v) for k, v in flat if not k.startswith(ASIDE)]
    compiler = train.compile_step.__name__  # quick or not
    key = str((parts, model, mesh, mesh.devices.tolist(), shapes, compiler))
    if key not in _made:
      _made[key] = make(config, model, mesh, shapes, check)
    elif check:
      check(_made[key][1])
    return _made[key]

  monkeypatch.setattr(train, 'programs', programs)


def no_step(*_):
  """For `train.compile_step`: a step that counts and leaves the rest alone."""

  def count(state, batch):
    del batch
    bands = np.ones(len(step.BAND_EDGES) + 1)
    metrics = {'loss': 1.0, 'grad_norm': 1.0, 'finite': True}
    metrics |= {'band_sum': bands, 'band_count': bands}
    return dataclasses.replace(state, step=state.step + 1), metrics

  return count


@dataclasses.dataclass
class Call:
  """What a window was made from.

  Attributes:
    size: height of its frames.
    told: the conditions.
    known: uint8 frames `[b, h, w, 3]` by their position in the window.
    seen: the same of frames that are known coarsely.
    low: the videos that are refined, if the model refines.
  """

  size: int
  told: dict
  known: dict
  seen: dict
  low: np.ndarray | None = None


class Windows:
  """For `Generator.__call__`: noise that is a function of the keys.

  Attributes:
    calls: one for each window.
    most: how many there may be; the next one is interrupted.
  """

  def __init__(self, monkeypatch):
    self.calls, self.most = [], 10**6
    monkeypatch.setattr(
      'vdm_jax.generate.Generator.__call__',
      lambda generator, params, **given: self.draw(generator.shape, **given),
    )

  def video(self, rng, shape):
    return rng.integers(0, 256, shape, np.uint8)

  def draw(
    self, shape, *, keys, told, steps, observation=None, low=None, tick=None
  ):
    del steps, tick
    if len(self.calls) == self.most:
      raise KeyboardInterrupt
    call = Call(shape[1], dict(told), {}, {}, low)
    self.calls.append(call)
    videos = np.stack(
      [
        self.video(np.random.default_rng(seed), shape)
        for seed in np.asarray(jax.random.key_data(keys))
      ]
    )
    for part in observation.parts if observation else ():
      frames = np.moveaxis(np.asarray(step.to_uint8(part.values)), 1, 0)
      where = call.known if part.factor == 1 else call.seen
      where |= dict(zip(part.indices, frames, strict=True))
    for i, frame in call.known.items():
      videos[:, i] = frame
    return videos
