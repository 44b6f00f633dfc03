"""EfficientNet-Lite encoders (Tan and Le 2019, without squeeze-excitation; ReLU6), seen at every depth.

Attribute paths are those of the published PyTorch files without their leading underscores (`blocks.0.depthwise_conv`).
Convolutions pad as TensorFlow does ('SAME'): with stride 2 the side of the odd zero depends on the parity of the
image's own side, so a padded image brings its size with it, as in resnet.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jiqa.models.layers import WHOLE, BatchNorm, SummingEncoder, halve, in_window, mask_outside, product

# Of every stage: expansion, channels, blocks, stride of the first block, kernel size.
STAGES = (
  (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
  (6, 320, 1, 1, 3),
)  # fmt: skip
STEM, LAST = 32, 1280  # channels of the first and the last convolution
# (width, depth) factors of lite0, lite1 and lite2; the first and the last stage keep their one block.
FACTORS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
EPSILON = 1e-6  # below the square root of a deviation, whose gradient is infinite at 0

_conv_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Pointwise(nnx.Module):
  """A 1x1 convolution without bias, as a product of matrices."""

  def __init__(self, inputs, outputs, *, dtype, rngs):
    self.kernel = nnx.Param(_conv_init(rngs.params(), (1, 1, inputs, outputs), jnp.float32))
    self.dtype = dtype

  def __call__(self, x):
    rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)  # of more axes the gradient would be transposed
    return product(rows, self.kernel[...][0, 0]).reshape(*x.shape[:-1], -1)


class Depthwise(nnx.Module):
  """A convolution of every channel by itself, without bias."""

  def __init__(self, channels, size, stride, *, dtype, rngs):
    init = nnx.initializers.normal((2 / size**2) ** 0.5)
    self.kernel = nnx.Param(init(rngs.params(), (size, size, 1, channels), jnp.float32))
    self.stride, self.dtype = stride, dtype

  def __call__(self, x, part):
    """[b, h, w, c], zero outside of its part, to [b, ceil(h / stride), ceil(w / stride), c]."""
    kernel = self.kernel[...][:, :, 0].astype(self.dtype)[None]
    if self.stride == 2:
      kernel = shift_kernel(kernel, x.shape[1:3], part)
    return shifted_products(pad_windows(x.astype(self.dtype), self.kernel.shape[0], self.stride), kernel, self.stride)


class Stem(nnx.Module):
  """The 3x3 convolution of stride 2 on the pixels, as a product of matrices with the 4x4 pixels of each window."""

  def __init__(self, outputs, *, dtype, rngs):
    self.kernel = nnx.Param(_conv_init(rngs.params(), (3, 3, 3, outputs), jnp.float32))
    self.dtype = dtype

  def __call__(self, x, part):
    """[b, h, w, 3], zero outside of its part, to [b, ceil(h / 2), ceil(w / 2), c]."""
    kernel = shift_kernel(self.kernel[...][None], x.shape[1:3], part)
    x = pad_windows(x.astype(self.dtype), 3, 2)
    rows, columns = (x.shape[1] - 2) // 2, (x.shape[2] - 2) // 2
    cells = x.reshape(x.shape[0], rows + 1, 2, columns + 1, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    cells = cells.reshape(*cells.shape[:3], 12)
    windows = [cells[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)]
    windows = jnp.concatenate(windows, -1).reshape(x.shape[0], rows * columns, 48)
    kernel = kernel.reshape(-1, 2, 2, 2, 2, 3, kernel.shape[-1]).transpose(0, 1, 3, 2, 4, 5, 6)
    kernel = kernel.reshape(kernel.shape[0], 48, -1)
    y = product(windows, kernel[0]) if kernel.shape[0] == 1 else jax.vmap(product)(windows, kernel)
    return y.reshape(x.shape[0], rows, columns, -1)


def shift_kernel(kernel, shape, part):
  """A kernel [1, k, k, ...] of stride 2 where TensorFlow lays it in a larger window: [1 or b, k + 1, k + 1, ...].

  Windows begin (k - 1) / 2 before every second pixel. That is right for images of an odd side; those of an even side
  are padded one less in front, so that the kernel lies one further. `shape` is the frame's height and width, the
  images' own where `part` is None.
  """
  for axis in (0, 1):
    pads = [[(0, 0)] * kernel.ndim for _ in (0, 1)]
    pads[0][1 + axis], pads[1][1 + axis] = (1, 0), (0, 1)  # of even and of odd sides
    if part is None:
      kernel = jnp.pad(kernel, pads[shape[axis] % 2])
    else:
      odd = (part.size[:, axis] % 2 == 1).reshape(-1, *[1] * (kernel.ndim - 1))
      kernel = jnp.where(odd, jnp.pad(kernel, pads[1]), jnp.pad(kernel, pads[0]))
  return kernel


def pad_windows(x, size, stride):
  """Zeros around [b, h, w, c] for windows of a kernel of `size`; with stride 2 for those of `shift_kernel`."""
  before = (size - 1) // 2
  if stride == 1:
    padding = [(before, before)] * 2
  else:
    padding = [(before, 2 * ((side + 1) // 2) + size - 1 - before - side) for side in x.shape[1:3]]
  return jnp.pad(x, ((0, 0), *padding, (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted_products(x, kernel, stride):
  """A depthwise convolution without padding, as the sum of products of the shifted image with the kernel's entries.

  On CPUs that is 10 to 50 times as fast as XLA's grouped convolution, and so is its gradient in the same form. From
  x [b, h, w, c] and kernel [1 or b, s, s, c] to [b, (h - s) // stride + 1, (w - s) // stride + 1, c].
  """
  size = kernel.shape[1]
  rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
  shifted, entries = _shifts(x, size, stride, rows, columns), _shifts(kernel, size, 1, 1, 1)
  return sum(image * entry for image, entry in zip(shifted, entries, strict=True))


def _shifts(x, size, stride, rows, columns):
  """What stands 0 to `size` - 1 rows and columns after the beginning of every window, each [b, rows, columns, c]."""
  for i in range(size):
    for j in range(size):  # not x[:, i : ..., j : ...], which takes three times as long to trace
      ends = (x.shape[0], i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, x.shape[3])
      yield jax.lax.slice(x, (0, i, j, 0), ends, (1, stride, stride, 1))


def _products_backward(stride, saved, gradient):
  x, kernel = saved
  size, (rows, columns) = kernel.shape[1], gradient.shape[1:3]
  ends = (side - stride * (n - 1) - 1 for side, n in zip(x.shape[1:3], (rows, columns), strict=True))
  padding = [(0, 0, 0), *((size - 1, end, stride - 1) for end in ends), (0, 0, 0)]
  spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), padding)
  by_x = shifted_products(spread, kernel[:, ::-1, ::-1], 1)
  axes = (0, 1, 2) if kernel.shape[0] == 1 else (1, 2)
  sums = [(image * gradient).sum(axes) for image in _shifts(x, size, stride, rows, columns)]
  return by_x, jnp.moveaxis(jnp.stack(sums).reshape(size, size, -1, x.shape[-1]), 2, 0).astype(kernel.dtype)


shifted_products.defvjp(
  lambda x, kernel, stride: (shifted_products(x, kernel, stride), (x, kernel)), _products_backward
)


class Block(nnx.Module):
  """Expansion, depthwise convolution, projection; the input is added where the shapes agree."""

  def __init__(self, inputs, outputs, size, stride, expansion, *, bn, dtype, rngs):
    inner = inputs * expansion
    self.expand_conv = Pointwise(inputs, inner, dtype=dtype, rngs=rngs) if expansion > 1 else None
    self.bn0 = bn(inner) if expansion > 1 else None
    self.depthwise_conv, self.bn1 = Depthwise(inner, size, stride, dtype=dtype, rngs=rngs), bn(inner)
    self.project_conv, self.bn2 = Pointwise(inner, outputs, dtype=dtype, rngs=rngs), bn(outputs)
    self.stride, self.adds = stride, stride == 1 and inputs == outputs

  def __call__(self, x, part, train):
    """[b, h, w, c], anything outside its `part`, to the block's output and the part that it shows."""
    y = x if self.expand_conv is None else jax.nn.relu6(self.bn0(self.expand_conv(x), train))
    y = self.depthwise_conv(mask_outside(y, part), part)
    part = part if self.stride == 1 else halve(part)
    y = self.bn2(self.project_conv(jax.nn.relu6(self.bn1(y, train))), train)
    return (x + y if self.adds else y), part


class EfficientNetLite(SummingEncoder):
  """EfficientNet-Lite without its classifier; an `Encoder`, see encoders.py.

  Its features are the mean and the standard deviation over the image of the outputs of every stage and of the last
  convolution: quality is seen in the early stages and in the deviations, content in the last means.

  Args:
    variant: 0, 1 or 2 of lite0, lite1, lite2.
    levels: 1 to 8, how many levels are seen: so many stages, and with 8 the last convolution.
    width: factor of all channels besides the variant's own, for small networks.
    bn_groups, dtype, rngs: see `Encoder`.
  """

  def __init__(self, variant=0, width=1.0, levels=8, *, bn_groups=1, dtype=jnp.float32, rngs):
    if variant not in range(len(FACTORS)):
      raise ValueError(f"EfficientNet-Lite variant {variant} is not one of 0, 1, 2")
    if levels not in range(1, len(STAGES) + 2):
      raise ValueError(f"EfficientNet-Lite has 1 to {len(STAGES) + 1} levels, not {levels}")
    wider, deeper = FACTORS[variant]
    options = {"dtype": dtype, "rngs": rngs}
    bn = functools.partial(BatchNorm, groups=bn_groups, dtype=dtype, epsilon=1e-3, momentum=0.99)
    channels, blocks, levels_seen = round_channels(STEM * width), [], []
    self.conv_stem, self.bn0, self.stride = Stem(channels, **options), bn(channels), 2
    for number, (expansion, outputs, count, stride, size) in enumerate(STAGES[:levels]):
      outputs = round_channels(outputs * wider * width)
      count = count if number in (0, len(STAGES) - 1) else math.ceil(count * deeper)
      for i in range(count):
        blocks.append(Block(channels, outputs, size, stride if i == 0 else 1, expansion, bn=bn, **options))
        channels = outputs
      self.stride *= stride
      levels_seen.append((len(blocks), self.stride, channels))
    self.blocks = nnx.List(blocks)
    if levels > len(STAGES):
      last = round_channels(LAST * width)
      self.conv_head, self.bn1 = Pointwise(channels, last, **options), bn(last)
      levels_seen.append((len(blocks) + 1, self.stride, last))
    self.levels = tuple(levels_seen)  # of each the number of blocks before it, the stride and the channels
    self.num_features = 2 * sum(channels for *_, channels in self.levels)

  @property
  def reach(self):
    """Pixels that a last activation sees to each side."""
    reach, step = 2, 2
    for block in self.blocks:
      size = block.depthwise_conv.kernel.shape[0]
      reach += step * ((size - 1) // 2 + (block.stride - 1))
      step *= block.stride
    return reach

  def sums(self, x, part=None, window=WHOLE, *, train=False):
    """For every level the sums over the window of its activations and of their squares, [b, 2, c]; see `Encoder`."""
    sums, steps = [], {blocks: step for blocks, step, _ in self.levels}
    x, part = self.conv_stem(mask_outside(x, part), part), halve(part)
    x = jax.nn.relu6(self.bn0(x, train))
    for number, block in enumerate(self.blocks, 1):
      x, part = block(x, part, train)
      x = checkpoint_name(x, "block")
      if number in steps:
        sums.append(_sums(x, part, window, steps[number]))
    if len(self.levels) > len(STAGES):
      x = jax.nn.relu6(self.bn1(self.conv_head(x), train))
      sums.append(_sums(x, part, window, self.stride))
    return sums

  def pool(self, sums, size):
    """Of every level its means, then its deviations; see `Encoder`."""
    features = []
    for (_, step, _), level in zip(self.levels, sums, strict=True):
      count = (-(-size // step)).prod(1)[:, None]
      mean, square = level[:, 0] / count, level[:, 1] / count
      features += [mean, jnp.sqrt(jnp.maximum(square - mean**2, 0) + EPSILON)]
    return jnp.concatenate(features, 1)


def _sums(x, part, window, step):
  """[b, h, w, c] to [b, 2, c] float32; `window` is in pixels of the frame."""
  x = in_window(x, part, window, step).astype(jnp.float32)
  return jnp.stack([x.sum((1, 2)), jnp.square(x).sum((1, 2))], 1)


def round_channels(channels):
  """The multiple of 8 that is nearest to a number of channels, and at least nine tenths of it.

  Example:
    >>> round_channels(35.2), round_channels(123.2), round_channels(1280)
    (32, 120, 1280)
  """
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded
