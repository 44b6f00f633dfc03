"""Images out of a request's body, in memory and within the limits."""

import asyncio
import contextlib
import dataclasses

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from jiqa.errors import UserError
from jiqa.serve.limits import check_image

NAME_LENGTH = 255


class Refused(Exception):
  """A request that is not taken as a whole.

  Attributes:
    status: of HTTP.
    message: one sentence for the sender.
    retry_after: seconds, or None.
  """

  def __init__(self, status, message, retry_after=None):
    super().__init__(message)
    self.status, self.message, self.retry_after = status, message, retry_after


@dataclasses.dataclass
class Image:
  """One file of a request: with `error` it is not scored.

  Attributes:
    name: as `shown_name` gives it; a label, never a path.
    data: bytes of the file.
    width, height: pixels; None with an error.
    error: why it cannot be scored, or None.
  """

  name: str
  data: bytes = b""
  width: int | None = None
  height: int | None = None
  error: str | None = None


def shown_name(name):
  """A file name as a label: no control characters, not longer than 255. It is never used as a path.

  Example:
    >>> shown_name("../a\\r\\nb.png")
    '../ab.png'
  """
  return "".join(c for c in name if c.isprintable())[:NAME_LENGTH]


def declared_bytes(headers, limits):
  """The length of a body by its header, which must be there: what cannot be counted beforehand is not taken.

  Raises:
    Refused: 411 without a length, 413 beyond limits.request_bytes.
  """
  length = headers.get("content-length", "")
  if not length.isdecimal():
    raise Refused(411, "the request does not say how long it is; send a Content-Length")
  if int(length) > limits.request_bytes:
    raise Refused(
      413, f"the request has {int(length):,} bytes; at most {limits.request_bytes:,} are taken, send fewer files"
    )
  return int(length)


async def receive(stream, content_type, limits):
  """Reads the files of a multipart/form-data body.

  Args:
    stream: asynchronous iterator over the bytes of the body.
    content_type: that header of the request.
    limits: Limits.

  Returns:
    list of Image in the order of the files, headers checked.

  Raises:
    Refused: the body as a whole is not what is expected, or too slow, or has too many files.
  """
  kind, options = parse_options_header(content_type)
  if kind != b"multipart/form-data" or not options.get(b"boundary"):
    raise Refused(415, "expected multipart/form-data, such as: curl -F files=@photo.jpg")
  parts = _Parts(limits)
  try:
    parser = MultipartParser(options[b"boundary"], parts.callbacks())
    async with asyncio.timeout(limits.upload_seconds):
      async for chunk in stream:
        parser.write(chunk)
    parser.finalize()
  except FormParserError as error:
    raise Refused(400, f"the body is no multipart/form-data ({error})") from error
  except ClientDisconnect as error:
    raise Refused(400, "the connection ended before the body did") from error
  except TimeoutError as error:
    raise Refused(408, f"the body did not arrive within {limits.upload_seconds:g} s") from error
  if not parts.complete:
    raise Refused(400, "the body ends before its last boundary")
  if not parts.images:
    raise Refused(400, "no file in the request; send at least one, such as: curl -F files=@photo.jpg")
  for image in parts.images:
    if image.error is None:
      try:
        image.width, image.height = await asyncio.to_thread(check_image, image.data, limits)
      except UserError as error:
        image.error, image.data = str(error), b""
  return parts.images


async def drain(stream, limits):
  """Lets the rest of a refused body arrive: a browser that is cut off while it sends never reads why."""
  with contextlib.suppress(TimeoutError, ClientDisconnect):
    async with asyncio.timeout(limits.upload_seconds):
      async for _ in stream:
        pass


class _Parts:
  """Collects files while the parser meets them; a file that grows too large is let go at once."""

  def __init__(self, limits):
    self.limits, self.images, self.complete = limits, [], False
    self._header, self._value, self._disposition = b"", b"", b""
    self._chunks, self._size = [], 0

  def callbacks(self):
    return {
      "on_part_begin": self._begin,
      "on_header_field": self._field,
      "on_header_value": self._part_of_value,
      "on_header_end": self._header_end,
      "on_headers_finished": self._headers_finished,
      "on_part_data": self._data,
      "on_part_end": self._end,
      "on_end": self._all,
    }

  def _begin(self):
    self._disposition, self._chunks, self._size = b"", [], 0

  def _field(self, data, start, end):
    self._header += data[start:end]

  def _part_of_value(self, data, start, end):
    self._value += data[start:end]

  def _header_end(self):
    if self._header.lower() == b"content-disposition":
      self._disposition = self._value
    self._header, self._value = b"", b""

  def _headers_finished(self):
    _, options = parse_options_header(self._disposition)
    if b"filename" not in options:
      raise Refused(400, "a part of the request is no file; send nothing but files")
    if len(self.images) == self.limits.files:
      raise Refused(413, f"more than {self.limits.files} files; send them in several requests")
    self.images.append(Image(shown_name(options[b"filename"].decode("utf-8", "replace"))))

  def _data(self, data, start, end):
    self._size += end - start
    if self._size <= self.limits.file_bytes:
      self._chunks.append(data[start:end])
    else:
      self._chunks = []
      self.images[-1].error = f"larger than {self.limits.file_bytes / (1 << 20):g} MiB; save the image smaller"

  def _end(self):
    self.images[-1].data = b"".join(self._chunks)

  def _all(self):
    self.complete = True
