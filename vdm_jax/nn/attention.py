"""Attention over space in a frame, over its text, over time in a pixel."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.nn.blocks import GroupNorm, Video
from vdm_jax.nn.embeddings import expand_slots

# Tokens of s slots, and which of them count.
Tokens = tuple[Float[Array, 'b s l e'], Bool[Array, 'b s l']]

IMAGE_MODES = ('self_attend', 'bypass')


class SpatialAttention(nn.Module):
  """x + W_o attention over the pixels of each frame; W_o starts at zero."""

  head_dim: int  # channels of a head; must divide the width
  groups: int  # of the norm
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Video) -> Video:
    """Maps `[b, t, h, w, c]` to its shape, each frame by itself."""
    b, t, h, w, c = x.shape
    y = GroupNorm(self.groups, dtype=self.dtype, name='norm')(x)
    y = rearrange(y, 'b t h w c -> (b t) (h w) c')
    heads = (c // self.head_dim, self.head_dim)
    qkv = nn.DenseGeneral((3, *heads), dtype=self.dtype, name='qkv')(y)
    q, k, v = (qkv[:, :, i] for i in range(3))
    y = jax.nn.dot_product_attention(q, k, v)
    y = output_projection(c, self.dtype)(y)
    return x + rearrange(y, '(b t) (h w) c -> b t h w c', b=b, t=t, h=h, w=w)


class CrossAttention(nn.Module):
  """x + W_o attention of the pixels to the tokens; W_o starts at zero.

  Each frame asks the text of its own slot. A frame without tokens stays x, to
  the bit. Frames are a batch axis here as everywhere: the tokens are few, and
  a frame is worked out alike in a video and alone.
  """

  head_dim: int  # channels of a head; must divide the width
  groups: int  # of the norm
  image_frames: int = 0  # frames at the end that are images of their own
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Video, text: Tokens) -> Video:
    """Maps x `[b, t, h, w, c]` by the tokens of one slot, or of each slot."""
    b, t, h, w, c = x.shape
    tokens, mask = text
    project = functools.partial(nn.DenseGeneral, dtype=self.dtype)
    heads = (c // self.head_dim, self.head_dim)

    def each_frame(rows):
      slots = {'frames': t, 'image_frames': self.image_frames, 'name': 'text'}
      rows = expand_slots(rows, **slots)
      return jnp.broadcast_to(rows, (b, t, *rows.shape[2:]))

    kv = each_frame(project((2, *heads), name='kv')(tokens))
    kv = rearrange(kv, 'b t l two n d -> two (b t) l n d')
    mask = each_frame(mask)
    y = GroupNorm(self.groups, dtype=self.dtype, name='norm')(x)
    y = rearrange(y, 'b t h w c -> (b t) (h w) c')
    y = jax.nn.dot_product_attention(
      project(heads, name='q')(y),
      kv[0],
      kv[1],
      mask=rearrange(mask, 'b t l -> (b t) 1 1 l'),
    )
    y = output_projection(c, self.dtype)(y)
    y = rearrange(y, '(b t) (h w) c -> b t h w c', b=b, t=t, h=h, w=w)
    return jnp.where(mask.any(-1)[:, :, None, None, None], x + y, x)


class TemporalAttention(nn.Module):
  """x + W_o attention over the frames of each pixel; W_o starts at zero.

  Relative positions for keys and values (Shaw18 eq. 3, 4), tables shared by
  the heads. The last `image_frames` frames are images of their own: the mask
  of Ho22 §3, blockdiag(1_{T×T}, I_K). A row that attends to itself alone
  gives W_o (v_i + a^V_0), so images need neither queries nor a softmax.
  """

  head_dim: int  # channels of a head; must divide the width
  groups: int  # of the norm
  max_distance: int  # relative positions are clipped to ±this
  image_frames: int = 0  # frames at the end that are images of their own
  image_mode: str = 'self_attend'  # 'self_attend' or 'bypass' (x unchanged)
  dtype: DTypeLike = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Video) -> Video:
    """Maps `[b, t, h, w, c]` to its shape, each pixel by itself."""
    frames = x.shape[1] - self.image_frames
    if self.image_mode == 'bypass' and self.image_frames:
      video, images = x[:, :frames], x[:, frames:]
      return jnp.concatenate([video + self._branch(video, frames), images], 1)
    return x + self._branch(x, frames)

  def _branch(self, x: Video, frames: int) -> Video:
    c = x.shape[-1]
    heads = (c // self.head_dim, self.head_dim)
    project = functools.partial(nn.DenseGeneral, dtype=self.dtype)
    positions = (2 * self.max_distance + 1, self.head_dim)
    init = nn.initializers.normal(0.02)  # ours
    rel_k = jnp.asarray(self.param('rel_k', init, positions), self.dtype)
    rel_v = jnp.asarray(self.param('rel_v', init, positions), self.dtype)
    y = GroupNorm(self.groups, dtype=self.dtype, name='norm')(x)
    qk = project((2, *heads), name='qk')(y[:, :frames])
    v = project(heads, name='v')(y)
    parts = []
    if frames:
      q, k = qk[..., 0, :, :], qk[..., 1, :, :]
      index = relative_index(frames, self.max_distance)
      y = relative_attention(
        q=q, k=k, v=v[:, :frames], rel_k=rel_k[index], rel_v=rel_v[index]
      )
      parts.append(y)
    if x.shape[1] > frames or not parts:
      itself = rel_v[self.max_distance]
      parts.append(v[:, frames:] + itself[None, None, None, None, None])
    y = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    return output_projection(c, self.dtype)(y)


def relative_index(frames: int, max_distance: int) -> Int[Array, 't t']:
  """clip(j - i, ±max_distance) + max_distance: the row of a table for i, j."""
  i = jnp.arange(frames)
  distance = i[None, :] - i[:, None]
  return jnp.clip(distance, -max_distance, max_distance) + max_distance


def relative_attention(
  *,
  q: Float[Array, 'b t h w n d'],
  k: Float[Array, 'b t h w n d'],
  v: Float[Array, 'b t h w n d'],
  rel_k: Float[Array, 't t d'],
  rel_v: Float[Array, 't t d'],
) -> Float[Array, 'b t h w n d']:
  """o_i = Σ_j p_ij (v_j + a^V_ij), p = softmax_j(q_i·(k_j + a^K_ij) / √d).

  Shaw18 eq. 3 and 4, over the frames of each pixel; softmax in float32.

  Args:
    q: queries, n heads of d channels.
    k: keys.
    v: values.
    rel_k: a^K, query frames first.
    rel_v: a^V, query frames first.
  """
  d, n = q.shape[-1], q.shape[-2]
  # Time in front of everything: both products batch over leading axes, and
  # only whole frames move (half the backward pass of einsums left in place).
  # Examples and rows stay axes of their own, which devices may split.
  q, k, v = (rearrange(x, 'b t h w n d -> t b h (w n) d') for x in (q, k, v))
  einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  logits = einsum('tbhmd,sbhmd->bhmts', q, k)
  logits += einsum('tbhmd,tsd->bhmts', q, rel_k)
  p = jax.nn.softmax(logits * d**-0.5, axis=-1).astype(v.dtype)
  o = einsum('bhmts,sbhmd->tbhmd', p, v) + einsum('bhmts,tsd->tbhmd', p, rel_v)
  return rearrange(o.astype(v.dtype), 't b h (w n) d -> b t h w n d', n=n)


def output_projection(channels: int, dtype: DTypeLike) -> nn.DenseGeneral:
  """Heads back to channels, `[..., n, d] -> [..., c]`, initialised to zero."""
  return nn.DenseGeneral(
    channels,
    axis=(-2, -1),
    kernel_init=nn.initializers.zeros,
    dtype=dtype,
    name='out',
  )
