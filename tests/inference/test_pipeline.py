"""What `jiqa score` writes is what evaluate, gmad and realign read, joined with labels as their authors name images."""

import json
import os
import pathlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

import jiqa
from jiqa import cli
from jiqa.errors import UserError
from jiqa.evaluation import tables
from jiqa.inference import command
from tests.inference import made

COUNT = 24


@pytest.fixture
def scored(brightness, tmp_path, monkeypatch):
  """Scores of gray images in photos/scene/, one damaged, as a.csv and b.json; labels.csv as BIQ2021 writes them."""
  import jax

  monkeypatch.chdir(tmp_path)
  os.makedirs("photos/scene")
  grays = np.random.default_rng(3).permutation(COUNT) * 10
  names = [f"{i}.png" for i in range(COUNT)]
  for name, gray in zip(names, grays, strict=True):
    Image.new("RGB", (9, 7), (int(gray),) * 3).save(f"photos/scene/{name}")
  pathlib.Path("photos/scene/damaged.png").write_bytes(b"\x89PNG")
  noisy = made.brightness(tmp_path / "noisy", slope=-3.0)
  for folder, out in ((brightness, "a.csv"), (noisy, "b.json")):
    metric = jiqa.load(folder, devices=jax.devices()[:1])
    assert command.score(metric, ["photos"], out=out) == command.UNREADABLE
  mos = grays + np.random.default_rng(4).normal(0, 40, COUNT)
  labels = pd.DataFrame({"Image Name": names, "MOS": mos, "database": np.where(np.arange(COUNT) % 2, "x", "y")})
  labels.assign(part=np.where(np.arange(COUNT) % 3, "train", "test")).sample(frac=1, random_state=0).to_csv(
    "labels.csv", index=False
  )
  return grays, mos


def run(arguments):
  told = CliRunner().invoke(cli.app, arguments.split())
  if told.exception and not isinstance(told.exception, SystemExit):
    raise told.exception
  return told


def test_scores_are_evaluated_and_compared(scored):
  grays, mos = scored
  told = run("evaluate a.csv b.json --mos=labels.csv --resamples=128 --out=report")
  found = json.loads(pathlib.Path("report/report.json").read_text())["methods"]
  srcc = stats.spearmanr(grays, mos)[0]
  assert {name: method["value"]["srcc"] for name, method in found.items()} == pytest.approx({"a": srcc, "b": -srcc})
  assert "a.csv: 1 of 25 rows have an error and no score" in told.stderr
  run("evaluate a.csv --mos=labels.csv:MOS --resamples=128 --out=single")
  assert list(json.loads(pathlib.Path("single/report.json").read_text())["methods"]) == ["score"]


def test_scores_compete_on_the_images_that_they_are_of(scored):
  run("gmad a.csv b.json --images=photos --out=gmad --levels=3")
  listed = pd.read_csv("gmad/pairs.csv")
  assert set(listed.attacker) == {"a", "b"} and listed.low.str.startswith("photos/scene/").all()
  first = next(row for row in listed.itertuples() if row.pair == 0)
  shown = json.loads(pathlib.Path("gmad/index.html").read_text().split("const pairs = ")[1].split(";")[0])
  np.testing.assert_array_equal(Image.open(f"gmad/{shown[0][1]}"), Image.open(first.low))


def test_scores_are_realigned_with_labels_from_other_files(scored):
  mos = scored[1]
  run("realign a.csv --mos=labels.csv --database=labels.csv --split=labels.csv:part --out=r.csv")
  found = pd.read_csv("r.csv").set_index("image_name")
  names = [f"photos/scene/{i}.png" for i in range(COUNT)]
  np.testing.assert_allclose(found.mos[names], mos)
  assert found.database[names].tolist() == ["y", "x"] * (COUNT // 2)


def test_another_column_of_names(scored):
  pd.read_csv("labels.csv").rename(columns={"Image Name": "photo"}).assign(image_name="?").to_csv("own.csv")
  run("evaluate a.csv --mos=own.csv --name=photo --resamples=128 --out=report")
  assert tables.read("own.csv", "photo")[tables.NAME].isin([f"{i}.png" for i in range(COUNT)]).all()
  with pytest.raises(UserError, match=r"own\.csv: image '\?' stands in more than one row"):
    run("evaluate a.csv --mos=own.csv")


def test_names_agree_by_whole_folders_and_never_two_with_one():
  labels = pd.DataFrame({"image_name": ["a.png", "s/a.png", "ba.png"], "mos": [1.0, 2.0, 3.0]})
  found = tables.matched(labels, "l.csv", pd.Index(["p/ba.png", "p/s/a.png", "q/a.png"]), "s.csv")
  assert found.mos.tolist() == [3, 2, 1]
  for names, message in (
    (["p/a.png", "q/a.png"], "'q/a.png' of s.csv and another image both end like one name"),
    (["p/a.png", "p/c.png"], r"1 image\(s\) of s\.csv are missing, the first is 'p/c\.png'"),
  ):
    with pytest.raises(UserError, match=message):
      tables.matched(labels, "l.csv", pd.Index(names), "s.csv")


def test_names_like_formulas_come_back(tmp_path):
  table = "path,score,weights,error\n'=a.png,1,w,\n'b.png,2,w,\n,,w,unreadable\n"
  (tmp_path / "scores.csv").write_text(table)
  assert tables.read(tmp_path / "scores.csv")[tables.NAME].tolist() == ["=a.png", "'b.png"]
