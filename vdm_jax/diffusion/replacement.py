"""The replacement method: known frames are imposed while sampling.

Ho22 §3.1 name two forms, of which they prefer neither, and improve on both
with reconstruction guidance. In both the estimate of the other frames is that
of the unconditional model, E[x^b|z] instead of E[x^b|z, x^a].
"""

import dataclasses

from vdm_jax.diffusion import process
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.observation import Observation
from vdm_jax.diffusion.process import LogSnr, Video
from vdm_jax.diffusion.samplers import Sampler, fold


def conditional(denoise: Denoiser, observation: Observation) -> Denoiser:
  """x̂^a := x^a, so that z_s^a ~ q(z_s^a|x^a, z_t^a) (Ho22 §3.1).

  That is the law which a DDIM step, or an ancestral one with γ = 0, then
  draws from: the noise of all frames comes jointly from the prior and keeps
  its correlation between known frames and others. The default form, and the
  one inside `guidance.reconstruction`. Known frames come out to the bit.

  Raises:
    ValueError: no frame is known completely; when called, if the observation
      does not fit the video.
  """
  _check_known(observation)

  def denoise_known(z: Video, logsnr: LogSnr) -> Video:
    observation.check(z.shape[1:])
    return observation.pin(denoise(z, logsnr))

  return denoise_known


def marginal(sampler: Sampler, observation: Observation) -> Sampler:
  """z_s^a := α_s x^a + σ_s ε^a after each step: q(z_s^a|x^a) (Ho22 §3.1).

  ε^a is drawn anew, from p(ε^a|ε̂^b) with ε̂ = (z_s − α_s x̂)/σ_s: drawn
  without regard to the other frames it would lack the correlation that a
  model with correlated noise expects at the seam. Of white noise it is
  independent.

  Use it with a denoiser of `conditional`: that puts the known frames into x̂,
  which a sampler returns in the end, and changes nothing else.

  Raises:
    ValueError: no frame is known completely; when called, if the observation
      does not fit the video.
  """
  _check_known(observation)
  known = list(observation.known)

  def replaced(denoise, *, keys, z, logsnr_s, prior, **how):
    observation.check(z.shape[1:])
    how |= {'logsnr_s': logsnr_s, 'prior': prior}
    z, x_hat, past = sampler.step(denoise, keys=fold(keys, 0), z=z, **how)
    others = tuple(i for i in range(z.shape[1]) if i not in known)
    eps = prior.sample_given(
      fold(keys, 1),
      eps=process.eps_from_x(z=z, x=x_hat, logsnr=logsnr_s),
      frames=others,
    )
    x = observation.pin(x_hat)
    renewed = process.diffuse(x=x, eps=eps, logsnr=logsnr_s)
    return z.at[:, known].set(renewed[:, known]), x, past

  return dataclasses.replace(sampler, step=replaced)


def _check_known(observation: Observation) -> None:
  if not observation.known:
    raise ValueError(
      'replacement needs frames that are known completely, and none is; use '
      'reconstruction guidance'
    )
