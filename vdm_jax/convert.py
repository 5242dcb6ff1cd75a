"""Converts weights of others: read once with care, then loaded as our own."""

import pathlib

from vdm_jax import errors, runtime
from vdm_jax.metrics import features, filling, reading


def run(*, weights: str, network: str, out: str = '') -> pathlib.Path:
  """Writes the weights of a feature network as a safetensors file of ours.

  Nothing in the files is executed. Every tensor of them is used, and every
  parameter of the network is filled, or nothing is written.

  Args:
    weights: the file, or several with commas between.
    network: of `features.NETWORKS`.
    out: the file to write, or a folder for it; beside the weights if empty.

  Returns:
    The file that was written.

  Raises:
    ConfigError: there is no such network, or a flag is missing.
    WeightsError: a file cannot be used, or is of another network.
  """
  paths = [pathlib.Path(p).expanduser() for p in weights.split(',') if p]
  foreign = [k for k, v in features.NETWORKS.items() if v.layouts()]
  if not paths or not network:
    known = ', '.join(foreign)
    raise errors.ConfigError(
      f'{"--network" if paths else "--weights"} is missing; give '
      f'--weights=FILE[,FILE] and --network=NAME, one of {known}'
    )
  entry = features.network(network)
  if network not in foreign:
    raise errors.ConfigError(
      f'the weights of the network {network!r} are not converted, but made, by '
      f'--mode=features; convert those of {", ".join(foreign)}'
    )
  target = _target(paths, network, out)
  tensors = reading.read(tuple(paths))
  shapes = features.parameter_shapes(network)
  params, layout = filling.fill(entry.layouts(), tensors, shapes, network)
  digest = filling.save(
    target,
    params,
    network=network,
    layout=layout,
    source=tensors.source,
    sha256=tensors.sha256,
    licence=entry.licence,
  )
  millions = target.stat().st_size / 1e6
  runtime.say(
    f'{target}: {network} from {tensors.source} ({layout}), '
    f'{filling.size(params):,} parameters, {millions:.1f} MB, sha256 {digest}'
  )
  if entry.noncommercial or 'non-commercial' in entry.licence:
    runtime.say(f'licence: {entry.licence}')
  return target


def _target(paths: list[pathlib.Path], network: str, out: str) -> pathlib.Path:
  """The file to write, which is none of those that are read."""
  name = f'{network}.safetensors'
  target = pathlib.Path(out).expanduser() if out else _folder(paths[0]) / name
  if out and (target.is_dir() or out.endswith('/')):
    target = target / name
  if target.suffix != '.safetensors':
    raise errors.ConfigError(
      f'converted weights are safetensors (--out={out}); name a folder, or a '
      'file that ends in .safetensors'
    )
  if target.resolve() in [p.resolve() for p in paths]:
    raise errors.ConfigError(
      f'the weights would be written over ({target}); name another --out'
    )
  return target


def _folder(path: pathlib.Path) -> pathlib.Path:
  return path if path.is_dir() else path.parent
