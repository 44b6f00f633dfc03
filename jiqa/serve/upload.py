"""Images out of a request's body, in memory and within the limits."""

import asyncio
import contextlib
import dataclasses

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from jiqa.errors import UserError
from jiqa.serve.limits import Refused, check_image

NAME_LENGTH = 255
EXAMPLE = "such as: curl -F files=@photo.jpg"


@dataclasses.dataclass
class Image:
  """One file of a request; with `error` it is not scored and has neither data nor size."""

  name: str  # a label, never a path
  data: bytes = b""
  width: int | None = None
  height: int | None = None
  error: str | None = None


class _Parser(MultiPartParser):
  """Starlette's parser; it also counts parts as they begin and notes whether the last boundary came."""

  spool_max_size = 0  # nothing goes to disk
  complete = False

  def on_part_begin(self):
    if len(self.items) == self.max_files:
      raise Refused(413, f"more than {self.max_files} files; send them in several requests")
    super().on_part_begin()

  def on_end(self):
    self.complete = True


def declared_bytes(headers, limits):
  """The length of a body by its header, which must be there: what cannot be counted beforehand is not taken.

  Raises:
    Refused: 411 without a length, 413 beyond limits.request_bytes.
  """
  length = headers.get("content-length", "")
  if not length.isdecimal():
    raise Refused(411, "the request does not say how long it is; send a Content-Length")
  if int(length) > limits.request_bytes:
    most = f"at most {limits.request_bytes:,} are taken, send fewer files"
    raise Refused(413, f"the request has {int(length):,} bytes; {most}")
  return int(length)


async def receive(stream, headers, limits):
  """Reads the files of a multipart/form-data body.

  Args:
    stream: asynchronous iterator over the bytes of the body.
    headers: starlette.datastructures.Headers of the request.
    limits: Limits.

  Returns:
    list of Image in the order of the files, headers checked.

  Raises:
    Refused: the body as a whole is not what is expected, or too slow, or has too many files.
  """
  kind, options = parse_options_header(headers.get("content-type"))
  if kind != b"multipart/form-data" or not options.get(b"boundary"):
    raise Refused(415, f"expected multipart/form-data, {EXAMPLE}")
  parser = _Parser(headers, stream, max_files=limits.files, max_part_size=limits.request_bytes)
  try:
    async with asyncio.timeout(limits.upload_seconds):
      files = [file for _, file in (await parser.parse()).multi_items()]
  except (MultiPartException, ValueError) as error:
    raise Refused(400, f"the body is no multipart/form-data ({error})") from error
  except ClientDisconnect as error:
    raise Refused(400, "the connection ended before the body did") from error
  except TimeoutError as error:
    raise Refused(408, f"the body did not arrive within {limits.upload_seconds:g} s") from error
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
