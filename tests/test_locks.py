"""The lock files: every package pinned and hashed, and all that is needed."""

import pathlib
import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import setup_call

LOCKS = pathlib.Path('launch/locks')
KINDS = {'cpu': (), 'cuda': ('cuda',), 'tpu': ('tpu',)}
EXTRAS = ('text', 'metrics', 'plots')


def problems(text: str) -> list[str]:
  """What a lock must not have: lines that are not pinned, or not hashed."""
  found = []
  entries = re.split(r'\n(?=\S)', re.sub(r'(?m)^\s*#.*\n?', '', text).strip())
  for entry in entries:
    name = entry.split()[0]
    if not re.match(r'[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[^\s]+', name):
      found.append(f'not pinned: {name}')
    if not re.search(r'--hash=sha256:[0-9a-f]{64}', entry):
      found.append(f'not hashed: {name}')
    if re.search(r'file:|https?:|git\+', entry):
      found.append(f'of a place of its own: {name}')
  return found


def pinned(text: str) -> dict[str, Version]:
  found = re.findall(r'(?m)^([A-Za-z0-9._-]+)==([^\s;]+)', text)
  return {_name(n): Version(v) for n, v in found}


def _name(text: str) -> str:
  return re.sub(r'[-_.]+', '-', text).lower()


@pytest.mark.parametrize('kind', KINDS)
def test_every_package_is_pinned_and_hashed(kind):
  text = (LOCKS / f'{kind}.txt').read_text()
  assert problems(text) == []
  assert len(pinned(text)) > 50


@pytest.mark.parametrize('kind', KINDS)
def test_a_lock_has_what_the_package_asks_for(kind):
  asked = setup_call.arguments()
  wanted = list(asked['install_requires'])
  for extra in (*EXTRAS, *KINDS[kind]):
    wanted += asked['extras_require'][extra]
  there = pinned((LOCKS / f'{kind}.txt').read_text())
  for line in wanted:
    need = Requirement(line)
    assert there[_name(need.name)] in need.specifier, line


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('numpy>=2 --hash=sha256:' + 64 * 'a', 'not pinned'),
    ('numpy==2.4.6', 'not hashed'),
    (
      'numpy==2 @ file:///n.whl --hash=sha256:' + 64 * 'a',
      'of a place of its own',
    ),
  ],
)
def test_what_is_wrong_is_seen(line, said):
  assert any(p.startswith(said) for p in problems(line))
