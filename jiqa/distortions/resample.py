"""Linear filters as constant banded matrices, built once on the host and applied as matrix products.

Resizing, separable blurring and pixelating along one axis is a matrix; whatever the level, the matrix has the same
shape, so that images of different levels share one batched product. The matrices are narrow bands: the output is cut
into blocks of rows, and each block multiplies only the input rows that it can see.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Bands:
  """A stack of banded matrices: block i of the output rows is `blocks[i] @ inputs[starts[i] : stops[i]]`."""

  starts: tuple[int, ...]
  stops: tuple[int, ...]
  blocks: tuple[np.ndarray, ...]  # each [levels, rows, stop - start] float32


def banded(matrices, block=_BLOCK):
  """Cuts a stack of matrices into blocks of rows with the columns that any of the stack uses.

  Args:
    matrices: sequence of [rows, columns] float64 arrays of one shape.
    block: output rows in a block.

  Returns:
    Bands.
  """
  stack = np.stack(matrices).astype(np.float32)
  starts, stops, blocks = [], [], []
  for top in range(0, stack.shape[1], block):
    rows = stack[:, top : top + block]
    used = np.flatnonzero(np.any(rows != 0, axis=(0, 1)))
    starts.append(int(used[0]))
    stops.append(int(used[-1]) + 1)
    blocks.append(np.ascontiguousarray(rows[:, :, starts[-1] : stops[-1]]))
  return Bands(tuple(starts), tuple(stops), tuple(blocks))


def along_rows(bands, which, planes):
  """Filters vertically.

  Args:
    bands: Bands over the height.
    which: [b] int32, the matrix for every image.
    planes: [b, h, c, w] float32.

  Returns:
    [b, rows, c, w] float32.
  """
  product = functools.partial(jnp.einsum, "brj,bjcw->brcw", precision=jax.lax.Precision.HIGHEST)
  parts = [
    product(jnp.asarray(block)[which], planes[:, start:stop])
    for start, stop, block in zip(bands.starts, bands.stops, bands.blocks, strict=True)
  ]
  return jnp.concatenate(parts, axis=1)


def along_columns(bands, which, planes):
  """Filters horizontally; arguments as `along_rows`, with bands over the width."""
  product = functools.partial(jnp.einsum, "bhcj,brj->bhcr", precision=jax.lax.Precision.HIGHEST)
  parts = [
    product(planes[..., start:stop], jnp.asarray(block)[which])
    for start, stop, block in zip(bands.starts, bands.stops, bands.blocks, strict=True)
  ]
  return jnp.concatenate(parts, axis=-1)


def convolution(size, offsets, weights):
  """The matrix of `out[i] = sum_o weight[o] in[clip(i + o)]`: a correlation whose border repeats the edge.

  Example:
    >>> convolution(3, [-1, 0, 1], [0.25, 0.5, 0.25])
    array([[0.75, 0.25, 0.  ],
           [0.25, 0.5 , 0.25],
           [0.  , 0.25, 0.75]])
  """
  matrix = np.zeros((size, size))
  rows = np.arange(size)
  for offset, weight in zip(offsets, weights, strict=True):
    np.add.at(matrix, (rows, np.clip(rows + offset, 0, size - 1)), weight)
  return matrix


def gaussian(size, sigma):
  """The sampled Gaussian, cut at four sigma and normalised (scipy.ndimage.gaussian_filter, mode 'nearest')."""
  radius = int(4 * sigma + 0.5)
  offsets = np.arange(-radius, radius + 1)
  weights = np.exp(-0.5 * (offsets / sigma) ** 2)
  return convolution(size, offsets, weights / weights.sum())


def box(size, radius):
  """A box of fractional radius: weight 1/(2 radius + 1) inside, the remainder on two border pixels (PIL BoxBlur)."""
  whole = math.floor(radius)
  weight = 1 / (2 * radius + 1)
  edge = (1 - (2 * whole + 1) * weight) / 2
  weights = np.full(2 * whole + 3, weight)
  weights[0] = weights[-1] = edge
  return convolution(size, np.arange(-whole - 1, whole + 2), weights)


def gaussian_box(size, sigma):
  """The box blur that, done three times, is PIL's GaussianBlur: its fractional radius gives the variance sigma^2 / 3.

  Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering", eq. 8-12.
  """
  variance = sigma**2 / 3
  whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
  fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
  return box(size, whole + fraction)


def _bicubic(x):
  x, a = abs(x), -0.5
  if x < 1:
    return ((a + 2) * x - (a + 3)) * x * x + 1
  return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _bilinear(x):
  return max(1 - abs(x), 0.0)


def _lanczos(x):
  return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


_FILTERS = {"bicubic": (_bicubic, 2), "bilinear": (_bilinear, 1), "lanczos": (_lanczos, 3)}


def resize(new, old, method):
  """PIL's `Image.resize` along one axis: antialiased on the way down, normalised at the borders.

  Args:
    new: output length.
    old: input length.
    method: 'bicubic' (a = -0.5), 'bilinear', 'lanczos' (three lobes) or 'nearest'.

  Returns:
    [new, old] float64.
  """
  matrix = np.zeros((new, old))
  if method == "nearest":
    position, step = 0.5 * old / new, old / new
    for row in range(new):
      matrix[row, min(int(position), old - 1)] = 1
      position += step  # accumulated, because PIL's rounding at exact pixel borders depends on it
    return matrix
  kernel, support = _FILTERS[method]
  stretch = max(old / new, 1.0)
  for row in range(new):
    centre = (row + 0.5) * old / new
    first = max(int(centre - support * stretch + 0.5), 0)
    last = min(int(centre + support * stretch + 0.5), old)
    weights = np.array([kernel((column - centre + 0.5) / stretch) for column in range(first, last)])
    matrix[row, first:last] = weights / weights.sum()
  return matrix


def down_and_up(size, small, method):
  """Resizing to `small` pixels and back, as one matrix [size, size]."""
  return resize(size, small, method) @ resize(small, size, method)


def disc(radius):
  """The share of every pixel covered by a disc, normalised: an out-of-focus lens (MATLAB fspecial 'disk').

  Returns:
    [2 radius + 1, 2 radius + 1] float64, sum 1.
  """
  steps = 2000
  coordinate = (np.arange(steps) + 0.5) / steps - 0.5
  cells = np.arange(-radius, radius + 1)
  rows = cells[:, None] + coordinate
  half_chord = np.sqrt(np.maximum(radius**2 - rows**2, 0))  # [rows, steps]
  right = np.clip(half_chord[:, None], cells[None, :, None] - 0.5, cells[None, :, None] + 0.5)
  left = np.clip(-half_chord[:, None], cells[None, :, None] - 0.5, cells[None, :, None] + 0.5)
  cover = (right - left).mean(axis=-1)
  return cover / cover.sum()
