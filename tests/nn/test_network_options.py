"""Two texts, cross-attention, extra channels, augmentation: of both U-Nets."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import state
from vdm_jax.errors import ConfigError
from vdm_jax.nn.efficient import EfficientUNet
from vdm_jax.nn.layer import Layer
from vdm_jax.nn.unet import UNet

FRAMES, SIDE = 5, 4
SHARED = {
  'channels': 8,
  'multipliers': (1,),
  'attention_resolutions': (),
  'head_dim': 8,
  'emb_dim': 16,
  'groups': 4,
}
OPTIONS = {
  'text_dim': 6,
  'text2_dim': 4,
  'cross_attention': True,
  'extra_channels': 2,
  'augmented': True,
}
NETS = {
  'unet': functools.partial(UNet, blocks=1, **SHARED),
  'efficient': functools.partial(EfficientUNet, blocks=(1,), **SHARED),
}
KEYS = jax.random.split(jax.random.key(0), 4)
Z = jax.random.normal(KEYS[0], (2, FRAMES, SIDE, SIDE, 3))
LOGSNR = jnp.array([0.5, -1.0])
# A video of three frames and two images; the second text is one for all.
TOLD = {
  'text': jax.random.normal(KEYS[1], (2, 3, 3, 6)),
  'text_mask': jnp.ones((2, 3, 3), bool).at[:, 1, 1:].set(False),
  'text2': jax.random.normal(KEYS[2], (2, 1, 2, 4)),
  'text2_mask': jnp.ones((2, 1, 2), bool),
  'extra': jax.random.normal(KEYS[3], (2, FRAMES, SIDE, SIDE, 2)),
  'augment': jnp.array([1.0, 3.0]),
}

jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def differs(a, b):
  return (np.asarray(a) != np.asarray(b)).any((0, 2, 3, 4))


class Told:
  """A U-Net of one level with all the options."""

  def __init__(self, randomize):
    net = NETS['unet'](**OPTIONS)
    self.params = randomize(net, Z, LOGSNR, **_one_slot(TOLD))
    self.program = jit(functools.partial(net.apply, image_frames=2))

  def __call__(self, params=None, **changed):
    params = self.params if params is None else params
    return self.program(params, Z, LOGSNR, **(TOLD | changed))

  def without(self, *names):
    """The parameters, but for those of some names."""
    params = self.params['params']
    return {'params': _without(params, names)}


def _one_slot(told):
  return {k: v[:, :1] if 'text' in k else v for k, v in told.items()}


def _without(tree, names):
  if not isinstance(tree, dict):
    return tree
  return {k: _without(v, names) for k, v in tree.items() if k not in names}


@pytest.fixture(scope='module')
def told(randomize):
  return Told(randomize)


def products(jaxpr):
  """The matrix products and convolutions of a program, wherever they are."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ('dot_general', 'conv_general_dilated'):
      yield eqn
    for inner in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda v: hasattr(v, 'jaxpr')
    ):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from products(inner)


def test_what_is_float32_in_a_bfloat16_network_is_so_on_every_device():
  """By default a TPU would round what it multiplies to bfloat16."""
  net = NETS['unet'](**OPTIONS, dtype=jnp.bfloat16)
  params = jax.eval_shape(
    net.init, jax.random.key(0), Z, LOGSNR, **_one_slot(TOLD)
  )
  apply = functools.partial(net.apply, image_frames=2)
  found = list(products(jax.make_jaxpr(apply)(params, Z, LOGSNR, **TOLD).jaxpr))
  exact = [
    eqn for eqn in found if all(v.aval.dtype == jnp.float32 for v in eqn.invars)
  ]
  full = (jax.lax.Precision.HIGHEST,) * 2
  # The last convolution, the vectors' and the texts' layers; and no others.
  assert len([e for e in exact if 'conv' in e.primitive.name]) == 1
  assert len(exact) > 15 and len(found) > len(exact)
  for eqn in found:
    assert (eqn.params['precision'] == full) == (eqn in exact)


def test_each_text_touches_the_frames_of_its_slot(told):
  y, text = told(), TOLD['text']
  for slot, frames in enumerate([(0, 1, 2), (3,), (4,)]):
    hit = differs(y, told(text=text.at[:, slot].add(1.0)))
    np.testing.assert_array_equal(hit, np.isin(np.arange(FRAMES), frames))
  assert differs(y, told(text2=-TOLD['text2'])).all()


def test_each_text_is_null_by_itself(told):
  gone = {n: jnp.zeros_like(TOLD[n]) for n in ('text_mask', 'text2_mask')}
  both = told(**gone)
  for name in gone:
    assert differs(told(**{name: gone[name]}), told()).all()
    assert differs(told(**{name: gone[name]}), both).all()
  # What the embeddings are when nothing of them counts never matters.
  noise = {n: TOLD[n] + 1.0 for n in ('text', 'text2')}
  np.testing.assert_array_equal(told(**gone, **noise), both)


def test_null_texts_are_a_network_without_text(told):
  gone = {n: jnp.zeros_like(TOLD[n]) for n in ('text_mask', 'text2_mask')}
  net = NETS['unet'](extra_channels=2, augmented=True)
  names = ('text', 'text2', 'tokens', 'tokens2', 'cross')
  given = {n: TOLD[n] for n in ('extra', 'augment')}
  apply = jit(functools.partial(net.apply, image_frames=2))
  y = apply(told.without(*names), Z, LOGSNR, **given)
  np.testing.assert_array_equal(told(**gone), y)


def test_the_pixels_read_the_text_too(told):
  """Pooling is not all: without the cross-attentions' ends it is another."""

  def silent(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return np.zeros_like(leaf) if 'cross/out' in name else leaf

  params = jax.tree_util.tree_map_with_path(silent, told.params)
  assert differs(told(), told(params)).all()


def test_extra_joins_frame_by_frame(told):
  changed = told(extra=TOLD['extra'].at[:, 3].add(1.0))
  np.testing.assert_array_equal(
    differs(told(), changed), np.arange(FRAMES) == 3
  )


def test_extra_is_one_convolution_of_both(told):
  """conv_in over z and extra side by side, its kernel in two parts."""
  joined = {'params': dict(told.without('conv_extra')['params'])}
  parts = [
    told.params['params'][n]['kernel'] for n in ('conv_in', 'conv_extra')
  ]
  joined['params']['conv_in'] = joined['params']['conv_in'] | {
    'kernel': np.concatenate(parts, axis=2)
  }
  net = NETS['unet'](**(OPTIONS | {'extra_channels': 0}))
  given = {k: v for k, v in TOLD.items() if k != 'extra'}
  z = jnp.concatenate([Z, TOLD['extra']], axis=-1)
  y = jit(functools.partial(net.apply, image_frames=2))(
    joined, z, LOGSNR, **given
  )
  np.testing.assert_allclose(y, told(), atol=1e-4)


def test_extra_and_augmentation_start_as_nothing():
  """A network continued with them is the network without, at first."""
  net = NETS['unet'](**OPTIONS)

  def init(key):
    params = net.init(key, Z, LOGSNR, **_one_slot(TOLD))['params']
    return params['conv_extra'], params['augment']

  for leaf in jax.tree.leaves(jit(init)(jax.random.key(0))):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@pytest.fixture(scope='module')
def gradient(randomize):
  """Of a layer with all there is to recompute."""

  def layer(cls=Layer, remat_attention=False):
    return cls(
      8,
      attend=True,
      cross=True,
      temporal=True,
      temporal_convolution=True,
      head_dim=8,
      groups=4,
      dropout=0.0,
      train=True,
      max_distance=2,
      image_frames=1,
      image_mode='bypass',
      remat_attention=remat_attention,
      dtype=jnp.float32,
    )

  x = jax.random.normal(jax.random.key(1), (1, 3, 2, 2, 8))
  tokens = (TOLD['text'][:1, :2], TOLD['text_mask'][:1, :2])
  inputs = (x, jnp.ones((1, 1, 4)), tokens)
  params = randomize(layer(), *inputs)
  nets = {
    'none': layer(),
    'attention': layer(remat_attention=True),
    'block': layer(nn.remat(Layer)),
  }

  @functools.lru_cache
  def evaluate(remat):
    def loss(params):
      return (nets[remat].apply(params, *inputs) ** 2).sum()

    lowered = jit(jax.grad(loss)).lower(params)
    return lowered.as_text(), lowered.compile()(params)

  return evaluate


@pytest.mark.parametrize('remat', ['attention', 'block'])
def test_remat_changes_no_gradient(gradient, remat):
  plain, expected = gradient('none')
  text, grads = gradient(remat)
  assert barriers(plain) < barriers(text)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(grads),
    jax.tree.leaves(expected),
    strict=True,
  ):
    assert np.abs(b).max() > 0, path
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def barriers(text):
  return text.count('optimization_barrier')


def test_the_efficient_network_recomputes_what_it_is_asked_to(randomize):
  """Two layers, each with attention to space, text and time."""

  def recomputed(remat):
    options = {'attention_resolutions': (2,), 'temporal': True, 'remat': remat}
    net = NETS['efficient'](**(OPTIONS | options))
    told = _one_slot(TOLD)
    params = randomize(net, Z, LOGSNR, **told)
    return checkpoints(jax.make_jaxpr(net.apply)(params, Z, LOGSNR, **told))

  plain = recomputed('none')
  assert recomputed('attention') - plain == 6
  assert recomputed('block') - plain == 2


def checkpoints(jaxpr):
  """How many functions are recomputed, however deep."""
  count = 0
  for equation in jaxpr.eqns:
    count += equation.primitive.name in ('checkpoint', 'remat2')
    for inner in jax.core.jaxprs_in_params(equation.params):
      count += checkpoints(inner)
  return count


@pytest.mark.parametrize('net', NETS.values(), ids=NETS)
def test_init_params_gives_what_a_network_needs(net):
  model = net(**OPTIONS, num_strides=2, num_classes=3)
  make = functools.partial(state.init_params, model, frames=FRAMES, size=SIDE)
  params = jax.eval_shape(make, jax.random.key(0))
  parts = {'conv_extra', 'augment', 'stride', 'label', 'text', 'text2'}
  assert parts | {'tokens', 'tokens2'} < set(params)


@pytest.mark.parametrize(
  ('kwargs', 'given', 'message'),
  [
    ({}, {'text2': None}, 'text2_mask without text2'),
    ({}, {'text2_mask': None}, 'text2_mask is missing'),
    (
      {},
      {'text2': TOLD['text'][:, :, :2]},
      r'text2 of another form.*\[b, s, l, 4\]',
    ),
    ({}, {'text2_mask': jnp.ones((2, 3, 2), bool)}, 'text2_mask does not fit'),
    ({'text2_dim': 0}, {}, 'no parameters for text2 .text2_dim is 0'),
    ({}, {'extra': None}, r'extra is missing.*\(2, 5, 4, 4, 2\)'),
    ({}, {'extra': TOLD['extra'][..., :1]}, r'extra does not fit z.*4, 2\)'),
    ({}, {'extra': TOLD['extra'][:, :3]}, r'extra does not fit z.*4, 2\)'),
    ({'extra_channels': 0}, {}, 'no parameters for extra .extra_channels is 0'),
    ({}, {'augment': None}, 'augment is missing.*log-SNR'),
    ({'augmented': False}, {}, 'no parameters for augment .augmented is 0'),
    ({'extra_channels': -1}, {}, 'extra_channels too small'),
    ({'text_dim': 0, 'text2_dim': 0}, {}, 'cross_attention without text'),
  ],
)
@pytest.mark.parametrize('net', NETS.values(), ids=NETS)
def test_refusals(net, kwargs, given, message):
  init = functools.partial(
    net(**(OPTIONS | kwargs)).init, image_frames=2, **(TOLD | given)
  )
  with pytest.raises(ConfigError, match=message) as info:
    jax.eval_shape(init, jax.random.key(0), Z, LOGSNR)
  assert '\n' not in str(info.value)
