"""Colour: diffusion, shift and two saturations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import lab, resample, streams
from jiqa.distortions.planes import by_level, finish


def color_diffusion(planes, levels, seeds=None, compat="fixed", strengths=(1, 3, 6, 8, 12)):
  """Blurs the Lab colours by sigma = 1.5 strength + 2 pixels and multiplies them by the strength."""
  f = lab.responses(planes)
  colors = (f - f[:, :, 1:2])[:, :, ::2]  # a / 500 and -b / 200
  sigmas = tuple(1.5 * strength + 2 for strength in strengths)
  colors = resample.separable(resample.gaussian, sigmas, levels, colors)
  colors = jnp.pad(colors, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, np.array([0, 2, 1])]
  return finish(lab.rgb(f[:, :, 1:2] + by_level(strengths, levels) * colors), compat)


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
  magnitude = resample.separable(resample.gaussian, (4,), zero, magnitude)[:, :, 0]
  edges = _stretch(jnp.clip(_stretch(magnitude), 0.1, 1))
  flat = jax.lax.stop_gradient(edges)
  return _stretch(jnp.clip(edges, _percentile(flat, 0.01), _percentile(flat, 0.99)))


def _mirrored(plane, margin):
  """Extends a plane on all sides by whole reflections."""
  # By index: after `jnp.pad` XLA fuses otherwise, and single values round to the other side.
  for axis in (0, 1):
    plane = jnp.take(plane, np.pad(np.arange(plane.shape[axis]), margin, mode="symmetric"), axis=axis)
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
  """Shifts the green plane down and right in a random direction where there are edges; strengths: length in pixels."""
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
  """Multiplies HSV saturation by the strength; a negative one turns the hue around, as the published formula does.

  At fixed hue and value a channel is V (1 - S k), k a function of the hue alone: scaling S scales the distance to V.
  """
  value = jnp.max(planes, axis=2, keepdims=True)
  return finish(value + by_level(strengths, levels) * (planes - value), compat)


def saturation_lab(planes, levels, seeds=None, compat="fixed", strengths=(1, 2, 3, 6, 9)):
  """Multiplies the Lab colours by the strength; the first level is the identity."""
  return finish(lab.rgb(lab.with_colors_scaled(lab.responses(planes), by_level(strengths, levels))), compat)
