"""The TPU compiler, up to where it has laid out the memory.

What it takes its time for is the machine code, of which a plan needs nothing.
It writes down its program and the addresses of all arrays before: this runs it
in a process of its own, reads both, and ends the process.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from vdm_jax import errors, identity

# Written once the program and the allocations are.
_READY = '*after_optimizations-buffer-assignment-values.txt'
_ALLOCATIONS = '*after_optimizations-buffer-assignment.txt'
_PROGRAM = '*after_optimizations.txt'
_ALLOCATION = re.compile(r'^allocation \d+: size (\d+), (.*)$', re.MULTILINE)


def compile_passes(
  config, target: str, case: dict, seconds: float
) -> dict | None:
  """What the compiler makes of a case; None if the time is over.

  Args:
    config: the whole config.
    target: the name of one.
    case: the fields of a `programs.Case`.
    seconds: that it may take.

  Returns:
    `text` of the optimised program and `memory`, or the `error` that it does
    not fit; `counted`, FLOPs of the program before the compiler, of all chips.
  """
  folder = pathlib.Path(tempfile.mkdtemp(prefix='vdm_jax_plan_'))
  job = {'config': identity.to_json(config), 'target': target, 'case': case}
  (folder / 'job.json').write_text(json.dumps(job))
  paths = [str(pathlib.Path(__file__).parents[2])]
  paths += filter(None, [os.environ.get('PYTHONPATH')])
  process = subprocess.Popen(
    [sys.executable, '-m', 'vdm_jax.planning.compiler', str(folder)],
    stdout=subprocess.DEVNULL,
    stderr=(folder / 'messages.txt').open('w'),
    env=os.environ | {'PYTHONPATH': os.pathsep.join(paths)},
  )
  try:
    if not _wait(process, folder, seconds):
      return None
    return _read(folder)
  finally:
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _wait(process, folder: pathlib.Path, seconds: float) -> bool:
  """Whether there is something to read in time."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if any(folder.glob(_READY)) or process.poll() is not None:
      return True
    time.sleep(0.2)
  return False


def _read(folder: pathlib.Path) -> dict:
  error = folder / 'error.txt'
  if error.is_file():
    return _traced(folder) | {'error': error.read_text()}
  found = list(folder.glob(_ALLOCATIONS))
  if not found:
    lines = (folder / 'messages.txt').read_text().splitlines()
    raise errors.ConfigError(
      'the compiler of TPUs ended without a word of memory '
      f'({(lines or ["no message"])[-1][:200]}); try --debug'
    )
  # Of several modules the last and largest one is the step.
  largest = max(found, key=lambda path: path.stat().st_size)
  program = largest.with_name(
    largest.name.replace('-buffer-assignment.txt', '.txt')
  )
  return _traced(folder) | {
    'text': program.read_text(),
    'memory': allocated(largest.read_text()),
  }


def _traced(folder: pathlib.Path) -> dict:
  return json.loads((folder / 'traced.json').read_text())


def allocated(text: str) -> dict[str, int]:
  """Bytes of the large memory that a program takes, and for what.

  Args:
    text: the compiler's own list of allocations; those of another colour lie
      in the small memories.
  """
  parts = dict.fromkeys(('arguments', 'outputs', 'aliased', 'temporaries'), 0)
  for size, kind in _ALLOCATION.findall(text):
    size = int(size)
    if re.search(r'\bcolor [1-9]', kind):
      continue
    if kind.startswith('parameter'):
      parts['arguments'] += size
      if 'maybe-live-out' in kind:
        parts['aliased'] += size
    elif 'maybe-live-out' in kind or kind.startswith('output'):
      parts['outputs'] += size
    else:
      parts['temporaries'] += size
  parts['outputs'] += parts['aliased']
  kept = parts['arguments'] + parts['outputs'] - parts['aliased']
  return parts | {'code': 0, 'total': kept + parts['temporaries']}
