"""How files of others name and lay out the parameters of a network."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np


def same(value: np.ndarray) -> np.ndarray:
  """The tensor as it is."""
  return value


@dataclasses.dataclass(frozen=True)
class Source:
  """Where one parameter comes from.

  Attributes:
    name: of the tensor in the file; several parameters may share one (slices).
    convert: makes the parameter of it, by transposing, reshaping or slicing.
  """

  name: str
  convert: Callable[[np.ndarray], np.ndarray] = same


@dataclasses.dataclass(frozen=True)
class Layout:
  """How one kind of file holds a network.

  Attributes:
    sources: by the path of each parameter, such as 'Conv3d_1a/conv/kernel';
      a number stands for a parameter that the files leave out, being constant.
    ignored: patterns (of the whole name) of tensors that are not parameters.
    prefix: pattern of what may stand in front of every name.
  """

  sources: Mapping[str, Source | float]
  ignored: tuple[str, ...] = ()
  prefix: str = ''
