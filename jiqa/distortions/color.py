"""Colour: diffusion, shift and two saturations.

Differences of compat='official':
  all: truncate.
  color_shift: the published code rolls the padded green plane as one flat array, so that the green shifts to the right
    only, by the sum of both components, and wraps into the left border from the row above. The default shifts in both
    axes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import lab, resample, streams
from jiqa.distortions.planes import by_level, finish

_EDGE_SIGMA = 4


@functools.cache
def _diffusion_bands(size, strengths):
  return resample.banded([resample.gaussian(size, 1.5 * amount + 2) for amount in strengths])


def color_diffusion(planes, levels, seeds=None, compat="fixed", strengths=(1, 3, 6, 8, 12)):
  """Blurs the Lab colours by sigma = 1.5 strength + 2 pixels and multiplies them by the strength; lightness stays.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: ignored.
    compat: 'fixed' or 'official'.
    strengths: the amount for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  f = lab.responses(planes)
  colors = (f - f[:, :, 1:2])[:, :, ::2]  # a / 500 and -b / 200
  colors = resample.along_columns(_diffusion_bands(planes.shape[3], strengths), levels, colors)
  colors = resample.along_rows(_diffusion_bands(planes.shape[1], strengths), levels, colors)
  colors = jnp.pad(colors, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, np.array([0, 2, 1])]
  return finish(lab.rgb(f[:, :, 1:2] + by_level(strengths, levels) * colors), compat)


@functools.cache
def _edge_bands(size):
  return resample.banded([resample.gaussian(size, _EDGE_SIGMA)])


def _stretch(values):
  """Every image's range to [0, 1]; a constant image to 0."""
  low, high = (reduce(values, axis=(1, 2), keepdims=True) for reduce in (jnp.min, jnp.max))
  return (values - low) / jnp.maximum(high - low, 1e-12)


def _percentile(values, share):
  """The value in [0, 1] below which a share of every image lies; bisection is cheaper than sorting everywhere."""
  low, high = jnp.zeros((values.shape[0], 1, 1)), jnp.ones((values.shape[0], 1, 1))
  for _ in range(16):
    middle = (low + high) / 2
    below = jnp.mean(values < middle, axis=(1, 2), keepdims=True, dtype=jnp.float32) < share
    low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
  return (low + high) / 2


def _edge_map(planes):
  """Where the colour shift shows: smoothed gradient magnitude of luma with its tails cut, [b, h, w] in [0, 1]."""
  luma = 0.2989 * planes[:, :, 0] + 0.5870 * planes[:, :, 1] + 0.1140 * planes[:, :, 2]
  squared = jnp.gradient(luma, axis=1) ** 2 + jnp.gradient(luma, axis=2) ** 2
  # The tiny floor keeps the gradient of the root finite on flat images.
  magnitude = jnp.sqrt(jnp.maximum(squared, 1e-20))[:, :, None]
  zero = jnp.zeros(planes.shape[0], jnp.int32)
  magnitude = resample.along_columns(_edge_bands(planes.shape[3]), zero, magnitude)
  magnitude = resample.along_rows(_edge_bands(planes.shape[1]), zero, magnitude)[:, :, 0]
  edges = _stretch(jnp.clip(_stretch(magnitude), 0.1, 1))
  flat = jax.lax.stop_gradient(edges)
  return _stretch(jnp.clip(edges, _percentile(flat, 0.01), _percentile(flat, 0.99)))


def _mirrored(plane, margin):
  """Extends a plane on all sides by whole reflections, however small it is."""
  for axis in (0, 1):
    size = plane.shape[axis]
    period = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    plane = jnp.take(plane, period[np.arange(-margin, size + margin) % (2 * size)], axis=axis)
  return plane


def _shifted(green, down, right, margin):
  """Moves one plane [h, w] down and to the right; what comes in is the mirrored border."""
  return jax.lax.dynamic_slice(_mirrored(green, margin), (margin - down, margin - right), green.shape)


def _rolled_flat(green, down, right, margin):
  """The published shift: pads by max(down, right) mirrored pixels, rolls the flat array by down + right, unpads."""
  h, w = green.shape
  pad, shift = jnp.maximum(down, right), down + right
  pitch = w + 2 * pad
  row = jnp.arange(h)[:, None] + pad
  column = jnp.arange(w)[None, :] + pad - shift
  row, column = jnp.where(column < 0, row - 1, row), jnp.where(column < 0, column + pitch, column)
  return _mirrored(green, margin)[row - pad + margin, column - pad + margin]


def color_shift(planes, levels, seeds, compat="fixed", strengths=(1, 3, 6, 8, 12)):
  """Shifts the green plane down and to the right by `strength` pixels in a random direction, where there are edges.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: [b, 2] uint32.
    compat: 'fixed' or 'official'.
    strengths: length of the shift in pixels for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  direction = streams.uniforms(seeds, 0, 2) + 1e-6
  direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
  shift = jnp.round(direction * by_level(strengths, levels)[:, :, 0, 0]).astype(jnp.int32)
  move = _rolled_flat if compat == "official" else _shifted
  move = functools.partial(move, margin=max(strengths) + 1)
  green = planes[:, :, 1]
  moved = jax.vmap(move)(green, shift[:, 0], shift[:, 1])
  edges = _edge_map(planes)
  return finish(planes.at[:, :, 1].set(moved * edges + green * (1 - edges)), compat)


def saturation_hsv(planes, levels, seeds=None, compat="fixed", strengths=(0.4, 0.2, 0.1, 0, -0.4)):
  """Multiplies HSV saturation.

  At fixed hue and value a channel is V (1 - S k) with k a function of the hue alone: scaling S scales the distance to
  V. Negative strengths turn the hue around, as the published formula does. Arguments as `color_diffusion`; strengths
  are the factors.
  """
  value = jnp.max(planes, axis=2, keepdims=True)
  return finish(value + by_level(strengths, levels) * (planes - value), compat)


def saturation_lab(planes, levels, seeds=None, compat="fixed", strengths=(1, 2, 3, 6, 9)):
  """Multiplies the Lab colours; the first level is the identity; arguments as `color_diffusion`."""
  return finish(lab.rgb(lab.with_colors_scaled(lab.responses(planes), by_level(strengths, levels))), compat)
