"""Several processes that are one run: how they meet, and how they end.

Every process runs the same program. They meet at the coordinator, a service
inside the first one, before any of them touches a device. From then on

- none goes on alone: one that fails tells the others why, and all leave with
  its status;
- a process that dies is missed after the heartbeat, and one that hangs by the
  watchdogs of all; the rest leave with the status of `errors.RetryError`, on
  which a launcher starts the same command again;
- whoever waits for the others does so at the coordinator and for a bounded
  time. Collectives have limits of their own (on CPUs 30 s to connect), so work
  that takes the processes unequally long ends in `barrier`.

A process alone opens no port, and all of this does nothing.
"""

import collections
import contextlib
import ctypes
import faulthandler
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from vdm_jax import changes, errors

# Seconds that all wait for what one of them does alone: compile with a cold
# cache, write the samples, score them.
PATIENCE = 3600.0
GAVE_UP = 'another process has failed'
_POLL = 1.0  # seconds between two looks at whether another process failed
_TICK = 0.25  # of the watchdog
_KEYS = 'vdm_jax'
_FAILED = f'{_KEYS}/failed/'
_RETRY = errors.RetryError.status
# How errors begin that the loss of a process may be the cause of.
_RUNTIME = 'UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED'


def start(
  where,
  *,
  heartbeat: float = 100.0,
  patience: float = 300.0,
  preemption: bool = True,
):
  """Meets the other processes; call it before anything touches a device.

  Args:
    where: a `cluster.Place`; None does nothing.
    heartbeat: seconds of silence after which a process counts as dead.
    patience: seconds to wait for the others.
    preemption: whether SIGTERM waits for `reached_preemption` of a training
      loop; else it ends the process.

  Raises:
    RetryError: not all of them came.
  """
  if where is None:
    return
  _Abort.install(
    f'the {where.processes} processes did not meet at {where.coordinator} '
    f'within {patience:.0f} s; see that all are started, each with a number of '
    'its own, and reach that address'
  )
  jax.config.update('jax_enable_preemption_service', preemption)
  try:
    jax.distributed.initialize(
      where.coordinator,
      where.processes,
      where.process,
      local_device_ids=where.devices,
      cluster_detection_method='deactivate',
      coordinator_bind_address=where.listen,
      initialization_timeout=max(1, round(patience)),
      heartbeat_timeout_seconds=max(1, round(heartbeat)),
      shutdown_timeout_seconds=60,
    )
  except Exception as e:
    raise errors.RetryError(f'{_Abort.message} ({_first_line(e)})') from e
  _Abort.message = (
    'the other processes, or one of them, are lost (see above); start the same '
    'command again'
  )
  threading.Thread(target=_heed, daemon=True).start()


def active() -> bool:
  """Whether this process is one of several."""
  return jax.distributed.is_initialized()


def index() -> int:
  """Which process this is; unlike JAX's own it touches no device."""
  return _state().process_id


def count() -> int:
  """How many processes there are; likewise."""
  return _state().num_processes


def _state():
  # The coordinator's barriers and its table of keys have no public door.
  from jax._src import distributed

  return distributed.global_state


def barrier(name: str, seconds: float = PATIENCE):
  """Returns when every process is here; names may be used again.

  Raises:
    RetryError: some did not come in time, or are dead.
  """
  if not active():
    return
  try:
    _state().client.wait_at_barrier(f'{_KEYS}/{name}', round(1000 * seconds))
  except jax.errors.JaxRuntimeError as e:
    raise errors.RetryError(
      f'not all processes came to {name!r} within {seconds:.0f} s '
      f'({_first_line(e)}); start the same command again'
    ) from e


def exchange(name: str, text: str, seconds: float = PATIENCE) -> list[str]:
  """What each process has to say, in their order; all must call it.

  Raises:
    RetryError: as of `barrier`.
  """
  if not active():
    return [text]
  client, folder = _state().client, f'{_KEYS}/{name}/'
  client.key_value_set(f'{folder}{index()}', text, allow_overwrite=True)
  barrier(f'{name} said', seconds)
  said = {key: value for key, value in client.key_value_dir_get(folder)}
  barrier(f'{name} heard', seconds)  # before anybody says the next
  return [said[f'{folder}{i}'] for i in range(count())]


class Meeting:
  """Barriers of work in the background, which end when a process gives up.

  The work is done in rounds. A process that fails in one goes to the barriers
  that close it without coming to those before; the others see it there, and
  give up too instead of waiting for it.

  Args:
    closing: the names of the barriers that close a round, in their order.
  """

  def __init__(self, *closing: str):
    self._closing = closing
    self._round = 0
    self._said = collections.defaultdict(list)  # by round

  def __call__(self, name: str, seconds: float):
    """Returns when every process is here.

    Raises:
      TimeoutError: some did not come in time.
      RuntimeError: one has given up.
    """
    if not active():
      return
    end = time.monotonic() + seconds
    self._say(name)
    while not self._complete(name):
      if name not in self._closing and self._heard(self._closing[0]):
        if self._complete(name):  # it has come and gone
          break
        raise RuntimeError(GAVE_UP)
      if time.monotonic() > end:
        raise TimeoutError(f'not all processes came within {seconds:.0f} s')
      time.sleep(max(0.05, count() / 100))
    self._round += name == self._closing[-1]

  def _folder(self, name: str) -> str:
    return f'{_KEYS}/meeting/{self._round}/{name}/'

  def _say(self, name: str):
    client, key = _state().client, f'{self._folder(name)}{index()}'
    client.key_value_set(key, '', allow_overwrite=True)
    self._said[self._round].append(key)
    # In the round before this one somebody may be looking still.
    for key in self._said.pop(self._round - 2, ()):
      client.key_value_delete(key)

  def _heard(self, name: str) -> list:
    return _state().client.key_value_dir_get(self._folder(name))

  def _complete(self, name: str) -> bool:
    return len(self._heard(name)) == count()


def check_same(
  name: str,
  facts: Mapping[str, Any],
  *,
  error: type[errors.UserError],
  advice: str,
  seconds: float = PATIENCE,
):
  """Compares what must be equal in all processes; touches no device.

  All must call it. The first process says what it has, and each of the others
  what is different there, so that all of them end alike.

  Args:
    name: what is compared, as the message calls it.
    facts: a tree of what JSON can hold.
    error: its kind.
    advice: what to do about it.
    seconds: to wait for the others.

  Raises:
    UserError: of the kind given; names the process and the keys that differ.
    RetryError: as of `barrier`.
  """
  if not active():
    return
  text = json.dumps(dict(facts))
  first = exchange(name, '' if index() else text, seconds)[0]
  differ = changes.told(json.loads(first), json.loads(text))
  found = exchange(f'{name} compared', differ, seconds)
  for which, differ in enumerate(found):
    if differ:
      raise error(
        f'process {which} has other {name} than process 0 ({differ}); {advice}'
      )


def fail(status: int, message: str):
  """Tells the other processes that this one leaves, and why.

  The first process waits a moment, for the news would go with it.
  """
  if not active():
    return
  _Abort.status = status
  client, news = _state().client, json.dumps([status, message])
  with contextlib.suppress(Exception):
    client.key_value_set(f'{_FAILED}{index()}', news, allow_overwrite=True)
    end = time.monotonic() + 4 * _POLL
    while index() == 0 and time.monotonic() < end:
      if len(client.key_value_dir_get(_FAILED)) == count():
        break
      time.sleep(0.05)
    time.sleep(0.5 if index() == 0 else 0)


def _heed():
  """Leaves when another process has failed, with its status."""
  client, own = _state().client, f'{_FAILED}{index()}'
  while active():
    time.sleep(max(_POLL, count() / 100))
    try:
      failed = dict(client.key_value_dir_get(_FAILED))
    except Exception:
      return  # the coordinator is gone, and JAX ends the process
    if failed and own not in failed:
      key, news = min(failed.items())
      status, message = json.loads(news)
      which = key.removeprefix(_FAILED)
      _tell(f'stopped: process {which} failed: {message}')
      fail(status, message)
      _leave(status)


def suspect(error: BaseException, heartbeat: float):
  """After an exception: leaves if it comes from the loss of another process.

  In a collective or in Orbax that is an exception like others. The coordinator
  knows after a heartbeat, and ends the process.
  """
  if not active() or isinstance(error, errors.RetryError):
    return
  cause = error
  while cause is not None and not re.match(_RUNTIME, str(cause)):
    cause = cause.__cause__ or cause.__context__
  if cause is not None:
    _tell(
      f'warning: {_first_line(cause)}; waiting {heartbeat + 3:.0f} s to learn '
      'whether another process is lost'
    )
    time.sleep(heartbeat + 3)


def finish(seconds: float = PATIENCE):
  """Takes leave of the others, after the last thing all do together.

  Raises:
    RetryError: as of `barrier`.
  """
  if active():
    barrier('finished', seconds)
    jax.distributed.shutdown()


class Watchdog:
  """Ends the process if none of its steps is done for too long.

  With several processes, all wait for one that hangs; their watchdogs were
  fed at the same step and end all of them. The stacks of all threads go to
  standard error.

  Args:
    seconds: without a step; 0 for never. A process alone has no watchdog.
  """

  def __init__(self, seconds: float):
    self._limit = seconds if active() else 0.0
    self._waited = 0.0
    self._done = threading.Event()

  def __enter__(self):
    if self._limit:
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._done.set()

  def feed(self):
    """Notes that a step is done."""
    self._waited = 0.0

  @contextlib.contextmanager
  def allow(self, seconds: float):
    """Around other work, for which the limit is at least so many seconds."""
    limit = self._limit
    self._limit = max(limit, seconds)
    self.feed()
    try:
      yield
    finally:
      self._limit = limit
      self.feed()

  def _watch(self):
    before = time.monotonic()
    while not self._done.wait(_TICK):
      now = time.monotonic()
      # A process that was stopped itself is not late.
      self._waited += min(now - before, 1.0)
      before = now
      if self._waited > self._limit:
        _tell(
          f'stopped: no step is done for {self._limit:.0f} s; a process or the '
          'storage hangs. The stacks of this one follow; start the same '
          'command again'
        )
        faulthandler.dump_traceback(all_threads=True)
        if index() == 0:
          time.sleep(2 * _TICK)  # or the others would end of losing it
        _leave(_RETRY)


class _Abort:
  """Makes JAX's abort, when a process is lost, an exit to be retried.

  JAX calls abort() in a thread of its own, which Python's handlers of signals
  never see.
  """

  status = _RETRY
  message = ''
  handler = None  # kept for as long as the process lives

  @classmethod
  def install(cls, message: str):
    cls.message = message
    cls.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(cls._leave)
    ctypes.CDLL(None).signal(signal.SIGABRT, cls.handler)

  @classmethod
  def _leave(cls, _):
    if cls.status == _RETRY:
      _tell(f'stopped: {cls.message}')
    _leave(cls.status)


def _tell(text: str):
  print(f'vdm_jax: {text}', file=sys.stderr, flush=True)


def _leave(status: int):
  with contextlib.suppress(Exception):
    sys.stdout.flush()
  os._exit(status)


def _first_line(error: BaseException) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]
