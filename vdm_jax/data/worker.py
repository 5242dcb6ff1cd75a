"""A process that reads for another one, and hangs or crashes in its place.

`workers.Workers` starts it as `python -m vdm_jax.data.worker`: nothing of the
other process is imported but what the pickled function needs, neither its
script nor, where the function does without, JAX.
"""

import contextlib
import os
import pickle
import resource
import signal
import sys
from multiprocessing.connection import Connection

_GRACE = 5.0  # seconds; the other process was to end this one before


def serve(connection: Connection, memory: float) -> None:
  """Answers calls until the other end of the connection is closed.

  First comes the pickled function, which is answered by (True, None); then
  (seconds, arguments) of each call, answered by (True, result) or (False,
  exception).

  Args:
    connection: to the other process.
    memory: bytes of address space beyond what the function takes; 0: no limit.
  """
  try:
    function = pickle.loads(connection.recv_bytes())
    connection.send_bytes(pickle.dumps((True, None)))
  except Exception as error:
    connection.send_bytes(pickle.dumps((False, _portable(error))))
    return
  _limit(memory)
  while True:
    seconds, arguments = pickle.loads(connection.recv_bytes())
    # If the other process is dead, the kernel ends this one.
    signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE if seconds else 0)
    try:
      reply = pickle.dumps((True, function(*arguments)), protocol=5)
    except Exception as error:
      reply = pickle.dumps((False, _portable(error)))
    signal.setitimer(signal.ITIMER_REAL, 0)
    connection.send_bytes(reply)


def _portable(error: Exception) -> Exception:
  """The error, if it survives the trip, or one that says the same."""
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError(f'{type(error).__name__}: {error}')
  return error


def _limit(memory: float) -> None:
  if not memory:
    return
  used = 0
  with contextlib.suppress(OSError), open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  bound = used + int(memory)
  _, most = resource.getrlimit(resource.RLIMIT_AS)
  if most != resource.RLIM_INFINITY:
    bound = min(bound, most)
  with contextlib.suppress(OSError, ValueError):  # not every system has it
    resource.setrlimit(resource.RLIMIT_AS, (bound, most))


def main(descriptor: str, memory: str) -> None:
  """The process: answers on an open file descriptor."""
  # Whoever stops the run stops this process by closing the connection.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  with contextlib.suppress(EOFError, OSError):
    serve(Connection(int(descriptor)), float(memory))
  # Threads of libraries are not waited for.
  sys.stdout.flush()
  os._exit(0)


if __name__ == '__main__':
  main(*sys.argv[1:])
