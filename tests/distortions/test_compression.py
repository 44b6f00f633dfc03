"""JPEG against libjpeg, JPEG2000 against OpenJPEG, palettes against PIL; KADID-10k's in test_kadid25.py."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest
import reference_bank
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
  for photo in photos.bundled(160, 208):
    got = [photos.psnr(image, photo) for image in _apply(KADID25["JPEG2000"], photo)]
    assert np.all(np.diff(got) < 0)
    # At the two strongest ratios a file of this size is mostly header.
    for ratio, value in zip((16, 32, 45), got[:3], strict=True):
      buffer = io.BytesIO()
      options = {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "mct": 1}
      Image.fromarray(photo).save(buffer, "JPEG2000", **options)
      assert value == pytest.approx(photos.psnr(np.asarray(Image.open(buffer)), photo), abs=1.5)


def test_palettes_have_their_sizes_and_beat_median_cut():
  for photo in photos.bundled(160, 208):
    images = _apply(KADID25["colour quantisation"], photo)
    for count, image in zip((64, 48, 32, 16, 8), images, strict=True):
      assert count / 2 < len(np.unique(image.reshape(-1, 3), axis=0)) <= count
      median_cut = Image.fromarray(photo).quantize(count, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
      assert photos.psnr(image, photo) > photos.psnr(median_cut.convert("RGB"), photo)


def test_grey_levels_have_their_numbers_and_beat_equal_steps():
  for photo in photos.bundled(160, 208):
    images = _apply(KADID25["quantisation"], photo)
    for count, image in zip((20, 16, 13, 10, 7), images, strict=True):
      assert 0.75 * count < len(np.unique(image)) <= count
      uniform = (np.floor(photo / 256 * count) + 0.5) * 256 / count
      assert photos.psnr(image, photo) > photos.psnr(uniform, photo)
