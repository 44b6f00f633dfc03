"""Tables of the user's own and what is odd about them: read as meant, or refused by name; no row is lost in silence."""

import shlex

import openpyxl
import pytest

from data_builders.doctor import examine
from data_builders.label_files import read_csv, read_sheet
from data_builders.prepare import prepare
from jiqa.data.source import open_database
from jiqa.errors import UserError
from tests.data_builders import dummy_trees


@pytest.fixture
def folder(tmp_path):
  dummy_trees.write_images(tmp_path / "own", ["0.png", "1.png", "2.png"])
  return tmp_path / "own"


def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(folder, tmp_path):
  table = folder / "scores.csv"
  table.write_text('image_name,mos,note\n0.png,1,"fine, it says ""good"""\n1.png,2,"oops\n2.png,3,\n')
  with pytest.raises(UserError, match=r"scores\.csv: the row from line 3 on is no CSV .*quotation marks"):
    prepare("csv/own", folder, tmp_path / "prepared")
  table.write_text(table.read_text().replace('"oops', '"two\nlines"'))
  rows = read_csv(table, ("mos",))
  assert [row["note"] for row in rows] == ['fine, it says "good"', "two\nlines", ""]
  assert [row.where for row in rows] == ["scores.csv line 2", "scores.csv line 4", "scores.csv line 5"]
  table.write_text('"image_name,mos\n0.png,1\n')
  with pytest.raises(UserError, match="the row from line 1 on"):
    read_csv(table, ("mos",))


def test_of_two_columns_of_one_name_none_is_chosen(folder, tmp_path):
  (folder / "scores.csv").write_text("image_name,mos, mos \n0.png,1,5\n")
  with pytest.raises(UserError, match=r"scores\.csv: two columns are called 'mos'"):
    prepare("csv/own", folder, tmp_path / "prepared")


def test_absolute_paths_count_where_they_lead_into_the_folder(folder, tmp_path):
  dummy_trees.write_images(tmp_path / "elsewhere", ["3.png"])
  (folder / "scores.csv").write_text(f"image_name,mos\n0.png,1\n{tmp_path}/elsewhere/3.png,2\n")
  with pytest.raises(UserError, match=rf"scores\.csv line 3: the image {tmp_path}/elsewhere/3\.png is not in {folder}"):
    prepare("csv/own", folder, tmp_path / "prepared")
  (folder / "scores.csv").write_text(f"image_name,mos\n0.png,1\n{folder}/2.png,2\n")
  prepare("csv/own", folder, tmp_path / "prepared")
  assert open_database("csv/own", tmp_path / "prepared").table.image_name.tolist() == ["0.png", "2.png"]


def test_accents_are_matched_however_they_are_written(tmp_path):
  letter, accent = "\u00e9", "e\u0301"  # macOS writes the second
  dummy_trees.write_images(tmp_path / "own", [f"{accent}/{accent}1.png", f"{letter}2.png"])
  (tmp_path / "own/scores.csv").write_text(f"image_name,mos\n{letter}/{letter}1.PNG,1\n{accent}2.png,2\n", "utf-8")
  prepare("csv/own", tmp_path / "own", tmp_path / "prepared")
  names = open_database("csv/own", tmp_path / "prepared").table.image_name.tolist()
  assert names == [f"{accent}/{accent}1.png", f"{letter}2.png"]


def test_one_image_by_two_paths_is_listed_twice(folder, tmp_path):
  (folder / "b").mkdir()
  for first, second in (("0.png", "./0.png"), ("b/../0.png", "0.png")):
    (folder / "scores.csv").write_text(f"image_name,mos\n{first},1\n{second},2\n")
    with pytest.raises(UserError, match=r"scores\.csv line 3: 0\.png is listed a second time"):
      prepare("csv/own", folder, tmp_path / "prepared")


def test_the_next_command_can_be_run_in_a_folder_of_any_name(tmp_path):
  folder = tmp_path / "it's mine"
  dummy_trees.write_images(folder, ["0.png"])
  (folder / "scores.csv").write_text("image_name,mos\n0.png,none\n")
  command = examine(folder, "csv").next.partition("run: ")[2]
  assert shlex.split(command) == ["jiqa", "doctor", str(folder), "csv/mine"]
  with pytest.raises(UserError) as error:
    prepare("live", folder, tmp_path / "prepared")
  assert shlex.split(str(error.value).rpartition("holds: ")[2]) == ["jiqa", "doctor", str(folder)]


def test_a_dangling_link_is_a_damaged_file_and_no_full_disk(folder, tmp_path):
  (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
  prepare("image_folder/own", folder, tmp_path / "prepared")
  (skipped,) = open_database("image_folder/own", tmp_path / "prepared").metadata["skipped"]
  assert "gone.png: cannot be read" in skipped
  (folder / "scores.csv").write_text("image_name,mos\n0.png,1\ngone.png,2\n")
  with pytest.raises(UserError, match=r"gone\.png: cannot be read"):
    prepare("csv/own", folder, tmp_path / "prepared")


def test_a_label_file_that_cannot_be_opened_is_named(folder, tmp_path):
  (folder / "scores.csv").mkdir()
  with pytest.raises(UserError, match=r"scores\.csv: cannot be read \(Is a directory\)"):
    prepare("csv/own", folder, tmp_path / "prepared")


def test_a_row_of_a_sheet_may_end_early(tmp_path):
  book = openpyxl.Workbook(write_only=True)  # which notes no dimensions: rows have the cells that were written
  sheet = book.create_sheet("scores")
  for row in (["name", "mos", "note"], ["a", 3.5, "x"], ["b", 4]):
    sheet.append(row)
  sheet.append(["c"])
  book.save(tmp_path / "scores.xlsx")
  rows = read_sheet(tmp_path / "scores.xlsx", None, ("name", "mos"))
  assert [row["note"] for row in rows] == ["x", None, None] and rows[1].number("mos") == 4
  with pytest.raises(UserError, match=r"scores\.xlsx row 4: the mos is None"):
    rows[2].number("mos")
