"""Columns of score tables and label files: which file holds them, in which line, and what counts as a name."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jiqa.errors import UserError
from jiqa.evaluation import console, correlation, gmad, report, study, tables


@pytest.fixture
def files(tmp_path, monkeypatch):
  """a.csv as `jiqa score` writes it, 24 images and one error; human.csv, whose ratings are called score, too."""
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(5)
  scores, names = rng.random(24), [f"p/{i}.png" for i in range(24)]
  lines = [f"{name},{score},w," for name, score in zip(names, scores, strict=True)]
  lines.insert(2, "p/x.png,,w,unreadable")
  pathlib.Path("a.csv").write_text("\n".join(["path,score,weights,error", *lines]))
  human = pd.DataFrame({"image_name": names, "score": scores + 0.3 * rng.random(24), "set": "one"})
  human.sample(frac=1, random_state=1).to_csv("human.csv", index=False)
  return human.assign(model=scores)


def test_human_scores_that_are_called_score_too_are_no_method(files):
  srcc = stats.spearmanr(files.model, files.score)[0]
  found = study.compare_table(["a.csv"], "human.csv:score", resamples=128)
  assert srcc < 0.999 and found["column"] == "score"
  assert {n: m["value"]["srcc"] for n, m in found["methods"].items()} == {"score": pytest.approx(srcc)}
  options = {"score": "score", "mos": "human.csv:score", "database": "human.csv:set", "out": "r.csv"}
  console.realign("a.csv", **options)
  written = pd.read_csv("r.csv").set_index("image_name")
  np.testing.assert_allclose(written.mos[files.image_name], files.score)
  with pytest.raises(UserError, match=r"a\.csv: no column of scores"):
    study.compare_table(["a.csv"], "score")


@pytest.mark.parametrize(
  "run",
  [
    lambda mos: study.compare_table(["human.csv"], mos, scores=["model", "score"]),
    lambda mos: study.cross_database("human.csv", mos, "set", scores=["score"]),
    lambda mos: console.realign("human.csv", score="score", mos=mos, database="set", out="r.csv"),
  ],
)
@pytest.mark.parametrize("mos", ["score", "human.csv:score", "./human.csv:score"])
def test_human_scores_are_not_compared_with_themselves(files, run, mos):
  files.to_csv("human.csv", index=False)
  with pytest.raises(UserError, match=r"human\.csv: column 'score' holds the human scores"):
    run(mos)
  assert not pathlib.Path("r.csv").exists()


def test_human_scores_of_any_file_of_scores_are_no_method_by_themselves(files):
  files.to_csv("b.csv", index=False)
  srcc = pytest.approx(stats.spearmanr(files.model, files.score)[0])
  for names in (["b.csv"], ["./b.csv"], ["a.csv", "b.csv"]):
    found = study.compare_table(names, "b.csv:score", resamples=128)["methods"]
    methods = {"a", "model"} if len(names) > 1 else {"model"}
    assert {name: method["value"]["srcc"] for name, method in found.items()} == dict.fromkeys(methods, srcc)
  with pytest.raises(UserError, match=r"b\.csv: column 'score' holds the human scores"):
    study.compare_table(["a.csv", "b.csv"], "b.csv:score", scores=["score"])


def test_a_column_may_be_a_score_where_others_hold_the_human_ones(files):
  files.to_csv("b.csv", index=False)
  found = study.compare_table(["b.csv"], "human.csv:score", scores=["score"], labels=["score"], resamples=128)
  assert found["methods"]["score"]["value"]["srcc"] == pytest.approx(1)


def test_old_ratings_beside_the_scores_are_no_method_where_others_are_named(files):
  files.assign(mos=9.0).drop(columns="score").to_csv("b.csv", index=False)
  files.rename(columns={"score": "dmos"})[["image_name", "dmos"]].to_csv("labels.csv", index=False)
  found = study.compare_table(["b.csv"], "labels.csv:dmos", resamples=128)
  assert list(found["methods"]) == ["model"] and found["column"] == "dmos"


@pytest.mark.parametrize(
  ("run", "file", "line"),
  [
    (lambda: study.compare_table(["a.csv"], "human.csv:score"), "human.csv", 6),
    (lambda: gmad.run(["a.csv", "b.csv"], "out", proxy="human.csv:score"), "human.csv", 6),
    (lambda: study.compare_table(["b.csv"], "human.csv:set"), "human.csv", r"\d+"),
    (lambda: tables.numbers(tables.read("a.csv"), "error", "a.csv"), "a.csv", 2),
  ],
)
def test_what_is_no_number_is_named_by_the_file_that_holds_it(files, run, file, line):
  """Line 6 of human.csv comes after a blank one, and its image stands elsewhere in a.csv."""
  files[["image_name", "model"]].to_csv("b.csv", index=False)
  lines = pathlib.Path("human.csv").read_text().splitlines()
  lines.insert(3, "")
  name = lines[5].split(",")[0]
  lines[5] = f"{name},,one"
  pathlib.Path("human.csv").write_text("\n".join(lines))
  what = {6: rf"'score' holds nothing in line 6 \({name}\)"}.get(line, f"'.*' holds .* in line {line} ")
  with pytest.raises(UserError, match=rf"^{file}: column {what}"):
    run()


def test_the_line_is_that_of_the_file_after_errors_were_left_out(files):
  lines = pathlib.Path("a.csv").read_text().splitlines()
  lines[9] = lines[9].replace(",0.", ",zero.")
  pathlib.Path("a.csv").write_text("\n".join(lines))
  with pytest.raises(UserError, match=r"a\.csv: column 'score' holds 'zero\.\d+' in line 10 \(p/7\.png\)"):
    study.compare_table(["a.csv"], "human.csv:score", scores=["score"])
  pathlib.Path("j.json").write_text(json.dumps([{"image_name": "001", "mos": 2}, {"image_name": "1", "mos": None}]))
  table = tables.read("j.json")
  assert table.image_name.tolist() == ["001", "1"]
  with pytest.raises(UserError, match=r"j\.json: column 'mos' holds nothing in row 2 \(1\)"):
    tables.numbers(table, "mos", "j.json")


def test_names_agree_whichever_is_longer(tmp_path):
  labels = pd.DataFrame({"image_name": ["im/s/a.png", "im/t/a.png", "im/b.png", "c.png"], "mos": [1.0, 2, 3, 4]})
  found = tables.matched(labels, "l.csv", pd.Index(["b.png", "photos/c.png", "t/a.png", "im/s/a.png"]), "s.csv")
  assert found.mos.tolist() == [3, 4, 2, 1]
  for names, message in (
    (
      ["b.png", "a.png"],
      r"s\.csv: 'a\.png' is the end of 'im/s/a\.png' and 'im/t/a\.png' of l\.csv; write whole names",
    ),
    (["b.png", "m/b.png"], r"l\.csv: 1 image\(s\) of s\.csv are missing, the first is 'm/b\.png'"),
    (["im/b.png", "b.png"], r"l\.csv: 'b\.png' of s\.csv and another image both end like one name"),
  ):
    with pytest.raises(UserError, match=message):
      tables.matched(labels, "l.csv", pd.Index(names), "s.csv")


def test_names_are_text_as_they_stand_in_the_file(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text("image_name,reference,good,bad\n001,NA,1.5,NA\n1,None,1e-3,2\n01,r1,-4,3\n2,,7, nan\n")
  table = tables.read(path)
  assert tables.unique_names(table, path).tolist() == ["001", "1", "01", "2"]
  assert tables.words(table, "reference", path).tolist() == ["NA", "None", "r1", ""]
  found = tables.methods(table, path, (), empty=True)
  assert list(found) == ["good", "bad"]
  np.testing.assert_array_equal(found["good"], [1.5, 1e-3, -4, 7])
  np.testing.assert_array_equal(found["bad"], [np.nan, 2, 3, np.nan])


def test_a_comparison_without_a_test_is_called_undefined(files, tmp_path):
  files.assign(exact=files.score * 2).to_csv("both.csv", index=False)
  with pytest.warns(correlation.UndefinedCorrelationWarning, match="exactly 1 or -1"):
    found = study.compare_table(["both.csv"], "score", resamples=128)
  page = report.write(tmp_path / "r", found, title="T", command="c").with_name("report.md").read_text()
  assert page.count("| undefined p undefined |") == 2 and "tie" not in page.split("Is the difference real?")[1]


@pytest.mark.parametrize("rows", ["a.png,3,0.5,\nb.png,2,0.7,\n", "a.png,3,0.5,x\nb.png,2,0.7\n"])
def test_rows_longer_than_the_head_are_refused(rows, tmp_path):
  """pandas would take the names for an index, the ratings for names and the scores for ratings."""
  (tmp_path / "t.csv").write_text(f"image_name,mos,score\n{rows}")
  with pytest.raises(UserError, match=r"t\.csv: not a readable table: its rows hold more cells than its head"):
    tables.read(tmp_path / "t.csv")


def test_an_index_that_pandas_has_written_is_no_method(files):
  files.to_csv("b.csv")
  assert list(study.compare_table(["b.csv"], "score", resamples=128)["methods"]) == ["model"]


def test_labels_of_any_type_are_text(files):
  kinds = pd.Categorical([None, *["blur"] * 23])
  files.assign(kind=kinds, level=pd.array([None, *[2] * 23], "Int64"), part=[np.nan, *[0.5] * 23]).to_parquet(
    "b.PARQUET"
  )
  table = tables.read("b.PARQUET")
  for column, value in (("kind", "blur"), ("level", "2"), ("part", "0.5")):
    assert tables.words(table, column, "b.PARQUET").tolist() == ["", *[value] * 23]
  with pytest.raises(UserError, match=r"b\.PARQUET: column 'level' holds nothing in row 1 "):
    tables.numbers(table, "level", "b.PARQUET")
