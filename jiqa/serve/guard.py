"""What stands before every request: who may ask, and what browsers may do with the answers."""

import json
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# The page brings everything along; blob: and data: are thumbnails and saliency maps.
POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
  "content-security-policy": POLICY,
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-store",
}


class Guard:
  """ASGI middleware: refuses other sites' requests with 403 and adds HEADERS to all answers.

  A page of another site can make a visitor's browser send images to a server on the visitor's own machine. Such a
  request says where it comes from (`Origin`, `Sec-Fetch-Site`). A site whose name was made to point at 127.0.0.1 says
  its own name in `Host`, so a server for this machine alone answers to this machine's names alone.

  Args:
    app: ASGI application.
    local: True where the server listens on the loopback address.
  """

  def __init__(self, app, local):
    self.app, self.local = app, local

  async def __call__(self, scope, receive, send):
    if scope["type"] != "http":
      return await self.app(scope, receive, send)

    async def send_with_headers(message):
      if message["type"] == "http.response.start":
        MutableHeaders(scope=message).update(HEADERS)
      await send(message)

    reason = refusal(Headers(scope=scope), self.local)
    if reason is None:
      return await self.app(scope, receive, send_with_headers)
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send_with_headers({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refusal(headers, local):
  """Why a request is not served, or None.

  Args:
    headers: starlette.datastructures.Headers of the request.
    local: see `Guard`.

  Example:
    >>> refusal({"host": "localhost:8000", "origin": "http://localhost:8000"}, True) is None
    True
    >>> refusal({"host": "localhost:8000", "origin": "https://elsewhere.org"}, True)
    'requests from other sites are not served'
    >>> refusal({"host": "rebound.org"}, True)
    "this server answers to localhost, not to 'rebound.org'"
  """
  host, origin = headers.get("host", ""), headers.get("origin")
  if local:
    try:
      name = urlsplit(f"//{host}").hostname
    except ValueError:
      name = None
    if name not in LOOPBACK:
      return f"this server answers to localhost, not to {host!r}"
  if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
    return "requests from other sites are not served"
  if origin is not None and origin.partition("://")[2] != host:
    return "requests from other sites are not served"
  return None
