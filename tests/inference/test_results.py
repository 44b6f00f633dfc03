"""The file of scores: rows of files that have been replaced, full disks, several processes at once."""

import csv
import datetime
import errno
import fcntl
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jiqa
from jiqa import cli
from jiqa.errors import UserError
from jiqa.evaluation import head as head_files
from jiqa.inference import command, results
from jiqa.inference.results import Results
from jiqa.weights.store import save_weights
from tests import brightness_method
from tests.inference import made

MADE_BY = {"weights": "w", "head": ""}


@pytest.fixture
def metric(brightness):
  import jax

  return jiqa.load(brightness, devices=jax.devices()[:1])


def rows(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def gray(path, value, side=4):
  Image.new("RGB", (side, side), (value,) * 3).save(path, format="BMP")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_an_image_that_was_replaced_is_scored_again(metric, tmp_path, suffix, capsys):
  paths = [str(tmp_path / f"{name}.bmp") for name in "abc"]
  for path in paths:
    gray(path, 51)
  out, again = tmp_path / f"scores{suffix}", tmp_path / "again.csv"
  gone = str(tmp_path / "gone.bmp")
  assert command.score(metric, [*paths, gone], out=out) == 3  # a missing number makes pandas' whole numbers floats
  capsys.readouterr()
  before = os.stat(paths[1])
  gray(paths[1], 204)  # as many bytes
  assert os.stat(paths[1]).st_size == before.st_size
  os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns + 10**6))
  assert command.score(metric, paths[1:], out=out) == 0
  assert (
    "2 rows are done already, also of 1 files that are not named now; 1 are scored again" in capsys.readouterr().err
  )
  assert command.score(metric, paths, out=out) == 0
  told = capsys.readouterr().err
  assert "3 rows are done already\n" in told and "0 images" in told
  frame = {".csv": "read_csv", ".json": "read_json", ".parquet": "read_parquet"}[suffix]
  import pandas as pd

  table = getattr(pd, frame)(out)
  np.testing.assert_allclose(table.score, [0.4, 1.6, 0.4], atol=1e-5)
  assert command.score(metric, paths, out=again) == 0
  for path, row in zip(paths, rows(again), strict=True):
    size, _, modified = row["file"].partition(" bytes, ")
    assert int(size) == os.stat(path).st_size
    assert datetime.datetime.fromisoformat(modified).timestamp() == pytest.approx(os.stat(path).st_mtime, abs=1e-5)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_scores_need_no_pandas_and_names_may_be_of_any_bytes(metric, tmp_path, suffix, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "pandas", None)
  paths, out = [f"{tmp_path}/{name}.bmp" for name in ("\udce4", "\\udce5", "b")], tmp_path / f"scores{suffix}"
  for path in paths[:2]:
    gray(path, 51)
  for done in (0, 2, 2):
    assert command.score(metric, paths, out=out) == 3
    told = capsys.readouterr().err
    assert f"{3 - done} image" in told and ("2 rows are done" in told) == bool(done)
  read = results._read_csv if suffix == ".csv" else results._read_final
  assert [row["path"] for row in read(out)] == paths
  assert [row["width"] for row in read(out)] == ["4", "4", ""]
  if suffix != ".csv":
    assert results.typed("path", paths) == [results.printable(path) for path in paths]


def test_parquet_without_pyarrow_is_refused_before_anything_is_scored(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(
    UserError, match=r"--out=.*a\.parquet: Parquet needs pyarrow: pip install 'pyarrow>=17', or .*csv"
  ):
    results.check(tmp_path / "a.parquet")
  results.check(tmp_path / "a.json")


def test_one_that_was_replaced_by_something_unreadable_has_an_error(metric, tmp_path):
  path, out = str(tmp_path / "a.bmp"), tmp_path / "scores.csv"
  gray(path, 51)
  command.score(metric, [path], out=out)
  pathlib.Path(path).write_bytes(b"no image")
  assert command.score(metric, [path], out=out) == 3
  (row,) = rows(out)
  assert row["error"] and not row["score"]


def test_overwrite_keeps_nothing(metric, tmp_path):
  paths, out = made.files(tmp_path / "images", [(5, 5)] * 3), tmp_path / "scores.csv"
  out.write_text("image,mos\na.png,3\n")
  with pytest.raises(UserError, match="holds something else"):
    command.score(metric, paths, out=out)
  command.score(metric, paths, out=out, overwrite=True)
  assert [row["path"] for row in rows(out)] == paths
  command.score(metric, paths[:1], out=out, overwrite=True)
  assert [row["path"] for row in rows(out)] == paths[:1]


class Full:
  """A file on a disk that is full after some bytes."""

  def __init__(self, file, room):
    self._file, self._room = file, room

  def write(self, data):
    self._file.write(data[: self._room])
    self._room -= len(data)

  def flush(self):
    self._file.flush()
    if self._room < 0:
      raise OSError(errno.ENOSPC, "No space left on device")

  def close(self):
    self.flush()


def test_a_full_disk_is_said_and_the_lock_is_released(metric, tmp_path, monkeypatch):
  paths, out = made.files(tmp_path / "images", [(5, 5)] * 8), tmp_path / "scores.csv"
  opened = open

  def almost_full(path, mode):
    file = opened(path, mode)
    return Full(file, 700) if str(path) == str(out) else file

  monkeypatch.setattr(results, "open", almost_full, raising=False)
  with pytest.raises(UserError, match=r"scores\.csv: cannot be written \(.*No space left.*same command again"):
    command.score(metric, paths, out=out)
  monkeypatch.undo()
  assert not out.with_name("scores.csv.lock").exists()
  output = Results(out, {"weights": metric.weights_sha256, "head": ""})
  assert 0 < len(output.done) < 8
  output.close()
  assert command.score(metric, paths, out=out) == 0 and len(rows(out)) == 8


def test_a_lock_that_was_removed_while_it_was_opened_locks_nothing(tmp_path, monkeypatch):
  first = Results(tmp_path / "scores.csv", MADE_BY)
  flock, holders = fcntl.flock, []

  def after_the_first_has_ended(*arguments):
    if not holders:
      first.close()
      holders.append(Results.__new__(Results))
      monkeypatch.setattr(fcntl, "flock", flock)
      holders[0].__init__(tmp_path / "scores.csv", MADE_BY)
    return flock(*arguments)

  monkeypatch.setattr(fcntl, "flock", after_the_first_has_ended)
  with pytest.raises(UserError, match="another process is writing it"):
    Results(tmp_path / "scores.csv", MADE_BY)
  holders[0].close()


RACE = """
import fcntl, os, pathlib, sys, time
from jiqa.errors import UserError
from jiqa.inference import results
path, inside, end, held = pathlib.Path(sys.argv[1]), sys.argv[2], time.monotonic() + 2, 0
while time.monotonic() < end:
  try:
    lock = results._locked(path)
  except UserError:
    continue
  os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another is inside
  os.unlink(inside)
  held += 1
  pathlib.Path(lock.name).unlink(missing_ok=True)
  lock.close()
print(held)
"""


def test_of_many_processes_one_holds_the_lock(tmp_path):
  command = [sys.executable, "-c", RACE, str(tmp_path / "scores.csv"), str(tmp_path / "inside")]
  running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
  told = [process.communicate(timeout=120) for process in running]
  assert all(process.returncode == 0 for process in running), told
  assert sum(int(held) for held, _ in told) > 50


def test_scores_that_are_no_numbers_are_errors(metric, tmp_path, capsys):
  paths, out = made.files(tmp_path / "images", [(5, 5)] * 2), tmp_path / "scores.csv"
  network = metric.models[0]
  run = network.run
  network.run = lambda *call: {**run(*call), "score": np.float32([np.nan])}
  assert command.score(metric, paths, out=out) == 3
  assert all("score not finite" in row["error"] and not row["score"] for row in rows(out))
  with pytest.raises(UserError, match=r"0000\.png: score not finite"):
    metric(paths[0])
  network.run = run
  assert command.score(metric, paths, out=out) == 0
  assert not any(row["error"] for row in rows(out))


def test_weights_and_heads_that_are_not_finite_are_refused_when_they_are_loaded(weights, tmp_path):
  card = {"method": brightness_method.NAME, "config": {"method": brightness_method.NAME, "batch_size": 1}}
  save_weights(tmp_path / "nan", {"slope": np.float32(np.nan)}, {}, card)
  with pytest.raises(UserError, match=r"weights\.safetensors: params/slope holds values that are not finite"):
    jiqa.load(tmp_path / "nan")
  good = head_files.load(weights / "head.safetensors")
  arrays = {name: getattr(good, name) for name in head_files.ARRAYS}
  broken = {**arrays, "scale": np.where(np.arange(len(good.scale)) == 3, np.inf, good.scale)}
  with pytest.raises(ValueError, match="scale not finite"):
    head_files.Head(**broken, card={})
  import safetensors.numpy

  safetensors.numpy.save_file(broken, tmp_path / "head.safetensors", {"card": "{}"})
  np.savez(tmp_path / "heads_a.npz", **{name: x[None] for name, x in broken.items()}, alpha=[1.0])
  for name in ("head.safetensors", "heads_a.npz"):
    with pytest.raises(UserError, match=rf"{name}: holds no head.*scale not finite"):
      jiqa.load(weights, head=tmp_path / name)


def test_the_command_takes_overwrite(brightness, tmp_path):
  path, out = made.files(tmp_path / "images", [(5, 5)])[0], tmp_path / "scores.csv"
  out.write_text("image,mos\n")
  cli.app(["score", path, f"--weights={brightness}", f"--out={out}", "--overwrite"], standalone_mode=False)
  assert len(rows(out)) == 1


def test_names_that_are_formulas_are_written_as_text_and_read_back(metric, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = ["=1+1.bmp", "-a.bmp", "+b.bmp", "@c.bmp", "'=d.bmp", "'e.bmp", "f=g.bmp"]
  for name in names:
    gray(name, 51)
  # A list keeps its names as they are; on a command line @ is a list.
  assert command.score(metric, [f"./{name}" if name[0] == "@" else name for name in names], out="scores.csv") == 0
  paths = [row["path"] for row in rows("scores.csv")]
  assert paths == ["'=1+1.bmp", "'-a.bmp", "'+b.bmp", "./@c.bmp", "''=d.bmp", "'e.bmp", "f=g.bmp"]
  output = Results("scores.csv", {"weights": metric.weights_sha256, "head": ""})
  assert output.done == {*names, "./@c.bmp"} - {"@c.bmp"}
  output.close()
