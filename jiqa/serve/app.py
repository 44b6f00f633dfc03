"""The routes: one page, what the metric is, scores, health."""

import asyncio
import contextlib
import importlib.resources
import time

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

import jiqa
from jiqa.serve import upload
from jiqa.serve.batcher import Batcher
from jiqa.serve.guard import Guard
from jiqa.serve.limits import Limits, Refused, busy

PAGE = {
  "/": ("index.html", "text/html; charset=utf-8"),
  "/style.css": ("style.css", "text/css; charset=utf-8"),
  "/app.js": ("app.js", "text/javascript; charset=utf-8"),
  "/icon.svg": ("icon.svg", "image/svg+xml"),
}
FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM = {"type": "object", "required": ["files"], "properties": {"files": FILES}}
BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}


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
    local: see `Guard`.

  Returns:
    fastapi.FastAPI. At its end it waits for the images that are still to be scored.
  """
  limits = limits or Limits()
  batcher = Batcher(backend.score, limits)

  @contextlib.asynccontextmanager
  async def lifespan(_):
    yield
    await batcher.close()

  # FastAPI's own documentation pages load scripts from elsewhere; docs/serve.md is ours.
  options = {"docs_url": None, "redoc_url": None, "openapi_url": "/api/openapi.json"}
  app = FastAPI(title="jiqa", version=jiqa.__version__, lifespan=lifespan, **options)
  app.state.backend, app.state.limits, app.state.batcher, app.state.bytes_in_flight = backend, limits, batcher, 0
  app.add_middleware(Guard, local=local)
  app.add_exception_handler(Refused, _refused)
  for path, (name, media_type) in PAGE.items():
    app.add_api_route(path, _static(name, media_type), include_in_schema=False)
  app.include_router(router)
  return app


router = APIRouter()


@router.get("/api/about")
async def about(request: Request) -> About:
  backend, limits = request.app.state.backend, request.app.state.limits
  return About(
    version=jiqa.__version__,
    model=backend.name,
    card=backend.card,
    scale=backend.scale,
    saliency=backend.saliency,
    limits={key: getattr(limits, key) for key in ("file_bytes", "files", "pixels", "request_bytes")},
  )


@router.get("/healthz")
async def health(request: Request):
  batcher = request.app.state.batcher
  state = {"status": "stopping" if batcher.closing else "ok", "unfinished": batcher.unfinished}
  return JSONResponse(state, 503 if batcher.closing else 200)


@router.post("/api/score", openapi_extra=BODY)
async def score(request: Request, saliency: bool = False) -> Scores:
  server, stream = request.app.state, request.stream()
  size = upload.declared_bytes(request.headers, server.limits)
  try:
    server.batcher.check_room()
    if server.bytes_in_flight + size > server.limits.bytes_in_flight:
      raise busy(1)
    server.bytes_in_flight += size
    try:
      images = await upload.receive(stream, request.headers, server.limits)
      started = time.perf_counter()
      results = await _results(server, images, saliency and server.backend.saliency)
    finally:
      server.bytes_in_flight -= size
  except Refused:
    await upload.drain(stream, server.limits)
    raise
  seconds = round(time.perf_counter() - started, 3)
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
  results = []
  for image in images:
    row = next(rows) if image.error is None else {"error": image.error}
    results.append(Scored(name=image.name, width=image.width, height=image.height, **row))
  return results


async def _refused(_, refused):
  return JSONResponse({"error": refused.detail}, refused.status_code, refused.headers)


def _static(name, media_type):
  body = (importlib.resources.files("jiqa.serve") / "static" / name).read_bytes()

  async def static():
    return Response(body, media_type=media_type)

  return static
