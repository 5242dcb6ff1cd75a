import functools

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
LABEL = jnp.array([2, -1])


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
  net = unet(dtype=jnp.bfloat16, text_dim=6, num_strides=2)
  init = functools.partial(net.init, stride=jnp.zeros(2, int))
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
  label, slots = (
    jnp.array([[0, 1, 2, -1], [1, 2, 0, 0]]),
    np.array([0, 3, 1, 2]),
  )
  y = net(params, z, logsnr, label)
  moved = net(params, z[:, order], logsnr[:, order], label[:, slots])
  np.testing.assert_allclose(moved, y[:, order], atol=1e-5)
  # Negative control: frames of a video do not permute.
  y = forward()(params, z, logsnr)
  moved = forward()(params, z[:, order], logsnr[:, order])
  assert np.abs(moved - y[:, order]).max() > 0.01


def test_packed_images_are_videos_of_one_frame(params):
  z = video()
  packed = forward(FRAMES)(params, z)
  single = forward()(
    params,
    z.reshape(-1, 1, SIDE, SIDE, 3),
    LOGSNR.reshape(-1, 1),
    jnp.repeat(LABEL, FRAMES),
  )
  np.testing.assert_allclose(packed, single.reshape(z.shape), atol=1e-4)


def test_packed_video_is_the_video_alone(params):
  z = video()
  packed = forward(2)(params, z)
  alone = forward()(params, z[:, :3], LOGSNR[:, :3])
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


def test_frame_positions_tell_equal_frames_apart(randomize):
  told = {'frame_positions': True, 'multipliers': (1,), 'num_classes': 0}
  told |= {'attention_resolutions': (), 'temporal': False}
  z = jnp.tile(video(frames=1), (1, FRAMES, 1, 1, 1))
  params = randomize(unet(**told), z, LOGSNR[:, 0])

  def apply(params, image_frames, **kwargs):
    net = unet(**(told | kwargs))
    return jit(
      lambda z: net.apply(
        {'params': params}, z, LOGSNR[:, 0], image_frames=image_frames
      )
    )(z)

  frames = apply(params['params'], 2)
  first = np.broadcast_to(frames[:, :1], frames.shape)
  np.testing.assert_array_equal(
    differs(frames, first), [False, True, True, False, False]
  )
  # Negative control: nothing else tells them apart.
  other = {k: v for k, v in params['params'].items() if k != 'frame'}
  alike = apply(other, 2, frame_positions=False)
  assert not differs(alike, alike[:, ::-1]).any()


def test_no_gradient_of_the_image_loss_reaches_the_video(params):
  call = functools.partial(unet().apply, label=LABEL, image_frames=2)

  @jit
  def gradient(z):
    return jax.grad(lambda z: (call(params, z, LOGSNR)[:, 3:] ** 2).sum())(z)

  grads = gradient(video())
  np.testing.assert_array_equal(grads[:, :3], np.zeros_like(grads[:, :3]))
  assert np.abs(grads[:, 3:]).max() > 0


def test_log_snr_acts_frame_by_frame(params):
  """On images, so that attention does not spread the change."""
  net, z = forward(FRAMES), video()
  changed = net(params, z, LOGSNR.at[:, 1].add(1.0))
  hit = differs(net(params, z), changed)
  np.testing.assert_array_equal(hit, np.arange(FRAMES) == 1)


def test_one_condition_for_all_frames_is_that_of_each(params):
  y = forward()(params, video())
  z = forward()(params, video(), LOGSNR[:, 0], LABEL[:, None])
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


# Words or token embeddings: a video of three frames and two images, each with
# conditions of its own.
KINDS = {'words': {'vocabulary': 5}, 'tokens': {'text_dim': 6}}
TOLD = {'multipliers': (1,), 'attention_resolutions': (), 'num_strides': 2}
LENGTHS = np.array([[4, 2, 3], [1, 4, 2]])
MASK = jnp.array(np.arange(4) < LENGTHS[..., None])
TEXT = {
  'words': jax.random.randint(jax.random.key(5), MASK.shape, 1, 6),
  'tokens': jax.random.normal(jax.random.key(6), (*MASK.shape, 6)),
}
SLOTS = ('label', 'text', 'text_mask')
NULL = {'label': jnp.full((2, 3), -1), 'text_mask': jnp.zeros_like(MASK)}


class Told:
  """A network of one level with all the conditions."""

  def __init__(self, kind, randomize):
    self.net = unet(**TOLD, **KINDS[kind])
    self.stride = jnp.array([0, 1])
    self.params = randomize(self.net, video(), LOGSNR, stride=self.stride)
    self.slots = {
      'label': jnp.array([[0, 1, 2], [2, -1, 0]]),
      'text': TEXT[kind],
      'text_mask': MASK,
    }
    self.programs = {}

  def __call__(self, z=None, logsnr=LOGSNR, image_frames=2, **changed):
    """The output under the slots, but for those that are changed."""
    if image_frames not in self.programs:
      apply = functools.partial(self.net.apply, image_frames=image_frames)
      self.programs[image_frames] = jit(apply)
    conditions = {'stride': self.stride} | self.slots | changed
    z = video() if z is None else z
    return self.programs[image_frames](self.params, z, logsnr, **conditions)

  def some(self, index):
    """Some of the slots."""
    return {name: value[:, index] for name, value in self.slots.items()}


@pytest.fixture(scope='module', params=KINDS)
def told(request, randomize):
  return Told(request.param, randomize)


def test_empty_text_is_no_text_to_the_bit(told):
  none = told(text=None, text_mask=None)
  np.testing.assert_array_equal(told(text_mask=NULL['text_mask']), none)
  assert np.abs(told() - none).max((0, 2, 3, 4)).min() > 0.01


def test_empty_text_is_a_network_without_text(told):
  untold = {k: v for k, v in told.params['params'].items() if k != 'text'}
  net = jit(functools.partial(unet(**TOLD).apply, image_frames=2))
  given = {'label': told.slots['label'], 'stride': told.stride}
  y = net({'params': untold}, video(), LOGSNR, **given)
  np.testing.assert_allclose(told(text_mask=NULL['text_mask']), y, atol=1e-4)


@pytest.mark.parametrize('name', SLOTS)
def test_conditions_of_a_slot_touch_no_other(told, name):
  y, value = told(), told.slots[name]
  for slot, frames in enumerate([(0, 1, 2), (3,), (4,)]):
    changed = value.at[:, slot].set(value[::-1, slot])
    hit = differs(y, told(**{name: changed}))
    np.testing.assert_array_equal(hit, np.isin(np.arange(FRAMES), frames))


def test_one_slot_and_the_stride_touch_all_frames(told):
  """Negative control of the test above."""
  one = told.some(slice(1))
  other = one | {'text': one['text'][::-1]}
  assert differs(told(**one), told(**other)).all()
  assert differs(told(), told(stride=told.stride[::-1])).all()


def test_one_slot_is_the_same_in_each(told):
  each = told.some(np.zeros(3, int))
  np.testing.assert_allclose(
    told(**told.some(slice(1))), told(**each), atol=1e-5
  )


def test_slots_are_videos_of_their_own(told):
  """The video alone, and each image as a video of one frame."""
  z, y = video(), told()
  alone = told(z[:, :3], LOGSNR[:, :3], 0, **told.some(slice(1)))
  np.testing.assert_allclose(y[:, :3], alone, atol=1e-4)
  for image in (1, 2):
    frame = slice(2 + image, 3 + image)
    slot = told.some(slice(image, image + 1))
    alone = told(z[:, frame], LOGSNR[:, frame], 0, **slot)
    np.testing.assert_allclose(y[:, frame], alone, atol=1e-4)


@pytest.mark.parametrize('stride', [2, -1])
def test_stride_out_of_range_is_nan(told, stride):
  y = told(stride=jnp.array([1, stride]))
  assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


def test_dropped_conditions_still_train_the_rest(told):
  """What guidance asks of training: the null condition gets gradients."""

  @jit
  def gradient(params, **conditions):
    def loss(params):
      y = told.net.apply(params, video(), LOGSNR, image_frames=2, **conditions)
      return (y**2).mean()

    return jax.grad(loss)(params)

  def trained(**changed):
    conditions = {'stride': told.stride} | told.slots | changed
    grads = gradient(told.params, **conditions)['params']
    sizes = {
      name: max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))
      for name, tree in grads.items()
    }
    assert np.isfinite(list(sizes.values())).all()
    return {name for name, size in sizes.items() if size > 0}

  everything = set(told.params['params'])
  assert {'text', 'label', 'stride', 'emb'} < everything
  assert trained() == everything
  assert trained(**NULL) == everything - {'text', 'label'}


def test_conditions_add_parameters_and_change_none():
  def shapes(**kwargs):
    stride = jnp.zeros(2, int) if 'num_strides' in kwargs else None
    init = functools.partial(unet(**kwargs).init, stride=stride)
    return jax.eval_shape(init, jax.random.key(0), video(), LOGSNR)['params']

  plain = shapes()
  for kind in KINDS.values():
    told = shapes(num_strides=2, **kind)
    parts = {'norm', 'key', 'value', 'query', 'out'}
    words = {'embedding'} if 'vocabulary' in kind else set()
    assert set(told.pop('text')) == parts | words
    assert told.pop('stride')['embedding'].shape == (2, 16)
    assert told == plain


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
    ({'num_strides': -1}, (5, 8, 8, 3), 'num_strides too small'),
    ({'text_dim': 6, 'vocabulary': 5}, (5, 8, 8, 3), 'either words or embedd'),
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


def test_image_frames_out_of_range_are_refused():
  with pytest.raises(ConfigError, match=r'image_frames.*use 0 to 5'):
    unet().validate(video().shape[1:], image_frames=6)


@pytest.mark.parametrize(
  ('kwargs', 'given', 'message'),
  [
    (
      {'num_classes': 0},
      {'label': LABEL},
      'no parameters for label.*num_class',
    ),
    ({}, {'text': TEXT['words']}, 'no parameters for text .*set vocabulary or'),
    ({}, {'stride': LABEL}, 'no parameters for stride.*num_strides'),
    ({'num_strides': 2}, {}, 'stride is missing.*give 0 to 1'),
    ({}, {'text_mask': MASK}, 'text_mask without text'),
    (KINDS['words'], {'text': TEXT['tokens']}, 'another form.*give word ids'),
    (
      KINDS['tokens'],
      {'text': TEXT['words']},
      r'give embeddings \[b, s, l, 6\]',
    ),
    (KINDS['tokens'], {'text': TEXT['tokens'][..., :5]}, 'give embeddings'),
    (KINDS['tokens'], {'text': TEXT['tokens']}, 'text_mask is missing'),
    (
      KINDS['words'],
      {'text': TEXT['words'], 'text_mask': MASK[:, :1]},
      r'does not fit.*give \(2, 3, 4\)',
    ),
    (KINDS['words'], {'text': TEXT['words'][:, :2]}, 'text must.*use 1 or 3'),
    ({}, {'label': jnp.zeros((2, FRAMES), int)}, 'label must.*got 5.*1 or 3'),
  ],
)
def test_refusals_of_conditions(kwargs, given, message):
  init = functools.partial(unet(**kwargs).init, image_frames=2, **given)
  with pytest.raises(ConfigError, match=message) as info:
    jax.eval_shape(init, jax.random.key(0), video(), LOGSNR)
  assert '\n' not in str(info.value)
