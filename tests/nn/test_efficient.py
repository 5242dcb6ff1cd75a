"""The Efficient U-Net: where it works, what it passes on, what it refuses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.errors import ConfigError
from vdm_jax.nn.efficient import EfficientUNet

FRAMES, SIDE = 4, 8
Z = jax.random.normal(jax.random.key(0), (2, FRAMES, SIDE, SIDE, 3))
LOGSNR = jnp.array([0.5, -1.0])
TEXT = jax.random.normal(jax.random.key(1), (2, 1, 3, 6))
MASK = jnp.ones((2, 1, 3), bool)
TOLD = {
  'text': TEXT,
  'text_mask': MASK,
  'extra': jax.random.normal(jax.random.key(2), Z.shape),
  'augment': jnp.array([1.0, 3.0]),
}

jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def efficient(**kwargs):
  arguments = {
    'channels': 8,
    'multipliers': (1, 2),
    'blocks': (1, 2),
    'attention_resolutions': (),
    'head_dim': 8,
    'emb_dim': 16,
    'text_dim': 6,
    'cross_attention': True,
    'extra_channels': 3,
    'augmented': True,
    'groups': 4,
  }
  return EfficientUNet(**(arguments | kwargs))


class Net:
  """A network of random parameters, its layers' outputs kept."""

  def __init__(self, randomize):
    self.params = randomize(efficient(), Z, LOGSNR, **TOLD)

    def apply(params, z, **told):
      return efficient().apply(
        params,
        z,
        LOGSNR,
        image_frames=1,
        capture_intermediates=_is_layer,
        mutable='intermediates',
        **told,
      )

    self.program = jit(apply)

  def __call__(self, params=None, z=Z, **changed):
    return self.layers(params, z, **changed)[0]

  def layers(self, params=None, z=Z, **changed):
    """The result, and the output of each layer."""
    params = self.params if params is None else params
    y, kept = self.program(params, z, **(TOLD | changed))
    kept = kept['intermediates']
    return y, {name: kept[name]['__call__'][0] for name in kept}


def _is_layer(module, method):
  return str(module.name).startswith(('down_', 'up_'))


@pytest.fixture(scope='module')
def net(randomize):
  return Net(randomize)


def differs(a, b):
  return (np.asarray(a) != np.asarray(b)).any((0, 2, 3, 4))


@functools.lru_cache
def shapes(shape=Z.shape, **kwargs):
  told = {'augment': jnp.zeros(shape[0])}
  if kwargs.get('extra_channels', 3):
    told['extra'] = jnp.zeros(shape)
  init = functools.partial(efficient(**kwargs).init, **told)
  args = jax.random.key(0), jnp.zeros(shape), jnp.zeros(shape[0])
  return jax.eval_shape(init, *args)['params']


def test_a_level_halves_first_and_doubles_last(net):
  """The blocks of level l work at side / 2^(l + 1)."""
  _, layers = net.layers()
  forms = {name: layer.shape[2:] for name, layer in layers.items()}
  assert forms == {
    'down_0_in': (4, 4, 8),
    'down_0_0': (4, 4, 8),
    'down_1_in': (2, 2, 16),
    'down_1_0': (2, 2, 16),
    'down_1_1': (2, 2, 16),
    'up_1_0': (2, 2, 16),
    'up_1_1': (2, 2, 16),
    'up_1_out': (4, 4, 8),
    'up_0_0': (4, 4, 8),
    'up_0_out': (8, 8, 8),
  }


def test_skip_connections_are_scaled(net):
  """Through a block that hands its second half on, to 1/√2 of what came."""

  def handing_on(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if 'up_0_0/res/shortcut/kernel' in name:
      return np.eye(16, 8, -8, dtype=np.float32)[None, None]
    silent = ('up_0_0/res/shortcut/bias', 'up_0_0/res/conv_1')
    silent += ('up_0_0/res/temporal_1',)
    return np.zeros_like(leaf) if any(s in name for s in silent) else leaf

  params = jax.tree_util.tree_map_with_path(handing_on, net.params)
  _, layers = net.layers(params)
  np.testing.assert_allclose(
    layers['up_0_0'], layers['down_0_0'] / math.sqrt(2), rtol=1e-6, atol=1e-6
  )


def test_attention_only_where_it_is_asked_for():
  def having(part, **kwargs):
    return {n for n, tree in shapes(**kwargs).items() if part in tree}

  lowest = {'down_1_1', 'up_1_1'}
  first = {'down_0_0', 'up_0_0'}
  assert having('cross') == lowest
  assert having('spatial') == having('temporal') == set()
  some = {'attention_resolutions': (4,), 'temporal': True}
  assert having('spatial', **some) == having('temporal', **some) == first
  assert having('cross', **some) == lowest | first
  assert having('cross', cross_attention=False, **some) == set()


def test_without_attention_it_takes_any_size():
  large = (1, 2, 32, 16, 3)
  assert shapes(large) == shapes()
  # Negative control: one with attention is made for its size.
  efficient(attention_resolutions=(4,)).validate((4, 8, 8, 3))
  with pytest.raises(ConfigError, match=r'no level has.*\[16, 8\]'):
    efficient(attention_resolutions=(4,)).validate((4, 32, 16, 3))


def test_parameters_do_not_depend_on_frames():
  assert shapes((1, 1, SIDE, SIDE, 3)) == shapes()


def test_images_and_video_do_not_touch_to_the_bit(net):
  y = net()
  for frame, hit in [(3, [3]), (0, [0, 1, 2])]:
    changed = net(z=Z.at[:, frame].add(1.0))
    np.testing.assert_array_equal(
      differs(y, changed), np.isin(np.arange(FRAMES), hit)
    )


@pytest.mark.parametrize(
  'name', ['text', 'text_mask', 'extra', 'augment', 'logsnr']
)
def test_it_heeds_what_it_is_told(net, name):
  if name == 'logsnr':
    assert differs(net(), net(z=Z[::-1])[::-1]).all()
  else:
    value = TOLD[name]
    changed = value.at[:, :, :1].set(False) if name == 'text_mask' else -value
    assert differs(net(), net(**{name: changed})).all()


def test_output_is_float32_zero_at_initialisation():
  for dtype in (jnp.float32, jnp.bfloat16):
    module = efficient(dtype=dtype)

    def at_start(key, z, module=module, **told):
      return module.init_with_output(key, z, LOGSNR, **told)

    y, params = jax.eval_shape(at_start, jax.random.key(0), Z, **TOLD)
    assert y.dtype == jnp.float32 and y.shape == Z.shape
    leaves = jax.tree.leaves(params)
    assert {leaf.dtype for leaf in leaves} == {jnp.float32.dtype}


@pytest.mark.parametrize(
  ('kwargs', 'shape', 'message'),
  [
    ({}, (4, 10, 8, 3), 'multiples of 4 for 2 levels.*10x8.*use 8x8'),
    ({'blocks': (1,)}, (4, 8, 8, 3), r'each of 2 levels.*\(1,\).*\(2, 2\)'),
    ({'blocks': (1, 0)}, (4, 8, 8, 3), 'blocks too small'),
    ({'attention_resolutions': (8,)}, (4, 8, 8, 3), r'choose from \[4, 2\]'),
    ({'temporal': True}, (4, 8, 8, 3), 'set temporal to False'),
    ({'head_dim': 5}, (4, 8, 8, 3), r'attention \[16\].*divisor of 16'),
    ({'groups': 12}, (4, 8, 8, 3), 'groups must divide.*use 8'),
    ({'text_dim': 0}, (4, 8, 8, 3), 'cross_attention without text'),
  ],
)
def test_refusals_say_what_would_work(kwargs, shape, message):
  with pytest.raises(ConfigError, match=message) as info:
    efficient(**kwargs).validate(shape)
  assert '\n' not in str(info.value)


def test_a_level_that_cannot_be_attended_is_refused_only_if_it_is():
  """Eight channels are no whole head of 16, but nothing attends there."""
  efficient(head_dim=16).validate((4, 8, 8, 3))
  with pytest.raises(ConfigError, match=r'\[8, 16\].*use a divisor of 8'):
    efficient(head_dim=16, attention_resolutions=(4,)).validate((4, 8, 8, 3))
