"""Whatever is wrong with a release: refused by name, and nothing half-written stays behind."""

import csv
import pathlib
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
import scipy.io

from data_builders import checks
from data_builders.prepare import prepare
from jiqa.data.schema import tables
from jiqa.data.source import check_name, open_database
from jiqa.errors import UserError
from tests.data_builders import dummy_trees

ROOT = pathlib.Path(__file__).parents[2]


def _left_behind(data_dir):
  return [path for path in data_dir.rglob("*") if path.is_file()] if data_dir.exists() else []


def _refused(name, release, tmp_path, *patterns, **options):
  """Asserts that preparing fails with every pattern in the message and leaves no file behind."""
  with pytest.raises(UserError) as caught:
    prepare(name, release, tmp_path / "prepared", **options)
  for pattern in patterns:
    assert pattern in str(caught.value)
  assert _left_behind(tmp_path / "prepared") == []
  return str(caught.value)


def _edit_csv(path, change):
  """Rewrites a table after `change(rows)`; row 0 is the header."""
  with path.open(newline="") as file:
    rows = list(csv.reader(file))
  change(rows)
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(rows)


@pytest.fixture
def kadid(tmp_path):
  dummy_trees.kadid10k(tmp_path / "release")
  return tmp_path / "release/kadid10k"


def _own(tmp_path, name):
  """A copy that is no hard link, to be damaged alone."""
  data = (tmp_path / name).read_bytes()
  (tmp_path / name).unlink()
  (tmp_path / name).write_bytes(data)
  return tmp_path / name


def test_missing_image(kadid, tmp_path):
  (kadid / "images/I01_25_05.png").unlink()
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 3", "I01_25_05.png")


def test_truncated_image(kadid, tmp_path):
  path = _own(kadid, "images/I01_25_05.png")
  path.write_bytes(path.read_bytes()[:-40])
  _refused("kadid10k", kadid, tmp_path, "I01_25_05.png", "incomplete")


def test_file_that_is_no_image(kadid, tmp_path):
  _own(kadid, "images/I01_25_05.png").write_text("<html>not found</html>")
  _refused("kadid10k", kadid, tmp_path, "I01_25_05.png", "not an image")


def test_nan_score(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[2].__setitem__(2, "nan"))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 3", "nan", "finite")


def test_score_that_is_no_number(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[1].__setitem__(2, "good"))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 2", "good")


def test_swapped_columns(kadid, tmp_path):
  def swap(rows):
    for row in rows[1:]:
      row[2], row[3] = row[3], row[2]

  _edit_csv(kadid / "dmos.csv", swap)
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 2", "columns")


def test_extra_row(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows.append(["I99_01_01.png", "I99.png", "3.0", "0.2"]))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 5", "I99_01_01.png")


def test_duplicate_row(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows.append(rows[1]))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 5", "I01_01_01.png", "dmos.csv line 2")


def test_short_row_and_missing_column(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[2].pop())
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 3", "3 cells")
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[0].__setitem__(2, "score"))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv", "'dmos'")


def test_wrong_archive(kadid, tmp_path):
  _refused("csiq", kadid, tmp_path, "not the csiq release", "no dst_imgs", "Download page")


def test_empty_folder_and_no_folder(tmp_path):
  (tmp_path / "empty").mkdir()
  _refused("koniq10k", tmp_path / "empty", tmp_path, "no 1024x768", "koniq10k_distributions_sets.csv")
  _refused("image_folder/mine", tmp_path / "empty", tmp_path, "no images")
  _refused("image_folder/mine", tmp_path / "nowhere", tmp_path, "no such folder")
  _refused("koniq10k", None, tmp_path, "--manual-dir is missing", "Download page")
  (tmp_path / "koniq10k_1024x768.zip").touch()
  _refused("koniq10k", tmp_path / "koniq10k_1024x768.zip", tmp_path, "is a file; unpack it first")


def test_swapped_variables_and_lengths_in_matlab_files(tmp_path):
  dummy_trees.clive(tmp_path / "release")
  release = tmp_path / "release/ChallengeDB_release"
  path = release / "Data/AllMOS_release.mat"
  scores = scipy.io.loadmat(path)["AllMOS_release"]
  scipy.io.savemat(path, {"AllMOS_release": scores[:, :-1]})
  _refused("clive", release, tmp_path, "10 names, 9 scores")
  scipy.io.savemat(path, {"AllMOS_release": np.where(scores == 70, np.nan, scores)})
  _refused("clive", release, tmp_path, "entry 9", "nan")
  path.write_bytes(b"not a MATLAB file")
  _refused("clive", release, tmp_path, "AllMOS_release.mat", "not a readable MATLAB file")


def test_live_originals_that_contradict_the_scores(tmp_path):
  dummy_trees.live(tmp_path / "release")
  path = tmp_path / "release/databaserelease2/dmos_realigned.mat"
  content = scipy.io.loadmat(path)
  content["orgs"][0, 3] = 1
  scipy.io.savemat(path, {key: content[key] for key in ("dmos_new", "dmos_std", "orgs")})
  _refused("live", tmp_path / "release", tmp_path, "entry 4", "jpeg/img2.bmp")


def test_deviation_in_the_place_of_the_score(tmp_path):
  release = tmp_path / "release/CSIQ"
  dummy_trees.csiq(tmp_path / "release")
  (release / "csiq.DMOS.xlsx").unlink()
  dummy_trees.write_csiq_labels(release, [("snow", 6, "contrast", 4, 0.9, 0.05)])
  _refused("csiq", release, tmp_path, "csiq.DMOS.xlsx row 5", "0.9", "official order")


def test_koniq_score_that_contradicts_its_grades(tmp_path):
  dummy_trees.koniq10k(tmp_path / "release")
  release = tmp_path / "release/koniq-10k"
  _edit_csv(release / "koniq10k_distributions_sets.csv", lambda rows: rows[1].__setitem__(7, "0.44"))
  _refused("koniq10k", release, tmp_path, "line 2", "swapped")


def test_image_folder_leaves_damaged_files_out_and_says_so(tmp_path):
  dummy_trees.write_images(tmp_path / "photos", ["good.jpg", "b/good.png"])
  (tmp_path / "photos/broken.jpg").write_bytes(dummy_trees.image_bytes("jpg")[:-20])
  (tmp_path / "photos/empty.bmp").touch()
  prepare("image_folder/photos", tmp_path / "photos", tmp_path / "prepared")
  database = open_database("image_folder/photos", tmp_path / "prepared")
  assert database.table.image_name.tolist() == ["b/good.png", "good.jpg"]
  assert [database[i]["image_name"] for i in range(2)] == ["b/good.png", "good.jpg"]
  assert sorted(pathlib.Path(line.split(":")[0]).name for line in database.metadata["skipped"]) == [
    "broken.jpg", "empty.bmp",
  ]  # fmt: skip
  _refused("image_folder/strict", tmp_path / "photos", tmp_path / "other", "broken.jpg", strict=True)
  for name in ("good.jpg", "b/good.png"):
    (tmp_path / "photos" / name).unlink()
  _refused("image_folder/none", tmp_path / "photos", tmp_path / "third", "none of the 2 files is an image")


def test_unknown_names(tmp_path):
  check_name("koniq10k/512x384")
  with pytest.raises(UserError, match="did you mean koniq10k"):
    check_name("konig10k/512x384")
  with pytest.raises(UserError, match="did you mean koniq10k"):
    prepare("konig10k", tmp_path, tmp_path)
  with pytest.raises(UserError, match="variants 1024x768, 512x384"):
    prepare("koniq10k/640x480", tmp_path, tmp_path)
  with pytest.raises(UserError, match="give the set a name"):
    prepare("image_folder", tmp_path, tmp_path)


def test_not_prepared(tmp_path):
  with pytest.raises(UserError) as caught:
    open_database("koniq10k", tmp_path)
  message = str(caught.value)
  assert f"jiqa prepare koniq10k --manual-dir=FOLDER --data-dir={tmp_path}" in message
  assert "https://database.mmsp-kn.de/koniq-10k-database.html" in message


def test_command_line_ends_with_2_and_without_traceback(kadid, tmp_path):
  (kadid / "images/I01_25_05.png").unlink()
  command = [sys.executable, "-m", "data_builders.kadid10k", f"--manual_dir={kadid}", f"--data_dir={tmp_path / 'out'}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert "I01_25_05.png" in done.stderr
  assert "Traceback" not in done.stderr


def _replace(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def _bid_sheet(release, row):
  header = ["Image Number", "Average Subjective Grade", "Number of Grades", "Grade #1", "Grade #2"]
  dummy_trees.write_sheet(release / "ImageDatabase/DatabaseGrades.xlsx", "Plan1", [header, row])


# Tree, name, what is done to its folder, and what the message must say.
SPOILED = {
  "tid: rows of the two files": (
    dummy_trees.tid2013, lambda f: _replace(f / "mos_std.txt", "0.15000\n", ""), ("5 scores", "4 in mos_std.txt"),
  ),
  "tid: name before score": (
    dummy_trees.tid2013, lambda f: _replace(f / "mos_with_names.txt", "5.20000 i01_01_2.bmp", "i01_01_2.bmp 5.2"),
    ("mos_with_names.txt line 2", "expected a score and a name"),
  ),
  "pipal: no score": (
    dummy_trees.pipal, lambda f: _replace(f / "Train_Label/A0001.txt", ",1400.5", ""), ("A0001.txt line 2", "score"),
  ),
  "pipal: not an Elo score": (
    dummy_trees.pipal, lambda f: _replace(f / "Train_Label/A0002.txt", "950.25", "0.95"),
    ("A0002.txt line 1", "900..1850"),
  ),
  "pipal: no images": (
    dummy_trees.pipal_merged, lambda f: (f / "Dist_Imgs").rename(f / "Images"),
    ("no .bmp image in a folder Train_Dist*",),
  ),
  "pipal: Latin-1": (
    dummy_trees.pipal, lambda f: (f / "Train_Label/A0002.txt").write_bytes(b"A0002_03_01.bmp,950.25 \xe9"),
    ("Train_Label/A0002.txt: not a UTF-8 text file",),
  ),
  "tid: Latin-1": (
    dummy_trees.tid2013, lambda f: (f / "mos_std.txt").write_bytes(b"0.1\r\n\xb50.2\r\n0.1\r\n0.1\r\n0.15\r\n"),
    ("mos_std.txt: not a UTF-8 text file",),
  ),
  "flive: UTF-16": (
    dummy_trees.flive, lambda f: (f / "labels=640_padded.csv").write_bytes("name_image,is_valid".encode("utf-16")),
    ("labels=640_padded.csv: not a UTF-8 text file",),
  ),
  "own: one image in two spellings": (
    dummy_trees.csv_table, lambda f: _replace(f / "scores.csv", "x/3.png", "./x/2.png"),
    ("scores.csv line 4: x/2.png is listed a second time, first in scores.csv line 3",),
  ),
  "bid: count in the place of the grade": (
    dummy_trees.bid, lambda f: _bid_sheet(f, [1, 2, 4.5, 4.0, 5.0]), ("DatabaseGrades.xlsx row 2", "columns swapped"),
  ),
  "bid: no Excel file": (
    dummy_trees.bid, lambda f: (f / "ImageDatabase/DatabaseGrades.xlsx").write_bytes(b"x"),
    ("DatabaseGrades.xlsx", "not a readable Excel file"),
  ),
  "csiq: another sheet": (
    dummy_trees.csiq, lambda f: dummy_trees.write_sheet(f / "csiq.DMOS.xlsx", "Sheet1", [["image"]]),
    ("csiq.DMOS.xlsx", "no sheet 'all_by_image'"),
  ),
  "csiq: no such type": (
    dummy_trees.csiq, lambda f: dummy_trees.write_csiq_labels(f, [("snow", 7, "rain", 1, 0.1, 0.2)]),
    ("csiq.DMOS.xlsx row 5", "dst_idx 7"),
  ),
  "kadid: negative variance": (
    dummy_trees.kadid10k, lambda f: _replace(f / "dmos.csv", "1.2,0.25", "1.2,-0.25"), ("dmos.csv line 3", "variance"),
  ),
  "koniq: unknown part": (
    dummy_trees.koniq10k, lambda f: _replace(f / "koniq10k_distributions_sets.csv", "validation", "dev"),
    ("koniq10k_distributions_sets.csv line 3", "'dev'"),
  ),
  "clive: training images left out": (
    dummy_trees.clive,
    lambda f: dummy_trees.write_clive_labels(f, ["3.bmp", "4.bmp", "1000.JPG"], [60, 70, 80], [20, 20, 20]),
    ("AllImages_release.mat", "not the training images"),
  ),
  "agiqa: prompt without quotes": (
    dummy_trees.agiqa3k, lambda f: _replace(f / "data.csv", '"a cat, warm color"', "a cat, warm color"),
    ("data.csv line 2", "10 cells"),
  ),
  "biq: a further filled column": (
    dummy_trees.biq2021, lambda f: _replace(f / "Train (Images and MOS).csv", "0.5,,", "0.5,,x"),
    ("Train (Images and MOS).csv line 3", "4 cells"),
  ),
  "csv: no score": (
    dummy_trees.csv_table, lambda f: _replace(f / "scores.csv", "dmos", "score"), ("scores.csv", "one of mos and dmos"),
  ),
  "csv: two tables": (
    dummy_trees.csv_table, lambda f: (f / "more.csv").touch(), ("expected one .csv", "more.csv, scores.csv"),
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_label_file(case, tmp_path):
  tree, spoil, patterns = SPOILED[case]
  _, name = tree(tmp_path / "release")
  folder = dummy_trees.folder_of(tmp_path / "release")
  spoil(folder)
  _refused(name, folder, tmp_path, *patterns)


def test_score_off_the_scale_and_unknown_split_and_level(tmp_path):
  _, name = dummy_trees.csv_table(tmp_path / "release")
  folder = tmp_path / "release/own"
  for column, value, pattern in (("split", "dev", "split 'dev'"), ("level", "5", "level 5"), ("mos_std", "-1", "-1")):
    rows = [("x/1.png", 1, value), ("x/2.png", 2, value)]
    dummy_trees.write_csv(folder / "scores.csv", ("image_name", "mos", column), rows)
    _refused(name, folder, tmp_path, "scores.csv line 2", pattern)


def test_references_that_pair_parts_of_the_published_splits_are_refused():
  names = tables.read("liqe", "csiq").index
  table = pd.DataFrame({"image_name": names, "reference_name": names.str.extract(r".*/(.+?)\.[^/]*$")[0].to_numpy()})
  builder = types.SimpleNamespace(name="csiq", REFERENCES=30)
  checks._check_references(builder, table, "release")
  parts = tables.read("liqe", "csiq").splits.groupby(table.reference_name.to_numpy()).first()
  one, other = next(name for name in parts.index if parts[name] != parts.iloc[0]), parts.index[0]
  first = [(table.reference_name == name).idxmax() for name in (one, other)]
  table.loc[first, "reference_name"] = [other, one]  # two images exchanged
  with pytest.raises(UserError, match="different parts of the published liqe splits"):
    checks._check_references(builder, table, "release")
  builder.REFERENCES = 31
  with pytest.raises(UserError, match="30 different references, but csiq has 31"):
    checks._check_references(builder, table, "release")


@pytest.mark.parametrize(
  ("raw_scores", "deviation", "mean", "message"),
  [
    ([1.0, 3.0, 5.0], 2.0, 3.02, None),
    ([1.0, 3.0, 5.01], 2.0, 3.0, "has the score 5.01, but fake scores lie in 1..5"),
    ([0.99, 3.0, 5.0], 2.0, 3.0, "has the score 0.99"),
    ([1.0, np.nan, 5.0], 2.0, 3.0, "has the score nan"),
    ([1.0, 3.0, 5.0], 2.1, 3.0, "has the standard deviation 2.1, but in fake they lie in 0..2"),
    ([1.0, 3.0, 5.0], -0.1, 3.0, "has the standard deviation -0.1"),
    ([1.0, 3.0, 5.0], 2.0, 3.1, "the mean score of fake is 3, known is 3.1"),
    ([1.0, 3.0, 4.0, 5.0], 2.0, 3.25, "4 labelled images, but fake has 3"),
  ],
)
def test_scores_must_fit_the_declared_range_deviation_and_mean(raw_scores, deviation, mean, message, tmp_path):
  names = [f"{i}.png" for i in range(len(raw_scores))]
  for name in names:
    (tmp_path / name).touch()
  labels = {"image_name": names, "raw_score": raw_scores, "mos_std": deviation, "where": "row"}
  fake = types.SimpleNamespace(
    name="fake", SCORE="mean opinion", DIRECTION="higher", RAW_RANGE=(1.0, 5.0), STD_MAX=2.0, IMAGES=3, MEAN=mean,
    REFERENCES=None, labels=lambda root: pd.DataFrame(labels), image_folder=lambda root: root,
  )  # fmt: skip
  if message is None:
    assert checks.checked_table(fake, tmp_path).mos.tolist() == raw_scores
  else:
    with pytest.raises(UserError, match=message):
      checks.checked_table(fake, tmp_path)
