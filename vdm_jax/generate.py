"""Draws videos from a model: the device's side of sampling."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from vdm_jax import build, conditions, sharding
from vdm_jax import step as step_lib
from vdm_jax.diffusion import (
  denoiser,
  guidance,
  replacement,
  samplers,
  schedules,
)
from vdm_jax.diffusion.observation import Observation


class Generator:
  """Draws batches of videos; a sample is the same for any batch and mesh.

  Three programs are compiled once each for every pattern of known frames: the
  first latent, a run of steps, and the last step. The host only counts, so
  that there is progress to report.

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
    self.model = model
    self.objective = build.objective(config)
    self.step = build.sampler(config)
    self.place = sharding.batch_sharding(mesh)
    self.batch_size = -(-config.sample.batch_size // mesh.size) * mesh.size
    c = config.data
    self.shape = (c.frames, c.size, c.size, 3)
    self._start = jax.jit(self._first_latent, out_shardings=self.place)
    self._advance = jax.jit(
      self._steps, donate_argnums=1, out_shardings=self.place
    )
    self._finish = jax.jit(self._last_step, out_shardings=self.place)

  def __call__(
    self,
    params,
    *,
    keys: Key[Array, ' b'],
    told: Mapping[str, np.ndarray],
    steps: int,
    observation: Observation | None = None,
    tick: Callable[[int], None] = lambda steps: None,
  ) -> UInt8[np.ndarray, 'b t h w c']:
    """Samples a batch.

    Args:
      params: the parameters to sample with, usually the averaged ones.
      keys: one per example; b is `batch_size`.
      told: the conditions, a row per example.
      steps: of the sampler.
      observation: what is known of the videos.
      tick: called with the steps done, about twenty times.
    """
    keys, told, observation = jax.device_put(
      (keys, dict(told), observation), self.place
    )
    levels = jnp.asarray(schedules.logsnr_grid(steps, self.objective.schedule))
    z = self._start(keys)
    stride = max(1, steps // 20)
    for begin in range(0, steps - 1, stride):
      end = min(begin + stride, steps - 1)
      z = self._advance(params, z, keys, levels, begin, end, told, observation)
      z.block_until_ready()
      tick(end)
    video = _gather(self._finish(params, z, levels[-2], told, observation))
    tick(steps)
    return video

  def denoiser(self, params, told, observation=None) -> denoiser.Denoiser:
    """The clipped denoiser, with all guidance that the config asks for."""
    c = self.config.sample
    model = self.model
    reconstruct = c.conditioning == 'reconstruction'
    if observation is not None and reconstruct and model.remat == 'none':
      # The gradient of x̂ needs a training step's activations otherwise.
      model = model.clone(remat='block')

    def denoise(z, logsnr, told):
      network = step_lib.bind(model.apply, params, told)
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

  def _sampler(self, observation) -> samplers.Step:
    marginal = self.config.sample.conditioning == 'replacement_marginal'
    if observation is None or not marginal:
      return self.step
    return replacement.marginal(self.step, observation)

  def _first_latent(self, keys):
    return samplers.first_latent(
      keys=keys, shape=self.shape, prior=self.objective.prior
    )

  def _steps(self, params, z, keys, levels, begin, end, told, observation):
    return samplers.advance(
      self.denoiser(params, told, observation),
      self._sampler(observation),
      z=z,
      keys=keys,
      logsnrs=levels,
      prior=self.objective.prior,
      begin=begin,
      end=end,
    )

  def _last_step(self, params, z, logsnr, told, observation):
    level = jnp.broadcast_to(logsnr, z.shape[:1])
    return step_lib.to_uint8(self.denoiser(params, told, observation)(z, level))


def _gather(video) -> np.ndarray:
  if jax.process_count() == 1:
    return np.asarray(video)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(video, tiled=True))
