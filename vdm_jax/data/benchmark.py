"""How fast a source gives clips."""

import time

from vdm_jax.data.pipeline import Order
from vdm_jax.data.source import Source


def measure(source: Source, *, seconds: float = 5.0, seed: int = 0) -> float:
  """Clips per second and core, in the order of training.

  The time is this process's CPU time, of all its threads: it does not count
  waiting for the disk, and other programs hardly disturb it.

  Args:
    source: what to measure; one clip is read before the clock starts.
    seconds: CPU time to spend; at least one clip is read.
    seed: of the order and the clips.

  Raises:
    DataError: a clip cannot be read.
  """
  order = Order(len(source), batch_size=1, seed=seed)
  order.clip(source, 0)
  clips, begin = 0, time.process_time()
  while True:
    clips += 1
    order.clip(source, clips)
    spent = time.process_time() - begin
    if spent >= seconds:
      return clips / spent
