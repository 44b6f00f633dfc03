"""What the server takes on: sizes of files, requests and images, and how much may wait; and how it refuses the rest."""

import dataclasses
import functools
import io

from PIL import Image
from starlette.exceptions import HTTPException

from jiqa.errors import UserError

# What people have images in. Everything else that PIL knows (EPS and other programs, FITS, ...) stays outside.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
# Every scan of a progressive JPEG passes over the whole image, so that a small file could keep a decoder busy for
# minutes. Encoders write about ten.
MAX_SCANS = 100
SCAN = b"\xff\xda"


class Refused(HTTPException):
  """A request that is not taken as a whole; `detail` is one sentence for the sender."""


def busy(seconds):
  """The Refused of a request that may be sent again in so many seconds."""
  return Refused(503, f"busy; try again in {seconds} s", {"Retry-After": str(seconds)})


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of one server; those that contradict each other raise a UserError."""

  file_bytes: int = 32 << 20  # of one image's file
  files: int = 32  # of one request
  pixels: int = 50_000_000  # of one image, read in its header before anything is decoded
  request_bytes: int = 64 << 20  # of one request, all files together
  bytes_in_flight: int = 512 << 20  # of all requests that are being received or scored
  images_waiting: int = 256  # received and not yet scored; what would exceed it is refused with 503
  batch_images: int = 16  # decoded and scored at once
  batch_pixels: int = 16_000_000  # the same; a larger image is scored alone
  upload_seconds: float = 60.0  # for sending a request
  score_seconds: float = 120.0  # between the last byte of a request and its answer

  @classmethod
  def of(cls, max_megabytes, max_files, max_megapixels, queue):
    """Limits from the options of `jiqa serve`; the others grow with them."""
    size, pixels = max_megabytes << 20, max_megapixels * 1_000_000
    return cls(size, max_files, pixels, request_bytes=2 * size, bytes_in_flight=16 * size, images_waiting=queue)

  def __post_init__(self):
    for name, value in vars(self).items():
      if not value > 0:
        raise UserError(f"limit {name} is {value}; expected a positive number")
    if self.images_waiting < self.files:
      waiting = f"{self.images_waiting} images may wait"
      raise UserError(f"{waiting}, but one request may bring {self.files} files: raise the former")
    if not self.file_bytes <= self.request_bytes <= self.bytes_in_flight:
      raise UserError("a file may not be larger than a request, nor a request than all of them together")


def check_image(data, limits):
  """Refuses a file by its header, before anything is decoded.

  Args:
    data: bytes of the file.
    limits: Limits.

  Returns:
    (width, height) in pixels.

  Raises:
    UserError: the file is empty, no image of a known format, or has too many pixels or scans.
  """
  if not data:
    raise UserError("the file is empty")
  most = f"at most {limits.pixels / 1e6:g} megapixels are taken, scale the image down"
  try:
    with Image.open(io.BytesIO(data), formats=formats()) as image:
      width, height = image.size
  except Image.DecompressionBombError as error:
    raise UserError(f"far too many pixels; {most}") from error
  except Exception as error:  # PIL plugins raise OSError, SyntaxError, ValueError, struct.error, ...
    raise UserError(f"not an image that can be read; expected {', '.join(formats())}") from error
  if width * height > limits.pixels:
    raise UserError(f"{width} x {height} pixels; {most}")
  if data.startswith(b"\xff\xd8") and (scans := data.count(SCAN)) > MAX_SCANS:
    raise UserError(f"a JPEG of {scans} scans; at most {MAX_SCANS} are taken, save the image anew")
  return width, height


@functools.cache
def formats():
  """Those of FORMATS that this build of PIL reads: what an image is checked as, and then decoded as."""
  Image.init()
  return tuple(name for name in FORMATS if name in Image.OPEN)
