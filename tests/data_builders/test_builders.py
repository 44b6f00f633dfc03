"""Every database from a small tree in its official layout, quirks included: prepare, read, check."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_builders
from data_builders.prepare import prepare
from jiqa.data.decode import decode_rgb
from jiqa.data.schema import COLUMNS
from jiqa.data.source import open_database
from jiqa.errors import UserError
from tests.data_builders import dummy_trees


def _prepared(tree, tmp_path, inside=False):
  names, database = tree(tmp_path / "release")
  # --manual_dir may be the release's own folder or the one it lies in.
  own = inside or database.startswith(("image_folder", "csv"))
  manual_dir = dummy_trees.folder_of(tmp_path / "release") if own else tmp_path / "release"
  prepare(database, manual_dir, tmp_path / "prepared")
  return names, open_database(database, tmp_path / "prepared"), dummy_trees.folder_of(tmp_path / "release")


@pytest.mark.parametrize("tree", dummy_trees.TREES, ids=lambda tree: tree.__name__)
def test_prepares_and_reads_the_official_layout(tree, tmp_path):
  names, database, release = _prepared(tree, tmp_path)
  assert database.table.image_name.tolist() == names
  assert tuple(database.table.columns) == COLUMNS
  for i, name in enumerate(names):
    record = database[i]
    stored = release / "Dataset" / name if "SPAQ" in release.name else release / name
    assert record["image"] == stored.read_bytes()
    assert record["image_name"] == name
    assert decode_rgb(record["image"], name).shape[2] == 3
  low, high = database.metadata["range"] or (np.nan, np.nan)
  scored = bool(database.metadata["score"])
  assert database.table.mos.between(low, high).all() == scored
  assert {"licence", "citation", "page", "manual", "direction", "labels_sha256"} <= set(database.metadata)


def _rows(tree, tmp_path):
  _, database, _ = _prepared(tree, tmp_path, inside=True)
  return database.table.set_index("image_name")


def test_live_drops_originals_and_flips(tmp_path):
  table = _rows(dummy_trees.live, tmp_path)
  assert table.raw_score["jp2k/img2.bmp"] == -2.64
  assert table.mos["jp2k/img2.bmp"] == pytest.approx(111.77469352631448 + 2.64)
  assert table.mos.idxmin() == "fastfading/img2.bmp"
  assert (table.reference_name == "b").all()
  assert table.distortion["fastfading/img2.bmp"] == "fastfading"


def test_csiq_finds_the_columns_and_flips(tmp_path):
  table = _rows(dummy_trees.csiq, tmp_path)
  row = table.loc["dst_imgs/AWGN/1600.AWGN.1.png"]
  assert (row.raw_score, row.mos, row.mos_std, row.reference_name, row.level) == (0.1, 0.9, 0.06, "1600", 0)
  assert table.distortion["dst_imgs/jpeg2000/snow.jpeg2000.5.png"] == "jpeg2000 compression"


def test_tid2013_matches_whatever_case(tmp_path):
  table = _rows(dummy_trees.tid2013, tmp_path)
  assert table.mos["distorted_images/I01_11_1.bmp"] == 5.9
  assert table.distortion["distorted_images/I01_11_1.bmp"] == "jpeg2000 compression"
  assert table.reference_name.value_counts().to_dict() == {"I01": 4, "I25": 1}
  assert table.level["distorted_images/i25_24_5.bmp"] == 4


def test_kadid10k_takes_the_root_of_the_variance(tmp_path):
  row = _rows(dummy_trees.kadid10k, tmp_path).loc["images/I02_05_03.png"]
  assert (row.mos, row.raw_score, row.mos_std, row.reference_name) == (3.0, 3.0, 0.5, "I02")
  assert (row.distortion, row.level) == ("color shift", 2)


def test_clive_skips_the_training_images(tmp_path):
  table = _rows(dummy_trees.clive, tmp_path)
  assert table.mos.to_dict() == {"Images/1000.JPG": 80.0, "Images/3.bmp": 60.0, "Images/4.bmp": 70.0}


def test_koniq10k_keeps_its_scales_apart(tmp_path):
  table = _rows(dummy_trees.koniq10k, tmp_path)
  assert table.raw_score.tolist() == [75.1, 41.0, 3.9]
  assert table.mos.tolist() == [3.75, 2.5, 1.0]
  assert table.mos_std.tolist() == [0.44, 0.5, 0.3]
  assert table.split.tolist() == ["train", "validation", "test"]


def test_a_run_may_take_koniq10ks_z_scores_for_its_mos(tmp_path):
  _prepared(dummy_trees.koniq10k, tmp_path)
  database = pickle.loads(pickle.dumps(open_database("koniq10k", tmp_path / "prepared", "raw_score")))
  assert database.table.mos.tolist() == [75.1, 41.0, 3.9] == [database[i]["mos"] for i in range(3)]
  assert database.table.mos_std.isna().all() and database.metadata["range"] == [0.0, 100.0]
  assert database.label == "MOS: higher is better, [0, 100]"
  with pytest.raises(UserError, match=r"score is 'z'; expected mos or raw_score"):
    open_database("koniq10k", tmp_path / "prepared", "z")


def test_a_raw_score_that_mos_only_turns_is_left_turned(tmp_path):
  _, given, _ = _prepared(dummy_trees.live, tmp_path)
  database = open_database("live", tmp_path / "prepared", "raw_score")
  assert database.table.mos.tolist() == given.table.mos.tolist() and database.label == given.label


def test_spaq_is_evaluated_at_the_published_size(tmp_path):
  _, database, _ = _prepared(dummy_trees.spaq, tmp_path)
  assert database.shorter_side == 512


def test_bid_deviation_leaves_blanks_out(tmp_path):
  table = _rows(dummy_trees.bid, tmp_path)
  assert table.mos_std.tolist() == pytest.approx([np.std([4, 5], ddof=1), 0.5, 0.0])


def test_flive_official_parts(tmp_path):
  assert _rows(dummy_trees.flive, tmp_path).split.tolist() == ["", "train", "validation", "test"]


def test_flive_patches_follow_their_photograph(tmp_path):
  table = _rows(dummy_trees.flive_patches, tmp_path)
  assert table.groupby("reference_name").split.unique().map(list).to_dict() == {
    "a": ["test"],
    "c": ["train"],
    "rq59": [""],
  }


def test_agiqa3k_groups_by_prompt(tmp_path):
  table = _rows(dummy_trees.agiqa3k, tmp_path)
  assert table.reference_name["sd1.5_highcorr_000.jpg"] == "a cat, warm color"
  assert table.mos["sd1.5_highcorr_000.jpg"] == 2.0


def test_biq2021_parts(tmp_path):
  table = _rows(dummy_trees.biq2021, tmp_path)
  assert table.split.tolist() == ["train", "train", "test"]
  assert table.mos.tolist() == [0.25, 0.5, 0.75]


def test_own_csv_with_difference_scores(tmp_path):
  table = _rows(dummy_trees.csv_table, tmp_path)
  assert table.raw_score.tolist() == [10.0, 20.0, 40.0]
  assert table.mos.tolist() == [40.0, 30.0, 10.0]
  assert table.reference_name.tolist() == ["r1", "r1", "r2"]


def test_own_csv_with_blank_cells(tmp_path):
  dummy_trees.write_images(tmp_path / "own", ["x/1.png", "x/2.png", "x/3.png"])
  rows = [("x/1.png", 1.5, "", "3"), ("./x/2.png", 2.5, "NaN", ""), ("x//3.png", 4.0, "0.75", "nan")]
  dummy_trees.write_csv(tmp_path / "own/scores.csv", ("image_name", "mos", "mos_std", "level"), rows)
  (tmp_path / "own/._scores.csv").write_bytes(b"\x00\x05\x16\x07\xb0")
  prepare("csv/own", tmp_path / "own", tmp_path / "prepared")
  table = open_database("csv/own", tmp_path / "prepared").table
  assert table.image_name.tolist() == ["x/1.png", "x/2.png", "x/3.png"]
  np.testing.assert_array_equal(table.mos_std, [np.nan, np.nan, 0.75])
  assert table.level.tolist() == [3, -1, -1]


def test_pipal_leaves_out_what_macos_writes_beside_files(tmp_path):
  names, database = dummy_trees.pipal(tmp_path / "release")
  (tmp_path / "release/PIPAL/Train_Label/._A0001.txt").write_bytes(b"\x00\x05\x16\x07\xb0")
  prepare(database, tmp_path / "release", tmp_path / "prepared")
  assert open_database(database, tmp_path / "prepared").table.image_name.tolist() == names


def test_two_folders_do_not_collide(tmp_path):
  for name, content in (("first", ["a.png"]), ("second", ["b.jpg", "c.jpg"])):
    dummy_trees.write_images(tmp_path / name, content)
    prepare(f"image_folder/{name}", tmp_path / name, tmp_path / "prepared")
  lengths = [len(open_database(f"image_folder/{name}", tmp_path / "prepared")) for name in ("first", "second")]
  assert lengths == [1, 2]


def test_what_mos_is(tmp_path):
  labels = {
    dummy_trees.live: "DMOS, turned: higher is better, [-0.2253, 114.8]",
    dummy_trees.csiq: "DMOS, turned: higher is better, [0, 1]",
    dummy_trees.koniq10k: "MOS: higher is better, [1, 5]",
    dummy_trees.csv_table: "score as given, turned: higher is better, [10, 40]",
    dummy_trees.image_folder: "",
  }
  for tree, label in labels.items():
    _, database, _ = _prepared(tree, tmp_path / tree.__name__)
    assert database.label == label


def test_tfds_finds_every_file_with_a_builder(tmp_path):
  assert "koniq10k" in data_builders.names() and not {"base", "prepare", "shards"} & set(data_builders.names())
  for name in data_builders.names():
    assert tfds.builder_cls(name) is data_builders.builder_class(name)
  names, _, _ = _prepared(dummy_trees.koniq10k_half, tmp_path)
  source = tfds.builder("koniq10k/512x384", data_dir=tmp_path / "prepared").as_data_source(
    split="all", decoders={"image": tfds.decode.SkipDecoding()}
  )
  assert sorted(record["image_name"].decode() for record in source) == sorted(names)


def test_no_tensorflow_and_no_jax(tmp_path):
  """Preparing and reading, by the command line, in a fresh interpreter."""
  dummy_trees.biq2021(tmp_path / "release")
  program = f"""
import sys
from data_builders.prepare import main
main("biq2021", ["--manual_dir={tmp_path}/release", "--data_dir={tmp_path}/prepared"])
from jiqa.data.source import open_database
database = open_database("biq2021", "{tmp_path}/prepared")
assert len([database[i] for i in range(3)]) == 3
assert not {{"tensorflow", "jax", "torch"}} & set(sys.modules)
"""
  subprocess.run([sys.executable, "-c", program], check=True, cwd=dummy_trees.pathlib.Path(__file__).parents[2])
