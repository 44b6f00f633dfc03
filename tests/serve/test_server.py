"""The server: what it answers, what it refuses, and that it stays itself under load."""

import asyncio
import concurrent.futures
import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
httpx = pytest.importorskip("httpx2")

from fastapi.testclient import TestClient  # noqa: E402
from PIL import Image  # noqa: E402
from starlette.datastructures import Headers  # noqa: E402

from jiqa.errors import UserError  # noqa: E402
from jiqa.serve.app import create_app  # noqa: E402
from jiqa.serve.upload import MAX_SCANS, Limits, Refused, check_image, receive  # noqa: E402
from tests.serve.images import Brightness, InProcess, encoded, png_header  # noqa: E402

SMALL = Limits(
  file_bytes=20_000, files=4, pixels=1_000_000, request_bytes=60_000, bytes_in_flight=200_000, images_waiting=4,
  batch_images=3, upload_seconds=5, score_seconds=20,
)  # fmt: skip


@pytest.fixture
def metric():
  metric = Brightness()
  yield metric
  metric.gate.set()


@pytest.fixture
def client(metric):
  with TestClient(create_app(InProcess(metric), SMALL), base_url="http://localhost:8000") as client:
    yield client


def post(client, *files, **options):
  """Posts (name, bytes) pairs."""
  return client.post("/api/score", files=[("files", file) for file in files], **options)


def test_scores_every_image_of_a_request_in_order(client):
  files = [("a.png", encoded(color=51)), ("b.jpg", encoded(kind="JPEG", color=102)), ("a.png", encoded((7, 9)))]
  answer = post(client, *files)
  assert answer.status_code == 200
  told = answer.json()
  assert (told["model"], told["weights_sha256"]) == ("brightness", "0123456789abcdef")
  assert [row["name"] for row in told["results"]] == ["a.png", "b.jpg", "a.png"]
  assert [round(row["score"], 3) for row in told["results"]] == [0.2, 0.4, 0.392]
  assert [(row["width"], row["height"]) for row in told["results"]] == [(40, 30), (40, 30), (7, 9)]
  assert told["results"][0]["columns"] == {"distortion": "=blur", "level": 2}
  assert all(row["error"] is None and row["saliency"] is None for row in told["results"])


def test_sends_a_saliency_map_where_one_is_asked_for(client):
  row = post(client, ("a.png", encoded()), params={"saliency": "true"}).json()["results"][0]
  assert row["saliency"].startswith("data:image/png;base64,")


def test_says_what_it_is_and_what_it_takes(client):
  about = client.get("/api/about").json()
  assert about["card"]["licence"] == "none"
  assert about["scale"] == {"low": 0.0, "high": 1.0, "higher_is_better": True}
  assert about["limits"] == {"file_bytes": 20_000, "files": 4, "pixels": 1_000_000, "request_bytes": 60_000}
  assert client.get("/healthz").json() == {"status": "ok", "unfinished": 0}


def test_a_file_that_cannot_be_scored_is_named_and_the_others_are_scored(client):
  whole = encoded((200, 200), "JPEG")
  answer = post(
    client, ("good.png", encoded()), ("cut.jpg", whole[:-60]), ("text.png", b"no image"), ("empty.png", b"")
  )  # fmt: skip
  assert answer.status_code == 200
  good, cut, text, empty = answer.json()["results"]
  assert good["error"] is None
  assert "damaged or incomplete" in cut["error"]
  assert "not an image" in text["error"]
  assert "empty" in empty["error"]
  assert cut["score"] is text["score"] is empty["score"] is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM"])
def test_refuses_bombs_of_every_format_by_their_header(kind, monkeypatch):
  def decoded(*_):
    raise AssertionError("a pixel was decoded")

  data = encoded((1200, 900), kind)
  monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
  with pytest.raises(UserError, match="1200 x 900 pixels; at most 1 megapixels"):
    check_image(data, SMALL)
  assert check_image(data, Limits()) == (1200, 900)


def test_refuses_a_bomb_of_a_few_bytes(client, metric):
  answer = post(client, ("bomb.png", png_header(50_000, 50_000)), ("bigger.png", png_header(2**31 - 1, 2**31 - 1)))
  for row in answer.json()["results"]:
    assert "pixels" in row["error"]
  (row,) = post(client, ("thin.png", png_header(40_000, 1))).json()["results"]
  assert "40000 x 1 pixels" in row["error"] and "32,768 pixels a side" in row["error"]
  assert metric.calls == []


def test_refuses_a_jpeg_of_very_many_scans():
  file = io.BytesIO()
  Image.effect_noise((64, 64), 50).save(file, format="JPEG", progressive=True)
  data = file.getvalue()
  assert check_image(data, Limits()) == (64, 64)
  at = data.rindex(b"\xff\xda")
  with pytest.raises(UserError, match="scans"):
    check_image(data[:at] + data[at:-2] * MAX_SCANS + data[-2:], Limits())


def test_does_not_run_formats_that_are_programs():
  with pytest.raises(UserError, match="not an image"):
    check_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", Limits())


def test_a_file_or_a_request_that_is_too_large_is_refused(client, metric):
  row = post(client, ("large.png", encoded() + b"\0" * 20_000), ("good.png", encoded())).json()["results"]
  assert "MiB" in row[0]["error"]
  assert row[1]["error"] is None
  answer = post(client, *(("a.png", encoded() + b"\0" * 19_000) for _ in range(4)))
  assert answer.status_code == 413
  assert "60,000" in answer.json()["error"]
  answer = post(client, *(("a.png", encoded()) for _ in range(5)))
  assert (answer.status_code, answer.json()["error"][:17]) == (413, "more than 4 files")
  assert metric.calls == [1]


def test_refuses_what_is_no_upload(client):
  boundary = {"Content-Type": "multipart/form-data; boundary=x"}
  endless = client.post("/api/score", content=iter([b"--x\r\n"]), headers=boundary)
  assert endless.status_code == 411
  assert client.post("/api/score", json={}).status_code == 415
  assert client.post("/api/score", content=b"--x--\r\n", headers=boundary).status_code == 400
  assert client.post("/api/score", content=b"rubbish", headers=boundary).status_code == 400
  field = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nabc\r\n--x--\r\n'
  assert "no file" in client.post("/api/score", content=field, headers=boundary).json()["error"]
  cut = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc'
  assert "last boundary" in client.post("/api/score", content=cut, headers=boundary).json()["error"]
  assert client.get("/api/score").status_code == 405


NAMES = ["../../etc/passwd", "/etc/cron.d/x", "..\\..\\windows\\x.png", "a\x00b.png", "<img src=x>.png", "x" * 3000]


def test_names_are_labels_and_nothing_is_written(client, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  opened = []

  def watch(event, arguments):
    if event == "open" and watching and isinstance(arguments[0], str):
      opened.append((arguments[0], arguments[1] or "", arguments[2] or 0))

  watching = True
  sys.addaudithook(watch)
  try:
    (tmp_path / "witness").touch()
    results = []
    for name in NAMES:
      results += post(client, (name, encoded((300, 200), "TIFF")[:19_000])).json()["results"]
  finally:
    watching = False
  written = [path for path, mode, flags in opened if set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR)]
  assert written == [str(tmp_path / "witness")]
  assert all("passwd" not in path and "cron" not in path for path, *_ in opened)
  assert [row["name"] for row in results][:2] == NAMES[:2]
  assert results[4]["name"] == "<img src=x>.png"
  assert all(len(row["name"]) <= 255 and row["name"].isprintable() for row in results)


def test_a_large_file_stays_in_memory(metric, monkeypatch):
  def rollover(_):
    raise AssertionError("an upload was written to disk")

  monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", rollover)
  data = encoded((900, 900), "BMP")
  assert len(data) > 2 << 20  # starlette's parser spills from 1 MiB on
  with TestClient(create_app(InProcess(metric)), base_url="http://localhost") as client:
    assert post(client, ("large.bmp", data)).json()["results"][0]["error"] is None


def busy(client, metric, images):
  """Holds the device with one image and fills the queue with more; returns the threads' futures and their pool."""
  metric.gate.clear()
  pool = concurrent.futures.ThreadPoolExecutor(images)
  first = pool.submit(post, client, ("first.png", encoded()))
  assert metric.entered.wait(10)
  rest = [pool.submit(post, client, (f"{i}.png", encoded())) for i in range(images - 1)]
  until(lambda: client.get("/healthz").json()["unfinished"] == images)
  return [first, *rest], pool


def until(condition):
  deadline = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < deadline, "it did not happen within 10 s"
    time.sleep(0.01)


def test_a_full_queue_answers_503_and_when_to_come_back(client, metric):
  futures, pool = busy(client, metric, 4)
  answer = post(client, ("late.png", encoded()))
  assert answer.status_code == 503
  assert 1 <= int(answer.headers["Retry-After"]) <= 60
  metric.gate.set()
  assert [future.result(10).status_code for future in futures] == [200] * 4
  assert post(client, ("late.png", encoded())).status_code == 200
  pool.shutdown()


def test_a_request_that_does_not_fit_whole_leaves_the_queue_as_it_was(client, metric):
  futures, pool = busy(client, metric, 2)
  assert post(client, *(("a.png", encoded()) for _ in range(3))).status_code == 503
  assert client.get("/healthz").json()["unfinished"] == 2
  metric.gate.set()
  assert [future.result(10).status_code for future in futures] == [200] * 2
  pool.shutdown()


def test_requests_that_wait_together_are_scored_together(client, metric):
  futures, pool = busy(client, metric, 4)
  metric.gate.set()
  assert [future.result(10).json()["results"][0]["error"] for future in futures] == [None] * 4
  assert metric.calls == [1, 3]
  pool.shutdown()


def test_a_batch_holds_no_more_pixels_than_it_may(metric):
  limits = dataclasses.replace(SMALL, batch_pixels=2 * 40 * 30)
  with TestClient(create_app(InProcess(metric), limits), base_url="http://localhost") as client:
    futures, pool = busy(client, metric, 4)
    metric.gate.set()
    assert [future.result(10).status_code for future in futures] == [200] * 4
    assert metric.calls == [1, 2, 1]
    large = encoded((100, 100)), encoded()  # the first alone has more
    assert [row["error"] for row in post(client, *zip("ab", large, strict=True)).json()["results"]] == [None, None]
    assert metric.calls == [1, 2, 1, 1, 1]
    pool.shutdown()


def test_requests_that_wait_hold_no_more_bytes_than_they_may(metric):
  limits = dataclasses.replace(SMALL, file_bytes=3000, request_bytes=4000, bytes_in_flight=5000)
  with TestClient(create_app(InProcess(metric), limits), base_url="http://localhost") as client:
    padded = ("a.png", encoded() + b"\0" * 2500)
    metric.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      first = pool.submit(post, client, padded)
      assert metric.entered.wait(10)
      answer = post(client, padded)
      assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
      assert client.get("/healthz").json()["unfinished"] == 1
      metric.gate.set()
      assert first.result(10).status_code == 200
    assert post(client, padded).status_code == 200


def test_a_body_that_comes_too_slowly_is_given_up():
  async def slow():
    yield b"--x\r\n"
    await asyncio.sleep(3)

  headers = Headers({"content-type": "multipart/form-data; boundary=x"})
  with pytest.raises(Refused) as refused:
    asyncio.run(receive(slow(), headers, dataclasses.replace(SMALL, upload_seconds=0.05)))
  assert refused.value.status_code == 408 and "0.05 s" in refused.value.detail


def test_a_image_that_upsets_the_model_does_not_take_others_with_it(client, metric):
  metric.gate.clear()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(post, client, ("first.png", encoded()))
    assert metric.entered.wait(10)
    metric.gate.set()
    first.result(10)
  rows = post(client, ("a.png", encoded()), ("b.png", encoded((13, 13))), ("c.png", encoded())).json()["results"]
  assert [row["error"] is None for row in rows] == [True, False, True]
  assert "error in the server" in rows[1]["error"]
  assert "upsets" not in rows[1]["error"]


def test_many_requests_at_once_are_each_answered_right(client):
  def ask(gray):
    for _ in range(200):
      answer = post(client, (f"{gray}.png", encoded(color=gray)))
      if answer.status_code != 503:
        return answer.json()["results"][0]
      time.sleep(0.01)
    raise AssertionError("never served")

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    rows = list(pool.map(ask, range(0, 256, 8)))
  assert [round(255 * row["score"]) for row in rows] == list(range(0, 256, 8))
  assert [row["name"] for row in rows] == [f"{gray}.png" for gray in range(0, 256, 8)]


def test_scoring_that_takes_too_long_is_given_up(metric):
  limits = Limits(score_seconds=0.2)
  with TestClient(create_app(InProcess(metric), limits), base_url="http://localhost") as client:
    metric.gate.clear()
    assert post(client, ("a.png", encoded())).status_code == 504
    assert post(client, ("b.png", encoded())).status_code == 504
    metric.gate.set()
    until(lambda: client.get("/healthz").json()["unfinished"] == 0)
    assert post(client, ("c.png", encoded())).status_code == 200
  assert metric.calls == [1, 1]  # b was given up while it waited: nobody computes it


@pytest.mark.parametrize(
  ("headers", "status"),
  [
    ({}, 200),
    ({"Origin": "http://localhost:8000"}, 200),
    ({"Origin": "http://localhost:9000"}, 403),
    ({"Origin": "https://elsewhere.org"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
    ({"Host": "rebound.example:8000"}, 403),
    ({"Host": "127.0.0.2:8000"}, 200),  # as of --host=127.0.0.2
    ({"Host": "[::1]:8000"}, 200),
    ({"Host": "10.0.0.2:8000"}, 403),
    ({"Host": "127.0.0.1.rebound.example:8000"}, 403),
  ],
)
def test_other_sites_are_not_served(client, headers, status):
  assert post(client, ("a.png", encoded()), headers=headers).status_code == status


def test_a_server_for_others_answers_to_any_name_and_still_to_no_other_site(metric):
  with TestClient(create_app(InProcess(metric), SMALL, local=False), base_url="http://rated.example:8000") as client:
    assert post(client, ("a.png", encoded())).status_code == 200
    for headers in ({"Origin": "http://localhost:8000"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}):
      assert post(client, ("a.png", encoded()), headers=headers).status_code == 403


def test_every_answer_carries_the_policy_and_none_opens_it_to_others(client):
  for answer in (client.get("/"), client.get("/app.js"), client.get("/missing"), client.get("/healthz")):
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_brings_everything_along(client):
  text = "".join(client.get(path).text for path in ("/", "/style.css", "/app.js", "/viewer.js"))
  assert "//" not in text.replace("http://www.w3.org", "").split("<body>")[0]
  for address in ("https://", "http://", "@import", "innerHTML"):
    assert address not in text
  assert client.get("/../app.py").status_code == client.get("/%2e%2e/app.py").status_code == 404


def test_limits_that_contradict_each_other_are_refused():
  with pytest.raises(UserError, match="files"):
    Limits(files=8, images_waiting=4)
  with pytest.raises(UserError, match="pixels is 0"):
    Limits(pixels=0)
  with pytest.raises(UserError, match="larger than a request"):
    Limits(file_bytes=100 << 20)


STOPPED = """
from jiqa.serve.command import run
from jiqa.serve.upload import Limits
from jiqa.serve.worker import Worker
from tests.serve.images import Slow
run(Worker(Slow, 60), host="127.0.0.1", port=0, limits=Limits())
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_finishes_what_it_has_begun_when_it_is_told_to_stop(number):
  with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as server:
    watchdog = threading.Timer(60, server.kill)
    watchdog.start()
    try:
      address = server.stdout.readline().split()[1]
      answers = []
      thread = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{address}/api/score", files=[("files", ("a.png", encoded()))]))
      )
      thread.start()
      assert server.stdout.readline() == "scoring\n"
      server.send_signal(number)
      thread.join(20)
      assert answers[0].json()["results"][0]["error"] is None
      assert server.stdout.readline() == "stopped\n"
      assert server.wait(10) == 0
    finally:
      watchdog.cancel()
      server.kill()
