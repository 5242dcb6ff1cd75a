"""What a run shows to others: no port, and no secret."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import tiny
from tests.command_line import ROOT
from tests.listeners import listening
from vdm_jax import config as config_lib
from vdm_jax import errors, identity

SECRET = 'hunter2-5f1e0c7a'
PLANTED = ('HF_TOKEN', 'WANDB_API_KEY', 'AWS_SECRET_ACCESS_KEY', 'DB_PASSWORD')
# A config with a secret of its own, which a service of the user's reads.
CONFIG = f"""
import os
from ml_collections import ConfigDict
from vdm_jax import identity

def get_config(path):
  config = identity.from_json(open(path).read()).unlock()
  config.service = ConfigDict({{
    'api_token': '{SECRET}',
    'inner': {{'password': os.environ['HF_TOKEN'], 'key_stride': 4}},
  }})
  return config
"""


def everything(folder) -> bytes:
  """All bytes of all files below a folder, and their names."""
  files = [p for p in sorted(folder.rglob('*')) if p.is_file()]
  assert files
  return b'\0'.join(bytes(p) + b'\0' + p.read_bytes() for p in files)


@pytest.fixture
def process(tmp_path):
  """A training of many small steps, with secrets about; its output."""
  config = tiny.config(train__steps=10**6, train__keep=1)
  (tmp_path / 'config.json').write_text(identity.to_json(config))
  (tmp_path / 'config.py').write_text(CONFIG)
  argv = [sys.executable, '-m', 'vdm_jax.main', '--debug']
  argv += [f'--config={tmp_path}/config.py:{tmp_path}/config.json']
  argv += [f'--workdir={tmp_path}/run']
  with (tmp_path / 'output').open('wb') as output:
    process = subprocess.Popen(
      argv,
      cwd=ROOT,
      env=os.environ | dict.fromkeys(PLANTED, SECRET),
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
    )
    yield process
    process.kill()
    process.wait()


def wait_for_step(workdir, process, step):
  end = time.monotonic() + 300
  while time.monotonic() < end and process.poll() is None:
    with contextlib.suppress(OSError, ValueError, IndexError):
      rows = (workdir / 'metrics.jsonl').read_text().splitlines()
      if json.loads(rows[-1])['step'] >= step:
        return
    time.sleep(0.05)
  pytest.fail((workdir.parent / 'output').read_text())


def test_a_run_shows_no_port_and_no_secret(process, tmp_path):
  wait_for_step(tmp_path / 'run', process, 8)  # beyond a checkpoint
  assert listening(process.pid) == []
  process.send_signal(signal.SIGTERM)
  begin = time.monotonic()
  assert process.wait(100) == errors.Preempted.status
  assert time.monotonic() - begin < 10
  kept = everything(tmp_path / 'run') + (tmp_path / 'output').read_bytes()
  assert b'"seed"' in kept and b'is saved' in kept
  assert SECRET.encode() not in kept
  # The control: it stands where the user has put it.
  assert SECRET.encode() in everything(tmp_path)


def test_listeners_are_found():
  with socket.socket() as everywhere, socket.socket() as here:
    everywhere.bind(('0.0.0.0', 0))
    everywhere.listen()
    here.bind(('127.0.0.1', 0))
    here.listen()
    assert {'0.0.0.0', '127.0.0.1'} <= set(listening(os.getpid()))
  if socket.has_ipv6:
    with socket.create_server(('::', 0), family=socket.AF_INET6):
      assert '::' in listening(os.getpid())
  assert not {'0.0.0.0', '::'} & set(listening(os.getpid()))


def test_secrets_are_told_by_their_names():
  config = tiny.config().copy_and_resolve_references().unlock()
  config.service = config_lib.stage(api_key=SECRET, key_stride=8)
  config.HF_Token = SECRET
  config.service.passwords = (SECRET,)
  shown = identity.public(config)
  assert shown['service.sample.api_key'] == identity.REDACTED
  assert shown['HF_Token'] == shown['service.passwords'] == identity.REDACTED
  assert shown['service.sample.key_stride'] == 8
  assert shown['sample.key_stride'] == config.sample.key_stride
  assert SECRET not in json.dumps(shown)
  own = config_lib.flat(tiny.config())
  assert identity.public(tiny.config()) == own
  # The control.
  assert SECRET in json.dumps(config_lib.flat(config))
