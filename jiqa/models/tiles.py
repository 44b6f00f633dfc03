"""Features of images of any size in bounded memory: large frames are encoded tile by tile, with the same result.

A tile overlaps its neighbours by more than an activation can see, so that what its borders change lies in the margin,
which is not counted. Tiles start at multiples of the network's stride and know where the image ends.
"""

import jax
import jax.numpy as jnp

from jiqa.models.resnet import EXPANSION, STAGE_BLOCKS, Part

STRIDE = 32
TILE = 2048  # pixels; a ResNet-50 then holds about a gigabyte of activations


def margin(depth):
  """Pixels at the border of a tile that do not count: what one last activation sees to each side, in whole strides.

  Args:
    depth: of the ResNet.

  Example:
    >>> margin(50), margin(18)
    (224, 224)
  """
  reach, step = 3 + 2, 4  # the stem's 7x7 convolution and the max pooling at twice its step
  for stage, blocks in enumerate(STAGE_BLOCKS[depth]):
    for block in range(blocks):
      # 3x3 convolutions reach one place of the grid that they read; a stage's first one reads the finer grid.
      inner = 0 if EXPANSION[depth] > 1 else 1
      if stage > 0 and block == 0:
        reach, step = reach + step, 2 * step
        reach += inner * step
      else:
        reach += (1 + inner) * step
  return -(-reach // STRIDE) * STRIDE


def features(encoder, pixels, size, normalise, tile=TILE):
  """The encoder's features of padded images; by tiles where the frame is larger than one.

  Args:
    encoder: ResNet.
    pixels: [b, h, w, 3] uint8.
    size: [b, 2] int32, height and width of each image inside its frame.
    normalise: function from uint8 pixels to what the encoder expects.
    tile: side of a tile, pixels, a multiple of 32.

  Returns:
    [b, d] float32: the mean over the image of the last activation.
  """
  if all(side <= tile for side in pixels.shape[1:3]):  # each for itself: they may be symbols of an export
    return encoder(normalise(pixels), size)
  edge = margin(encoder.depth)
  inner = tile - 2 * edge
  padding = [(edge, max(tile - edge, inner * -(-n // inner) + edge - n)) for n in pixels.shape[1:3]]
  padded = jnp.pad(pixels, ((0, 0), *padding, (0, 0)))
  counted = slice(edge // STRIDE, (edge + inner) // STRIDE)
  columns = -(-size[:, 1].max() // inner)
  rows = -(-size[:, 0].max() // inner)

  def add(i, total):
    row, column = i // columns * inner, i % columns * inner
    x = jax.lax.dynamic_slice(padded, (0, row, column, 0), (padded.shape[0], tile, tile, 3))
    origin = jnp.broadcast_to(jnp.stack([row, column]) - edge, size.shape)
    x, _ = encoder.activations(normalise(x), Part(size, origin))
    return total + x[:, counted, counted].astype(jnp.float32).sum((1, 2))

  total = jax.lax.fori_loop(0, rows * columns, add, jnp.zeros((len(size), encoder.num_features), jnp.float32))
  return total / (-(-size // STRIDE)).prod(1, keepdims=True)
