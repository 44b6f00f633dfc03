"""Vision transformers: DeiT III's (Touvron et al. 2022), and a plain one for images of any size.

Attribute paths are those of the published checkpoints (`blocks.0.attn.qkv`). Parameters, the residual stream, layer
norms and softmax are float32 whatever the dtype of the products.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jiqa.models.layers import LayerNorm, Linear, Part, attend, average, embed_patches, gelu, inside, mask_outside


def normal_init(width):
  """The published 0.02 at the published width of 384, and the same variance of sums over `width` terms at others.

  torch's `trunc_normal_(std=0.02)` cuts at +-2, a hundred standard deviations away: nothing is cut here.
  """
  return nnx.initializers.normal(0.02 * (384 / width) ** 0.5)


class PatchEmbed(nnx.Module):
  """Non-overlapping patches, each through one linear map: a strided convolution, computed as a matrix product."""

  def __init__(self, patch, width, *, dtype, rngs):
    bound = (3 * patch * patch) ** -0.5  # torch's default for convolutions
    init = functools.partial(jax.random.uniform, dtype=jnp.float32, minval=-bound, maxval=bound)
    kernel, bias = init(rngs.params(), (patch, patch, 3, width)), init(rngs.params(), (width,))
    self.proj, self.dtype = nnx.Dict(kernel=nnx.Param(kernel), bias=nnx.Param(bias)), dtype

  def __call__(self, x):
    """[b, h, w, 3] to [b, h/patch * w/patch, width], patches in rows."""
    return embed_patches(x, self.proj.kernel[...], self.dtype) + self.proj.bias[...]


class Block(nnx.Module):
  """A pre-norm transformer block whose two branches, self-attention and MLP, are scaled per feature."""

  def __init__(self, width, heads, layer_scale, *, dtype, rngs):
    linear = functools.partial(Linear, init=normal_init(width), dtype=dtype, rngs=rngs)
    self.norm1, self.norm2 = LayerNorm(width, 1e-6), LayerNorm(width, 1e-6)
    self.attn = nnx.Dict(qkv=linear(width, 3 * width), proj=linear(width, width))
    self.mlp = nnx.Dict(fc1=linear(width, 4 * width), fc2=linear(4 * width, width))
    self.gamma_1, self.gamma_2 = (nnx.Param(jnp.full(width, layer_scale, jnp.float32)) for _ in range(2))
    self.heads = heads

  def __call__(self, x, mask=None):
    """[b, t, d] float32 to ([b, t, d] float32, attention weights [b, heads, t, t]); mask as in `attend`."""
    mixed, weights = attend(*jnp.split(self.attn.qkv(self.norm1(x)), 3, -1), self.heads, mask)
    x = x + self.gamma_1[...] * self.attn.proj(mixed)
    return x + self.gamma_2[...] * self.mlp.fc2(gelu(self.mlp.fc1(self.norm2(x)))), weights


class ViT(nnx.Module):
  """DeiT III's encoder. ViT-S/16: image 224, patch 16, width 384, depth 12, 6 heads.

  Image and patch are sides in pixels; the position embedding fits no other. `layer_scale` is what the branches are
  scaled by at first, `dtype` that of the matrix products.
  """

  def __init__(self, image, patch, width, depth, heads, *, layer_scale=1e-4, dtype=jnp.float32, rngs):
    if image % patch or width % heads:
      raise ValueError(f"image {image} must be a multiple of patch {patch}, and width {width} of heads {heads}")
    self.cls_token = nnx.Param(normal_init(width)(rngs.params(), (1, 1, width), jnp.float32))
    self.pos_embed = nnx.Param(normal_init(width)(rngs.params(), (1, (image // patch) ** 2, width), jnp.float32))
    self.patch_embed = PatchEmbed(patch, width, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List([Block(width, heads, layer_scale, dtype=dtype, rngs=rngs) for _ in range(depth)])
    self.norm = LayerNorm(width, 1e-6)
    self.image = image

  def __call__(self, x):
    """Encodes images [b, image, image, 3] float32, normalised as the weights expect; ValueError for other sizes.

    To (tokens [b, 1 + t, width] float32, class token first, then patches in rows; attention [b, heads, t] float32: what
    the class token looks at in the last block, itself left out).
    """
    if x.shape[1:] != (self.image, self.image, 3):
      raise ValueError(f"images are {x.shape[1:]}; this encoder takes ({self.image}, {self.image}, 3)")
    x = self.patch_embed(x) + self.pos_embed[...]
    x = jnp.concatenate([jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, x.shape[2])), x], 1)
    for block in self.blocks:
      x, weights = block(x)
      x = checkpoint_name(x, "block")
    return self.norm(x), weights[:, :, 0, 1:]


class PooledViT(nnx.Module):
  """A plain ViT for images of any size, whose features are the mean over its tokens; an `Encoder`, see encoders.py.

  Positions are sines and cosines (Vaswani et al. 2017) of where in the image a patch lies, relative to its sides: what
  interpolating a position embedding comes to. Memory grows with the square of the number of patches.

  Args:
    depth: number of blocks.
    width: features of a token, a multiple of 4.
    patch: side of a patch, pixels; those at the lower and right border are filled up with zeros.
    heads: of every attention; None: one for every 64 features.
    bn_groups, dtype, rngs: see `Encoder`; there is no batch normalisation.
  """

  reach = None

  def __init__(self, depth, width, patch=16, heads=None, *, bn_groups=1, dtype=jnp.float32, rngs):
    del bn_groups
    heads = heads or max(width // 64, 1)
    if width % heads or width % 4:
      raise ValueError(f"width {width} must be a multiple of heads {heads}, and of 4")
    self.patch_embed = PatchEmbed(patch, width, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List([Block(width, heads, 1.0, dtype=dtype, rngs=rngs) for _ in range(depth)])
    self.norm = LayerNorm(width, 1e-6)
    self.num_features, self.stride = width, patch

  def __call__(self, x, size=None, *, train=False):
    """[b, h, w, 3] float32 to [b, width] float32; arguments as those of `Encoder`."""
    del train  # there are no running statistics
    b, h, w, _ = x.shape
    part = Part(jnp.broadcast_to(jnp.int32([h, w]), (b, 2)) if size is None else size)
    x = jnp.pad(mask_outside(x, part), ((0, 0), (0, -h % self.stride), (0, -w % self.stride), (0, 0)))
    rows, columns = (side // self.stride for side in x.shape[1:3])
    grid = Part(-(-part.size // self.stride))
    real = inside(rows, columns, grid).reshape(b, -1)
    x = self.patch_embed(x) + _positions(rows, columns, grid.size, self.num_features)
    for block in self.blocks:
      x = checkpoint_name(block(x, real[:, None])[0], "block")
    return average(mask_outside(self.norm(x).reshape(b, rows, columns, -1), grid), grid)


def _positions(rows, columns, size, width):
  """[b, rows * columns, width]: sines and cosines of rows and columns, as many waves as in a grid of 14 x 14."""
  frequencies = 10000.0 ** -(jnp.arange(width // 4) / (width // 4))
  axes = []
  for axis, length in enumerate((rows, columns)):
    place = 14 * (jnp.arange(length) + 0.5) / size[:, axis, None]
    angle = place[..., None] * frequencies
    axes.append(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1))
  shape = (len(size), rows, columns, width // 2)
  both = [jnp.broadcast_to(axes[0][:, :, None], shape), jnp.broadcast_to(axes[1][:, None], shape)]
  return jnp.concatenate(both, -1).reshape(len(size), rows * columns, width)
