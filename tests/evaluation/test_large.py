"""Tables that are too large for a bootstrap, rows that stand twice, separators and cells that are formulas."""

import csv

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from jiqa import cli
from jiqa.errors import UserError
from jiqa.evaluation import bootstrap, correlation, outputs, report, study, tables


def simulate(n, rho, seed):
  x, noise = np.random.default_rng(seed).normal(size=(2, n))
  return x, rho * x + np.sqrt(1 - rho**2) * noise


def test_the_jackknife_of_many_images_agrees_with_theory_and_the_bootstrap(monkeypatch):
  n, rho = 3000, 0.6
  x, y = simulate(n, rho, 0)
  resampled = bootstrap.interval(x, y, measures=("srcc", "plcc", "krcc"), resamples=1000, seed=1)
  monkeypatch.setattr(bootstrap, "MOST", n - 1)
  with pytest.warns(correlation.EvaluationWarning, match="jackknife of 20 groups"):
    found = bootstrap.interval(x, y, measures=("srcc", "plcc", "krcc"), seed=1)
  for key, of in (("srcc", stats.spearmanr), ("plcc", stats.pearsonr), ("krcc", stats.kendalltau)):
    assert found[key].value == pytest.approx(of(x, y)[0])
    width, expected = (interval.high - interval.low for interval in (found[key], resampled[key]))
    assert width == pytest.approx(expected, rel=0.5)
    assert found[key].low < found[key].value < found[key].high
  spread = [bootstrap.interval(*simulate(n, rho, seed), measures=("plcc",))["plcc"] for seed in range(60)]
  assert np.mean([(low < rho < high) for _, low, high in spread]) > 0.85
  theory = 2 * 1.96 * (1 - rho**2) / np.sqrt(n)  # the asymptotic spread of Pearson's correlation
  assert np.mean([high - low for _, low, high in spread]) == pytest.approx(theory, rel=0.15)


def test_the_jackknife_leaves_out_whole_references(monkeypatch):
  monkeypatch.setattr(bootstrap, "MOST", 10)
  x, y = simulate(60, 0.5, 0)
  x, y, groups = np.repeat(x, 20), np.repeat(y, 20), np.repeat([f"r{i}" for i in range(60)], 20)
  alone, whole = (bootstrap.interval(x, y, measures=("srcc",), groups=g)["srcc"] for g in (None, groups))
  assert whole.high - whole.low > 2 * (alone.high - alone.low)


def test_many_rows_end_and_say_how(tmp_path):
  x, y = simulate(bootstrap.MOST + 1, 0.7, 0)
  pd.DataFrame({"image_name": [f"{i}.png" for i in range(len(x))], "score": x, "mos": y}).to_csv(
    tmp_path / "scores.csv", index=False
  )
  done = CliRunner().invoke(cli.app, ["evaluate", str(tmp_path / "scores.csv"), "--mos=mos", f"--out={tmp_path / 'r'}"])
  assert done.exit_code == 0 and "more than 30,000 images: intervals by a jackknife" in done.stderr


def test_rows_that_stand_twice_are_said(tmp_path):
  rng = np.random.default_rng(0)
  names = [f"{i}.png" for i in range(20)] + ["3.png", "4.png"]
  table = pd.DataFrame({"image_name": names, "score": rng.random(22), "mos": rng.random(22)})
  table.to_csv(tmp_path / "scores.csv", index=False)
  arguments = ["evaluate", str(tmp_path / "scores.csv"), "--mos=mos", f"--out={tmp_path / 'r'}"]
  said = CliRunner().invoke(cli.app, arguments).stderr
  assert "2 row(s) are of images that stand in another row too, such as '3.png'" in said
  table[:20].to_csv(tmp_path / "scores.csv", index=False)
  assert "stand in another row" not in CliRunner().invoke(cli.app, arguments).stderr


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_named(tmp_path, separator):
  (tmp_path / "scores.csv").write_text(separator.join(("image_name", "mos")) + "\n" + separator.join(("a.png", "3")))
  with pytest.raises(UserError, match=r"columns are separated by .*expected commas"):
    tables.read(tmp_path / "scores.csv")


def test_cells_that_a_spreadsheet_would_run_are_text(tmp_path):
  rows = [["image_name", "score"], ["=cmd|' /C calc'!A0", -0.5], ["+a.png", "-0.5"], ["a=b.png", "1e-3"], ["@x", "-x"]]
  outputs.write_csv(tmp_path / "out.csv", rows)
  with open(tmp_path / "out.csv", newline="") as file:
    found = list(csv.reader(file))
  assert [row[0] for row in found[1:]] == ["'=cmd|' /C calc'!A0", "'+a.png", "a=b.png", "'@x"]
  assert [row[1] for row in found[1:]] == ["-0.5", "-0.5", "1e-3", "'-x"]


def test_fewer_references_than_groups_of_the_jackknife(monkeypatch):
  monkeypatch.setattr(bootstrap, "MOST", 10)
  x, y = simulate(60, 0.5, 3)
  groups = np.array([f"r{i % 6}" for i in range(60)])
  with pytest.warns(correlation.EvaluationWarning, match="jackknife of 6 groups"):
    found = bootstrap.interval(x, y, measures=("plcc",), groups=groups, level=0.9)["plcc"]
  left = np.array([stats.pearsonr(x[groups != g], y[groups != g])[0] for g in sorted(set(groups))])
  reach = stats.t.ppf(0.95, 5) * np.sqrt(5 / 6 * np.sum((left - left.mean()) ** 2))
  assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))
  with pytest.warns(correlation.UndefinedCorrelationWarning, match="at least 3 references; there are 1"):
    found = bootstrap.interval(x, y, measures=("plcc",), groups=np.full(60, "r"))["plcc"]
  assert found.value == pytest.approx(stats.pearsonr(x, y)[0]) and np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("groups", [None, np.repeat([f"r{i}" for i in range(8)], 5)])
def test_the_report_says_how_its_intervals_were_made(monkeypatch, tmp_path, groups):
  monkeypatch.setattr(bootstrap, "MOST", 30)
  x, y = simulate(40, 0.7, 2)
  with pytest.warns(correlation.EvaluationWarning, match="jackknife"):
    found = study.compare({"m": x}, y, groups=groups, resamples=128)
  note = report.write(tmp_path, found, title="T", command="c").with_name("report.md").read_text()
  kind = "20 groups of images" if groups is None else "8 groups of references"
  assert f"confidence interval (jackknife that leaves out one of {kind})." in note and "BCa" not in note
