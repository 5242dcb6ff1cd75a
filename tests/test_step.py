"""The training step: the same on every mesh, in parts, and for bad numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vdm_jax import build, conditions, rng, sharding, train
from vdm_jax import state as state_lib
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.data import pipeline


def setup(config, devices):
  """The jitted step, a state with outputs that are not zero, and a batch."""
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  source, told = build.data(config)
  model, tx = build.model(config, told), build.optimizer(config)
  init, abstract = train.make_init(config, model, tx, mesh)
  step = step_lib.make_train_step(
    model.apply,
    tx,
    build.objective(config),
    seed=0,
    ema_decay=0.9,
    accumulate=config.train.accumulate,
  )
  shardings = jax.tree.map(lambda a: a.sharding, abstract)
  batches = pipeline.batches(source, batch_size=8, seed=0)
  shapes = train.batch_shapes(config, told, mesh)

  def batch():
    return train.to_devices(next(batches), shapes)

  return jax.jit(step, out_shardings=(shardings, None)), init(), batch


def run(config, devices, steps):
  step, state, batch = setup(config, devices)
  rows = []
  for _ in range(steps):
    state, metrics = step(state, batch())
    rows.append(jax.device_get(metrics))
  return state, rows


@pytest.fixture(scope='module')
def alone():
  return run(tiny.config(), jax.devices()[:1], 4)


@pytest.mark.slow
@pytest.mark.parametrize('fsdp', [1, 8])
def test_meshes_agree_with_one_device(alone, fsdp):
  state, rows = run(tiny.config(mesh__fsdp=fsdp), jax.devices(), 4)
  for ours, theirs in zip(rows, alone[1], strict=True):
    np.testing.assert_allclose(ours['loss'], theirs['loss'], rtol=1e-6)
    np.testing.assert_allclose(
      ours['grad_norm'], theirs['grad_norm'], rtol=1e-5
    )
  # Adam's second moments are the squared gradients, so they compare those.
  ours, theirs = (jax.tree.leaves(s.opt_state) for s in (state, alone[0]))
  for a, b in zip(ours, theirs, strict=True):
    scale = max(np.abs(x).max() for x in jax.device_get(theirs))
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_fsdp_never_holds_a_whole_kernel():
  state, _ = run(tiny.config(mesh__fsdp=8), jax.devices(), 1)
  whole = split = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    large = sharding.path_name(path).endswith('kernel')
    parts = 8 if large and any(n % 8 == 0 for n in leaf.shape) else 1
    shard = leaf.addressable_shards[0].data.size
    assert shard * parts == leaf.size, path
    if parts == 1:
      whole += leaf.size
    else:
      split += leaf.size
  # Vectors and tables, of a network with eight channels.
  assert whole < 0.15 * split


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
  options = {
    'model__dropout': 0.0,
    'model__labels': True,
    'train__drop__label': 0.5,
  }
  whole = run(tiny.config(**options), jax.devices()[:1], 3)
  parts = run(tiny.config(train__accumulate=4, **options), jax.devices()[:2], 3)
  for a, b in zip(parts[1], whole[1], strict=True):
    np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-5)
    np.testing.assert_allclose(a['grad_norm'], b['grad_norm'], rtol=1e-5)
    np.testing.assert_allclose(4 * a['band_sum'], b['band_sum'], rtol=1e-5)


def test_images_are_trained_on_beside_the_video():
  config = tiny.config(data__images=2, model__labels=True)
  state, rows = run(config, jax.devices()[:1], 2)
  for row in rows:
    parts = 3 * row['loss_video'] + 2 * row['loss_image']
    np.testing.assert_allclose(row['loss'], parts / 5, rtol=1e-5)
    assert row['loss_video'] != row['loss_image']
  assert row['band_count'].sum() == 8 * 5
  assert int(state.step) == 2


# What is drawn to decide lies below 1: no text is kept, and half the labels.
RATES = {'label': 0.5, 'text': 1 - 2**-24}


@pytest.fixture(scope='module')
def told():
  """Makes functions from batches to gradients, and a batch with one image.

  The parameters are not those of the start, where only the last layer learns.
  """
  config = tiny.config(
    text__kind='words',
    text__max_length=8,
    model__labels=True,
    model__dropout=0.0,
    data__images=1,
  )
  source, trained = build.data(config)
  model, objective = build.model(config, trained), build.objective(config)
  params = jax.jit(
    lambda: jax.tree.map(
      lambda p: p + 0.1,
      state_lib.init_params(model, jax.random.key(0), frames=3, size=8),
    )
  )()
  batch = next(pipeline.batches(source, batch_size=8, seed=0))
  names = ('video', *conditions.NAMES)
  batch = {k: jnp.asarray(v) for k, v in batch.items() if k in names}
  batch['index'] = jnp.arange(8)
  batch['logsnr'] = jnp.linspace(-5.0, 5.0, 8)

  def gradients(label=0.0, text=0.0, of=step_lib.part_loss, **options):
    options |= {'drop_label': label, 'drop_text': text}
    return jax.jit(
      lambda batch: jax.grad(of, has_aux=True)(
        params,
        model.apply,
        dataclasses.replace(objective, **options),
        batch,
        noise=rng.stream(0, 'noise'),
        drop=rng.stream(0, 'drop'),
        dropout=rng.stream(0, 'dropout'),
      )[0]
    )

  return gradients, batch


def test_what_a_model_is_never_told_it_does_not_learn(told):
  gradients, batch = told
  of_all, of_some = gradients(), gradients(**RATES)
  learned, grads = of_all(batch), of_some(batch)
  assert all(np.any(g) for g in jax.tree.leaves(learned['text']))
  assert not any(np.any(g) for g in jax.tree.leaves(grads['text']))
  # All else learns on: what to make of a clip without a text.
  del grads['text']
  assert all(np.any(g) for g in jax.tree.leaves(grads))


def test_a_step_leaves_out_what_its_key_says(told):
  gradients, batch = told
  of_all, of_some = gradients(), gradients(**RATES)
  keys = rng.per_example(rng.stream(0, 'drop'), batch['index'])
  dropped = conditions.drop(conditions.choose(batch), keys=keys, **RATES)
  assert 0 < np.sum(dropped['label'] == -1) < dropped['label'].size
  assert not np.any(dropped['text_mask'])

  def assert_close(a, b):
    assert_allclose = np.testing.assert_allclose
    jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-4, 1e-6), a, b)

  grads = of_some(batch)
  assert_close(grads, of_all(batch | dropped))
  with pytest.raises(AssertionError):
    assert_close(grads, of_all(batch | dropped | {'label': batch['label']}))


def video_loss(*args, **options):
  """The loss of the frames of the videos, by themselves."""
  _, report = step_lib.part_loss(*args, **options)
  return report['loss_video'], report


def test_images_of_weight_0_are_not_learned_from(told):
  """Nor do they disturb what is learned of the videos."""
  gradients, batch = told
  pixels = batch['video']
  others = batch | {'video': pixels.at[:, 3:].set(255 - pixels[:, 3:])}
  expected = gradients(of=video_loss)(batch)
  for weight, learned in ((0.0, False), (1.0, True)):
    of = gradients(image_weight=weight)
    same = [
      np.allclose(a, b, rtol=1e-4, atol=1e-6)
      for grads in (of(batch), of(others))
      for a, b in zip(*map(jax.tree.leaves, (grads, expected)), strict=True)
    ]
    assert all(same) != learned


def test_step_that_is_not_finite_changes_no_bit():
  config = tiny.config()
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  model, tx = build.model(config, Conditions()), build.optimizer(config)
  init, _ = train.make_init(config, model, tx, mesh)

  def poisoned(variables, z, logsnr, **options):
    return model.apply(variables, z, logsnr, **options) / 0

  before = init()
  video = jnp.zeros((8, 3, 8, 8, 3), jnp.uint8)
  for apply, finite in ((poisoned, False), (model.apply, True)):
    step = step_lib.make_train_step(
      apply, tx, build.objective(config), seed=0, ema_decay=0.9
    )
    after, metrics = jax.jit(step)(before, {'video': video})
    assert bool(metrics['finite']) == finite
    same = jax.tree.map(
      np.array_equal,
      jax.device_get(before.params),
      jax.device_get(after.params),
    )
    assert all(jax.tree.leaves(same)) == (not finite)
    assert int(after.step) == 1


def test_bytes_survive_the_way_there_and_back():
  every = jnp.arange(256, dtype=jnp.uint8).reshape(1, 1, 16, 16, 1)
  back = step_lib.to_uint8(step_lib.to_float(every))
  np.testing.assert_array_equal(back, every)
