"""A network of videos that starts as a network of images (Ge23 §4)."""

from typing import Any

from flax import traverse_util

from vdm_jax.errors import CheckpointError

PyTree = Any
LISTED = 3  # parameters that a message names


def inflate(
  image_params: PyTree, video_params: PyTree
) -> tuple[PyTree, tuple[str, ...]]:
  """The video network's parameters, with the image network's put in.

  Every parameter of the image network goes to the same path, and is used once.
  What only the video network has, it keeps: its temporal attentions and
  convolutions start as the identity, so that it is the image network on each
  frame. The same arithmetic, that is: to the bit where programs are compiled
  without fusing, to the last digit where the compiler fuses the two unlike.

  Args:
    image_params: arrays or `ShapeDtypeStruct`s, as linen nests them.
    video_params: likewise, as the video network initialises them.

  Returns:
    The parameters, nested like video_params; and the paths that are new, such
    as 'down_1_0/temporal/rel_k', in order.

  Raises:
    CheckpointError: if the video network has no place for a parameter.
  """
  image = traverse_util.flatten_dict(image_params, sep='/')
  video = traverse_util.flatten_dict(video_params, sep='/')
  misfits = []
  for path, leaf in sorted(image.items()):
    if path not in video:
      misfits.append(f'{path} {_form(leaf)} has no counterpart')
    elif (leaf.shape, leaf.dtype) != (video[path].shape, video[path].dtype):
      there = video[path]
      misfits.append(f'{path} {_form(leaf)} would meet {_form(there)}')
  if misfits:
    more = len(misfits) - LISTED
    listed = misfits[:LISTED] + [f'{more} more'] * (more > 0)
    raise CheckpointError(
      f'{len(misfits)} of {len(image)} parameters do not fit the network that'
      f' should start from them ({"; ".join(listed)}); give both the same'
      ' config.model and text encoders, temporal options aside'
    )
  new = tuple(sorted(set(video) - set(image)))
  return traverse_util.unflatten_dict(video | image, sep='/'), new


def _form(leaf) -> str:
  return f'{leaf.dtype}{list(leaf.shape)}'
