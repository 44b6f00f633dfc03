"""JPEG2000 at a given compression ratio, approximated by quantising its wavelet transform.

Exact: the irreversible colour transform, five levels of the CDF 9/7 wavelet, the dead-zone quantiser with mid-point
reconstruction (ITU-T T.800, annexes E to G). Approximated: the rate control. The real coder truncates bit planes until
the file fits; here one step serves all coefficients of an image, found by bisection so that the estimated code length,
3.7 sum log2(1 + |q|) bits, meets the budget 24 h w / ratio. 3.7 was calibrated on photographs against OpenJPEG.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import resample
from jiqa.distortions.planes import by_level, finish, mix_channels

_DEPTH = 5
_BITS = 3.7
_OCTAVES = (-3.0, 11.0)  # the range searched for the step, as powers of two
_BISECTIONS = 12
# ITU-T T.800, table F.4, and the scaling that makes the transform nearly orthonormal.
_LIFTING = ((-1.586134342, 1), (-0.052980118, 0), (0.882911076, 1), (0.443506852, 0))
_SCALE = 1.230174105 / np.sqrt(2)
_COLOR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def analysis_matrix(size):
  """One level of the 9/7 transform along one axis with mirrored borders: low-pass rows first, then high-pass rows."""
  matrix = np.eye(size)
  mirror = np.abs(np.arange(-1, size + 1))
  mirror = np.where(mirror < size, mirror, 2 * (size - 1) - mirror)
  for weight, start in _LIFTING:
    rows = np.arange(start, size, 2)
    matrix[rows] += weight * (matrix[mirror[rows]] + matrix[mirror[rows + 2]])
  return np.concatenate([matrix[0::2] / _SCALE, matrix[1::2] * _SCALE])


@functools.cache
def _bands(size):
  """Bands of the analysis, and of the synthesis from the low and from the high half."""
  analysis = analysis_matrix(size)
  synthesis = np.linalg.inv(analysis)
  synthesis[np.abs(synthesis) < 1e-9] = 0
  half = (size + 1) // 2
  # Larger blocks than usual: five levels of small ones would take XLA seconds to compile.
  return tuple(resample.banded([part], block=128) for part in (analysis, synthesis[:, :half], synthesis[:, half:]))


def decompose(planes):
  """The wavelet transform of [b, h, 3, w]: (approximation, [three detail planes of every level, finest first])."""
  zero, details = jnp.zeros(planes.shape[0], jnp.int32), []
  while len(details) < _DEPTH and min(planes.shape[1], planes.shape[3]) >= 2:
    half_h, half_w = (planes.shape[1] + 1) // 2, (planes.shape[3] + 1) // 2
    both = resample.along(1, _bands(planes.shape[1])[0], zero, planes)
    both = resample.along(3, _bands(planes.shape[3])[0], zero, both)
    details.append((both[:, :half_h, :, half_w:], both[:, half_h:, :, :half_w], both[:, half_h:, :, half_w:]))
    planes = both[:, :half_h, :, :half_w]
  return planes, details


def _join(axis, low, high):
  """Synthesis along one axis."""
  _, from_low, from_high = _bands(low.shape[axis] + high.shape[axis])
  zero = jnp.zeros(low.shape[0], jnp.int32)
  return resample.along(axis, from_low, zero, low) + resample.along(axis, from_high, zero, high)


def recompose(planes, details):
  """The way back from `decompose`."""
  for right, below, corner in reversed(details):
    left, right = jnp.concatenate([planes, below], axis=1), jnp.concatenate([right, corner], axis=1)
    both = _join(3, left, right)
    planes = _join(1, both[:, : planes.shape[1]], both[:, planes.shape[1] :])
  return planes


def _step_for(coefficients, budget):
  """The quantiser's step at which every image's coefficients, arrays [b, ...], meet its budget [b] in bits: [b]."""
  magnitudes = jnp.concatenate([jnp.abs(c).reshape(c.shape[0], -1) for c in coefficients], axis=1)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    bits = _BITS * jnp.sum(jnp.log2(1 + jnp.floor(magnitudes * jnp.exp2(-middle)[:, None])), axis=1)
    return jnp.where(bits > budget, middle, low), jnp.where(bits > budget, high, middle)

  bounds = tuple(jnp.full(budget.shape, octave, jnp.float32) for octave in _OCTAVES)
  return jnp.exp2(jax.lax.fori_loop(0, _BISECTIONS, halve, bounds)[1])


def jpeg2000(planes, levels, seeds=None, compat="fixed", strengths=(16, 32, 45, 120, 170)):
  """Compresses as JPEG2000 would; strengths: ratio of 24 bits per pixel to the compressed size."""
  colors = mix_channels(_COLOR, 255 * planes)
  offset = np.array([128, 0, 0], np.float32)[:, None]
  coefficients, tree = jax.tree.flatten(decompose(colors - offset))
  budget = 24 * planes.shape[1] * planes.shape[3] / by_level(strengths, levels)[:, 0, 0, 0]
  step = _step_for(coefficients, budget).reshape(-1, 1, 1, 1)

  def quantize(values):
    whole = jnp.floor(jnp.abs(values) / step)
    return jnp.sign(values) * step * jnp.where(whole > 0, whole + 0.5, 0)

  colors = recompose(*jax.tree.unflatten(tree, [quantize(c) for c in coefficients])) + offset
  return finish(mix_channels(np.linalg.inv(_COLOR), colors) / 255)
