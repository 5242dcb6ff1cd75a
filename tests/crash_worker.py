"""A nursery of processes that train and are killed, for tests/test_crashes.py.

It imports everything once, and forks a child for every line of JSON on its
standard input; each is killed where the line says, and told of in a line.
"""

import json
import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np

from tests import tiny, toy
from vdm_jax import checkpoint, errors, runtime, sharding, train

jax.config.update('jax_num_cpu_devices', 8)
WRITES = ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate')


class Mutations:
  """Counts what changes files below a folder; kills at one of them.

  Python's own alone: TensorStore's writes raise no audit events.
  """

  def __init__(self, folder, fatal: int | None):
    self.folder, self.fatal = folder, fatal
    self.armed, self.names = False, []
    sys.addaudithook(self)

  def __call__(self, event, args):
    if not self.armed or not self._changes(event, args):
      return
    path = pathlib.Path(os.fsdecode(args[0]))
    # What is removed with all below it is named relative to its folder.
    if path.is_absolute() and not path.is_relative_to(self.folder):
      return
    if len(self.names) == self.fatal:
      os.kill(os.getpid(), signal.SIGKILL)
    self.names.append(f'{event} {path}')

  def _changes(self, event, args) -> bool:
    if event == 'open' and isinstance(args[0], str | bytes):
      return bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in WRITES


def loop(tell, *, workdir, arm=0, fatal=None, **options):
  """The toy; what it has saved and saves now is told at each save."""
  workdir = pathlib.Path(workdir)
  mutations = Mutations(workdir / 'checkpoints', fatal)

  def save(found, state):
    n = int(state.step)
    found.wait()
    tell(saved=max(found.steps(), default=0), saving=n)
    mutations.armed = n == arm
    found.save(state, toy.META)
    if n == arm:
      found.wait()
      tell(mutations=mutations.names)
      mutations.armed = False

  mesh = sharding.make_mesh(devices=jax.devices()[:2])
  state = toy.run(
    workdir, mesh, save=save, begun=lambda n: tell(begun=n), **options
  )
  arrays = [np.asarray(a) for a in jax.tree.leaves(state)]
  np.savez(workdir / 'final.npz', *arrays)


def trainer(tell, *, workdir, arm=0, fatal=None, **settings):
  """The real training; it tells when its first step is done."""
  workdir = pathlib.Path(workdir)
  mutations = Mutations(workdir / 'checkpoints', fatal)
  save, after_step = checkpoint.Checkpoints.save, train.Trainer.after_step

  def armed(self, state, meta):
    self._writer.settle()  # the first thing that a save does
    tell(saving=int(state.step))
    mutations.armed = int(state.step) == arm
    save(self, state, meta)
    if mutations.armed:
      self.wait()
      tell(mutations=mutations.names)
      mutations.armed = False

  def told(self, state, n, *args, **options):
    if n == 1 or not told.begun:
      tell(begun=n - 1)
      told.begun = True
    return after_step(self, state, n, *args, **options)

  told.begun = False
  checkpoint.Checkpoints.save, train.Trainer.after_step = armed, told
  train.run(tiny.config(**settings), workdir, jax.devices()[:2])


JOBS = {'toy': loop, 'trainer': trainer}


def child(job: str, channel: int, options: dict):
  """Runs a job in this process, which ends here."""

  def tell(**facts):
    os.write(channel, (json.dumps(facts) + '\n').encode())

  os.dup2(2, 1)
  status = 0
  try:
    JOBS[job](tell, **options)
  except errors.UserError as e:
    tell(error=str(e))
    status = e.status
  except BaseException as e:
    tell(error=repr(e))
    status = 1
  runtime.leave(status)


def serve(job: str, *, seconds: float | None = None, saves: int = 0, **options):
  """Forks a child; kills it so many seconds after it has begun so many saves.

  Returns:
    What it told (the last of each kind), and its status.
  """
  reader, writer = os.pipe()
  pid = os.fork()
  if not pid:
    os.close(reader)
    child(job, writer, options)
  os.close(writer)
  told, begun = {}, -1
  with os.fdopen(reader) as lines:
    for line in lines:
      facts = json.loads(line)
      told |= facts
      begun += 'begun' in facts or 'saving' in facts
      if begun == saves and seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
  _, status = os.waitpid(pid, 0)
  return told | {'status': os.waitstatus_to_exitcode(status)}


if __name__ == '__main__':
  for request in sys.stdin:
    print(json.dumps(serve(**json.loads(request))), flush=True)
