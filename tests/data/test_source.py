"""A prepared set as a source: aligned with its labels, exact, picklable, readable by Grain's workers."""

import pickle

import grain
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_builders.prepare import prepare
from jiqa.data import splits
from jiqa.data.decode import decode_rgb
from jiqa.data.source import open_database
from jiqa.errors import UserError


@pytest.fixture(scope="module")
def own(tmp_path_factory):
  """Twelve images in three official parts, with scores that need all their digits."""
  folder = tmp_path_factory.mktemp("own")
  rng = np.random.default_rng(0)
  rows = []
  for i in range(12):
    Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    split = ("test", "train", "validation")[i % 3]
    rows.append((f"{i:02d}.png", rng.uniform(0, 5), rng.uniform(), f"r{i // 4}", "NA" if i else "nan", i % 5, split))
  columns = ["image_name", "mos", "mos_std", "reference_name", "distortion", "level", "split"]
  table = pd.DataFrame(rows, columns=columns)
  table.to_csv(folder / "scores.csv", index=False)
  data_dir = tmp_path_factory.mktemp("prepared")
  prepare("csv/own", folder, data_dir)
  return table.set_index("image_name"), folder, open_database("csv/own", data_dir)


def test_records_and_table_are_aligned_and_exact(own):
  given, folder, database = own
  assert len(database) == len(database.table) == 12
  assert database.table.split.tolist() == ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
  for i, row in enumerate(database.table.to_dict("records")):
    record = database[i]
    assert record.pop("image") == (folder / row["image_name"]).read_bytes()
    assert record == row
    for column in given.columns:
      assert row[column] == given[column][row["image_name"]], column
  assert database.table.dtypes.map(lambda t: t.kind).to_dict() | {"level": "i"} == {
    column: "f" if column in ("raw_score", "mos", "mos_std") else "i" if column == "level" else "O"
    for column in database.table
  }


def test_metadata_says_what_the_numbers_mean(own):
  _, _, database = own
  assert database.metadata["direction"] == "higher"
  assert database.metadata["range"] == [database.table.mos.min(), database.table.mos.max()]
  assert database.metadata["images"] == 12
  assert database.metadata["references"] == 3


def test_records_are_counted_from_either_end(own):
  _, _, database = own
  assert database[-1] == database[11] and database[-12]["image_name"] == database.table.image_name[0]
  for index in (12, -13):
    with pytest.raises(IndexError):
      database[index]


def test_pickles_as_its_path(own):
  database = own[2]
  text = pickle.dumps(database)
  assert len(text) < 500
  again = pickle.loads(text)
  assert again[7]["image"] == database[7]["image"]
  pd.testing.assert_frame_equal(again.table, database.table)


def test_random_access_from_grain_threads(own):
  database = own[2]
  stream = (
    grain.MapDataset.source(database)
    .seed(0)
    .shuffle()
    .map(lambda record: (record["image_name"], decode_rgb(record["image"]).mean()))
    .to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=4))
  )
  seen = dict(stream)
  assert seen == {database[i]["image_name"]: decode_rgb(database[i]["image"]).mean() for i in range(12)}


def test_unlabelled_sets_have_nan(tmp_path):
  (tmp_path / "photos").mkdir()
  Image.new("RGB", (3, 3)).save(tmp_path / "photos/one.png")
  prepare("image_folder/photos", tmp_path / "photos", tmp_path / "prepared")
  record = open_database("image_folder/photos", tmp_path / "prepared")[0]
  assert np.isnan([record["mos"], record["mos_std"], record["raw_score"]]).all()
  assert (record["reference_name"], record["distortion"], record["level"], record["split"]) == ("", "", -1, "")


def test_real_subset(real_data, tmp_path):
  prepare("biq2021", real_data / "biq2021_mini", tmp_path)
  database = open_database("biq2021", tmp_path)
  labels = pd.read_csv(real_data / "biq2021_mini/labels.csv").set_index("image_name")
  table = database.table.set_index(database.table.image_name.str.removeprefix("Images/"))
  assert len(table) == 1196
  assert not database.metadata["complete"]
  assert table.mos.to_dict() == labels.mos.to_dict()
  assert table.split.to_dict() == labels.split.to_dict()
  with pytest.raises(UserError, match="no arniqa splits"):
    splits.assign(database.table, "biq2021", "arniqa")
