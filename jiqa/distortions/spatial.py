"""Spatial: resizing down and up, pixelating, colour blocks, displaced patches and jitter.

Differences of compat='official':
  resizes, pixelate, color_block, patches: none (PIL rounds to 8 bits between down and up; two levels at most).
  jitter: truncates.

Deviations of both modes from the published code, which cannot run on small images: a resize keeps at least one
pixel, a colour block is cut to the image, patches shrink to a third of the shorter side.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import resample, streams
from jiqa.distortions.planes import by_level, finish, round_to_grid

_BLOCK = 32
_PATCH = 16
_JITTER_ITERATIONS = 5
_JITTER_REACH = 3  # displacements are cut here: beyond three standard deviations at the strongest level
_KEYS_A = -0.7


@functools.cache
def _down_and_up_bands(size, factors, method):
  return resample.banded([resample.down_and_up(size, max(int(size / f), 1), method) for f in factors])


def _down_and_up(planes, levels, compat, factors, method):
  """Every image down and up again; factors: one shrinking factor for every level."""
  planes = resample.along_columns(_down_and_up_bands(planes.shape[3], factors, method), levels, planes)
  planes = resample.along_rows(_down_and_up_bands(planes.shape[1], factors, method), levels, planes)
  return finish(planes, compat, official=round_to_grid)


def resize_bicubic(planes, levels, seeds=None, compat="fixed", strengths=(2, 3, 4, 8, 16)):
  """Resizes down and back up as PIL does, antialiased on the way down.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: ignored.
    compat: 'fixed' or 'official'.
    strengths: shrinking factor for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  return _down_and_up(planes, levels, compat, strengths, "bicubic")


def resize_bilinear(planes, levels, seeds=None, compat="fixed", strengths=(2, 3, 4, 8, 16)):
  """Bilinear; arguments as `resize_bicubic`."""
  return _down_and_up(planes, levels, compat, strengths, "bilinear")


def resize_nearest(planes, levels, seeds=None, compat="fixed", strengths=(2, 3, 4, 5, 6)):
  """Nearest neighbour; arguments as `resize_bicubic`."""
  return _down_and_up(planes, levels, compat, strengths, "nearest")


def resize_lanczos(planes, levels, seeds=None, compat="fixed", strengths=(2, 3, 4, 8, 16)):
  """Lanczos with three lobes; arguments as `resize_bicubic`."""
  return _down_and_up(planes, levels, compat, strengths, "lanczos")


def pixelate(planes, levels, seeds=None, compat="fixed", strengths=(0.01, 0.05, 0.1, 0.2, 0.5)):
  """Nearest neighbour to a share 0.95 - strength^0.6 of the side and back; arguments as `resize_bicubic`."""
  shares = tuple(1 / (0.95 - strength**0.6) for strength in strengths)
  return _down_and_up(planes, levels, compat, shares, "nearest")


def color_block(planes, levels, seeds, compat="fixed", strengths=(2, 4, 6, 8, 10)):
  """Covers the image with squares of 32x32 pixels, each of a random colour.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: [b, 2] uint32.
    compat: 'fixed' or 'official'.
    strengths: number of squares for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  _, h, _, w = planes.shape
  count = jnp.asarray(np.asarray(strengths))[levels]
  draws = streams.words(seeds, 0, max(strengths))
  tops, lefts = (
    (streams.uniform(draw) * max(size - _BLOCK, 0)).astype(jnp.int32)
    for draw, size in zip(draws[:2], (h, w), strict=True)
  )
  colors = jnp.stack([(draws[2] >> (8 * i)) & np.uint32(255) for i in range(3)], -1).astype(jnp.float32) / 255
  rows, columns = jnp.arange(h)[None, :, None], jnp.arange(w)[None, None, :]
  for i in range(max(strengths)):
    top, left, number = (values.reshape(-1, 1, 1) for values in (tops[:, i], lefts[:, i], count))
    inside = (rows >= top) & (rows < top + _BLOCK) & (columns >= left) & (columns < left + _BLOCK) & (i < number)
    planes = jnp.where(inside[:, :, None], colors[:, None, i, :, None], planes)
  return finish(planes, compat, official=round_to_grid)


def patches(planes, levels, seeds, compat="fixed", strengths=(20, 40, 60, 80, 100)):
  """Non-eccentricity: copies 16x16 patches to a place less than half a patch away, one after the other.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: [b, 2] uint32.
    compat: 'fixed' or 'official'.
    strengths: number of copies for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  _, h, _, w = planes.shape
  side = min(_PATCH, h // 3, w // 3)
  count = jnp.asarray(np.asarray(strengths))[levels]
  draws = [streams.uniform(word) for word in streams.words(seeds, 0, max(strengths))]
  # Sources keep one patch away from every border, so that no copy leaves the image.
  top, left = (side + (draws[i] * (size - 3 * side)).astype(jnp.int32) for i, size in ((0, h), (1, w)))
  # int() cuts toward zero.
  reach = max(side, 4)  # so that the smallest patches still move by a pixel
  down, right = (((draws[i] - 0.5) * reach).astype(jnp.int32) for i in (2, 3))

  def copy(i, image, top, left, down, right, count):
    patch = jax.lax.dynamic_slice(image, (top[i], 0, left[i]), (side, 3, side))
    # A copy that is one too many falls back onto its own place.
    move = (i < count).astype(jnp.int32)
    return jax.lax.dynamic_update_slice(image, patch, (top[i] + move * down[i], 0, left[i] + move * right[i]))

  def copy_all(image, *places):
    return jax.lax.fori_loop(0, max(strengths), lambda i, image: copy(i, image, *places), image)

  planes = jax.vmap(copy_all)(planes, top, left, down, right, count)
  return finish(planes, compat, official=round_to_grid)


def _keys_weight(distance):
  """Keys' cubic kernel (1981, eq. 8) with a = -0.7."""
  x, a = jnp.abs(distance), _KEYS_A
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


def _displace(planes, offsets, axis):
  """Reads every pixel at its own offset along one axis, without a gather.

  All taps that the largest offset can reach are weighted and summed: shifted slices instead of a million scattered
  reads.

  Args:
    planes: [b, h, 3, w] float32.
    offsets: [b, h, w] float32, at most `_JITTER_REACH` in size.
    axis: 1 (vertical) or 3 (horizontal).

  Returns:
    [b, h, 3, w] float32.
  """
  margin, size = _JITTER_REACH + 1, planes.shape[axis]
  widths = [(margin, margin) if i == axis else (0, 0) for i in range(4)]
  # The barriers keep XLA from recomputing the border test and the weights in every tap.
  padded = jax.lax.optimization_barrier(jnp.pad(planes, widths, mode="symmetric"))
  taps = range(-margin, margin + 1)
  weights = jax.lax.optimization_barrier([_keys_weight(offsets - tap) for tap in taps])
  slices = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(weights))]
  channels = [sum(weight * piece[:, :, c] for weight, piece in zip(weights, slices, strict=True)) for c in range(3)]
  return jnp.stack(channels, axis=2)


def jitter(planes, levels, seeds, compat="fixed", strengths=(0.05, 0.1, 0.2, 0.5, 1)):
  """Displaces every pixel at random, five times over.

  Deviations from the published code, in both modes: the field's normals are sums of four bytes, cut at three pixels;
  interpolation is Keys' cubic, first vertical and then horizontal, where the published code prefilters a cubic
  B-spline. a = -0.7 makes the error energy agree to within half a decibel at every level.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: [b, 2] uint32.
    compat: 'fixed' or 'official'.
    strengths: standard deviation of the displacement in pixels, per axis and iteration, for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  _, h, _, w = planes.shape
  deviation = by_level(strengths, levels)[..., 0]

  def displace(iteration, planes):
    for axis, word in zip((1, 3), streams.words(seeds, iteration, h, w)[:2], strict=True):
      offsets = jnp.clip(deviation * streams.near_normal(word), -_JITTER_REACH, _JITTER_REACH)
      planes = _displace(planes, offsets, axis)
    return jnp.clip(planes, 0, 1)

  return finish(jax.lax.fori_loop(0, _JITTER_ITERATIONS, displace, planes), compat)
