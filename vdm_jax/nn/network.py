"""What the U-Nets share: the arguments, what they are told, first and last."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.nn import conditioning
from vdm_jax.nn.attention import Tokens
from vdm_jax.nn.blocks import GroupNorm, Vectors, Video, conv3x3
from vdm_jax.nn.embeddings import FLOAT32
from vdm_jax.nn.layer import Layer


class Network(nn.Module):
  """A network over video; what is between its ends stands in a subclass.

  Parameters are float32 and do not depend on frames or image_frames. Paths:
  `conv_in`, `conv_extra`, `emb/dense_I`, `label/embedding`, `text` and `text2`
  (`embedding`, `norm`, `key`, `value`, `query`, `out`), `tokens` and `tokens2`
  (`embedding`, `norm`, `out`), `stride/embedding`, `frame`, `augment`,
  `norm_out`, `conv_out`, and those of the subclass.
  """

  channels: int  # width of the first level, even
  multipliers: tuple[int, ...]  # width of each level / channels
  blocks: int | tuple[int, ...]  # layers of a level, or of each level
  attention_resolutions: tuple[int, ...]  # larger sides of maps with attention
  head_dim: int  # channels of an attention head
  emb_dim: int  # length of the conditioning vectors
  emb_layers: int = 2  # Dense layers of their MLP
  num_classes: int = 0  # of the labels; 0 = no labels
  vocabulary: int = 0  # text is word ids 1 … vocabulary; 0 = it is not
  text_dim: int = 0  # text is embeddings of so many channels; 0 = it is not
  text2_dim: int = 0  # likewise of a second encoder
  cross_attention: bool = False  # to the tokens, after the spatial attention
  num_strides: int = 0  # frame strides to tell apart; 0 = none
  extra_channels: int = 0  # of what is concatenated to z
  augmented: bool = False  # whether it is told the noise in a condition
  dropout: float = 0.0  # rate in the residual blocks
  out_channels: int = 3  # of the result
  image_mode: str = 'self_attend'  # of temporal attention, or 'bypass'
  max_distance: int = 15  # clip of relative positions; ours: 16 frames' all
  frame_positions: bool = False  # tell each frame its number; ours
  groups: int = 32  # of the norms, at most one a channel
  temporal: bool = True  # temporal attention; a network of images has none
  temporal_convolution: bool = False  # after each 3×3 of a residual block
  remat: str = 'none'  # recomputed going back: 'none', 'attention', 'block'
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(
    self,
    z: Video,
    logsnr: Float[Array, ' b'] | Float[Array, 'b t'],
    *,
    label: Int[Array, ' b'] | Int[Array, 'b s'] | None = None,
    text: Int[Array, 'b _ l'] | Float[Array, 'b _ l d'] | None = None,
    text_mask: Bool[Array, 'b _ l'] | None = None,
    text2: Float[Array, 'b _ l2 d2'] | None = None,
    text2_mask: Bool[Array, 'b _ l2'] | None = None,
    stride: Int[Array, ' b'] | None = None,
    extra: Float[Array, 'b _ _ _ k'] | None = None,
    augment: Float[Array, ' b'] | None = None,
    image_frames: int = 0,
    train: bool = False,
  ) -> Float[Array, 'b t h w o']:
    """The raw prediction for z_t, zero at initialisation.

    Labels and texts have s slots: one for all frames, or one for the video and
    one for each image. Where there are none (None) the condition is null.

    Args:
      z: noisy video, and behind it on the frame axis image_frames images.
      logsnr: log-SNR λ, of an example or of each frame.
      label: class of an example or of each slot; -1 is null, c = 0.
      text: word ids, 0 is padding, or embeddings, as the network was made.
      text_mask: True for a token; a slot without any is null. With word ids
        it may be None.
      text2: embeddings by the second encoder.
      text2_mask: True for their tokens.
      stride: index of the frame stride, 0 … num_strides - 1; images share it.
      extra: what is concatenated to z, `[b, t, h, w, extra_channels]`; of
        super-resolution the low-resolution video brought to z's size.
      augment: log-SNR of the noise that was added to the condition.
      image_frames: how many of the last frames are images of their own.
      train: whether dropout runs; it needs the rng 'dropout'.

    Returns:
      `[b, t, h, w, out_channels]` float32.

    Raises:
      ConfigError: where `validate` does; for a condition that the network has
        no parameters for, for one of another form, or a missing one that is
        never null: stride, extra, augment.
    """
    self.validate(z.shape[1:], image_frames=image_frames)
    told = {'label': label, 'stride': stride, 'extra': extra}
    told |= {'text': text, 'text_mask': text_mask, 'augment': augment}
    told |= {'text2': text2, 'text2_mask': text2_mask}
    conditioning.check(self, told, z=z)
    slots = {'frames': z.shape[1], 'image_frames': image_frames}
    emb = conditioning.vectors(self, logsnr, told, **slots)
    tokens = conditioning.tokens(self, told, batch=z.shape[0])
    x = conditioning.convolve_in(self, z, extra)
    x = self._levels(x, emb, tokens, image_frames=image_frames, train=train)
    # The result meets float32 data: the last convolution is float32 too.
    x = GroupNorm(self.groups, swish=True, name='norm_out')(x)
    return conv3x3(
      self.out_channels,
      kernel_init=nn.initializers.zeros,
      precision=FLOAT32,
      name='conv_out',
    )(x)

  def _levels(
    self,
    x: Video,
    emb: Vectors,
    tokens: Tokens | None,
    *,
    image_frames: int,
    train: bool,
  ) -> Video:
    """All between the first convolution and the last norm."""
    raise NotImplementedError

  def validate(self, shape: tuple[int, ...], *, image_frames: int = 0) -> None:
    """Checks the arguments, and that videos of this shape go through.

    Needs no parameters: `UNet(...).validate((16, 64, 64, 3))`.

    Args:
      shape: `(t, h, w, c)` of z without the batch, images included.
      image_frames: how many of the t frames are images of their own.

    Raises:
      ConfigError: for what cannot work, with values that would.
    """
    raise NotImplementedError

  def _lifted(self, module: type[nn.Module]) -> type[nn.Module]:
    """A module, computed again in the backward pass if blocks are."""
    return nn.remat(module) if self.remat == 'block' else module

  def _layer(self, **options):
    """`Layer` with the arguments that are the network's, and options."""
    return functools.partial(
      self._lifted(Layer),
      temporal=self.temporal,
      temporal_convolution=self.temporal_convolution,
      head_dim=self.head_dim,
      groups=self.groups,
      dropout=self.dropout,
      max_distance=self.max_distance,
      image_mode=self.image_mode,
      remat_attention=self.remat == 'attention',
      dtype=self.dtype,
      **options,
    )
