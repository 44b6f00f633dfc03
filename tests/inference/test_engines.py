"""Shards and images scored by the workers of an engine: Beam's local runner and Spark, also when a worker is killed."""

import contextlib
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import apache_beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that
from PIL import Image

from jiqa import beam
from tests.brightness_method import Brightness
from tests.inference import made

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEAM = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
SPARK = """
import functools, sys
from pyspark.sql import SparkSession
from jiqa.inference import shards

pairs = shards.targets([sys.argv[1]], sys.argv[2])
score = functools.partial(shards.score_in_worker, weights=sys.argv[3])
spark = SparkSession.builder.master("local[2, 4]").config("spark.ui.enabled", "false").getOrCreate()
print(spark.sparkContext.parallelize(pairs, len(pairs)).map(score).collect())
"""
MEMORY = """
import resource, sys
import jiqa
from jiqa.inference import shards

shards.score_shards(jiqa.load(sys.argv[3]), [sys.argv[1]], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


class Dying(Brightness):
  """Kills the first process that sees its fifth image, if $DIES names a file that is not there yet."""

  seen = 0

  def preprocess_eval(self, image):
    Dying.seen += 1
    dies = os.environ.get("DIES")
    if dies and Dying.seen == 5 and not os.path.exists(dies):
      pathlib.Path(dies).touch()
      os.kill(os.getpid(), signal.SIGKILL)
    return super().preprocess_eval(image)


def shards(folder, count=6, images=8):
  """(pattern, dict from shard to scores): tars of gray images, the third of each broken."""
  folder.mkdir()
  expected = {}
  for shard in range(count):
    with tarfile.open(folder / f"s-{shard}.tar", "w") as tar:
      for i in range(images):
        data = io.BytesIO()
        Image.new("L", (9, 7), 20 * shard + i).save(data, "png")
        data = data.getvalue()[: 20 if i == 2 else None]
        info = tarfile.TarInfo(f"{i:03d}.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    expected[f"s-{shard}"] = [np.nan if i == 2 else 2 * (20 * shard + i) / 255 for i in range(images)]
  return str(folder / "*.tar"), expected


def check(out, expected):
  """Every shard has all its rows, once, in its order; nothing else lies there."""
  assert sorted(path.name for path in out.iterdir() if path.suffix != ".new") == [
    f"{name}.parquet" for name in expected
  ]
  for name, scores in expected.items():
    table = pq.read_table(out / f"{name}.parquet").to_pandas()
    np.testing.assert_allclose(table.score, scores, atol=1e-6)
    assert table.key.tolist() == [f"{i:03d}" for i in range(len(scores))] and table.error[2]


def start(arguments, **environment):
  """A process in a group of its own, of which this folder's parents can be imported."""
  python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  environment = os.environ | {"PYTHONPATH": python_path, "PYSPARK_PYTHON": sys.executable} | environment
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
  return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, start_new_session=True, **pipes)


def run(arguments, **environment):
  """(what it said, exit code) of such a process, and nothing of it is left."""
  process = start(arguments, **environment)
  try:
    return process.communicate(timeout=300)[0], process.returncode
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)


def kill_all_when(path, arguments, **environment):
  """Starts a command, and kills it and all that it has started when a file is there."""
  process = start(arguments, **environment)
  try:
    deadline = time.monotonic() + 200
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
      time.sleep(0.1)
    assert path.exists()
  finally:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_images_of_a_pipeline_have_rows(brightness):
  png = [io.BytesIO(), io.BytesIO()]
  for file, gray in zip(png, (90, 30), strict=True):
    Image.new("L", (9, 7), gray).save(file, "png")
  images = [("a", png[0].getvalue()), (("b", 2), b"no image"), ("c", png[1].getvalue())]

  def check(rows):
    assert sorted(map(str, (key for key, _ in rows))) == ["('b', 2)", "a", "c"]
    rows = dict(rows)
    assert rows["a"]["score"] == pytest.approx(2 * 90 / 255, rel=1e-6) and rows["c"]["width"] == 9
    assert rows["c"]["score"] == pytest.approx(2 * 30 / 255, rel=1e-6)
    assert rows["b", 2]["score"] is None and "not an image" in rows["b", 2]["error"] and not rows["a"]["error"]

  with apache_beam.Pipeline() as pipeline:
    scored = pipeline | apache_beam.Create(images) | beam.ScoreImages(weights=str(brightness), batch_pixels=1000)
    assert_that(scored, check)


def test_shards_are_the_elements_of_a_pipeline(brightness, tmp_path, capsys):
  pattern, expected = shards(tmp_path / "s", count=2)
  assert beam.score_shards([pattern], str(tmp_path / "out"), weights=str(brightness), keep=(), sandbox=True) == 3
  check(tmp_path / "out", expected)
  capsys.readouterr()
  assert beam.score_shards([pattern], str(tmp_path / "out"), weights=str(brightness), keep=()) == 3
  assert not capsys.readouterr().err  # nothing is scored again, and the errors are known


@pytest.mark.slow
def test_two_workers_of_beam_finish_what_a_kill_of_everything_has_left(tmp_path):
  weights = made.brightness(tmp_path / "w", method=f"{__name__}:Dying")
  pattern, expected = shards(tmp_path / "s")
  score = ["-m", "jiqa.cli", "score-shards", pattern, f"--out={tmp_path / 'out'}", f"--weights={weights}", *BEAM]
  kill_all_when(tmp_path / "dies", score, DIES=str(tmp_path / "dies"))
  assert len(list((tmp_path / "out").glob("*.parquet"))) < len(expected)
  said, code = run(score)
  assert code == 3, said
  check(tmp_path / "out", expected)
  assert len(re.findall("8 rows, 1 with an error", said)) < 2 * len(expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_finishes_without_the_worker_that_was_killed(tmp_path):
  weights = made.brightness(tmp_path / "w", method=f"{__name__}:Dying")
  pattern, expected = shards(tmp_path / "s")
  said, code = run(["-c", SPARK, pattern, str(tmp_path / "out"), str(weights)], DIES=str(tmp_path / "dies"))
  assert code == 0 and (tmp_path / "dies").exists(), said
  assert str([(8, 1)] * 6) in said
  check(tmp_path / "out", expected)


@pytest.mark.slow
def test_a_killed_process_goes_on_and_its_memory_does_not_grow(tmp_path):
  weights = made.brightness(tmp_path / "w", method=f"{__name__}:Dying")
  pattern, expected = shards(tmp_path / "s")
  score = ["-m", "jiqa.cli", "score", pattern, f"--out={tmp_path / 'out'}", f"--weights={weights}"]
  said, code = run(score, DIES=str(tmp_path / "dies"))
  assert code == -signal.SIGKILL, said
  assert run(score)[1] == 3
  check(tmp_path / "out", expected)
  pattern, _ = shards(tmp_path / "few", 1, 8)
  peaks = []
  for count in (8, 800):
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "png")  # a megabyte, the sum of which would be seen
    with tarfile.open(tmp_path / f"{count}.tar", "w") as tar:
      for i in range(count):
        info = tarfile.TarInfo(f"{i}.png")
        info.size = data.tell()
        tar.addfile(info, io.BytesIO(data.getvalue()))
    said, code = run(["-c", MEMORY, str(tmp_path / f"{count}.tar"), str(tmp_path / "m"), str(weights)])
    assert code == 0, said
    peaks.append(int(said.split()[-1]))
  assert peaks[1] < peaks[0] + 150, peaks  # megabytes
