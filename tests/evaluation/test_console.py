"""Tables of medians, and several runs taken together."""

import csv
import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from jiqa.errors import UserError
from jiqa.evaluation import console


def _summary(srcc, **further):
  values = {"srcc": srcc, "plcc": [x - 0.1 for x in srcc], "plcc_logistic": [x + 0.05 for x in srcc]}
  return {**values, "median": {key: float(np.median(x)) for key, x in values.items()}, "domains": {}, **further}


def _run(folder, split, srcc, **further):
  folder.mkdir()
  result = _summary(srcc, protocol="liqe", split_sha256=split, **further)
  (folder / "results.json").write_text(json.dumps({"databases": {"bid": result}}))
  return str(folder)


def _rows(path):
  with path.open(newline="") as file:
    return {(row["network"], row["over splits"]): row for row in csv.DictReader(file)}


def test_runs_are_taken_together_over_all_of_their_splits(tmp_path, capsys):
  first, second, third = [0.5, 0.6], [0.9], [0.7]
  runs = [
    _run(tmp_path / "a", "1", first, untrained=_summary([0.1, 0.2])),
    _run(tmp_path / "b", "2", second),
    _run(tmp_path / "c", "3", third),
  ]
  console.aggregate(runs, tmp_path / "out")
  rows, srcc = _rows(tmp_path / "out/runs.csv"), np.array([*first, *second, *third])
  for statistic, value in (("median", np.median(srcc)), ("mean", srcc.mean()), ("deviation", srcc.std(ddof=1))):
    row = rows["trained", statistic]
    assert row["database"] == "bid" and row["protocol"] == "liqe" and row["splits"] == "4"
    shift = 0 if statistic == "deviation" else 1
    assert float(row["SRCC"]) == pytest.approx(value, abs=6e-5)
    assert float(row["PLCC"]) == pytest.approx(value - 0.1 * shift, abs=6e-5)
    assert float(row["PLCC (logistic)"]) == pytest.approx(value + 0.05 * shift, abs=6e-5)
  assert rows["untrained", "median"]["SRCC"] == "0.1500" and rows["untrained", "median"]["splits"] == "2"
  printed = capsys.readouterr()
  assert "0.6750" in printed.out and "same images" not in printed.err


def test_seeds_on_the_same_images_are_told_and_old_runs_have_no_logistic(tmp_path, capsys):
  runs = [_run(tmp_path / name, "1", [0.5], plcc_logistic=None) for name in "ab"]
  console.aggregate(runs, tmp_path)
  assert "b test the same images of bid" in capsys.readouterr().err
  row = _rows(tmp_path / "runs.csv")["trained", "mean"]
  assert (row["PLCC"], row["PLCC (logistic)"]) == ("0.4000", "nan")


def test_a_run_that_is_given_twice_is_told(tmp_path, capsys):
  run = _run(tmp_path / "a", "1", [0.5])
  console.aggregate([run, run], tmp_path)
  assert "a test the same images of bid" in capsys.readouterr().err


def test_a_report_names_the_checksums_of_all_files_it_was_made_of(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = [f"{i}.png" for i in range(20)]
  values = np.random.default_rng(0).random((2, 20))
  pd.DataFrame({"image_name": names, "model": values[0], "content": "x"}).to_csv("a.csv", index=False)
  pd.DataFrame({"image_name": names, "quality": values[1], "of": names}).to_csv("labels.csv", index=False)
  (tmp_path / "model").write_text("no table, but a file called like a column")
  for options, read in (
    ({"mos": "labels.csv:quality", "group": "labels.csv:of"}, ["a.csv", "labels.csv"]),
    ({"mos": "labels.csv:quality", "cross": "content"}, ["a.csv", "labels.csv"]),
    ({"mos": "model", "methods": ["other"]}, ["b.csv"]),
  ):
    pd.DataFrame({"image_name": names, "model": values[0], "other": values[1]}).to_csv("b.csv", index=False)
    console.evaluate(["b.csv" if read == ["b.csv"] else "a.csv"], out="r", **options)
    checksums = json.loads((tmp_path / "r/report.json").read_text())["checksums"]
    assert checksums == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in read}


def test_heads_on_features_are_aggregated_by_candidate(tmp_path):
  (tmp_path / "run").mkdir()
  candidates = {"both ridge": _summary([0.4, 0.6]), "quality ridge": _summary([0.3, 0.3])}
  result = {"protocol": "arniqa", "split_sha256": "1", "candidates": candidates, "chosen": "both ridge"}
  (tmp_path / "run/results.json").write_text(json.dumps({"databases": {"live": result}}))
  console.aggregate([tmp_path / "run"], tmp_path)
  assert _rows(tmp_path / "runs.csv")["both ridge", "median"]["SRCC"] == "0.5000"


@pytest.mark.parametrize("content", [None, "{]", "[1]", '{"command": "x"}'])
def test_what_is_no_finished_run_is_named(tmp_path, content):
  if content is not None:
    (tmp_path / "results.json").write_text(content)
  with pytest.raises(UserError, match=r"results\.json: no results of a run.*--mode=evaluate.*--mos"):
    console.aggregate([tmp_path], tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_medians_are_printed_with_both_plccs(capsys):
  both = {"domains": {"ss01": {"srcc": 0.25, "plcc": None, "plcc_logistic": 0.35}}, "further": {"accuracy": 0.75}}
  console.print_medians({"bid": _summary([0.5, 0.7], **both)})
  printed = capsys.readouterr().out
  for text in (
    "PLCC (logistic)",
    "0.600",
    "0.500",
    "0.650",
    "ss01",
    "0.250",
    "undefined",
    "0.350",
    "accuracy",
    "0.750",
  ):
    assert text in printed
