"""Features of images of any size in bounded memory: large frames are encoded tile by tile, with the same result.

A tile overlaps its neighbours by more than an activation can see, so that what its borders change is not counted. Tiles
start at multiples of the network's stride and know where the image ends.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.models.layers import Part

TILE = 2048  # pixels; a ResNet-50 then holds about a gigabyte of activations


def features(encoder, pixels, size, normalise, tile=TILE):
  """The encoder's features of padded images; by tiles where the frame is larger than one.

  Args:
    encoder: `Encoder`, see encoders.py; one whose `reach` is None is given whole frames.
    pixels: [b, h, w, 3] uint8, or float in [0, 1].
    size: [b, 2] int32, height and width of each image inside its frame; None: all fill it.
    normalise: function from such pixels to what the encoder expects.
    tile: longest side of a tile, pixels, a multiple of the encoder's stride.

  Returns:
    [b, d] float32, what the encoder gives for each image.
  """
  # Each side for itself: they may be symbols of an export.
  if encoder.reach is None or all(side <= tile for side in pixels.shape[1:3]):
    return encoder(normalise(pixels), size)
  if size is None:  # known when it is compiled, so is the number of tiles: there are gradients
    size = np.tile(np.int32(pixels.shape[1:3]), (len(pixels), 1))
  stride = encoder.stride
  overlap = -(-encoder.reach // stride) * stride
  # A side that fits into one tile has no neighbours: a strip of few rows is encoded in strips of as many.
  edges = np.array([0 if n <= tile else overlap for n in pixels.shape[1:3]])
  sides = np.minimum(-(-np.array(pixels.shape[1:3]) // stride) * stride, tile)
  inner = sides - 2 * edges
  padding = [(e, step * -(-n // step) + e - n) for n, e, step in zip(pixels.shape[1:3], edges, inner, strict=True)]
  padded = jnp.pad(pixels, ((0, 0), *padding, (0, 0)))
  counted = tuple(slice(e, e + step) for e, step in zip(edges, inner, strict=True))
  rows, columns = -(-size.max(0) // inner)

  def sums_of(i):
    row, column = corner = jnp.stack([i // columns, i % columns]) * inner
    x = jax.lax.dynamic_slice(padded, (0, row, column, 0), (padded.shape[0], *sides.tolist(), 3))
    return encoder.sums(normalise(x), Part(size, jnp.broadcast_to(corner - edges, size.shape)), counted)

  nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(sums_of, 0))
  total = jax.lax.fori_loop(0, rows * columns, lambda i, total: jax.tree.map(jnp.add, total, sums_of(i)), nothing)
  return encoder.pool(total, size)
