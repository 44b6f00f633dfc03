"""The vision transformer of DeiT III (Touvron et al. 2022): LayerScale, exact GELU, a class token without position.

Attribute paths are those of the published checkpoints (`blocks.0.attn.qkv`): a checkpoint becomes ours by renaming and
transposing. Parameters, the residual stream, layer norms and softmax are float32 whatever the dtype of the products.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name


def normal_init(width):
  """The published 0.02 at the published width of 384, and the same variance of sums over `width` terms at others.

  torch's `trunc_normal_(std=0.02)` cuts at +-2, a hundred standard deviations away: nothing is cut here.
  """
  return nnx.initializers.normal(0.02 * (384 / width) ** 0.5)


def precision_of(dtype):
  """Where float32 is asked for, accelerators must not fall back to bfloat16 or TF32."""
  return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


class Linear(nnx.Module):
  """x @ kernel + bias, the product in `dtype`."""

  def __init__(self, inputs, outputs, init, *, bias=True, dtype, rngs):
    self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
    self.dtype = dtype

  def __call__(self, x, columns=slice(None)):
    """[..., inputs] to [..., outputs] of `dtype`; `columns`: the outputs wanted."""
    kernel = self.kernel[...][:, columns].astype(self.dtype)
    rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
    y = jnp.matmul(rows, kernel, precision=precision_of(self.dtype))
    y = y if self.bias is None else y + self.bias[...][columns].astype(self.dtype)
    return y.reshape(*x.shape[:-1], -1)


class LayerNorm(nnx.Module):
  """Layer normalisation of the last axis, in float32."""

  def __init__(self, features, epsilon):
    self.scale = nnx.Param(jnp.ones(features, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
    self.epsilon = epsilon

  def __call__(self, x):
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon) * self.scale[...] + self.bias[...]


def gelu(x):
  """x times the standard normal distribution function, exactly; by erf, which costs half of `jax.nn.gelu`'s erfc.

  Example:
    >>> [round(float(gelu(jnp.float32(x))), 5) for x in (-2.0, 0.0, 1.0)]
    [-0.0455, 0.0, 0.84134]
  """
  x = x.astype(jnp.float32)
  return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class PatchEmbed(nnx.Module):
  """Non-overlapping patches, each through one linear map: a strided convolution, computed as a matrix product."""

  def __init__(self, patch, width, *, dtype, rngs):
    bound = (3 * patch * patch) ** -0.5  # torch's default for convolutions

    def init(key, shape):
      return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    self.proj = nnx.Dict(
      kernel=nnx.Param(init(rngs.params(), (patch, patch, 3, width))), bias=nnx.Param(init(rngs.params(), (width,)))
    )
    self.dtype = dtype

  def __call__(self, x):
    """[b, h, w, 3] to [b, h/patch * w/patch, width], patches in rows."""
    kernel = self.proj.kernel[...]
    patch, width = kernel.shape[0], kernel.shape[-1]
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, patch * patch * c).astype(self.dtype)
    x = jnp.matmul(x, kernel.reshape(-1, width).astype(self.dtype), precision=precision_of(self.dtype))
    return x.reshape(b, -1, width).astype(jnp.float32) + self.proj.bias[...]


def attend(query, key, value, heads):
  """Scaled dot-product attention.

  Args:
    query: [b, q, d]; every head has d / heads consecutive features.
    key, value: [b, t, d].
    heads: int.

  Returns:
    ([b, q, d] of query's dtype, weights [b, heads, q, t] float32).
  """

  def split(x):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

  precision = precision_of(query.dtype)
  scale = (query.shape[-1] // heads) ** -0.5
  logits = jnp.matmul(split(query) * scale, split(key).transpose(0, 1, 3, 2), precision=precision).astype(jnp.float32)
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
  total = weights.sum(-1, keepdims=True)
  # Divided after the product: there are fewer values then.
  mixed = jnp.matmul(weights.astype(value.dtype), split(value), precision=precision) / total
  mixed = mixed.astype(query.dtype).transpose(0, 2, 1, 3)
  return mixed.reshape(query.shape), weights / total


class Attention(nnx.Module):
  """Multi-head self-attention."""

  def __init__(self, width, heads, *, dtype, rngs):
    self.qkv = Linear(width, 3 * width, normal_init(width), dtype=dtype, rngs=rngs)
    self.proj = Linear(width, width, normal_init(width), dtype=dtype, rngs=rngs)
    self.heads = heads

  def __call__(self, x):
    """[b, t, d] to ([b, t, d], weights [b, heads, t, t])."""
    mixed, weights = attend(*jnp.split(self.qkv(x), 3, -1), self.heads)
    return self.proj(mixed), weights


class MLP(nnx.Module):
  """Two linear maps with an exact (erf) GELU between them."""

  def __init__(self, width, hidden, *, dtype, rngs):
    self.fc1 = Linear(width, hidden, normal_init(width), dtype=dtype, rngs=rngs)
    self.fc2 = Linear(hidden, width, normal_init(width), dtype=dtype, rngs=rngs)

  def __call__(self, x):
    return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
  """A pre-norm transformer block whose two branches are scaled per feature."""

  def __init__(self, width, heads, layer_scale, *, dtype, rngs):
    self.norm1, self.norm2 = LayerNorm(width, 1e-6), LayerNorm(width, 1e-6)
    self.attn = Attention(width, heads, dtype=dtype, rngs=rngs)
    self.mlp = MLP(width, 4 * width, dtype=dtype, rngs=rngs)
    self.gamma_1 = nnx.Param(jnp.full(width, layer_scale, jnp.float32))
    self.gamma_2 = nnx.Param(jnp.full(width, layer_scale, jnp.float32))

  def __call__(self, x):
    """[b, t, d] float32 to ([b, t, d] float32, attention weights [b, heads, t, t])."""
    mixed, weights = self.attn(self.norm1(x))
    x = x + self.gamma_1[...] * mixed
    return x + self.gamma_2[...] * self.mlp(self.norm2(x)), weights


class ViT(nnx.Module):
  """DeiT III's encoder. ViT-S/16: image 224, patch 16, width 384, depth 12, 6 heads.

  Args:
    image: side of the images, pixels; the position embedding fits no other.
    patch: side of a patch, pixels; divides `image`.
    width: features of a token; a multiple of `heads`.
    depth: number of blocks.
    heads: of every attention.
    layer_scale: what the branches are scaled by at first.
    dtype: of the matrix products.
    rngs: nnx.Rngs with a 'params' stream.

  Raises:
    ValueError: if the patches do not tile the image or the heads do not share the features evenly.
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
    """Encodes images.

    Args:
      x: [b, image, image, 3] float32, normalised as the weights expect.

    Returns:
      (tokens [b, 1 + t, width] float32, class token first, then patches in rows; attention [b, heads, t] float32: what
      the class token looks at in the last block, itself left out).

    Raises:
      ValueError: for images of another size.
    """
    if x.shape[1:] != (self.image, self.image, 3):
      raise ValueError(f"images are {x.shape[1:]}; this encoder takes ({self.image}, {self.image}, 3)")
    x = self.patch_embed(x) + self.pos_embed[...]
    x = jnp.concatenate([jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, x.shape[2])), x], 1)
    for block in self.blocks:
      x, weights = block(x)
      x = checkpoint_name(x, "block")
    return self.norm(x), weights[:, :, 0, 1:]
