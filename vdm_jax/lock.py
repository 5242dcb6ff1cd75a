"""The lock of a workdir: one run writes there at a time.

Two locks, a file each. `flock` is the kernel's: it is gone with its process,
however that ended, so whoever gets it on the same machine (or on a network
disk that carries it) may go on at once. Where `flock` does not reach other
machines, the record of the holder counts, who writes it anew every few
seconds: only one that was left alone for a minute, by the clock of the disk, is
taken from a holder on another machine. It is opened and closed each time, since
a bucket that is mounted as a disk shows others nothing but closed files.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time

from vdm_jax import distributed, errors, runtime
from vdm_jax.data import turns
from vdm_jax.media import writing

# Apart: a file that is locked by `flock` on SMB is closed to all other opens.
FILE, RECORD = '.lock', '.lock.json'
BEAT = 5.0  # seconds between two writings of the record
SILENCE = 60.0  # without one, after which a holder elsewhere counts as dead


@contextlib.contextmanager
def hold(workdir: pathlib.Path, *, host: str | None = None):
  """Holds the lock of a workdir, which is made; the first process does.

  Args:
    workdir: the folder of a run.
    host: the name of this machine; its own by default.

  Raises:
    CheckpointError: another run holds it, or the folder cannot be written.
  """
  if distributed.active() and distributed.index():
    yield
    return
  me = {'host': host or socket.gethostname(), 'pid': os.getpid()}
  record, mine = workdir / RECORD, json.dumps(me).encode()
  with contextlib.ExitStack() as stack:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      file = stack.enter_context((workdir / FILE).open('a'))
      _take(file, workdir, me)
      writing.write_bytes(record, mine)
    except OSError as e:
      raise errors.CheckpointError(
        f'the workdir cannot be written ({e}); choose another --workdir or '
        'change its permissions'
      ) from e
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(record, mine, done))
    beat.daemon = True
    beat.start()
    try:
      yield
    finally:
      done.set()
      beat.join()
      with contextlib.suppress(OSError):
        if record.read_bytes() == mine:
          record.unlink()


def _take(file, workdir, me: dict):
  """Returns when the lock is ours."""
  try:
    supported = turns.claim(file)
  except BlockingIOError:
    raise _held(workdir, _read(workdir)) from None
  holder = _read(workdir)
  if not holder:
    return
  if holder.get('host') == me['host']:
    if not supported and _alive(holder.get('pid')):
      raise _held(workdir, holder)
    return
  # Without a record, its holder has ended.
  with contextlib.suppress(FileNotFoundError):
    _outwait(workdir, holder)


def _outwait(workdir, holder: dict):
  """Returns when a holder on another machine has been silent for long."""
  path, told = workdir / RECORD, False
  first = _touched(path)
  while (silent := _now(workdir) - _touched(path)) < SILENCE:
    if _touched(path) != first:
      raise _held(workdir, holder)
    if not told:
      runtime.warn(
        f'process {holder.get("pid")} on {holder.get("host")} has written in '
        f'{workdir}; waiting up to {SILENCE - silent:.0f} s to see that it has '
        'ended'
      )
      told = True
    time.sleep(min(1.0, SILENCE / 20))


def _touched(path: pathlib.Path) -> float:
  # Opened anew, network disks do not answer from memory.
  with path.open() as file:
    return os.fstat(file.fileno()).st_mtime


def _now(folder: pathlib.Path) -> float:
  """The time by the clock of the disk."""
  probe = folder / f'{FILE}.{os.getpid()}'
  try:
    probe.write_text('')
    return probe.stat().st_mtime
  finally:
    probe.unlink(missing_ok=True)


def _alive(pid) -> bool:
  return pathlib.Path(f'/proc/{pid}').exists()


def _beat(record: pathlib.Path, mine: bytes, done: threading.Event):
  while not done.wait(BEAT):
    with contextlib.suppress(OSError):
      if record.read_bytes() != mine:
        continue  # it was taken from us
      # In place: nobody finds a part of it, and a full disk has room for it.
      with record.open('r+b') as file:
        file.write(mine)


def _read(workdir: pathlib.Path) -> dict:
  try:
    found = json.loads((workdir / RECORD).read_bytes())
  except (FileNotFoundError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _held(workdir, holder: dict) -> errors.CheckpointError:
  return errors.CheckpointError(
    f'another run writes in {workdir} (process {holder.get("pid")} on '
    f'{holder.get("host")}); wait for its end, or choose another --workdir'
  )
