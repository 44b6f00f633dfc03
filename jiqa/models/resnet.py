"""ResNet encoders with torchvision's v1.5 geometry (He et al. 2016; stride on the 3x3 convolution of a bottleneck).

Attribute paths are torchvision's (`layer1.0.conv1`). Images of many sizes share one compiled program: pad them at the
bottom and right, pass their true `size`, and every activation outside the image that a convolution can read is set to
zero before: exactly the zero padding that the convolution of the unpadded image sees. By the same rule a large image is
encoded tile by tile (tiles.py).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jiqa.models.cpu import convolve, convolve_stem, mask_border, max_pool
from jiqa.models.layers import WHOLE, BatchNorm, SummingEncoder, halve, in_window, mask_outside, moments
from jiqa.models.pointwise import normalised_product

# 10 is the smallest that has every kind of layer: it compiles in half the time of 18.
STAGE_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
EXPANSION = {10: 1, 18: 1, 34: 1, 50: 4}

# torchvision: kaiming_normal_(mode='fan_out', nonlinearity='relu').
_conv_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nnx.Module):
  """Bias-free convolution, computed in `dtype`."""

  def __init__(self, inputs, outputs, kernel_size, stride=1, *, dtype, rngs):
    self.kernel = nnx.Param(_conv_init(rngs.params(), (kernel_size, kernel_size, inputs, outputs), jnp.float32))
    self.stride, self.dtype = stride, dtype

  def __call__(self, x):
    return convolve(x.astype(self.dtype), self.kernel[...], self.stride)


class Stem(Conv):
  """The 7x7 convolution of stride 2 on the pixels."""

  def __init__(self, outputs, *, dtype, rngs):
    super().__init__(3, outputs, 7, 2, dtype=dtype, rngs=rngs)

  def __call__(self, x, sign=1):
    """Of the kernel times `sign`, [outputs]."""
    return convolve_stem(x.astype(self.dtype), self.kernel[...] * sign)


def pointwise(conv, bn, x, train):
  """A 1x1 convolution and its normalisation."""
  if not train or bn.groups > 1:
    return bn(conv(x), train)
  if conv.stride > 1:  # stored, since it is read five times, and all of x each time without a barrier
    x = jax.lax.optimization_barrier(x[:, :: conv.stride, :: conv.stride])
  y, *statistics = normalised_product(
    x.astype(conv.dtype), conv.kernel[...][0, 0], bn.scale[...], bn.bias[...], bn.epsilon
  )
  bn.follow(*statistics)
  return y


@jax.custom_vjp
def relu(x):
  """`jax.nn.relu` whose gradient needs its output, which the next block keeps anyway, instead of its input."""
  return jnp.maximum(x, 0)


def _relu_forward(x):
  y = jax.lax.optimization_barrier(jnp.maximum(x, 0))  # without it XLA may store x too
  return y, y


relu.defvjp(_relu_forward, lambda y, gradient: (jnp.where(y > 0, gradient, 0),))


def pooled_stem(conv, bn, x, part, train):
  """Stem, normalisation, ReLU and pooling, and the part that the result shows."""
  if not train or bn.groups > 1:
    part = halve(part)
    return max_pool(mask_border(jax.nn.relu(bn(conv(x), train)), part)), halve(part)
  # What rises with its input may be done after pooling, on a quarter of the values; where the normalisation falls, both
  # signs are changed.
  sign = jnp.where(bn.scale[...] < 0, -1.0, 1.0)
  x = conv(x, sign)
  mean, var = moments(x, (0, 1, 2))
  bn.follow(sign * mean, var)
  return jax.nn.relu(bn.normalise(max_pool(x), mean, var, sign)), None


class _Block(nnx.Module):
  """What the blocks share: an input that is added to the output, by a projection where their shapes differ."""

  def _connect(self, inputs, outputs, stride, conv, bn):
    self.stride = stride
    same = stride == 1 and inputs == outputs
    self.downsample = None if same else nnx.List([conv(inputs, outputs, 1, stride), bn(outputs)])

  def _add(self, x, y, train):
    return relu(y + (x if self.downsample is None else pointwise(*self.downsample, x, train)))


class BasicBlock(_Block):
  """Two 3x3 convolutions: ResNet-18 and 34."""

  def __init__(self, inputs, planes, stride, conv, bn):
    self.conv1, self.bn1 = conv(inputs, planes, 3, stride), bn(planes)
    self.conv2, self.bn2 = conv(planes, planes, 3), bn(planes)
    self._connect(inputs, planes, stride, conv, bn)

  def __call__(self, x, part, train):
    """[b, h, w, c], zero around its `part`, to the block's output and the part that it shows."""
    out_part = part if self.stride == 1 else halve(part)
    y = mask_border(jax.nn.relu(self.bn1(self.conv1(x), train)), out_part)
    y = self.bn2(self.conv2(y), train)
    return mask_border(self._add(x, y, train), out_part), out_part


class Bottleneck(_Block):
  """1x1, 3x3, 1x1 convolutions with a fourfold output: ResNet-50."""

  def __init__(self, inputs, planes, stride, conv, bn):
    self.conv1, self.bn1 = conv(inputs, planes, 1), bn(planes)
    self.conv2, self.bn2 = conv(planes, planes, 3, stride), bn(planes)
    self.conv3, self.bn3 = conv(planes, 4 * planes, 1), bn(4 * planes)
    self._connect(inputs, 4 * planes, stride, conv, bn)

  def __call__(self, x, part, train):
    """[b, h, w, c], anything outside its `part`, to the block's output and the part that it shows."""
    out_part = part if self.stride == 1 else halve(part)
    y = mask_border(jax.nn.relu(self.bn1(self.conv1(x), train)), part)
    y = jax.nn.relu(self.bn2(self.conv2(y), train))
    return self._add(x, pointwise(self.conv3, self.bn3, y, train), train), out_part


class ResNet(SummingEncoder):
  """The convolutional part of a ResNet, ending in global average pooling; an `Encoder`, see encoders.py.

  Args:
    depth: 10, 18, 34 or 50.
    width: channels of the stem and the first stage; 64 in the published networks.
    bn_groups, dtype, rngs: see `Encoder`.
  """

  stride = 32

  def __init__(self, depth, width=64, *, bn_groups=1, dtype=jnp.float32, rngs):
    if depth not in STAGE_BLOCKS:
      raise ValueError(f"ResNet depth {depth} is not one of {sorted(STAGE_BLOCKS)}")
    block = BasicBlock if EXPANSION[depth] == 1 else Bottleneck
    conv = functools.partial(Conv, dtype=dtype, rngs=rngs)
    bn = functools.partial(BatchNorm, groups=bn_groups, dtype=dtype)
    self.conv1, self.bn1 = Stem(width, dtype=dtype, rngs=rngs), bn(width)
    channels = width
    for stage, blocks in enumerate(STAGE_BLOCKS[depth]):
      planes, layer = width * 2**stage, []
      for i in range(blocks):
        layer.append(block(channels, planes, 2 if stage > 0 and i == 0 else 1, conv, bn))
        channels = planes * EXPANSION[depth]
      setattr(self, f"layer{stage + 1}", nnx.List(layer))
    self.depth, self.num_features = depth, channels

  @property
  def reach(self):
    """Pixels that a last activation sees to each side."""
    reach, step = 3 + 2, 4  # the stem's 7x7 convolution and the max pooling at twice its step
    for stage, blocks in enumerate(STAGE_BLOCKS[self.depth]):
      for block in range(blocks):
        # 3x3 convolutions reach one place of the grid that they read; a stage's first one reads the finer grid.
        reach += step
        step *= 2 if stage > 0 and block == 0 else 1
        reach += step if EXPANSION[self.depth] == 1 else 0  # a basic block has a second one
    return reach

  def sums(self, x, part=None, window=WHOLE, *, train=False):
    """The sums over the window of the last activations, [b, num_features]; see `Encoder`."""
    x, part = pooled_stem(self.conv1, self.bn1, mask_outside(x, part), part, train)  # the stem reads three lines
    x = mask_border(x, part)
    for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
      for block in layer:
        x, part = block(x, part, train)
        x = checkpoint_name(x, "block")
    return in_window(x, part, window, self.stride).astype(jnp.float32).sum((1, 2))

  def pool(self, sums, size):
    """The mean over each image of the last activations, >= 0; see `Encoder`."""
    return sums / (-(-size // self.stride)).prod(1, keepdims=True)
