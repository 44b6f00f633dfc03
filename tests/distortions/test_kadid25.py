"""KADID-10k's bank: its order, and what it sets to levels of its own, against PIL and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest
import reference_bank
import scipy.ndimage

from jiqa.distortions import bank

# Lin et al. 2019: I01_10_04.png is the first reference under the tenth of these, at the fourth level.
ORDER = (
  "gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation",
  "saturation HSV", "saturation Lab", "JPEG2000", "JPEG", "white noise", "component noise", "impulse noise",
  "multiplicative noise", "denoise", "brighten", "darken", "mean shift", "jitter", "patches", "pixelate",
  "quantisation", "colour block", "sharpen", "contrast",
)  # fmt: skip
# Levels 1 to 5 of the published generator: libjpeg's quality, pixels, colours, grey levels.
JPEG, MOTION = (43, 36, 24, 7, 4), (1, 2, 4, 6, 10)
COLORS, GRAYS = (64, 48, 32, 16, 8), (20, 16, 13, 10, 7)
# The same levels as Re-IQA's, whose functions are compared with reference_bank.py.
SHARED = (
  "gaussian blur", "lens blur", "colour diffusion", "colour shift", "saturation HSV", "saturation Lab", "white noise",
  "component noise", "impulse noise", "multiplicative noise", "brighten", "darken", "mean shift", "jitter", "patches",
  "pixelate", "colour block", "sharpen", "contrast",
)  # fmt: skip
_distort = jax.jit(bank.distort_versions, static_argnames=("allowed", "bank"))


@functools.cache
def _versions(name, h, w, seed=0):
  """A photo and its versions at the five levels, 8 bit, the kind asked for by its number in `ORDER`."""
  photo, number = photos.bundled(h, w)[0], ORDER.index(name)
  images, kinds = jnp.asarray(photo[None], jnp.float32) / 255, jnp.full((1, 5), number)
  key = jax.random.key(seed)
  out = _distort(images, kinds, jnp.arange(5)[None], key, allowed=(number,), bank="kadid25")
  scaled = np.asarray(out[0]) * 255
  np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-4)
  assert scaled.min() > -0.5 and scaled.max() < 255.5
  return photo, np.rint(scaled)


def test_kinds_stand_in_the_order_of_the_databases_file_names():
  assert bank.names("kadid25") == ORDER


def test_shared_kinds_are_those_that_are_compared_with_the_reference():
  ours, reiqa = dict(bank.BANKS["kadid25"]), dict(bank.BANKS["reiqa26"])
  assert [name for name in SHARED if ours[name] is not reiqa[name]] == []


@pytest.mark.parametrize(("h", "w"), [(160, 208), (8, 8)])
def test_jpeg_is_libjpegs_at_the_published_qualities(h, w):
  photo, versions = _versions("JPEG", h, w)
  for quality, image in zip(JPEG, versions, strict=True):
    assert photos.psnr(image, reference_bank.libjpeg(photo, quality)) > 45, quality


def _line(length):
  """The share of a line of this length, around the middle, in every pixel."""
  pixels = np.arange(-6, 7)
  ends = (np.clip(pixels + side, -length / 2, length / 2) for side in (0.5, -0.5))
  return np.subtract(*ends) / length


@pytest.mark.parametrize(("h", "w"), [(64, 80), (8, 8)])
def test_motion_blur_is_a_line_of_the_published_length(h, w):
  directions = set()
  for seed in (0, 1):
    photo, versions = _versions("motion blur", h, w, seed)
    np.testing.assert_array_equal(versions[0], photo)  # a line of one pixel
    for length, image in zip(MOTION[1:], versions[1:], strict=True):
      blurred = [scipy.ndimage.correlate1d(photo.astype(float), _line(length), axis, mode="nearest") for axis in (0, 1)]
      errors = [np.abs(image - wanted).max() for wanted in blurred]
      assert min(errors) < 0.51 and max(errors) > 2, (length, errors)
      directions.add(int(np.argmin(errors)))
  assert directions == {0, 1}


def test_palettes_have_the_published_numbers_of_colours():
  photo, versions = _versions("colour quantisation", 64, 64)
  strength = [photos.psnr(image, photo) for image in versions]
  assert [len(np.unique(image.reshape(-1, 3), axis=0)) for image in versions] == list(COLORS)
  assert np.all(np.diff(strength) < 0)


def test_gray_levels_of_evenly_spread_values_are_equal_steps_of_the_published_number():
  values = np.arange(256 * 48) % 256
  photo = np.random.default_rng(0).permutation(values).reshape(64, 64, 3)
  planes = jnp.asarray(np.repeat(photo[None], 5, axis=0).swapaxes(2, 3), jnp.float32) / 255
  images = np.rint(np.asarray(jax.jit(dict(bank.BANKS["kadid25"])["quantisation"])(planes, jnp.arange(5))) * 255)
  for count, image in zip(GRAYS, images.swapaxes(2, 3), strict=True):
    assert len(np.unique(image)) == count
    assert photos.psnr(image, photo) == pytest.approx(10 * np.log10(12 * count**2), abs=0.3), count


def test_palettes_of_the_smallest_images():
  for name, channels, counts in (("colour quantisation", 3, COLORS), ("quantisation", 1, GRAYS)):
    photo, versions = _versions(name, 8, 8)
    for count, image in zip(counts, versions, strict=True):
      assert len(np.unique(image.reshape(-1, channels), axis=0)) <= count
    assert photos.psnr(versions[0], photo) > photos.psnr(versions[4], photo) > 30


def test_jpeg2000_loses_more_with_every_level():
  for h, w in ((8, 8), (64, 80)):
    photo, versions = _versions("JPEG2000", h, w)
    assert np.all(np.diff([photos.psnr(image, photo) for image in versions]) < 0)
