"""`jiqa score`: rows for everything, through kills, broken files and several processes."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import jiqa
from jiqa import cli
from jiqa.errors import UserError
from jiqa.inference import command
from jiqa.inference.metric import Metric
from jiqa.inference.results import Results
from tests.inference import made

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = [
  "path", "score", "brightness", "width", "height", "seconds", "file", "weights", "head", "error",
]  # fmt: skip


@pytest.fixture
def metric(brightness):
  import jax

  return jiqa.load(brightness, devices=jax.devices()[:1])


def rows(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_a_row_for_everything_in_the_order_of_the_names(metric, tmp_path, capsys):
  paths = made.files(tmp_path / "images", [(9, 7)] * 40)
  broken = paths[3::20]
  for path in broken:
    pathlib.Path(path).write_bytes(pathlib.Path(path).read_bytes()[:60])
  gone = str(tmp_path / "gone.png")
  out = tmp_path / "new/scores.csv"
  assert command.score(metric, [gone, str(tmp_path / "images")], out=out) == command.UNREADABLE == 3
  found = rows(out)
  assert list(found[0]) == COLUMNS and [row["path"] for row in found] == [gone, *paths]
  bad = {row["path"]: row["error"] for row in found if row["error"]}
  assert set(bad) == {gone, *broken}
  assert all(error.startswith(path) for path, error in bad.items())
  for row in found:
    if row["error"]:
      assert row["score"] == row["width"] == ""
      continue
    mean = np.asarray(Image.open(row["path"])).mean() / 255
    assert float(row["score"]) == pytest.approx(2 * mean, abs=1e-5)
    assert float(row["brightness"]) == pytest.approx(mean, abs=1e-5)
    assert (row["width"], row["height"], row["weights"]) == ("7", "9", metric.weights_sha256)
    assert float(row["seconds"]) > 0
  told = capsys.readouterr().err
  assert "41 images in" in told and "images/s, 3 unreadable" in told and f"unreadable: {gone}: no such file" in told
  assert [path.name for path in out.parent.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_again_means_what_is_missing(metric, tmp_path, suffix, monkeypatch, capsys):
  paths = made.files(tmp_path / "images", [(5, 5)] * 12)
  content = pathlib.Path(paths[4]).read_bytes()
  pathlib.Path(paths[4]).write_bytes(b"broken")
  out = tmp_path / f"scores{suffix}"
  assert command.score(metric, paths[:8], out=out) == 3
  pathlib.Path(paths[4]).write_bytes(content)
  asked = []
  stream = metric.stream
  monkeypatch.setattr(metric, "stream", lambda items, threads: stream(_noting(items, asked), threads))
  assert command.score(metric, paths, out=out) == 0
  assert asked == [paths[4], *paths[8:]]
  assert "7 rows are done already" in capsys.readouterr().err
  read = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}[suffix]
  table = read(out)
  assert table.path.tolist() == paths and list(table.columns) == COLUMNS
  np.testing.assert_allclose(table.score, [2 * np.asarray(Image.open(p)).mean() / 255 for p in paths], atol=1e-5)
  assert table.width.tolist() == [5] * 12 and table.weights.tolist() == [metric.weights_sha256] * 12
  assert table.width.dtype.kind == "i" and table.score.dtype.kind == "f"
  if suffix == ".json":  # pandas makes whole numbers of 5.0
    assert all(type(row["width"]) is int and type(row["score"]) is float for row in json.loads(out.read_text()))
  asked.clear()
  assert command.score(metric, paths, out=out) == 0 and asked == []
  assert read(out).equals(table)


def _noting(items, asked):
  for item in items:
    asked.append(item.name)
    yield item


def test_rows_of_other_weights_are_left_alone(metric, brightness, tmp_path):
  import jax

  paths, out = made.files(tmp_path / "images", [(5, 5)] * 2), tmp_path / "scores.csv"
  command.score(metric, paths, out=out)
  before = out.read_bytes()
  other = jiqa.load(made.brightness(tmp_path / "other", slope=3.0), devices=jax.devices()[:1])
  with pytest.raises(UserError, match=rf"scores.csv: holds scores of other weights .*{metric.weights_sha256}.*--out"):
    command.score(other, paths, out=out)
  assert out.read_bytes() == before
  out.write_text("image,mos\na.png,3\n")
  with pytest.raises(UserError, match="holds something else than scores"):
    command.score(metric, paths, out=out)
  assert out.read_text() == "image,mos\na.png,3\n"


def test_rows_of_another_head_are_left_alone(weights, tmp_path):
  import jax

  first = jiqa.load(weights, devices=jax.devices()[:1])
  named = pathlib.Path("head.safetensors")
  other = Metric(first.models, made.head({}, seed=1), named)
  paths = made.files(tmp_path / "images", [(9, 9)] * 2)
  for suffix in (".csv", ".json"):
    out = tmp_path / f"scores{suffix}"
    assert command.score(first, paths[:1], out=out) == 0
    before = out.read_bytes()
    for head, said in ((other, rf"{first.head_sha256}; these are {other.head_sha256}"), (None, "these are none")):
      metric = head or Metric(first.models)
      metric.check_scores = lambda: None
      with pytest.raises(UserError, match=rf"scores{suffix}: holds scores of other head .*{said}"):
        command.score(metric, paths, out=out)
    assert out.read_bytes() == before
    same = Metric(first.models, made.head({}), named)  # other objects, the same numbers
    assert command.score(same, paths, out=out) == 0


def test_refused_outputs(metric, tmp_path):
  paths = made.files(tmp_path / "images", [(5, 5)])
  with pytest.raises(UserError, match=r"scores.txt: expected a name that ends in .csv, .json, .parquet"):
    command.score(metric, paths, out=tmp_path / "scores.txt")
  with pytest.raises(UserError, match=r"is a folder; expected a file"):
    command.score(metric, paths, out=tmp_path)
  with pytest.raises(UserError, match=r"written to files only"):
    command.score(metric, paths, out="gs://bucket/scores.csv")
  with pytest.raises(UserError, match=r"its folder cannot be made"):
    command.score(metric, paths, out=f"{paths[0]}/scores.csv")
  (tmp_path / "notes.csv").write_text("one line that is no score")
  with pytest.raises(UserError, match=r"notes.csv: holds something else than scores"):
    command.score(metric, paths, out=tmp_path / "notes.csv")
  assert (tmp_path / "notes.csv").read_text() == "one line that is no score"
  (tmp_path / "bad.json").write_text("[{]")
  with pytest.raises(UserError, match=r"bad.json: holds something else than scores"):
    command.score(metric, paths, out=tmp_path / "bad.json")
  first = Results(tmp_path / "busy.csv", {"weights": "w", "head": ""})
  with pytest.raises(UserError, match=r"busy.csv: another process is writing it"):
    Results(tmp_path / "busy.csv", {"weights": "w", "head": ""})
  first.close()


def test_a_line_that_was_cut_off_is_scored_again(metric, tmp_path):
  paths, out = made.files(tmp_path / "images", [(5, 5)] * 4), tmp_path / "scores.csv"
  command.score(metric, paths, out=out)
  whole = out.read_bytes()
  for cut in (1, 20, len(whole.splitlines()[-1]) + 5, len(whole) - 3):
    out.write_bytes(whole[:-cut])
    command.score(metric, paths, out=out)
    assert [row["path"] for row in rows(out)] == paths and not any(row["error"] for row in rows(out))


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_names_that_are_no_text_survive(metric, tmp_path, suffix, capsys):
  path = os.fsdecode(os.fsencode(tmp_path) + b"/\xe4.png")
  Image.fromarray(made.images([(4, 4)])[0]).save(path)
  out = tmp_path / f"scores{suffix}"
  assert command.score(metric, [path], out=out) == 0
  if suffix == ".csv":
    assert b"/\xe4.png," in out.read_bytes()
    assert command.score(metric, [path], out=out) == 0 and len(out.read_bytes().splitlines()) == 2
  capsys.readouterr()
  assert command.score(metric, [path]) == 0
  assert capsys.readouterr().out.endswith("\\udce4.png\n")


def test_odd_names_survive(metric, tmp_path):
  names = ["a,b.png", 'quo"te.png', "new\nline.png", "re\rturn.png", "ümläut.png", " space .png"]
  paths = [str(tmp_path / name) for name in names]
  for path in paths:
    Image.fromarray(made.images([(4, 4)])[0]).save(path)
  out = tmp_path / "scores.csv"
  assert command.score(metric, paths, out=out) == 0
  assert [row["path"] for row in rows(out)] == paths
  assert command.score(metric, [*paths, paths[0]], out=out) == 0 and len(rows(out)) == len(paths)


def test_shards_write_files_of_their_own(metric, tmp_path):
  paths, found = made.files(tmp_path / "images", [(5, 5)] * 7), []
  for i in range(3):
    assert command.score(metric, paths, out=tmp_path / "scores.csv", shard=f"{i}/3") == 0
    found += [row["path"] for row in rows(tmp_path / f"scores-{i}-of-3.csv")]
  assert sorted(found) == paths


def test_printed_in_the_order_of_the_names(metric, tmp_path, capsys):
  # The small one waits for a batch of its own.
  paths = made.files(tmp_path, [(5, 5), (200, 200), (5, 5), (200, 200)])
  command.score(metric, [*paths, str(tmp_path / "gone.png")])
  printed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
  assert [path for _, path in printed] == paths
  assert float(printed[0][0]) == pytest.approx(2 * np.asarray(Image.open(paths[0])).mean() / 255, abs=1e-4)


def test_kill_nine_in_the_middle_of_a_thousand(brightness, tmp_path):
  paths = made.files(tmp_path / "images", [(6 + i % 3, 8) for i in range(1000)])
  for path in paths[7::20]:
    pathlib.Path(path).write_bytes(b"no image")
  out = tmp_path / "scores.csv"
  # Slow enough that it is in the middle when it is killed.
  code = (
    "import time; from tests.brightness_method import Brightness\n"
    "views = Brightness.preprocess_eval\n"
    "Brightness.preprocess_eval = lambda self, image: (time.sleep(0.002), views(self, image))[1]\n"
    "from jiqa.cli import main; main()"
  )
  arguments = [
    sys.executable,
    "-c",
    code,
    "score",
    str(tmp_path / "images"),
    f"--weights={brightness}",
    f"--out={out}",
  ]

  def process():
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)

  done = 0
  for _ in range(2):
    running = process()
    try:
      _wait(lambda done=done: out.exists() and out.read_bytes().count(b"\n") > done + 150, running)
    finally:
      os.kill(running.pid, signal.SIGKILL)
      running.communicate()
    done = len([row for row in rows(out) if row["score"]])
    assert 100 < done < 950
  last = process()
  told = last.communicate(timeout=240)[1]
  assert last.returncode == 3, told
  found = rows(out)
  assert [row["path"] for row in found] == paths
  assert [row["path"] for row in found if row["error"]] == paths[7::20]
  for row in found[:7]:
    assert float(row["score"]) == pytest.approx(2 * np.asarray(Image.open(row["path"])).mean() / 255, abs=1e-5)


def _wait(ready, running, seconds=120):
  end = time.monotonic() + seconds
  while not ready():
    assert running.poll() is None, running.communicate()[1]
    assert time.monotonic() < end
    time.sleep(0.01)


def test_the_commands(weights, tmp_path, capsys, monkeypatch):
  path = made.files(tmp_path)[0]
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])
  cli.app(["card", f"--weights={weights}", "--json"], standalone_mode=False)
  assert json.loads(capsys.readouterr().out)["score"]["range"] == [0, 100]
  cli.app(["card", f"--weights={weights}"], standalone_mode=False)
  assert "higher is better, 0 to 100" in capsys.readouterr().out
  assert cli.app(["score", path, f"--weights={weights}"], standalone_mode=False) in (None, 0)
  told = capsys.readouterr()
  assert told.out.split()[1] == path
  assert "(reiqa)" in told.err and "higher is better, about 0 to 100" in told.err
  with pytest.raises(UserError, match=r"a score needs a head. Fit one"):
    cli.app(["score", path, f"--weights={made.weights(tmp_path / 'w', with_head=False)}"], standalone_mode=False)


@pytest.mark.parametrize("model, card", [(None, "`jiqa card`"), ("reiqa-small", "`jiqa card reiqa-small`")])
def test_weights_of_the_package_are_announced_with_their_card(metric, model, card, capsys):
  command.announce(metric, shipped=True, model=model)
  assert f"{card} says how good they are" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["score", "fit", "export", "card", "export-weights"])
def test_every_help_has_an_example(name):
  import typer

  found = typer.main.get_command(cli.app).commands[name]
  assert f"jiqa {name}" in found.help


def test_rows_stand_in_the_order_of_the_names_and_frames_in_that_of_their_video():
  paths = ["b.mp4#frame=10", "a.png", "b.mp4#frame=9", "c.png", "b.mp4", "b.mp4#frame=0"]
  assert sorted(paths, key=command._order(["c.png", "b.mp4", "a.png"])) == [
    "c.png", "b.mp4", "b.mp4#frame=0", "b.mp4#frame=9", "b.mp4#frame=10", "a.png",
  ]  # fmt: skip


def test_what_is_stopped_keeps_its_rows_and_says_how_to_go_on(metric, tmp_path, monkeypatch, capsys):
  paths, out = made.files(tmp_path / "images", [(9, 7)] * 6), tmp_path / "scores.csv"
  stream = metric.stream

  def interrupted(items, threads=None):
    for count, prediction in enumerate(stream(items, threads)):
      if count == 4:
        raise KeyboardInterrupt
      yield prediction

  with monkeypatch.context() as patched:
    patched.setattr(metric, "stream", interrupted)
    for options, kept in (({"out": out}, f"{out} keeps the rows that are done"), ({}, "nothing is kept")):
      with pytest.raises(SystemExit) as ended:
        command.score(metric, paths, **options)
      assert ended.value.code == 130 and kept in capsys.readouterr().err
  assert len(rows(out)) == 4
  assert command.score(metric, paths, out=out) == 0 and [row["path"] for row in rows(out)] == paths


def test_missing_files_are_refused_before_anything_is_loaded(tmp_path, monkeypatch):
  monkeypatch.setattr(command, "load", None)
  gone = [str(tmp_path / name) for name in ("a.png", "b.png")]
  with pytest.raises(UserError, match=r"a\.png: no such file, and none of 1 others"):
    command.score_files(gone, out=tmp_path / "scores.csv")
  with pytest.raises(TypeError):  # one is there: the metric is loaded
    command.score_files([gone[0], str(tmp_path)])


def test_keep_without_shards_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(command, "load", None)
  with pytest.raises(UserError, match=r"--keep=url,txt: .* these are no shards"):
    command.score_files(made.files(tmp_path), out=tmp_path / "scores.csv", keep=["url", "txt"])
