"""Left-right mirroring at random."""

from typing import Any

import numpy as np

from vdm_jax.data.source import Wrapper


class Flipped(Wrapper):
  """Clips of which every other one, at random, is mirrored left to right.

  All frames of a clip are mirrored, or none. Classes and captions stay as they
  are: whoever has captions that tell left from right does not want this. Packed
  images are to be flipped before they are packed, each for itself.
  """

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """The clip or its mirror image; see `Source.clip`."""
    clip = self.source.clip(index, rng)
    # Drawn last: the clip is the one that it would be without flips.
    if rng.random() < 0.5:
      clip['video'] = np.ascontiguousarray(clip['video'][:, :, ::-1])
    return clip

  def signature(self) -> dict[str, Any]:
    """What tells these clips from others, as JSON."""
    return {'flipped': self.source.signature()}
