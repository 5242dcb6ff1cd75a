"""CLIP's image encoder equals that of transformers; its input is Pillow's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.metrics import clip_vision, filling, reading

TOLERANCE = 1e-5  # of the largest feature
SMALL = {'width': 48, 'layers': 3, 'heads': 4, 'patch': 8, 'image': 32}


@pytest.fixture(scope='module')
def torch():
  torch = pytest.importorskip('torch', reason='PyTorch is the reference')
  torch.set_num_threads(1)
  return torch


@pytest.fixture(scope='module')
def make(torch):
  """A function: sizes to a random network of transformers."""
  transformers = pytest.importorskip(
    'transformers', reason='transformers is the reference'
  )

  @functools.cache
  def make(width, layers, heads, patch, image, projection):
    config = transformers.CLIPVisionConfig(
      hidden_size=width,
      intermediate_size=4 * width,
      projection_dim=projection,
      num_hidden_layers=layers,
      num_attention_heads=heads,
      image_size=image,
      patch_size=patch,
    )
    assert config.hidden_act == 'quick_gelu'
    model = transformers.CLIPVisionModelWithProjection(config)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
      for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=random)
        if p.ndim > 1 and 'position' not in name:
          p.copy_(1.5 * noise / p[0].numel() ** 0.5)
        elif 'embedding' in name:
          p.copy_(noise)
        else:
          p.copy_(0.2 * noise + float(name.endswith('weight')))
    return model.eval()

  return lambda projection=24, **sizes: make(projection=projection, **sizes)


def shapes_of(network):
  x = jax.ShapeDtypeStruct((1, network.image, network.image, 3), jnp.float32)
  return jax.eval_shape(network.init, jax.random.key(0), x)['params']


def filled(network, tensors, layout):
  """The tree of parameters, by the layout that it should be found to have."""
  params, name = filling.fill(
    clip_vision.layouts(network.layers),
    reading.Tensors(tensors, kind='pytorch', sha256=''),
    shapes_of(network),
    'clip',
  )
  assert name == layout
  return params


def tensors_of(model):
  return {k: v.detach().numpy() for k, v in model.state_dict().items()}


def embed(network, params, images):
  return jax.jit(network.apply)({'params': params}, images)['embedding']


def theirs(torch, model, images):
  with torch.no_grad():
    x = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
    return model(pixel_values=x).image_embeds.numpy()


def error(a, b):
  """The largest difference, relative to the largest value."""
  return np.abs(np.asarray(a) - b).max() / np.abs(b).max()


def pixels(n, size):
  return 1.5 * jax.random.normal(jax.random.key(2), (n, size, size, 3))


# The second has the input, the tokens and the width of ViT-B/32.
@pytest.mark.parametrize(
  'sizes',
  [
    SMALL | {'projection': 24},
    {
      'width': 768,
      'layers': 2,
      'heads': 12,
      'patch': 32,
      'image': 224,
      'projection': 512,
    },
  ],
  ids=['small', 'wide'],
)
def test_embeddings_are_those_of_transformers(torch, make, sizes):
  model = make(**sizes)
  network = clip_vision.ClipVision(**sizes)
  params = filled(network, tensors_of(model), 'transformers')
  images = pixels(3, sizes['image'])
  reference = theirs(torch, model, images)
  ours = embed(network, params, images)
  assert ours.shape == (3, sizes['projection'])
  assert error(ours, reference) < TOLERANCE
  # They are neither alike nor of length 1.
  assert error(reference[0], reference[1]) > 0.1
  assert np.abs(np.linalg.norm(reference, axis=1) - 1).min() > 0.5


@pytest.mark.parametrize(
  'mistake', [{'activation': 'gelu'}, {'eps': 1e-3}, {'heads': 3}]
)
def test_other_activations_norms_and_heads_are_told_apart(torch, make, mistake):
  model = make(**SMALL)
  network = clip_vision.ClipVision(**SMALL | {'projection': 24} | mistake)
  params = filled(network, tensors_of(model), 'transformers')
  images = pixels(3, SMALL['image'])
  reference = theirs(torch, model, images)
  assert error(embed(network, params, images), reference) > 20 * TOLERANCE


def as_whole(tensors):
  """A file of both towers, as older ones were written."""
  return tensors | {
    'vision_model.embeddings.position_ids': np.arange(17)[None],
    'text_model.embeddings.position_ids': np.arange(77)[None],
    'text_model.encoder.layers.0.mlp.fc1.weight': np.ones((2, 3), np.float32),
    'text_projection.weight': np.ones((2, 3), np.float32),
    'logit_scale': np.ones((), np.float32),
  }


# OpenAI's names of what Hugging Face calls so, beside the fused projections.
OPENAI = {
  'vision_model.embeddings.class_embedding': 'class_embedding',
  'vision_model.embeddings.patch_embedding': 'conv1',
  'vision_model.embeddings.position_embedding.weight': 'positional_embedding',
  'vision_model.encoder.layers': 'transformer.resblocks',
  'vision_model.pre_layrnorm': 'ln_pre',
  'vision_model.post_layernorm': 'ln_post',
  'layer_norm': 'ln_',
  'self_attn.': 'attn.',
  'fc1': 'c_fc',
  'fc2': 'c_proj',
}


def as_openai(tensors):
  """OpenAI's file: of both towers, queries, keys and values in one tensor."""
  out = {
    'positional_embedding': np.ones((77, 2), np.float16),
    'text_projection': np.ones((2, 2), np.float16),
    'logit_scale': np.ones((), np.float32),
    'token_embedding.weight': np.ones((5, 2), np.float16),
    'ln_final.bias': np.ones(2, np.float32),
    'transformer.resblocks.0.attn.in_proj_weight': np.ones((6, 2), np.float16),
    'input_resolution': np.array(224),
    'context_length': np.array(77),
    'vocab_size': np.array(49408),
  }
  for name, value in tensors.items():
    if 'k_proj' in name or 'v_proj' in name:
      continue
    if 'q_proj' in name:
      parts = [tensors[name.replace('q_proj', f'{p}_proj')] for p in 'qkv']
      name, value = name.replace('q_proj.', 'in_proj_'), np.concatenate(parts)
    if name == 'visual_projection.weight':
      name, value = 'proj', value.T
    for ours, theirs in OPENAI.items():
      name = name.replace(ours, theirs)
    out[f'visual.{name}'] = value
  return out


def as_flax(tensors):
  """The names and shapes of transformers' files for Flax."""
  out = {
    'text_model/embeddings/token_embedding/embedding': np.ones((5, 2)),
    'text_projection/kernel': np.ones((2, 2)),
    'logit_scale': np.ones(()),
  }
  for name, value in tensors.items():
    if name.endswith('patch_embedding.weight'):
      name, value = (
        name.replace('weight', 'kernel'),
        value.transpose(2, 3, 1, 0),
      )
    elif name.endswith('position_embedding.weight'):
      name = name.replace('weight', 'embedding')
    elif 'norm' in name:
      name = name.replace('weight', 'scale')
    elif name.endswith('weight'):
      name, value = name.replace('weight', 'kernel'), value.T
    out[name.replace('.', '/')] = value
  return out


@pytest.mark.parametrize(
  ('layout', 'convert'),
  [('transformers', as_whole), ('openai', as_openai), ('flax', as_flax)],
)
def test_all_kinds_of_files_give_the_same_parameters(make, layout, convert):
  network = clip_vision.ClipVision(**SMALL, projection=24)
  tensors = tensors_of(make(**SMALL))
  expected = filled(network, tensors, 'transformers')
  params = filled(network, convert(tensors), layout)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_the_defaults_are_vit_b_32():
  network = clip_vision.ClipVision()
  shapes = shapes_of(network)
  assert shapes['position'].shape == (50, 768)
  assert shapes['layer_11']['up']['kernel'].shape == (768, 3072)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  # Published: 151 277 313 parameters in all, 63 428 097 of them of the text
  # encoder and the temperature.
  assert count == 87_849_216


def by_pillow(values, size):
  """The square that torchvision's Resize and CenterCrop cut of an image."""
  pillow = pytest.importorskip('PIL.Image', reason='Pillow is the reference')
  image = pillow.fromarray(values)
  w, h = image.size
  if w <= h:
    w, h = size, int(size * h / w)
  else:
    w, h = int(size * w / h), size
  image = image.resize((w, h), pillow.Resampling.BICUBIC)
  top, left = round((h - size) / 2.0), round((w - size) / 2.0)
  return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(
  ('source', 'size'),
  [((64, 64), 224), ((97, 60), 33), ((41, 83), 30), ((33, 40), 33)],
)
def test_preparation_is_that_of_pillow_to_the_bit(source, size):
  values = np.random.default_rng(3).integers(-60, 316, (2, *source, 3))
  values = values.clip(0, 255).astype(np.uint8)
  images = jnp.asarray(values, jnp.float32) / 127.5 - 1.0
  ours = np.asarray(clip_vision.prepare(images, size))
  assert ours.shape == (2, size, size, 3)
  mean, std = np.array(clip_vision.MEAN), np.array(clip_vision.STD)
  reference = np.stack([by_pillow(image, size) for image in values])
  np.testing.assert_array_equal(
    np.round((ours * std + mean) * 255).astype(int), reference
  )
  np.testing.assert_allclose(ours, (reference / 255 - mean) / std, atol=1e-6)


def test_images_of_another_size_are_refused():
  network = clip_vision.ClipVision(**SMALL, projection=24)
  with pytest.raises(ValueError, match='not 32'):
    network.init(jax.random.key(0), jnp.zeros((1, 40, 32, 3)))
