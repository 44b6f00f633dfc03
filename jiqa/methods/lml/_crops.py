"""The crops of one image and the image as a whole: what LML-IQA sees of it."""

import hashlib

import numpy as np
from PIL import Image

from jiqa.data.decode import check_enlarged


def fitted(image, least, size=()):
  """The image in the size from which crops are cut.

  Args:
    image: [h, w, 3] uint8.
    least: the shorter side is scaled up to this where it is smaller, pixels.
    size: (height, width) to scale to first, whatever the aspect ratio; () keeps the size.

  Returns:
    [h', w', 3] uint8, scaled by Pillow's bilinear filter (as torchvision's Resize); the same array where nothing is to
    be done.

  Raises:
    UserError: it is so thin that it would become huge, see `decode.check_enlarged`.
  """
  height, width = size or image.shape[:2]
  factor = least / min(height, width)
  if factor > 1:
    height, width = max(least, round(height * factor)), max(least, round(width * factor))
    check_enlarged(image.shape[:2], (height, width))
  return _scaled(image, height, width)


def grouped_crops(image, count, side, rng, *, flip):
  """Crops at random positions, each independent of the others.

  Args:
    image: [h, w, 3] uint8, both sides at least `side`.
    count, side: number of crops, and their side in pixels.
    rng: np.random.Generator.
    flip: mirror every crop left to right with probability 1/2, after it is taken.

  Returns:
    dict: 'crops' [count, side, side, 3] uint8, 'boxes' [count, 4] float32: (top, left, bottom, right) of every crop as
    fractions of the image's height and width.
  """
  height, width = image.shape[:2]
  top, left = rng.integers(height - side + 1, size=count), rng.integers(width - side + 1, size=count)
  crops = np.stack([image[y : y + side, x : x + side] for y, x in zip(top, left, strict=True)])
  if flip:
    mirrored = rng.random(count) < 0.5
    crops[mirrored] = crops[mirrored, :, ::-1]
  corners = np.stack([top, left, top + side, left + side], 1)
  return {"crops": crops, "boxes": (corners / [height, width, height, width]).astype(np.float32)}


def whole_view(image, side):
  """The whole image, antialiased, as a square: [side, side, 3] uint8. Boxes in fractions mean the same in it."""
  return _scaled(image, side, side)


def image_id(image):
  """[2] int32 from a 64-bit hash of the pixels, which tells images [h, w, 3] apart whatever they are called."""
  digest = hashlib.blake2b(str(image.shape).encode(), digest_size=8)
  digest.update(np.ascontiguousarray(image))
  return np.frombuffer(digest.digest(), np.int32)


def _scaled(image, height, width):
  if image.shape[:2] == (height, width):
    return image
  return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
