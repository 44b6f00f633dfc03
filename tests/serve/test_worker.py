"""The process that scores: killed when it takes too long, started anew when it is gone, and nobody else suffers."""

import asyncio
import contextlib
import os
import signal
import time

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from jiqa.errors import UserError
from jiqa.serve.app import create_app
from jiqa.serve.batcher import Batcher
from jiqa.serve.upload import Image, Limits
from jiqa.serve.worker import Lost, Worker
from tests.serve.images import Brightness, InProcess, Refusing, Slow, encoded


@contextlib.contextmanager
def working(make, seconds):
  worker = Worker(make, seconds)
  try:
    yield worker
  finally:
    worker.stop()


def pid(worker):
  return worker._process.pid


def test_a_process_scores_files_and_says_what_it_is():
  with working(Brightness, 30) as worker:
    assert (worker.name, worker.saliency, worker.scale["high"]) == ("brightness", True, 1.0)
    rows = worker.score([encoded(color=51), b"no image", encoded(color=102)], [True, False, False])
  assert [row.get("score") for row in rows] == [pytest.approx(0.2), None, pytest.approx(0.4)]
  assert rows[0]["saliency"] and "not an image" in rows[1]["error"]


def test_what_cannot_be_served_is_said_at_the_start():
  with pytest.raises(UserError, match="needs a head"):
    Worker(Refusing, 30)


def test_over_its_deadline_or_dead_it_is_lost_and_another_takes_its_place():
  with working(Slow, 5.0) as worker:
    for size, said in (((6, 6), "longer than 5 s"), ((7, 7), "ended")):
      first, started = pid(worker), time.monotonic()
      with pytest.raises(Lost, match=said):
        worker.score([encoded(size)], [False])
      assert time.monotonic() - started < 20
      worker.restart()
      assert pid(worker) != first
      with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
      assert worker.score([encoded(color=51)], [False])[0]["score"] == pytest.approx(0.2)
    os.kill(pid(worker), signal.SIGKILL)
    with pytest.raises(Lost, match="ended"):
      worker.score([encoded()], [False])


class Losing(InProcess):
  """Loses batches with an image of 6 x 6 pixels; its restarts fail as often as `failures` says."""

  def __init__(self, failures=0):
    super().__init__(Brightness())
    self.failures, self.restarts, self.batches = failures, 0, []

  def score(self, files, saliency):
    self.batches.append(len(files))
    if encoded((6, 6)) in files:
      raise Lost("took longer than 3 s")
    return super().score(files, saliency)

  def restart(self):
    self.restarts += 1
    if self.restarts <= self.failures:
      raise OSError("no memory")


def images(*sizes):
  return [Image(f"{i}.png", encoded(size, color=51), *size) for i, size in enumerate(sizes)]


def scored(worker, sizes):
  async def run():
    batcher = Batcher(worker, Limits())
    bad = Image("bad.png", encoded((6, 6)), 6, 6)
    futures = batcher.submit([bad if size == (6, 6) else images(size)[0] for size in sizes])
    rows = await asyncio.wait_for(asyncio.gather(*futures), 20)
    await asyncio.sleep(0)
    assert (batcher.status, batcher.unfinished) == ("ok", 0)
    await batcher.close()
    return rows

  return asyncio.run(run())


def test_the_images_of_a_lost_batch_are_scored_alone_and_only_the_guilty_one_fails():
  worker = Losing()
  rows = scored(worker, [(4, 4), (6, 6), (5, 5)])
  assert worker.batches == [3, 1, 1, 1] and worker.restarts == 2
  assert rows[1] == {"error": "could not be scored: took longer than 3 s"}
  assert rows[0]["score"] == rows[2]["score"] == pytest.approx(0.2)


def test_a_worker_that_cannot_be_started_is_tried_again(monkeypatch):
  monkeypatch.setattr("jiqa.serve.batcher.PAUSE", 0.01)
  worker = Losing(failures=3)
  assert "error" in scored(worker, [(6, 6)])[0] and worker.restarts == 4


def test_health_fails_from_the_deadline_until_there_is_a_worker_again():
  import threading

  from fastapi.testclient import TestClient

  class Waiting(Losing):
    go = threading.Event()

    def restart(self):
      super().restart()
      assert self.go.wait(20)

  worker = Waiting()
  with TestClient(create_app(worker), base_url="http://localhost") as client:
    assert client.get("/healthz").status_code == 200
    thread = threading.Thread(
      target=client.post, args=("/api/score",), kwargs={"files": [("f", ("a.png", encoded((6, 6))))]}
    )
    thread.start()
    deadline = time.monotonic() + 10
    while (answer := client.get("/healthz")).status_code == 200:
      assert time.monotonic() < deadline
    assert answer.json() == {"status": "restarting", "unfinished": 1}
    worker.go.set()
    thread.join(10)
    assert client.get("/healthz").json() == {"status": "ok", "unfinished": 0}


def test_a_server_that_stops_does_not_wait_for_a_batch_that_does_not_end(monkeypatch):
  monkeypatch.setattr("jiqa.serve.batcher.FAREWELL", 0.2)
  with working(Slow, 300) as worker:

    async def run():
      batcher = Batcher(worker, Limits())
      batcher.submit(images((6, 6)))
      await asyncio.sleep(0.5)
      await batcher.close()

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 20
