"""The layout every distortion works in, and the way back to an 8-bit image.

Colour planes lie inside the rows: `[b, h, 3, w]`. A vertical filter is then one matrix product over contiguous rows of
`3 w` numbers, a horizontal one over contiguous rows of `w`, and an elementwise formula runs along contiguous memory,
with the three colours as a broadcast axis. From `[b, h, w, 3]` only the last two axes change places.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.errors import UserError

MIN_SIDE = 8
COMPAT = ("fixed", "official")


def to_planes(images):
  """Opens images into colour planes.

  Args:
    images: [b, h, w, 3] float32 in [0, 1], both sides at least `MIN_SIDE`.

  Returns:
    [b, h, 3, w] float32.

  Raises:
    UserError: the shape or type is not that of a batch of colour images, or a side is too short.
  """
  shape = tuple(images.shape)
  if len(shape) != 4 or shape[-1] != 3:
    raise UserError(f"images have shape {shape}; expected [b, h, w, 3]")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f"images are {images.dtype}; expected float32 in [0, 1]: divide 8-bit images by 255")
  if min(shape[1:3]) < MIN_SIDE:
    raise UserError(
      f"images are {shape[1]}x{shape[2]}; distortions need sides of at least {MIN_SIDE}: use larger crops or images"
    )
  return jnp.swapaxes(images, 2, 3)


def to_images(planes):
  """The way back from `to_planes`."""
  return jnp.swapaxes(planes, 2, 3)


def by_level(strengths, levels):
  """Every image's own strength.

  The table is read twice for every image, because XLA makes a dynamic slice of a single read, fuses that into the
  loop over the pixels, and there it costs the loop its vector instructions (five times the time for one image on a
  CPU).

  Args:
    strengths: one number for every level.
    levels: [b] int32.

  Returns:
    [b, 1, 1, 1] float32.
  """
  table = jnp.asarray(np.asarray(strengths, np.float32))
  return table[jnp.concatenate([levels, levels])][: levels.shape[0]].reshape(-1, 1, 1, 1)


def mix_channels(matrix, planes):
  """Applies a constant 3x3 matrix to the colours of every pixel.

  Written with the output colour as a broadcast axis: XLA then keeps one fused loop along contiguous memory, where
  joining three separately computed planes would compute all of them for each.

  Args:
    matrix: [3, 3] numpy array, row = output colour.
    planes: [b, h, 3, w] float32.

  Returns:
    [b, h, 3, w] float32.
  """
  columns = np.asarray(matrix, np.float32).T[:, :, None]
  return sum(columns[i] * planes[:, :, i : i + 1] for i in range(3))


@jax.custom_jvp
def round_to_grid(values):
  """Rounds to the nearest multiple of 1/255; the gradient passes straight through."""
  return jnp.round(values * 255) / 255


@jax.custom_jvp
def truncate_to_grid(values):
  """Rounds down to a multiple of 1/255, as a cast to uint8 does; the gradient passes straight through."""
  return jnp.floor(values * 255) / 255


@round_to_grid.defjvp
def _round_jvp(primals, tangents):
  return round_to_grid(*primals), tangents[0]


@truncate_to_grid.defjvp
def _truncate_jvp(primals, tangents):
  return truncate_to_grid(*primals), tangents[0]


def finish(planes, compat, official=truncate_to_grid):
  """Clips to [0, 1] and returns to the 8-bit grid.

  Both modes end on the grid, so that a distorted image cannot be told from a pristine 8-bit one by its unused
  decimals. The published code mostly truncates, which darkens every distorted image by half a grey level.

  Args:
    planes: [b, h, 3, w] float32.
    compat: 'fixed' rounds to the nearest level; 'official' does what `official` says.
    official: the published code's own rounding for this kind.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  to_grid = official if compat == "official" else round_to_grid
  return to_grid(jnp.clip(planes, 0, 1))
