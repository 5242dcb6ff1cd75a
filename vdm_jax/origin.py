"""The run that another one starts from: its averaged parameters.

From images to video, the network has more parameters than those it starts
from, and the new layers pass on what they are given (`nn.inflation`); on part
of the noise levels (experts) or on other data, it has the same ones.
"""

import dataclasses
import itertools
from typing import Any

import jax

from vdm_jax import (
  build,
  checkpoint,
  errors,
  identity,
  optim,
  runs,
  runtime,
  sample,
  sharding,
)
from vdm_jax.conditions import Conditions
from vdm_jax.nn import inflation

PyTree = Any

# What the two networks must share beside the shapes of the parameters. What
# the last six turn on is new layers, or none.
TIED = ('model', 'diffusion.prediction')
FREE = (
  'model.dropout',
  'model.dtype',
  'model.remat',
  'model.image_mode',
  'model.temporal',
  'model.temporal_convolution',
  'model.cross_attention',
  'model.frame_positions',
)


@dataclasses.dataclass(frozen=True)
class Origin:
  """A run to start from, checked against the network that starts from it.

  Attributes:
    checkpoints: its checkpoints, opened to read.
    abstract: shapes and shardings of its parameters.
    new: the paths of the parameters that it does not have.
  """

  checkpoints: checkpoint.Checkpoints
  abstract: PyTree
  new: tuple[str, ...]

  def restore(self) -> tuple[PyTree, dict]:
    """Its newest averaged parameters that can be read, and their origin.

    Returns:
      The parameters, on the mesh of the run that starts, and what its
      checkpoints say of them: `workdir` and `step`.

    Raises:
      CheckpointError: if none can be read.
    """
    params, meta = self.checkpoints.restore_ema(self.abstract)
    workdir = str(self.checkpoints.folder.parent)
    taken = [
      sharding.path_name(path)
      for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    layers = ', '.join(new_layers(taken, self.new))
    runtime.say(
      f'starting from step {meta["step"]} of {workdir}: {len(taken)} of '
      f'{len(taken) + len(self.new)} arrays taken, {len(self.new)} new'
      + (f' ({layers})' if layers else '')
    )
    return params, {'workdir': workdir, 'step': meta['step']}


def check(config, told: Conditions, model, mesh, workdir) -> Origin | None:
  """The run to start from, if any; checks what names parameters besides.

  A workdir that has checkpoints continues from them and starts from nothing.

  Args:
    config: the settings of the run that starts.
    told: what its network is told of a video.
    model: the network.
    mesh: its devices.
    workdir: of the run that starts.

  Raises:
    UserError: that run cannot be started from, or `config.optim.rates` does
      not fit the network.
  """
  if not (config.init.workdir or config.optim.rates):
    return None
  params = sample.abstract_params(config, model, mesh)
  optim.rules(params, config.optim.rates)
  if checkpoint.Checkpoints(workdir, read_only=True).steps():
    return None
  return find(config, told, params, mesh)


def find(config, told: Conditions, params: PyTree, mesh) -> Origin | None:
  """The run that `config.init.workdir` names; None if it names none.

  Args:
    config: the settings of the run that starts.
    told: what its network is told of a video.
    params: shapes of its parameters.
    mesh: its devices.

  Raises:
    CheckpointError: there is no such run, or it is of a network that this one
      does not contain.
  """
  if not config.init.workdir:
    return None
  workdir = config.init.workdir
  checkpoints, saved, known = runs.open_run(workdir, 'init.workdir')
  found = identity.differences(saved, config, TIED, FREE)
  found += runs.told_apart(known, told)
  if found:
    raise errors.CheckpointError(
      f'the run {workdir} cannot be started from ({"; ".join(found[:3])}); '
      'undo the change, or name a run of this network with config.init.workdir'
    )
  abstract = sample.abstract_params(saved, build.model(saved, known), mesh)
  try:
    _, new = inflation.inflate(abstract, params)
  except errors.CheckpointError as e:
    raise errors.CheckpointError(f'the run {workdir}: {e}') from e
  return Origin(checkpoints, abstract, new)


def recorded(meta: dict, config) -> dict | None:
  """The origin that a checkpoint says it has, for the ones after it.

  Raises:
    CheckpointError: it has none, and the config names one.
  """
  origin = meta.get('origin')
  if config.init.workdir and not origin:
    raise errors.CheckpointError(
      f'config.init.workdir is {config.init.workdir}, but the run in the '
      'workdir has begun from new parameters; choose another --workdir, or '
      'leave it out'
    )
  return origin


def new_layers(known: list[str], new: tuple[str, ...]) -> list[str]:
  """The first name of each new path that tells it from all known ones."""
  prefixes = {p for path in known for p in _prefixes(path)}
  firsts = {
    next(p for p in _prefixes(path) if p not in prefixes) for path in new
  }
  return sorted({first.rpartition('/')[-1] for first in firsts})


def _prefixes(path: str) -> list[str]:
  """'a', 'a/b', 'a/b/c' of 'a/b/c'."""
  return list(itertools.accumulate(path.split('/'), '{}/{}'.format))
