"""What the log says of the steps since its last line."""

import itertools

import jax
import numpy as np

from vdm_jax import errors
from vdm_jax.step import BAND_EDGES


class Window:
  """The metrics of the steps since the last line of the log."""

  def __init__(self):
    self._waiting = []
    self._rows = []

  def add(self, step: int, metrics):
    """Takes a step's metrics; the step before must have been finite.

    Raises:
      DivergedError: names the step whose loss was not finite.
    """
    self._waiting.append((step, metrics))
    if len(self._waiting) > 1:
      self._fetch()

  def _fetch(self):
    step, metrics = self._waiting.pop(0)
    row = jax.device_get(metrics)
    if not row['finite']:
      raise errors.DivergedError(
        f'the loss is not finite at step {step} (loss {row["loss"]}, gradient '
        f'norm {row["grad_norm"]}); the checkpoints are from before: lower '
        'config.optim.learning_rate or look at the data, and start in a new '
        'workdir'
      )
    self._rows.append(row)

  def close(self) -> dict[str, float]:
    """Means since the last call; the loss also by band of log-SNR."""
    while self._waiting:
      self._fetch()
    rows, self._rows = self._rows, []
    means = {
      k: float(np.mean([r[k] for r in rows]))
      for k in ('loss', 'loss_video', 'loss_image', 'grad_norm')
      if k in rows[0]
    }
    sums = np.sum([r['band_sum'] for r in rows], axis=0)
    counts = np.sum([r['band_count'] for r in rows], axis=0)
    names = band_names(BAND_EDGES)
    bands = zip(names, sums, counts, strict=True)
    return means | {n: float(s / k) for n, s, k in bands if k}


def band_names(edges) -> list[str]:
  """'loss_logsnr_-5..0' and so on, for the bands between the edges."""
  bounds = ['', *(f'{e:g}' for e in edges), '']
  return [f'loss_logsnr_{a}..{b}' for a, b in itertools.pairwise(bounds)]
