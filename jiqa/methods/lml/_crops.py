"""The crops of one image and the image as a whole: what LML-IQA sees of it."""

import hashlib

import numpy as np

from jiqa.data.decode import check_enlarged, resize


def fitted(image, least, size=()):
  """The image [h, w, 3] uint8 in the size from which crops are cut, scaled by Pillow's bilinear filter.

  First to `size`, (height, width) whatever the aspect ratio, or () to keep its own; then up until the shorter side has
  `least` pixels. A UserError where it is so thin that it would become huge, see `decode.check_enlarged`.
  """
  height, width = size or image.shape[:2]
  factor = least / min(height, width)
  if factor > 1:
    height, width = max(least, round(height * factor)), max(least, round(width * factor))
    check_enlarged(image.shape[:2], (height, width))
  return resize(image, height, width)


def grouped_crops(image, count, side, rng, *, flip):
  """`count` crops of an image [h, w, 3] uint8 at random positions, each independent of the others.

  With `flip` every crop is mirrored left to right with probability 1/2, after it is taken. A dict of 'crops' [count,
  side, side, 3] uint8 and 'boxes' [count, 4] float32, their (top, left, bottom, right) as fractions of height and width.
  """
  height, width = image.shape[:2]
  top, left = rng.integers(height - side + 1, size=count), rng.integers(width - side + 1, size=count)
  crops = np.stack([image[y : y + side, x : x + side] for y, x in zip(top, left, strict=True)])
  if flip:
    mirrored = rng.random(count) < 0.5
    crops[mirrored] = crops[mirrored, :, ::-1]
  corners = np.stack([top, left, top + side, left + side], 1)
  return {"crops": crops, "boxes": (corners / [height, width, height, width]).astype(np.float32)}


def image_id(image):
  """[2] int32 from a 64-bit hash of the pixels, which tells images [h, w, 3] apart whatever they are called."""
  digest = hashlib.blake2b(str(image.shape).encode(), digest_size=8)
  digest.update(np.ascontiguousarray(image))
  return np.frombuffer(digest.digest(), np.int32)
