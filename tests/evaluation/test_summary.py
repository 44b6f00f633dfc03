"""How scores are distributed, against NumPy on all of them at once."""

import json

import numpy as np
import pandas as pd
import pytest

from jiqa.errors import UserError
from jiqa.evaluation import summary


@pytest.fixture
def scores(tmp_path):
  """Three files of scores, some of which are missing; and all that are there."""
  rng = np.random.default_rng(0)
  parts = [rng.normal(50, 12, 4000), rng.gamma(2, 9, 901), np.full(3, np.nan)]
  parts[0][::40] = np.nan
  (tmp_path / "deep").mkdir()
  for i, (part, name) in enumerate(zip(parts, ("a.parquet", "deep/b.csv", "c.parquet"), strict=True)):
    table = pd.DataFrame({"key": [f"{i}/{j}" for j in range(len(part))], "score": part, "error": ""})
    table.to_csv(tmp_path / name) if name.endswith("csv") else table.to_parquet(tmp_path / name)
  (tmp_path / "deep/b.videos.csv").write_text("path,mean\nclip,3\n")
  (tmp_path / "a.parquet.1234.new").write_bytes(b"left by a kill")
  return tmp_path, np.concatenate(parts)


def test_a_summary_is_numpys(scores):
  folder, values = scores
  valid = values[np.isfinite(values)]
  found = summary.summarise([folder / "a.parquet", folder / "deep", folder / "c.parquet"], min_score=61.5)
  assert (found["rows"], found["errors"]) == (len(values), len(values) - len(valid))
  assert found["kept"] == (valid >= 61.5).sum()
  np.testing.assert_allclose([found["mean"], found["std"]], [valid.mean(), valid.std()], rtol=1e-9)
  quantiles = np.quantile(valid, list(found["quantiles"]))
  np.testing.assert_allclose(list(found["quantiles"].values()), quantiles, atol=0.02)
  counts, edges = np.histogram(valid, 20, (found["min"], found["max"]))
  np.testing.assert_array_equal(found["histogram"]["counts"], counts)
  np.testing.assert_allclose(found["histogram"]["edges"], edges)


def test_it_is_printed_and_written(scores, capsys):
  folder, values = scores
  summary.print_summary([str(folder)], min_score=50, out=folder / "summary.json")
  said = capsys.readouterr().out
  kept = int((values >= 50).sum())
  assert f"{len(values):,} rows, 103 of them without a score" in said
  assert f"{kept:,} rows ({kept / len(values):.1%}) have a score of 50 or more" in said
  assert len([line for line in said.split("\n") if line.endswith("#")]) >= 15
  assert json.loads((folder / "summary.json").read_text())["kept"] == kept


def test_one_score_many_times_is_no_problem(tmp_path):
  pd.DataFrame({"score": [3.0] * 5}).to_csv(tmp_path / "a.csv")
  found = summary.summarise([tmp_path / "a.csv"])
  assert found["quantiles"][0.5] == pytest.approx(3, abs=1e-4) and found["histogram"]["counts"].sum() == 5


def test_what_is_no_scores_is_refused(scores, tmp_path):
  folder, _ = scores
  with pytest.raises(UserError, match="no row has a score"):
    summary.summarise([folder / "c.parquet"])
  pd.DataFrame({"mos": [1.0]}).to_csv(tmp_path / "other.csv")
  with pytest.raises(UserError, match=r"other\.csv: no scores that jiqa score has written"):
    summary.summarise([tmp_path / "other.csv"])
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="empty: no scores; expected"):
    summary.summarise([tmp_path / "empty"])


def test_scores_may_come_after_a_megabyte_of_errors(tmp_path):
  lines = [f"{i}.png,,a file of which nothing can be decoded" for i in range(30_000)]
  (tmp_path / "a.csv").write_text("\n".join(["path,score,error", *lines, "x.png,3,", "y.png,4.5,"]))
  found = summary.summarise([tmp_path / "a.csv"])
  assert (found["rows"], found["errors"], found["mean"], found["std"]) == (30_002, 30_000, 3.75, 0.75)


def test_the_deviation_of_scores_that_hardly_differ(tmp_path):
  """It would be lost in a difference of squares."""
  values = 1e4 + np.arange(1000) % 2 * 1e-5
  pd.DataFrame({"score": values}).to_parquet(tmp_path / "a.parquet")
  assert summary.summarise([tmp_path / "a.parquet"])["std"] == pytest.approx(values.std(), rel=1e-9)
