"""Launch scripts say what they would do, and do nothing when only asked."""

import pathlib
import subprocess

import pytest

SCRIPTS = sorted(pathlib.Path('launch').glob('*.sh'))


def bash(*argv):
  return subprocess.run(
    ['bash', *argv], capture_output=True, text=True, check=False
  )


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_dry_run_prints_the_command_and_runs_nothing(script):
  done = bash(str(script), '--dry-run', '--config=nonesuch.py', '--workdir=w')
  assert done.returncode == 0, done.stderr
  assert '-m vdm_jax.main --config=nonesuch.py --workdir=w' in done.stdout
  assert all(line.startswith('+ ') for line in done.stdout.splitlines())


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_no_arguments_is_an_error_with_the_usage(script):
  done = bash(str(script))
  assert done.returncode == 2 and 'usage: ' in done.stderr
