"""What one client, or all together, may take of the server, and what it says of itself."""

import base64
import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from fastapi.testclient import TestClient

from jiqa.serve import upload
from jiqa.serve.app import create_app
from jiqa.serve.upload import Limits
from tests.serve.images import Brightness, InProcess, encoded

SERVER = """
from jiqa.serve import command, protocol
from jiqa.serve.upload import Limits
from tests.serve.images import Brightness, InProcess
protocol.HEADER_SECONDS = 1.0
limits = Limits(file_bytes=1 << 20, request_bytes=2 << 20, bytes_in_flight=2 << 20, connections=12)
command.run(InProcess(Brightness()), host="127.0.0.1", port=0, limits=limits, access_log=True)
"""
HEAD = "POST /api/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
BODY = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + encoded() + b"\r\n--x--\r\n"


@contextlib.contextmanager
def serving():
  """(port, list of the lines that it has printed) of a server of its own."""
  with subprocess.Popen(
    [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
  ) as server:
    try:
      port, lines = int(server.stdout.readline().rpartition(":")[2]), []
      reader = threading.Thread(target=lambda: lines.extend(server.stdout))
      reader.start()
      yield port, lines
    finally:
      server.terminate()
      server.wait(60)
      reader.join(10)


def ask(port):
  with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
    connection.sendall(f"{HEAD}Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n".encode() + BODY)
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_slow_headers_are_given_up_and_declared_bytes_take_no_room():
  with serving() as (port, lines):
    opened = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(5)]
    opened[0].sendall(b"GET /healthz HT")  # and nothing more
    declared = f"{HEAD}Content-Length: {2 << 20}\r\n\r\n".encode()
    for connection in opened[1:]:
      connection.sendall(declared)
    assert " 200 OK" in ask(port) and '"score"' in ask(port)
    started = time.monotonic()
    assert opened[0].recv(100) == b"" and time.monotonic() - started < 15
    opened[0].close()
    dripping = socket.create_connection(("127.0.0.1", port), timeout=20)
    with pytest.raises(OSError):
      for _ in range(100):
        dripping.sendall(b"x")
        time.sleep(0.1)
    dripping.close()
    for connection in opened[1:]:
      connection.close()
  assert sum("POST /api/score HTTP/1.1" in line and "200" in line for line in lines) >= 2  # the access log


def test_an_idle_connection_after_an_answer_has_the_same_deadline():
  with serving() as (port, _), socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):  # headers and body may come one after the other
      answer += connection.recv(4096)
    assert b" 200 OK" in answer
    connection.sendall(b"GET /li")
    started = time.monotonic()
    assert connection.recv(100) == b"" and time.monotonic() - started < 15


def test_more_connections_than_may_be_open_are_told_so():
  with serving() as (port, _):
    opened = []
    for _ in range(12):
      opened.append(socket.create_connection(("127.0.0.1", port), timeout=20))
    assert " 503 " in ask(port)
    for connection in opened:
      connection.close()
    time.sleep(0.5)
    assert " 200 OK" in ask(port)


@pytest.fixture
def metric():
  metric = Brightness()
  yield metric
  metric.gate.set()


def post(client, **options):
  return client.post("/api/score", files=[("f", ("a.png", encoded()))], **options)


def test_a_client_has_a_limit_of_requests_and_gets_it_back(metric):
  with TestClient(create_app(InProcess(metric), Limits(requests_per_client=1)), base_url="http://localhost") as client:
    for _ in range(3):
      metric.gate.clear()
      metric.entered.clear()
      thread = threading.Thread(target=post, args=(client,))
      thread.start()
      assert metric.entered.wait(10)
      assert post(client).status_code == 429
      metric.gate.set()
      thread.join(10)
    assert post(client).status_code == 200
    assert not client.app.state.clients and client.app.state.bytes_in_flight == 0


def test_a_body_below_the_least_rate_is_given_up(metric, monkeypatch):
  import asyncio

  from starlette.datastructures import Headers

  monkeypatch.setattr(upload, "GRACE", 0.3)
  app = create_app(InProcess(metric), Limits(bytes_per_second=10_000))

  async def body(chunks, pause):
    yield b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n'
    for _ in range(chunks):
      yield b"x" * 500
      await asyncio.sleep(pause)

  async def received(chunks, pause):
    with upload.intake(app.state, "a") as counted:
      return [len(chunk) async for chunk in counted(body(chunks, pause))]

  assert asyncio.run(received(30, 0.02))[1:] == [500] * 30  # 25,000 bytes a second, for longer than the grace
  started = time.monotonic()
  with pytest.raises(TimeoutError):
    asyncio.run(received(300, 0.2))  # 2,500
  assert time.monotonic() - started < 5 and app.state.bytes_in_flight == 0
  headers = Headers({"content-type": "multipart/form-data; boundary=x"})

  async def refused():
    with upload.intake(app.state, "a") as counted:
      await upload.receive(counted(body(300, 0.2)), headers, app.state.limits)

  with pytest.raises(upload.Refused, match="less than 10,000 bytes a second"):
    asyncio.run(refused())


def test_readiness_is_not_liveness(metric):
  app = create_app(InProcess(metric), Limits(images_waiting=1, files=1))
  with TestClient(app, base_url="http://localhost") as client:
    metric.gate.clear()
    thread = threading.Thread(target=post, args=(client,))
    thread.start()
    assert metric.entered.wait(10)
    assert client.get("/readyz").json() == {"status": "full", "unfinished": 1}
    assert [client.get(path).status_code for path in ("/livez", "/healthz", "/readyz")] == [200, 200, 503]
    metric.gate.set()
    thread.join(10)
    app.state.batcher.status = "restarting"
    assert [client.get(path).status_code for path in ("/livez", "/healthz", "/readyz")] == [200, 503, 503]


@pytest.mark.parametrize(
  ("login", "status"),
  [(None, 401), (("jiqa", "s\xe9cret"), 200), (("jiqa", "secret"), 401), (("root", "s\xe9cret"), 401), (("", ""), 401)],
)
def test_a_token_guards_everything_but_the_probes(metric, login, status):
  # As browsers send it.
  said = login and base64.b64encode(":".join(login).encode()).decode()
  headers = {"Authorization": f"Basic {said}"} if login else {}
  with TestClient(create_app(InProcess(metric), token="s\xe9cret"), base_url="http://localhost") as client:
    answer = post(client, headers=headers)
    assert answer.status_code == status and len(metric.calls) == (status == 200)
    for path in ("/", "/metrics", "/api/about", "/app.js"):
      assert client.get(path, headers=headers).status_code == status
    assert (answer.headers.get("www-authenticate", "none") == "none") == (status == 200)
    assert all(client.get(path).status_code == 200 for path in ("/livez", "/readyz", "/healthz"))


def test_odd_logins_are_wrong_and_nothing_worse(metric):
  with TestClient(create_app(InProcess(metric), token="secret"), base_url="http://localhost") as client:
    for said in (b"Basic", b"Basic !", b"Bearer secret", b"\xff\xfe", b"Basic " + b"x" * 5000):
      assert client.get("/", headers={"Authorization": said}).status_code == 401


def test_metrics_count_answers_and_images(metric):
  from prometheus_client.parser import text_string_to_metric_families

  with TestClient(create_app(InProcess(metric)), base_url="http://localhost") as client:
    client.post("/api/score", files=[("f", ("a.png", encoded())), ("f", ("b.png", b"no image"))])
    client.get("/missing")
    text = client.get("/metrics").text
  samples = {
    (sample.name, *sample.labels.values()): sample.value
    for family in text_string_to_metric_families(text)
    for sample in family.samples
  }
  assert samples["jiqa_answers_total", "200"] == 1 and samples["jiqa_answers_total", "404"] == 1
  assert samples["jiqa_images_total", "scored"] == 1 and samples["jiqa_images_total", "error"] == 1
  assert samples["jiqa_score_seconds_count",] == 1 and samples["jiqa_unfinished",] == 0
