"""The generator: guidance as written, known frames to the bit, small memory."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.standins import Gaussian, random_params
from vdm_jax import build, conditions, rng, sharding, train
from vdm_jax import state as state_lib
from vdm_jax import step as step_lib
from vdm_jax.conditions import Conditions
from vdm_jax.diffusion import (
  denoiser,
  experts,
  guidance,
  observation,
  samplers,
  schedules,
)
from vdm_jax.generate import Generator

ONE = jax.devices()[:1]
BATCH, FRAMES, SIZE = 4, 3, 8
CONDITIONINGS = ('reconstruction', 'replacement', 'replacement_marginal')
TRAINED = Conditions(
  classes=('a', 'b'), text='words', words=('x', 'y'), strides=(1, 2)
)


def config(**overrides):
  base = {'sample__batch_size': BATCH, 'sample__guidance_weight': 1.0}
  return tiny.config(**(base | overrides))


def gaussian(**overrides):
  """A generator of Gaussian videos."""
  c = config(diffusion__prediction='x', diffusion__weight='x', **overrides)
  return Generator(c, Gaussian(), sharding.make_mesh(devices=ONE))


def keys(count=BATCH):
  return rng.per_example(rng.stream(0, 'sample'), jnp.arange(count))


def noisy(logsnr=0.0):
  shape = (BATCH, FRAMES, SIZE, SIZE, 3)
  z = jax.random.normal(jax.random.key(7), shape)
  return z, jnp.full(BATCH, logsnr)


def pictures(count=BATCH, frames=FRAMES, size=SIZE, seed=0):
  shape = (count, frames, size, size, 3)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def seen(known, coarse=(), seed=0):
  """Frames of random videos, and others of them at half the resolution."""
  parts, whole = [], pictures(seed=seed)
  low = pictures(size=SIZE // 2, seed=seed + 1)
  for factor, videos, frames in ((1, whole, known), (2, low, coarse)):
    values = step_lib.to_float(jnp.asarray(videos[:, list(frames)]))
    if frames:
      parts.append(observation.downsampled(factor, values, frames))
  return observation.union(*parts), whole


LABELS = {'label': np.array([0, 1, 1, 0], np.int32)}
WORDS = np.array([1, 2, 1, 2], np.int32)[:, None, None]
TOLD = LABELS | {
  'text': WORDS,
  'text_mask': WORDS > 0,
  'stride': np.array([0, 1, 0, 1], np.int32),
}


def on_device(arrays):
  return {k: jnp.asarray(v) for k, v in arrays.items()}


def recomputed(jaxpr, inside=False) -> set[str]:
  """The names of what a program does within `jax.checkpoint`."""
  names = set()
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    names |= {name} if inside else set()
    for inner in jax.core.jaxprs_in_params(equation.params):
      names |= recomputed(inner, inside or name in ('checkpoint', 'remat2'))
  return names


@pytest.fixture(scope='module')
def network():
  """A network of everything, and its parameters."""
  net = build.model(config(), TRAINED)
  return net, random_params(net)


def guided(network, scale):
  """x̂ of a generator's denoiser, and of the ones that it is made of."""
  net, params = network
  c = config(sample__guidance_scale=scale)
  generate = Generator(c, net, sharding.make_mesh(devices=ONE))

  def of(given):
    apply = step_lib.bind(net.apply, params, given)
    return denoiser.from_network(apply, c.diffusion.prediction)

  def clipped(denoise):
    return jax.jit(denoiser.clipped(denoise))(*noisy())

  told = on_device(TOLD)
  ours = jax.jit(generate.denoiser(params, told))(*noisy())
  return ours, clipped, of(told), of(conditions.null(told))


def test_a_scale_of_one_is_the_conditional_model_to_the_bit(network):
  ours, clipped, cond, null = guided(network, 1.0)
  np.testing.assert_array_equal(ours, clipped(cond))
  assert np.mean(np.abs(ours) < 1) > 0.3  # clipping does not hide it
  assert np.abs(ours - clipped(null)).max() > 0.01


def test_a_scale_extrapolates_from_the_unconditional_model(network):
  ours, clipped, cond, null = guided(network, 3.0)

  def by_hand(z, logsnr):
    a, b = cond(z, logsnr), null(z, logsnr)
    return a + (3 - 1) * (a - b)

  expected = clipped(by_hand)
  assert np.mean(np.abs(expected) < 1) > 0.3
  np.testing.assert_allclose(ours, expected, atol=1e-5)
  assert np.abs(expected - clipped(cond)).max() > 0.01


@pytest.mark.parametrize('scale, calls', [(1.0, [BATCH]), (3.0, [2 * BATCH])])
def test_the_network_is_called_once(scale, calls):
  generate = gaussian(sample__guidance_scale=scale)
  generate.denoiser({}, on_device(LABELS))(*noisy())
  assert [size for size, _ in generate.model.calls] == calls


def test_guided_means_of_gaussian_videos():
  """At the last level x̂ is z, whatever is told; at the first it is s c."""
  for scale in (1.0, 3.0):
    generate = gaussian(sample__guidance_scale=scale)
    denoise = generate.denoiser({}, on_device(LABELS))
    z, _ = noisy()
    first = denoise(z, jnp.full(BATCH, -20.0))
    centre = 0.2 * scale * (np.array([0, 1, 1, 0]) + 1)
    np.testing.assert_allclose(
      np.mean(first, (1, 2, 3, 4)), np.clip(centre, -1, 1), atol=1e-3
    )
    last = denoise(z, jnp.full(BATCH, 20.0))
    np.testing.assert_allclose(last, np.clip(z, -1, 1), atol=1e-3)


@pytest.mark.parametrize('conditioning', CONDITIONINGS)
@pytest.mark.parametrize('sampler', build.SAMPLERS)
def test_known_frames_come_out_to_the_bit(conditioning, sampler):
  generate = gaussian(
    sample__conditioning=conditioning,
    sample__sampler=sampler,
    sample__grid='karras' if sampler in build.CHURNED else 'schedule',
    sample__guidance_scale=2.0,
  )
  coarse = (1,) if conditioning == 'reconstruction' else ()
  known, whole = seen((0, 2), coarse)
  options = {'keys': keys(), 'told': LABELS, 'steps': 4}
  video = generate({}, observation=known, **options)
  np.testing.assert_array_equal(video[:, [0, 2]], whole[:, [0, 2]])
  assert np.mean(video[:, 1] != whole[:, 1]) > 0.9
  # Who knows nothing makes other frames.
  if conditioning == 'reconstruction':
    assert np.mean(generate({}, **options) != video) > 0.9


def test_known_frames_of_a_network_come_out_to_the_bit(network):
  net, params = network
  generate = Generator(config(), net, sharding.make_mesh(devices=ONE))
  known, whole = seen((1,))
  video = generate(params, keys=keys(), told=TOLD, steps=3, observation=known)
  np.testing.assert_array_equal(video[:, 1], whole[:, 1])
  assert np.mean(video[:, [0, 2]] != whole[:, [0, 2]]) > 0.9
  # What is made of the others is not what another known frame makes of them.
  other, _ = seen((1,), seed=5)
  again = generate(params, keys=keys(), told=TOLD, steps=3, observation=other)
  assert np.mean(again[:, [0, 2]] != video[:, [0, 2]]) > 0.3


def test_only_reconstruction_tells_the_estimate_what_is_known():
  """E[x^b|z, x^a], where replacement has E[x^b|z] (Ho22 §3.1)."""
  # Close to the data, where w_r = 1 is exact.
  z, logsnr = noisy(6.0)
  known, others = (0,), np.array([1, 2])
  a, _ = seen(known)
  b, _ = seen(known, seed=5)
  for conditioning in CONDITIONINGS:
    generate = gaussian(sample__conditioning=conditioning)
    x, y = (
      generate.denoiser({}, {}, each)(z, logsnr)[:, others] for each in (a, b)
    )
    if conditioning == 'reconstruction':
      assert np.mean(np.abs(x - y)) > 1e-3
    else:
      np.testing.assert_array_equal(x, y)


def test_reconstruction_guidance_agrees_with_a_coarse_video():
  """With the weight, the means of blocks come nearer to what is known."""
  known, _ = seen((), (0, 1, 2))
  options = {'keys': keys(), 'told': {}, 'steps': 32}
  off = {}
  for name, weight, given in (
    ('none', 1.0, None),
    ('weak', 0.1, known),
    ('guided', 1.0, known),
  ):
    generate = gaussian(
      sample__guidance_weight=weight, sample__weight_schedule='constant'
    )
    video = step_lib.to_float(
      jnp.asarray(generate({}, observation=given, **options))
    )
    (residual,) = known.residual(video)
    off[name] = float(jnp.sqrt(jnp.mean(residual**2)))
  assert off['guided'] < off['weak'] < off['none']
  assert off['guided'] < 0.3 * off['none'], off


def test_runs_of_steps_are_one_sampling():
  """The host's counting changes nothing, and reports about twenty times."""
  generate = gaussian(sample__gamma=0.3)
  steps, ticks = 45, []
  video = generate({}, keys=keys(), told=LABELS, steps=steps, tick=ticks.append)
  whole = samplers.sample(
    generate.denoiser({}, on_device(LABELS)),
    generate.sampler,
    keys=keys(),
    shape=generate.shape,
    logsnrs=schedules.logsnr_grid(steps, generate.objective.schedule),
    prior=generate.objective.prior,
  )
  whole = np.asarray(step_lib.to_uint8(whole)).astype(int)
  assert np.abs(video - whole).max() <= 1 and whole.std() > 10
  assert ticks == [*range(2, 45, 2), 45]
  assert generate._advance._cache_size() == 1


class Marked(Gaussian):
  """A network of one parameter, which it adds to the estimate."""

  def apply(self, variables, z, logsnr, **told):
    return super().apply(variables, z, logsnr, **told) + variables['params']


MEETING = 0.5  # s at which two experts meet


def with_experts(*marks, **options):
  """A video by two experts, below and above MEETING, or by one model."""
  options = {'sample__sampler': 'deis', 'sample__grid': 'karras'} | options
  c = config(diffusion__prediction='x', diffusion__weight='x', **options)
  generate = Generator(c, Marked(), sharding.make_mesh(devices=ONE))
  params = tuple(jnp.float32(m) for m in marks)
  if len(params) > 1:
    parts = (0.0, MEETING), (MEETING, np.inf)
    params = (experts.Experts(parts, params),)
  ticks = []
  how = {'keys': keys(), 'told': LABELS, 'steps': 12, 'tick': ticks.append}
  return generate(*params, **how), ticks, generate


CHURNS = [{}, {'sample__churn': 3.0, 'sample__deis_order': 2}]


@pytest.mark.parametrize('churn', CHURNS)
def test_experts_that_agree_are_one_model_to_the_bit(churn):
  one, ticks, _ = with_experts(0.1, **churn)
  two, counted, generate = with_experts(0.1, 0.1, **churn)
  np.testing.assert_array_equal(one, two)
  assert ticks == counted == list(range(1, 13))
  assert generate._advance._cache_size() == generate._finish._cache_size() == 1


@pytest.mark.parametrize('churn', CHURNS)
def test_experts_are_the_model_that_is_each_of_them_in_its_place(churn):
  def sample(low, high):
    _, _, generate = with_experts(0.0, **churn)

    def denoise(z, logsnr):
      mark = jnp.where(jnp.exp(-logsnr / 2) < MEETING, low, high)
      x_hat = Gaussian().apply({}, z, logsnr, label=on_device(LABELS)['label'])
      return jnp.clip(x_hat + mark[:, None, None, None, None], -1, 1)

    video = samplers.sample(
      denoise,
      generate.sampler,
      keys=keys(),
      shape=generate.shape,
      logsnrs=build.levels(generate.config, 12),
      prior=generate.objective.prior,
    )
    return np.asarray(step_lib.to_uint8(video)).astype(int)

  got = with_experts(0.2, -0.1, **churn)[0]
  assert np.abs(got - sample(0.2, -0.1)).max() <= 1
  # Negative control: the other way round.
  assert np.abs(got - sample(-0.1, 0.2)).mean() > 5


@pytest.mark.parametrize('asked, devices, made', [(4, 1, 4), (5, 4, 8)])
def test_a_batch_fills_every_device(asked, devices, made):
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  c = config(sample__batch_size=asked)
  assert Generator(c, Gaussian(), mesh).batch_size == made


@pytest.mark.parametrize(
  'conditioning, kind, expected',
  [
    ('reconstruction', 'none', 'block'),
    ('reconstruction', 'attention', 'attention'),
    ('replacement', 'none', 'none'),
  ],
)
def test_what_is_differentiated_is_rematerialised(conditioning, kind, expected):
  generate = gaussian(sample__conditioning=conditioning)
  generate.model = Gaussian(remat=kind)
  known, _ = seen((0,))
  generate.denoiser({}, {}, known)(*noisy())
  generate.denoiser({}, {})(*noisy())
  # The stand-in's clones share one list.
  assert [remat for _, remat in generate.model.calls] == [expected, kind]


def test_blocks_of_the_network_are_rematerialised(network):
  net, params = network
  known, _ = seen((0,))
  generate = Generator(config(), net, sharding.make_mesh(devices=ONE))

  def names(given):
    denoise = generate.denoiser(params, on_device(TOLD), given)
    return recomputed(jax.make_jaxpr(denoise)(*noisy()).jaxpr)

  assert 'conv_general_dilated' in names(known)
  assert 'conv_general_dilated' not in names(None)


# Wide enough that activations, not parameters, fill the memory.
MIDDLE = {
  'data__frames': 8,
  'data__size': 32,
  'model__channels': 32,
  'model__multipliers': (1, 2),
  'model__attention_resolutions': (16,),
  'model__head_dim': 32,
  'model__emb_dim': 128,
  'model__groups': 8,
  'text__max_length': 1,
  'train__batch_size': BATCH,
}


def middle(scale=1.0, remat='none'):
  """A generator, and shapes: of the parameters, a latent, known frames."""
  c = config(sample__guidance_scale=scale, model__remat=remat, **MIDDLE)
  net = build.model(c, TRAINED)
  t, size = c.data.frames, c.data.size
  params = jax.eval_shape(
    lambda key: state_lib.init_params(net, key, frames=t, size=size),
    jax.random.key(0),
  )
  generate = Generator(c, net, sharding.make_mesh(devices=ONE))
  z = jax.ShapeDtypeStruct((BATCH, t, size, size, 3), jnp.float32)
  known = jnp.zeros((BATCH, t // 2, size, size, 3))
  return generate, params, z, observation.frames(range(t // 2), known)


def kept(f, x) -> int:
  """Bytes of what f keeps for its derivative by x, inputs included."""
  shapes = jax.eval_shape(lambda x: jax.tree.leaves(jax.vjp(f, x)[1]), x)
  return sum(a.size * a.dtype.itemsize for a in shapes)


def kept_in_sampling(monkeypatch, scale, remat):
  """Bytes that reconstruction guidance keeps for its derivative by z."""
  generate, params, z, known = middle(scale)
  if not remat:
    net = generate.model
    same = types.SimpleNamespace(apply=net.apply, remat='none')
    same.clone = lambda **_: same  # what is rematerialised is the same
    generate.model = same
  # What it differentiates is the denoiser that it is given.
  monkeypatch.setattr(guidance, 'reconstruction', lambda f, *_, **__: f)
  params = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params)
  return kept(
    lambda z: generate.denoiser(params, on_device(TOLD), known)(
      z, jnp.zeros(BATCH)
    ),
    z,
  )


def kept_in_training(remat):
  """Bytes that a training step keeps for its derivative by the parameters."""
  generate, params, z, _ = middle(remat=remat)
  batch = on_device(TOLD) | {
    'video': jnp.zeros(z.shape, jnp.uint8),
    'logsnr': jnp.zeros(BATCH),
    'index': jnp.arange(BATCH),
  }
  return kept(
    lambda params: step_lib.part_loss(
      params,
      generate.model.apply,
      generate.objective,
      batch,
      noise=jax.random.key(0),
      drop=jax.random.key(1),
      dropout=jax.random.key(2),
    )[0],
    params,
  )


@pytest.mark.slow
def test_guidance_keeps_less_than_training_does(monkeypatch):
  """Its gradient fits where a training step's does, rematerialised or not."""
  one = kept_in_sampling(monkeypatch, 1.0, True)
  two = kept_in_sampling(monkeypatch, 3.0, True)  # null and conditional
  without = kept_in_sampling(monkeypatch, 1.0, False)
  training, tight = kept_in_training('none'), kept_in_training('block')
  print(
    'MiB kept for the derivative:',
    *(round(n / 2**20) for n in (one, two, without, training, tight)),
  )
  assert two < 0.5 * training
  assert two <= 2 * tight
  assert without > 3 * one


def needed(compiled) -> float:
  """Bytes of a program: what goes in, what comes out, and in between."""
  memory = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )


@pytest.mark.slow
def test_guidance_fits_where_training_fits(optimised, capsys):
  """Its program needs at most twice the memory of the training step's.

  On a CPU even though XLA undoes rematerialisation there.
  """
  c, mesh = config(**MIDDLE), sharding.make_mesh(devices=ONE)
  shapes = train.batch_shapes(c, TRAINED, mesh)
  net = build.model(c, TRAINED)
  training = needed(train.programs(c, net, mesh, shapes)[-1])
  lines = [f'training: {training / 2**20:.0f} MiB']
  for scale in (1.0, 3.0):
    generate, params, z, known = middle(scale)
    latent = samplers.Latent(z, jnp.zeros((0, *z.shape)))
    grid = generate.sampler.grid(np.linspace(-3, 3, 4))
    args = (params, latent, keys(), grid, 0, 2, TOLD, known)
    sampling = needed(generate._advance.lower(*args).compile())
    ratio = sampling / training
    lines.append(
      f'guidance, scale {scale:g}: {sampling / 2**20:.0f} MiB, {ratio:.2f}'
    )
    assert ratio <= 2
  with capsys.disabled():
    print('', *lines, sep='\n')
