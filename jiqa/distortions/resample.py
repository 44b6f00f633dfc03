"""Linear filters as constant banded matrices: of one shape whatever the level, so that images share a batched product.

`jax.image.resize` and `jax.scipy` take one scale or kernel for all, and cut their kernels otherwise than PIL.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def banded(matrices, block=64):
  """Cuts a stack of [rows, columns] matrices into blocks of rows with the columns that any of the stack uses.

  A tuple of (start, weights [matrices, block, n] float32); a block sees inputs[start : start + n].
  """
  stack, bands = np.stack(matrices).astype(np.float32), []
  for top in range(0, stack.shape[1], block):
    rows = stack[:, top : top + block]
    used = np.flatnonzero(np.any(rows != 0, axis=(0, 1)))
    bands.append((int(used[0]), np.ascontiguousarray(rows[:, :, used[0] : used[-1] + 1])))
  return tuple(bands)


@functools.cache
def bands(matrix, size, settings):
  """`banded` of `matrix(size, setting)` for every setting."""
  return banded([matrix(size, setting) for setting in settings])


def along(axis, bands, which, planes):
  """Filters [b, h, c, w] along axis 1 or 3 by bands over its size; which: [b] int32, the matrix of every image."""
  product = functools.partial(jnp.einsum, precision="highest")
  parts = []
  for start, weights in bands:
    window = jax.lax.slice_in_dim(planes, start, start + weights.shape[2], axis=axis)
    weights = jnp.asarray(weights)[which]
    if axis == 1:
      parts.append(product("brj,bjcw->brcw", weights, window))
    else:
      parts.append(product("bhcj,brj->bhcr", window, weights))
  return jnp.concatenate(parts, axis)


def separable(matrix, settings, which, planes):
  """Filters [b, h, c, w] horizontally and vertically by `matrix(size, settings[which])`; `settings` is hashable."""
  for axis in (3, 1):
    planes = along(axis, bands(matrix, planes.shape[axis], settings), which, planes)
  return planes


def convolution(size, offsets, weights):
  """The matrix of `out[i] = sum_o weight[o] in[clip(i + o)]`: a correlation whose border repeats the edge."""
  matrix = np.zeros((size, size))
  rows = np.arange(size)
  for offset, weight in zip(offsets, weights, strict=True):
    np.add.at(matrix, (rows, np.clip(rows + offset, 0, size - 1)), weight)
  return matrix


def gaussian(size, sigma, reach=4):
  """The sampled Gaussian, cut at `reach` sigma and normalised (scipy.ndimage.gaussian_filter, mode 'nearest')."""
  radius = int(reach * sigma + 0.5)
  offsets = np.arange(-radius, radius + 1)
  weights = np.exp(-0.5 * (offsets / sigma) ** 2)
  return convolution(size, offsets, weights / weights.sum())


def box(size, radius):
  """A box of fractional radius: weight 1/(2 radius + 1) inside, the remainder on two border pixels (PIL BoxBlur)."""
  whole = math.floor(radius)
  weight = 1 / (2 * radius + 1)
  weights = np.full(2 * whole + 3, weight)
  weights[0] = weights[-1] = (1 - (2 * whole + 1) * weight) / 2
  return convolution(size, np.arange(-whole - 1, whole + 2), weights)


def gaussian_box(size, sigma):
  """The box blur of variance sigma^2 / 3: done three times it is PIL's GaussianBlur.

  Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering", eq. 8-12.
  """
  variance = sigma**2 / 3
  whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
  fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
  return box(size, whole + fraction)


def gaussian_boxes(size, sigma):
  """PIL's GaussianBlur along one axis without its rounding."""
  return np.linalg.matrix_power(gaussian_box(size, sigma), 3)


def cubic(distance, a, where=np.where):
  """Keys' cubic kernel (1981, eq. 8); where: `jnp.where` for jax arrays."""
  x = abs(distance)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return where(x < 1, near, where(x < 2, far, 0))


# PIL's kernels and how far they reach.
_FILTERS = {
  "bicubic": (functools.partial(cubic, a=-0.5), 2),
  "bilinear": (lambda x: np.maximum(1 - abs(x), 0), 1),
  "lanczos": (lambda x: np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0), 3),
}


def resize(new, old, method):
  """PIL's `Image.resize` along one axis, [new, old] float64: antialiased on the way down, normalised at the borders.

  method: 'bicubic' (a = -0.5), 'bilinear', 'lanczos' (three lobes) or 'nearest'.
  """
  matrix = np.zeros((new, old))
  if method == "nearest":
    # Accumulated, because PIL's rounding at exact pixel borders depends on it.
    positions = np.cumsum([0.5 * old / new, *[old / new] * (new - 1)])
    matrix[np.arange(new), np.minimum(positions.astype(int), old - 1)] = 1
    return matrix
  kernel, support = _FILTERS[method]
  stretch = max(old / new, 1.0)
  for row in range(new):
    centre = (row + 0.5) * old / new
    first = max(int(centre - support * stretch + 0.5), 0)
    last = min(int(centre + support * stretch + 0.5), old)
    weights = kernel((np.arange(first, last) - centre + 0.5) / stretch)
    matrix[row, first:last] = weights / weights.sum()
  return matrix


def to_size(images, height, width, method):
  """[..., h, w, 3] in [0, 1] as Pillow resizes, antialiased, but not rounded; method: 'linear', 'cubic' (a = -0.5)."""
  *lead, h, w, c = images.shape
  if (h, w) == (height, width):
    return images
  return jnp.clip(jax.image.resize(images, (*lead, height, width, c), method), 0, 1)


def reduce(images, factor):
  """[..., h, w, 3] in [0, 1] reduced by an integer factor, to one pixel at least: bicubic."""
  return to_size(images, *(max(side // factor, 1) for side in images.shape[-3:-1]), "cubic")


def disc(radius):
  """The share of every pixel in a disc, [2 radius + 1, 2 radius + 1] of sum 1 (MATLAB fspecial 'disk')."""
  steps = 2000
  coordinate = (np.arange(steps) + 0.5) / steps - 0.5
  cells = np.arange(-radius, radius + 1)
  half_chord = np.sqrt(np.maximum(radius**2 - (cells[:, None] + coordinate) ** 2, 0))[:, None]  # [rows, 1, steps]
  left, right = (np.clip(end, cells[:, None] - 0.5, cells[:, None] + 0.5) for end in (-half_chord, half_chord))
  cover = (right - left).mean(axis=-1)
  return cover / cover.sum()
