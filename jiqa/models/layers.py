"""Layers that several networks share, and the masks by which a padded image gives the features of the unpadded one.

Parameters, statistics and normalisation are float32 whatever the dtype of the products.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

WHOLE = (slice(None), slice(None))  # the window in which everything counts
# What the pixels in [0, 1] of networks trained on ImageNet are normalised by.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Part(NamedTuple):
  """Which part of what image each row of a batch shows."""

  size: jax.Array  # [b, 2] int32, height and width of the image
  # [b, 2] int32, where in the image the row's first pixel lies, a multiple of the network's stride, perhaps negative;
  # None: (0, 0) for all
  origin: jax.Array | None = None


def unit_pixels(pixels):
  """uint8, or floats in [0, 1], as float32 in [0, 1]."""
  return pixels.astype(jnp.float32) / (255 if pixels.dtype == jnp.uint8 else 1)


def cut(images, corners, side):
  """Windows of images [b, h, w, 3] at (top, left) corners [n, 2], NumPy: [b, n, side, side, 3]."""
  return jnp.stack([images[:, top : top + side, left : left + side] for top, left in corners.tolist()], 1)


def halve(part):
  """The part after a layer of stride 2 that maps a length n to ceil(n / 2)."""
  if part is None:
    return None
  return Part((part.size + 1) // 2, None if part.origin is None else part.origin // 2)


def inside(height, width, part):
  """[b, height, width] bool: the places of a frame that lie in each image."""
  axes = []
  for axis, length in enumerate((height, width)):
    place = jnp.arange(length) + (0 if part.origin is None else part.origin[:, axis, None])
    axes.append((place >= 0) & (place < part.size[:, axis, None]))
  return axes[0][:, :, None] & axes[1][:, None, :]


def mask_outside(x, part):
  """Zeroes what lies outside each image: x [b, h, w, c]; a part of None leaves it as it is."""
  return x if part is None else jnp.where(inside(*x.shape[1:3], part)[..., None], x, 0)


def in_window(x, part, window, step):
  """What lies in the image and counts: x [b, h, w, c], zero outside of its `part`, cut to a window.

  `window` is a pair of slices, rows and columns in pixels of the frame, where two places of x are `step` apart.
  """
  cut = (slice(*(None if at is None else at // step for at in (axis.start, axis.stop))) for axis in window)
  return mask_outside(x, part)[:, *cut]


def average(x, part):
  """The mean over each image: x [b, h, w, c], zero outside of its `Part`, to [b, c] float32."""
  total = x.astype(jnp.float32).sum((1, 2))
  return total / (x.shape[1] * x.shape[2] if part is None else part.size.prod(1, keepdims=True))


def precision_of(dtype):
  """Where float32 is asked for, accelerators must not fall back to bfloat16 or TF32."""
  return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


@jax.custom_vjp
def product(x, kernel):
  """x [..., inputs] @ kernel [inputs, outputs] in the type of x, with the gradient of the kernel in the kernel's type.

  What each device adds to a gradient is summed over devices in the type in which it leaves the product: in float32,
  unless the kernel was rounded before (config.reduce_dtype).
  """
  return jnp.matmul(x, kernel.astype(x.dtype), precision=precision_of(x.dtype))


def _product_backward(saved, gradient):
  x, kernel = saved
  by_x = jnp.matmul(gradient, kernel.astype(x.dtype).T, precision=precision_of(x.dtype))
  rows = tuple(range(x.ndim - 1))
  options = {"precision": precision_of(x.dtype), "preferred_element_type": jnp.promote_types(x.dtype, kernel.dtype)}
  return by_x, jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())), **options).astype(kernel.dtype)


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_backward)


def moments(x, axes):
  """Mean and biased variance over axes, float32."""
  x = x.astype(jnp.float32)
  mean = x.mean(axes)
  return mean, jnp.maximum(jnp.square(x).mean(axes) - jnp.square(mean), 0)


class BatchNorm(nnx.Module):
  """Batch normalisation with float32 statistics, over the whole (sharded) batch or over `groups` equal parts of it.

  With as many groups as devices the statistics are the per-device ones of PyTorch's DistributedDataParallel. Running
  statistics follow the mean over groups. Momentum 0.9 is torch's 0.1; the variance is the biased one, as in flax.
  """

  def __init__(self, features, *, groups=1, dtype, epsilon=1e-5, momentum=0.9):
    self.scale = nnx.Param(jnp.ones(features, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
    self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
    self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
    self.groups, self.dtype, self.epsilon, self.momentum = groups, dtype, epsilon, momentum

  def __call__(self, x, train):
    if not train:
      return self.normalise(x, self.mean[...], self.var[...])
    grouped = x.reshape(self.groups, -1, *x.shape[1:])
    mean, var = moments(grouped, (1, 2, 3))
    self.follow(mean.mean(0), var.mean(0))
    broadcast = (self.groups, 1, 1, 1, x.shape[-1])
    return self.normalise(grouped, mean.reshape(broadcast), var.reshape(broadcast)).reshape(x.shape)

  def follow(self, mean, var):
    """Moves the running statistics towards those of a batch, [features] float32."""
    for running, batch in ((self.mean, mean), (self.var, var)):
      running[...] = self.momentum * running[...] + (1 - self.momentum) * batch

  def normalise(self, x, mean, var, sign=1):
    """Normalises x, which is the layer's input times `sign` and has these moments, [features] float32."""
    factor = sign * self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
    return (x * factor + (self.bias[...] - mean * factor)).astype(self.dtype)


class SummingEncoder(nnx.Module):
  """An `Encoder` (encoders.py) by its `sums` over places and their `pool`."""

  def __call__(self, x, size=None, *, train=False):
    """[b, num_features] float32; see `Encoder`."""
    if train and size is not None:
      raise ValueError("training batches are not padded: pass size=None with train=True")
    sums = self.sums(x, None if size is None else Part(size), train=train)
    return self.pool(sums, jnp.array([x.shape[1:3]]) if size is None else size)


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


class Linear(nnx.Module):
  """x @ kernel + bias, the product in `dtype`, of flat rows: XLA transposes what the gradient of `nnx.Linear` reads."""

  def __init__(self, inputs, outputs, init, *, bias=True, dtype, rngs):
    self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
    self.dtype = dtype

  def __call__(self, x, columns=slice(None)):
    """[..., inputs] to [..., outputs] of `dtype`; `columns`: the outputs asked for."""
    y = product(x.reshape(-1, x.shape[-1]).astype(self.dtype), self.kernel[...][:, columns])
    y = y if self.bias is None else (y + self.bias[...][columns]).astype(self.dtype)
    return y.reshape(*x.shape[:-1], -1)


def gelu(x):
  """x times the standard normal distribution function, exactly; by erf, which costs half of `jax.nn.gelu`'s erfc.

  Example:
    >>> [round(float(gelu(jnp.float32(x))), 5) for x in (-2.0, 0.0, 1.0)]
    [-0.0455, 0.0, 0.84134]
  """
  x = x.astype(jnp.float32)
  return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def attend(query, key, value, heads, mask=None):
  """Scaled dot-product attention; unlike `jax.nn.dot_product_attention` exact in float32, and it gives the weights.

  Args:
    query, key, value: [b, q, d], [b, t, d], [b, t, d]; every head has d / heads consecutive features.
    mask: bool, broadcasts to [b, q, t]; False where a query must not look.

  Returns:
    ([b, q, d] of query's dtype, weights [b, heads, q, t] float32).
  """

  def split(x):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

  precision = precision_of(query.dtype)
  scale = (query.shape[-1] // heads) ** -0.5
  logits = jnp.matmul(split(query) * scale, split(key).transpose(0, 1, 3, 2), precision=precision).astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask[..., None, :, :], logits, -jnp.inf)
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
  total = weights.sum(-1, keepdims=True)
  # Divided after the product: there are fewer values then.
  mixed = jnp.matmul(weights.astype(value.dtype), split(value), precision=precision) / total
  mixed = mixed.astype(query.dtype).transpose(0, 2, 1, 3)
  return mixed.reshape(query.shape), weights / total


def embed_patches(x, kernel, dtype):
  """A convolution of patches as one product: [b, h, w, c], kernel [patch, patch, c, d] to [b, h/patch * w/patch, d]."""
  patch, width = kernel.shape[0], kernel.shape[-1]
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
  x = product(x.reshape(-1, patch * patch * c).astype(dtype), kernel.reshape(-1, width))
  return x.reshape(b, -1, width).astype(jnp.float32)


class Projector(nnx.Module):
  """The training-only head of MoCo-v2: linear, ReLU, linear, unit length. Named '0' and '2' as published."""

  def __init__(self, inputs, outputs=128, *, dtype=jnp.float32, rngs):
    def linear(outputs):  # with torch's defaults
      init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
      layer = Linear(inputs, outputs, init, dtype=dtype, rngs=rngs)
      layer.bias = nnx.Param(jax.random.uniform(rngs.params(), (outputs,), jnp.float32, -1, 1) * inputs**-0.5)
      return layer

    self.layers = nnx.Dict({"0": linear(inputs), "2": linear(outputs)})

  def __call__(self, x):
    """[b, inputs] to [b, outputs] float32 of unit length."""
    x = self.layers["2"](jax.nn.relu(self.layers["0"](x))).astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
