"""CLIP's image encoder (Radford et al. 2021), the network of CLIP-FID.

Kynkäänniemi et al. (2023) take the Fréchet distance of its embeddings, after
the projection and not normalised.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.metrics import resizing
from vdm_jax.metrics.layout import Layout, Source, same
from vdm_jax.text.layers import Layer, layer_norm

SIZE = 224  # pixels a side
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipVision(nn.Module):
  """A vision transformer with a projection; the defaults are ViT-B/32."""

  width: int = 768  # channels of a token
  layers: int = 12
  heads: int = 12  # divides the width
  patch: int = 32  # pixels a side
  image: int = SIZE  # pixels a side
  projection: int = 512  # channels of the embedding
  activation: str = 'quick_gelu'  # a name in ACTIVATIONS
  eps: float = 1e-5  # of the layer norms

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n h w 3']
  ) -> dict[str, Float[Array, 'n d']]:
    """Embeddings of images, as {'embedding': `[n, projection]`}.

    Args:
      x: what `prepare` makes, `image` pixels a side.

    Raises:
      ValueError: images are of another size.
    """
    if x.shape[1:3] != (self.image, self.image):
      raise ValueError(f'images have {x.shape[1:3]} pixels, not {self.image}²')
    x = nn.Conv(
      self.width,
      (self.patch, self.patch),
      strides=self.patch,
      padding='VALID',
      use_bias=False,
      name='patch_embedding',
    )(x)
    x = x.reshape(len(x), -1, self.width)
    normal = nn.initializers.normal(self.width**-0.5)
    summary = self.param('class', normal, (self.width,))
    summary = jnp.broadcast_to(summary, (len(x), 1, self.width))
    x = jnp.concatenate([summary, x], axis=1)
    places = self.param('position', normal, x.shape[1:])
    x = layer_norm(self.eps, 'pre_norm')(x + places[None])
    visible = jnp.ones((len(x), 1, x.shape[1]), bool)
    for i in range(self.layers):
      x = Layer(
        heads=self.heads,
        ff_dim=4 * self.width,
        activation=self.activation,
        eps=self.eps,
        norm_first=True,
        name=f'layer_{i}',
      )(x, visible)
    x = layer_norm(self.eps, 'norm')(x[:, 0])
    project = nn.Dense(self.projection, use_bias=False, name='projection')
    return {'embedding': project(x)}


def prepare(
  images: Float[Array, 'n h w 3'], size: int = SIZE
) -> Float[Array, 'n k l 3']:
  """Input of the network, made as clean-fid makes it, to the bit.

  Pillow's bicubic resize of the short side to `size` in 8 bits, the square in
  the centre, then (v/255 − mean)/std per channel.

  Args:
    images: RGB in [−1, 1], rounded to 0…255 first.
    size: pixels a side of the result.
  """
  h, w = images.shape[1:3]
  short = min(h, w)
  height, width = (int(size * side / short) for side in (h, w))
  x = resizing.bicubic_uint8(resizing.levels(images), (height, width))
  # Halves go to the even number, both here and in torchvision.
  top, left = round((height - size) / 2), round((width - size) / 2)
  x = x[:, top : top + size, left : left + size] / 255.0
  mean, std = (jnp.asarray(c).reshape(1, 1, 1, 3) for c in (MEAN, STD))
  return (x - mean) / std


def layouts(layers: int = 12) -> dict[str, Layout]:
  """Kinds of files: 'transformers', 'openai' and 'flax'.

  'transformers' is a PyTorch file of Hugging Face, of both towers or of the
  image encoder; 'openai' is the published `ViT-B-32.pt`; 'flax' is Hugging
  Face's `flax_model.msgpack`, its names joined by '/'.

  Args:
    layers: number of layers.
  """
  return {
    'transformers': _transformers(layers),
    'openai': _openai(layers),
    'flax': _flax(layers),
  }


def _hugging_face(layers: int) -> dict[str, str]:
  """Our paths and Hugging Face's, as lists of names joined by '.'."""
  table = {
    'pre_norm': 'vision_model.pre_layrnorm',  # they do spell it so
    'norm': 'vision_model.post_layernorm',
  }
  for i in range(layers):
    theirs = f'vision_model.encoder.layers.{i}'
    table |= {
      f'layer_{i}/attention_norm': f'{theirs}.layer_norm1',
      f'layer_{i}/norm': f'{theirs}.layer_norm2',
      f'layer_{i}/attention/query': f'{theirs}.self_attn.q_proj',
      f'layer_{i}/attention/key': f'{theirs}.self_attn.k_proj',
      f'layer_{i}/attention/value': f'{theirs}.self_attn.v_proj',
      f'layer_{i}/attention/out': f'{theirs}.self_attn.out_proj',
      f'layer_{i}/up': f'{theirs}.mlp.fc1',
      f'layer_{i}/down': f'{theirs}.mlp.fc2',
    }
  return table


def _transformers(layers: int) -> Layout:
  embeddings = 'vision_model.embeddings'
  sources = {
    'class': Source(f'{embeddings}.class_embedding'),
    'patch_embedding/kernel': Source(
      f'{embeddings}.patch_embedding.weight', _kernel
    ),
    'position': Source(f'{embeddings}.position_embedding.weight'),
    'projection/kernel': Source('visual_projection.weight', np.transpose),
  }
  for ours, theirs in _hugging_face(layers).items():
    sources |= _affine(ours, theirs)
  return Layout(
    sources,
    ignored=(
      r'vision_model\.embeddings\.position_ids',
      r'text_model\..*',
      r'text_projection\..*',
      r'logit_scale',
    ),
  )


def _flax(layers: int) -> Layout:
  embeddings = 'vision_model/embeddings'
  sources = {
    'class': Source(f'{embeddings}/class_embedding'),
    'patch_embedding/kernel': Source(f'{embeddings}/patch_embedding/kernel'),
    'position': Source(f'{embeddings}/position_embedding/embedding'),
    'projection/kernel': Source('visual_projection/kernel'),
  }
  for ours, theirs in _hugging_face(layers).items():
    leaf, theirs = _leaf(ours), theirs.replace('.', '/')
    sources[f'{ours}/{leaf}'] = Source(f'{theirs}/{leaf}')
    sources[f'{ours}/bias'] = Source(f'{theirs}/bias')
  return Layout(
    sources, ignored=(r'text_model/.*', r'text_projection/.*', r'logit_scale')
  )


def _openai(layers: int) -> Layout:
  sources = {
    'class': Source('visual.class_embedding'),
    'patch_embedding/kernel': Source('visual.conv1.weight', _kernel),
    'position': Source('visual.positional_embedding'),
    'projection/kernel': Source('visual.proj'),
    **_affine('pre_norm', 'visual.ln_pre'),
    **_affine('norm', 'visual.ln_post'),
  }
  for i in range(layers):
    ours, theirs = f'layer_{i}', f'visual.transformer.resblocks.{i}'
    sources |= {
      **_affine(f'{ours}/attention_norm', f'{theirs}.ln_1'),
      **_affine(f'{ours}/norm', f'{theirs}.ln_2'),
      **_affine(f'{ours}/attention/out', f'{theirs}.attn.out_proj'),
      **_affine(f'{ours}/up', f'{theirs}.mlp.c_fc'),
      **_affine(f'{ours}/down', f'{theirs}.mlp.c_proj'),
    }
    for part, name in enumerate(('query', 'key', 'value')):
      path = f'{ours}/attention/{name}'
      fused = f'{theirs}.attn.in_proj'
      sources[f'{path}/kernel'] = Source(f'{fused}_weight', _third(part))
      sources[f'{path}/bias'] = Source(f'{fused}_bias', _third(part))
  return Layout(
    sources,
    ignored=(
      r'(transformer|token_embedding|ln_final)\..*',
      r'positional_embedding|text_projection|logit_scale',
      r'input_resolution|context_length|vocab_size',
    ),
  )


def _affine(ours: str, theirs: str) -> dict[str, Source]:
  """A dense layer or a layer norm of PyTorch."""
  leaf = _leaf(ours)
  return {
    f'{ours}/{leaf}': Source(
      f'{theirs}.weight', same if leaf == 'scale' else np.transpose
    ),
    f'{ours}/bias': Source(f'{theirs}.bias'),
  }


def _leaf(path: str) -> str:
  return 'scale' if path.endswith('norm') else 'kernel'


def _third(part: int) -> Callable[[np.ndarray], np.ndarray]:
  """One of three that are stacked along the outputs, transposed."""
  return lambda value: np.split(value, 3)[part].T


def _kernel(value: np.ndarray) -> np.ndarray:
  """From output, input, height, width to height, width, input, output."""
  return value.transpose(2, 3, 1, 0)
