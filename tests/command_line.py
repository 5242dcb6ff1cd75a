"""The program in this process, and what a mistake may leave behind."""

import pathlib
import sys
import time
from typing import NamedTuple

from vdm_jax import errors, main

ROOT = pathlib.Path(__file__).parents[1]
# The smallest run there is. The tests have split the CPU already.
TINY = (
  '--config=configs/shapes.py:tiny',
  '--config.mesh.cpu_devices=0',
  '--config.train.batch_size=8',
)
FOLDER = ('--config=configs/folder.py:tiny', *TINY[1:])


class Started(errors.UserError):
  """All was checked, and the run would begin to write and to compile."""

  status = 99


class Said(NamedTuple):
  """How a command ended.

  Attributes:
    status: its exit status.
    out: standard output.
    err: standard error.
    seconds: of the processor; other tests may run beside.
  """

  status: int
  out: str
  err: str
  seconds: float

  @property
  def line(self) -> str:
    """The line of its error, which is the last one and the only such."""
    lines = self.err.strip().splitlines()
    found = [at for at in lines if at.startswith('vdm_jax: error: ')]
    assert found == lines[-1:], self.err
    return found[0]


def run(monkeypatch, capsys, argv) -> Said:
  """Runs a command as `python -m vdm_jax.main` does."""
  argv = ['main.py', *map(str, argv)]
  monkeypatch.setattr(sys, 'argv', argv)
  capsys.readouterr()
  begin = time.process_time()
  status = main.main(argv)
  seconds = time.process_time() - begin
  return Said(status, *capsys.readouterr(), seconds)


def check_line(said: Said, status: int, mend: str):
  """One line, of the form and the length that were promised."""
  assert said.status == status, said.err
  assert len(said.line) <= 300, said.line
  what, semicolon, advice = said.line.rpartition('; ')
  assert what and semicolon and advice, said.line
  assert mend in said.line, said.line
  assert 'Traceback' not in said.err
  assert said.seconds < 10


def contents(folder: pathlib.Path) -> dict:
  """Every file and folder below, byte for byte.

  But for the lock of a run, and the account of what its time went into.
  """
  return {
    p.relative_to(folder).as_posix(): p.is_file() and p.read_bytes()
    for p in sorted(folder.rglob('*'))
    if p.name not in ('.lock', '.lock.json', 'goodput.json')
  }
