"""`jiqa serve` and the same metric behind a bare handler, under 1, 8 and 64 clients; and the server for a long time.

    python -m benchmarks.serving [--seconds=20] [--repeats=3] [--json=FILE]
    python -m benchmarks.serving --soak=100000

The bare handler is what one writes in ten lines: Starlette and uvicorn, the metric called in a thread. Both servers run
at once and take turns, each with its own connections; a client sends its next image when it has the answer to the last.
Prints milliseconds of a request (median, 99th percentile), requests a second, and the processor milliseconds that the
server's processes take for one, which say more where the machine is busy. The images are JPEGs of 96 x 96 pixels, so
that the server and not the network is measured. --soak asks `jiqa serve` alone, one image in fifty cut off, and prints
the resident memory of the process that listens and the one that scores.
"""

import argparse
import asyncio
import collections
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.drills import children, serving

CLIENTS = (1, 8, 64)
TICKS = os.sysconf("SC_CLK_TCK")


def bare():
  """Serves the metric without anything that `jiqa serve` adds: no queue, no limits, no process of its own."""
  import uvicorn
  from starlette.applications import Starlette
  from starlette.concurrency import run_in_threadpool
  from starlette.responses import JSONResponse
  from starlette.routing import Route

  import jiqa

  metric = jiqa.load()

  async def score(request):
    file = (await request.form())["f"]
    scores = await run_in_threadpool(metric, await file.read(), "return")
    return JSONResponse({"name": file.filename, "score": float(scores.score[0]), "error": scores.errors[0]})

  app = Starlette(routes=[Route("/api/score", score, methods=["POST"])])
  config = uvicorn.Config(app, port=0, log_level="warning")
  listening = config.bind_socket()
  listening.listen(config.backlog)
  print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
  uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def serving_bare():
  """(port, process) of `bare`."""
  command = [sys.executable, "-m", "benchmarks.serving", "--bare"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
      yield int(server.stdout.readline().rpartition(":")[2]), server
    finally:
      server.kill()


def photographs(count, cut_off=0):
  """Requests for JPEGs of 96 x 96 pixels, colours that flow into each other; the last `cut_off` are incomplete."""
  rng, requests = np.random.default_rng(0), []
  for number in range(count):
    file = io.BytesIO()
    colours = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 96), Image.BICUBIC)
    colours.save(file, "jpeg", quality=int(rng.integers(30, 95)))
    data = file.getvalue()[: 400 if number >= count - cut_off else None]
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n' + data + b"\r\n--x--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=x"
    head = f"POST /api/score HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    requests.append(head.encode() + body)
  return requests


async def ask(port, requests, clients, more):
  """Clients that each ask for one image after the other as long as `more()`; lists of seconds and of statuses.

  Every client has an address of its own, as clients have: the server limits the requests of one.
  """
  seconds, statuses = [], []

  async def client(number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.1.{number + 1}", 0))
    for turn in range(number, 2**62):
      if not more():
        break
      started = time.perf_counter()
      writer.write(requests[turn % len(requests)])
      head = await reader.readuntil(b"\r\n\r\n")
      length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
      await reader.readexactly(int(length))
      seconds.append(time.perf_counter() - started)
      statuses.append(int(head.split(b" ", 2)[1]))
    writer.close()

  await asyncio.gather(*map(client, range(clients)))
  return seconds, statuses


def processor_seconds(pid):
  """Of a server's processes so far."""
  fields = [pathlib.Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split() for p in (pid, *children(pid))]
  return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def compare(seconds, repeats):
  """A row for every number of clients and side; sides take turns."""
  requests, rows, found = photographs(32), [], collections.defaultdict(lambda: ([], [], []))
  with serving() as ours, serving_bare() as theirs:
    sides = {"jiqa serve": ours, "bare handler": theirs}
    for port, _ in sides.values():
      asyncio.run(ask(port, requests, 8, iter([True] * 200 + [False] * 8).__next__))  # compiles
    for _ in range(repeats):
      for clients in CLIENTS:
        for side, (port, process) in sides.items():
          started, used = time.monotonic(), processor_seconds(process.pid)
          waited, statuses = asyncio.run(
            ask(port, requests, clients, lambda started=started: time.monotonic() < started + seconds)
          )
          assert set(statuses) == {200}, collections.Counter(statuses)
          latencies, rates, processor = found[clients, side]
          latencies += waited
          rates.append(len(waited) / (time.monotonic() - started))
          processor.append((processor_seconds(process.pid) - used) / len(waited))
  for (clients, side), (latencies, rates, processor) in found.items():
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    row = {"clients": clients, "side": side, "p50_ms": p50, "p99_ms": p99, "per_second": float(np.median(rates))}
    rows.append(row | {"processor_ms": float(np.median(processor)) * 1000, "requests": len(latencies)})
  return rows


def print_comparison(rows):
  """The table, with the bare handler's figures as multiples of ours."""
  table = Table("clients", "side", "p50 ms", "p99 ms", "requests/s", "processor ms", "requests")
  shown = ("p50_ms", "p99_ms", "per_second", "processor_ms")
  for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
    for row in (ours, theirs):
      figures = [f"{row[key]:.1f}" for key in shown]
      table.add_row(str(row["clients"]), row["side"], *figures, str(row["requests"]))
    table.add_row("", "jiqa serve / bare", *[f"{ours[key] / theirs[key]:.2f}" for key in shown], "", end_section=True)
  Console(width=110).print(table)


def soak(count, clients=64, looks=40):
  """Asks `jiqa serve` so many times at full rate; rows of the memory (MB) of its two processes at intervals."""
  requests, rows, answered, started = photographs(50, cut_off=1), [], 0, time.monotonic()
  with serving() as (port, process):
    first = children(process.pid)

    def look(statuses):
      nonlocal answered
      answered += len(statuses)
      pids = process.pid, *children(process.pid)  # another than the first where it was over its deadline
      pages = [int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
      listens, scores = (round(each * os.sysconf("SC_PAGE_SIZE") / 1e6, 1) for each in pages)
      answers = {str(status): number for status, number in collections.Counter(statuses).items()}
      facts = {
        "requests": answered,
        "seconds": round(time.monotonic() - started),
        "answers": answers,
        "restarted": pids[1:] != (*first,),
      }
      rows.append({**facts, "listens_mb": listens, "scores_mb": scores, "load": os.getloadavg()[0]})
      print(json.dumps(rows[-1]), flush=True)

    look([])
    for _ in range(looks):
      more = iter([True] * (count // looks) + [False] * clients).__next__
      look(asyncio.run(ask(port, requests, clients, more))[1])
  return rows


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--seconds", type=float, default=20, help="of a turn")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--soak", type=int, metavar="N", help="requests to `jiqa serve` alone")
  parser.add_argument("--json")
  parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.bare:
    return bare()
  rows = soak(flags.soak) if flags.soak else compare(flags.seconds, flags.repeats)
  if not flags.soak:
    print_comparison(rows)
  if flags.json:
    pathlib.Path(flags.json).write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=1))


if __name__ == "__main__":
  main()
