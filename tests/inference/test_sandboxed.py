"""`jiqa score --sandbox`: a bomb is a row with an error, and everything else is scored as without."""

import csv
import io
import queue
import tarfile

import pyarrow.parquet as pq
import pytest
from PIL import Image

import jiqa
from jiqa.data import sandbox
from jiqa.errors import UserError
from jiqa.inference import command, shards
from tests.data.test_sandbox import encoded, slow_jpeg
from tests.inference import made


@pytest.fixture
def metric(brightness):
  import jax

  return jiqa.load(brightness, devices=jax.devices()[:1])


@pytest.fixture
def strict(monkeypatch):
  """Decoders of little memory and time."""
  monkeypatch.setattr(sandbox, "_IDLE", queue.SimpleQueue())
  monkeypatch.setattr(sandbox, "MEMORY", 500 << 20)
  monkeypatch.setattr(sandbox, "SECONDS", 2)


def rows(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_a_bomb_and_a_file_that_takes_for_ever_are_rows(metric, tmp_path, strict):
  paths = made.files(tmp_path / "images", [(9, 7)] * 6)
  bombs = {"bomb.png": encoded((7000, 7000)), "slow.jpg": slow_jpeg(40_000)}
  for name, data in bombs.items():
    (tmp_path / "images" / name).write_bytes(data)
  code = command.score(metric, [str(tmp_path / "images")], out=tmp_path / "strict.csv", sandbox=True)
  found = {row["path"]: row for row in rows(tmp_path / "strict.csv")}
  errors = {path.rpartition("/")[2]: row["error"] for path, row in found.items() if row["error"]}
  assert code == 3 and errors.keys() == bombs.keys()
  assert "GiB of memory" in errors["bomb.png"] and "2 s of processor time" in errors["slow.jpg"]
  command.score(metric, paths, out=tmp_path / "free.csv")
  assert [found[row["path"]]["score"] for row in rows(tmp_path / "free.csv")] == [
    found[path]["score"] for path in paths
  ]


def test_members_of_shards_too(metric, tmp_path, strict):
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for name, data in (("a.png", encoded((9, 7))), ("b.png", encoded((7000, 7000))), ("c.png", encoded((9, 8)))):
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  assert shards.score_shards(metric, [str(tmp_path / "a.tar")], str(tmp_path / "out"), sandbox=True) == 3
  found = pq.read_table(tmp_path / "out" / "a.parquet").to_pylist()
  assert [row["score"] for row in found] == [0, None, 0] and "GiB of memory" in found[1]["error"]


def test_without_it_no_process_is_started_and_videos_are_refused_with_it(metric, tmp_path, monkeypatch):
  monkeypatch.setattr(sandbox, "_start", lambda: pytest.fail("a process was started"))
  monkeypatch.setattr(sandbox, "_IDLE", queue.SimpleQueue())
  Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
  assert command.score(metric, [str(tmp_path / "a.png")], out=tmp_path / "a.csv") == 0
  (tmp_path / "b.mp4").write_bytes(b"")
  with pytest.raises(UserError, match="videos"):
    command.score(metric, [str(tmp_path / "b.mp4")], out=tmp_path / "b.csv", sandbox=True)
