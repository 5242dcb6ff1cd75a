"""The networks that `config.model` describes."""

import jax.numpy as jnp
import pytest

from tests import tiny
from vdm_jax import build, errors
from vdm_jax.conditions import Conditions
from vdm_jax.nn.efficient import EfficientUNet
from vdm_jax.nn.unet import UNet

TEXTS = Conditions(text='embeddings', text_dim=6, text2_dim=4)


def test_a_unet_gets_its_options():
  config = tiny.config(
    model__cross_attention=True,
    model__temporal=False,
    model__temporal_convolution=True,
    model__resample='residual',
  )
  net = build.model(config, TEXTS)
  assert isinstance(net, UNet)
  assert (net.text_dim, net.text2_dim, net.cross_attention) == (6, 4, True)
  assert (net.temporal, net.temporal_convolution) == (False, True)
  assert (net.resample, net.max_distance) == ('residual', 2)
  assert (net.extra_channels, net.augmented) == (0, False)


def test_an_efficient_network_gets_its_blocks():
  options = {
    'model__kind': 'efficient',
    'model__multipliers': (1, 2),
    'model__attention_resolutions': (),
    'model__blocks': 3,
    'model__temporal': False,
    'model__dtype': 'bfloat16',
    'refine__kind': 'upsample',
    'refine__factor': 2,
  }
  config = tiny.config(**options)
  net = build.model(config, TEXTS)
  assert isinstance(net, EfficientUNet)
  assert (net.blocks, net.dtype) == ((3, 3), jnp.bfloat16)
  assert (net.extra_channels, net.augmented) == (3, True)
  config = tiny.config(**options, model__level_blocks=(1, 2))
  assert build.model(config, TEXTS).blocks == (1, 2)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'kind': 'unets'}, "did you mean 'unet'"),
    ({'level_blocks': (2,)}, 'level_blocks.*leave it empty'),
    ({'kind': 'efficient', 'level_blocks': (2, 2)}, 'each of 1 levels'),
    ({'kind': 'efficient', 'attention_resolutions': ()}, 'temporal to False'),
    ({'kind': 'efficient', 'resample': 'residual'}, 'resample.*plain'),
    ({'cross_attention': True}, 'cross_attention without text'),
  ],
)
def test_refusals(options, message):
  options = {'attention_resolutions': (4,), 'temporal': True} | options
  config = tiny.config(**{f'model__{k}': v for k, v in options.items()})
  with pytest.raises(errors.ConfigError, match=message) as info:
    build.model(config, Conditions())
  assert '\n' not in str(info.value)
