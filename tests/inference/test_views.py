"""What protocols show of an image, against PIL's own crops and resizes."""

import types

import numpy as np
import pytest
from PIL import Image

from jiqa.inference.views import views


def _image(height, width):
  return np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)


class Method:
  """Prepares the image and its right half."""

  def preprocess_eval(self, image):
    return {"full": image, "half": image[:, image.shape[1] // 2 :]}


def _shown(image, shorter_side=0, **evaluation):
  network = types.SimpleNamespace(method=Method())
  networks = views(network, evaluation, types.SimpleNamespace(shorter_side=shorter_side))
  assert not hasattr(network, "preprocess")
  return [each.preprocess(image) for each in networks]


# (height, width) of an image, and what becomes of it where the shorter side is to have 40 pixels: rounded down.
@pytest.mark.parametrize(("size", "resized"), [((50, 73), (40, 58)), ((73, 50), (58, 40)), ((20, 20), (40, 40))])
def test_the_shorter_side_is_resized_where_the_database_or_the_config_says_so(size, resized):
  image = _image(*size)
  expected = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BICUBIC))
  for options in ({"shorter_side": 40, "resize": -1}, {"shorter_side": 9, "resize": 40}):
    (shown,) = _shown(image, **options)
    np.testing.assert_array_equal(shown["full"], expected)
  for options in ({"shorter_side": 40, "resize": 0}, {"resize": -1}, {"shorter_side": 40}):
    (shown,) = _shown(image, **options)
    np.testing.assert_array_equal(shown["full"], image)


@pytest.mark.parametrize("size", [(300, 521), (150, 261), (240, 230)])
def test_five_crops_are_pils_of_everything_that_the_method_prepares(size):
  image = _image(*size)
  crops = _shown(image, five_crops=True, resize=0)
  assert len(crops) == 5
  for name, view in Method().preprocess_eval(image).items():
    height, width = view.shape[:2]
    middle = (width // 2 - 112, height // 2 - 112)
    corners = ((0, 0), (0, height - 224), (width - 224, 0), (width - 224, height - 224))
    for shown, (left, top) in zip(crops, (middle, *corners), strict=True):
      expected = Image.fromarray(view).crop((left, top, left + 224, top + 224))  # black beyond the image
      np.testing.assert_array_equal(shown[name], expected)
