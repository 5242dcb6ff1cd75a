"""Worker processes that may hang or crash: a call costs itself and no more.

Grain's and Python's own pools end with the first worker that dies. Here every
worker stands alone, and another one takes its place.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from vdm_jax.errors import ConfigError

START = 300.0  # seconds that a worker may take to come up
_SLICE = 1.0  # seconds; of one wait no more counts, be the machine asleep


class Lost(Exception):
  """A call without an answer: the worker hung or died, and why."""


class Closed(Exception):
  """The workers were closed during the call."""


class Workers:
  """A function, called in worker processes; from as many threads as they are.

  Workers start when they are first needed. They inherit the environment and
  `sys.path`, and see no accelerator.

  Args:
    function: what they call; it can be pickled.
    count: how many.
    memory: bytes that a worker may take besides the function; 0: no limit.

  Raises:
    ConfigError: the function cannot be pickled.
  """

  def __init__(self, function: Callable, count: int, *, memory: float = 0.0):
    try:
      pickled = pickle.dumps(function, protocol=5)
    except Exception as error:
      raise _unusable(f'the source cannot be sent: {error}') from error
    self._all = [_Worker(pickled, memory) for _ in range(count)]
    self._idle: queue.Queue[_Worker] = queue.Queue()
    for worker in self._all:
      self._idle.put(worker)

  def __call__(self, *arguments, seconds: float = 0.0) -> Any:
    """The function's result, or what it raised.

    Args:
      *arguments: of the function.
      seconds: that it may take; 0: as long as it likes.

    Raises:
      Lost: the worker hung or died; the next call has another one.
      Closed: by `close`, meanwhile.
      ConfigError: no worker comes up.
    """
    worker = self._idle.get()
    try:
      return worker.call(arguments, seconds)
    finally:
      self._idle.put(worker)

  def close(self) -> None:
    """Ends the workers; whoever still calls gets `Closed`."""
    for worker in self._all:
      worker.close()


class _Worker:
  """One process, or its place."""

  def __init__(self, function: bytes, memory: float):
    self._function, self._memory = function, memory
    self._process: subprocess.Popen | None = None
    self._connection: Connection | None = None
    self._closed = False
    self._lock = threading.Lock()  # of starting and ending

  def call(self, arguments, seconds: float) -> Any:
    request = pickle.dumps((seconds, arguments), protocol=5)
    try:
      self._send(request)
      reply = self._receive(seconds)
    except _TimeoutError:
      self._end()
      raise Lost(f'no result after {seconds:.0f} s') from None
    except (EOFError, OSError):
      raise Lost(self._death()) from None
    good, value = pickle.loads(reply)
    if good:
      return value
    raise value

  def _send(self, request: bytes) -> None:
    if self._process is not None:
      try:
        self._connection.send_bytes(request)
        return
      except OSError:
        self._end()  # it died between two calls, which is nobody's fault
    self._start()
    self._connection.send_bytes(request)

  def _receive(self, seconds: float) -> bytes:
    waited, step = 0.0, min(_SLICE, seconds or _SLICE)
    while not self._connection.poll(step):
      waited += step
      if seconds and waited >= seconds:
        raise _TimeoutError
    return self._connection.recv_bytes()

  def _start(self) -> None:
    with self._lock:
      if self._closed:
        raise Closed
      self._connection, theirs = Pipe()
      # With `-m`, the current folder comes first in any case.
      path = os.pathsep.join(p for p in sys.path if p)
      environment = os.environ | {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}
      number = str(theirs.fileno())
      module = f'{__package__}.worker'
      with theirs:
        self._process = subprocess.Popen(
          [sys.executable, '-m', module, number, str(self._memory)],
          pass_fds=[theirs.fileno()],
          stdin=subprocess.DEVNULL,
          env=environment,
        )
    try:
      self._connection.send_bytes(self._function)
      good, problem = pickle.loads(self._receive(START))
    except _TimeoutError:
      good, problem = False, f'it did not start within {START:.0f} s'
    except (EOFError, OSError):
      good, problem = False, self._death()
    if not good:
      self._end()
      raise _unusable(problem)

  def _death(self) -> str:
    """How the process ended."""
    process = self._process
    self._end()
    if self._closed or process is None:
      raise Closed
    code = process.returncode
    if code >= 0:
      return f'its decoder left with status {code}'
    with contextlib.suppress(ValueError):
      return f'its decoder died of {signal.Signals(-code).name}'
    return f'its decoder died of signal {-code}'

  def _end(self) -> None:
    with self._lock:
      process, self._process = self._process, None
      connection, self._connection = self._connection, None
    if connection is not None:
      connection.close()
    if process is not None:
      # One that has ended by itself keeps its own status.
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
      process.kill()
      process.wait()

  def close(self) -> None:
    with self._lock:
      self._closed = True
      process = self._process
    if process is not None:
      process.kill()
      process.wait()


def _unusable(problem) -> ConfigError:
  return ConfigError(
    'worker processes that read the data do not come up '
    f'({str(problem)[:160]}); set config.data.processes to 0'
  )


class _TimeoutError(Exception):
  pass
