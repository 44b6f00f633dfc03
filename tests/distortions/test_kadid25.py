"""KADID-10k's bank: its order, and what is its own, against PIL, SciPy and scikit-image."""

import functools
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest
import reference_bank
import scipy.ndimage
import skimage.color

from jiqa.distortions import bank, compression

# Lin et al. 2019: I01_10_04.png is the first reference under the tenth of these, at the fourth level.
ORDER = (
  "gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation",
  "saturation HSV", "saturation Lab", "JPEG2000", "JPEG", "white noise", "component noise", "impulse noise",
  "multiplicative noise", "denoise", "brighten", "darken", "mean shift", "jitter", "patches", "pixelate",
  "quantisation", "colour block", "sharpen", "contrast",
)  # fmt: skip
# Levels 1 to 5 of the published generator: libjpeg's quality, pixels, colours, thresholds, variance, amount.
JPEG, MOTION = (43, 36, 24, 7, 4), (1, 2, 4, 6, 10)
COLORS, GRAYS = (64, 48, 32, 16, 8), (20, 16, 13, 10, 7)
DENOISE, SHARPEN = (0.01, 0.03, 0.05, 0.1, 0.15), (1, 2, 3, 6, 12)
# The same levels as Re-IQA's, whose functions are compared with reference_bank.py.
SHARED = (
  "gaussian blur", "lens blur", "colour diffusion", "colour shift", "saturation HSV", "saturation Lab", "white noise",
  "component noise", "impulse noise", "multiplicative noise", "brighten", "darken", "mean shift", "jitter", "patches",
  "pixelate", "colour block", "contrast",
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


def _grays(photo):
  """An 8-bit photo with the five numbers of grey levels."""
  planes = jnp.asarray(np.repeat(photo[None], 5, axis=0).swapaxes(2, 3), jnp.float32) / 255
  images = jax.jit(dict(bank.BANKS["kadid25"])["quantisation"])(planes, jnp.arange(5))
  return np.rint(np.asarray(images) * 255).swapaxes(2, 3)


def test_evenly_spread_values_are_cut_at_equal_steps_and_raised_to_the_next_threshold():
  values = np.arange(256 * 48) % 256
  photo = np.random.default_rng(0).permutation(values).reshape(64, 64, 3)
  for count, image in zip(GRAYS, _grays(photo), strict=True):
    becomes = np.array([np.unique(image[photo == value]) for value in range(256)]).ravel()
    inner = np.unique(becomes)[1:-1]
    assert becomes[0] == 0 and becomes[255] == 255 and len(inner) == count - 1
    np.testing.assert_array_equal(becomes[inner.astype(int)], inner)  # the greatest of its class stays
    first = np.flatnonzero(becomes)[0]
    assert np.ptp(np.diff([0, first, *(inner + 1), 256])) <= 1  # n + 1 classes as wide as each other


def test_gray_levels_of_a_dull_image_lie_within_it():
  photo = np.random.default_rng(0).integers(100, 140, (64, 64, 3))
  for count, image in zip(GRAYS, _grays(photo), strict=True):
    assert len(np.unique(image)) == count + 1
    assert np.all((image >= photo) | (image == 0)) and np.mean(np.isin(image, (0, 255))) < 3 / count
    assert np.unique(image)[1] >= 100 and np.unique(image)[-2] < 140
  for image in _grays(np.full((8, 8, 3), 77)):
    assert len(np.unique(image)) == 1


def _shrunk(plane, variance, depth=5):
  """BayesShrink of one channel in float64."""
  if depth == 0 or min(plane.shape) < 2:
    return plane
  down, across = (compression.analysis_matrix(size) for size in plane.shape)
  bands = down @ plane @ across.T
  rows, columns = (-(-size // 2) for size in plane.shape)
  for band in (bands[:rows, columns:], bands[rows:, :columns], bands[rows:, columns:]):
    limit = variance / np.sqrt(max(np.mean(band**2) - variance, 1e-12))
    band[:] = np.sign(band) * np.maximum(np.abs(band) - limit, 0)
  bands[:rows, :columns] = _shrunk(bands[:rows, :columns], variance, depth - 1)
  return np.linalg.solve(down, np.linalg.solve(across, bands.T).T)


def test_denoise_takes_noise_of_the_published_variances_from_every_channel():
  photo, versions = _versions("denoise", 160, 208)
  rng = np.random.default_rng(0)
  for variance, image in zip(DENOISE, versions, strict=True):
    noisy = np.clip(photo / 255 + np.sqrt(variance) * rng.normal(size=photo.shape), 0, 1)
    wanted = 255 * np.clip(np.stack([_shrunk(noisy[..., i], variance) for i in range(3)], axis=-1), 0, 1)
    assert photos.psnr(image, photo) == pytest.approx(photos.psnr(wanted, photo), abs=0.15), variance
    assert photos.psnr(image, photo) > photos.psnr(255 * noisy, photo) + 6, variance


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_sharpen_is_an_unsharp_mask_of_lightness():
  photo, versions = _versions("sharpen", 64, 80)
  lab = skimage.color.rgb2lab(photo / 255)
  light = lab[..., 0].copy()
  blurred = scipy.ndimage.gaussian_filter(light, 3, mode="nearest", radius=6)
  for amount, image in zip(SHARPEN, versions, strict=True):
    lab[..., 0] = light + amount * (light - blurred)
    wanted = skimage.color.lab2rgb(lab) * 255
    assert np.mean(np.abs(image - wanted) < 1.5) > 0.99, amount


def test_palettes_of_the_smallest_images():
  for name, channels, counts in (("colour quantisation", 3, COLORS), ("quantisation", 1, [n + 1 for n in GRAYS])):
    photo, versions = _versions(name, 8, 8)
    for count, image in zip(counts, versions, strict=True):
      assert len(np.unique(image.reshape(-1, channels), axis=0)) <= count
    assert photos.psnr(versions[0], photo) > photos.psnr(versions[4], photo)


def test_jpeg2000_loses_more_with_every_level():
  for h, w in ((8, 8), (64, 80)):
    photo, versions = _versions("JPEG2000", h, w)
    assert np.all(np.diff([photos.psnr(image, photo) for image in versions]) < 0)


def test_table_of_the_docs_is_the_banks():
  page = (pathlib.Path(__file__).parents[2] / "docs" / "distortions.md").read_text()
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
  rows = {cells[1]: cells for cells in rows if cells[0].isdigit()}
  assert list(rows) == list(ORDER)
  for number, (name, function) in enumerate(bank.BANKS["kadid25"], 1):
    strengths = inspect.signature(function).parameters["strengths"].default
    assert rows[name][0] == str(number)
    assert [float(cell) for cell in rows[name][3:8]] == list(strengths), name
