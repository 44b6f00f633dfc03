"""Images out of a request's body, in memory and within limits; what is beyond them is refused."""

import asyncio
import contextlib
import dataclasses
import functools
import io

import PIL.Image
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from jiqa.data.schema import MAX_SIDE, fits
from jiqa.errors import UserError

# What people have images in. Everything else that PIL knows (EPS and other programs, FITS, ...) stays outside.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
# Every scan of a progressive JPEG passes over the whole image, so that a small file could keep a decoder busy for
# minutes. Encoders write about ten.
MAX_SCANS = 100
NAME_LENGTH = 255
GRACE = 10.0  # seconds
EXAMPLE = "such as: curl -F files=@photo.jpg"


class Refused(HTTPException):
  """A request that is not taken as a whole; `detail` is one sentence for the sender."""


def busy(seconds):
  """The Refused of a request that may be sent again in so many seconds."""
  return Refused(503, f"busy; try again in {seconds} s", {"Retry-After": str(seconds)})


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one server takes on; limits that contradict each other raise a UserError."""

  file_bytes: int = 32 << 20  # of one image's file
  files: int = 32  # of one request
  pixels: int = 50_000_000  # of one image, read in its header before anything is decoded
  request_bytes: int = 64 << 20  # of one request, all files together
  bytes_in_flight: int = 512 << 20  # that have arrived, of all requests that are being received or scored
  requests_per_client: int = 32  # of one address, at once
  connections: int = 512  # open at once
  images_waiting: int = 256  # received and not yet scored; what would exceed it is refused with 503
  batch_images: int = 16  # decoded and scored at once
  batch_pixels: int = 16_000_000  # the same; a larger image is scored alone
  upload_seconds: float = 60.0  # for sending a request
  bytes_per_second: int = 8192  # that a request brings at least on average, once GRACE is over
  batch_seconds: float = 60.0  # for scoring a batch; the process that takes longer is killed and started anew
  score_seconds: float = 120.0  # between the last byte of a request and its answer

  @classmethod
  def of(cls, max_megabytes, max_files, max_megapixels, queue, deadline):
    """Limits from the options of `jiqa serve`; the others grow with them."""
    size, pixels = max_megabytes << 20, max_megapixels * 1_000_000
    return cls(
      size, max_files, pixels, request_bytes=2 * size, bytes_in_flight=16 * size, images_waiting=queue,
      batch_seconds=deadline, score_seconds=2 * deadline,
    )  # fmt: skip

  def __post_init__(self):
    for name, value in vars(self).items():
      if not value > 0:
        raise UserError(f"limit {name} is {value}; expected a positive number")
    if self.images_waiting < self.files:
      waiting = f"{self.images_waiting} images may wait"
      raise UserError(f"{waiting}, but one request may bring {self.files} files: raise the former")
    if not self.file_bytes <= self.request_bytes <= self.bytes_in_flight:
      raise UserError("a file may not be larger than a request, nor a request than all of them together")


@functools.cache
def formats():
  """Those of FORMATS that this build of PIL reads: what an image is checked as, and then decoded as."""
  PIL.Image.init()
  return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def check_image(data, limits):
  """(width, height) of a file's bytes, from its header: nothing is decoded.

  Raises:
    UserError: the file is empty, no image of a known format, or has too many pixels or scans.
  """
  if not data:
    raise UserError("the file is empty")
  most = f"at most {limits.pixels / 1e6:g} megapixels are taken, scale the image down"
  try:
    with PIL.Image.open(io.BytesIO(data), formats=formats()) as image:
      width, height = image.size
  except PIL.Image.DecompressionBombError as error:
    raise UserError(f"far too many pixels; {most}") from error
  except Exception as error:  # PIL plugins raise OSError, SyntaxError, ValueError, struct.error, ...
    raise UserError(f"not an image that can be read; expected {', '.join(formats())}") from error
  if width * height > limits.pixels or not fits(width, height):
    raise UserError(f"{width} x {height} pixels; {most}, {MAX_SIDE:,} pixels a side")
  if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
    raise UserError(f"a JPEG of {scans} scans; at most {MAX_SCANS} are taken, save the image anew")
  return width, height


@dataclasses.dataclass
class Image:
  """One file of a request; with `error` it is not scored and has neither data nor size."""

  name: str  # a label, never a path
  data: bytes = b""
  width: int | None = None
  height: int | None = None
  error: str | None = None


class Parser(MultiPartParser):
  """Starlette's parser; it also counts parts as they begin and notes whether the last boundary came."""

  spool_max_size = 0  # nothing goes to disk
  complete = False

  def on_part_begin(self):
    if len(self.items) == self.max_files:
      raise Refused(413, f"more than {self.max_files} files; send them in several requests")
    super().on_part_begin()

  def on_end(self):
    self.complete = True


@contextlib.contextmanager
def intake(server, client):
  """A request's share of what `server` (`app.state`) holds, until its answer: yields a function that counts its body.

  Refused where the client has too many requests, or all together bring too many bytes; a TimeoutError where they come
  too slowly.
  """
  limits, started, received = server.limits, asyncio.get_running_loop().time(), 0
  if server.clients[client] >= limits.requests_per_client:
    raise Refused(429, f"more than {limits.requests_per_client} requests at once; wait for their answers")

  async def counted(stream):
    nonlocal received
    while True:
      async with asyncio.timeout_at(started + GRACE + received / limits.bytes_per_second):
        chunk = await anext(stream, None)
      if chunk is None:
        return
      if server.bytes_in_flight + len(chunk) > limits.bytes_in_flight:
        raise busy(1)
      server.bytes_in_flight += len(chunk)
      received += len(chunk)
      yield chunk

  server.clients[client] += 1
  try:
    yield counted
  finally:
    server.bytes_in_flight -= received
    server.clients -= {client: 1}  # forgets clients without requests


def check_declared(headers, limits):
  """Refuses a body that does not say its length (411), or says that it is too long (413)."""
  length = headers.get("content-length", "")
  if not length.isdecimal():
    raise Refused(411, "the request does not say how long it is; send a Content-Length")
  if int(length) > limits.request_bytes:
    most = f"at most {limits.request_bytes:,} are taken, send fewer files"
    raise Refused(413, f"the request has {int(length):,} bytes; {most}")


async def receive(stream, headers, limits):
  """The files of a multipart/form-data body as a list of Image in their order, headers checked.

  `stream` is an asynchronous iterator over the body's bytes. Raises Refused if the body as a whole is not what is
  expected, or too slow, or has too many files.
  """
  kind, options = parse_options_header(headers.get("content-type"))
  if kind != b"multipart/form-data" or not options.get(b"boundary"):
    raise Refused(415, f"expected multipart/form-data, {EXAMPLE}")
  parser = Parser(headers, stream, max_files=limits.files, max_part_size=limits.request_bytes)
  try:
    async with asyncio.timeout(limits.upload_seconds):
      files = [file for _, file in (await parser.parse()).multi_items()]
  except (MultiPartException, ValueError) as error:
    raise Refused(400, f"the body is no multipart/form-data ({error})") from error
  except ClientDisconnect as error:
    raise Refused(400, "the connection ended before the body did") from error
  except TimeoutError as error:
    least = f"or at less than {limits.bytes_per_second:,} bytes a second"
    raise Refused(408, f"the body did not arrive within {limits.upload_seconds:g} s, {least}") from error
  if not parser.complete:
    raise Refused(400, "the body ends before its last boundary")
  if not files:
    raise Refused(400, f"no file in the request; send at least one, {EXAMPLE}")
  if any(isinstance(file, str) for file in files):
    raise Refused(400, "a part of the request is no file; send nothing but files")
  return [await _checked(file, limits) for file in files]


async def _checked(file, limits):
  image = Image("".join(c for c in file.filename if c.isprintable())[:NAME_LENGTH])
  data = await file.read()
  await file.close()
  try:
    if len(data) > limits.file_bytes:
      raise UserError(f"larger than {limits.file_bytes / (1 << 20):g} MiB; save the image smaller")
    image.width, image.height = await asyncio.to_thread(check_image, data, limits)
    image.data = data
  except UserError as error:
    image.error = str(error)
  return image


async def drain(stream, limits):
  """Lets the rest of a refused body arrive: a browser that is cut off while it sends never reads why."""
  with contextlib.suppress(TimeoutError, ClientDisconnect):
    async with asyncio.timeout(limits.upload_seconds):
      async for _ in stream:
        pass
