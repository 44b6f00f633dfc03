"""Noise: white, in colour components, impulse, multiplicative, and white noise denoised by a blur.

Differences of compat='official': results are truncated (impulse: already 8-bit; denoise: the noisy image is
truncated, the blurred one rounded).
"""

import functools

import jax.numpy as jnp
import numpy as np

from jiqa.distortions import resample, streams
from jiqa.distortions.planes import by_level, finish, mix_channels, round_to_grid, truncate_to_grid

# BT.601 with 219 luma and 224 chroma steps, in units of 255 (scikit-image rgb2ycbcr).
_YCC_OF_RGB = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_RGB_OF_YCC = np.linalg.inv(_YCC_OF_RGB)


def _normals_like(planes, seeds):
  return streams.normal_planes(seeds, 0, planes.shape[1], planes.shape[3])


def white_noise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.002, 0.003, 0.005, 0.01)):
  """Adds independent Gaussian noise to every channel of every pixel.

  Args:
    planes: [b, h, 3, w] float32 in [0, 1].
    levels: [b] int32 in 0..4.
    seeds: [b, 2] uint32.
    compat: 'fixed' or 'official'.
    strengths: variance for every level, for values in [0, 1].

  Returns:
    [b, h, 3, w] float32, multiples of 1/255 in [0, 1].
  """
  return finish(planes + by_level(np.sqrt(strengths), levels) * _normals_like(planes, seeds), compat)


def component_noise(planes, levels, seeds, compat="fixed", strengths=(0.0001, 0.0005, 0.001, 0.002, 0.003)):
  """Adds independent Gaussian noise to Y, Cb and Cr (BT.601 studio range / 255); arguments as `white_noise`.

  The way to YCbCr and back is linear, so that only the noise is converted.
  """
  noise = by_level(np.sqrt(strengths), levels) * _normals_like(planes, seeds)
  return finish(planes + mix_channels(_RGB_OF_YCC, noise), compat)


def impulse_noise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.005, 0.01, 0.02, 0.03)):
  """Turns pixels black or white, all channels together; strengths: shares of pixels hit, arguments as `white_noise`."""
  half = by_level(strengths, levels)[..., 0] / 2
  draw = streams.uniform(streams.words(seeds, 0, planes.shape[1], planes.shape[3])[0])
  pepper, salt = (hit[:, :, None] for hit in (draw < half, draw > 1 - half))
  return finish(jnp.where(pepper, 0, jnp.where(salt, 1, planes)), compat, official=round_to_grid)


def multiplicative_noise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.005, 0.01, 0.02, 0.05)):
  """Speckle: x + x n with Gaussian n of the given variance; arguments as `white_noise`."""
  return finish(planes * (1 + by_level(np.sqrt(strengths), levels) * _normals_like(planes, seeds)), compat)


@functools.cache
def _denoise_bands(size):
  return resample.banded([np.linalg.matrix_power(resample.gaussian_box(size, 3), 3), resample.box(size, 2)])


def denoise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.002, 0.003, 0.005, 0.01)):
  """White noise smoothed away by a Gaussian (sigma 3) or a 5x5 mean, chosen by a coin; arguments as `white_noise`."""
  noisy = jnp.clip(planes + by_level(np.sqrt(strengths), levels) * _normals_like(planes, seeds), 0, 1)
  noisy = truncate_to_grid(noisy) if compat == "official" else noisy
  which = streams.coin(seeds, 1).astype(jnp.int32)
  smooth = resample.along_columns(_denoise_bands(planes.shape[3]), which, noisy)
  smooth = resample.along_rows(_denoise_bands(planes.shape[1]), which, smooth)
  return finish(smooth, compat, official=round_to_grid)
