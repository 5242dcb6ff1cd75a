"""Files of weights: what is read is what was written, and nothing runs."""

import contextlib
import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.metrics import hostile
from vdm_jax.errors import WeightsError
from vdm_jax.metrics import archives, pickles, reading

RNG = np.random.default_rng(0)


def refused(path, *causes) -> str:
  """The one line by which a file is refused, which names it and the cause."""
  before = sorted(path.parent.rglob('*'))
  with pytest.raises(WeightsError) as error:
    reading.read(path)
  text = str(error.value)
  assert path.name in text and '\n' not in text
  assert len(text) <= 320 + len(str(path.parent))
  for cause in causes:
    assert cause in text, text
  assert sorted(path.parent.rglob('*')) == before
  return text


def written(path, data: bytes):
  path.write_bytes(data)
  return path


def same(got, wanted):
  """Equal to the last bit, names in order, types kept."""
  assert list(got) == list(wanted)
  for name, value in wanted.items():
    value = np.asarray(value)
    assert got[name].dtype == value.dtype and got[name].shape == value.shape
    assert got[name].tobytes() == value.tobytes(), name


# --- PyTorch -----------------------------------------------------------------


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch')


def tensors(torch):
  """A state dict of all types, with views of all kinds, and as arrays."""
  whole = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
  state = {
    'a.weight': whole,
    'a.transposed': whole.permute(2, 0, 1),
    'a.strided': whole[::2, 1:3, ::3],
    'a.offset': whole[2, 1:],
    'half': torch.randn(3).half(),
    'double': torch.randn(2, 2).double(),
    'long': torch.tensor(7),
    'int': torch.tensor([1, -2], dtype=torch.int32),
    'short': torch.tensor([1, -2], dtype=torch.int16),
    'char': torch.tensor([1, -2], dtype=torch.int8),
    'byte': torch.tensor([1, 255], dtype=torch.uint8),
    'bool': torch.tensor([True, False]),
    'empty': torch.zeros(0, 3),
    'parameter': torch.nn.Parameter(torch.randn(2, 3)),
    'brain': torch.tensor([1.5, -2.0]).bfloat16(),
  }
  arrays = {k: v.detach().numpy() for k, v in state.items() if k != 'brain'}
  return state, arrays | {'brain': np.array([1.5, -2], ml_dtypes.bfloat16)}


FORMS = {
  'zip': {},
  'zip, protocol 4': {'pickle_protocol': 4},
  'legacy': {'_use_new_zipfile_serialization': False},
}


@pytest.mark.parametrize('form', FORMS)
def test_state_dict(torch, tmp_path, form):
  state, arrays = tensors(torch)
  torch.save(state, tmp_path / 'a.pt', **FORMS[form])
  read = reading.read(tmp_path / 'a.pt')
  same(read.values, arrays)
  assert read.kind == 'pytorch' and read.source == 'a.pt'
  assert read.sha256 == reading.sha256([tmp_path / 'a.pt'])
  assert not read.values['a.weight'].flags.writeable


@pytest.mark.parametrize('form', FORMS)
def test_state_dict_of_a_module_among_other_things(torch, tmp_path, form):
  conv, norm = torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)
  module = torch.nn.Sequential(conv, norm)
  moments = {'state': {0: {'step': torch.tensor(1.0), 'm': torch.ones(3)}}}
  saved = {
    'epoch': 3,
    'state_dict': {'model': module.state_dict()},
    'optimizer': moments | {'param_groups': [{'lr': 0.1, 'params': [0, 1]}]},
    'name': 'x',
    'history': [0.5, None, True],
  }
  torch.save(saved, tmp_path / 'a.pth', **FORMS[form])
  wanted = {k: v.numpy() for k, v in module.state_dict().items()}
  same(reading.read(tmp_path / 'a.pth').values, wanted)


def test_big_endian(tmp_path):
  data = np.arange(4, dtype='>f4')
  file = hostile.torch_zip(
    hostile.tensor_pickle((2, 2), (2, 1)), {'0': data.tobytes()}
  )
  with zipfile.ZipFile(io.BytesIO(file)) as archive:
    members = {n: archive.read(n) for n in archive.namelist()}
  members['a/byteorder'] = b'big'
  path = written(tmp_path / 'a.pt', hostile.zipped(members))
  assert reading.read(path).values['w'].tolist() == [[0, 1], [2, 3]]
  members['a/byteorder'] = b'mixed'
  refused(written(path, hostile.zipped(members)), 'byte order')


def test_strings_of_python_2():
  assert pickles.evaluate(io.BytesIO(b'\x80\x02}U\x01aK\x01s.')) == {'a': 1}


@pytest.fixture(scope='module')
def script(torch):
  """A module of TorchScript, and its state dict as arrays."""

  class Inner(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.conv = torch.nn.Conv2d(2, 2, 1)
      self.norm = torch.nn.BatchNorm2d(2)
      self.register_buffer('mean', torch.arange(8.0).reshape(2, 2, 2)[:, 1])
      self.sizes, self.text = [1, 2], 'x'

    def forward(self, x):
      return self.norm(self.conv(x)) + torch.ones(2, 1, 1)

  class Outer(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.blocks = torch.nn.Sequential(Inner(), Inner())

    def forward(self, x):
      return self.blocks(x)

  return torch.jit.script(Outer().eval())


def test_torchscript(torch, tmp_path, script):
  script.save(str(tmp_path / 'a.pt'))
  read = reading.read(tmp_path / 'a.pt')
  assert read.kind == 'torchscript'
  wanted = {k: v.numpy() for k, v in script.state_dict().items()}
  assert read.values.keys() == wanted.keys()
  same(read.values, {k: wanted[k] for k in read.values})


def test_torchscript_traced(torch, tmp_path, script):
  traced = torch.jit.trace(script, torch.zeros(1, 2, 3, 3))
  traced.save(str(tmp_path / 'a.pt'))
  assert reading.read(tmp_path / 'a.pt').values.keys() == set(
    script.state_dict()
  )


def test_torchscript_frozen(torch, tmp_path, script):
  torch.jit.freeze(script, optimize_numerics=False).save(str(tmp_path / 'a.pt'))
  values = reading.read(tmp_path / 'a.pt').values
  assert list(values) == [f'constants.{i}' for i in range(len(values))]
  weights = script.state_dict()['blocks.0.conv.weight'].numpy()
  assert any(np.array_equal(v, weights) for v in values.values())


def test_code_of_a_torchscript_is_not_looked_at(torch, tmp_path, script):
  script.save(str(tmp_path / 'a.pt'))
  with zipfile.ZipFile(tmp_path / 'a.pt') as archive:
    members = {n: archive.read(n) for n in archive.namelist()}
  for name in members:
    if '/code/' in name:
      members[name] = b'\xff no program'
  path = written(tmp_path / 'b.pt', hostile.zipped(members))
  values = reading.read(path).values
  same(values, reading.read(tmp_path / 'a.pt').values)


# --- other formats -----------------------------------------------------------


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
  wanted = {
    'conv1a/W': RNG.normal(size=(3, 2, 3)).astype('f4'),
    'fortran': np.asfortranarray(RNG.normal(size=(3, 2))),
    'big': np.arange(3, dtype='>f8'),
    'zeros': np.zeros(100_000, 'f2'),
    'number': np.array(3),
  }
  save(tmp_path / 'a.npz', **wanted)
  read = reading.read(tmp_path / 'a.npz')
  same(read.values, wanted)
  assert read.kind == 'npz'


def test_msgpack(tmp_path):
  serialization = pytest.importorskip('flax.serialization')
  weight = RNG.normal(size=(3, 2)).astype('f4')
  half = weight.astype(ml_dtypes.bfloat16)
  tree = {'a': {'kernel': weight, 'bias': half}, 'b': np.float32(2), 'n': 3}
  data = serialization.msgpack_serialize(tree)
  read = reading.read(written(tmp_path / 'a.msgpack', data))
  same(read.values, {'a/bias': half, 'a/kernel': weight, 'b': tree['b']})
  # Also without the ending, and below one word for all.
  data = serialization.msgpack_serialize({'params': tree})
  assert reading.read(written(tmp_path / 'a', data)).values.keys() == set(
    read.values
  )


def test_safetensors(tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  wanted = {
    'a': RNG.normal(size=(3, 2)).astype('f4'),
    'b.half': RNG.normal(size=3).astype('f2'),
    'c.brain': RNG.normal(size=3).astype(ml_dtypes.bfloat16),
  }
  numpy.save_file(wanted, tmp_path / 'a.safetensors', {'network': 'x'})
  read = reading.read(tmp_path / 'a.safetensors')
  assert read.kind == 'safetensors' and read.metadata == {'network': 'x'}
  same({k: read.values[k] for k in wanted}, wanted)


def test_folder_of_hugging_face(tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  written(tmp_path / 'pytorch_model.bin', b'the last to be read')
  numpy.save_file({'a': np.ones(3)}, tmp_path / 'model.safetensors')
  assert reading.read(tmp_path).source == 'model.safetensors'


def test_npz_of_python_2(tmp_path):
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4L,)}"
  text = header.ljust(117) + b'\n'
  data = b'\x93NUMPY\x01\x00v\x00' + text + np.arange(4, dtype='f4').tobytes()
  path = written(tmp_path / 'a.npz', hostile.zipped({'a.npy': data}))
  with pytest.warns(UserWarning, match='Python 2'):
    assert reading.read(path).values['a'].tolist() == [0, 1, 2, 3]


def test_tensorflow(tmp_path):
  tf = pytest.importorskip('tensorflow')
  folder = tmp_path / 'hub'
  (folder / 'variables').mkdir(parents=True)
  wanted = {
    'RGB/a/w': RNG.normal(size=(2, 3)).astype('f4'),
    'step': np.array(3, 'i8'),
  }
  tf.raw_ops.SaveV2(
    prefix=str(folder / 'variables' / 'variables'),
    tensor_names=[*wanted, 'text', 'v2/.ATTRIBUTES/VARIABLE_VALUE'],
    shape_and_slices=[''] * 4,
    tensors=[*map(tf.constant, wanted.values()), tf.constant('x'), 1.0],
  )
  prefix = folder / 'variables' / 'variables'
  read = reading.read(folder)
  assert read.kind == 'tensorflow'
  wanted['v2'] = np.array(1, 'f4')
  assert read.values.keys() == wanted.keys()
  same({k: read.values[k] for k in wanted}, wanted)
  for name in (prefix, prefix.with_name('variables.index')):
    assert reading.read(name).sha256 == read.sha256
  data = prefix.with_name('variables.data-00000-of-00001')
  written(data, data.read_bytes()[:-4])
  refused(prefix, 'damaged')
  written(data, data.read_bytes()[:4])
  refused(prefix, 'claim')


def test_tensorflow_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  written(tmp_path / 'a.index', b'x')
  written(tmp_path / 'a.data-00000-of-00001', b'x')
  refused(tmp_path / 'a', 'tensorflow', 'pip install')


def test_nothing_but_numpy_is_imported(tmp_path):
  np.savez(tmp_path / 'a.npz', a=np.ones(3))
  code = (
    'import sys; from vdm_jax.metrics import reading; '
    f'reading.read({str(tmp_path / "a.npz")!r}); '
    "print({'torch', 'tensorflow', 'safetensors'} & set(sys.modules))"
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == 'set()'


def test_several_files(tmp_path):
  np.savez(tmp_path / 'a.npz', a=np.ones(3))
  np.savez(tmp_path / 'b.npz', b=np.ones(2))
  paths = tmp_path / 'a.npz', tmp_path / 'b.npz'
  read = reading.read(paths)
  assert list(read.values) == ['a', 'b'] and read.source == 'a.npz,b.npz'
  assert read.sha256.split(',') == [reading.read(p).sha256 for p in paths]
  with pytest.raises(WeightsError, match='the same tensor'):
    reading.read((paths[0], paths[0]))


# --- files that mean harm ----------------------------------------------------


@pytest.fixture
def canary(tmp_path_factory):
  return tmp_path_factory.mktemp('out') / 'canary'


def runs(canary, load):
  """The negative control: the ordinary reader executes the file."""
  try:
    load()
  except Exception as error:
    assert not isinstance(error, ImportError)
  assert canary.is_dir(), 'the payload is harmless, so that nothing is shown'
  canary.rmdir()


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(
  ('payload', 'name'),
  [(hostile.Payload, 'posix.system'), (hostile.Evaluated, 'builtins.eval')],
)
def test_program_in_a_state_dict(torch, tmp_path, canary, form, payload, name):
  if os.name != 'posix':
    pytest.skip('the payload is of posix')
  path, w = tmp_path / 'a.pt', torch.ones(3)
  deep = {'w': w, 'x': {'y': [[{'z': (1, payload(canary))}]]}}
  torch.save(deep, path, **FORMS[form])
  # Protocols below 4 write Python 2's name of builtins.
  old = name.replace('builtins', '__builtin__')
  text = refused(path)
  assert f'names {name},' in text or f'names {old},' in text
  assert not canary.exists()
  runs(canary, lambda: torch.load(path, weights_only=False))


@pytest.mark.parametrize(
  'make',
  [
    lambda canary: hostile.pickled(hostile.Payload(canary)),
    lambda canary: hostile.pickled({'a': [hostile.Evaluated(canary)]}),
    lambda canary: pickle.dumps(hostile.Payload(canary), protocol=5),
    hostile.protocol_0,
    hostile.instance,
    hostile.state_setter,
  ],
)
def test_program_in_a_plain_pickle(tmp_path, canary, make):
  path = written(tmp_path / 'a.pkl', make(canary))
  refused(path, 'its pickle names ')
  assert not canary.exists()
  runs(canary, lambda: pickle.loads(path.read_bytes()))
  # The same inside of a zip, in both of its pickles.
  zip_path = written(tmp_path / 'b.pt', hostile.torch_zip(path.read_bytes()))
  refused(zip_path, 'its pickle names ')
  members = {'a/data.pkl': b'\x80\x02}.', 'a/constants.pkl': path.read_bytes()}
  refused(written(zip_path, hostile.zipped(members)), 'its pickle names ')
  assert not canary.exists()


def test_objects_in_an_npz(tmp_path, canary):
  path = written(tmp_path / 'a.npz', hostile.object_npz(canary))
  refused(path, 'holds objects')
  assert not canary.exists()
  runs(canary, lambda: np.load(path, allow_pickle=True)['a'])


def test_every_name_is_inert(tmp_path):
  """Of all that a pickle may say, nothing is imported or looked up."""
  for text in (
    'subprocess Popen',
    'torch load',
    'torch._utils _rebuild_qtensor',
    'torch._utils _rebuild_tensor_v2.__globals__',
    'torch.jit load',
    '__torch__x A',
    'collections Counter',
  ):
    module, name = text.split(' ', 1)
    data = b'\x80\x02c' + f'{module}\n{name}\n.'.encode()
    path = written(tmp_path / 'a.pt', hostile.torch_zip(data))
    refused(path, f'names {module}.{name}'[:50])


CALLS = {
  # An allowed name where it does not belong.
  'storage called': b'\x80\x02ctorch\nFloatStorage\n)R.',
  'class called': b'\x80\x02c__torch__\nA\n)R.',
  'dict as an object': b'\x80\x02ccollections\nOrderedDict\n)\x81.',
  'attributes of a function': (
    b'\x80\x02ctorch._utils\n_rebuild_parameter\n}b.'
  ),
  'attributes of a class': b'\x80\x02c__torch__\nA\n}b.',
  'dict of no pairs': b'\x80\x02ccollections\nOrderedDict\n]K\x01aK\x02\x86R.',
  'key of a deep tuple': b'\x80\x02}' + b')' + b'\x85' * 10**4 + b'K\x01s.',
  'memo that is not there': b'\x80\x02h\x05.',
  'empty': b'\x80\x02.',
  'no end': b'\x80\x02}',
  'long string that is not there': b'\x80\x02X\xff\xff\xff\x7fabc.',
  'negative length': b'\x80\x02T\xff\xff\xff\xffabc.',
  'left over': b'\x80\x02}}.',
  'a mark too many': b'\x80\x02(}.',
  'itself': b'\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.',
  'laughing': (
    b'\x80\x02}X\x01\x00\x00\x00a]q\x00'
    + b''.join(b'](h%bh%beq%b' % (bytes([i]), bytes([i]), bytes([i + 1]))
               for i in range(40))
    + b'h(s.'
  ),
  'set': b'\x80\x04\x8f.',
  'a number': b'\x80\x02K\x01.',
  'a whole model': b'\x80\x02X\x06\x00\x00\x00modulecx\ny\n\x86Q.',
  'a persistent number': b'\x80\x02K\x01Q.',
}  # fmt: skip


@pytest.mark.parametrize('name', CALLS)
def test_pickle_that_is_damaged(tmp_path, name):
  refused(written(tmp_path / 'a.pt', hostile.torch_zip(CALLS[name])))


def peak(function, *arguments) -> float:
  """The most memory that a call takes, in bytes."""
  tracemalloc.start()
  try:
    function(*arguments)
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize(
  'data',
  [
    b'}r\xff\xff\xff\x0f.',  # kept under a number for which there is no table
    b'}X\xff\xff\xff\x7fa.',
    b'}\x8b\xff\xff\xff\x7fa.',
    b'}\x8d\xff\xff\xff\xff\x00\x00\x00\x00a.',
  ],
)
def test_pickle_takes_no_memory_for_what_is_not_there(data):
  def evaluate():
    with contextlib.suppress(archives.Refused):
      pickles.evaluate(io.BytesIO(b'\x80\x04' + data))

  assert peak(evaluate) < 1e6


FOUR = np.arange(4, dtype='f4').tobytes()
VIEWS = {
  'beyond': (hostile.tensor_pickle((2, 2), (2, 1), offset=1), 'beyond'),
  'stride beyond': (hostile.tensor_pickle((2, 2), (3, 1)), 'beyond'),
  'offset beyond': (hostile.tensor_pickle((0,), (1,), offset=5), 'beyond'),
  'negative offset': (hostile.tensor_pickle((2,), (1,), offset=-1), 'storage'),
  'negative stride': (hostile.tensor_pickle((2,), (-1,), offset=3), 'shape'),
  'negative size': (hostile.tensor_pickle((-2,), (1,)), 'shape'),
  'terabytes of one number': (hostile.tensor_pickle((10**12,), (0,)), 'repeat'),
  'huge': (hostile.tensor_pickle((2**40, 2**40), (0, 0)), 'repeats'),
  'huge count': (hostile.tensor_pickle((2,), (1,), count=2**40), 'bytes for'),
  'short count': (hostile.tensor_pickle((2,), (1,), count=2), 'bytes for'),
  'other type': (
    hostile.tensor_pickle((2,), (1,), storage='DoubleStorage'),
    'bytes for',
  ),
  'ranks': (hostile.tensor_pickle((2,), (1, 1)), 'shape'),
  'rank': (hostile.tensor_pickle((1,) * 60, (1,) * 60), 'shape'),
  'missing storage': (hostile.tensor_pickle((2,), (1,), key='7'), 'missing'),
  'storage elsewhere': (
    hostile.tensor_pickle((2,), (1,), key='../data.pkl'),
    'missing',
  ),
}


@pytest.mark.parametrize('name', VIEWS)
def test_tensor_that_claims_too_much(tmp_path, name):
  data, cause = VIEWS[name]
  path = written(tmp_path / 'a.pt', hostile.torch_zip(data, {'0': FOUR}))
  refused(path, cause)


def test_honest_tensor_of_the_same_make(tmp_path):
  data = hostile.torch_zip(hostile.tensor_pickle((2, 2), (1, 2)), {'0': FOUR})
  values = reading.read(written(tmp_path / 'a.pt', data)).values
  assert values['w'].tolist() == [[0, 2], [1, 3]]


ARRAY = hostile.npy((4,), FOUR)
DEFLATED = hostile.zipped({'a.npy': ARRAY * 9}, zipfile.ZIP_DEFLATED)
ZIPS = {
  'traversal': (hostile.zipped({'../a.npy': ARRAY}), 'outside'),
  'inner traversal': (hostile.zipped({'a/../../b.npy': ARRAY}), 'outside'),
  'absolute': (hostile.zipped({'/tmp/a.npy': ARRAY}), 'outside'),
  'backslash': (hostile.zipped({'..\\a.npy': ARRAY}), 'outside'),
  'link': (hostile.link_zip('/etc/passwd'), 'link'),
  'overlapping': (hostile.overlapping(), 'overlap'),
  'encrypted': (hostile.with_field(DEFLATED, 8, 1, 2), 'encrypted'),
  'method': (hostile.with_field(DEFLATED, 10, 14, 2), 'method 14'),
  'stored size': (
    hostile.with_field(hostile.zipped({'a.npy': ARRAY}), 24, 10**9),
    'claims 1000000000',
  ),
  'shorter than it is': (hostile.with_field(DEFLATED, 24, 100), 'a.npy'),
  'longer than it is': (hostile.with_field(DEFLATED, 24, 10**6), 'a.npy'),
  'checksum': (hostile.with_field(DEFLATED, 16, 7), 'damaged'),
  'truncated': (hostile.zipped({'a.npy': ARRAY})[:-30], 'truncated'),
  'half': (hostile.zipped({'a.npy': ARRAY * 9})[:200], 'truncated'),
  'something else': (hostile.zipped({'a.txt': b'x'}), 'something else'),
  'nothing': (hostile.zipped({}), 'nothing'),
  'two state dicts': (
    hostile.zipped({'a/data.pkl': b'', 'b/data.pkl': b''}),
    'several',
  ),
}


@pytest.mark.parametrize('name', ZIPS)
def test_zip_that_lies(tmp_path, name):
  data, cause = ZIPS[name]
  refused(written(tmp_path / 'a.npz', data), cause)


def test_one_name_twice(tmp_path):
  with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / 'a.npz', 'w') as z:
    z.writestr('a.npy', ARRAY)
    z.writestr('a.npy', ARRAY)
  refused(tmp_path / 'a.npz', 'twice')


def test_bomb(tmp_path):
  """It would become 100 MB, and takes no memory."""
  bomb = hostile.zipped({'a.npy': bytes(10**8)}, zipfile.ZIP_DEFLATED)
  for name, data in {
    'a.npz': bomb,
    # One that hides its size expands only until that is noticed.
    'b.npz': hostile.with_field(bomb, 24, 1000),
  }.items():
    assert peak(refused, written(tmp_path / name, data)) < 8e6, name
  refused(tmp_path / 'a.npz', 'zip bomb')


def test_too_much_of_anything(tmp_path, monkeypatch):
  path = written(tmp_path / 'a.npz', hostile.zipped({'a.npy': ARRAY}))
  assert len(reading.read(path).values) == 1
  for limit, cause in (
    ('MAX_TOTAL', 'GiB'),
    ('MAX_ENTRIES', 'members'),
    ('MAX_DIRECTORY', 'directory'),
  ):
    with monkeypatch.context() as patch:
      patch.setattr(archives, limit, 0)
      refused(path, cause)


ARRAYS = {
  '4 TiB': hostile.npy((2**40,), FOUR),
  'negative': hostile.npy((-1, -4), FOUR),
  'short': hostile.npy((5,), FOUR),
  'long': hostile.npy((3,), FOUR),
  'objects': hostile.npy((1,), FOUR, '|O'),
  'text': hostile.npy((1,), FOUR, '<U1'),
  'records': hostile.npy((1,), FOUR, [('a', '|O')]),
  'complex': hostile.npy((1,), FOUR * 2, '<c16'),
  'header': b'\x93NUMPY\x01\x00\xff\xff{',
  'no header': b'abc',
  'program': b'\x93NUMPY\x01\x00\x21\x00{"descr": __import__("os").abort()}\n',
}


@pytest.mark.parametrize('name', ARRAYS)
def test_array_that_lies(tmp_path, name):
  data = hostile.zipped({'w.npy': ARRAYS[name]})
  refused(written(tmp_path / 'a.npz', data), 'array w')


ENTRY = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
FORGED = {
  'length': hostile.safetensors({'a': ENTRY}, FOUR, 2**62),
  'beyond': hostile.safetensors({'a': ENTRY | {'data_offsets': [0, 64]}}, FOUR),
  'shape': hostile.safetensors({'a': ENTRY | {'shape': [2**40]}}, FOUR),
  'truncated': hostile.safetensors({'a': ENTRY}, FOUR[:9]),
  'text': hostile.safetensors('x', FOUR),
  'empty': b'',
}


@pytest.mark.parametrize('name', FORGED)
def test_safetensors_that_lie(tmp_path, name):
  pytest.importorskip('safetensors')
  refused(written(tmp_path / 'a.safetensors', FORGED[name]), 'safetensors')


def test_msgpack_that_lies(tmp_path):
  msgpack = pytest.importorskip('msgpack')
  pack = lambda *a: msgpack.ExtType(1, msgpack.packb(a))  # noqa: E731
  deep = {'a': pack((4,), 'float32', FOUR)}
  for _ in range(100):
    deep = {'a': deep}
  for data in (
    msgpack.packb({'a': pack((1,), 'O', bytes(8))}),
    msgpack.packb({'a': pack((2**40,), 'float32', FOUR)}),
    msgpack.packb({'a': pack((1,), 'S4', FOUR)}),
    msgpack.packb([1]),
    msgpack.packb({'a': pack((4,), 'float32', FOUR)})[:-3],
    msgpack.packb(deep),
    b'\xdf\xff\xff\xff\xff',
    b'\x81' * 10**4,
    b'',
  ):
    refused(written(tmp_path / 'a.msgpack', data))


def legacy(torch, change) -> bytes:
  """A file of before PyTorch 1.6 with one of its bytes changed."""
  file = io.BytesIO()
  torch.save({'w': torch.ones(3)}, file, _use_new_zipfile_serialization=False)
  return change(file.getvalue())


LEGACY = {
  'truncated storage': (lambda d: d[:-4], 'truncated'),
  'truncated length': (lambda d: d[:-16], 'truncated'),
  'truncated pickle': (lambda d: d[:90], 'truncated'),
  'length': (lambda d: d[:-20] + b'\x09' + d[-19:], 'length'),
  'negative length': (lambda d: d[:-20] + b'\xff' * 8 + d[-12:], 'length'),
  'only the magic': (lambda d: d[:15], 'truncated'),
  'order': (lambda d: d.replace(b'little_endianq\x02\x88',
                                b'little_endianq\x02\x89'), 'little-endian'),
}  # fmt: skip


@pytest.mark.parametrize('name', LEGACY)
def test_legacy_that_is_damaged(torch, tmp_path, name):
  change, cause = LEGACY[name]
  assert legacy(torch, change) != legacy(torch, bytes)
  refused(written(tmp_path / 'a.pth', legacy(torch, change)), cause)


OTHERS = {
  'a.tar.gz': (b'\x1f\x8b\x08', 'gzip'),
  'a.h5': (b'\x89HDF\r\n', 'HDF5'),
  'b.pt': (b'version https://git-lfs.github.com/spec/v1', 'LFS'),
  'c.pt': (b'<!doctype html>', 'web page'),
  'd.pt': (b'', 'empty'),
  'e.tar': (bytes(257) + b'ustar' + bytes(300), 'tar'),
  'f.npz': (b'no zip', 'zip'),
  'g.dat': (b'what is it', 'kind'),
  'h.pt': (b'what is it', 'pickle'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_other_files(tmp_path, name):
  data, cause = OTHERS[name]
  refused(written(tmp_path / name, data), cause)


def test_what_is_no_file(tmp_path):
  refused(tmp_path / 'none.pt', 'missing')
  os.mkfifo(tmp_path / 'pipe')  # which would never end
  refused(tmp_path / 'pipe', 'not a file')
  (tmp_path / 'folder').mkdir()
  refused(tmp_path / 'folder', 'no weights')


def test_names_cannot_break_the_line(tmp_path):
  name = 'a\n\x1b[2Jvdm_jax, all is well' + 'x' * 999
  data = hostile.zipped({name: b''})
  text = refused(written(tmp_path / 'a.npz', data), 'something else')
  assert '\x1b' not in text


def test_random_damage(torch, tmp_path):
  """A changed or missing byte ends in a WeightsError, or does no harm."""
  state = {'a': {'w': torch.ones(3, 2), 'b': torch.zeros(3).half()}}
  for form in FORMS.values():
    file = io.BytesIO()
    torch.save(state, file, **form)
    good = file.getvalue()
    for _ in range(60):
      bad = bytearray(good)
      bad[RNG.integers(len(bad))] = RNG.integers(256)
      end = len(bad) if RNG.random() < 0.5 else RNG.integers(len(bad))
      try:
        reading.read(written(tmp_path / 'a.pt', bytes(bad[:end])))
      except WeightsError as error:
        assert '\n' not in str(error)
