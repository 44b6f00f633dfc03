"""Tone: brighten, darken, mean shift, contrast and sharpen."""

import jax.numpy as jnp

from jiqa.distortions import lab
from jiqa.distortions.planes import by_level, finish


def _bend(values, middle):
  """The quadratic through (0, 0), (1/2, middle), (1, 1), clipped to [0, 1]."""
  return jnp.clip((2 * (1 - 2 * middle) * values + (4 * middle - 1)) * values, 0, 1)


def brighten(planes, levels, seeds=None, compat="fixed", strengths=(0.1, 0.2, 0.4, 0.7, 1.1)):
  """Lifts the mid tones: two parts of a curve on RGB, one on Lab lightness; strengths: twice the rise of its middle."""
  middle = 0.5 + 0.5 * by_level(strengths, levels)
  f = lab.responses(planes)
  lifted = lab.rgb(lab.with_lightness(f, 100 * _bend(lab.lightness(f) / 100, middle)))
  return finish((2 * _bend(planes, middle) + jnp.clip(lifted, 0, 1)) / 3, compat)


def darken(planes, levels, seeds=None, compat="fixed", strengths=(0.05, 0.1, 0.2, 0.4, 0.8)):
  """Lowers the mid tones by a quadratic curve on RGB; strengths: twice the fall of the curve's middle."""
  return finish(_bend(planes, 0.5 - 0.5 * by_level(strengths, levels)), compat)


def mean_shift(planes, levels, seeds=None, compat="fixed", strengths=(0.15, 0.08, 0, -0.08, -0.15)):
  """Adds the strength; level 2 is the identity."""
  return finish(planes + by_level(strengths, levels), compat)


def contrast(planes, levels, seeds=None, compat="fixed", strengths=(0.3, 0.15, 0, -0.4, -0.6)):
  """A cubic curve through (0, 0), (1/2, 1/2), (1, 1): positive strengths raise the contrast, negative ones lower it.

  y = a t^3 - 1.5 a t^2 + (1 + a/2) t with a = -(0.05 + strength/4) / 0.042: the least-squares spline through the
  published code's five points is this one cubic.
  """
  a = -(0.05 + by_level(strengths, levels) / 4) / 0.042
  return finish(((a * planes - 1.5 * a) * planes + (1 + 0.5 * a)) * planes, compat)


def _second_difference(values, axis):
  """numpy.gradient applied twice: central differences inside, one-sided ones at the borders."""
  return jnp.gradient(jnp.gradient(values, axis=axis), axis=axis)


def sharpen(planes, levels, seeds=None, compat="fixed", strengths=(1, 2, 3, 6, 12)):
  """Subtracts the strength times the Laplacian from Lab lightness."""
  scale = 255 if compat == "official" else 1  # the published code gives 0..255 to a conversion from 0..1
  f = lab.responses(planes * scale)
  lightness = lab.lightness(f)
  laplacian = _second_difference(lightness, 1) + _second_difference(lightness, 3)
  sharper = jnp.clip(lightness - by_level(strengths, levels) * laplacian, 0, 100)
  return finish(lab.rgb(lab.with_lightness(f, sharper)), compat)
