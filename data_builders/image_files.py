"""Whether the bytes of a file are a complete image, at a small part of the cost of decoding them."""

import io
import zlib

from PIL import Image, UnidentifiedImageError

from jiqa.data.schema import SIZE_LIMITS, fits
from jiqa.errors import UserError

JPEG_END = b"\xff\xd9"
JPEG_SCAN = 0xDA
JPEG_BARE_MARKERS = (0x01, *range(0xD0, 0xD8))
# Baseline, extended and progressive frames; other kinds are left to the decoder to judge.
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)


def check_image(data, name="", decode=False):
  """Refuses bytes that are no complete image.

  Looks at what the format offers: a JPEG must reach its end marker, a PNG its last chunk with every checksum right, a
  BMP the length that it declares. A file that fails this, and any other format, is decoded, and the decoder's word
  counts: so nothing decodable is ever refused.

  Args:
    data: bytes of an image file.
    name: what to call it in an error message.
    decode: decode whatever the format says; finds every damage.

  Raises:
    UserError: naming `name` and the reason.
  """
  complete = next((check for start, check in _CHECKS.items() if data.startswith(start)), None)
  if not decode and complete and complete(data):
    return
  try:
    with Image.open(io.BytesIO(data)) as image:
      if not fits(*image.size):
        raise Image.DecompressionBombError
      if image.mode == "F":
        raise ValueError("32-bit float pixels have no declared range")
      image.convert("RGB")
  except Image.DecompressionBombError as error:
    raise UserError(f"{name}: too large; {SIZE_LIMITS}. Scale it down first.") from error
  except UnidentifiedImageError as error:
    raise UserError(f"{name}: not an image that can be read, no known format begins like this.") from error
  except Exception as error:  # PIL plugins raise OSError, SyntaxError, ValueError, struct.error, ...
    raise UserError(f"{name}: not an image, or a damaged or incomplete one ({error}).") from error


def _complete_jpeg(data):
  """True where a frame of a permitted size and, after the first scan, the end marker are there.

  The walk goes from segment to segment, so that markers inside metadata (thumbnails) do not count.
  """
  at, framed = 2, False
  while at + 9 < len(data) and data[at] == 0xFF:
    marker = data[at + 1]
    if marker == JPEG_SCAN:
      return framed and data.rfind(JPEG_END, at) != -1
    if marker in JPEG_FRAMES:
      height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
      eight_bits, gray_or_colour = data[at + 4] == 8, data[at + 9] in (1, 3, 4)
      framed = eight_bits and gray_or_colour and 0 < height * width and fits(width, height)
    if marker == 0xFF or marker in JPEG_BARE_MARKERS:
      at += 1 if marker == 0xFF else 2
    else:
      at += 2 + int.from_bytes(data[at + 2 : at + 4])
  return False


def _complete_png(data):
  """True where the size is permitted and the chunks, all with the right checksum, reach IEND."""
  if not fits(*(int.from_bytes(data[at : at + 4]) for at in (16, 20))):
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
  sized = 0 < width * abs(height) and fits(width, abs(height))
  return bits in (1, 4, 8, 16, 24, 32) and sized and len(data) >= start + row * abs(height)


_CHECKS = {b"\xff\xd8\xff": _complete_jpeg, b"\x89PNG\r\n\x1a\n": _complete_png, b"BM": _complete_bmp}
