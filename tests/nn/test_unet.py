import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.errors import ConfigError
from vdm_jax.nn.unet import UNet

FRAMES, SIDE = 5, 4


def unet(**kwargs):
  arguments = {
    'channels': 8,
    'multipliers': (1, 2),
    'blocks': 1,
    'attention_resolutions': (2,),
    'head_dim': 8,
    'emb_dim': 16,
    'num_classes': 3,
    'groups': 4,
  }
  return UNet(**(arguments | kwargs))


def video(seed=0, frames=FRAMES, batch=2, side=SIDE):
  return jax.random.normal(jax.random.key(seed), (batch, frames, side, side, 3))


LOGSNR = jnp.array([[0.5] * FRAMES, [-1.0] * FRAMES])
LABEL = jnp.array([[2] * FRAMES, [-1] * FRAMES])


# Compiling takes longer than running: leave out what makes code fast.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


@pytest.fixture(scope='module')
def params(randomize):
  return randomize(unet(), video(), LOGSNR)


@functools.lru_cache
def program(image_frames=0, **kwargs):
  """One compilation for each network and shape."""
  net = unet(**kwargs)

  def apply(params, z, logsnr, label):
    return net.apply(params, z, logsnr, label=label, image_frames=image_frames)

  return jit(apply)


def forward(image_frames=0, **kwargs):
  def apply(params, z, logsnr=LOGSNR, label=LABEL):
    return program(image_frames, **kwargs)(params, z, logsnr, label)

  return apply


def differs(a, b):
  """Which frames of a and b are not the same bits."""
  return (np.asarray(a) != np.asarray(b)).any((0, 2, 3, 4))


def without_temporal(params):
  if not isinstance(params, dict):
    return params
  return {
    name: without_temporal(child)
    for name, child in params.items()
    if name != 'temporal'
  }


def silence_temporal(params):
  """Zero output projections: temporal attention as initialised."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      jnp.zeros_like(leaf)
      if 'temporal' in str(path) and "'out'" in str(path)
      else leaf
    ),
    params,
  )


def test_output_is_float32_zero_at_initialisation():
  params = jit(unet().init)(jax.random.key(0), video(), LOGSNR)
  for dtype in (jnp.float32, jnp.bfloat16):
    y = forward(dtype=dtype)(params, video())
    np.testing.assert_array_equal(y, np.zeros((2, FRAMES, SIDE, SIDE, 3)))
    assert y.dtype == jnp.float32


def test_parameters_are_float32_under_bf16():
  init = unet(dtype=jnp.bfloat16).init
  shapes = jax.eval_shape(init, jax.random.key(0), video(), LOGSNR)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.float32.dtype}


@pytest.mark.parametrize('mode', ['self_attend', 'bypass'])
def test_images_and_video_do_not_touch_to_the_bit(params, mode):
  net = forward(2, image_mode=mode)
  z = video()
  y = net(params, z)
  changed = net(params, z.at[:, 3].add(1.0))
  np.testing.assert_array_equal(differs(y, changed), np.arange(FRAMES) == 3)
  changed = net(params, z.at[:, 0].add(1.0))
  np.testing.assert_array_equal(differs(y, changed), np.arange(FRAMES) < 3)


def test_unpacked_video_frames_do_touch(params):
  """Negative control: one changed frame reaches all the others."""
  z = video()
  y = forward()(params, z)
  assert differs(y, forward()(params, z.at[:, 3].add(1.0))).all()


def test_images_permute(params):
  net = forward(3)
  z, order = video(), np.array([0, 1, 4, 2, 3])
  logsnr = jnp.array([[0.5, 0.5, 1.0, -1.0, 3.0], [-2.0, -2.0, 0.0, 1.0, 2.0]])
  label = jnp.array([[0, 0, 1, 2, -1], [1, 1, 2, 0, 0]])
  y = net(params, z, logsnr, label)
  moved = net(params, z[:, order], logsnr[:, order], label[:, order])
  np.testing.assert_allclose(moved, y[:, order], atol=1e-5)
  # Negative control: frames of a video do not permute.
  y = forward()(params, z, logsnr, label)
  moved = forward()(params, z[:, order], logsnr[:, order], label[:, order])
  assert np.abs(moved - y[:, order]).max() > 0.01


def test_packed_images_are_videos_of_one_frame(params):
  z = video()
  packed = forward(FRAMES)(params, z)
  single = forward()(
    params,
    z.reshape(-1, 1, SIDE, SIDE, 3),
    LOGSNR.reshape(-1, 1),
    LABEL.reshape(-1, 1),
  )
  np.testing.assert_allclose(packed, single.reshape(z.shape), atol=1e-4)


def test_packed_video_is_the_video_alone(params):
  z = video()
  packed = forward(2)(params, z)
  alone = forward()(params, z[:, :3], LOGSNR[:, :3], LABEL[:, :3])
  np.testing.assert_allclose(packed[:, :3], alone, atol=1e-4)


def test_bypassed_images_are_the_network_without_time(params):
  packed = forward(FRAMES, image_mode='bypass')(params, video())
  image = forward(temporal=False)(without_temporal(params), video())
  np.testing.assert_allclose(packed, image, atol=1e-4)


def test_inflated_network_starts_as_the_image_network(params):
  quiet, z = silence_temporal(params), video()
  inflated = forward()(quiet, z)
  image = forward(temporal=False)(without_temporal(params), z)
  np.testing.assert_array_equal(inflated, image)
  assert np.abs(image).max() > 0.1
  changed = forward()(quiet, z.at[:, 3].add(1.0))
  np.testing.assert_array_equal(
    differs(inflated, changed), np.arange(FRAMES) == 3
  )
  # Negative control: with temporal outputs the two are different networks.
  assert np.abs(forward()(params, z) - image).max() > 0.01


def test_no_gradient_of_the_image_loss_reaches_the_video(params):
  call = functools.partial(unet().apply, label=LABEL, image_frames=2)

  @jit
  def gradient(z):
    return jax.grad(lambda z: (call(params, z, LOGSNR)[:, 3:] ** 2).sum())(z)

  grads = gradient(video())
  np.testing.assert_array_equal(grads[:, :3], np.zeros_like(grads[:, :3]))
  assert np.abs(grads[:, 3:]).max() > 0


def test_conditions_act_frame_by_frame(params):
  """On images, so that attention does not spread the change."""
  net = forward(FRAMES)
  z = video()
  y = net(params, z)
  hit = np.arange(FRAMES) == 1
  changed = net(params, z, LOGSNR.at[:, 1].add(1.0))
  np.testing.assert_array_equal(differs(y, changed), hit)
  changed = net(params, z, LOGSNR, LABEL.at[:, 1].set(0))
  np.testing.assert_array_equal(differs(y, changed), hit)


def test_one_condition_for_all_frames_is_that_of_each(params):
  y = forward()(params, video())
  z = forward()(params, video(), LOGSNR[:, 0], LABEL[:, 0])
  np.testing.assert_allclose(y, z, atol=1e-4)


def test_null_label_is_a_network_without_labels(params):
  unlabelled = {
    'params': {k: v for k, v in params['params'].items() if k != 'label'}
  }
  y = forward(num_classes=0)(unlabelled, video(), LOGSNR, None)
  null = forward()(params, video(), LOGSNR, jnp.full_like(LABEL, -1))
  np.testing.assert_allclose(null, y, atol=1e-4)
  none = forward()(params, video(), LOGSNR, None)
  np.testing.assert_allclose(none, y, atol=1e-4)
  other = forward()(params, video(), LOGSNR, jnp.zeros_like(LABEL))
  assert np.abs(other - y).max() > 0.01


@pytest.fixture(scope='module')
def gradient(randomize):
  """Of one level, in training: program text and gradients, given remat."""
  small = {'multipliers': (1,), 'attention_resolutions': (), 'dropout': 0.2}
  params = randomize(unet(**small), video(), LOGSNR)

  @functools.lru_cache
  def evaluate(remat):
    net = unet(remat=remat, **small)
    call = functools.partial(net.apply, label=LABEL, image_frames=2, train=True)

    def loss(params):
      y = call(params, video(), LOGSNR, rngs={'dropout': jax.random.key(3)})
      return (y**2).sum()

    lowered = jit(jax.grad(loss)).lower(params)
    return lowered.as_text(), lowered.compile()(params)

  return evaluate


@pytest.mark.parametrize('remat', ['attention', 'block'])
def test_remat_changes_no_gradient(gradient, remat):
  plain, expected = gradient('none')
  text, grads = gradient(remat)
  barriers = [x.count('optimization_barrier') for x in (plain, text)]
  assert barriers[0] < barriers[1]
  assert jax.tree.structure(grads) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (grads, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * (np.abs(b).max() + 1e-6))


def test_bf16_follows_float32(params):
  y = forward()(params, video())
  z = forward(dtype=jnp.bfloat16)(params, video())
  error = jnp.sqrt(jnp.mean((y - z) ** 2) / jnp.mean(y**2))
  assert 1e-4 < error < 0.05


def test_residual_resampling_has_residual_blocks_and_runs(randomize):
  kwargs = {'resample': 'residual', 'attention_resolutions': ()}
  params = randomize(unet(**kwargs), video(), LOGSNR)
  for name in ('down_1_resample', 'up_1_resample'):
    assert set(params['params'][name]) == {'res'}
  y = forward(**kwargs)(params, video())
  assert y.shape == video().shape
  assert np.abs(y).max() > 0.01


def count(shape, **kwargs):
  """Millions of parameters, without allocating any."""
  arguments = {
    'attention_resolutions': (8, 16, 32),
    'head_dim': 64,
    'emb_dim': 1024,
    'num_classes': 0,
    'groups': 32,
  }
  net = unet(**(arguments | kwargs))
  z = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
  logsnr = jax.ShapeDtypeStruct((1,), jnp.float32)
  tree = jax.eval_shape(net.init, jax.random.key(0), z, logsnr)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6


@pytest.mark.parametrize(
  ('millions', 'channels', 'multipliers', 'blocks', 'emb_layers'),
  [
    pytest.param(1167.7, 256, (1, 2, 4, 8), 2, 4, id='ucf101'),
    pytest.param(148.4, 128, (1, 2, 3, 4), 3, 2, id='bair'),
    pytest.param(1165.6, 256, (1, 2, 4, 8), 2, 2, id='kinetics600'),
    pytest.param(306.4, 128, (1, 2, 4, 8), 2, 4, id='text_small'),
  ],
)
def test_sizes_of_ho22(millions, channels, multipliers, blocks, emb_layers):
  """Appendix A at 16×64×64; text_large is ucf101's network."""
  size = count(
    (16, 64, 64),
    channels=channels,
    multipliers=multipliers,
    blocks=blocks,
    emb_layers=emb_layers,
  )
  assert size == pytest.approx(millions, rel=5e-3)


def test_size_of_ho22_at_9x128x128():
  size = count(
    (9, 128, 128),
    channels=128,
    multipliers=(1, 2, 4, 8, 16),
    blocks=2,
    emb_layers=4,
    head_dim=128,
  )
  assert size == pytest.approx(1171.2, rel=5e-3)


@pytest.mark.parametrize(
  ('millions', 'channels', 'multipliers'),
  [
    (69, 128, (1, 2, 2, 3)),
    (112, 128, (1, 2, 3, 4)),
    (253, 192, (1, 2, 3, 4)),
  ],
)
def test_sizes_of_ge23(millions, channels, multipliers):
  size = count(
    (16, 64, 64),
    channels=channels,
    multipliers=multipliers,
    blocks=2,
    emb_dim=4 * channels,
    resample='residual',
    image_mode='bypass',
  )
  assert size == pytest.approx(millions, rel=1e-2)


@pytest.mark.parametrize(
  ('kwargs', 'shape', 'message'),
  [
    ({}, (5, 9, 8, 3), 'multiples of 2.*9x8.*use 8x8'),
    ({'multipliers': (1, 2, 2)}, (5, 2, 8, 3), 'multiples of 4.*use 4x8'),
    ({}, (5, 0, 8, 3), 'multiples of 2'),
    ({'groups': 5}, (5, 8, 8, 3), 'groups must divide.*use 4'),
    ({'groups': 12}, (5, 8, 8, 3), 'groups must divide.*24.*use 8'),
    ({'head_dim': 5}, (5, 8, 8, 3), 'head_dim must divide.*divisor of 16'),
    ({'attention_resolutions': (3,)}, (5, 8, 8, 3), r'choose from \[8, 4\]'),
    ({'resample': 'conv'}, (5, 8, 8, 3), "'plain', 'residual'"),
    ({'image_mode': 'mask'}, (5, 8, 8, 3), "'self_attend', 'bypass'"),
    ({'remat': 'all'}, (5, 8, 8, 3), "'none', 'attention', 'block'"),
    ({'emb_layers': 0}, (5, 8, 8, 3), 'emb_layers too small'),
    ({'dropout': 1.0}, (5, 8, 8, 3), 'dropout out of range'),
    ({'channels': 7}, (5, 8, 8, 3), 'channels must be even'),
    ({'multipliers': ()}, (5, 8, 8, 3), 'multipliers must be positive'),
  ],
)
def test_refusals_say_what_would_work(kwargs, shape, message):
  with pytest.raises(ConfigError, match=message) as info:
    unet(**({'attention_resolutions': (4,)} | kwargs)).validate(shape)
  assert '\n' not in str(info.value)


@pytest.mark.parametrize('groups', [1, 2, 4, 8])
def test_groups_that_validate_run(groups):
  net = unet(groups=groups)
  net.validate(video().shape[1:])
  jax.eval_shape(net.init, jax.random.key(0), video(), LOGSNR)


def test_refusals_of_calls(params):
  with pytest.raises(ConfigError, match=r'image_frames.*use 0 to 5'):
    unet().validate(video().shape[1:], image_frames=6)
  with pytest.raises(ConfigError, match='num_classes'):
    forward(num_classes=0)(params, video(), LOGSNR, LABEL)
