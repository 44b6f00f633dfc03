"""Prepared sets that were damaged: named, with the shard and the record, and passed over where that is allowed."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data_builders.prepare import prepare
from data_builders.prepared import examine_prepared, prepared_sets
from jiqa.cli import app
from jiqa.data.mixture import training_batches
from jiqa.data.source import open_database
from jiqa.errors import UserError

COUNT = 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """(data_dir, bytes of every image file) of a set of eight images."""
  folder, data_dir = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    Image.fromarray(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8)).save(folder / f"{i}.png")
  prepare("image_folder/some", folder, data_dir)
  return data_dir, [(folder / f"{i}.png").read_bytes() for i in range(COUNT)]


@pytest.fixture
def copy(whole, tmp_path):
  """(data_dir, folder of the set, its shard)."""
  shutil.copytree(whole[0], tmp_path / "data")
  folder = tmp_path / "data/image_folder/some/1.0.0"
  return tmp_path / "data", folder, next(folder.glob("*array_record*"))


def spoil(shard, image):
  """Changes bytes in the middle of an image inside a shard."""
  data = bytearray(shard.read_bytes())
  at = data.index(image) + len(image) // 2
  data[at : at + 8] = bytes(255 - byte for byte in data[at : at + 8])
  shard.write_bytes(data)


def test_a_damaged_record_is_named_with_its_shard(copy, whole):
  data_dir, _, shard = copy
  spoil(shard, whole[1][3])
  database = open_database("image_folder/some", data_dir)
  assert database[2]["image"] == whole[1][2]
  with pytest.raises(UserError, match=rf"{shard.name}: record 3, 3\.png, cannot be read .*prepare it again"):
    database[3]


def test_of_two_shards_the_right_one_is_named(tmp_path):
  rng, rows, files = np.random.default_rng(1), ["image_name,mos,split"], {}
  (tmp_path / "images").mkdir()
  for i in range(COUNT):
    Image.fromarray(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8)).save(tmp_path / f"images/{i}.png")
    files[i] = (tmp_path / f"images/{i}.png").read_bytes()
    rows.append(f"{i}.png,{i},{'train' if i < 5 else 'test'}")
  (tmp_path / "images/scores.csv").write_text("\n".join(rows))
  prepare("csv/two", tmp_path / "images", tmp_path / "data")
  shard = next((tmp_path / "data").rglob("*test*array_record*"))
  spoil(shard, files[6])
  with pytest.raises(UserError, match=rf"{shard.name}: record 1, 6\.png, cannot be read"):
    open_database("csv/two", tmp_path / "data")[6]


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_shard_that_was_cut_off_is_named_when_the_set_is_opened(copy, kept):
  data_dir, _, shard = copy
  data = shard.read_bytes()
  shard.write_bytes(data[: int(kept * len(data)) if kept < 1 else kept])
  with pytest.raises(
    UserError, match=rf"{shard.name}: this shard of a prepared set (is missing|has 0 records instead of 8)"
  ):
    open_database("image_folder/some", data_dir)
  shard.unlink()
  with pytest.raises(
    UserError, match=rf"{shard.name}: this shard of a prepared set (is missing|has 0 records instead of 8)"
  ):
    open_database("image_folder/some", data_dir)


@pytest.mark.parametrize("name", ["labels.csv", "features.json", "metadata.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00{", b"{"])
def test_damaged_labels_and_metadata_are_a_message(copy, name, content):
  data_dir, folder, _ = copy
  (folder / name).write_bytes(content)
  with pytest.raises(UserError, match=r"(prepared set is|labels.csv:) damaged.*prepare it again"):
    open_database("image_folder/some", data_dir)


def test_labels_that_are_no_longer_those_of_their_checksum_are_refused(copy):
  data_dir, folder, _ = copy
  lines = (folder / "labels.csv").read_text().splitlines(keepends=True)
  for changed in (lines[:-1], [lines[0], lines[2], lines[1], *lines[3:]], [*lines[:-1], lines[-1].replace("-1", "4")]):
    assert changed != lines
    (folder / "labels.csv").write_text("".join(changed))
    with pytest.raises(UserError, match=r"labels\.csv: damaged or changed since .*prepare it again"):
      open_database("image_folder/some", data_dir)
    assert len(examine_prepared(folder)) == 1 and "labels.csv: damaged or changed" in examine_prepared(folder)[0]


def test_a_shard_of_another_set_is_named(copy, tmp_path):
  data_dir, _, shard = copy
  (tmp_path / "others").mkdir()
  for i in range(COUNT):
    Image.new("RGB", (9, 9)).save(tmp_path / f"others/other{i}.png")
  other = prepare("image_folder/other", tmp_path / "others", tmp_path / "prepared")
  shutil.copy(next(other.glob("*array_record*")), shard)
  with pytest.raises(UserError, match=r"record 0, 0\.png, cannot be read \(it is called b'other0\.png'\)"):
    open_database("image_folder/some", data_dir)[0]


def batches(data_dir, steps=8, **options):
  stream = training_batches(
    [open_database("image_folder/some", data_dir)], [1], lambda image, record, rng: {"mean": image.mean()},
    batch_size=4, seed=3, start=0, threads=2, **options,
  )  # fmt: skip
  return np.concatenate([next(stream)["mean"] for _ in range(steps)])


def test_so_many_damaged_records_as_allowed_are_passed_over_in_training(copy, whole, capsys):
  data_dir, _, shard = copy
  clean = batches(data_dir)
  for i in (3, 4):
    spoil(shard, whole[1][i])
  with pytest.raises(Exception, match=r"record [34], [34]\.png, cannot be read.*config\.damaged_records: 1"):
    batches(data_dir, damaged=1)
  capsys.readouterr()
  passed = batches(data_dir, damaged=2)
  told = capsys.readouterr().err
  assert told.count("warning") == 2 and "passed over: 2 of at most 2" in told
  means = [np.asarray(Image.open(io.BytesIO(data))).mean() for data in whole[1]]
  replaced = {means[3]: means[5], means[4]: means[5]}
  np.testing.assert_array_equal(passed, [replaced.get(mean, mean) for mean in clean])
  np.testing.assert_array_equal(batches(data_dir, damaged=2), passed)


def test_the_first_damaged_record_ends_a_run_that_allows_none(copy, whole):
  data_dir, _, shard = copy
  spoil(shard, whole[1][0])
  with pytest.raises(UserError, match=r"record 0, 0\.png"):
    batches(data_dir)


def test_the_doctor_examines_prepared_sets(copy, whole):
  data_dir, folder, shard = copy
  assert prepared_sets(data_dir) == prepared_sets(folder) == [folder]
  assert examine_prepared(folder, decode=True) == []
  runner = CliRunner()
  healthy = runner.invoke(app, ["doctor", str(data_dir)])
  assert healthy.exit_code == 0 and healthy.output == f"{folder}: complete\n"
  spoil(shard, whole[1][6])
  assert examine_prepared(folder) == []
  found = runner.invoke(app, ["doctor", str(data_dir), "--decode"])
  assert found.exit_code == 1 and f"{folder}: damaged" in found.output and "record 6, 6.png" in found.output
  info = json.loads((folder / "dataset_info.json").read_text())
  (folder / "dataset_info.json").write_text(json.dumps(info)[:-20])
  assert "this prepared set is damaged" in examine_prepared(folder)[0]
