"""Blurs: Gaussian, lens (defocus) and motion.

Differences of compat='official':
  gaussian_blur: rounds to 8 bits, ties down, after each of the six passes, as PIL does: sigma 0.1 then changes next to
    nothing, and sigma 1 darkens by half a level.
  lens_blur: truncates.
  motion_blur: truncates; the line reaches from -k/2 to k/2 - 1 and lies one pixel beside its place, so that the image
    moves by half a pixel along the line and by one across. The default is centred: k - 1 whole pixels and two halves.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from jiqa.distortions import resample, streams
from jiqa.distortions.planes import finish, round_to_grid

_DISC_TERMS = 6


@functools.cache
def _gaussian_bands(size, strengths, passes):
  """Bands of `passes` of the three box blurs at once."""
  return resample.banded([np.linalg.matrix_power(resample.gaussian_box(size, sigma), passes) for sigma in strengths])


def _round_ties_down(planes):
  """To 8 bits. The box weights of PIL are cut to 24 bits, so that what should be a tie falls short of it."""
  return jnp.floor(planes * 255 + (0.5 - 1e-3)) / 255


def gaussian_blur(planes, levels, seeds=None, compat="fixed", strengths=(0.1, 0.5, 1, 2, 5)):
  """Gaussian blur, as PIL draws it: three box blurs of fractional width.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: ignored; present so that all distortions are called alike.
    compat: 'fixed' or 'official'.
    strengths: sigma in pixels for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  official = compat == "official"
  passes = 1 if official else 3
  for along, axis in ((resample.along_columns, 3), (resample.along_rows, 1)):
    bands = _gaussian_bands(planes.shape[axis], strengths, passes)
    for _ in range(3 // passes):
      planes = along(bands, levels, planes)
      planes = _round_ties_down(planes) if official else planes
  return finish(planes, compat, official=round_to_grid)


@functools.cache
def _disc_spectra(h, w, strengths):
  """Real spectra of the (symmetric) discs on an [h, w] torus, [levels, h, w // 2 + 1] float32."""
  kernels = np.zeros((len(strengths), h, w))
  for kernel, radius in zip(kernels, strengths, strict=True):
    kernel[: 2 * radius + 1, : 2 * radius + 1] = resample.disc(radius)
    kernel[:] = np.roll(kernel, (-radius, -radius), (0, 1))
  return np.fft.rfft2(kernels).real.astype(np.float32)


def disc_by_fft(planes, levels, strengths):
  """Convolves with discs in the frequency domain: on a CPU three times faster than matrix products."""
  _, h, _, w = planes.shape
  margin = max(strengths)
  fast_h, fast_w = (scipy.fft.next_fast_len(size + 2 * margin, real=True) for size in (h, w))
  below, right = fast_h - h - margin, fast_w - w - margin
  padded = jnp.pad(jnp.moveaxis(planes, 2, 1), ((0, 0), (0, 0), (margin, below), (margin, right)), mode="edge")
  spectrum = jnp.asarray(_disc_spectra(fast_h, fast_w, strengths))[levels][:, None]
  blurred = jnp.fft.irfft2(jnp.fft.rfft2(padded) * spectrum, s=(fast_h, fast_w))
  return jnp.moveaxis(blurred[..., margin : margin + h, margin : margin + w], 1, 2)


@functools.cache
def _disc_bands(size, strengths, term, axis):
  """Bands of one term of the discs' singular value decompositions; axis: 0 vertical, 1 horizontal."""
  matrices = []
  for radius in strengths:
    vertical, values, horizontal = np.linalg.svd(resample.disc(radius))
    factor = (vertical.T * values[:, None], horizontal)[axis]
    weights = factor[term] if term < len(values) else np.zeros(2 * radius + 1)
    matrices.append(resample.convolution(size, np.arange(-radius, radius + 1), weights))
  return resample.banded(matrices)


def disc_by_products(planes, levels, strengths):
  """Convolves with discs as a sum of separable filters: matrix products only, which is what accelerators are made for.

  Six terms leave an error below 0.02 grey levels at radius 8. No FFT also means that XLA splits a sharded batch; it
  gathers one for an FFT.
  """
  total = 0
  for term in range(min(_DISC_TERMS, 2 * max(strengths) + 1)):
    rows, columns = (_disc_bands(planes.shape[(1, 3)[axis]], strengths, term, axis) for axis in (0, 1))
    total += resample.along_columns(columns, levels, resample.along_rows(rows, levels, planes))
  return total


def lens_blur(planes, levels, seeds=None, compat="fixed", strengths=(1, 2, 4, 6, 8)):
  """Blur by a uniform disc, the image of a point out of focus; the edge is repeated.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: ignored.
    compat: 'fixed' or 'official'.
    strengths: radius in whole pixels for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  by_fft, by_products = (functools.partial(form, strengths=strengths) for form in (disc_by_fft, disc_by_products))
  return finish(jax.lax.platform_dependent(planes, levels, cpu=by_fft, default=by_products), compat)


@functools.cache
def _line_bands(size, strengths, official):
  """Bands of the five lines, and after them what happens across a line: nothing, or a shift by one pixel."""
  lines = []
  for length in strengths:
    if official:
      lines.append(resample.convolution(size, np.arange(length) - length // 2, np.full(length, 1 / length)))
    else:
      lines.append(resample.box(size, (length - 1) / 2))
  across = resample.convolution(size, [-1 if official else 0], [1.0])
  return resample.banded([*lines, across])


def motion_blur(planes, levels, seeds, compat="fixed", strengths=(12, 16, 20, 24, 28)):
  """Blur along a straight line, vertical or horizontal with equal probability.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: [b, 2] uint32.
    compat: 'fixed' or 'official'.
    strengths: length of the line in pixels for every level.

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  vertical = streams.coin(seeds, 0)
  across = len(strengths)
  bands = [_line_bands(size, strengths, compat == "official") for size in (planes.shape[1], planes.shape[3])]
  planes = resample.along_rows(bands[0], jnp.where(vertical, levels, across), planes)
  planes = resample.along_columns(bands[1], jnp.where(vertical, across, levels), planes)
  return finish(planes, compat)
