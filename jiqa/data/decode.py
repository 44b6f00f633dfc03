"""File bytes to pixels, by the one decoder of the project: PIL, `.convert("RGB")`.

The published models were trained on PIL pixels, so nothing else decodes here. EXIF orientation is *not* applied: none
of the published protocols applies it, and a lying flag would move the crops.
"""

import io
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from jiqa.errors import UserError

# Twice PIL's own warning level, where PIL refuses too: 13,377 x 13,377 pixels, half a gigabyte of RGB.
MAX_PIXELS = 178_956_970
# An image of 224 x 150,000 pixels: nothing that people look at is so thin.
MAX_ENLARGED = 2**25

JPEG_END = b"\xff\xd9"
JPEG_SCAN = 0xDA
JPEG_BARE_MARKERS = (0x01, *range(0xD0, 0xD8))
# Baseline, extended and progressive frames; other kinds are left to the decoder to judge.
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)


def decode_rgb(data, name="", formats=None):
  """Decodes an image file to 8-bit RGB.

  Palettes, CMYK, gray, bilevel and alpha go through PIL's `.convert("RGB")` (alpha is dropped, not blended); 16-bit
  gray is scaled to 8 bits (PIL would clip it to white); of a file with several images (MPO, GIF) the first counts.

  Args:
    data: bytes of an image file in any format PIL reads.
    name: what to call it in an error message.
    formats: those that are tried, by PIL's names; None: all.

  Returns:
    [h, w, 3] uint8, read-only where PIL can share its memory.

  Raises:
    UserError: naming `name` and the reason, where the bytes are no image, are truncated or damaged, or hold more than
      MAX_PIXELS pixels.

  Example:
    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2), color=7).save(file, format="PNG")
    >>> decode_rgb(file.getvalue()).tolist()[0]
    [[7, 7, 7], [7, 7, 7], [7, 7, 7]]
  """
  name = name or "image"
  with _open(data, name, formats) as image:
    return to_rgb(image, name)


def to_rgb(image, name):
  """The pixels of an open PIL image, see `decode_rgb`."""
  if image.mode == "F":
    raise UserError(f"{name}: 32-bit float pixels have no declared range; convert the image to 8 or 16 bits.")
  try:
    if image.mode.startswith("I"):
      return _sixteen_bits(image)
    return np.asarray(image.convert("RGB"))
  except Exception as error:  # PIL plugins raise OSError, SyntaxError, ValueError, struct.error, ...
    raise UserError(f"{name}: cannot be decoded, the file is damaged or incomplete ({error}).") from error


def check_enlarged(size, enlarged):
  """Refuses a thin image that would become huge: a file of 300 bytes can hold 60,000 x 1 pixels.

  Args:
    size: (height, width) of the image, pixels.
    enlarged: (height, width) once its shorter side has what a network needs.

  Raises:
    UserError: enlarged has more than MAX_ENLARGED pixels.

  Example:
    >>> check_enlarged((1, 60_000), (224, 13_440_000))
    Traceback (most recent call last):
    jiqa.errors.UserError: 60000 x 1 pixels are too thin: with a shorter side of 224 it would be 13440000 x 224; crop it
  """
  if enlarged[0] * enlarged[1] > MAX_ENLARGED:
    raise UserError(
      f"{size[1]} x {size[0]} pixels are too thin: with a shorter side of {min(enlarged)} it would be "
      f"{enlarged[1]} x {enlarged[0]}; crop it"
    )


def check_image(data, name=""):
  """Refuses bytes that are no complete image, at a small part of the cost of decoding them.

  Looks at what the format offers: a JPEG must reach its end marker, a PNG its last chunk with every checksum right, a
  BMP the length that it declares. A file that fails this, and any other format, is decoded, and the decoder's word
  counts: so nothing decodable is ever refused.

  Args:
    data: bytes of an image file.
    name: what to call it in an error message.

  Raises:
    UserError: as `decode_rgb`.
  """
  for start, complete in (
    (b"\xff\xd8\xff", _complete_jpeg),
    (b"\x89PNG\r\n\x1a\n", _complete_png),
    (b"BM", _complete_bmp),
  ):
    if data.startswith(start) and complete(data):
      return
  decode_rgb(data, name)


def _open(data, name, formats):
  if not data:
    raise UserError(f"{name}: the file is empty.")
  try:
    image = Image.open(io.BytesIO(data), formats=formats)
  except Image.DecompressionBombError as error:
    raise UserError(f"{name}: more than {MAX_PIXELS:,} pixels, refused; scale the image down first.") from error
  except UnidentifiedImageError as error:
    raise UserError(f"{name}: not an image that can be read, no known format begins like this.") from error
  except Exception as error:
    raise UserError(f"{name}: not an image that can be read ({type(error).__name__}: {error}).") from error
  if image.width * image.height > MAX_PIXELS:
    raise UserError(f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS:,} pixels; scale it down first.")
  return image


def _sixteen_bits(image):
  values = np.asarray(image).astype(np.int64)
  gray = ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)
  return np.repeat(gray[..., None], 3, axis=2)


def _complete_jpeg(data):
  """True where a frame of a permitted size and, after the first scan, the end marker are there.

  Markers inside metadata (thumbnails) do not count: the walk goes from segment to segment.
  """
  at, framed = 2, False
  while at + 9 < len(data) and data[at] == 0xFF:
    marker = data[at + 1]
    if marker == JPEG_SCAN:
      return framed and data.rfind(JPEG_END, at) != -1
    if marker in JPEG_FRAMES:
      height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
      eight_bits, gray_or_colour = data[at + 4] == 8, data[at + 9] in (1, 3, 4)
      framed = eight_bits and gray_or_colour and 0 < height * width <= MAX_PIXELS
    if marker == 0xFF or marker in JPEG_BARE_MARKERS:
      at += 1 if marker == 0xFF else 2
    else:
      at += 2 + int.from_bytes(data[at + 2 : at + 4])
  return False


def _complete_png(data):
  """True where the size is permitted and the chunks, all with the right checksum, reach IEND."""
  if not 0 < int.from_bytes(data[16:20]) * int.from_bytes(data[20:24]) <= MAX_PIXELS:
    return False
  at, view, pixels = 8, memoryview(data), False
  while at + 12 <= len(data):
    length = int.from_bytes(data[at : at + 4])
    end = at + 8 + length
    if zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
      return False
    kind = data[at + 4 : at + 8]
    if kind == b"IEND":
      return pixels
    pixels = pixels or kind == b"IDAT"
    at = end + 4
  return False


def _complete_bmp(data):
  """True where an uncompressed bitmap has all the pixel bytes that its header announces."""
  start, header = int.from_bytes(data[10:14], "little"), int.from_bytes(data[14:18], "little")
  if header < 40 or int.from_bytes(data[30:34], "little") != 0:
    return False
  width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
  bits = int.from_bytes(data[28:30], "little")
  row = (width * bits + 31) // 32 * 4
  return (
    bits in (1, 4, 8, 16, 24, 32) and 0 < width * abs(height) <= MAX_PIXELS and len(data) >= start + row * abs(height)
  )
