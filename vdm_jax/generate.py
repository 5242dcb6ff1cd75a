"""Draws videos from a model: the device's side of sampling."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key, UInt8

from vdm_jax import (
  build,
  checkpoint,
  conditions,
  distributed,
  refine,
  sharding,
)
from vdm_jax import step as step_lib
from vdm_jax.diffusion import (
  denoiser,
  experts,
  guidance,
  replacement,
  samplers,
)
from vdm_jax.diffusion.observation import Observation

SEEN = 2**30  # a stream of an example's key, beyond those of the steps


class Generator:
  """Draws batches of videos; a sample is the same for any batch and mesh.

  Three programs are compiled once each for every pattern of known frames: the
  first latent, a step, and the last step. The host counts the steps: a loop on
  the device would save nothing, and on a CPU it makes the backward pass of
  reconstruction guidance five times slower.

  Attributes:
    batch_size: examples of a call; it fills every device.
    shape: (t, h, w, c) of a video.
  """

  def __init__(self, config, model, mesh):
    """Prepares the programs; nothing is compiled yet.

    Args:
      config: the whole config.
      model: the network that the parameters are of.
      mesh: the devices.
    """
    self.config = config
    self.model = refine.for_whole_frames(config, model)
    self.objective = build.objective(config)
    self.sampler = build.sampler(config)
    build.levels(config, config.sample.steps)  # a mistake in it ends here
    self.mesh, self.place = mesh, sharding.batch_sharding(mesh)
    video = sharding.video_sharding(mesh)
    latent = samplers.Latent(video, NamedSharding(mesh, P(None, *video.spec)))
    self.batch_size = sharding.whole_batch(mesh, config.sample.batch_size)
    c = config.data
    self.shape = (c.frames, c.size, c.size, 3)
    sharding.check_space(mesh, self.model, c.size)
    self._latent_places = latent
    self._start = jax.jit(self._begin, out_shardings=latent)
    self._advance = jax.jit(self._step, donate_argnums=1, out_shardings=latent)
    self._finish = jax.jit(self._last_step, out_shardings=video)
    seen = {'extra': video}
    if self.objective.refine and self.objective.refine.augment:
      seen['augment'] = self.place
    self._seen_places = seen
    self._see = jax.jit(self._seen, out_shardings=seen)

  def __call__(
    self,
    params,
    *,
    keys: Key[Array, ' b'],
    told: Mapping[str, np.ndarray],
    steps: int,
    observation: Observation | None = None,
    low: UInt8[np.ndarray, 'b _t _h _w c'] | None = None,
    tick: Callable[[int], None] = lambda steps: None,
  ) -> UInt8[np.ndarray, 'b t h w c']:
    """Samples a batch.

    Args:
      params: the parameters to sample with, usually the averaged ones, or
        `experts.Experts`; each runs its steps in the same programs.
      keys: one per example; b is `batch_size`.
      told: the conditions, a row per example.
      steps: of the sampler.
      observation: what is known of the videos.
      low: the videos that a model which refines is to refine.
      tick: called with the steps done, about twenty times.
    """
    keys, told, observation, low = sharding.spread(
      (keys, dict(told), observation, low), self.place
    )
    if low is not None:
      told |= self._see(keys, low)
    if not isinstance(params, experts.Experts):
      params = experts.single(params)
    logsnrs = build.levels(self.config, steps)
    owners = experts.route(params.intervals, self.sampler, logsnrs)
    grid = self.sampler.grid(logsnrs)
    latent = self._start(keys)
    for begin, end, i in experts.segments(owners[:-1], max(1, steps // 20)):
      for step in range(begin, end):
        latent = self._advance(
          params.params[i], latent, keys, grid, step, told, observation
        )
      latent.z.block_until_ready()
      tick(end)
    last = params.params[owners[-1]]
    level = grid.logsnr[-2]
    video = _gather(self._finish(last, latent.z, level, told, observation))
    tick(steps)
    return video

  def trace(self, params, told: Mapping[str, jax.ShapeDtypeStruct]):
    """The program of a step of plain sampling, to compile without arrays.

    Args:
      params: shapes and places of the parameters.
      told: likewise of the conditions.
    """

    def placed(shapes, place):
      places = jax.tree.broadcast(place, shapes)
      return checkpoint.abstract_like(shapes, places)

    keys = jax.eval_shape(
      lambda: jax.random.split(jax.random.key(0), self.batch_size)
    )
    told = dict(told)
    if self.objective.refine:
      video = jax.ShapeDtypeStruct((self.batch_size, *self.shape), np.uint8)
      low = jax.eval_shape(self.objective.refine.form.lower, video)
      seen = jax.eval_shape(self._seen, keys, low)
      told |= {k: placed(v, self._seen_places[k]) for k, v in seen.items()}
    latent = jax.eval_shape(self._begin, keys)
    latent = checkpoint.abstract_like(latent, self._latent_places)
    levels = build.levels(self.config, self.config.sample.steps)
    grid = self.sampler.grid(levels)
    grid = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), grid)
    index = jax.ShapeDtypeStruct((), np.int32)
    keys = placed(keys, self.place)
    return self._advance.trace(params, latent, keys, grid, index, told, None)

  def denoiser(self, params, told, observation=None) -> denoiser.Denoiser:
    """The clipped denoiser, with all guidance that the config asks for."""
    c = self.config.sample
    model = self.model
    reconstruct = c.conditioning == 'reconstruction'
    if observation is not None and reconstruct and model.remat == 'none':
      # The gradient of x̂ needs a training step's activations otherwise.
      model = model.clone(remat='block')

    apply = sharding.by_example(model.apply, self.mesh)

    def denoise(z, logsnr, told):
      network = step_lib.bind(apply, params, told)
      return denoiser.from_network(network, self.objective.prediction)(
        z, logsnr
      )

    guided = guidance.classifier_free_batched(
      denoise,
      cond=told,
      null=conditions.null(told),
      guidance_scale=c.guidance_scale,
    )
    if observation is not None and reconstruct:
      guided = guidance.reconstruction(
        guided,
        observation,
        prior=self.objective.prior,
        weight=build.guidance_weight(self.config),
      )
    elif observation is not None:
      guided = replacement.conditional(guided, observation)
    return denoiser.clipped(guided)

  def _sampler(self, observation) -> samplers.Sampler:
    marginal = self.config.sample.conditioning == 'replacement_marginal'
    if observation is None or not marginal:
      return self.sampler
    return replacement.marginal(self.sampler, observation)

  def _seen(self, keys, low):
    return self.objective.refine.sampling(
      low,
      keys=samplers.fold(keys, SEEN),
      prior=self.objective.prior,
      frames=self.shape[0],
    )

  def _begin(self, keys):
    return samplers.begin(
      self.sampler, keys=keys, shape=self.shape, prior=self.objective.prior
    )

  def _step(self, params, latent, keys, grid, index, told, observation):
    return samplers.take_step(
      self.denoiser(params, told, observation),
      self._sampler(observation),
      latent=latent,
      keys=keys,
      grid=grid,
      prior=self.objective.prior,
      index=index,
    )

  def _last_step(self, params, z, logsnr, told, observation):
    level = jnp.broadcast_to(logsnr, z.shape[:1])
    return step_lib.to_uint8(self.denoiser(params, told, observation)(z, level))


def _gather(video) -> np.ndarray:
  if jax.process_count() == 1:
    return np.asarray(video)
  from jax.experimental import multihost_utils

  distributed.barrier('gather')
  return np.asarray(multihost_utils.process_allgather(video, tiled=True))
