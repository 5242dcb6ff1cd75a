"""Parameters out of files: every tensor once, every parameter filled."""

import json
import stat

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.metrics import hostile
from vdm_jax.errors import WeightsError
from vdm_jax.metrics import features, filling, reading
from vdm_jax.metrics.layout import Layout, Source

RNG = np.random.default_rng(0)
LAYOUTS = {
  'theirs': Layout(
    {
      'conv/kernel': Source('conv.weight', np.transpose),
      'conv/bias': Source('conv.bias'),
      'bn/scale': 1.5,
      'query': Source('fused', lambda v: v[:4].T),
      'key': Source('fused', lambda v: v[4:].T),
    },
    ignored=(r'.*\.num_batches_tracked', r'ids'),
    prefix=r'module\.',
  ),
  'others': Layout(
    {
      'conv/kernel': Source('a/W'),
      'conv/bias': Source('a/b'),
      'bn/scale': Source('n/s'),
      'query': Source('q'),
      'key': Source('k'),
    }
  ),
}
SHAPES = {
  'conv': {
    'kernel': jax.ShapeDtypeStruct((2, 3), np.float32),
    'bias': jax.ShapeDtypeStruct((3,), np.float32),
  },
  'bn': {'scale': jax.ShapeDtypeStruct((3,), np.float32)},
  'query': jax.ShapeDtypeStruct((5, 4), np.float32),
  'key': jax.ShapeDtypeStruct((5, 4), np.float32),
}
THEIRS = {
  'conv.weight': RNG.normal(size=(3, 2)),
  'conv.bias': RNG.normal(size=3).astype('f2'),
  'fused': RNG.normal(size=(8, 5)).astype('>f4'),
}


def tensors(values, **changes):
  values = {k: v for k, v in (values | changes).items() if v is not None}
  return reading.Tensors(values, 'npz', '0' * 64, 'a.npz')


def fill(values, **changes):
  return filling.fill(LAYOUTS, tensors(values, **changes), SHAPES, 'toy')


def refused(*causes, call=fill, values=None, **arguments) -> str:
  with pytest.raises(WeightsError) as error:
    call(THEIRS if values is None else values, **arguments)
  text = str(error.value)
  assert '\n' not in text and len(text) <= 320, text
  for cause in causes:
    assert cause in text, text
  return text


def test_parameters_are_the_tensors():
  params, name = fill(THEIRS)
  assert name == 'theirs'
  assert jax.tree.structure(params) == jax.tree.structure(SHAPES)
  for leaf in jax.tree.leaves(params):
    assert leaf.dtype == np.float32 and leaf.flags.c_contiguous
    assert leaf.flags.owndata and leaf.dtype.isnative
  weight = THEIRS['conv.weight'].astype('f4')
  assert np.array_equal(params['conv']['kernel'], weight.T)
  assert np.array_equal(params['conv']['bias'], THEIRS['conv.bias'])
  assert np.array_equal(params['bn']['scale'], [1.5] * 3)
  fused = np.concatenate([params['query'], params['key']], axis=1).T
  assert np.array_equal(fused, THEIRS['fused'])


def test_layout_of_the_same_names_is_taken():
  flat = filling._flat(fill(THEIRS)[0])
  table = LAYOUTS['others'].sources
  others = {table[path].name: value for path, value in flat.items()}
  params, name = fill(others)
  assert name == 'others'
  assert jax.tree.all(jax.tree.map(np.array_equal, params, fill(THEIRS)[0]))


def test_shapes_may_be_by_paths():
  flat = filling._flat(SHAPES)
  assert set(flat) == set(LAYOUTS['theirs'].sources)
  params, _ = filling.fill(LAYOUTS, tensors(THEIRS), flat, 'toy')
  assert jax.tree.structure(params) == jax.tree.structure(SHAPES)


def test_prefix_and_ignored():
  more = {'bn.num_batches_tracked': np.array(3), 'ids': np.arange(9)}
  for values in (
    THEIRS | more,
    {f'module.{k}': v for k, v in (THEIRS | more).items()},
    # A number in the program of a TorchScript.
    THEIRS | {'constants.0': np.ones(3)},
  ):
    params, _ = fill(values)
    assert np.array_equal(params['conv']['bias'], THEIRS['conv.bias'])
  # Patterns are of the whole name, and prefixes of its beginning.
  refused('1 unknown: idsx', idsx=np.ones(1))
  values = {f'x.module.{k}': v for k, v in THEIRS.items()}
  refused('another network', values=values)


def test_numbers_are_rounded_to_float32_only_once():
  third = np.full(3, 1 / 3)
  bias = lambda v: fill(THEIRS, **{'conv.bias': v})[0]['conv']['bias']  # noqa: E731
  assert np.array_equal(bias(third), third.astype('f4'))
  brain = third.astype(ml_dtypes.bfloat16)
  assert np.array_equal(bias(brain), brain.astype('f4'))


BAD = {
  'missing': ({'conv.bias': None}, '1 missing: conv.bias'),
  'part missing': ({'fused': None}, '1 missing: fused'),
  'unknown': ({'extra': np.ones(1)}, '1 unknown: extra'),
  'shape': ({'conv.bias': np.ones(4)}, 'conv.bias ([4], not [3])'),
  'not transposed': (
    {'conv.weight': np.ones((2, 3))},
    'conv.weight ([3, 2], not [2, 3])',
  ),
  'rank': ({'fused': np.array(1.0)}, 'fused ([], not [5, 4])'),
  'nan': ({'conv.bias': np.array([0, np.nan, 1])}, 'not finite (a.npz: conv'),
  'inf': ({'fused': np.full((8, 5), -np.inf)}, 'not finite'),
  'too large': ({'conv.bias': np.full(3, 1e300)}, 'not finite'),
  'whole numbers': ({'conv.bias': np.ones(3, 'i1')}, 'int8'),
  'twice': ({'module.conv.bias': np.ones(3)}, '1 unknown: module.conv.bias'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_tensors(name):
  changes, cause = BAD[name]
  assert 'a.npz' in refused(cause, **changes)


def test_long_lists_are_cut():
  extra = {f'extra{i}': np.ones(1) for i in range(500)}
  text = refused('500 unknown: extra0, extra1, …', **extra)
  assert 'extra2' not in text


def test_a_layout_that_does_not_fit_its_network_is_our_mistake():
  short = {'a': Layout({'conv/kernel': Source('conv.weight')})}
  with pytest.raises(ValueError, match='other paths'):
    filling.fill(short, tensors(THEIRS), SHAPES, 'toy')
  sources = dict(LAYOUTS['theirs'].sources) | {
    'key': Source('fused', lambda v: v[:4].T)
  }
  sources['bn/scale'] = Source('fused', lambda v: v[0, :3])
  twice = {'a': Layout(sources)}
  with pytest.raises(ValueError, match='not the whole'):
    filling.fill(twice, tensors(THEIRS), SHAPES, 'toy')


@pytest.mark.parametrize(
  'name', [k for k, v in features.NETWORKS.items() if v.layouts()]
)
def test_weights_of_another_network(name):
  for layout in features.NETWORKS[name].layouts().values():
    names = [s.name for s in layout.sources.values() if isinstance(s, Source)]
    assert filling.resembles(names) == [name]
    # One may be missing, but not half of them.
    assert filling.resembles(names[1:]) == [name]
    assert filling.resembles(names[: len(names) // 2]) == []
    other = 'c3d' if name == 'i3d' else 'i3d'
    theirs = features.NETWORKS[other].layouts()
    paths = next(iter(theirs.values())).sources
    shapes = dict.fromkeys(paths, jax.ShapeDtypeStruct((), np.float32))
    values = tensors(dict.fromkeys(names, np.zeros(1)))
    with pytest.raises(WeightsError) as error:
      filling.fill(theirs, values, shapes, other)
    assert f'these are tensors of {name}: use --network={name}' in str(error)


# --- files of ours -----------------------------------------------------------

FACTS = {
  'network': 'toy',
  'layout': 'theirs',
  'source': 'a.npz,b.npz',
  'sha256': '0' * 64,
  'licence': 'Of the “weights”: none.\nNone.',
}


@pytest.fixture
def saved(tmp_path):
  pytest.importorskip('safetensors')
  params, _ = fill(THEIRS)
  path = tmp_path / 'new' / 'toy.safetensors'
  filling.save(path, params, **FACTS)
  return path


def test_saved_is_loaded(saved):
  params, metadata = filling.load(saved, 'toy', SHAPES)
  assert metadata == FACTS
  assert jax.tree.structure(params) == jax.tree.structure(SHAPES)
  assert jax.tree.all(jax.tree.map(np.array_equal, params, fill(THEIRS)[0]))


def test_saved_as_the_library_reads_it(saved):
  numpy = pytest.importorskip('safetensors.numpy')
  flat = filling._flat(fill(THEIRS)[0])
  read = numpy.load_file(saved)
  assert set(read) == set(flat)
  assert all(np.array_equal(read[k], flat[k]) for k in flat)


def test_the_same_bytes_again(saved, tmp_path):
  params, _ = fill(THEIRS)
  other = tmp_path / 'b.safetensors'
  digest = filling.save(other, filling._flat(params), **FACTS)
  assert other.read_bytes() == saved.read_bytes()
  assert digest == reading.sha256([saved])
  filling.save(other, params, **FACTS | {'licence': 'x'})
  assert other.read_bytes() != saved.read_bytes()


def test_a_file_that_cannot_be_written_leaves_nothing(saved, monkeypatch):
  before = saved.read_bytes()

  def full(*_):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(filling.os, 'fsync', full)
    with pytest.raises(WeightsError, match='No space left'):
      filling.save(saved, {'a': np.ones(9)}, **FACTS)
  assert saved.read_bytes() == before
  assert [p.name for p in saved.parent.iterdir()] == [saved.name]
  assert stat.S_IMODE(saved.stat().st_mode) & stat.S_IRUSR


def load(path, network='toy', shapes=SHAPES):
  return filling.load(path, network, shapes)


def test_load_refuses_what_is_not_ours(saved, tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  theirs = tmp_path / 'model.safetensors'
  numpy.save_file({'a': np.ones(3)}, theirs)
  pickle = tmp_path / 'a.pt'
  pickle.write_bytes(b'\x80\x02.')
  refused('--mode=convert', call=load, values=theirs)
  refused('--mode=convert', 'a.pt', call=load, values=pickle)
  refused('missing', call=load, values=tmp_path / 'b.safetensors')
  refused('is of toy, not of c3d', call=load, values=saved, network='c3d')


def forged(saved, change):
  """The file with other tensors under the same claims."""
  data = saved.read_bytes()
  length = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8 : 8 + length])
  change(header)
  saved.write_bytes(hostile.safetensors(header, data[8 + length :]))
  return saved


def test_load_refuses_changed_files(saved):
  good = saved.read_bytes()

  def rename(header):
    header['extra'] = header.pop('key')

  def reshape(header):
    header['key']['shape'] = [4, 5]

  def retype(header):
    header['key']['dtype'] = 'I32'

  for change, cause in (
    (rename, '1 missing: key; 1 unknown: extra'),
    (reshape, 'key ([4, 5], not [5, 4])'),
    (retype, 'int32'),
  ):
    saved.write_bytes(good)
    refused(cause, call=load, values=forged(saved, change))
  saved.write_bytes(good[:-4])
  refused('safetensors', call=load, values=saved)
  nan = np.array(np.nan, '<f4').tobytes()
  saved.write_bytes(good[:-4] + nan)
  refused('not finite', call=load, values=saved)
  saved.write_bytes(good)
  load(saved)


def test_without_shapes_the_table_is_asked(tmp_path):
  pytest.importorskip('safetensors')
  path = tmp_path / 'a.safetensors'
  filling.save(path, {'mean': np.ones(3)}, **FACTS | {'network': 'c3d'})
  count = len(features.parameter_shapes('c3d')) - 1
  cause = f'{count} missing'
  refused(cause, values=path, call=lambda p: filling.load(p, 'c3d'))
