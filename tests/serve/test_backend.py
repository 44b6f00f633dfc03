"""The server around metrics as `jiqa.load` gives them."""

import asyncio
import base64
import io
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from fastapi.testclient import TestClient
from PIL import Image
from starlette.datastructures import Headers

import jiqa
from jiqa.errors import UserError
from jiqa.serve import upload
from jiqa.serve.app import create_app
from jiqa.serve.backend import Backend, map_as_png
from jiqa.serve.batcher import Batcher
from jiqa.serve.command import check_extra, is_loopback, run
from jiqa.serve.upload import Limits
from jiqa.weights.store import save_weights
from tests import brightness_method
from tests.serve.images import Brightness, InProcess, encoded


@pytest.fixture
def metric(tmp_path, monkeypatch):
  """A metric whose score is twice the mean pixel in [0, 1]."""
  card = {
    "method": brightness_method.NAME,
    "config": {"method": brightness_method.NAME, "batch_size": 1},
    "licence": "none",
  }
  save_weights(tmp_path / "secret" / "bright", {"slope": np.float32(2)}, {}, card)
  import jax

  return jiqa.load(weights=tmp_path / "secret" / "bright", devices=jax.devices()[:1])


def test_serves_what_the_metric_says(metric, tmp_path):
  backend = Backend(metric)
  backend.warm_up()
  with TestClient(create_app(InProcess(backend)), base_url="http://localhost") as client:
    files = [("files", (f"{gray}.png", encoded((gray, 20), color=gray))) for gray in (51, 102)]
    told = client.post("/api/score?saliency=true", files=files).json()
    about = client.get("/api/about").text
  assert [row["score"] for row in told["results"]] == pytest.approx([0.4, 0.8], abs=1e-4)
  assert [row["score"] for row in told["results"]] == pytest.approx(
    metric([np.full((20, gray, 3), gray, np.uint8) for gray in (51, 102)]).score
  )
  assert told["weights_sha256"] == metric.weights_sha256
  assert all(row["saliency"] is None for row in told["results"])
  assert "bright" in about and "licence" in about
  assert "secret" not in about  # where things lie on the server is nobody's business


def test_a_metric_that_gives_no_scores_is_refused_at_the_start(metric):
  def refuse():
    raise UserError("gives features; a score needs a head")

  metric.check_scores = refuse
  with pytest.raises(UserError, match="needs a head"):
    Backend(metric).warm_up()


def test_the_method_that_explains_itself_gives_a_shade(metric):
  looks = np.array([[0.0, 1.0], [0.5, 1.0]])
  metric.models[0].method.explain = lambda *_: {"map": looks}
  row = Backend(metric).score([np.zeros((8, 8, 3), np.uint8)], [True])[0]
  png = Image.open(io.BytesIO(base64.b64decode(row["saliency"].partition(",")[2])))
  assert png.mode == "RGBA"
  alpha = np.asarray(png)[..., 3].astype(float)
  assert alpha[0, 0] > alpha[1, 0] > alpha[0, 1] == alpha[1, 1] == 0
  assert map_as_png(np.ones((3, 3)))  # a flat map divides by nothing
  assert row["saliency_shows"] == "bright: where the network looks"
  metric.models[0].method.explain = lambda *_: {"map": 70 * looks + 12.4, "shows": "scores"}
  row = Backend(metric).score([np.zeros((8, 8, 3), np.uint8)], [True])[0]
  assert row["saliency_shows"] == "scores, 12 (dark) to 82 (bright)"


def test_says_what_to_install_where_the_extra_is_missing(monkeypatch):
  check_extra()
  monkeypatch.setitem(sys.modules, "uvicorn", None)
  with pytest.raises(UserError, match=r"needs uvicorn.*pip install uvicorn"):
    check_extra()


def test_the_command_says_what_is_wrong_before_it_loads_anything():
  command = [sys.executable, "-m", "jiqa.cli", "serve", "--max-files=8", "--queue=4"]
  found = subprocess.run(command, capture_output=True, text=True, check=False)
  assert found.returncode == 2
  assert "raise the former" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1"])
def test_addresses_of_this_machine_alone(host):
  assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "localhost.example.org", "example.org", ""])
def test_addresses_that_others_reach(host):
  assert not is_loopback(host)


def test_a_server_that_stops_says_so_to_whoever_asks_for_its_health():
  app = create_app(InProcess(Brightness()))
  with TestClient(app, base_url="http://localhost") as client:
    for word, status in (("ok", 200), ("restarting", 503), ("stopping", 503)):
      app.state.batcher.status = word
      answer = client.get("/healthz")
      assert answer.status_code == status and answer.json() == {"status": word, "unfinished": 0}


def test_maps_are_of_the_images_that_asked_for_them_though_one_before_is_broken():
  limits = Limits()
  images = [upload.Image(f"{i}.png", data, 40, 30) for i, data in enumerate((b"broken", encoded(), encoded()))]

  async def scored():
    batcher = Batcher(InProcess(Brightness()), limits)
    asked = zip(images, (False, True, False), strict=True)
    futures = [future for image, saliency in asked for future in batcher.submit([image], saliency)]
    rows = await asyncio.gather(*futures)
    await batcher.close()
    return rows

  broken, wanted, unwanted = asyncio.run(scored())
  assert set(broken) == {"error"} and wanted["saliency"] and unwanted["saliency"] is None


def test_a_link_on_another_site_opens_the_page():
  headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
  with TestClient(create_app(InProcess(Brightness())), base_url="http://localhost") as client:
    assert client.get("/", headers=headers).status_code == 200
    assert client.get("/", headers=headers | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_a_server_that_others_reach_answers_to_any_name(host, local):
  class Made(Exception):
    pass

  with mock.patch("jiqa.serve.app.create_app", side_effect=Made) as create, pytest.raises(Made):
    run("worker", host=host, port=0, limits=Limits())
  assert create.mock_calls == [mock.call("worker", Limits(), local=local, token=None)]


def test_the_options_of_the_command_are_limits_and_the_others_grow_with_them():
  assert Limits.of(max_megabytes=3, max_files=4, max_megapixels=5, queue=60, deadline=7) == Limits(
    file_bytes=3 * 2**20, files=4, pixels=5_000_000, request_bytes=6 * 2**20, bytes_in_flight=48 * 2**20,
    images_waiting=60, batch_seconds=7, score_seconds=14,
  )  # fmt: skip


def test_a_port_that_is_taken_is_named():
  import socket

  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port}"):
      run(InProcess(Brightness()), host="127.0.0.1", port=port, limits=Limits())


def test_a_batch_holds_as_many_images_as_the_limits_say():
  metric = Brightness()

  async def scored():
    batcher = Batcher(InProcess(metric), Limits(batch_images=3))
    await asyncio.gather(*batcher.submit([upload.Image("a.png", encoded(), 40, 30) for _ in range(8)]))
    await batcher.close()

  asyncio.run(scored())
  assert metric.calls == [3, 3, 2]


def test_names_lose_what_a_terminal_would_obey():
  name = "a\x1b[31m\u202eb.png"
  head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'

  async def body():
    yield head.encode() + encoded() + b"\r\n--x--\r\n"

  headers = Headers({"content-type": "multipart/form-data; boundary=x"})
  (image,) = asyncio.run(upload.receive(body(), headers, Limits()))
  assert image.name == "a[31mb.png" and image.error is None
