"""The application: who may ask, one page, what the metric is, scores, health."""

import asyncio
import base64
import collections
import contextlib
import importlib.resources
import secrets
import time
from urllib.parse import urlsplit

import prometheus_client as prometheus
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders

import jiqa
from jiqa.serve import upload
from jiqa.serve.batcher import Batcher
from jiqa.serve.command import is_loopback
from jiqa.serve.upload import Limits, Refused

PAGE = {
  "/": ("index.html", "text/html; charset=utf-8"),
  "/style.css": ("style.css", "text/css; charset=utf-8"),
  "/app.js": ("app.js", "text/javascript; charset=utf-8"),
  "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
  "/icon.svg": ("icon.svg", "image/svg+xml"),
}
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
PROBES, USER = ("/healthz", "/readyz", "/livez"), "jiqa"
FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM = {"type": "object", "required": ["files"], "properties": {"files": FILES}}
BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}
router = APIRouter()


def create_app(backend, limits=None, *, local=True, token=None):
  """The FastAPI application around a `Worker`; at its end it waits for the images that are still to be scored.

  `limits` None are the usual ones; for `local` and `token` see `Guard`.
  """
  limits = limits or Limits()
  batcher = Batcher(backend, limits)

  @contextlib.asynccontextmanager
  async def lifespan(_):
    yield
    await batcher.close()

  # FastAPI's own documentation pages load scripts from elsewhere; docs/serve.md is ours.
  options = {"docs_url": None, "redoc_url": None, "openapi_url": "/api/openapi.json"}
  app = FastAPI(title="jiqa", version=jiqa.__version__, lifespan=lifespan, **options)
  app.state.backend, app.state.limits, app.state.batcher, app.state.bytes_in_flight = backend, limits, batcher, 0
  app.state.clients = collections.Counter()
  registry = prometheus.CollectorRegistry()
  answers = prometheus.Counter("jiqa_answers", "Answers by their status.", ["status"], registry=registry)
  app.state.images = prometheus.Counter("jiqa_images", "By whether there is a score.", ["outcome"], registry=registry)
  app.state.seconds = prometheus.Histogram("jiqa_score_seconds", "From a request to its scores.", registry=registry)
  waiting = prometheus.Gauge("jiqa_unfinished", "Images that wait or are being scored.", registry=registry)
  waiting.set_function(lambda: batcher.unfinished)
  latest = {"media_type": prometheus.CONTENT_TYPE_LATEST}
  app.add_route("/metrics", lambda _: Response(prometheus.generate_latest(registry), **latest), include_in_schema=False)
  app.add_middleware(Guard, local=local, token=token, answers=answers)

  @app.exception_handler(Refused)
  async def refused(_, error):
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)

  for path, (name, media_type) in PAGE.items():
    body = (importlib.resources.files("jiqa.serve") / "static" / name).read_bytes()
    app.add_route(path, Response(body, media_type=media_type), methods=["GET"], include_in_schema=False)
  app.include_router(router)
  return app


class Guard:
  """ASGI middleware around `app`: refuses other sites' requests with 403, adds HEADERS to all answers, counts them.

  With a `token`, it is the password of USER, for which browsers ask; PROBES answer without.

  A page of another site can make a visitor's browser send images here; its request says where it comes from (`Origin`,
  `Sec-Fetch-Site`). A site whose name was made to point at 127.0.0.1 says its own name in `Host`, so a server that
  listens on the loopback address (`local`) answers to this machine's names alone.
  """

  def __init__(self, app, local, token, answers):
    self.app, self.local, self.answers = app, local, answers
    self.login = token and b"Basic " + base64.b64encode(f"{USER}:{token}".encode())

  async def __call__(self, scope, receive, send):
    async def send_with_headers(message):
      if message["type"] == "http.response.start":
        MutableHeaders(scope=message).update(HEADERS)
        self.answers.labels(message["status"]).inc()
      await send(message)

    answer = self.app
    if scope["type"] == "http":
      headers = Headers(scope=scope)
      given = headers.get("authorization", "").encode("latin-1")
      if reason := refusal(headers, self.local):
        answer = JSONResponse({"error": reason}, 403)
      elif self.login and scope["path"] not in PROBES and not secrets.compare_digest(given, self.login):
        reason = f"the server's token is needed, as the password of the user {USER}"
        answer = JSONResponse({"error": reason}, 401, {"www-authenticate": 'Basic realm="jiqa", charset="UTF-8"'})
    await answer(scope, receive, send_with_headers)


def refusal(headers, local):
  """Why a request with these headers is not served, or None.

  >>> refusal({"host": "localhost:8000", "origin": "https://elsewhere.org"}, local=True)
  'requests from other sites are not served'
  """
  host, origin = headers.get("host", ""), headers.get("origin")
  try:
    name = urlsplit(f"//{host}").hostname
  except ValueError:
    name = None
  if local and not is_loopback(name):
    return f"this server answers to localhost, not to {host!r}"
  cross_site = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
  if cross_site or (origin is not None and origin.partition("://")[2] != host):
    return "requests from other sites are not served"
  return None


class Scored(BaseModel):
  """One image of an answer: with `error` it has no score."""

  name: str
  score: float | None = None
  columns: dict[str, str | float | int | bool | None] = {}
  saliency: str | None = None
  saliency_shows: str | None = None
  width: int | None = None
  height: int | None = None
  error: str | None = None


class Scores(BaseModel):
  """The answer of POST /api/score: results in the order of the files."""

  model: str
  weights_sha256: str
  seconds: float
  results: list[Scored]


class About(BaseModel):
  """The answer of GET /api/about: what scores, on which scale, and what is taken."""

  version: str
  model: str
  card: dict
  scale: dict
  saliency: bool
  limits: dict


@router.get("/api/about")
async def about(request: Request) -> About:
  backend, limits = request.app.state.backend, request.app.state.limits
  shown = {key: getattr(limits, key) for key in ("file_bytes", "files", "pixels", "request_bytes")}
  facts = {"card": backend.card, "scale": backend.scale, "saliency": backend.saliency, "limits": shown}
  return About(version=jiqa.__version__, model=backend.name, **facts)


@router.get("/healthz")
@router.get("/readyz")
async def health(request: Request):
  batcher, limits = request.app.state.batcher, request.app.state.limits
  status = batcher.status
  if request.url.path == "/readyz" and status == "ok" and batcher.unfinished >= limits.images_waiting:
    status = "full"
  return JSONResponse({"status": status, "unfinished": batcher.unfinished}, 200 if status == "ok" else 503)


@router.get("/livez")
async def alive():
  return JSONResponse({"status": "ok"})


@router.post("/api/score", openapi_extra=BODY)
async def score(request: Request, saliency: bool = False) -> Scores:
  server, stream = request.app.state, request.stream()
  upload.check_declared(request.headers, server.limits)
  try:
    server.batcher.check_room()
    with upload.intake(server, request.client and request.client.host) as counted:
      images = await upload.receive(counted(stream), request.headers, server.limits)
      started = time.perf_counter()
      results = await _results(server, images, saliency and server.backend.saliency)
  except Refused:
    await upload.drain(stream, server.limits)
    raise
  seconds = round(time.perf_counter() - started, 3)
  server.seconds.observe(seconds)
  for result in results:
    server.images.labels("error" if result.error else "scored").inc()
  name, checksum = server.backend.name, server.backend.weights_sha256
  return Scores(model=name, weights_sha256=checksum, seconds=seconds, results=results)


async def _results(server, images, saliency):
  """Waits for the scores of the images that are without error."""
  futures = server.batcher.submit([image for image in images if image.error is None], saliency)
  seconds = server.limits.score_seconds
  try:
    async with asyncio.timeout(seconds):
      rows = iter(await asyncio.gather(*futures))
  except TimeoutError as error:
    raise Refused(504, f"no scores within {seconds:g} s; send fewer files") from error
  each = [(image, next(rows) if image.error is None else {"error": image.error}) for image in images]
  return [Scored(name=image.name, width=image.width, height=image.height, **row) for image, row in each]
