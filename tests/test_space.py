"""One video on several devices: each has a slab of its rows.

The network has all that is done to maps: resampling, attention over space and
time, temporal convolutions, and a condition of half the resolution.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.standins import random_params
from vdm_jax import build, errors, generate, rng, sharding, train
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.state import create

FRAMES, SIZE = 3, 16
CLASSES = Conditions(classes=('a', 'b'))
MESHES = ((1, 1), (1, 2), (2, 4))  # data, space


def config(**overrides):
  base = {
    'data__size': SIZE,
    'data__images': 1,
    'model__kind': 'efficient',
    'model__multipliers': (1,),
    'model__attention_resolutions': (8,),
    'model__temporal_convolution': True,
    'model__dropout': 0.0,
    'refine__kind': 'upsample',
    'refine__factor': 2,
    'diffusion__prior': 'progressive',
    'diffusion__prior_alpha': 2.0,
    'model__labels': True,
    'train__batch_size': 2,
    'sample__batch_size': 2,
  }
  return tiny.config(**(base | overrides))


def mesh(data, space):
  devices = jax.devices()[: data * space]
  return sharding.make_mesh(data, 1, devices, space=space)


def batch(frames):
  pixels = np.random.default_rng(0)
  shape = (2, frames, SIZE, SIZE, 3)
  labels = np.zeros((2, 1 + frames - FRAMES), np.int32)
  return {
    'video': pixels.integers(0, 256, shape, np.uint8),
    'label': labels if frames > FRAMES else labels[:, 0],
  }


def parameters(c):
  net = build.model(c, CLASSES)
  return net, random_params(net, frames=FRAMES, size=c.refine.crop or SIZE)


def trained(c, data, space):
  """The metrics of a step, its gradient, and whether videos are spread."""
  net, params = parameters(c)
  on = mesh(data, space)
  step = step_lib.make_train_step(
    net.apply,
    build.optimizer(c),
    build.objective(c),
    seed=0,
    ema_decay=0.9,
    place=sharding.video_sharding(on),
  )
  shapes = train.batch_shapes(c, CLASSES, on)
  state = jax.device_put(
    create(params, build.optimizer(c)), sharding.replicated(on)
  )
  compiled = jax.jit(step).lower(state, shapes).compile()
  new, metrics = compiled(state, train.to_devices(batch(FRAMES + 1), shapes))
  # Adam's second moments are the squared gradients.
  moments = jax.tree.leaves(jax.device_get(new.opt_state))
  memory = compiled.memory_analysis().temp_size_in_bytes
  return jax.device_get(metrics), moments, memory


@pytest.mark.slow
def test_a_training_step_does_not_depend_on_space():
  """On crops, which each device has to cut out of what the others hold."""
  c = config(refine__crop=8, model__attention_resolutions=(4,))
  alone, moments, memory = trained(c, 1, 1)
  assert alone['finite'] and alone['grad_norm'] > 0.1
  scale = max(np.abs(m).max() for m in moments)
  data, space = MESHES[-1]
  spread, others, less = trained(c, data, space)
  for name in ('loss', 'grad_norm', 'loss_video', 'loss_image'):
    np.testing.assert_allclose(spread[name], alone[name], rtol=1e-5)
  for a, b in zip(others, moments, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)
  # That is what it is for: the activations of a device are fewer.
  assert less < 1.6 * memory / (data * space)


def test_a_sample_does_not_depend_on_space():
  c = config(sample__steps=2)
  net, params = parameters(c)
  told = batch(FRAMES)
  low = told.pop('video')[:, :, ::2, ::2]
  keys = rng.per_example(rng.stream(0, 'sample'), jnp.arange(2))
  found = {}
  for data, space in MESHES:
    draw = generate.Generator(c, net, mesh(data, space))
    assert draw.batch_size == 2
    found[data, space] = draw(
      jax.device_put(params, sharding.replicated(mesh(data, space))),
      keys=keys,
      told=told,
      low=low,
      steps=2,
    ).astype(int)
  alone = found[1, 1]
  assert alone.std() > 10
  for videos in found.values():
    assert np.abs(videos - alone).max() <= 1  # the rounding of a grey level
    assert np.mean(videos != alone) < 0.01


def test_latents_lie_in_slabs_and_conditions_do_not():
  on = mesh(2, 4)
  video = sharding.video_sharding(on).shard_shape((2, 3, 16, 16, 3))
  assert video == (1, 3, 4, 16, 3)
  assert sharding.batch_sharding(on).shard_shape((2, 5)) == (1, 5)
  assert sharding.batch_shards(on) == 2
  sharding.check_batch(on, 2)
  shapes = train.batch_shapes(config(), CLASSES, on)
  for name, shape in shapes.items():
    rows = shape.sharding.shard_shape(shape.shape)
    slab = (3 + 1, 4, 16, 3) if name == 'video' else shape.shape[1:]
    assert rows == (1, *slab)


@pytest.mark.parametrize(
  'space, message',
  [
    (3, 'space is 3, which does not divide 8'),
    (0, 'space is 0'),
    (16, 'space is 16, which'),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(space, message):
  with pytest.raises(errors.ConfigError, match=message) as caught:
    sharding.make_mesh(space=space)
  assert '; set it to one of 1, 2, 4, 8' in str(caught.value)


def test_data_and_fsdp_share_what_space_leaves():
  on = sharding.make_mesh(-1, 2, space=2)
  assert dict(on.shape) == {'data': 2, 'fsdp': 2, 'space': 2}
  with pytest.raises(errors.ConfigError, match=r'3×1 with space 2 .* 4×1, 2×2'):
    sharding.make_mesh(3, 1, space=2)


def test_maps_that_do_not_split_are_refused():
  """The maps have 8 rows here, and halved again by a second level 4."""
  net = build.model(config(), CLASSES)
  sharding.check_space(mesh(1, 8), net, SIZE)
  deep = build.model(config(model__multipliers=(1, 1)), CLASSES)
  with pytest.raises(errors.ConfigError, match='use one of 1, 2, 4') as caught:
    sharding.check_space(mesh(1, 8), deep, SIZE)
  assert '\n' not in str(caught.value)
  with pytest.raises(errors.ConfigError, match=r'mesh\.space is 8'):
    generate.Generator(config(), deep, mesh(1, 8))
