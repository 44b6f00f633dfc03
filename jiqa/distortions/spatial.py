"""Spatial: resizing down and up, pixelating, colour blocks, displaced patches and jitter; on small images, too."""

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import resample, streams
from jiqa.distortions.planes import by_level, finish

_BLOCK = 32
_PATCH = 16
_JITTER_ITERATIONS = 5
_JITTER_REACH = 3  # displacements are cut here: beyond three standard deviations at the strongest level


def down_and_up(size, setting):
  """Shrinking by a factor and back, as one matrix [size, size]; setting: factor, method."""
  factor, method = setting
  small = max(int(size / factor), 1)
  return resample.resize(size, small, method) @ resample.resize(small, size, method)


def resize(planes, levels, seeds=None, compat="fixed", strengths=(2, 3, 4, 8, 16), method="bicubic"):
  """Resizes down and back up as PIL does; strengths: shrinking factor; method: see `resample.resize`."""
  settings = tuple((factor, method) for factor in strengths)
  return finish(resample.separable(down_and_up, settings, levels, planes))


def pixelate(planes, levels, seeds=None, compat="fixed", strengths=(0.01, 0.05, 0.1, 0.2, 0.5)):
  """Nearest neighbour to a share 0.95 - strength^0.6 of the side and back."""
  factors = tuple(1 / (0.95 - strength**0.6) for strength in strengths)
  return resize(planes, levels, strengths=factors, method="nearest")


def color_block(planes, levels, seeds, compat="fixed", strengths=(2, 4, 6, 8, 10)):
  """Covers the image with squares of 32x32 pixels, each of a random colour; strengths: their number."""
  _, h, _, w = planes.shape
  count = jnp.array(strengths)[levels].reshape(-1, 1, 1)
  draws = streams.words(seeds, 0, max(strengths))
  tops, lefts = ((streams.uniform(draws[i]) * max(size - _BLOCK, 0)).astype(jnp.int32) for i, size in ((0, h), (1, w)))
  colors = jnp.stack([(draws[2] >> (8 * i)) & np.uint32(255) for i in range(3)], -1).astype(jnp.float32) / 255
  rows, columns = jnp.arange(h)[None, :, None], jnp.arange(w)[None, None, :]
  for i in range(max(strengths)):
    top, left = (corner[:, i].reshape(-1, 1, 1) for corner in (tops, lefts))
    inside = (rows >= top) & (rows < top + _BLOCK) & (columns >= left) & (columns < left + _BLOCK) & (i < count)
    planes = jnp.where(inside[:, :, None], colors[:, None, i, :, None], planes)
  return finish(planes)


def patches(planes, levels, seeds, compat="fixed", strengths=(20, 40, 60, 80, 100)):
  """Non-eccentricity: copies 16x16 patches less than half a patch away, one after the other; strengths: how many."""
  _, h, _, w = planes.shape
  side = min(_PATCH, h // 3, w // 3)
  draws = [streams.uniform(word) for word in streams.words(seeds, 0, max(strengths))]
  # Sources keep one patch away from every border, so that no copy leaves the image.
  top, left = (side + (draws[i] * (size - 3 * side)).astype(jnp.int32) for i, size in ((0, h), (1, w)))
  reach = max(side, 4)  # so that the smallest patches still move by a pixel
  down, right = (((draws[i] - 0.5) * reach).astype(jnp.int32) for i in (2, 3))

  def copy_all(image, top, left, down, right, count):
    def copy(i, image):
      patch = jax.lax.dynamic_slice(image, (top[i], 0, left[i]), (side, 3, side))
      # A copy that is one too many falls back onto its own place.
      move = (i < count).astype(jnp.int32)
      return jax.lax.dynamic_update_slice(image, patch, (top[i] + move * down[i], 0, left[i] + move * right[i]))

    return jax.lax.fori_loop(0, max(strengths), copy, image)

  return finish(jax.vmap(copy_all)(planes, top, left, down, right, jnp.array(strengths)[levels]))


def _displace(planes, offsets, axis):
  """Reads every pixel of [b, h, 3, w] at its own offset [b, h, w] along axis 1 or 3.

  All taps that the largest offset can reach are weighted and summed: shifted slices instead of scattered reads.
  """
  margin, size = _JITTER_REACH + 1, planes.shape[axis]
  widths = [(margin, margin) if i == axis else (0, 0) for i in range(4)]
  # The barriers keep XLA from recomputing the border test and the weights in every tap.
  padded = jax.lax.optimization_barrier(jnp.pad(planes, widths, mode="symmetric"))
  # a = -0.7 gives the published B-spline's error energy to within half a decibel.
  weights = [resample.cubic(offsets - tap, -0.7, jnp.where) for tap in range(-margin, margin + 1)]
  weights = jax.lax.optimization_barrier(weights)
  slices = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(weights))]
  channels = [sum(weight * piece[:, :, c] for weight, piece in zip(weights, slices, strict=True)) for c in range(3)]
  return jnp.stack(channels, axis=2)


def jitter(planes, levels, seeds, compat="fixed", strengths=(0.05, 0.1, 0.2, 0.5, 1)):
  """Displaces every pixel at random, five times over; strengths: standard deviation in pixels, per axis and time.

  Normals are sums of four bytes, cut at three pixels; interpolation is Keys' cubic, first vertical, then horizontal.
  """
  _, h, _, w = planes.shape
  deviation = by_level(strengths, levels)[..., 0]

  def displace(iteration, planes):
    for axis, word in zip((1, 3), streams.words(seeds, iteration, h, w)[:2], strict=True):
      offsets = jnp.clip(deviation * streams.near_normal(word), -_JITTER_REACH, _JITTER_REACH)
      planes = _displace(planes, offsets, axis)
    return jnp.clip(planes, 0, 1)

  return finish(jax.lax.fori_loop(0, _JITTER_ITERATIONS, displace, planes), compat)
