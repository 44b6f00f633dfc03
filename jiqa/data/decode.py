"""File bytes to pixels, by the one decoder of the project, PIL: the published models were trained on its pixels.

EXIF orientation is *not* applied: none of the published protocols applies it, and a lying flag would move the crops.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from jiqa.data.schema import SIZE_LIMITS, fits
from jiqa.errors import UserError

# An image of 224 x 150,000 pixels: nothing that people look at is so thin.
MAX_ENLARGED = 2**25


def decode_rgb(data, name="", formats=None):
  """Decodes the bytes of an image file to 8-bit RGB: [h, w, 3] uint8, read-only where PIL can share its memory.

  Palettes, CMYK, gray, bilevel and alpha go through PIL's `.convert("RGB")` (alpha is dropped, not blended); 16-bit
  gray is scaled to 8 bits (PIL would clip it to white); of a file with several images (MPO, GIF) the first counts.

  A UserError says, by `name`, that the bytes are no image, truncated or damaged, or larger than images may be.
  Only `formats`, by PIL's names, are tried; None: all.
  """
  name = name or "image"
  with _open(data, name, formats) as image:
    return to_rgb(image, name)


def to_rgb(image, name):
  """The pixels of an open PIL image, see `decode_rgb`."""
  if image.mode == "F":
    raise UserError(f"{name}: 32-bit float pixels have no declared range; convert the image to 8 or 16 bits.")
  try:
    if not image.mode.startswith("I"):
      return np.asarray(image.convert("RGB"))
    values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
  except Exception as error:  # PIL plugins raise OSError, SyntaxError, ValueError, struct.error, ...
    raise UserError(f"{name}: cannot be decoded, the file is damaged or incomplete ({error}).") from error


def resize(image, height, width, method="BILINEAR"):
  """[h, w, 3] uint8 by one of Pillow's antialiased filters; the same array where it has that size."""
  if image.shape[:2] == (height, width):
    return image
  return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[method]))


def check_enlarged(size, enlarged):
  """Refuses a thin image that would become huge: a file of 300 bytes can hold 60,000 x 1 pixels.

  Sizes are (height, width), of the image and once its shorter side has what a network needs; a UserError where that has
  more than MAX_ENLARGED pixels.
  """
  if enlarged[0] * enlarged[1] > MAX_ENLARGED:
    raise UserError(
      f"{size[1]} x {size[0]} pixels are too thin: with a shorter side of {min(enlarged)} it would be "
      f"{enlarged[1]} x {enlarged[0]}; crop it"
    )


def _open(data, name, formats):
  if not data:
    raise UserError(f"{name}: the file is empty.")
  try:
    image = Image.open(io.BytesIO(data), formats=formats)
  except Image.DecompressionBombError as error:
    raise UserError(f"{name}: far too large; {SIZE_LIMITS}. Scale it down or cut it up.") from error
  except UnidentifiedImageError as error:
    raise UserError(f"{name}: not an image that can be read, no known format begins like this.") from error
  except Exception as error:
    raise UserError(f"{name}: not an image that can be read ({type(error).__name__}: {error}).") from error
  check_size(*image.size, name)
  return image


def check_size(width, height, name):
  """Raises a UserError for an image that would take the machine for minutes."""
  if not fits(width, height):
    raise UserError(f"{name}: {width} x {height} pixels; {SIZE_LIMITS}. Scale it down or cut it up.")
