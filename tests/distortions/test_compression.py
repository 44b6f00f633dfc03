"""JPEG against libjpeg, JPEG2000 against OpenJPEG, palettes against PIL and by hand; KADID-10k's in test_kadid25.py."""

import functools
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest
import reference_bank
import scipy.spatial
import skimage.data
from PIL import Image

from jiqa.distortions import bank, compression
from jiqa.distortions.planes import to_planes

_jitted = functools.cache(jax.jit)
KADID25 = dict(bank.BANKS["kadid25"])


def _apply(function, photo):
  """The photo at every level, as 8-bit images."""
  images = jnp.asarray(np.repeat(photo[None], 5, axis=0), jnp.float32) / 255
  out = _jitted(function)(to_planes(images), jnp.arange(5))
  return np.rint(np.asarray(out).swapaxes(2, 3) * 255)


@pytest.mark.parametrize("quality", [1, 7, 24, 36, 43, 50, 70, 95, 100])
def test_quantization_tables_are_libjpegs(quality):
  buffer = io.BytesIO()
  Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
  wanted = Image.open(buffer).quantization
  got = compression.quantization_tables(quality)
  for i in (0, 1):
    np.testing.assert_array_equal(got[i].ravel(), wanted[i])


# Whole blocks, one row and column over, one short, and smaller than one block.
@pytest.mark.parametrize(("h", "w"), [(160, 208), (81, 113), (95, 127), (8, 11)])
def test_jpeg_is_libjpegs(h, w):
  for photo in photos.bundled(h, w):
    for quality, image in zip((70, 43, 36, 24, 7), _apply(compression.jpeg, photo), strict=True):
      assert photos.psnr(image, reference_bank.libjpeg(photo, quality)) > (48 if h > 8 else 45)


def test_jpeg_is_libjpegs_on_kodak(real_data):
  for photo in photos.kodak(real_data, 384, 512):
    for quality, image in zip((70, 43, 36, 24, 7), _apply(compression.jpeg, photo), strict=True):
      assert photos.psnr(image, reference_bank.libjpeg(photo, quality)) > 50


@pytest.mark.parametrize(("h", "w"), [(64, 48), (33, 47), (8, 8)])
def test_wavelet_is_inverted_and_keeps_energy(h, w):
  planes = jnp.asarray(np.random.default_rng(0).normal(size=(1, h, 3, w)), jnp.float32)
  approximation, details = jax.jit(compression.decompose)(planes)
  np.testing.assert_allclose(jax.jit(compression.recompose)(approximation, details), planes, atol=2e-5)
  energy = sum(float(jnp.sum(part**2)) for part in jax.tree.leaves((approximation, details)))
  assert energy == pytest.approx(float(jnp.sum(planes**2)), rel=0.15)  # 9/7 is nearly orthonormal


def test_wavelet_concentrates_smooth_images():
  ramp = jnp.broadcast_to(jnp.linspace(0, 1, 64)[:, None, None], (1, 64, 3, 64))
  approximation, details = compression.decompose(ramp)
  assert approximation.shape[1:] == (2, 3, 2)
  assert max(float(jnp.abs(part[0, 1:-1]).max()) for level in details[:2] for part in level) < 0.02


def test_jpeg2000_is_as_good_as_openjpeg_at_the_same_size():
  photo = skimage.data.astronaut()[:384]  # so large that at the strongest ratio the file is more than its header
  got = [photos.psnr(image, photo) for image in _apply(KADID25["JPEG2000"], photo)]
  assert np.all(np.diff(got) < 0)
  for ratio, value in zip((16, 32, 45, 120, 400), got, strict=True):
    buffer = io.BytesIO()
    options = {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "mct": 1}
    Image.fromarray(photo).save(buffer, "JPEG2000", **options)
    assert value == pytest.approx(photos.psnr(np.asarray(Image.open(buffer)), photo), abs=1.2)


def _floyd_steinberg(image, palette):
  """Error diffusion pixel by pixel."""
  image = np.pad(image.astype(float), ((0, 1), (1, 1), (0, 0)))
  for y in range(image.shape[0] - 1):
    for x in range(1, image.shape[1] - 1):
      color = image[y, x].copy()
      image[y, x] = palette[np.argmin(np.sum((palette - color) ** 2, axis=1))]
      for dy, dx, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
        image[y + dy, x + dx] += (color - image[y, x]) * weight / 16
  return image[:-1, 1:-1]


@pytest.mark.parametrize(("h", "w"), [(1, 9), (9, 1), (13, 8), (8, 13)])
def test_dither_is_floyd_steinbergs(h, w):
  rng = np.random.default_rng(0)
  images, palettes = rng.uniform(size=(2, h, w, 3)), rng.uniform(size=(2, 5, 3))
  alive = np.arange(5) < np.array([[5], [2]])
  dithered = jax.jit(compression.dither)(images.swapaxes(2, 3).astype(np.float32), palettes, alive).swapaxes(2, 3)
  for i, count in enumerate((5, 2)):
    np.testing.assert_allclose(dithered[i], _floyd_steinberg(images[i], palettes[i, :count]), atol=1e-5)


def test_palettes_have_their_sizes_and_beat_median_cut():
  for photo in photos.bundled(160, 208):
    images = _apply(KADID25["colour quantisation"], photo)
    for count, image in zip((64, 48, 32, 16, 8), images, strict=True):
      palette = np.unique(image.reshape(-1, 3), axis=0)
      assert count / 2 < len(palette) <= count
      nearest = palette[scipy.spatial.KDTree(palette).query(photo)[1]]
      median_cut = Image.fromarray(photo).quantize(count, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
      assert photos.psnr(nearest, photo) > photos.psnr(median_cut.convert("RGB"), photo)


def _least_variance(histogram, count):
  """The sum of squares within classes at the best `count` thresholds, by trying all."""
  n, values = len(histogram), np.arange(len(histogram))

  def within(low, high):
    part, weights = values[low:high], histogram[low:high]
    return np.sum(weights * (part - np.average(part, weights=weights)) ** 2) if weights.sum() else 0

  cuts = itertools.combinations(range(1, n), count)
  return min(sum(within(low, high) for low, high in itertools.pairwise((0, *cut, n))) for cut in cuts)


def test_otsu_thresholds_are_the_best_of_all():
  histograms = np.random.default_rng(0).integers(0, 30, (4, 12))
  histograms[1, 3:6] = histograms[2, :4] = histograms[3, 9:] = 0
  counts = np.array([4, 2, 3, 1])
  found = jax.jit(compression.otsu_thresholds, static_argnums=2)(histograms.astype(np.float32), counts, 4)
  for histogram, count, thresholds in zip(histograms, counts, np.asarray(found), strict=True):
    assert np.all(histogram[thresholds] > 0) and np.all(thresholds[count - 1 :] == thresholds[count - 1])
    edges = [0, *(thresholds[:count] + 1), 12]
    within = 0
    for low, high in itertools.pairwise(edges):
      weights = histogram[low:high]
      within += np.sum(weights * (np.arange(low, high) - np.average(np.arange(low, high), weights=weights)) ** 2)
    assert within == pytest.approx(_least_variance(histogram, count))
