"""Sets in an object store: copied once, whole, and read as if they had been here."""

import sys

import pytest
from etils import epath
from PIL import Image

from data_builders import make_builder
from data_builders.prepare import prepare
from jiqa.data.object_store import local_data_dir
from jiqa.data.source import open_database
from jiqa.errors import UserError
from tests import buckets


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  buckets.install()
  monkeypatch.setenv("JIQA_CACHE", str(tmp_path / "cache"))
  images = tmp_path / "images"
  images.mkdir()
  for i in range(3):
    Image.new("RGB", (16, 16), (40 * i,) * 3).save(images / f"{i}.png")
  prepare("image_folder/mine", images, tmp_path / "prepared")
  for path in (tmp_path / "prepared").rglob("*"):
    if path.is_file():
      there = epath.Path("gs://mine/data") / path.relative_to(tmp_path / "prepared")
      there.parent.mkdir(parents=True, exist_ok=True)
      there.write_bytes(path.read_bytes())
  return tmp_path / "cache"


def test_a_set_is_copied_when_it_is_opened_and_only_then(bucket, capsys):
  database = open_database("image_folder/mine", "gs://mine/data")
  assert len(database) == 3 and database[2]["image_name"] == "2.png"
  assert "copying gs://mine/data/image_folder/mine" in capsys.readouterr().err
  copied = bucket / "gs/mine/data/image_folder/mine"
  assert database.path.is_relative_to(copied) and [p.name for p in copied.parent.iterdir()] == ["mine"]
  open_database("image_folder/mine", "gs://mine/data")
  assert "copying" not in capsys.readouterr().err


def test_a_copy_that_breaks_off_leaves_nothing(bucket, monkeypatch):
  def broken(*_, **__):
    raise OSError("the network is gone")

  monkeypatch.setattr(buckets.Bucket, "get_file", broken)
  with pytest.raises(OSError, match="the network is gone"):
    open_database("image_folder/mine", "gs://mine/data")
  assert not list((bucket / "gs/mine/data/image_folder/mine").iterdir())


def test_every_variant_is_copied_for_itself_and_for_every_user(bucket):
  for variant in ("512x384", "1024x768"):
    epath.Path(f"gs://mine/data/koniq10k/{variant}/1.0.0/labels.csv").write_text(variant)
  for name, variant in (("koniq10k/512x384", "512x384"), ("koniq10k", "1024x768")):
    folder = local_data_dir(make_builder(name).info.full_name, "gs://mine/data")
    assert make_builder(name, folder).is_prepared
    copied = folder / "koniq10k" / variant / "1.0.0"
    assert (copied / "labels.csv").read_text() == variant
    assert copied.stat().st_mode == bucket.parent.joinpath("prepared").stat().st_mode


@pytest.mark.parametrize("address", ["nowhere://mine/data", "s3://mine/data"])
def test_a_store_that_cannot_be_opened_is_named(bucket, address, monkeypatch):
  monkeypatch.setitem(sys.modules, "s3fs", None)
  with pytest.raises(UserError, match=f"{address}/image_folder/mine/1.0.0: cannot be opened"):
    open_database("image_folder/mine", address)


def test_a_set_that_is_not_there_is_an_error(bucket):
  with pytest.raises(UserError, match="not prepared"):
    open_database("image_folder/other", "gs://mine/data")
