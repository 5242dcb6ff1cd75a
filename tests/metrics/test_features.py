import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import sharding
from vdm_jax.errors import ConfigError, DataError, WeightsError
from vdm_jax.metrics import features, layers


class Tiny(nn.Module):
  """A layer of each kind that feature networks have."""

  bn_eps: float = 1e-3

  @nn.compact
  def __call__(self, x):
    sides = (3,) * (x.ndim - 2)
    x = nn.Conv(24, sides, strides=2, name='conv')(x)
    x = nn.relu(layers.FrozenBatchNorm(self.bn_eps, name='bn')(x))
    x = nn.max_pool(x, sides, padding='SAME').reshape(len(x), -1)
    x = nn.Dense(40, name='fc')(x)
    return {'hidden': x, 'logits': nn.Dense(7, name='head')(nn.relu(x))}


def shifted(x, shift=0.0):
  return x + shift


@pytest.fixture(params=['video', 'image'])
def kind(request):
  return request.param


@pytest.fixture
def tiny(kind, monkeypatch):
  entry = features.Network(
    module=Tiny,
    prepare=shifted,
    layouts=dict,
    outputs={'hidden': 40, 'logits': 7},
    licence='',
    kind=kind,
    least_frames=3,
    module_settings={'bn_eps': 1e-3},
    prepare_settings={'shift': 0.0},
  )
  monkeypatch.setitem(features.NETWORKS, 'tiny', entry)
  return entry


@pytest.fixture
def params(kind):
  time = (4,) if kind == 'video' else ()
  x = jnp.zeros((1, *time, 9, 10, 3))
  shapes = jax.eval_shape(Tiny().init, jax.random.key(0), x)['params']
  rng = np.random.default_rng(7)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape, np.float32)
    if path[-1].key in ('scale', 'var'):
      return 0.5 + abs(noise)
    return noise / np.float32(max(leaf.size // leaf.shape[-1], 4)) ** 0.5

  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope='module')
def videos():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (11, 4, 9, 10, 3), dtype=np.uint8)


def mesh(devices=8):
  return sharding.make_mesh(devices=jax.devices()[:devices])


def direct(kind, params, videos, shift=0.0, **settings):
  """Features of examples 0 and 5, each alone, without an extractor."""
  x = videos.astype(np.float32) / 127.5 - 1 + np.float32(shift)
  x = x if kind == 'video' else x.reshape(-1, *x.shape[2:])
  module = Tiny(**settings)
  rows = [module.apply({'params': params}, x[i : i + 1]) for i in (0, 5)]
  return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}


def test_features_are_those_of_the_network(tiny, kind, params, videos):
  extract = features.Extractor('tiny', params, mesh(), 8)
  out = extract(videos)
  want = direct(kind, params, videos)
  lead = (11,) if kind == 'video' else (11, 4)
  assert {k: v.shape for k, v in out.items()} == {
    'hidden': (*lead, 40),
    'logits': (*lead, 7),
  }
  for k, value in out.items():
    assert type(value) is np.ndarray and value.dtype == np.float32
    got = value.reshape(-1, value.shape[-1])[[0, 5]]
    np.testing.assert_allclose(got, want[k], rtol=1e-5, atol=1e-5)
    assert abs(want[k][0] - want[k][1]).max() > 0.1


@pytest.mark.parametrize('devices, batch', [(1, 4), (8, 16)])
def test_features_know_nothing_of_the_batch(
  tiny, params, videos, devices, batch, optimised
):
  """To the last bit: in another order, and alone."""
  extract = features.Extractor('tiny', params, mesh(devices), batch)
  out = extract(videos)['hidden']
  order = np.random.default_rng(1).permutation(len(videos))
  np.testing.assert_array_equal(extract(videos[order])['hidden'], out[order])
  for i in (0, 7):
    np.testing.assert_array_equal(
      extract(videos[i : i + 1])['hidden'], out[i : i + 1]
    )
  assert len(np.unique(out.reshape(-1, 40), axis=0)) == out.size // 40


def test_bytes_and_floats_have_the_same_features(tiny, params, videos):
  extract = features.Extractor('tiny', params, mesh(), 16)
  out = extract(videos)['hidden']
  floats = videos.astype(np.float32) / 127.5 - 1
  got = extract(floats)['hidden']
  np.testing.assert_allclose(got, out, rtol=1e-4, atol=1e-5)
  assert abs(extract(floats / 2)['hidden'] - out).max() > 0.1


def test_settings_reach_module_and_preparation(tiny, kind, params, videos):
  plain = direct(kind, params, videos)
  for settings in ({'bn_eps': 0.5}, {'shift': 0.5}):
    extract = features.Extractor('tiny', params, mesh(1), 4, **settings)
    assert extract.settings == {'bn_eps': 1e-3, 'shift': 0.0} | settings
    out = extract(videos[:2])['logits'].reshape(-1, 7)
    want = direct(kind, params, videos, **settings)['logits']
    np.testing.assert_allclose(out[0], want[0], rtol=1e-4, atol=1e-5)
    assert abs(want - plain['logits']).max() > 1e-2


def test_refuses_unknown_networks_and_settings(tiny, params):
  with pytest.raises(ConfigError, match=r'resnet.*use one of i3d, c3d'):
    features.Extractor('resnet', params, mesh())
  with pytest.raises(ConfigError, match=r"no setting 'eps'.*bn_eps, shift"):
    features.Extractor('tiny', params, mesh(), eps=1e-5)


def test_batches_fill_the_mesh(tiny, params):
  sizes = [
    features.Extractor('tiny', params, mesh(n), batch).batch_size
    for n, batch in [(8, 1), (8, 8), (8, 9), (1, 9)]
  ]
  assert sizes == [8, 8, 16, 9]


def test_one_program_for_any_number(tiny, params, videos, monkeypatch):
  traced = []
  entry = dataclasses.replace(
    tiny, prepare=lambda x, shift: traced.append(x.shape) or x
  )
  monkeypatch.setitem(features.NETWORKS, 'tiny', entry)
  extract = features.Extractor('tiny', params, mesh(1), 4)
  for n in (1, 4, 11):
    extract(videos[:n])
  assert len(traced) == 1


def test_products_are_in_full_precision(tiny, kind, params, videos):
  """Else GPUs and TPUs would round the factors to 10 or 7 bits."""
  extract = features.Extractor('tiny', params, mesh(1), 4)
  x = videos[:4] if kind == 'video' else videos[0]
  jaxpr = str(jax.make_jaxpr(extract._features)(params, x))
  products = jaxpr.count('conv_general_dilated[') + jaxpr.count('dot_general[')
  assert products == 3
  assert jaxpr.count('Precision.HIGHEST') == 2 * products  # of both factors
  x = jnp.asarray(x, jnp.float32)
  plain = jax.make_jaxpr(lambda x: Tiny().apply({'params': params}, x))(x)
  assert 'HIGHEST' not in str(plain)


def test_broken_weights_are_seen(tiny, params, videos):
  broken = params | {'fc': {**params['fc'], 'bias': np.full(40, np.nan)}}
  with pytest.raises(WeightsError, match='not finite'):
    features.Extractor('tiny', broken, mesh(1), 4)(videos)


def test_parameters_may_be_given_by_paths(params):
  leaves = jax.tree_util.tree_leaves_with_path(params)
  flat = {sharding.path_name(path): leaf for path, leaf in leaves}
  assert 'bn/mean' in flat
  for given in (flat, params):
    assert jax.tree.all(
      jax.tree.map(lambda a, b: a is b, params, features.tree(given))
    )


@pytest.mark.parametrize('name', features.NETWORKS)
def test_table_tells_the_truth(name):
  """Nine frames are enough for I3D, and every file fills every parameter."""
  entry = features.NETWORKS[name]
  parameters, out = features.shapes(name)
  assert {k: v.shape for k, v in out.items()} == {
    k: (1, d) for k, d in entry.outputs.items()
  }
  for kind, layout in entry.layouts().items():
    assert set(layout.sources) == set(parameters), kind
  assert entry.licence.endswith('.')
  assert '{' not in entry.licence and '\n' not in entry.licence


def test_who_may_not_be_sold():
  assert [k for k, n in features.NETWORKS.items() if n.noncommercial] == ['c3d']


# What check_videos refuses.


def floats(*values, shape=(2, 4, 5, 6, 3)):
  return np.resize(np.array(values, np.float32), shape)


@pytest.mark.parametrize(
  'videos',
  [
    floats(-1, 1),
    floats(-0.001, 1),
    floats(-1),
    floats(-1.0005, 1.0005),
    floats(0, 255).astype(np.uint8),
    floats(0, 1).astype(np.uint8),
    jnp.asarray(floats(-1, 1)),
  ],
)
def test_takes_bytes_and_floats_around_zero(videos):
  features.check_videos(videos, least_frames=4, most_frames=4)


@pytest.mark.parametrize(
  'videos, complaint',
  [
    (floats(0, 1), r'as if in \[0, 1\].*give uint8 or \[−1, 1\]'),
    (floats(0.2, 0.7), r'as if in \[0, 1\]'),
    (floats(0), r'as if in \[0, 1\]'),
    (floats(0, 255), r'must be in \[−1, 1\] \(got 0 to 255\)'),
    (floats(-1.01, 1), r'got -1.01 to 1\)'),
    (floats(-1, np.nan), 'got nan'),
    (floats(-1, np.inf), 'to inf'),
    (floats(-1, 1).astype(np.float64), 'got float64'),
    (floats(-1, 1).astype(np.float16), 'got float16'),
    (floats(0, 255).astype(np.int32), 'got int32'),
    (floats(0, 1).astype(bool), 'got bool'),
    (floats(-1, 1, shape=(4, 5, 6, 3)), r'got \[4, 5, 6, 3\]'),
    (floats(-1, 1, shape=(2, 3, 4, 5, 6)), 'frames before rows and RGB last'),
    (floats(-1, 1, shape=(2, 4, 5, 6, 1)), 'RGB last'),
    (floats(-1, 1, shape=(0, 4, 5, 6, 3)), 'without zeros'),
    (floats(-1, 1, shape=(2, 3, 5, 6, 3)), r'at least 4 frames.*\(got 3\)'),
    ([[0.0]], 'got list'),
  ],
)
def test_refuses_what_is_no_video(videos, complaint):
  with pytest.raises(DataError, match=complaint) as caught:
    features.check_videos(videos, least_frames=4)
  assert '\n' not in str(caught.value) and '; ' in str(caught.value)


@pytest.mark.parametrize('frames', [3, 5])
def test_refuses_other_numbers_of_frames(frames):
  videos = floats(-1, 1, shape=(2, frames, 5, 6, 3))
  with pytest.raises(DataError, match=f'exactly 4 frames.*got {frames}'):
    features.check_videos(videos, least_frames=4, most_frames=4)


def test_extractor_checks_its_videos(tiny, params, videos):
  extract = features.Extractor('tiny', params, mesh(1), 4)
  with pytest.raises(DataError, match='at least 3 frames'):
    extract(videos[:, :2])
  with pytest.raises(DataError, match='as if'):
    extract(videos.astype(np.float32) / 255)
