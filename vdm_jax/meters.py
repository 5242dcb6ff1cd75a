"""What the log says of the steps since its last line."""

import itertools
import math
from collections.abc import Callable

import jax
import numpy as np

from vdm_jax import errors
from vdm_jax.step import BAND_EDGES


class Guard:
  """Steps that were not finite: told, counted, and an error if too many.

  Args:
    limit: so many in a row are the error.
    tell: (step, reason, index) of each; index is what `Window.add` got.
    advice: the end of the error's message: what is left, and what to do.
  """

  def __init__(
    self,
    limit: int = 1,
    tell: Callable = lambda step, reason, index: None,
    advice: Callable[[], str] = lambda: (
      'lower config.optim.learning_rate or mend the data'
    ),
  ):
    self._limit, self._tell, self._advice = limit, tell, advice
    self._row = 0  # how many there are at a stretch

  def good(self, step: int, row: dict, index) -> bool:
    """Whether a step was good; it is told if not.

    Raises:
      DivergedError: it was the last one of too many.
    """
    if row['finite']:
      self._row = 0
      return True
    self._row += 1
    reason = f'loss {row["loss"]:.4g}, gradient norm {row["grad_norm"]:.4g}'
    if math.isfinite(row['loss']) and math.isfinite(row['grad_norm']):
      reason += ', and parameters or optimizer overflow'
    clips = self._tell(step, reason, index)
    if self._row >= self._limit:
      raise errors.DivergedError(
        f'{self._row} step(s) in a row are not finite, at last step {step} '
        f'({reason}'
        f'{f"; clips {clips}" if clips else ""}); {self._advice()}'
      )
    return False


class Window:
  """The metrics of the steps since the last line of the log.

  Args:
    guard: looks at every step; by default the first one that is not finite is
      an error.
  """

  def __init__(self, guard: Guard | None = None):
    self._guard = guard or Guard()
    self._waiting = []
    self._rows = []
    self._bad = 0
    self._changed = False

  def add(self, step: int, metrics, index=None):
    """Takes a step's metrics; looks at those of the step before.

    Args:
      step: which one.
      metrics: its metrics, still being computed.
      index: of its clips, for the guard.

    Raises:
      DivergedError: see `Guard.good`.
    """
    self._waiting.append((step, metrics, index))
    if len(self._waiting) > 1:
      self._fetch()

  def _fetch(self):
    step, metrics, index = self._waiting.pop(0)
    row = jax.device_get(metrics)
    if self._guard.good(step, row, index):
      self._rows.append(row)
      self._changed = True
    else:
      self._bad += 1

  def changed(self) -> bool:
    """Whether a step since the last call was good; waits for all steps."""
    while self._waiting:
      self._fetch()
    changed, self._changed = self._changed, False
    return changed

  def close(self) -> dict[str, float]:
    """Means since the last call; the loss also by band of log-SNR.

    Steps that were not finite are left out, and counted as `bad_steps`.
    """
    while self._waiting:
      self._fetch()
    rows, self._rows = self._rows, []
    bad, self._bad = {'bad_steps': float(self._bad)}, 0
    if not rows:
      return {'loss': math.nan, 'grad_norm': math.nan} | bad
    means = {
      k: float(np.mean([r[k] for r in rows]))
      for k in ('loss', 'loss_video', 'loss_image', 'grad_norm')
      if k in rows[0]
    }
    sums = np.sum([r['band_sum'] for r in rows], axis=0)
    counts = np.sum([r['band_count'] for r in rows], axis=0)
    names = band_names(BAND_EDGES)
    bands = zip(names, sums, counts, strict=True)
    return means | bad | {n: float(s / k) for n, s, k in bands if k}


def band_names(edges) -> list[str]:
  """'loss_logsnr_-5..0' and so on, for the bands between the edges."""
  bounds = ['', *(f'{e:g}' for e in edges), '']
  return [f'loss_logsnr_{a}..{b}' for a, b in itertools.pairwise(bounds)]
