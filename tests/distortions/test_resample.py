"""Constant filter matrices against PIL and SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference_bank
import scipy.ndimage
from PIL import Image, ImageFilter

from jiqa.distortions import resample, spatial

SIZES = [(64, 32), (64, 21), (47, 5), (33, 33), (8, 1), (20, 64)]


@pytest.mark.parametrize("method", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resize_is_pils(method, old, new):
  row = np.random.default_rng(old).random(old).astype(np.float32)
  image = Image.fromarray(np.repeat(row[None], 3, axis=0))
  wanted = np.asarray(image.resize((new, 3), getattr(Image.Resampling, method.upper())))[1]
  np.testing.assert_allclose(resample.resize(new, old, method) @ row, wanted, atol=2e-6)


def test_nearest_is_pils_for_every_size():
  for old in range(8, 200, 3):
    row = np.arange(old, dtype=np.float32)[None]
    for factor in (2, 3, 4, 5, 6, 1 / 0.887, 1 / 0.29):
      small = int(old / factor)
      down = Image.fromarray(row).resize((small, 1), Image.Resampling.NEAREST)
      wanted = np.asarray(down.resize((old, 1), Image.Resampling.NEAREST))[0]
      np.testing.assert_array_equal(spatial.down_and_up(old, (factor, "nearest")) @ row[0], wanted)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1, 2, 3, 5])
def test_gaussian_box_is_pils(sigma):
  row = (255 * np.random.default_rng(0).random(90)).astype(np.uint8)
  wanted = np.asarray(Image.fromarray(np.repeat(row[None], 3, axis=0)).filter(ImageFilter.GaussianBlur(sigma)))[1]
  got = np.linalg.matrix_power(resample.gaussian_box(90, sigma), 3) @ row
  np.testing.assert_allclose(got, wanted, atol=2)  # PIL rounds in each of six passes


@pytest.mark.parametrize("sigma", [2, 3.5, 20])
def test_gaussian_is_scipys(sigma):
  row = np.random.default_rng(1).random(50)
  wanted = scipy.ndimage.gaussian_filter1d(row, sigma, mode="nearest")
  np.testing.assert_allclose(resample.gaussian(50, sigma) @ row, wanted, atol=1e-12)


@pytest.mark.parametrize("radius", [1, 2, 4, 6, 8])
def test_disc_covers_its_area(radius):
  disc = resample.disc(radius)
  assert disc.sum() == pytest.approx(1)
  np.testing.assert_allclose(disc, disc.T, atol=1e-6)
  np.testing.assert_allclose(disc, reference_bank.disc_kernel(radius), atol=2e-4)
  assert disc[radius, radius] == pytest.approx(1 / (np.pi * radius**2), rel=1e-5)


def test_disc_of_radius_one():
  raw = resample.disc(1) * np.pi
  assert raw[0, 1] == pytest.approx(0.4566, abs=1e-4)
  assert raw[0, 0] == pytest.approx(0.0788, abs=1e-4)


def test_bands_multiply_as_the_whole_matrices():
  rng = np.random.default_rng(0)
  rows = [spatial.down_and_up(150, (3.75, "lanczos")), resample.gaussian(150, 2)]
  columns = [resample.gaussian(70, 3), resample.box(70, 2.5)]
  planes, which = rng.random((3, 150, 3, 70)).astype(np.float32), jnp.asarray([1, 0, 1])
  got = resample.along(1, resample.banded(rows), which, planes)
  got = resample.along(3, resample.banded(columns), which[::-1], got)
  picks = zip(planes, (1, 0, 1), strict=True)  # which, read backwards, is the same
  wanted = [np.einsum("ij,jcw,vw->icv", rows[pick], plane, columns[pick]) for plane, pick in picks]
  np.testing.assert_allclose(got, wanted, atol=1e-5)
  assert sum(weights[0].size for _, weights in resample.banded(rows)) < 0.8 * 150 * 150
