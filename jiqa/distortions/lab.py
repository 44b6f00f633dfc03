"""CIE Lab (D65, 2 degrees) on colour planes as the three responses f that it is linear in; constants of scikit-image.

  L = 116 f_y - 16,   a = 500 (f_x - f_y),   b = 200 (f_y - f_z).

A change of lightness adds one number to all f; scaling the colours scales their distances to f_y.
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


def responses(planes):
  """f_x, f_y, f_z of sRGB planes, [b, h, 3, w] float32."""
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
  """sRGB planes of responses, [b, h, 3, w] float32; colours outside sRGB are not yet clipped."""
  return _gamma(mix_channels(_TO_RGB, _cube(jnp.maximum(f, _LEAST_RESPONSE))))
