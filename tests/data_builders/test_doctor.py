"""The doctor recognises every release, names what is wrong with it, and prints a command that then works."""

import shlex

import pytest
from typer.testing import CliRunner

from data_builders import make_builder
from data_builders.catalogue import catalogue
from data_builders.doctor import as_text, examine
from data_builders.prepare import main
from jiqa.cli import app
from jiqa.data.source import open_database
from tests.data_builders import dummy_trees

KNOWN = [tree for tree in dummy_trees.TREES if tree not in (dummy_trees.image_folder, dummy_trees.csv_table)]


@pytest.mark.parametrize("tree", KNOWN, ids=lambda tree: tree.__name__)
def test_recognises_and_passes_every_release(tree, tmp_path):
  names, database = tree(tmp_path / "release")
  report = examine(dummy_trees.folder_of(tmp_path / "release"), data_dir=tmp_path / "prepared", decode=True)
  assert report.database == database
  assert report.problems == []
  assert any(f"{len(names)} image files, each decoded" in fact for fact in report.facts)
  program, *arguments = shlex.split(report.next)
  assert program == "jiqa"
  app(arguments, standalone_mode=False)
  assert len(open_database(database, tmp_path / "prepared")) == len(names)


def _kadid(tmp_path):
  dummy_trees.kadid10k(tmp_path / "release")
  return tmp_path / "release/kadid10k"


def test_names_what_is_missing_and_what_it_is_called_now(tmp_path):
  folder = _kadid(tmp_path)
  (folder / "images/I01_25_05.png").rename(folder / "images/I01_25_05.bmp")
  (folder / "images/I02_05_03.png").unlink()
  report = examine(folder)
  assert report.database == "kadid10k"
  assert report.problems == [
    "dmos.csv line 3: missing image images/I01_25_05.png, but there is I01_25_05.bmp: rename it",
    "dmos.csv line 4: missing image images/I02_05_03.png",
  ]
  assert "jiqa doctor" in report.next


def test_names_truncated_and_undecodable_images(tmp_path):
  folder = _kadid(tmp_path)
  path = folder / "images/I01_25_05.png"
  data = path.read_bytes()
  path.unlink()
  path.write_bytes(data[:-30])
  (problem,) = examine(folder).problems
  assert "I01_25_05.png" in problem
  assert "incomplete" in problem


def test_names_the_row_of_a_bad_score_and_the_missing_label_file(tmp_path):
  folder = _kadid(tmp_path)
  labels = (folder / "dmos.csv").read_text()
  (folder / "dmos.csv").write_text(labels.replace("4.5", "45"))
  (problem,) = examine(folder, "kadid10k").problems
  assert "dmos.csv line 2" in problem
  (folder / "dmos.csv").unlink()
  (problem,) = examine(folder, "kadid10k").problems
  assert "no dmos.csv" in problem


def test_takes_the_variant_that_is_there(tmp_path):
  dummy_trees.koniq10k_half(tmp_path)
  report = examine(tmp_path, "koniq10k")
  assert (report.database, report.problems) == ("koniq10k/512x384", [])


def test_half_a_release_is_still_recognised(tmp_path):
  dummy_trees.tid2013(tmp_path)
  (tmp_path / "tid2013/mos_std.txt").unlink()
  report = examine(tmp_path / "tid2013")
  assert report.database == "tid2013"
  assert "no mos_std.txt" in report.problems[0]


def test_unpacked_archive_unknown_images_and_nothing(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a/koniq10k_1024x768.zip").touch()
  assert "not unpacked: koniq10k_1024x768.zip" in examine(tmp_path / "a").problems[0]
  dummy_trees.write_images(tmp_path / "b", ["1.png"])
  assert "jiqa prepare image_folder/NAME" in examine(tmp_path / "b").next
  (tmp_path / "b/scores.csv").write_text("image_name,mos\n1.png,3\n")
  assert "jiqa prepare csv/NAME" in examine(tmp_path / "b").next
  (tmp_path / "c").mkdir()
  assert examine(tmp_path / "c").problems == ["no known database and no images"]


def test_compares_label_files_with_the_known_checksum(real_data, tmp_path):
  dummy_trees.write_images(tmp_path, ["1024x768/1.jpg"])
  path = tmp_path / "koniq10k_distributions_sets.csv"
  path.write_bytes((real_data / "labels/koniq10k_distributions_sets.csv").read_bytes())
  report = examine(tmp_path)
  assert "koniq10k_distributions_sets.csv: checksum as known" in report.facts
  assert any("10,073 images listed, 10,073 published" in fact for fact in report.facts)
  assert "and 10,068 more missing images" in as_text(report)
  path.write_bytes(path.read_bytes() + b"\n")
  assert any("not the copy whose checksum is known" in remark for remark in examine(tmp_path).remarks)


def test_catalogue_lists_every_database_and_what_is_prepared(tmp_path):
  dummy_trees.image_folder(tmp_path / "release")
  main("image_folder", ["--name=mine", f"--manual_dir={tmp_path}/release/photos", f"--data_dir={tmp_path}/prepared"])
  rows = catalogue(tmp_path / "prepared").set_index("name")
  assert rows.index[rows.prepared].tolist() == ["image_folder/mine"]
  assert rows.splits["koniq10k/512x384"] == "official, liqe, folds"
  assert rows.splits["flive/patches"] == "official, folds"
  assert rows.direction["live"] == rows.direction["csiq"] == "lower"
  assert (rows.direction.drop(["live", "csiq"]) != "lower").all()
  for column in ("TITLE", "KIND", "MANUAL", "LICENCE", "CITATION", "PAGE"):
    for name in rows.index.drop(["image_folder/NAME", "image_folder/mine", "csv/NAME", "demo"]):
      assert getattr(make_builder(name, tmp_path), column), f"{name} has no {column}"


def test_subcommands(tmp_path):
  runner = CliRunner()
  folder = _kadid(tmp_path)
  healthy = runner.invoke(app, ["doctor", str(folder), f"--data_dir={tmp_path}/out"])
  assert healthy.exit_code == 0
  assert f"next: jiqa prepare kadid10k --manual-dir={folder} --data-dir={tmp_path}/out" in healthy.output
  dummy_trees.csiq(tmp_path / "release")
  several = ["prepare", "kadid10k", "csiq", f"--manual_dir={tmp_path}/release", f"--data_dir={tmp_path}/out"]
  assert runner.invoke(app, several).exit_code == 0
  assert [len(open_database(name, tmp_path / "out")) for name in ("kadid10k", "csiq")] == [3, 3]
  listing = runner.invoke(app, ["databases", f"--data_dir={tmp_path}/out"])
  assert listing.exit_code == 0
  assert "kadid10k" in listing.output
  (folder / "images/I01_25_05.png").unlink()
  assert runner.invoke(app, ["doctor", str(folder)]).exit_code == 1


def test_one_failure_does_not_keep_the_others_from_being_prepared(tmp_path):
  _kadid(tmp_path)
  command = ["prepare", "csiq", "kadid10k", f"--manual_dir={tmp_path}/release", f"--data_dir={tmp_path}/out"]
  result = CliRunner().invoke(app, command)
  assert result.exit_code != 0
  assert "not the csiq release" in str(result.exception)
  assert len(open_database("kadid10k", tmp_path / "out")) == 3


def test_a_folder_of_broken_and_unread_images_is_not_fine(tmp_path):
  dummy_trees.write_images(tmp_path, ["1.png"])
  assert examine(tmp_path).problems == [] and examine(tmp_path).remarks == []
  (tmp_path / "a.bmp").write_bytes(b"BM")
  for name in ("b.heic", "c.HEIC", "inner.svg"):
    (tmp_path / name).write_bytes(b"x")
  (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
  (tmp_path / "folder.png").mkdir()
  report = examine(tmp_path)
  assert not any("folder.png" in problem for problem in report.problems)
  assert any("a.bmp" in problem for problem in report.problems)
  assert report.remarks == ["4 files that are not read: 2 .heic, 1 .svg, 1 dangling link"]


def test_a_table_with_semicolons_is_named(tmp_path):
  dummy_trees.write_images(tmp_path, ["1.png"])
  (tmp_path / "scores.csv").write_text("image_name;mos\n1.png;3\n")
  (problem,) = examine(tmp_path, "csv").problems
  assert "scores.csv: its columns are separated by ';'; expected commas" in problem
