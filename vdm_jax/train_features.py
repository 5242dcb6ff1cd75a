"""Trains the network of `shapes_fd`: one command, minutes on two CPU cores.

The network estimates what is true of clips that `feature_clips` makes: shape,
colour, size, places, movement, noise, and whether their order is one in which
shapes move. All of it is a function of the seed: the same CPU makes the same
weights, bit by bit. At the end it is tried on clips that are wrong in one known
way each, which the judge is shown, too.
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vdm_jax import errors, feature_clips, rng, runtime, sharding
from vdm_jax.data import shapes
from vdm_jax.metrics import controls, filling, frechet, shapes_network
from vdm_jax.metrics.shapes_network import TRUTH, ShapesNetwork
from vdm_jax.progress import Progress, duration

PyTree = Any
FILE = 'shapes_features.safetensors'
CLIPS = 4096  # drawn, before they are varied
STANDARD = 1024  # of them set the features' mean and deviation
CONTROLS = 1000  # clips of each kind, and other real ones to compare them with
JUDGED = 250  # of each kind are shown to the judge, who takes longer
# By what an error in each kind of truth is divided: about its own deviation.
UNITS = {
  'colour': 0.5,
  'radius': 0.02,
  'place': 0.15,
  'spread': 0.06,
  'drift': 0.03,
  'speed': 0.03,
  'turns': 0.03,
  'noise': 0.06,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Everything the weights depend on, apart from this program and the machine.

  Attributes:
    seed: of clips, parameters and steps.
    frames: of a clip.
    clips: how many are drawn.
    steps: of training.
    batch_size: clips in a step.
    learning_rate: the highest.
    warmup: steps until then.
  """

  seed: int
  frames: int
  clips: int
  steps: int
  batch_size: int
  learning_rate: float
  warmup: int

  @property
  def text(self) -> str:
    """All of it as JSON."""
    return json.dumps(dataclasses.asdict(self), sort_keys=True)

  @property
  def sha256(self) -> str:
    """Of the text: what tells this recipe from others."""
    return hashlib.sha256(self.text.encode()).hexdigest()


def run(config, workdir: pathlib.Path, devices=None):
  """Trains the network and writes `shapes_features.safetensors`.

  Prints what `tried` finds, too: a minute on two CPU cores.

  Args:
    config: the settings, validated.
    workdir: where the file goes.
    devices: the devices to train on, all by default.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  plan = recipe(config)
  mesh = sharding.of_config(config, devices)
  sharding.check_batch(mesh, plan.batch_size)
  path = workdir / FILE
  if path.exists():
    raise errors.CheckpointError(
      f'there are weights already ({path}); use them, or choose another '
      '--workdir'
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise errors.CheckpointError(
      f'the workdir cannot be written ({e}); choose another --workdir'
    ) from e
  begin = time.monotonic()
  params = train_network(plan, mesh, log_every=config.train.log_every)
  filling.save(
    path,
    params,
    network=shapes_network.NAME,
    layout='vdm_jax',
    source=plan.text,
    sha256=plan.sha256,
    licence='None is needed: made by you, of nothing but this program.',
  )
  runtime.say(
    f'the network of shapes_fd, trained in '
    f'{duration(time.monotonic() - begin)}: {path}'
  )
  runtime.say('  clips        shapes_fd  judge')
  for name, (distance, success) in tried(params, plan).items():
    runtime.say(f'  {name:11}  {distance:9.3g}  {success:.1%}')


def recipe(config) -> Recipe:
  """What the settings ask for.

  Raises:
    ConfigError: they ask for clips that this network is not trained on.
  """
  c = config.data
  if (c.source, c.size, c.stride) != ('shapes', shapes_network.SIZE, 1):
    raise errors.ConfigError(
      f'the network of shapes_fd cannot be trained on {c.source} of {c.size} '
      f'pixels at stride {c.stride}; use --config=configs/shapes_features.py'
    )
  if c.frames < shapes_network.LEAST_FRAMES:
    raise errors.ConfigError(
      f'config.data.frames is {c.frames}; the network of shapes_fd needs '
      f'{shapes_network.LEAST_FRAMES} or more'
    )
  if jax.process_count() > 1:
    raise errors.ConfigError(
      f'the network of shapes_fd is trained by one process '
      f'({jax.process_count()} run); start a single one'
    )
  return Recipe(
    seed=config.seed,
    frames=c.frames,
    clips=CLIPS,
    steps=config.train.steps,
    batch_size=config.train.batch_size,
    learning_rate=config.optim.learning_rate,
    warmup=config.optim.warmup,
  )


def train_network(
  plan: Recipe, mesh: Mesh, *, log_every: int = 20, quiet: bool = False
) -> PyTree:
  """The parameters that a recipe makes, on the host.

  Args:
    plan: the recipe.
    mesh: the devices, which share each batch.
    log_every: steps between two looks at the losses.
    quiet: show no progress.

  Raises:
    DivergedError: the loss is not finite.
    Preempted: the process was asked to stop; there are no half-trained weights.
  """
  pool = feature_clips.draw(
    plan.clips, frames=plan.frames, seed=plan.seed, quiet=quiet
  )
  tx = optimizer(plan)
  network = ShapesNetwork()
  place = sharding.replicated(mesh)

  def begin(key):
    example = jnp.zeros((1, plan.frames, *pool.video.shape[2:]))
    params = network.init(key, example)['params']
    return params, tx.init(params)

  init, clips = (rng.stream(plan.seed, name) for name in ('init', 'clips'))
  state = jax.jit(begin, out_shardings=place)(init)
  pool = jax.device_put(pool, place)
  step = jax.jit(
    make_step(plan, network, tx, mesh),
    donate_argnums=0,
    out_shardings=(place, place),
  )
  progress = Progress(plan.steps, clips_per_step=plan.batch_size, quiet=quiet)
  with runtime.Stop() as stop, progress:
    for n in range(1, plan.steps + 1):
      state, losses = step(state, pool, jax.random.fold_in(clips, n))
      if n % log_every == 0 or n in (1, plan.steps):
        shown = {k: float(v) for k, v in losses.items()}
        if not np.isfinite(shown['loss']):
          raise errors.DivergedError(
            f'the loss is not finite (step {n}); lower '
            'config.optim.learning_rate'
          )
        progress.update(n, shown)
      if stop.requested and n < plan.steps:
        raise errors.Preempted(
          f'asked to stop at step {n}; nothing is saved, and the same command '
          'starts again'
        )
  return standardise(network, state[0], pool, plan)


def optimizer(plan: Recipe) -> optax.GradientTransformation:
  """Adam whose rate grows linearly and falls along a cosine to zero."""
  rate = optax.warmup_cosine_decay_schedule(
    0.0, plan.learning_rate, plan.warmup, max(plan.steps, plan.warmup + 1)
  )
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))


def make_step(
  plan: Recipe,
  network: ShapesNetwork,
  tx: optax.GradientTransformation,
  mesh: Mesh,
):
  """A step `((params, opt_state), pool, key) -> (the same, losses)`."""

  def step(state, pool, key):
    params, opt_state = state
    keys = rng.per_example(key, jnp.arange(plan.batch_size))
    clips = jax.vmap(feature_clips.vary, (0, None))(keys, pool)
    clips = jax.lax.with_sharding_constraint(
      clips, sharding.batch_sharding(mesh)
    )
    grads, losses = jax.grad(loss, has_aux=True)(params, network, clips)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), losses

  return step


def loss(
  params: PyTree, network: ShapesNetwork, clips: dict[str, Array]
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """The sum over all tasks, and its parts.

  Args:
    params: of the network.
    network: the network.
    clips: as of `vary`, with the batch in front.
  """
  said = network.apply({'params': params}, clips['video'])
  units = np.concatenate([[UNITS[k]] * n for k, n in TRUTH.items()])
  error = (said['truth'] - clips['truth']) / units.astype(np.float32)[None]
  losses = {'truth': jnp.mean(jnp.square(error))}
  for kind in ('shape', 'order'):
    losses[kind] = jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(said[kind], clips[kind])
    )
  total = sum(losses.values())
  return total, {'loss': total, **losses}


def standardise(
  network: ShapesNetwork, params: PyTree, pool: feature_clips.Pool, plan: Recipe
) -> PyTree:
  """The parameters, and what the features of real clips are divided by."""

  @jax.jit
  def statistics(params, video):
    video = video[:STANDARD, ::2].astype(jnp.float32) / 127.5 - 1
    rows = network.apply({'params': params}, video)['features']
    return rows.mean(axis=0), rows.std(axis=0)

  mean, deviation = statistics(params, pool.video)
  params = params | {'mean': mean, 'deviation': jnp.maximum(deviation, 1e-3)}
  return jax.tree.map(np.asarray, params)


def tried(params: PyTree, plan: Recipe) -> dict[str, tuple[float, float]]:
  """`shapes_fd` and the judge's `success` of clips that are right and wrong.

  Args:
    params: of the network.
    plan: what it was trained by; its seed is that of the controls, too.

  Returns:
    By the names of `controls.controlled`, made of clips of seed 1 that are
    compared with as many others of this seed.
  """
  extract = jax.jit(shapes_network.features)

  def rows(videos):
    return np.asarray(extract(params, videos.astype(np.float32) / 127.5 - 1))

  source = shapes.Shapes(
    frames=2 * plan.frames, size=shapes_network.SIZE, seed=1
  )
  videos = np.stack([source.clip(i)['video'] for i in range(2 * CONTROLS)])
  reference = rows(videos[CONTROLS:, : plan.frames])
  made = controls.controlled(
    videos[:CONTROLS], np.random.default_rng(plan.seed), plan.frames
  )
  return {
    name: (
      frechet.frechet_distance(rows(clips), reference).value,
      shapes.scores(clips[:JUDGED])['success'],
    )
    for name, clips in made.items()
  }
