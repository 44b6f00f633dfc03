"""Operations of a ResNet in the forms that XLA runs fast on CPUs; accelerators run them too, but for `mask_border`."""

import jax
import jax.numpy as jnp

from jiqa.models.layers import mask_outside, precision_of, product


def convolve(x, kernel, stride):
  """[b, h, w, c] by [k, k, c, d] with torch's padding (k - 1) / 2, from which 'SAME' differs for stride 2.

  1x1 is a matrix product, which is 1.4 times as fast. So is any whose output is smaller than its kernel, as in the last
  stage of small crops: for those XLA has only scalar loops.
  """
  if kernel.shape[0] == 1:
    return product(x[:, ::stride, ::stride], kernel[0, 0])
  if _known(x.shape[1:3]) and -(-min(x.shape[1:3]) // stride) < kernel.shape[0]:
    return product(unfold(x, kernel.shape[0], stride), kernel.reshape(-1, kernel.shape[-1]))
  pad = (kernel.shape[0] - 1) // 2
  return _convolve(x, kernel, stride, (pad, pad))


def _convolve(x, kernel, stride, padding):
  layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": precision_of(x.dtype)}
  return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (stride, stride), (padding, padding), **layout)


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


def max_pool(x):
  """3x3 maximum with stride 2 and padding 1 of what is not negative: [b, h, w, c] to [b, ceil(h / 2), ceil(w / 2), c].

  Zeros as padding equal torch's -inf, as every window holds a value of the image. First along rows, then along columns,
  from the even and the odd places: the gradient is then a selection, nearly four times as fast as the scatter of
  `reduce_window`. Equal values share a gradient that torch gives to the first; after a ReLU they are zeros without one.
  """
  for axis in (1, 2):
    length = (x.shape[axis] + 1) // 2
    pad = [(0, 0)] * 4
    pad[axis] = (0, x.shape[axis] % 2)
    pairs = jnp.pad(x, pad).reshape(*x.shape[:axis], length, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    pad[axis] = (1, 0)
    before = jax.lax.slice_in_dim(jnp.pad(odd, pad), 0, length, axis=axis)
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
