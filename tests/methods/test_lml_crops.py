"""Crops, boxes, the whole view and the identity of images."""

import numpy as np
import pytest
from PIL import Image

from configs import lml as config_file
from jiqa.errors import UserError
from jiqa.methods.lml import lml as lml_crops
from tests.helpers import mesh_of


def coordinates(height, width):
  """An image whose pixels say where they are."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y, x, np.zeros_like(y)], -1).astype(np.uint8)


def test_boxes_say_where_the_crops_are():
  image = coordinates(60, 90)
  found = lml_crops.grouped_crops(image, 200, 24, np.random.default_rng(0), flip=False)
  assert found["crops"].shape == (200, 24, 24, 3) and found["crops"].dtype == np.uint8
  corners = found["boxes"] * [60, 90, 60, 90]
  np.testing.assert_allclose(corners[:, :2], found["crops"][:, 0, 0, :2], atol=1e-4)
  np.testing.assert_allclose(corners[:, 2:], found["crops"][:, -1, -1, :2] + 1.0, atol=1e-4)
  assert corners[:, 0].min() == 0 and corners[:, 2].max() == pytest.approx(60, abs=1e-4)
  assert corners[:, 1].min() == 0 and corners[:, 3].max() == pytest.approx(90, abs=1e-4)
  assert abs(np.corrcoef(corners[:, 0], corners[:, 1])[0, 1]) < 0.2


def test_every_crop_is_flipped_for_itself_and_its_box_stays():
  image = coordinates(60, 90)
  found = lml_crops.grouped_crops(image, 400, 24, np.random.default_rng(1), flip=True)
  left_to_right = np.diff(found["crops"][:, 0, :, 1].astype(int), axis=1)
  flipped = (left_to_right == -1).all(1)
  assert ((left_to_right == 1).all(1) ^ flipped).all() and abs(flipped.mean() - 0.5) < 0.08
  lowest = found["crops"][:, 0, :, 1].min(1)
  np.testing.assert_allclose(found["boxes"][:, 1] * 90, lowest, atol=1e-4)


def test_crops_that_are_scored_lie_as_in_the_image():
  config = config_file.get_config("demo")
  config.update(crop=24, patch=8, test_crops=50)
  crops = lml_crops.LML(config, mesh_of(1)).preprocess_eval(coordinates(60, 90))["crops"]
  assert crops.shape == (50, 24, 24, 3) and len(np.unique(crops[:, 0, 0], axis=0)) > 40
  assert (np.diff(crops[..., 0].astype(int), axis=1) == 1).all()
  assert (np.diff(crops[..., 1].astype(int), axis=2) == 1).all()


def test_a_image_of_the_size_of_a_crop_is_its_only_crop():
  image = coordinates(24, 24)
  found = lml_crops.grouped_crops(image, 3, 24, np.random.default_rng(0), flip=False)
  assert (found["crops"] == image).all() and (found["boxes"] == [0, 0, 1, 1]).all()


@pytest.mark.parametrize(
  ("shape", "size", "expected"),
  [
    ((300, 500), (), (300, 500)),
    ((100, 150), (), (224, 336)),
    ((500, 7), (), (16000, 224)),
    ((1, 1), (), (224, 224)),
    ((768, 1024), (384, 512), (384, 512)),
    ((1024, 768), (384, 512), (384, 512)),
    ((50, 60), (112, 224), (224, 448)),
  ],
)
def test_images_are_scaled_up_to_a_crop_and_otherwise_left_alone(shape, size, expected):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
  found = lml_crops.fitted(image, 224, size)
  assert found.shape == (*expected, 3)
  if shape == expected:
    assert found is image
  else:
    pillow = Image.fromarray(image).resize(expected[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, pillow)


def test_a_thin_image_that_would_become_huge_is_refused():
  with pytest.raises(UserError, match="2 x 60000 pixels are too thin: with a shorter side of 224"):
    lml_crops.fitted(np.zeros((60_000, 2, 3), np.uint8), 224)


def test_the_whole_view_shows_the_whole_image():
  image = np.zeros((400, 200, 3), np.uint8)
  image[200:, 100:] = 200
  view = lml_crops.resize(image, 40, 40)
  assert view.shape == (40, 40, 3)
  assert (view[21:, 21:] == 200).all() and not view[:19].any() and not view[:, :19].any()


def test_images_are_told_apart_by_their_pixels():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
  same, other = image.copy(), image.copy()
  other[3, 4, 1] ^= 1
  one = lml_crops.image_id(image)
  assert one.dtype == np.int32 and one.shape == (2,)
  assert (one == lml_crops.image_id(same)).all() and (one == lml_crops.image_id(image[:, ::-1][:, ::-1])).all()
  assert (one != lml_crops.image_id(other)).any()
  assert (one != lml_crops.image_id(image.reshape(30, 20, 3))).any()
