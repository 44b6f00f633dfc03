"""CIE Lab (D65, 2 degrees) on colour planes, in the form that costs least.

Lab is a linear function of three responses f = cube root (with a linear toe) of X/Xn, Y/Yn, Z/Zn:

  L = 116 f_y - 16,   a = 500 (f_x - f_y),   b = 200 (f_y - f_z).

The distortions change lightness or scale the colours, which in terms of f is adding one number to all three, or
scaling the distances to f_y. So the planes stay in f. Constants are scikit-image's. Powers are `exp(p log x)`, which
vectorises on every backend; on a CPU `x ** p` and `cbrt` call libm, 7 to 16 times slower.
"""

import jax.numpy as jnp
import numpy as np

from jiqa.distortions.planes import mix_channels

_XYZ_OF_RGB = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_XYZ = _XYZ_OF_RGB / _WHITE[:, None]
_TO_RGB = np.linalg.inv(_TO_XYZ)
# scikit-image lets no pixel have a negative z.
_LEAST_RESPONSE = np.array([-np.inf, -np.inf, 0], np.float32)[:, None]


def _power(x, exponent):
  """x ** exponent for x > 0."""
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


def responses(planes):
  """sRGB planes to f.

  Args:
    planes: [b, h, 3, w] float32 sRGB, nominally in [0, 1].

  Returns:
    [b, h, 3, w] float32: f_x, f_y, f_z.
  """
  return _root(mix_channels(_TO_XYZ, _linear(planes)))


def lightness(f):
  """L in [0, 100] of responses [b, h, 3, w], as [b, h, 1, w]."""
  return 116 * f[:, :, 1:2] - 16


def with_lightness(f, changed):
  """Responses of the same a and b with another L, [b, h, 1, w]."""
  return f + ((changed + 16) / 116 - f[:, :, 1:2])


def with_colors_scaled(f, factor):
  """Responses of the same L with a and b multiplied by a factor."""
  return f[:, :, 1:2] + factor * (f - f[:, :, 1:2])


def rgb(f):
  """f to sRGB planes; colours outside sRGB are not yet clipped.

  Args:
    f: [b, h, 3, w] float32.

  Returns:
    [b, h, 3, w] float32.
  """
  return _gamma(mix_channels(_TO_RGB, _cube(jnp.maximum(f, _LEAST_RESPONSE))))
