"""The smallest run that is a whole run, for the tests of the program."""

from vdm_jax import config as config_lib


def config(**overrides):
  """A config of seconds; dotted keys are given with '__' for '.'."""
  c = config_lib.default()
  c.update_from_flattened_dict(
    {
      'name': 'tiny',
      'data.frames': 3,
      'data.size': 8,
      'model.channels': 8,
      'model.multipliers': (1,),
      'model.blocks': 1,
      'model.attention_resolutions': (8,),
      'model.head_dim': 8,
      'model.emb_dim': 16,
      'model.emb_layers': 2,
      'model.groups': 4,
      'model.dropout': 0.1,
      'model.dtype': 'float32',
      'diffusion.prediction': 'v',
      'diffusion.weight': 'v',
      'optim.learning_rate': 1e-3,
      'optim.warmup': 3,
      'optim.ema': 0.9,
      'train.batch_size': 8,
      'train.steps': 10,
      'train.log_every': 1,
      'train.checkpoint_every': 5,
      'train.sample_every': 0,
      'sample.count': 0,
      'sample.batch_size': 8,
      'sample.steps': 3,
    }
  )
  c.update_from_flattened_dict(
    {k.replace('__', '.'): v for k, v in overrides.items()}
  )
  return c.lock()
