"""Training of the network of shapes: truths, repeatability, and its use."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vdm_jax import errors, feature_clips, main, sharding, train_features
from vdm_jax.data import shapes
from vdm_jax.metrics import filling, shapes_network
from vdm_jax.metrics.controls import controlled
from vdm_jax.metrics.frechet import frechet_distance
from vdm_jax.metrics.shapes_network import ORDERS, TRUTH

SHORT = train_features.Recipe(
  seed=0,
  frames=4,
  clips=16,
  steps=3,
  batch_size=8,
  learning_rate=3e-3,
  warmup=1,
)


def mesh(devices=1):
  return sharding.make_mesh(devices=jax.devices()[:devices])


def parts(truth):
  """The numbers of TRUTH by name."""
  ends = np.cumsum(list(TRUTH.values()))
  return dict(zip(TRUTH, np.split(truth, ends[:-1], axis=-1), strict=True))


@pytest.fixture(scope='module')
def trained():
  return train_features.train_network(SHORT, mesh(), quiet=True)


@pytest.fixture(scope='module')
def pool():
  return feature_clips.draw(64, frames=6, seed=0, quiet=True)


@pytest.fixture(scope='module')
def varied(pool):
  keys = jax.random.split(jax.random.key(0), 256)
  made = jax.jit(jax.vmap(feature_clips.vary, (0, None)))(keys, pool)
  return jax.tree.map(np.asarray, made)


def cover(varied):
  """Per pixel and frame, how much is thing: 0 on the ground, 1 inside."""
  contrast = varied['video'] - np.array(shapes.BACKGROUND) / 127.5 + 1
  paint = parts(varied['truth'])['colour'] - np.array(shapes.BACKGROUND) / 127.5
  paint = (paint + 1)[:, None, None, None]
  return (contrast * paint).sum(axis=-1) / np.square(paint).sum(axis=-1)


def test_truth_is_what_the_pixels_show(varied):
  truth, light = parts(varied['truth']), cover(varied)
  # Clear ones: hardly any noise, and far from the colour of the ground.
  bright = np.abs(truth['colour'] + 1).sum(axis=-1) > 1.5
  clear = (truth['noise'][:, 0] < 0.01) & bright & (varied['shape'] < 2)
  assert clear.sum() > 20
  x = (np.arange(16) + 0.5) / 16
  mass = light.sum(axis=(2, 3))
  place = np.stack(
    [light.sum(axis=2) @ x / mass, light.sum(axis=3) @ x / mass], axis=-1
  )[clear]
  truth = {k: v[clear] for k, v in truth.items()}
  moves = np.diff(place, axis=1)
  near = {'atol': 0.02}
  np.testing.assert_allclose(place.mean(axis=1), truth['place'], **near)
  np.testing.assert_allclose(place.std(axis=1), truth['spread'], **near)
  np.testing.assert_allclose(moves.mean(axis=1), truth['drift'], **near)
  np.testing.assert_allclose(np.abs(moves).mean(axis=1), truth['speed'], **near)
  area = mass[clear].mean(axis=1) / 256
  side = np.where(varied['shape'][clear] == 0, np.pi, 4.0)
  np.testing.assert_allclose(
    np.sqrt(area / side), truth['radius'][:, 0], **near
  )


def test_noise_is_that_of_the_truth(pool):
  grey = dataclasses.replace(pool, video=jnp.full_like(pool.video, 128))
  keys = jax.random.split(jax.random.key(1), 256)
  made = jax.jit(jax.vmap(feature_clips.vary, (0, None)))(keys, grey)
  made = jax.tree.map(np.asarray, made)
  noise = parts(made['truth'])['noise'][:, 0]
  mean = made['video'].mean(axis=(1, 2, 3))
  clear = (np.abs(mean).max(axis=-1) < 0.3) & (noise > 0.02)
  assert clear.sum() > 20 and noise.max() > 0.15
  found = made['video'][clear].std(axis=(1, 2, 3)).mean(axis=-1)
  np.testing.assert_allclose(found, noise[clear], rtol=0.06)


def test_every_order_is_drawn_and_is_what_it_says():
  numbers = jax.jit(
    jax.vmap(feature_clips.frame_numbers, (0, None, None)), static_argnums=2
  )
  for order, name in enumerate(ORDERS):
    keys = jax.random.split(jax.random.key(order), 50)
    found = np.asarray(numbers(keys, order, 6))
    assert found.min() >= 0 and found.max() < 12
    steps = np.diff(found, axis=1)
    if name == 'played':
      assert (steps == steps[:, :1]).all()
      assert set(steps[:, 0]) == {-2, -1, 1, 2}
    elif name == 'frozen':
      assert not steps.any()
    elif name == 'shuffled':
      assert all(len(set(row)) == 6 for row in found.tolist())
    else:
      size = np.abs(steps)
      assert (size == size[:, :1]).all() and size.all()
      assert (np.sign(steps) != np.sign(steps[:, :1])).any(axis=1).all()


def equal(one, two):
  leaves = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  return all(a.tobytes() == b.tobytes() for a, b in leaves)


def test_same_seed_same_bits(trained):
  again, other = (
    train_features.train_network(
      dataclasses.replace(SHORT, seed=seed), mesh(), quiet=True
    )
    for seed in (0, 1)
  )
  assert equal(trained, again)
  assert not equal(trained, other)
  assert trained['deviation'].min() > 0 and (trained['deviation'] != 1).any()


def config(**changes):
  """The settings of SHORT."""
  return tiny.config(
    data__frames=4,
    data__size=16,
    train__steps=3,
    optim__learning_rate=3e-3,
    optim__warmup=1,
    **changes,
  )


def test_the_weights_written_can_be_read(
  trained, monkeypatch, capsys, tmp_path
):
  monkeypatch.setattr(train_features, 'CLIPS', SHORT.clips)
  monkeypatch.setattr(train_features, 'CONTROLS', 8)
  train_features.run(config(), tmp_path, devices=jax.devices()[:1])
  printed = capsys.readouterr()
  path = tmp_path / train_features.FILE
  assert 'step 3/3 | loss' in printed.err and str(path) in printed.out
  lines = [line.split() for line in printed.out.splitlines()[1:]]
  assert ['real', '100.0%'] in [[line[0], line[-1]] for line in lines]
  params, metadata = filling.load(path, shapes_network.NAME, trained)
  assert equal(params, trained)
  assert train_features.Recipe(**json.loads(metadata['source'])) == SHORT
  assert metadata['sha256'] == SHORT.sha256
  before = path.read_bytes()
  with pytest.raises(errors.CheckpointError, match='already'):
    train_features.run(config(), tmp_path, devices=jax.devices()[:1])
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  'option, mend',
  [
    ('data.size=32', '32 pixels'),
    ('data.stride=2', 'stride 2'),
    ('data.source=ucf101', 'ucf101'),
    ('data.frames=3', '4 or more'),
    ('train.batch_size=12', '16'),
  ],
)
def test_what_cannot_be_learnt_is_refused(
  option, mend, monkeypatch, capsys, tmp_path
):
  argv = [
    'main.py',
    '--mode=features',
    '--config=configs/shapes_features.py:tiny',
    '--config.train.batch_size=8',
    f'--config.{option}',
    f'--workdir={tmp_path}',
  ]
  monkeypatch.setattr(sys, 'argv', argv)
  assert main.main(argv) == 2
  text = capsys.readouterr().err
  assert mend in text and len(text.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_ends_training(monkeypatch):
  pool = feature_clips.draw(SHORT.clips, frames=4, seed=0, quiet=True)
  broken = dataclasses.replace(pool, radius=pool.radius * np.nan)
  monkeypatch.setattr(feature_clips, 'draw', lambda *_, **__: broken)
  with pytest.raises(errors.DivergedError, match='not finite'):
    train_features.train_network(SHORT, mesh(), quiet=True)


def test_controls_are_tried_on_clips_that_are_not_compared_with(
  trained, monkeypatch
):
  monkeypatch.setattr(train_features, 'CONTROLS', 12)
  monkeypatch.setattr(train_features, 'JUDGED', 4)
  found = train_features.tried(trained, SHORT)
  source = shapes.Shapes(frames=8, size=16, seed=1)
  videos = np.stack([source.clip(i)['video'] for i in range(24)])
  made = controlled(videos[:12], np.random.default_rng(0), 4)
  assert list(found) == list(made) and 'hurried' in made
  rows = {
    name: np.asarray(
      shapes_network.features(
        trained, jnp.asarray(clips, jnp.float32) / 127.5 - 1
      )
    )
    for name, clips in (made | {'other': videos[12:, :4]}).items()
  }
  for name, (distance, success) in found.items():
    expected = frechet_distance(rows[name], rows['other']).value
    assert distance == pytest.approx(expected, rel=1e-3)
    assert success == shapes.scores(made[name][:4])['success']
  assert found['real'][0] > 0 and found['real'][1] == 1  # other clips, all good
  assert found['frozen'][1] == found['recoloured'][1] == 0


def distances(found, reference):
  return {k: frechet_distance(v, reference).value for k, v in found.items()}


@pytest.mark.slow
def test_controls_come_in_the_right_order():
  """Real clips first, lightly noised ones next, everything else behind."""
  plan = dataclasses.replace(
    SHORT, frames=6, clips=384, steps=160, batch_size=32, warmup=20
  )
  params = train_features.train_network(plan, mesh(), quiet=True)
  source = shapes.Shapes(frames=12, size=16, seed=3)
  videos = np.stack([source.clip(i)['video'] for i in range(400)])
  extract = jax.jit(shapes_network.features)

  def rows(videos):
    return np.asarray(extract(params, videos.astype(np.float32) / 127.5 - 1))

  made = controlled(videos[200:], np.random.default_rng(0), 6)
  found = {name: rows(spoilt) for name, spoilt in made.items()}
  # Against the very same clips, where nothing is left to chance.
  distance = {
    k: frechet_distance(v, found['real']).value for k, v in found.items()
  }
  assert distance.pop('real') < 1e-6
  noised = distance.pop('noised')
  assert 1e-3 < noised < min(distance.values()) / 3, distance
  # Against others, where noise may hide behind the bias of 200 clips.
  reference = rows(videos[:200, :6])
  distance = distances(found, reference)
  near = [distance.pop(k) for k in ('real', 'noised')]
  assert max(near) < min(distance.values()) / 2, distance
