"""Operations of a ResNet in two forms: one that XLA runs fast on CPUs, and the plain one for accelerators.

Which one is compiled is decided by the device that the program is for.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jiqa.models.layers import mask_outside, precision_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x, kernel, stride):
  """[b, h, w, c] by [k, k, c, d] with torch's padding (k - 1) / 2, from which 'SAME' differs for stride 2.

  In the type of x; the gradient of the kernel in that of the kernel, see `layers.product`.
  """
  cpu, default = (functools.partial(form, stride=stride) for form in (_as_product, _as_convolution))
  return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _convolve_backward(stride, saved, gradient):
  cpu, default = (functools.partial(form, stride=stride) for form in (_gradients_by_products, _gradients))
  return jax.lax.platform_dependent(*saved, gradient, cpu=cpu, default=default)


convolve.defvjp(lambda x, kernel, stride: (convolve(x, kernel, stride), (x, kernel)), _convolve_backward)


def _as_product(x, kernel, stride):
  """1x1 as a matrix product is 1.4 times as fast on CPUs, and so is what has an output smaller than its kernel.

  The latter is met in the last stage of small crops: XLA has only scalar loops for it.
  """
  windows = _windows(x, kernel.shape[0], stride)
  if windows is None:
    return _as_convolution(x, kernel, stride)
  kernel = kernel.reshape(-1, kernel.shape[-1]).astype(x.dtype)
  return jnp.matmul(windows, kernel, precision=precision_of(x.dtype))


def _windows(x, size, stride):
  """What every output pixel sees, where a product with it is quicker than a convolution; else None."""
  if size == 1:
    return x[:, ::stride, ::stride]
  small = _known(x.shape[1:3]) and -(-min(x.shape[1:3]) // stride) < size
  return unfold(x, size, stride) if small else None


def _gradients_by_products(x, kernel, gradient, stride):
  windows = _windows(x, kernel.shape[0], stride)
  if windows is None:
    return _gradients(x, kernel, gradient, stride)
  (by_x,) = jax.linear_transpose(lambda x: _as_product(x, kernel, stride), x)(gradient)
  return by_x, _of_rows(windows, gradient).reshape(kernel.shape).astype(kernel.dtype)


def _as_convolution(x, kernel, stride):
  pad = (kernel.shape[0] - 1) // 2
  return _convolve(x, kernel, stride, (pad, pad))


def _convolve(x, kernel, stride, padding):
  layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": precision_of(x.dtype)}
  return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (stride, stride), (padding, padding), **layout)


def _gradients(x, kernel, gradient, stride):
  (by_x,) = jax.linear_transpose(lambda x: _as_convolution(x, kernel, stride), x)(gradient)
  return by_x, _correlate(x, gradient, kernel.shape[0], stride, kernel.dtype)


def _correlate(x, gradient, size, stride, dtype):
  """The gradient of a kernel: a convolution of x with the gradient over the batch, summed in float32."""
  pad = (size - 1) // 2
  ends = [stride * (n - 1) for n in gradient.shape[1:3]]
  padding = [(pad, size + end - n - pad) for n, end in zip(x.shape[1:3], ends, strict=True)]
  kernel = jax.lax.conv_general_dilated(
    x, gradient, (1, 1), padding, rhs_dilation=(stride, stride), dimension_numbers=("CHWN", "IHWO", "HWNC"),
    precision=precision_of(x.dtype), preferred_element_type=jnp.promote_types(x.dtype, dtype),
  )  # fmt: skip
  return kernel.astype(dtype)


def correlate(x, y):
  """The sums over places and images of products: [b, h, w, c] and [b, h, w, d] to [c, d] float32."""
  by_convolution = lambda x, y: _correlate(x, y, 1, 1, jnp.float32)[0, 0]
  return jax.lax.platform_dependent(x, y, cpu=_of_rows, default=by_convolution)


def _of_rows(x, y):
  x, y = (each.reshape(-1, each.shape[-1]) for each in (x, y))
  return jnp.matmul(x.T, y, precision=precision_of(x.dtype), preferred_element_type=jnp.float32)


def _known(shape):
  """Whether sides are numbers; in a program for any size (inference/export.py) they are symbols."""
  return all(isinstance(side, int) for side in shape)


def unfold(x, size, stride):
  """What every output pixel of a convolution sees: [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), size² c]."""
  h, w, pad = *x.shape[1:3], (size - 1) // 2
  x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  return jnp.concatenate([x[:, i : i + h : stride, j : j + w : stride] for i in range(size) for j in range(size)], -1)


def convolve_stem(x, kernel):
  """A convolution of stride 2 on pixels, [b, h, w, 3] by [7, 7, 3, d] to [b, ceil(h / 2), ceil(w / 2), d].

  As a 4x4 convolution on blocks of 2x2 pixels (space to depth), with 15 zeros added to every 49 products: three input
  channels leave vector and matrix units idle, twelve do not. On one CPU core it is four times as fast.
  """
  kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
  kernel = kernel.reshape(4, 2, 4, 2, 3, -1).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 12, -1)
  x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
  b, h, w, _ = x.shape
  x = x.reshape(b, h // 2, 2, w // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 12)
  return _convolve(x, kernel, 1, (2, 1))


@jax.custom_vjp
def max_pool(x):
  """3x3 maximum with stride 2 and padding 1: [b, h, w, c] to [b, ceil(h / 2), ceil(w / 2), c].

  Of equal values torch, and so an accelerator, gives the gradient to the first; a CPU shares it.
  """
  return jax.lax.platform_dependent(x, cpu=_pool_by_pairs, default=_pool_by_windows)


def _max_pool_backward(x, gradient):
  of = lambda form: lambda x, gradient: jax.vjp(form, x)[1](gradient)
  return jax.lax.platform_dependent(x, gradient, cpu=of(_pool_by_pairs), default=of(_pool_by_windows))


max_pool.defvjp(lambda x: (max_pool(x), x), _max_pool_backward)


def _pool_by_windows(x):
  return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def _pool_by_pairs(x):
  """Along rows, then along columns, from even and odd places: its gradient selects, instead of scattering.

  On a CPU that is nearly four times as fast.
  """
  for axis in (1, 2):
    length = (x.shape[axis] + 1) // 2
    pad = [(0, 0)] * 4
    pad[axis] = (0, x.shape[axis] % 2)
    pairs = jnp.pad(x, pad, constant_values=-jnp.inf).reshape(*x.shape[:axis], length, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    pad[axis] = (1, 0)
    before = jax.lax.slice_in_dim(jnp.pad(odd, pad, constant_values=-jnp.inf), 0, length, axis=axis)
    x = jnp.maximum(jnp.maximum(before, even), odd)
  return x


def mask_border(x, part):
  """`mask_outside` of what convolutions of 3x3, and the pooling, can read: on CPUs only the lines around each image."""
  if part is None:
    return x
  if not _known(x.shape):
    return mask_outside(x, part)
  # A ResNet-18 predicts 1.27 times as fast so; accelerators, where that was not measured, mask all.
  return jax.lax.platform_dependent(x, part, cpu=_zero_lines, default=mask_outside)


def _zero_lines(x, part):
  """Zeroes the rows and columns next to each image."""
  for axis in (0, 1):
    end = part.size[:, axis]
    if part.origin is not None:
      x = _zero_line(x, 1 + axis, -1 - part.origin[:, axis])
      end = end - part.origin[:, axis]
    x = _zero_line(x, 1 + axis, end)
  return x


def _zero_line(x, axis, place):
  """Zeroes one row (axis 1) or column (axis 2) of every image of [b, h, w, c]; a place [b] beyond it changes none."""
  place = jnp.where(place < 0, x.shape[axis], place)
  line = (slice(None),) * (axis - 1)
  return jax.vmap(lambda image, at: image.at[(*line, at)].set(0, mode="drop"))(x, place)
