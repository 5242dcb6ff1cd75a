"""A stand-in of a bucket that is mounted as a disk on two machines."""

import contextlib
import ctypes
import os
import pathlib
import shutil
import struct
import threading

import pytest

# Of Linux' inotify: a file was closed after writing, moved away, moved here,
# or deleted.
EVENTS = 0x8 | 0x40 | 0x80 | 0x200


class Bucket:
  """Two folders; what is done in one is seen in the other, as gcsfuse has it.

  A file appears there when it is closed here, with the time of its last change,
  and not before, however often it was flushed.

  Attributes:
    here: the folder that is written in; without folders in it.
    there: what another machine sees of it, up to the last `show`.
  """

  def __init__(self, folder: pathlib.Path):
    self.here, self.there = folder / 'here', folder / 'there'
    self.here.mkdir()
    self.there.mkdir()
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'inotify_init1'):
      pytest.skip('no inotify here')
    self._one_at_a_time = threading.Lock()
    self._events = libc.inotify_init1(os.O_NONBLOCK)
    assert self._events >= 0
    assert libc.inotify_add_watch(self._events, bytes(self.here), EVENTS) > 0

  def show(self):
    """Shows there what was done here so far."""
    with self._one_at_a_time, contextlib.suppress(BlockingIOError):
      while events := os.read(self._events, 2**16):
        while events:
          size = 16 + struct.unpack_from('iIII', events)[3]
          self._copy(events[16:size].rstrip(b'\0').decode())
          events = events[size:]

  def _copy(self, name: str):
    part = self.there / f'{name}.part'
    try:
      shutil.copy2(self.here / name, part)
    except FileNotFoundError:
      (self.there / name).unlink(missing_ok=True)
    else:
      part.replace(self.there / name)

  @contextlib.contextmanager
  def shown(self):
    """Shows all that is done, as it is done."""
    done = threading.Event()

    def follow():
      while not done.wait(0.01):
        self.show()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()

  def close(self):
    """Ends the watch."""
    os.close(self._events)
