"""The routes: one page, what the metric is, scores, health."""

import asyncio
import contextlib
import importlib.resources
import time

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

import jiqa
from jiqa.errors import UserError
from jiqa.serve import upload
from jiqa.serve.batcher import Batcher, Full
from jiqa.serve.guard import Guard
from jiqa.serve.limits import Limits

PAGE = {
  "/": ("index.html", "text/html; charset=utf-8"),
  "/style.css": ("style.css", "text/css; charset=utf-8"),
  "/app.js": ("app.js", "text/javascript; charset=utf-8"),
  "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Scored(BaseModel):
  """One image of an answer: with `error` it has no score."""

  name: str
  score: float | None = None
  columns: dict[str, str | float | int | bool | None] = {}
  saliency: str | None = None
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


def create_app(backend, limits=None, *, local=True):
  """The application around one metric.

  Args:
    backend: backend.Backend.
    limits: Limits; None: the usual ones.
    local: True where it is served on the loopback address, see `Guard`.

  Returns:
    fastapi.FastAPI. Its lifespan starts the scoring thread, and on the way out scores what still waits.
  """
  limits = limits or Limits()
  batcher = Batcher(backend.score, limits)

  @contextlib.asynccontextmanager
  async def lifespan(_):
    batcher.start()
    yield
    await asyncio.to_thread(batcher.close)

  # The usual pages of FastAPI's documentation load scripts from elsewhere; docs/serve.md is ours.
  app = FastAPI(
    title="jiqa", version=jiqa.__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json",
    lifespan=lifespan,
  )  # fmt: skip
  app.add_middleware(Guard, local=local)
  app.add_exception_handler(upload.Refused, _refused)
  app.state.batcher = batcher
  for path, (name, kind) in PAGE.items():
    app.add_api_route(path, _static(name, kind), include_in_schema=False)
  app.add_api_route("/api/about", _about(backend, limits), response_model=About)
  app.add_api_route("/healthz", _health(batcher))
  app.add_api_route(
    "/api/score", _score(backend, batcher, limits), methods=["POST"], response_model=Scores, openapi_extra=_BODY
  )
  return app


_BODY = {
  "requestBody": {
    "required": True,
    "content": {
      "multipart/form-data": {
        "schema": {
          "type": "object",
          "required": ["files"],
          "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
      }
    },
  }
}


async def _refused(_, refused):
  headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
  return JSONResponse({"error": refused.message}, refused.status, headers)


def _static(name, kind):
  body = (importlib.resources.files("jiqa.serve") / "static" / name).read_bytes()

  async def static():
    return Response(body, media_type=kind)

  return static


def _about(backend, limits):
  taken = {key: getattr(limits, key) for key in ("file_bytes", "files", "pixels", "request_bytes")}

  async def about():
    return About(
      version=jiqa.__version__, model=backend.name, card=backend.card, scale=backend.scale,
      saliency=backend.saliency, limits=taken,
    )  # fmt: skip

  return about


def _health(batcher):
  async def health():
    state = {"status": "ok" if batcher.alive else "stopping", "unfinished": batcher.unfinished}
    return JSONResponse(state, 200 if batcher.alive else 503)

  return health


def _score(backend, batcher, limits):
  in_flight = 0

  async def score(request: Request, saliency: bool = False):
    nonlocal in_flight
    size = upload.declared_bytes(request.headers, limits)
    stream = request.stream()
    try:
      _check_room(batcher, in_flight + size, limits)
      in_flight += size
      try:
        images = await upload.receive(stream, request.headers.get("content-type", ""), limits)
        started = time.perf_counter()
        results = await _scored(batcher, images, saliency and backend.saliency, limits)
      finally:
        in_flight -= size
    except upload.Refused:
      await upload.drain(stream, limits)
      raise
    return Scores(
      model=backend.name, weights_sha256=backend.weights_sha256, results=results,
      seconds=round(time.perf_counter() - started, 3),
    )  # fmt: skip

  return score


def _check_room(batcher, bytes_in_flight, limits):
  try:
    batcher.check_room()
  except Full as full:
    raise _busy(full.retry_after) from full
  if bytes_in_flight > limits.bytes_in_flight:
    raise _busy(1)


def _busy(retry_after):
  return upload.Refused(503, f"busy; try again in {retry_after} s", retry_after)


async def _scored(batcher, images, saliency, limits):
  """Waits for the scores of the images that are without error."""
  good = [image for image in images if image.error is None]
  try:
    futures = [asyncio.wrap_future(future) for future in batcher.submit(good, saliency)]
  except Full as full:
    raise _busy(full.retry_after) from full
  try:
    async with asyncio.timeout(limits.score_seconds):
      rows = await asyncio.gather(*futures, return_exceptions=True)
  except TimeoutError as error:
    raise upload.Refused(504, f"no scores within {limits.score_seconds:g} s; send fewer files") from error
  answers = dict(zip(map(id, good), rows, strict=True))
  return [_result(image, answers.get(id(image))) for image in images]


def _result(image, row):
  facts = {"name": image.name, "width": image.width, "height": image.height}
  if isinstance(row, UserError):
    return Scored(**facts, error=str(row))
  if isinstance(row, BaseException):
    raise row
  return Scored(**facts, error=image.error) if row is None else Scored(**facts, **row)
