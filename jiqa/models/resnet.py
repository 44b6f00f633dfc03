"""ResNet encoders with torchvision's v1.5 geometry (He et al. 2016; stride on the 3x3 convolution of a bottleneck).

Attribute paths are torchvision's (`layer1.0.conv1`): a published checkpoint becomes ours by renaming and transposing.
Images of many sizes share one compiled program: pad them at the bottom and right, pass their true `size`, and every
activation outside the image that a convolution can read is set to zero before. Those zeros are exactly the zero padding
the convolution would have seen, so the features equal those of the unpadded image. By the same rule a large image is
encoded tile by tile (tiles.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

# 10 is the smallest that has every kind of layer: it compiles in half the time of 18.
STAGE_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
EXPANSION = {10: 1, 18: 1, 34: 1, 50: 4}

# torchvision: kaiming_normal_(mode='fan_out', nonlinearity='relu').
_conv_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Part(NamedTuple):
  """Which part of what image each row of a batch shows.

  Attributes:
    size: [b, 2] int32, height and width of the image.
    origin: [b, 2] int32, place in the image of the row's first pixel, a multiple of 32 (or of what is left of it after
      the layers of stride 2); may be negative. The padding that a convolution sees must begin where the image ends,
      not where the tile does. None: (0, 0) for all.
  """

  size: jax.Array
  origin: jax.Array | None = None


def mask_outside(x, part):
  """Zeroes what lies outside each image.

  Args:
    x: [b, h, w, c].
    part: `Part`; None leaves x as it is.

  Returns:
    [b, h, w, c] of x's dtype.
  """
  if part is None:
    return x
  axes = []
  for axis in (0, 1):
    place = jnp.arange(x.shape[1 + axis]) + (0 if part.origin is None else part.origin[:, axis, None])
    axes.append((place >= 0) & (place < part.size[:, axis, None]))
  return jnp.where((axes[0][:, :, None] & axes[1][:, None, :])[..., None], x, 0)


def mask_border(x, part):
  """Zeroes what convolutions of 3x3, and the pooling, can read outside of each image: the lines around it.

  Arguments and result as those of `mask_outside`, with which the features are the same. On CPUs only these lines are
  written: a ResNet-18 predicts 1.27 times as fast. Accelerators, where that was not measured, mask all.
  """
  if part is None:
    return x
  known = all(isinstance(side, int) for side in x.shape)  # not so in a program for any size, see jiqa/export.py
  if not known or jax.default_backend() != "cpu":
    return mask_outside(x, part)
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


def halve(part):
  """The part after any layer of stride 2 here: all of them map a length n to ceil(n / 2)."""
  if part is None:
    return None
  return Part((part.size + 1) // 2, None if part.origin is None else part.origin // 2)


class Conv(nnx.Module):
  """Bias-free convolution with torch's symmetric padding (k - 1) / 2; 'SAME' differs for stride 2.

  A 1x1 convolution is lowered as a matrix product, which XLA runs about 1.4 times faster on CPUs. So is any whose
  output is smaller than its kernel, as in the last stage of small crops: for those XLA has only scalar loops on CPUs,
  with which a training step on 64-pixel crops took three times as long.
  """

  def __init__(self, inputs, outputs, kernel_size, stride=1, *, dtype, rngs):
    self.kernel = nnx.Param(_conv_init(rngs.params(), (kernel_size, kernel_size, inputs, outputs), jnp.float32))
    self.stride = stride
    self.dtype = dtype

  def __call__(self, x):
    x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
    # Where float32 is asked for, accelerators must not fall back to bfloat16 or TF32.
    precision = jax.lax.Precision.HIGHEST if self.dtype == jnp.float32 else None
    if kernel.shape[0] == 1:
      return jnp.matmul(x[:, :: self.stride, :: self.stride], kernel[0, 0], precision=precision)
    known = all(isinstance(side, int) for side in x.shape[1:3])  # not so in a program for any size, see jiqa/export.py
    if known and -(-min(x.shape[1:3]) // self.stride) < kernel.shape[0]:
      return jnp.matmul(
        unfold(x, kernel.shape[0], self.stride), kernel.reshape(-1, kernel.shape[-1]), precision=precision
      )
    pad = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (self.stride, self.stride),
      ((pad, pad), (pad, pad)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=precision,
    )


def unfold(x, size, stride):
  """What every output pixel of a convolution sees, zeros outside the image.

  Args:
    x: [b, h, w, c].
    size: side of the kernel, odd.
    stride: int.

  Returns:
    [b, ceil(h / stride), ceil(w / stride), size * size * c]: rows, columns and channels of the kernel, in this order.
  """
  h, w, pad = *x.shape[1:3], (size - 1) // 2
  x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  return jnp.concatenate([x[:, i : i + h : stride, j : j + w : stride] for i in range(size) for j in range(size)], -1)


class Stem(Conv):
  """The 7x7 convolution of stride 2 on the pixels, as a 4x4 convolution on blocks of 2x2 pixels (space to depth).

  The same sums, with 15 zeros added to every 49 products: three input channels leave the vector and matrix units of all
  backends idle, twelve do not. On one CPU core it is four times faster.
  """

  def __init__(self, outputs, *, dtype, rngs):
    super().__init__(3, outputs, 7, 2, dtype=dtype, rngs=rngs)

  def __call__(self, x):
    kernel = jnp.pad(self.kernel[...].astype(self.dtype), ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, 3, -1).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 12, -1)
    x = x.astype(self.dtype)
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    b, h, w, _ = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 12)
    precision = jax.lax.Precision.HIGHEST if self.dtype == jnp.float32 else None
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), ((2, 1), (2, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )


def max_pool(x):
  """3x3 maximum with stride 2 and padding 1 of activations that are not negative.

  Padding with zeros equals torch's with -inf: every window holds a value >= 0 of the image itself. First along rows,
  then along columns, from the even and the odd places: the gradient is then a selection, which CPUs do nearly four
  times as fast as the scatter that `reduce_window` has. Equal values share a gradient that torch gives to the first;
  after a ReLU these are zeros, through which no gradient passes.

  Args:
    x: [b, h, w, c], >= 0.

  Returns:
    [b, ceil(h / 2), ceil(w / 2), c].
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


class BatchNorm(nnx.Module):
  """Batch normalisation with float32 statistics, over the whole (sharded) batch or over `groups` equal parts of it.

  Groups are consecutive parts of the batch: with as many groups as devices, each part lies on one device and the
  statistics are the per-device ones of PyTorch's DistributedDataParallel. The running statistics follow the mean over
  groups. Momentum 0.9 is torch's 0.1; the running variance is the biased one, as everywhere in flax.
  """

  def __init__(self, features, *, groups=1, dtype):
    self.scale = nnx.Param(jnp.ones(features, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
    self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
    self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
    self.groups = groups
    self.dtype = dtype

  def __call__(self, x, train):
    if not train:
      return self._normalise(x, self.mean[...], self.var[...])
    grouped = x.reshape(self.groups, -1, *x.shape[1:]).astype(jnp.float32)
    mean = grouped.mean((1, 2, 3))
    var = jnp.maximum(jnp.square(grouped).mean((1, 2, 3)) - jnp.square(mean), 0)
    self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean.mean(0)
    self.var[...] = 0.9 * self.var[...] + 0.1 * var.mean(0)
    broadcast = (self.groups, 1, 1, 1, x.shape[-1])
    grouped = x.reshape(self.groups, -1, *x.shape[1:])
    return self._normalise(grouped, mean.reshape(broadcast), var.reshape(broadcast)).reshape(x.shape)

  def _normalise(self, x, mean, var):
    factor = self.scale[...] * jax.lax.rsqrt(var + 1e-5)
    return (x * factor + (self.bias[...] - mean * factor)).astype(self.dtype)


def _downsample(inputs, outputs, stride, make):
  """The projection shortcut, named '0' and '1' as in torchvision, or None where the shapes already agree."""
  if stride == 1 and inputs == outputs:
    return None
  return nnx.List([make.conv(inputs, outputs, 1, stride), make.bn(outputs)])


class _Maker:
  """Builds layers that share a compute dtype, a number of batch-norm groups and a stream of keys."""

  def __init__(self, *, bn_groups, dtype, rngs):
    self.bn_groups, self.dtype, self.rngs = bn_groups, dtype, rngs

  def conv(self, inputs, outputs, kernel_size, stride=1):
    return Conv(inputs, outputs, kernel_size, stride, dtype=self.dtype, rngs=self.rngs)

  def bn(self, features):
    return BatchNorm(features, groups=self.bn_groups, dtype=self.dtype)


class BasicBlock(nnx.Module):
  """Two 3x3 convolutions: ResNet-18 and 34."""

  def __init__(self, inputs, planes, stride, make):
    self.conv1, self.bn1 = make.conv(inputs, planes, 3, stride), make.bn(planes)
    self.conv2, self.bn2 = make.conv(planes, planes, 3), make.bn(planes)
    self.downsample = _downsample(inputs, planes, stride, make)
    self.stride = stride

  def __call__(self, x, part, train):
    """[b, h, w, c], zero around its `part`, to the block's output and the part that it shows."""
    out_part = part if self.stride == 1 else halve(part)
    y = mask_border(jax.nn.relu(self.bn1(self.conv1(x), train)), out_part)
    y = self.bn2(self.conv2(y), train)
    shortcut = x if self.downsample is None else self.downsample[1](self.downsample[0](x), train)
    return mask_border(jax.nn.relu(y + shortcut), out_part), out_part


class Bottleneck(nnx.Module):
  """1x1, 3x3, 1x1 convolutions with a fourfold output: ResNet-50."""

  def __init__(self, inputs, planes, stride, make):
    self.conv1, self.bn1 = make.conv(inputs, planes, 1), make.bn(planes)
    self.conv2, self.bn2 = make.conv(planes, planes, 3, stride), make.bn(planes)
    self.conv3, self.bn3 = make.conv(planes, 4 * planes, 1), make.bn(4 * planes)
    self.downsample = _downsample(inputs, 4 * planes, stride, make)
    self.stride = stride

  def __call__(self, x, part, train):
    """[b, h, w, c], anything outside its `part`, to the block's output and the part that it shows."""
    out_part = part if self.stride == 1 else halve(part)
    y = mask_border(jax.nn.relu(self.bn1(self.conv1(x), train)), part)
    y = jax.nn.relu(self.bn2(self.conv2(y), train))
    y = self.bn3(self.conv3(y), train)
    shortcut = x if self.downsample is None else self.downsample[1](self.downsample[0](x), train)
    return jax.nn.relu(y + shortcut), out_part


class ResNet(nnx.Module):
  """The convolutional part of a ResNet, ending in global average pooling.

  Args:
    depth: 10, 18, 34 or 50.
    width: channels of the stem and the first stage; 64 in the published networks.
    bn_groups: number of equal parts of the batch that are normalised separately; 1 means the global batch.
    dtype: of the convolutions. Parameters, statistics and the pooled features are float32.
    rngs: nnx.Rngs with a 'params' stream.
  """

  def __init__(self, depth, width=64, *, bn_groups=1, dtype=jnp.float32, rngs):
    if depth not in STAGE_BLOCKS:
      raise ValueError(f"ResNet depth {depth} is not one of {sorted(STAGE_BLOCKS)}")
    block = BasicBlock if EXPANSION[depth] == 1 else Bottleneck
    make = _Maker(bn_groups=bn_groups, dtype=dtype, rngs=rngs)
    self.conv1, self.bn1 = Stem(width, dtype=dtype, rngs=rngs), make.bn(width)
    channels = width
    for stage, blocks in enumerate(STAGE_BLOCKS[depth]):
      planes, layer = width * 2**stage, []
      for i in range(blocks):
        layer.append(block(channels, planes, 2 if stage > 0 and i == 0 else 1, make))
        channels = planes * EXPANSION[depth]
      setattr(self, f"layer{stage + 1}", nnx.List(layer))
    self.depth, self.num_features = depth, channels

  def __call__(self, x, size=None, *, train=False):
    """Encodes images.

    Args:
      x: [b, h, w, 3] float, normalised as the weights expect; anything outside `size` is ignored.
      size: [b, 2] int32, the height and width of each image inside its padded frame; None: all fill it.
      train: normalise by the batch and update the running statistics; needs size None.

    Returns:
      [b, num_features] float32, non-negative: the mean over the image of the last activation.
    """
    if train and size is not None:
      raise ValueError("training batches are not padded: pass size=None with train=True")
    part = None if size is None else Part(size)
    x, part = self.activations(x, part, train=train)
    total = x.astype(jnp.float32).sum((1, 2))
    pixels = x.shape[1] * x.shape[2] if part is None else part.size.prod(1, keepdims=True)
    return total / pixels

  def activations(self, x, part=None, *, train=False):
    """The last activations, before they are averaged.

    Args:
      x: [b, h, w, 3] float.
      part: `Part`, what of the image x is; None: all of it.
      train: see `__call__`.

    Returns:
      ([b, ceil(h / 32), ceil(w / 32), num_features], zero outside of the image; the part that they show).
    """
    x = mask_outside(x, part)  # the stem reads three lines
    part = halve(part)
    x = max_pool(mask_border(jax.nn.relu(self.bn1(self.conv1(x), train)), part))
    part = halve(part)
    x = mask_border(x, part)
    for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
      for block in layer:
        x, part = block(x, part, train)
        x = checkpoint_name(x, "block")
    return mask_outside(x, part), part


class Projector(nnx.Module):
  """The training-only head of MoCo-v2: linear, ReLU, linear, unit length. Named '0' and '2' as published."""

  def __init__(self, inputs, outputs=128, *, dtype=jnp.float32, rngs):
    def linear(n):
      init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's default for Linear
      return nnx.Linear(inputs, n, kernel_init=init, bias_init=_torch_bias(inputs), dtype=dtype, rngs=rngs)

    self.layers = nnx.Dict({"0": linear(inputs), "2": linear(outputs)})

  def __call__(self, x):
    """[b, inputs] to [b, outputs] float32 of unit length."""
    x = self.layers["2"](jax.nn.relu(self.layers["0"](x))).astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def _torch_bias(inputs):
  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1, 1) * inputs**-0.5

  return init
