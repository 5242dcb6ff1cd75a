"""How a process meets its machine: devices, compilation cache, messages."""

import hashlib
import importlib.metadata
import os
import pathlib
import signal
import sys

import jax
from absl import logging

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')


def start(*, cpu_devices: int = 0, debug: bool = False):
  """Prepares JAX; call it before anything else touches a device.

  Compiled programs are kept in the user's cache folder, so that a second
  start of the same training takes seconds. JAX's own variable
  `JAX_COMPILATION_CACHE_DIR` chooses another folder; an empty one turns the
  cache off.

  Args:
    cpu_devices: into how many devices a machine without accelerator is split;
      0 leaves one. Small networks use several cores only this way.
    debug: print the libraries' own messages too.
  """
  if cpu_devices:
    jax.config.update('jax_num_cpu_devices', cpu_devices)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', str(cache_folder() / 'jax'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  # Orbax and TFDS warn of what is meant; our own words do not go this way.
  logging.set_verbosity(logging.INFO if debug else logging.ERROR)


def cache_folder() -> pathlib.Path:
  """The folder for what can be made again: $XDG_CACHE_HOME/vdm_jax."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'vdm_jax'


def versions() -> dict[str, str]:
  """Of this program and of what it computes with, by name."""
  source = hashlib.sha256()
  root = pathlib.Path(__file__).parent
  for path in sorted(root.rglob('*.py')):
    source.update(str(path.relative_to(root)).encode() + path.read_bytes())
  found = {k: importlib.metadata.version(k) for k in PACKAGES}
  return found | {'vdm_jax': source.hexdigest()[:8]}


def say(text: str):
  """Prints a line, on the first process alone."""
  if jax.process_index() == 0:
    print(text, flush=True)


def warn(text: str):
  """Prints a line about something that was mended, to standard error."""
  print(f'vdm_jax: warning: {text}', file=sys.stderr, flush=True)


def leave(status: int):
  """Ends the process at once.

  After a failed save Orbax's threads keep a finished process alive for five
  minutes; nothing that they would still do is wanted.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


class Stop:
  """Notes SIGTERM and Ctrl-C instead of dying of them; the second kills.

  With several processes JAX itself spreads the news, and a handler of ours
  would be in its way.
  """

  def __init__(self):
    self.requested = False
    self._old = {}

  def __enter__(self):
    if jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._note)
    return self

  def _note(self, number, frame):
    del frame
    self.requested = True
    signal.signal(number, self._old[number])

  def __exit__(self, *_):
    for number, old in self._old.items():
      signal.signal(number, old)
