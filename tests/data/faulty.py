"""Sources with faults, for worker processes to import: no JAX here."""

import os
import signal
import sys
import time

import numpy as np

from vdm_jax.media import reading


class Faulty:
  """Clips that hold their index; some elements fail in a way of their own.

  Args:
    length: number of elements.
    faults: name of a fault by element.
    marks: a file that every reading adds a character to, if any.
  """

  classes = ()

  def __init__(self, length, faults=None, marks=''):
    self.length, self.faults, self.marks = length, faults or {}, marks

  def __len__(self):
    return self.length

  def name(self, index):
    return f'clip {index}.mp4'

  def clip(self, index, rng):
    if self.marks:
      with open(self.marks, 'a') as file:
        file.write(f'{index}\n')
    fault = self.faults.get(index)
    if fault:
      FAULTS[fault]()
    video = np.full((2, 4, 4, 3), index % 256, np.uint8)
    video[1] = rng.integers(256, size=(4, 4, 3))
    return {'video': video, 'label': np.int32(0), 'id': self.name(index)}

  def signature(self):
    return {'length': self.length}


def crash():
  os.kill(os.getpid(), signal.SIGSEGV)


def swallow():
  """Takes more memory than there is to take."""
  np.ones(2**31, np.uint8)


def fail():
  raise OSError('it is damaged')


def see_jax():
  """Fails if JAX came along."""
  if 'jax' in sys.modules:
    raise OSError('jax is here')


FAULTS = {
  'hang': lambda: time.sleep(1000),
  'exit': lambda: os._exit(0),
  'crash': crash,
  'swallow': swallow,
  'fail': fail,
  'see jax': see_jax,
}


def scan(path):
  """In place of `index._scan`."""
  if path.name == 'crash.mp4':
    crash()
  if path.name == 'hang.mp4':
    time.sleep(1000)
  return reading.scan(path)
