"""Noise: white, in colour components, impulse, multiplicative, and white noise denoised by a blur or in wavelets."""

import jax.numpy as jnp
import numpy as np

from jiqa.distortions import compression, resample, streams
from jiqa.distortions.planes import by_level, finish, mix_channels, to_grid

# BT.601 with 219 luma and 224 chroma steps, in units of 255 (scikit-image rgb2ycbcr).
_YCC_OF_RGB = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_RGB_OF_YCC = np.linalg.inv(_YCC_OF_RGB)


def _gaussian(planes, levels, seeds, variances):
  """Independent normals of every level's variance, [b, h, 3, w]."""
  return by_level(np.sqrt(variances), levels) * streams.normal(streams.words(seeds, 0, *planes.shape[1:])[0])


def white_noise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.002, 0.003, 0.005, 0.01)):
  """Adds independent Gaussian noise to every channel of every pixel; strengths: variance, for values in [0, 1]."""
  return finish(planes + _gaussian(planes, levels, seeds, strengths), compat)


def component_noise(planes, levels, seeds, compat="fixed", strengths=(0.0001, 0.0005, 0.001, 0.002, 0.003)):
  """Adds independent Gaussian noise to Y, Cb and Cr (BT.601 studio range / 255); strengths: variance.

  The way to YCbCr and back is linear, so that only the noise is converted.
  """
  return finish(planes + mix_channels(_RGB_OF_YCC, _gaussian(planes, levels, seeds, strengths)), compat)


def impulse_noise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.005, 0.01, 0.02, 0.03)):
  """Turns pixels black or white, all channels together; strengths: share of pixels hit."""
  half = by_level(strengths, levels)[..., 0] / 2
  draw = streams.uniform(streams.words(seeds, 0, planes.shape[1], planes.shape[3])[0])
  pepper, salt = (hit[:, :, None] for hit in (draw < half, draw > 1 - half))
  return finish(jnp.where(pepper, 0, jnp.where(salt, 1, planes)))


def multiplicative_noise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.005, 0.01, 0.02, 0.05)):
  """Speckle: x + x n with Gaussian n; strengths: variance of n."""
  return finish(planes * (1 + _gaussian(planes, levels, seeds, strengths)), compat)


def _smoother(size, name):
  return resample.gaussian_boxes(size, 3) if name == "gaussian" else resample.box(size, 2)


def denoise(planes, levels, seeds, compat="fixed", strengths=(0.001, 0.002, 0.003, 0.005, 0.01)):
  """White noise smoothed away by a Gaussian (sigma 3) or a 5x5 mean, chosen by a coin; strengths: its variance."""
  noisy = jnp.clip(planes + _gaussian(planes, levels, seeds, strengths), 0, 1)
  noisy = to_grid(jnp.floor, noisy) if compat == "official" else noisy
  return finish(resample.separable(_smoother, ("gaussian", "box"), streams.coin(seeds, 1).astype(jnp.int32), noisy))


def wavelet_denoise(planes, levels, seeds, compat="fixed", strengths=(0.01, 0.03, 0.05, 0.1, 0.15)):
  """White noise taken away in every channel by BayesShrink (Chang, Yu & Vetterli 2000, eq. 10-13), which knows it.

  strengths: its variance. The wavelet is JPEG2000's.
  """
  variance = by_level(strengths, levels)
  approximation, details = compression.decompose(jnp.clip(planes + _gaussian(planes, levels, seeds, strengths), 0, 1))

  def shrink(band):
    signal = jnp.sqrt(jnp.maximum(jnp.mean(band**2, axis=(1, 3), keepdims=True) - variance, 1e-12))
    return jnp.sign(band) * jnp.maximum(jnp.abs(band) - variance / signal, 0)

  return finish(compression.recompose(approximation, [tuple(shrink(band) for band in level) for level in details]))
