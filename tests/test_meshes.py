"""One training on many meshes: the same numbers, and no needless exchange."""

import dataclasses
import functools
import re

import jax
import numpy as np
import optax
import pytest

from tests import tiny
from vdm_jax import build, errors, sharding, train
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.planning import hlo

STEPS = 20
ALONE = (1, 1, 1)
DATA, FSDP, BOTH, ALL = (8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 2, 2)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
MESHES = [slow(DATA), slow(FSDP), slow(BOTH), ALL]
TOLD = Conditions(classes=('a', 'b'))


def config():
  """Two levels: convolutions up and down, and both attentions."""
  return tiny.config(
    data__size=8,
    model__multipliers=(1, 2),
    model__attention_resolutions=(4,),
    model__labels=True,
    train__batch_size=8,
  )


def batches(c):
  numbers = np.random.default_rng(0)
  shape = (c.train.batch_size, c.data.frames, c.data.size, c.data.size, 3)
  for _ in range(STEPS):
    video = numbers.integers(0, 256, shape, np.uint8)
    yield {'video': video, 'label': np.resize(np.int32([0, 1, -1]), shape[0])}


@functools.cache
def trained(data, fsdp, space):
  """(the losses, the gradient of each step, the program, its parameters)."""
  c = config()
  on = sharding.make_mesh(
    data, fsdp, jax.devices()[: data * fsdp * space], space=space
  )
  model = build.model(c, TOLD)
  # A trace without memory: the gradient itself, beside the optimizer's state.
  tx = optax.chain(optax.trace(decay=0.0), build.optimizer(c))
  init, abstract = train.make_init(c, model, tx, on)
  step = step_lib.make_train_step(
    sharding.by_example(model.apply, on),
    tx,
    build.objective(c),
    seed=0,
    ema_decay=0.9,
    place=sharding.video_sharding(on),
  )
  shapes = train.batch_shapes(c, TOLD, on)
  traced = train.trace_step(step, abstract, shapes)
  fast = {'xla_backend_optimization_level': 0}
  compiled = traced.lower().compile(fast)
  state, losses, gradients = init(), [], []
  for batch in batches(c):
    state, metrics = compiled(state, train.to_devices(batch, shapes))
    losses.append(float(metrics['loss']))
    gradients.append(jax.device_get(jax.tree.leaves(state.opt_state[0])))
  module = hlo.parse(compiled.as_text())
  return np.array(losses), gradients, module, abstract.params


def norm(leaves):
  return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in leaves))


@pytest.mark.parametrize('mesh', MESHES)
def test_a_mesh_changes_neither_loss_nor_gradient(mesh):
  losses, gradients, *_ = trained(*ALONE)
  there, others, *_ = trained(*mesh)
  np.testing.assert_allclose(there, losses, rtol=1e-6)
  assert np.ptp(losses) > 0.01
  for a, b in zip(gradients, others, strict=True):
    difference = [x - y for x, y in zip(a, b, strict=True)]
    assert norm(difference) <= 1e-6 * norm(a)


PURPOSES = (
  # kind, part of the source, what for; the first that fits
  ('all-reduce', r'^[^:]*/norm(_\w+)?/[^:]*$', 'statistics'),
  ('all-reduce', r'vmap\(', 'keys and values'),
  ('all-reduce', r'reduce_and', 'is it finite'),
  ('all-reduce', r'train_step|jvp', 'gradients'),
  ('all-gather', r'vmap\(', 'keys and values'),
  ('all-gather', r'conv|dot_general|label', 'parameters'),
  ('collective-permute', r'conv', 'rows beside'),
  ('collective-permute', r'dot_general|label', 'conditions'),
)


def purpose(exchange) -> str:
  """What an exchange is for; '' if nothing calls for it."""
  for kind, source, name in PURPOSES:
    if exchange.kind == kind and re.search(source, exchange.source):
      return name
  return ''


def traffic(module):
  """By purpose: the bytes of each exchange."""
  found = {}
  for exchange in hlo.collectives(module):
    assert exchange.times == 1
    found.setdefault(purpose(exchange), []).append(int(exchange.bytes))
  return found


@pytest.mark.parametrize('mesh', MESHES)
def test_every_exchange_is_called_for(mesh):
  """And none is of an activation, but for rows that a map is split into."""
  data, fsdp, space = mesh
  *_, module, params = trained(*mesh)
  paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(params), strict=True)
  names = [sharding.path_name(path) for path in paths]
  whole = sum(4 * p.size for p in leaves)
  split = [4 * p.size for p in leaves if any(p.sharding.spec)]
  found = traffic(module)
  assert '' not in found
  gradients = sum(found.pop('gradients'))
  report = 128  # the loss, and the norm of the gradient
  # Tables of relative positions come for each pair of frames, to be added up;
  # of two norms, the clipped one's and the reported, each split parameter's.
  tables = [p for p, n in zip(leaves, names, strict=True) if '/rel_' in n]
  pairs = config().data.frames ** 2
  more = sum(4 * (pairs * p.shape[-1] - p.size) for p in tables)
  more += report + 2 * 4 * len(split)
  assert whole <= gradients <= whole * (1 + (fsdp > 1 < data)) + more
  assert sum(found.pop('is it finite', [0])) <= len(leaves) * 3 + report
  if fsdp > 1:
    gathered = found.pop('parameters')
    # Once on the way there and once on the way back, and nothing larger.
    assert sum(split) <= sum(gathered) <= 2 * sum(split) + report
    assert max(gathered) == max(split)
    assert len(gathered) <= 2 * len(split)
  if space > 1:
    c = config()
    videos = c.train.batch_size // (data * fsdp) * c.data.frames
    width = max(p.shape[-2] for p in leaves if p.ndim == 4)
    row = 4 * videos * c.data.size * width
    assert max(found.pop('rows beside')) <= 2 * row
    # Maps of side 4 in four layers, keys and values, there, back, gradients.
    maps = 4 * videos * 4 * 4 * (2 * c.model.channels)
    assert sum(found.pop('keys and values')) <= 4 * 2 * 3 * maps
    assert max(found.pop('statistics')) <= 4 * videos * 2 * 2 * width
    assert max(found.pop('conditions')) <= 4 * videos * 8 * width
  assert found == {}


@pytest.mark.slow
def test_without_their_places_activations_are_exchanged(monkeypatch):
  """The partitioner lets some follow the parameters instead."""
  *_, module, params = trained(*FSDP)
  monkeypatch.setattr(sharding, 'by_example', lambda apply, mesh: apply)
  *_, other, _ = trained.__wrapped__(*FSDP)
  largest = max(4 * p.size for p in jax.tree.leaves(params))
  gathers = lambda m: [  # noqa: E731
    c.bytes for c in hlo.collectives(m) if c.kind == 'all-gather'
  ]
  assert max(gathers(module)) <= largest < max(gathers(other))


# Where devices lie, by stand-ins of them.


@dataclasses.dataclass(frozen=True)
class Device:
  """One of a host, which XLA numbers as a slice."""

  id: int
  slice_index: int
  platform: str = 'gpu'
  device_kind: str = 'a stand-in'

  @property
  def process_index(self):
    return self.slice_index


def hosts(count, each, **kind):
  """Devices that are numbered around the hosts, so that none is in order."""
  return [Device(i, i % count, **kind) for i in range(count * each)]


@pytest.mark.parametrize(
  ('data', 'fsdp', 'space', 'spanned'),
  [(2, 4, 1, 1), (4, 2, 1, 1), (2, 2, 2, 1), (1, 8, 1, 2), (1, 4, 2, 2)],
)
def test_fsdp_goes_from_host_to_host_of_gpus(data, fsdp, space, spanned):
  devices = hosts(2, 4)
  mesh = sharding.make_mesh(data, fsdp, devices, space=space)
  assert mesh.devices.shape == (data, fsdp, space)
  assert set(mesh.devices.flat) == set(devices)
  # On one host wherever there is room, and in one piece of each elsewhere.
  of = [[d.slice_index for d in row.flat] for row in mesh.devices]
  assert all(len(set(row)) == spanned and row == sorted(row) for row in of)


def test_hosts_of_gpus_need_not_be_alike():
  devices = [Device(i, int(i > 2)) for i in range(8)]
  mesh = sharding.make_mesh(2, 4, devices)
  assert [d.id for d in mesh.devices.flat] == [*range(8)]


def test_fsdp_does_not_go_from_slice_to_slice_of_tpus():
  with pytest.raises(errors.ConfigError, match='2 slices do not divide'):
    sharding.make_mesh(1, 8, hosts(2, 4, platform='tpu'))
