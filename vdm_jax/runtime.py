"""How a process meets its machine: devices, compilation cache, messages."""

import contextlib
import hashlib
import importlib.metadata
import logging as stdlib_logging
import os
import pathlib
import re
import signal
import sys

import jax
from absl import logging

from vdm_jax import errors

_EXTRAS = {'gpu': 'cuda'}  # of setup.py; the others are called alike
_NO_MEMORY = re.compile(r'RESOURCE_EXHAUSTED|OUT_OF_MEMORY')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')


def start(*, cpu_devices: int = 0, platform: str = '', debug: bool = False):
  """Prepares JAX; call it before anything else touches a device.

  Compiled programs are kept in the user's cache folder, so that a second
  start of the same training takes seconds. JAX's own variable
  `JAX_COMPILATION_CACHE_DIR` chooses another folder; an empty one turns the
  cache off.

  Args:
    cpu_devices: into how many devices a machine without accelerator is split;
      0 leaves one. Small networks use several cores only this way.
    platform: 'cpu' leaves accelerators alone; see `check_platform`.
    debug: print the libraries' own messages too.
  """
  if platform == 'cpu' and jax.config.jax_platforms != 'cpu':
    jax.config.update('jax_platforms', 'cpu')
  if cpu_devices:
    jax.config.update('jax_num_cpu_devices', cpu_devices)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', str(cache_folder() / 'jax'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  # Orbax and TFDS warn of what is meant, and Orbax tells by pages of a save
  # that failed; our own words do not go this way.
  logging.set_verbosity(logging.INFO if debug else logging.FATAL)
  if not debug:
    sys.unraisablehook = _unraisable
    stdlib_logging.getLogger('asyncio').setLevel(stdlib_logging.CRITICAL)


def _unraisable(found):
  """Passes over what TensorStore's threads print, once for each array.

  Of a checkpoint that cannot be read or written the first error is told; the
  other arrays then find nobody who listens.
  """
  if str(found.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(found)


def check_platform(wanted: str):
  """Finds the devices; they must be of the kind that was asked for.

  JAX takes the CPU, with a warning at most, where the driver of an accelerator
  does not work, and a training would go on for weeks that was to take hours.

  Args:
    wanted: 'cpu', 'gpu' or 'tpu'; '' takes what there is.

  Raises:
    ConfigError: they are of another kind, or what the environment variable
      JAX_PLATFORMS asks for is not there.
  """
  try:
    found = jax.default_backend()
  except (RuntimeError, AssertionError) as e:
    reason = (str(e).splitlines() or ['no reason given'])[0]
    raise errors.ConfigError(
      f'JAX finds no device of JAX_PLATFORMS={jax.config.jax_platforms} '
      f'({reason[:120]}); unset it, or mend the driver or the installation'
    ) from e
  if wanted not in ('', found):
    raise errors.ConfigError(
      f'config.mesh.platform is {wanted!r}, but JAX finds '
      f'{jax.device_count()} {found} device(s) alone; install the extra '
      f"{_EXTRAS.get(wanted, wanted)} and its driver, or set it to ''"
    )


@contextlib.contextmanager
def memory_told():
  """Around what computes: a model that does not fit is no defect.

  It is found when programs compile, or when they or their arrays are to be
  placed: in the first state, a step or a sample.

  Raises:
    ConfigError: a device has too little memory.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as e:
    if not _NO_MEMORY.search(str(e)):
      raise
    line = str(e).partition('RESOURCE_EXHAUSTED: ')[2] or str(e)
    raise errors.ConfigError(
      f'a device has too little memory ({line.splitlines()[0][:90]}); lower '
      'config.train.batch_size (for samples sample.batch_size), raise '
      'config.train.accumulate or config.mesh.fsdp, or set config.model.remat '
      "to 'block'"
    ) from e


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

  With several processes JAX itself notes SIGTERM and spreads the news, where a
  training asks it to (`distributed.start`); a handler of ours would be in its
  way. There Ctrl-C does what SIGTERM does.
  """

  def __init__(self):
    self.requested = False
    self._old = {}

  def __enter__(self):
    if jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._note)
    elif jax.config.jax_enable_preemption_service:
      number = signal.SIGINT
      self._old[number] = signal.signal(number, self._pass_on)
    return self

  def _note(self, number, frame):
    del frame
    self.requested = True
    signal.signal(number, self._old[number])

  def _pass_on(self, number, frame):
    del frame
    # Python's own handler would wait for a collective to end, and others for
    # this process.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)

  def __exit__(self, *_):
    for number, old in self._old.items():
      signal.signal(number, old)
