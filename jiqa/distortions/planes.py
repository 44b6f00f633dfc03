"""What all distortions share: their form, their layout and the way back to an 8-bit image.

A distortion is `function(planes, levels, seeds, compat, strengths)`:

  planes: [b, h, 3, w] float32 in [0, 1].
  levels: [b] int32 in 0..4.
  seeds: [b, 2] uint32, see streams.py; deterministic distortions ignore them.
  compat: 'fixed' does what the name says, 'official' what the published code of Re-IQA does, bugs included.
  strengths: a number for every level; each distortion says what it measures.

It returns [b, h, 3, w] float32, multiples of 1/255 in [0, 1]. Colour planes lie inside the rows: a vertical filter is
one matrix product over contiguous rows of `3 w` numbers, a horizontal one over contiguous rows of `w`, and an
elementwise formula runs along contiguous memory with the three colours as a broadcast axis.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.errors import UserError

MIN_SIDE = 8
COMPAT = ("fixed", "official")


def to_planes(images):
  """[b, h, w, 3] to [b, h, 3, w] float32; refuses what is no batch of float images with sides of `MIN_SIDE`."""
  shape = tuple(images.shape)
  if len(shape) != 4 or shape[-1] != 3 or not shape[0]:
    raise UserError(f"images have shape {shape}; expected [b, h, w, 3], one image at least")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f"images are {images.dtype}; expected float32 in [0, 1]: divide 8-bit images by 255")
  _, h, w, _ = shape
  if min(h, w) < MIN_SIDE:
    raise UserError(f"images are {h}x{w}; distortions need sides of at least {MIN_SIDE}: use larger crops or images")
  return jnp.swapaxes(images, 2, 3).astype(jnp.float32)


def to_images(planes):
  """The way back from `to_planes`."""
  return jnp.swapaxes(planes, 2, 3)


def to_bytes(values):
  """uint8 of multiples of 1/255 in [0, 1]; 0 for NaN."""
  return jnp.round(jnp.nan_to_num(values) * 255).astype(jnp.uint8)


def by_level(strengths, levels):
  """Every image's own strength, [b, 1, 1, 1] float32."""
  # Read twice: XLA would fuse a single read as a dynamic slice into the loop over the pixels, which then loses its
  # vector instructions.
  table = jnp.array(strengths, jnp.float32)
  return table[jnp.concatenate([levels, levels])][: levels.shape[0]].reshape(-1, 1, 1, 1)


def mix_channels(matrix, planes):
  """Applies a constant [3, 3] matrix, row = output colour, to the colours of every pixel of [b, h, 3, w]."""
  # With the output colour as a broadcast axis XLA keeps one fused loop along contiguous memory.
  columns = np.asarray(matrix, np.float32).T[:, :, None]
  return sum(columns[i] * planes[:, :, i : i + 1] for i in range(3))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def to_grid(rounding, values):
  """Multiples of 1/255 by `jnp.round` or `jnp.floor` (as a cast to uint8); the gradient passes straight through."""
  return rounding(values * 255) / 255


@to_grid.defjvp
def _straight_through(rounding, primals, tangents):
  return to_grid(rounding, *primals), tangents[0]


def finish(planes, compat="fixed"):
  """Clips to [0, 1] and returns to the 8-bit grid: 'fixed' rounds, 'official' truncates."""
  # On the grid a distorted image cannot be told from a pristine one by its unused decimals.
  return to_grid(jnp.floor if compat == "official" else jnp.round, jnp.clip(planes, 0, 1))
