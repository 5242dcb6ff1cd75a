"""The house rules: imports point downwards, functions fit on a screen."""

import ast
import importlib
import pathlib
import pkgutil

import pytest

import vdm_jax

ROOT = pathlib.Path(vdm_jax.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], 'vdm_jax.'))
FILES = sorted(ROOT.rglob('*.py'))

# A package may import what stands before it; the modules in front of it are
# for all of them.
BASE = (
  'errors',
  'changes',
  'runtime',
  'cluster',
  'distributed',
  'progress',
  'logs',
  'sharding',
)
LAYERS = (*BASE, 'diffusion', 'nn', 'media', 'text', 'data', 'metrics')


def imports(path: pathlib.Path) -> set[str]:
  """Full names of what a file imports, wherever in the file."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def upward(path: pathlib.Path) -> list[str]:
  """What a file of a layer imports from above its layer."""
  layer = path.relative_to(ROOT).parts[0].removesuffix('.py')
  allowed = {*BASE, *LAYERS[: LAYERS.index(layer) + 1]}
  if layer in BASE:
    allowed = {'errors', 'changes', layer}
  ours = [n for n in imports(path) if n.startswith('vdm_jax')]
  return [n for n in ours if n.split('.')[1] not in allowed]


def test_packages_import_downwards_only():
  layered = [p for p in FILES if p.relative_to(ROOT).parts[0] in LAYERS]
  assert len(layered) > 10
  assert {str(p): upward(p) for p in layered if upward(p)} == {}


def test_an_upward_import_is_seen(tmp_path, monkeypatch):
  (tmp_path / 'diffusion').mkdir()
  bad = tmp_path / 'diffusion' / 'bad.py'
  bad.write_text('def f():\n  from vdm_jax.nn import unet\n')
  monkeypatch.setattr('tests.test_structure.ROOT', tmp_path)
  assert upward(bad) == ['vdm_jax.nn.unet']


def test_mathematics_is_jax_only():
  foreign = ('flax', 'optax', 'tensorflow', 'ml_collections', 'torch', 'grain')
  for path in (ROOT / 'diffusion').glob('*.py'):
    assert not {n.split('.')[0] for n in imports(path)} & set(foreign), path


def test_functions_fit_on_a_screen():
  long = []
  for path in FILES:
    text = path.read_text()
    assert text.count('\n') <= 450, path
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if lines > 70:
          long.append((path.name, node.name, lines))
  assert long == []


@pytest.mark.parametrize('name', MODULES)
def test_every_module_imports(name):
  importlib.import_module(name)
