"""Drills: what goes wrong on machines and networks, done on purpose, and what came of it.

    python -m benchmarks.drills [NAME ...] [--json=FILE]

Every drill starts the commands that users start, with the weights that come with the package, in a folder of its own.
Prints a table; the exit status is the number of drills that were not survived.
"""

import argparse
import contextlib
import csv
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

JIQA = (sys.executable, "-m", "jiqa.cli")
HEAD = "POST /api/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


def jiqa(*arguments, **options):
  """A finished `jiqa` command, output as text."""
  options = {"capture_output": True, "text": True, "timeout": 600, "check": False, **options}
  return subprocess.run([*JIQA, *map(str, arguments)], **options)


def photos(folder, count, side=96):
  """Files of noise; their paths."""
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for i in range(count):
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{i:04d}.png")
  return sorted(folder.iterdir())


def scores(path):
  """dict from path to score of a CSV of scores."""
  with open(path, newline="") as file:
    return {row["path"]: row["score"] for row in csv.DictReader(file)}


def survived(done, status, *texts):
  """Raises unless a command ended with a status, these words and without a traceback."""
  assert done.returncode == status, f"exit status {done.returncode}: {done.stderr[-300:]}"
  assert "Traceback" not in done.stderr, done.stderr[-300:]
  for text in texts:
    assert text in done.stderr + done.stdout, f"{text!r} is not said: {done.stderr[-300:]}"


def killed_scoring(folder):
  """kill -9 at five random moments of `jiqa score`; the same command then gives what it gives undisturbed."""
  photos(folder / "images", 400)
  whole, out = folder / "whole.csv", folder / "scores.csv"
  survived(jiqa("score", folder / "images", f"--out={whole}"), 0)
  kills = 0
  for rows in sorted(random.sample(range(380), 5)):
    running = subprocess.Popen([*JIQA, "score", folder / "images", f"--out={out}"], stderr=subprocess.DEVNULL)
    while running.poll() is None and (out.read_bytes().count(b"\n") if out.exists() else 0) < rows:
      time.sleep(0.01)
    kills += running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.wait()
  survived(jiqa("score", folder / "images", f"--out={out}"), 0)
  assert kills and scores(out) == scores(whole)
  return f"{kills} of 5 hit; all {len(scores(out))} rows as undisturbed"


def full_disk(folder):
  """Files may not grow beyond 4 kB: `jiqa score` says so, and goes on once they may."""
  photos(folder / "images", 60)
  out = folder / "scores.csv"
  limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1)); import sys; sys.argv = {['jiqa', 'score', str(folder / 'images'), f'--out={out}']!r}; from jiqa.cli import main; main()"  # noqa: E501
  environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
  done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, env=environment, check=False)
  survived(done, 2, "cannot be written", "same command again")
  assert not out.with_name(out.name + ".lock").exists()
  kept = len(scores(out)) if out.exists() else 0
  survived(jiqa("score", folder / "images", f"--out={out}"), 0)
  assert len(scores(out)) == 60
  return f"said in one line, {kept} rows kept, 60 after the same command"


def two_on_one_file(folder):
  """Two commands with one --out: one writes, the other is refused."""
  photos(folder / "images", 200)
  command = [*JIQA, "score", str(folder / "images"), f"--out={folder / 'scores.csv'}"]
  both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
  stderr = [process.communicate()[1] for process in both]
  assert sorted(process.returncode for process in both) in ([0, 0], [0, 2])
  assert not any("Traceback" in text for text in stderr)
  assert len(scores(folder / "scores.csv")) == 200
  return "one refused" if any(process.returncode for process in both) else "one after the other"


def replaced_image(folder):
  """An image replaced under its name is scored again."""
  paths, out = photos(folder / "images", 3), folder / "scores.csv"
  survived(jiqa("score", folder / "images", f"--out={out}"), 0)
  before = scores(out)[str(paths[1])]
  Image.new("RGB", (96, 96), (200, 30, 90)).save(paths[1])
  survived(jiqa("score", folder / "images", f"--out={out}"), 0, "1 are scored again")
  assert scores(out)[str(paths[1])] != before
  return f"{before} became {scores(out)[str(paths[1])]}"


def odd_files(folder):
  """Empty, cut off, thin, huge, of no format, links to nowhere: a row with a reason each."""
  names = photos(folder / "images", 1)
  whole = names[0].read_bytes()
  odd = {
    "empty": b"",
    "cut": whole[:900],
    "text": b"hello",
    "magic": b"\x89PNG\r\n\x1a\n",
    "bmp": b"BM",
    "zip": b"PK\3\4",
  }
  odd |= {"thin": _png(50_000_000, 1), "huge": _png(60_000, 60_000), "nested": b"[" * 10**6, "noise": os.urandom(5000)}
  for name, data in odd.items():
    (folder / "images" / f"{name}.png").write_bytes(data)
  done = jiqa("score", folder / "images", f"--out={folder / 'scores.csv'}")
  survived(done, 3)
  empty = sum(not score for score in scores(folder / "scores.csv").values())
  assert empty == len(odd), f"{empty} of {len(odd)} have an error"
  return f"{len(odd)} kinds, each with a reason; the good one is scored"


def _png(width, height):
  chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
  )


def thin_images(folder):
  """6000 x 1 and 30,000 x 10 pixels take seconds, not the machine."""
  for size in ((6000, 1), (30_000, 10)):
    Image.new("RGB", size, (10, 80, 3)).save(folder / f"{size[0]}.png")
  started = time.monotonic()
  survived(jiqa("score", folder, "--out", folder / "scores.csv"), 0)
  return f"both in {time.monotonic() - started:.0f} s, start and compilation included"


@contextlib.contextmanager
def serving(*options):
  """(port, process) of `jiqa serve`."""
  command = [*JIQA, "serve", "--port=0", *options]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
    try:
      yield int(server.stdout.readline().rpartition(":")[2]), server
    finally:
      server.kill()


def ask(port, data, path="/api/score"):
  """(status, body) of a request; with data an upload of one file."""
  body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + data + b"\r\n--x--\r\n"
  headers = {"Content-Type": "multipart/form-data; boundary=x"}
  request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body if data else None, headers)
  try:
    with urllib.request.urlopen(request, timeout=300) as answer:
      return answer.status, answer.read()
  except urllib.error.HTTPError as error:
    return error.code, error.read()


def dead_worker(folder):
  """The process that scores is killed: one image fails, health says so, the next is scored."""
  (path,) = photos(folder / "images", 1)
  with serving() as (port, server):
    assert ask(port, path.read_bytes())[0] == 200
    for child in children(server.pid):
      os.kill(child, signal.SIGKILL)
    status, answer = ask(port, path.read_bytes())
    assert "the process that scores ended" in answer.decode() or status == 503, answer
    deadline = time.monotonic() + 300
    while ask(port, b"", "/healthz")[0] != 200:
      assert time.monotonic() < deadline, "not healthy again"
      time.sleep(0.5)
    status, answer = ask(port, path.read_bytes())
    assert status == 200 and json.loads(answer)["results"][0]["score"] is not None
  return "one image failed; another process took its place"


def children(pid):
  """Processes of a parent that compute (Python's resource tracker is not one)."""
  pids = []
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):
      if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
        if b"spawn_main" in (path / "cmdline").read_bytes():
          pids.append(int(path.name))
  return pids


def idle_connections(folder):
  """50 connections with slow headers and 8 that declare 64 MiB and send nothing: others are served, the slow closed."""
  (path,) = photos(folder / "images", 1)
  with serving() as (port, _):
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    declared = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    for connection in slow:
      connection.sendall(b"GET / HT")
    for connection in declared:
      connection.sendall(f"{HEAD}Content-Length: {64 << 20}\r\n\r\n".encode())
    started = time.monotonic()
    assert ask(port, path.read_bytes())[0] == 200
    served = time.monotonic() - started
    for connection in slow:
      connection.settimeout(60)
      assert connection.recv(1) == b"", "a slow connection is still open"
    return f"served in {served:.1f} s; slow headers closed after {time.monotonic() - started:.0f} s"


def many_requests(folder, requests=2000, clients=64):
  """2,000 requests of 64 clients, as fast as they come; memory before and after."""
  (path,) = photos(folder / "images", 1)
  data, statuses, lock = path.read_bytes(), [], threading.Lock()
  with serving() as (port, server):
    ask(port, data)
    before = _memory(server.pid)

    def client():
      for _ in range(requests // clients):
        status, _ = ask(port, data)
        with lock:
          statuses.append(status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.monotonic()
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    rate, after = len(statuses) / (time.monotonic() - started), _memory(server.pid)
  counts = {status: statuses.count(status) for status in sorted(set(statuses))}
  assert set(counts) <= {200, 429, 503} and counts.get(200, 0) > 0, counts
  return f"{counts}, {rate:.0f} requests/s, {before:.0f} -> {after:.0f} MB"


def _memory(pid):
  """Resident megabytes of a process and its children."""
  pages = sum(int(pathlib.Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (pid, *children(pid)))
  return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def stop_while_busy(folder):
  """SIGTERM while a large image is scored: the server ends within 40 s."""
  Image.effect_noise((6000, 6000), 60).convert("RGB").save(folder / "large.jpg")
  data = (folder / "large.jpg").read_bytes()
  with serving() as (port, server):

    def client():
      with contextlib.suppress(OSError):  # the server may end before it answers
        ask(port, data)

    threading.Thread(target=client, daemon=True).start()
    time.sleep(2)
    started = time.monotonic()
    server.terminate()
    server.wait(60)
    seconds = time.monotonic() - started
  assert seconds < 45, f"{seconds:.0f} s"
  return f"ended after {seconds:.1f} s"


DRILLS = (
  killed_scoring, full_disk, two_on_one_file, replaced_image, odd_files, thin_images, dead_worker, idle_connections,
  many_requests, stop_while_busy,
)  # fmt: skip


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(drill.__name__ for drill in DRILLS)}")
  parser.add_argument("--json")
  flags = parser.parse_args()
  rows = []
  for drill in DRILLS:
    if flags.names and drill.__name__ not in flags.names:
      continue
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="jiqa_drill_")), time.monotonic()
    try:
      survives, outcome = True, drill(folder)
    except Exception as error:
      survives, outcome = False, f"{type(error).__name__}: {error}"
    finally:
      shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started
    rows.append({"drill": drill.__name__, "survived": survives, "outcome": outcome, "seconds": round(seconds, 1)})
    print(f"{drill.__name__}: {'survived' if survives else 'NOT SURVIVED'}, {outcome}", file=sys.stderr)
  table = Table("drill", "survived", "outcome", "seconds")
  for row in rows:
    table.add_row(row["drill"], "yes" if row["survived"] else "NO", row["outcome"], f"{row['seconds']:.0f}")
  Console(width=140).print(table)
  if flags.json:
    pathlib.Path(flags.json).write_text(json.dumps({"rows": rows}, indent=1))
  sys.exit(sum(not row["survived"] for row in rows))


if __name__ == "__main__":
  main()
