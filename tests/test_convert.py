"""From files of others to ours, by the command."""

import dataclasses
import io
import sys

import jax
import numpy as np
import pytest

from tests.metrics import hostile
from vdm_jax import convert, main
from vdm_jax.errors import ConfigError, WeightsError
from vdm_jax.metrics import clip_vision, features, filling, reading
from vdm_jax.metrics.layout import Source

pytest.importorskip('safetensors')

SIZES = {'width': 8, 'heads': 2, 'projection': 6}
RNG = np.random.default_rng(0)


def small():
  return clip_vision.ClipVision(layers=1, **SIZES)


@pytest.fixture(scope='module')
def cache():
  return {}


@pytest.fixture(autouse=True)
def network(monkeypatch, cache):
  """CLIP with one narrow layer, whose licence is as that of C3D."""
  entry = dataclasses.replace(
    features.NETWORKS['clip'],
    module=small,
    layouts=lambda: clip_vision.layouts(1),
    outputs={'embedding': 6},
    noncommercial=True,
    licence='For research alone.',
  )
  monkeypatch.setitem(features.NETWORKS, 'clip', entry)
  if not cache:
    cache['clip'] = features.parameter_shapes('clip')
  monkeypatch.setattr(features, 'parameter_shapes', cache.__getitem__)


def params():
  shapes = features.parameter_shapes('clip')
  return {k: RNG.normal(size=v.shape).astype('f4') for k, v in shapes.items()}


def as_flax(flat) -> dict[str, np.ndarray]:
  """Parameters as a file of the layout 'flax', which converts nothing."""
  table = clip_vision.layouts(1)['flax'].sources
  return {
    source.name: flat[path]
    for path, source in table.items()
    if isinstance(source, Source)
  }


def run(monkeypatch, capsys, *argv):
  argv = ['main.py', '--mode=convert', *map(str, argv)]
  monkeypatch.setattr(sys, 'argv', argv)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
  status = main.main(argv)
  captured = capsys.readouterr()
  return status, captured.out, captured.err


def test_command(monkeypatch, capsys, tmp_path):
  flat = params()
  np.savez(tmp_path / 'a.npz', **as_flax(flat))
  status, out, err = run(
    monkeypatch, capsys, f'--weights={tmp_path}/a.npz', '--network=clip'
  )
  assert status == 0, err
  path = tmp_path / 'clip.safetensors'
  line, licence = out.strip().splitlines()
  assert str(path) in line and '(flax)' in line and 'MB' in line
  assert reading.sha256([path]) in line
  assert licence == 'licence: For research alone.'
  tree, metadata = filling.load(path, 'clip')
  assert metadata == {
    'network': 'clip',
    'layout': 'flax',
    'source': 'a.npz',
    'sha256': reading.sha256([tmp_path / 'a.npz']),
    'licence': 'For research alone.',
  }
  got = filling._flat(tree)
  assert got.keys() == flat.keys()
  assert all(np.array_equal(got[k], flat[k]) for k in flat)
  # What was converted is what the network computes with.
  x = jax.numpy.zeros((1, 224, 224, 3))
  assert small().apply({'params': tree}, x)['embedding'].shape == (1, 6)


def test_every_format_gives_the_same_file(tmp_path):
  torch = pytest.importorskip('torch')
  serialization = pytest.importorskip('flax.serialization')
  numpy = pytest.importorskip('safetensors.numpy')
  flat = as_flax(params())
  state = {k: torch.from_numpy(v.copy()) for k, v in flat.items()}
  np.savez(tmp_path / 'a.npz', **flat)
  np.savez_compressed(tmp_path / 'b.npz', **flat)
  torch.save(state, tmp_path / 'c.pt')
  torch.save(state, tmp_path / 'd.pt', _use_new_zipfile_serialization=False)
  numpy.save_file(flat, tmp_path / 'e.safetensors')
  (tmp_path / 'f.msgpack').write_bytes(serialization.msgpack_serialize(flat))
  found = []
  for path in sorted(tmp_path.iterdir()):
    out = tmp_path / f'out-{path.name}'
    made = convert.run(weights=str(path), network='clip', out=f'{out}/')
    assert made == out / 'clip.safetensors'
    tree, _ = filling.load(made, 'clip')
    found.append(tree)
  assert len(found) == 6
  for tree in found[1:]:
    assert jax.tree.all(jax.tree.map(np.array_equal, tree, found[0]))


def test_several_files(tmp_path):
  flat = as_flax(params())
  names = list(flat)
  np.savez(tmp_path / 'a.npz', **{k: flat[k] for k in names[:3]})
  np.savez(tmp_path / 'b.npz', **{k: flat[k] for k in names[3:]})
  with pytest.raises(WeightsError, match='missing'):
    convert.run(weights=f'{tmp_path}/a.npz', network='clip')
  assert not (tmp_path / 'clip.safetensors').exists()
  both = f'{tmp_path}/a.npz,{tmp_path}/b.npz'
  out = str(tmp_path / 'x.safetensors')
  path = convert.run(weights=both, network='clip', out=out)
  assert path.name == 'x.safetensors'
  metadata = filling.load(path, 'clip')[1]
  assert metadata['source'] == 'a.npz,b.npz'
  assert len(metadata['sha256'].split(',')) == 2


def test_a_file_that_is_there_is_replaced_as_a_whole(tmp_path):
  np.savez(tmp_path / 'a.npz', **as_flax(params()))
  target = tmp_path / 'clip.safetensors'
  target.write_bytes(b'old')
  convert.run(weights=f'{tmp_path}/a.npz', network='clip')
  good = target.read_bytes()
  np.savez(tmp_path / 'a.npz', **as_flax(params()) | {'extra': np.ones(1)})
  with pytest.raises(WeightsError, match='1 unknown: extra'):
    convert.run(weights=f'{tmp_path}/a.npz', network='clip')
  assert target.read_bytes() == good
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a.npz', target.name]


def test_weights_are_not_written_over(tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  numpy.save_file(as_flax(params()), tmp_path / 'clip.safetensors')
  weights = f'{tmp_path}/clip.safetensors'
  with pytest.raises(ConfigError, match='written over'):
    convert.run(weights=weights, network='clip')
  convert.run(weights=weights, network='clip', out=f'{tmp_path}/new/')


BAD = {
  'no weights': (('--network=clip',), 2, '--weights is missing'),
  'no network': (('--weights=A',), 2, '--network is missing'),
  'network unknown': (('--weights=A', '--network=i4d'), 2, 'inception'),
  'own': (('--weights=A', '--network=shapes'), 2, '--mode=features'),
  'config': (('--weights=A', '--network=clip', '--config=x.py'), 2, '--config'),
  'workdir': (('--weights=A', '--network=clip', '--workdir=x'), 2, '--workdir'),
  'flag unknown': (('--weigths=A',), 2, 'weigths'),
  'stray word': (('--weights=A', '--network=clip', 'b'), 2, "'b'"),
  'out': (('--weights=A', '--network=clip', '--out=a.npz'), 2, '.safetensors'),
  'file missing': (('--weights=B', '--network=clip'), 6, 'missing'),
  'program': (('--weights=A', '--network=clip'), 6, 'names posix.system'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_command(name, monkeypatch, capsys, tmp_path):
  argv, status, cause = BAD[name]
  canary = tmp_path / 'canary'
  torch_file = hostile.torch_zip(hostile.pickled(hostile.Payload(canary)))
  (tmp_path / 'A').write_bytes(torch_file)
  monkeypatch.chdir(tmp_path)
  got, out, err = run(monkeypatch, capsys, *argv)
  assert got == status and out == '', err
  assert len(err.strip().splitlines()) == 1 and len(err) <= 320
  assert err.startswith('vdm_jax: error: ') and cause in err
  assert [p.name for p in tmp_path.iterdir()] == ['A']


def test_flags_of_the_conversion_are_its_own(monkeypatch, capsys):
  for flag in ('weights', 'network', 'out'):
    argv = ['main.py', '--config=configs/shapes.py:tiny', f'--{flag}=x']
    monkeypatch.setattr(sys, 'argv', argv)
    assert main.main(argv) == 2
    assert f'--{flag} is for --mode=convert' in capsys.readouterr().err


def test_torchscript(tmp_path):
  """The attributes of a program, by the names that it gives them."""
  torch = pytest.importorskip('torch')
  state = {
    k.replace('/', '.'): torch.from_numpy(v.copy())
    for k, v in as_flax(params()).items()
  }

  class Node(torch.nn.Module):
    def forward(self, x):
      return x

  root = Node()
  for name, value in state.items():
    *parents, leaf = name.split('.')
    node = root
    for parent in parents:
      if parent not in dict(node.named_children()):
        node.add_module(parent, Node())
      node = getattr(node, parent)
    node.register_buffer(leaf, value)
  file = io.BytesIO()
  torch.jit.save(torch.jit.script(root), file)
  (tmp_path / 'a.pt').write_bytes(file.getvalue())
  values = reading.read(tmp_path / 'a.pt').values
  assert values.keys() == state.keys()
  assert all(np.array_equal(values[k], state[k]) for k in state)
