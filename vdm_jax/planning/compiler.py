"""The process that `passes` starts: it compiles a case until it is ended."""

import json
import pathlib
import sys

import jax

from vdm_jax import identity
from vdm_jax.planning import flops, programs, targets


def main(folder: pathlib.Path):
  """Compiles `folder/job.json`, and leaves there what comes of it."""
  job = json.loads((folder / 'job.json').read_text())
  target = targets.find(job['target'])
  # Its programs cannot be read back without a TPU, and are to be optimised.
  jax.config.update('jax_enable_compilation_cache', False)
  jax.config.update('jax_disable_most_optimizations', False)
  config = identity.from_json(job['config'])
  traced = programs.trace(config, target, programs.Case(**job['case']))
  counted = flops.count(traced.jaxpr.jaxpr)
  (folder / 'traced.json').write_text(json.dumps({'counted': counted}))
  dumps = {'xla_dump_to': str(folder), 'xla_dump_hlo_as_text': True}
  try:
    traced.lower().compile(compiler_options=dumps)
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    (folder / 'error.txt').write_text(str(e))


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
