"""One training step: a pure function of state and batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, UInt8

from vdm_jax import conditions, rng
from vdm_jax import state as state_lib
from vdm_jax.diffusion import losses, schedules
from vdm_jax.diffusion.noise import NoisePrior
from vdm_jax.state import TrainState

PyTree = Any
Batch = dict[str, Array]

# Edges of the log-SNR bands by which the loss is reported.
BAND_EDGES = (-10.0, -5.0, 0.0, 5.0, 10.0)
# What is random in a step besides the times: streams of the run's seed.
STREAMS = ('noise', 'drop', 'dropout', 'refine')


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised: w(λ) ‖x̂ − x‖² over t ~ U[0, 1] (Ho22 eq. 2).

  The times of a batch are stratified (Kingma21): each is uniform by itself, and
  together they cover [0, 1] evenly; see `schedules.low_discrepancy_times`.

  Attributes:
    schedule: λ(t), from time to log-SNR.
    prior: the law of the noise.
    prediction: what the network predicts, one of `process.PREDICTIONS`.
    weight: one of `losses.WEIGHTS`.
    image_frames: how many of a clip's last frames are images of their own.
    image_weight: of an image's loss, that of a frame of the video being 1.
    drop_label: how often a class is left out, for guidance.
    drop_text: how often a text is left out.
    drop_text2: how often a second text is, by itself.
    refine: what the network sees beside the clip, if it refines one; see
      `refine.Refine`.
  """

  schedule: Callable
  prior: NoisePrior
  prediction: str
  weight: str
  image_frames: int = 0
  image_weight: float = 1.0
  drop_label: float = 0.0
  drop_text: float = 0.0
  drop_text2: float = 0.0
  refine: Any = None


def make_train_step(
  apply: Callable,
  tx: optax.GradientTransformation,
  objective: Objective,
  *,
  seed: int,
  ema_decay: float,
  accumulate: int = 1,
  place: NamedSharding | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """The step `(state, batch) -> (state, metrics)`, to be jitted by the caller.

  Its randomness is a function of (seed, step, index in the batch), hence the
  same on any mesh. The times of the whole batch are drawn together, stratified.
  A step is good if its loss, its gradient and all that it would leave behind
  are finite; else it changes nothing but the step count (the next step has
  other clips and noise) and says so in its metrics.

  Args:
    apply: `apply(variables, z, logsnr, *, train, rngs, **conditions)`.
    tx: the optimizer.
    objective: the loss.
    seed: of the run.
    ema_decay: of the averaged parameters.
    accumulate: the batch is worked off in so many parts.
    place: how videos are spread over devices, wherever they come from.

  Returns:
    The step. Its batch has `video` uint8 `[b, t, h, w, c]`, packed images
    included, and the `conditions` that the network needs. Its metrics are the
    scalars `loss`, `grad_norm` and `finite`, and those of `report`.
  """

  def train_step(state: TrainState, batch: Batch):
    count = batch['video'].shape[0]
    time_key = rng.stream(seed, 'time', state.step)
    times = schedules.low_discrepancy_times(time_key, count)
    examples = batch | {
      'logsnr': objective.schedule(times),
      'index': jnp.arange(count),
    }
    streams = {name: rng.stream(seed, name, state.step) for name in STREAMS}

    def part_grads(i, part):
      dropout = jax.random.fold_in(streams['dropout'], i)
      return jax.value_and_grad(part_loss, has_aux=True)(
        state.params,
        apply,
        objective,
        part,
        place=place,
        **streams | {'dropout': dropout},
      )

    (loss, sums), grads = accumulated(part_grads, examples, accumulate)
    grad_norm = optax.global_norm(grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = TrainState(
      step=state.step,
      params=params,
      ema_params=state_lib.ema(state.ema_params, params, ema_decay),
      opt_state=opt_state,
    )
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & all_finite(new)
    new = keep_if(finite, new, state)
    metrics = {'loss': loss, 'grad_norm': grad_norm, 'finite': finite} | sums
    return new.replace(step=state.step + 1), metrics

  return train_step


def keep_if(good: Bool[Array, ''], new: PyTree, old: PyTree) -> PyTree:
  """The new values if they are good, else the old ones, to the bit."""
  return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)


def all_finite(tree: PyTree) -> Bool[Array, '']:
  """Whether all numbers of a tree are finite; whole ones are."""
  leaves = jax.tree.leaves(tree)
  leaves = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def part_loss(
  params,
  apply,
  objective: Objective,
  part: Batch,
  *,
  noise,
  drop,
  dropout,
  refine=None,
  place=None,
):
  """The mean loss of some examples, and what else there is to report of it.

  Args:
    params: the parameters.
    apply: of `make_train_step`.
    objective: the loss.
    part: `video`, `logsnr`, `index` and conditions of the examples.
    noise: the key of this step's noise; an example's own comes by its index.
    drop: the key by which conditions are left out, likewise.
    dropout: the key of this part's dropout.
    refine: the key of what a network that refines sees, likewise by index.
    place: see `make_train_step`.
  """
  video, seen = part['video'], {}
  if objective.refine is not None:
    video, seen = objective.refine.training(
      video,
      keys=rng.per_example(refine, part['index']),
      prior=objective.prior,
      image_frames=objective.image_frames,
    )
    if place is not None:
      video, seen['extra'] = jax.lax.with_sharding_constraint(
        (video, seen['extra']), place
      )
  told = conditions.drop(
    conditions.choose(part),
    keys=rng.per_example(drop, part['index']),
    label=objective.drop_label,
    text=objective.drop_text,
    text2=objective.drop_text2,
  )
  network = bind(
    apply,
    params,
    told | seen,
    image_frames=objective.image_frames,
    train=True,
    rngs={'dropout': dropout},
  )
  loss = losses.denoising_loss(
    network,
    x=to_float(video),
    logsnr=part['logsnr'],
    keys=rng.per_example(noise, part['index']),
    prior=objective.prior,
    prediction=objective.prediction,
    weight=objective.weight,
    image_frames=objective.image_frames,
  )
  mean = losses.mean_of_frames(
    loss,
    image_frames=objective.image_frames,
    image_weight=objective.image_weight,
  )
  return mean, report(loss, part['logsnr'], objective.image_frames)


def report(
  loss: Float[Array, 'b t'], logsnr: Float[Array, ' b'], image_frames: int
) -> dict[str, Array]:
  """What else is reported of the loss; here every frame counts alike.

  `band_sum` and `band_count` `[len(BAND_EDGES) + 1]` of all frames, and with
  packed images the means `loss_video` and `loss_image`.
  """
  sums, counts = losses.banded(loss, logsnr, BAND_EDGES)
  found = {'band_sum': sums, 'band_count': counts}
  if image_frames:
    frames = loss.shape[1] - image_frames
    found['loss_video'] = jnp.mean(loss[:, :frames])
    found['loss_image'] = jnp.mean(loss[:, frames:])
  return found


def accumulated(part_grads: Callable, examples: Batch, parts: int):
  """((loss, report), gradients): means over parts of a batch.

  Part i takes the examples i, i + parts, …: they lie on the devices already
  where they are needed, which contiguous parts would not.

  Args:
    part_grads: `part_grads(i, part) -> ((mean loss, report), gradients)`.
    examples: arrays with the batch in front.
    parts: into how many parts the batch is split.
  """
  if parts == 1:
    return part_grads(0, examples)
  split = jax.tree.map(
    lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), examples
  )

  def body(total, part):
    return jax.tree.map(jnp.add, total, part_grads(*part)), None

  order = jnp.arange(parts)
  first = jax.tree.map(lambda a: a[0], (order, split))
  shapes = jax.eval_shape(part_grads, *first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  total, _ = jax.lax.scan(body, zeros, (order, split))
  return jax.tree.map(lambda a: a / parts, total)


def bind(
  apply: Callable, params: PyTree, told: Mapping[str, Array], **options
) -> Callable:
  """The network `(z, logsnr) -> raw` with everything else closed over."""

  def network(z, logsnr):
    return apply({'params': params}, z, logsnr, **told, **options)

  return network


def to_float(
  video: UInt8[Array, 'b t h w c'],
) -> Float[Array, 'b t h w c']:
  """uint8 to [−1, 1]."""
  return video.astype(jnp.float32) / 127.5 - 1


def to_uint8(
  video: Float[Array, 'b t h w c'],
) -> UInt8[Array, 'b t h w c']:
  """[−1, 1] to uint8, rounded; `to_uint8(to_float(u)) == u`."""
  return jnp.round((jnp.clip(video, -1, 1) + 1) * 127.5).astype(jnp.uint8)
