"""The same shards scored by one process, by Beam's local runner and by Spark, two workers each; also with kills.

    python -m benchmarks.shards --shards=50 --images=200

Makes WebDataset shards of small photographs (colours that flow into each other, as JPEG), every 50th member cut off.
Every side scores all of them with the weights that come with jiqa: one process; two with --shard=i/2 and no engine,
which is what the overhead of an engine is measured against; the DirectRunner of Beam with two worker processes; a local
Spark with two. Prints images/s from start to end and, because the start of an engine is paid once, from the first
complete shard on; processor seconds (on a busy machine they say more); the largest difference of scores from one
process. Rows that are lost or double end it. --kill ends every side with SIGKILL when a third of the shards are done,
and starts it again.
"""

import argparse
import io
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPARK = """
import functools, sys
from pyspark.sql import SparkSession
from jiqa.inference import shards

pairs = shards.targets([sys.argv[1]], sys.argv[2])
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.parallelize(pairs, len(pairs)).foreach(functools.partial(shards.score_in_worker, keep=("txt",)))
"""
BEAM = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--shards", type=int, default=50)
  parser.add_argument("--images", type=int, default=200, help="of a shard")
  parser.add_argument("--kill", action="store_true", help="kill everything once on the way")
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    for number in range(flags.shards):
      make_shard(folder / f"train-{number:03d}.tar", number, flags.images)
    reference = None
    for name, commands in sides(str(folder / "*.tar")).items():
      out = folder / name.replace(" ", "_")
      killed = flags.kill and run(commands, out, until=flags.shards // 3)
      if killed:
        print(f"{name}: killed with {len(list(out.glob('*.parquet')))} shards complete")
      before = processor_seconds()
      seconds, rate = run(commands, out)
      used = processor_seconds() - before
      scores = read(out, flags.shards, flags.images)
      reference = scores if reference is None else reference
      difference = np.nanmax(np.abs(scores - reference))
      assert (np.isnan(scores) == np.isnan(reference)).all()
      print(
        f"{name:20} {seconds:6.1f} s, {used:6.1f} processor; {rate:5.1f} images/s once under way; {scores.size} rows, "
        f"{np.isnan(scores).sum()} without a score, largest difference {difference:.1e}; load {os.getloadavg()[0]:.1f}",
        flush=True,
      )


def processor_seconds():
  """Of all processes that have ended."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def make_shard(path, seed, images):
  """A WebDataset shard of `images` photographs and captions; every 50th is cut off."""
  rng = np.random.default_rng(seed)
  with tarfile.open(path, "w") as tar:
    for i in range(images):
      file = io.BytesIO()
      colours = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((160, 120), Image.BICUBIC)
      colours.save(file, "jpeg", quality=int(rng.integers(20, 95)))
      data = file.getvalue()[: 200 if i % 50 == 17 else None]
      for name, part in ((f"{i:05d}.jpg", data), (f"{i:05d}.txt", f"caption {i}".encode())):
        info = tarfile.TarInfo(name)
        info.size = len(part)
        tar.addfile(info, io.BytesIO(part))


def sides(pattern):
  """Of every side the arguments of its processes, without the folder of results."""
  score = ["-m", "jiqa.cli", "score", pattern, "--keep=txt"]
  return {
    "one process": [score],
    "two processes": [[*score, f"--shard={i}/2"] for i in range(2)],
    "Beam, two workers": [["-m", "jiqa.cli", "score-shards", pattern, "--keep=txt", *BEAM]],
    "Spark, two workers": [["-c", SPARK, pattern]],
  }


def run(commands, out, until=None):
  """Runs the processes of a side; (seconds, images/s from the first complete shard on), or True where killed."""
  environment = os.environ | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
  begun = {path.name for path in out.glob("*.parquet")} if out.exists() else set()
  started, first, seen = time.perf_counter(), None, 0
  processes = [
    subprocess.Popen(
      [sys.executable, *command, *([str(out)] if command[0] == "-c" else [f"--out={out}"])],
      cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    for command in commands
  ]  # fmt: skip
  while any(process.poll() is None for process in processes):
    complete = list(out.glob("*.parquet")) if out.exists() else []
    if until and len(complete) >= until:
      for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
      return True
    if len(complete) > len(begun) and first is None:
      first, seen = time.perf_counter(), len(complete)
    time.sleep(0.1)
  assert {process.returncode for process in processes} <= {0, 3}, [process.returncode for process in processes]
  ended, complete = time.perf_counter(), list(out.glob("*.parquet"))
  images = sum(pq.read_metadata(path).num_rows for path in sorted(complete)[seen:])
  return ended - started, images / (ended - first) if images else float("nan")


def read(out, shards, images):
  """The scores [shards, images]; every row is there, once, in its place."""
  scores = np.empty((shards, images))
  assert sorted(path.name for path in out.glob("*.parquet")) == [f"train-{i:03d}.parquet" for i in range(shards)]
  for i, row in enumerate(scores):
    table = pq.read_table(out / f"train-{i:03d}.parquet", columns=["key", "score", "txt"]).to_pandas()
    assert table.key.tolist() == [f"{j:05d}" for j in range(images)]
    assert table.txt.tolist() == [f"caption {j}" for j in range(images)]
    row[:] = table.score
  return scores


if __name__ == "__main__":
  main()
