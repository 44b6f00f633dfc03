"""What stands before every request: who may ask, and what browsers may do with the answers."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

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
  """ASGI middleware around `app`: refuses other sites' requests with 403 and adds HEADERS to all answers.

  A page of another site can make a visitor's browser send images here; its request says where it comes from (`Origin`,
  `Sec-Fetch-Site`). A site whose name was made to point at 127.0.0.1 says its own name in `Host`, so a server that
  listens on the loopback address (`local`) answers to this machine's names alone.
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
    answer = self.app if reason is None else JSONResponse({"error": reason}, 403)
    await answer(scope, receive, send_with_headers)


def refusal(headers, local):
  """Why a request with these headers is not served, or None.

  Example:
    >>> refusal({"host": "localhost:8000", "origin": "https://elsewhere.org"}, local=True)
    'requests from other sites are not served'
  """
  host, origin = headers.get("host", ""), headers.get("origin")
  try:
    name = urlsplit(f"//{host}").hostname
  except ValueError:
    name = None
  if local and name not in LOOPBACK:
    return f"this server answers to localhost, not to {host!r}"
  cross_site = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
  if cross_site or (origin is not None and origin.partition("://")[2] != host):
    return "requests from other sites are not served"
  return None
