"""Tone: brighten, darken, mean shift, contrast and sharpen.

Differences of compat='official':
  all: truncate.
  sharpen: the published code hands 0..255 values to a Lab conversion that expects 0..1. The lightness it clips to
    0..100 then runs to some 9,000 and the colours to 5,000, so that the result is a posterised image of zeros and
    ones (6 dB) whatever the level. The default sharpens.
"""

import jax.numpy as jnp

from jiqa.distortions import lab
from jiqa.distortions.planes import by_level, finish


def _bend(values, middle):
  """The quadratic through (0, 0), (1/2, middle), (1, 1), clipped to [0, 1]."""
  return jnp.clip((2 * (1 - 2 * middle) * values + (4 * middle - 1)) * values, 0, 1)


def brighten(planes, levels, seeds=None, compat="fixed", strengths=(0.1, 0.2, 0.4, 0.7, 1.1)):
  """Lifts the mid tones: two parts of a curve on RGB, one part of the same curve on Lab lightness.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: ignored.
    compat: 'fixed' or 'official'.
    strengths: twice the rise of the curve's middle, for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  middle = 0.5 + 0.5 * by_level(strengths, levels)
  f = lab.responses(planes)
  lifted = lab.rgb(lab.with_lightness(f, 100 * _bend(lab.lightness(f) / 100, middle)))
  return finish((2 * _bend(planes, middle) + jnp.clip(lifted, 0, 1)) / 3, compat)


def darken(planes, levels, seeds=None, compat="fixed", strengths=(0.05, 0.1, 0.2, 0.4, 0.8)):
  """Lowers the mid tones by a quadratic curve on RGB; arguments as `brighten`."""
  return finish(_bend(planes, 0.5 - 0.5 * by_level(strengths, levels)), compat)


def mean_shift(planes, levels, seeds=None, compat="fixed", strengths=(0.15, 0.08, 0, -0.08, -0.15)):
  """Adds a constant; level 2 is the identity; arguments as `brighten`."""
  return finish(planes + by_level(strengths, levels), compat)


def contrast(planes, levels, seeds=None, compat="fixed", strengths=(0.3, 0.15, 0, -0.4, -0.6)):
  """A cubic curve through (0, 0), (1/2, 1/2), (1, 1): positive strengths raise the contrast, negative ones lower it.

  y = a t^3 - 1.5 a t^2 + (1 + a/2) t with a = -(0.05 + strength/4) / 0.042: the least-squares spline through the
  published code's five points is this one cubic. Arguments as `brighten`.
  """
  a = -(0.05 + by_level(strengths, levels) / 4) / 0.042
  return finish(((a * planes - 1.5 * a) * planes + (1 + 0.5 * a)) * planes, compat)


def _second_difference(values, axis):
  """numpy.gradient applied twice: central differences inside, one-sided ones at the borders."""
  for _ in range(2):
    values = jnp.gradient(values, axis=axis)
  return values


def sharpen(planes, levels, seeds=None, compat="fixed", strengths=(1, 2, 3, 6, 12)):
  """Subtracts a multiple of the Laplacian from Lab lightness; strengths are the multiples, arguments as `brighten`."""
  scale = 255 if compat == "official" else 1
  f = lab.responses(planes * scale)
  lightness = lab.lightness(f)
  laplacian = _second_difference(lightness, 1) + _second_difference(lightness, 3)
  sharper = jnp.clip(lightness - by_level(strengths, levels) * laplacian, 0, 100)
  return finish(lab.rgb(lab.with_lightness(f, sharper)), compat)
