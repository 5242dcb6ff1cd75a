"""Small stand-ins for feature networks, and weights of theirs on disk."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vdm_jax.metrics import features, filling

DIM, CLASSES = 6, 5


class Judge(nn.Module):
  """Features of the mean, the corners and the change of a video or image."""

  bn_eps: float = 1e-3

  @nn.compact
  def __call__(self, x):
    x = x if x.ndim == 5 else x[:, None]
    parts = [x.mean((1, 2, 3)), x[:, :, 0, 0].mean(1), x[:, :, -1, 1].mean(1)]
    parts += [jnp.square(x).mean((1, 2, 3)), jnp.square(x[:, -1]).mean((1, 2))]
    x = jnp.concatenate(parts, axis=-1)
    logits = nn.Dense(CLASSES, name='head')(x)
    out = nn.Dense(DIM, name='fc')(x)
    return {
      'logits': out,
      'fc7': out,
      'pool3': out,
      'embedding': out,
      'features': out,
      'logits_unbiased': logits,
    }


def prepare(x, resize='tf1'):
  return x + (resize == 'half_pixel')


NAMES = ('i3d', 'c3d', 'inception', 'clip', 'shapes')


def install(monkeypatch, folder, **changes):
  """Puts stand-ins in the place of all networks; returns files of weights."""
  sizes = {'logits_unbiased': CLASSES}
  outputs = ('logits', 'fc7', 'pool3', 'embedding', 'features')
  entry = features.Network(
    module=Judge,
    prepare=prepare,
    layouts=dict,
    outputs=dict.fromkeys(outputs, DIM) | sizes,
    licence='None.',
    least_frames=2,
    module_settings={'bn_eps': 1e-3},
    prepare_settings={'resize': 'tf1'},
  )
  rng = np.random.default_rng(0)
  files = {}
  for name in NAMES:
    image = name in ('inception', 'clip')
    made = dataclasses.replace(entry, kind='image' if image else 'video')
    made = dataclasses.replace(made, **changes.get(name, {}))
    monkeypatch.setitem(features.NETWORKS, name, made)
    params = {
      path: rng.normal(size=(15, n)[-rank:])
      for head, n in (('fc', DIM), ('head', CLASSES))
      for path, rank in ((f'{head}/kernel', 2), (f'{head}/bias', 1))
    }
    files[name] = str(folder / f'{name}.safetensors')
    filling.save(
      files[name],
      params,
      network=name,
      layout='own',
      source='nothing',
      sha256='0' * 64,
      licence='None.',
    )
  return files
