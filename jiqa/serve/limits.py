"""What the server takes on: sizes of files, requests and images, and how much may wait."""

import dataclasses
import functools
import io

from PIL import Image

from jiqa.errors import UserError

# What people have images in. Everything else that PIL knows (EPS and other programs, FITS, ...) stays outside.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
# Every scan of a progressive JPEG passes over the whole image, so that a small file could keep a decoder busy for
# minutes. Encoders write about ten.
MAX_SCANS = 100
SCAN = b"\xff\xda"


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of one server.

  Attributes:
    file_bytes: of one image's file.
    files: of one request.
    pixels: width times height of one image, read in its header before anything is decoded.
    request_bytes: of one request, all files together.
    bytes_in_flight: of all requests that are being received or scored.
    images_waiting: images received and not yet scored; what would exceed it is refused with 503.
    batch_images, batch_pixels: of what is decoded and scored at once; a larger image is scored alone.
    upload_seconds: for sending a request.
    score_seconds: between the last byte of a request and its answer.
  """

  file_bytes: int = 32 << 20
  files: int = 32
  pixels: int = 50_000_000
  request_bytes: int = 64 << 20
  bytes_in_flight: int = 512 << 20
  images_waiting: int = 256
  batch_images: int = 16
  batch_pixels: int = 16_000_000
  upload_seconds: float = 60.0
  score_seconds: float = 120.0

  @classmethod
  def of(cls, max_megabytes, max_files, max_megapixels, queue):
    """Limits from the options of `jiqa serve`; the others grow with them.

    Example:
      >>> Limits.of(max_megabytes=100, max_files=8, max_megapixels=200, queue=64).request_bytes >> 20
      200
    """
    file_bytes = max_megabytes << 20
    return cls(
      file_bytes=file_bytes, files=max_files, pixels=max_megapixels * 1_000_000, request_bytes=2 * file_bytes,
      bytes_in_flight=16 * file_bytes, images_waiting=queue,
    )  # fmt: skip

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if not getattr(self, field.name) > 0:
        raise UserError(f"limit {field.name} is {getattr(self, field.name)}; expected a positive number")
    if self.images_waiting < self.files:
      raise UserError(
        f"{self.images_waiting} images may wait, but one request may bring {self.files} files: raise the former"
      )
    if not self.file_bytes <= self.request_bytes <= self.bytes_in_flight:
      raise UserError("a file may not be larger than a request, nor a request than all of them together")


def check_image(data, limits):
  """Refuses a file by its first bytes, before anything is decoded.

  Args:
    data: bytes of the file.
    limits: Limits.

  Returns:
    (width, height) in pixels.

  Raises:
    UserError: the file is empty, no image of a known format, or its header announces too many pixels or scans.

  Example:
    >>> file = io.BytesIO()
    >>> Image.new("1", (9000, 9000)).save(file, format="PNG")
    >>> len(file.getvalue()) < 20_000  # yet 243 MB of RGB
    True
    >>> check_image(file.getvalue(), Limits())
    Traceback (most recent call last):
    jiqa.errors.UserError: 9000 x 9000 pixels; at most 50 megapixels are taken, scale the image down
  """
  if not data:
    raise UserError("the file is empty")
  size = None
  try:
    with Image.open(io.BytesIO(data), formats=formats()) as image:
      size = image.size
  except Image.DecompressionBombError:
    pass
  except Exception as error:  # PIL plugins raise OSError, SyntaxError, ValueError, struct.error, ...
    raise UserError(f"not an image that can be read; expected {', '.join(formats())}") from error
  most = f"at most {limits.pixels / 1e6:g} megapixels are taken, scale the image down"
  if size is None:
    raise UserError(f"far too many pixels; {most}")
  if size[0] * size[1] > limits.pixels:
    raise UserError(f"{size[0]} x {size[1]} pixels; {most}")
  if data.startswith(b"\xff\xd8") and data.count(SCAN) > MAX_SCANS:
    raise UserError(f"a JPEG of {data.count(SCAN)} scans; at most {MAX_SCANS} are taken, save the image anew")
  return size


@functools.cache
def formats():
  """Those of FORMATS that this build of PIL reads: what an image is checked as, and then decoded as."""
  Image.init()
  return tuple(name for name in FORMATS if name in Image.OPEN)
