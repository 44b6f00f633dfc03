"""Blurs: Gaussian, lens (defocus) and motion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from jiqa.distortions import resample, streams
from jiqa.distortions.planes import finish

_DISC_TERMS = 6


def gaussian_blur(planes, levels, seeds=None, compat="fixed", strengths=(0.1, 0.5, 1, 2, 5)):
  """Gaussian blur, as PIL draws it: three box blurs of fractional width; strengths: sigma in pixels."""
  if compat == "fixed":
    return finish(resample.separable(resample.gaussian_boxes, strengths, levels, planes))
  for axis in (3, 3, 3, 1, 1, 1):
    bands = resample.bands(resample.gaussian_box, planes.shape[axis], strengths)
    planes = resample.along(axis, bands, levels, planes)
    # To 8 bits in every pass, as PIL; ties fall down because its weights are cut to 24 bits.
    planes = jnp.floor(planes * 255 + (0.5 - 1e-3)) / 255
  return finish(planes)


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


def _disc_factor(size, setting):
  """One vertical (axis 1) or horizontal (axis 3) factor of a disc's singular value decomposition."""
  radius, term, axis = setting
  vertical, values, horizontal = np.linalg.svd(resample.disc(radius))
  factors = vertical.T * values[:, None] if axis == 1 else horizontal
  weights = factors[term] if term < len(values) else np.zeros(2 * radius + 1)
  return resample.convolution(size, np.arange(-radius, radius + 1), weights)


def disc_by_products(planes, levels, strengths):
  """Convolves with discs as sums of separable filters, to 0.02 grey levels: made for accelerators, and for sharding."""
  total = 0
  for term in range(min(_DISC_TERMS, 2 * max(strengths) + 1)):
    blurred = planes
    for axis in (1, 3):
      settings = tuple((radius, term, axis) for radius in strengths)
      blurred = resample.along(axis, resample.bands(_disc_factor, planes.shape[axis], settings), levels, blurred)
    total += blurred
  return total


def lens_blur(planes, levels, seeds=None, compat="fixed", strengths=(1, 2, 4, 6, 8)):
  """Blur by a uniform disc, the image of a point out of focus; strengths: radius in whole pixels."""
  by_fft, by_products = (functools.partial(form, strengths=strengths) for form in (disc_by_fft, disc_by_products))
  return finish(jax.lax.platform_dependent(planes, levels, cpu=by_fft, default=by_products), compat)


def _line(size, length):
  return resample.box(size, (length - 1) / 2)


def _official_line(size, length):
  """From -length/2 to length/2 - 1, half a pixel off; length 0: one pixel off, which happens across the line."""
  if length == 0:
    return resample.convolution(size, [-1], [1.0])
  return resample.convolution(size, np.arange(length) - length // 2, np.full(length, 1 / length))


def motion_blur(planes, levels, seeds, compat="fixed", strengths=(12, 16, 20, 24, 28)):
  """Blur along a line, vertical or horizontal with equal probability; strengths: its length in pixels."""
  vertical = streams.coin(seeds, 0)
  line, none = (_official_line, 0) if compat == "official" else (_line, 1)
  for axis, blurred in ((1, vertical), (3, ~vertical)):
    bands = resample.bands(line, planes.shape[axis], (*strengths, none))
    planes = resample.along(axis, bands, jnp.where(blurred, levels, len(strengths)), planes)
  return finish(planes, compat)
