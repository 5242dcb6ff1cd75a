"""A process of tests/test_distributed.py: the program, with a mishap.

The environment variable MISHAP is JSON: what happens, in which process. With
`loop` the training is replaced by a loop of collectives, which starts fast;
with `save` by one that saves besides.
"""

import json
import os
import pathlib
import signal
import time

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import distributed, errors, main

MISHAP = json.loads(os.environ.get('MISHAP', '{}'))


def here(name: str):
  """What the mishap says of this process, or None."""
  return MISHAP.get(name, {}).get(str(distributed.index()))


def run(config, workdir: pathlib.Path, began=None):
  """Stands in for `train.run`: adds up a number of every device, in a loop."""
  if MISHAP.get('save'):
    save_and_save(config, workdir)
    return
  if here('data'):
    raise errors.DataError('a file is not there; bring it')
  devices = NamedSharding(Mesh(np.array(jax.devices()), ('d',)), P('d'))
  ones = jax.make_array_from_callback(
    (jax.device_count(),), devices, lambda _: np.ones(1, np.float32)
  )
  total = jax.jit(
    lambda x: x.sum(), out_shardings=NamedSharding(devices.mesh, P())
  )
  compiled = total.lower(ones).compile()
  time.sleep(here('skew') or 0)
  if not MISHAP.get('no barrier'):
    distributed.barrier('ready')
  log = workdir / f'steps_{distributed.index()}'
  with distributed.Watchdog(config.train.watchdog) as watchdog:
    for n in range(1, config.train.steps + 1):
      assert float(compiled(ones)) == jax.device_count()
      watchdog.feed()
      log.write_text(str(n))
      if here('sleep') == n:
        time.sleep(10_000)
      if here('defect') == n:
        raise KeyError('a defect')
      time.sleep(0.01)


def save_and_save(config, workdir: pathlib.Path):
  """The same with checkpoints of a state that lies on all devices."""
  from tests import toy
  from vdm_jax import sharding

  log = workdir / f'steps_{distributed.index()}'
  c = config.train
  workdir.mkdir(exist_ok=True)
  toy.run(
    workdir,
    sharding.make_mesh(fsdp=2),
    steps=c.steps,
    every=c.checkpoint_every,
    keep=c.keep,
    stepped=lambda n: log.write_text(str(n)),
  )


def slow_compiler(train):
  compile_step = train.compile_step

  def late(*args):
    compiled = compile_step(*args)
    time.sleep(here('skew') or 0)
    return compiled

  train.compile_step = late
  if MISHAP.get('no barrier'):
    distributed.barrier = lambda *_: None
    distributed.exchange = lambda name, text, *_: [text]
    distributed.check_same = lambda *_, **__: None


def spoil(white, broken):
  """The clips of some indices are not finite, those of others not readable."""
  from tests import spoilt
  from vdm_jax import build, step
  from vdm_jax.conditions import Conditions

  source = spoilt.Spoilt(white, broken)
  build.data = lambda config: (source, Conditions())
  step.to_float = spoilt.to_float(np.nan)


def lose_videos():
  """A process has fewer clips than the others."""
  from vdm_jax import build

  data = build.data

  def incomplete(config):
    source, told = data(config)
    if lacking := here('lacks'):
      source.length -= lacking
    return source, told

  build.data = incomplete


def stop_at(train):
  """Raises a signal in this process at a step, or stops the step there."""
  after_step = train.Trainer.after_step

  def wrapped(self, state, n, *args, **options):
    for name in ('SIGTERM', 'SIGINT'):
      if here(name) == n:
        os.kill(os.getpid(), getattr(signal, name))
    if here('sleep') == n:
      time.sleep(10_000)
    return after_step(self, state, n, *args, **options)

  train.Trainer.after_step = wrapped


if __name__ == '__main__':
  # A shell's background jobs ignore it, and so would what they start.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  if MISHAP.get('loop') or MISHAP.get('save'):
    main.MODES['train'] = 'tests.distributed_worker'
  else:
    from vdm_jax import train

    if 'white' in MISHAP:
      spoil(MISHAP['white'], MISHAP['broken'])
    lose_videos()
    slow_compiler(train)
    stop_at(train)
  main.cli()
