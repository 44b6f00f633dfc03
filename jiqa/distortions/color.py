"""Colour and tone, for the most part through CIE Lab: diffusion, shift, saturation, brightness, contrast, sharpness.

Lab (D65, 2 degrees; constants of scikit-image) is worked on as the three responses f that it is linear in:

  L = 116 f_y - 16,   a = 500 (f_x - f_y),   b = 200 (f_y - f_z).

A change of lightness adds one number to all f; scaling the colours scales their distances to f_y.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import resample, streams
from jiqa.distortions.planes import by_level, finish, mix_channels

_XYZ_OF_RGB = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_XYZ = _XYZ_OF_RGB / _WHITE[:, None]
_TO_RGB = np.linalg.inv(_TO_XYZ)
# scikit-image lets no pixel have a negative z.
_LEAST_RESPONSE = np.array([-np.inf, -np.inf, 0], np.float32)[:, None]


def _power(x, exponent):
  """x ** exponent for x > 0; on a CPU `**` and `cbrt` call libm for every element, which does not vectorise."""
  return jnp.exp(exponent * jnp.log(x))


def _linear(srgb):
  curved = _power((jnp.maximum(srgb, 0.04045) + 0.055) / 1.055, 2.4)
  return jnp.where(srgb > 0.04045, curved, srgb / 12.92)


def _gamma(linear):
  curved = 1.055 * _power(jnp.maximum(linear, 0.0031308), 1 / 2.4) - 0.055
  return jnp.where(linear > 0.0031308, curved, 12.92 * linear)


def _root(t):
  return jnp.where(t > 0.008856, _power(jnp.maximum(t, 0.008856), 1 / 3), 7.787 * t + 16 / 116)


def _cube(f):
  return jnp.where(f > 0.2068966, f * f * f, (f - 16 / 116) / 7.787)


def _responses(planes):
  """f_x, f_y, f_z of sRGB planes, [b, h, 3, w] float32."""
  return _root(mix_channels(_TO_XYZ, _linear(planes)))


def _lightness(f):
  """L in [0, 100] of responses [b, h, 3, w], as [b, h, 1, w]."""
  return 116 * f[:, :, 1:2] - 16


def _with_lightness(f, changed):
  """Responses of the same a and b with another L, [b, h, 1, w]."""
  return f + ((changed + 16) / 116 - f[:, :, 1:2])


def _rgb(f):
  """sRGB planes of responses, [b, h, 3, w] float32; colours outside sRGB are not yet clipped."""
  return _gamma(mix_channels(_TO_RGB, _cube(jnp.maximum(f, _LEAST_RESPONSE))))


def color_diffusion(planes, levels, seeds=None, compat="fixed", strengths=(1, 3, 6, 8, 12)):
  """Blurs the Lab colours by sigma = 1.5 strength + 2 pixels and multiplies them by the strength."""
  f = _responses(planes)
  colors = (f - f[:, :, 1:2])[:, :, ::2]  # a / 500 and -b / 200
  sigmas = tuple(1.5 * strength + 2 for strength in strengths)
  colors = resample.separable(resample.gaussian, sigmas, levels, colors)
  colors = jnp.pad(colors, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, np.array([0, 2, 1])]
  return finish(_rgb(f[:, :, 1:2] + by_level(strengths, levels) * colors), compat)


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
  f = _responses(planes)
  return finish(_rgb(f[:, :, 1:2] + by_level(strengths, levels) * (f - f[:, :, 1:2])), compat)


def _bend(values, middle):
  """The quadratic through (0, 0), (1/2, middle), (1, 1), clipped to [0, 1]."""
  return jnp.clip((2 * (1 - 2 * middle) * values + (4 * middle - 1)) * values, 0, 1)


def brighten(planes, levels, seeds=None, compat="fixed", strengths=(0.1, 0.2, 0.4, 0.7, 1.1)):
  """Lifts the mid tones: two parts of a curve on RGB, one on Lab lightness; strengths: twice the rise of its middle."""
  middle = 0.5 + 0.5 * by_level(strengths, levels)
  f = _responses(planes)
  lifted = _rgb(_with_lightness(f, 100 * _bend(_lightness(f) / 100, middle)))
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
  f = _responses(planes * scale)
  lightness = _lightness(f)
  laplacian = _second_difference(lightness, 1) + _second_difference(lightness, 3)
  sharper = jnp.clip(lightness - by_level(strengths, levels) * laplacian, 0, 100)
  return finish(_rgb(_with_lightness(f, sharper)), compat)


UNSHARP = 3  # pixels
_short_gaussian = functools.partial(resample.gaussian, reach=2)  # `imsharpen` cuts it there


def unsharp_mask(planes, levels, seeds=None, compat="fixed", strengths=(1, 2, 3, 6, 12)):
  """Adds to Lab lightness its distance to its blur, of sigma UNSHARP, times the strength (MATLAB imsharpen)."""
  f = _responses(planes)
  lightness = _lightness(f)
  blurred = resample.separable(_short_gaussian, (UNSHARP,), jnp.zeros_like(levels), lightness)
  return finish(_rgb(_with_lightness(f, lightness + by_level(strengths, levels) * (lightness - blurred))))
