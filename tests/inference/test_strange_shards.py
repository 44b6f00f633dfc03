"""Shards of strangers: they choose neither files of the reader's nor how much memory is taken."""

import io
import json
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jiqa.errors import UserError
from jiqa.inference import shards
from tests.inference import made
from tests.test_durable import Disk


def samples(path, keep=()):
  return list(shards.samples(str(path), keep))


def test_paths_in_parquet_stay_in_its_folder(tmp_path, monkeypatch):
  made.files(tmp_path / "secret", [(8, 9)])
  made.files(tmp_path / "set" / "photos", [(8, 9)])
  secret = tmp_path / "secret" / "0000.png"
  (tmp_path / "set" / "link.png").symlink_to(secret)
  within = ["photos/0000.png", str(tmp_path / "set" / "photos" / "0000.png"), "photos/../photos/0000.png"]
  outside = [str(secret), "../secret/0000.png", "link.png", "photos/../../secret/0000.png", "a\0b"]
  rows = [{"bytes": None, "path": path} for path in [*within, *outside]]
  pq.write_table(pa.table({"image": [*rows, {"bytes": b"data", "path": str(secret)}]}), tmp_path / "set" / "a.parquet")
  monkeypatch.chdir(tmp_path / "secret")  # relative names are the shard's, not those of whoever reads it
  found = [sample.image for sample in samples("../set/a.parquet")]
  assert [path.read_bytes() for path in found[:3]] == [secret.read_bytes()] * 3
  assert found[-1] == b"data"
  assert len(found[3:-1]) == len(outside)
  for image, path in zip(found[3:-1], outside, strict=True):
    assert isinstance(image, UserError) and path in str(image) and "no bytes in the shard" in str(image)


def test_text_where_bytes_belong_is_no_path(tmp_path):
  (path,) = made.files(tmp_path / "photos", [(8, 9)])
  for rows in ([{"bytes": path, "path": "a.png"}], [path]):
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="expected one of image files"):
      samples(tmp_path / "a.parquet")


VALUES = ([1, "a\udc80"], ["\udc80", None], [2**70, 1], [{}, {}], [[1], {"a": "b"}], [True, None])


@pytest.mark.parametrize("values", VALUES, ids=repr)
def test_whatever_a_sidecar_says_is_written(metric, tmp_path, values):
  (path,) = made.files(tmp_path / "photos", [(8, 9)])
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for i, value in enumerate(values):
      add(tar, f"{i}.png", open(path, "rb").read())
      add(tar, f"{i}.json", json.dumps({"fact": value}).encode())
  assert shards.score_shards(metric, [str(tmp_path / "a.tar")], str(tmp_path / "out"), keep=["fact"]) == 0
  written = pq.read_table(tmp_path / "out/a.parquet")["fact"].to_pylist()
  as_text = [value if isinstance(value, str | None) else json.dumps(value) for value in values]
  printable = [text and text.encode("utf-8", "backslashreplace").decode() for text in as_text]
  assert written == (values if values == [True, None] else printable)


def test_paths_in_parquet_of_a_store_are_refused():
  import fsspec

  with fsspec.open("memory://set/b.parquet", "wb") as file:
    pq.write_table(
      pa.table({"image": [{"bytes": None, "path": "a.png"}] * 2 + [{"bytes": b"x", "path": "a.png"}]}), file
    )
  *first, last = samples("memory://set/b.parquet")
  assert last.image == b"x" and all("no bytes in the shard" in str(sample.image) for sample in first)


def add(tar, name, data, **header):
  info = tarfile.TarInfo(name)
  info.size = len(data)
  for key, value in header.items():
    setattr(info, key, value)
  tar.addfile(info, io.BytesIO(data))


def test_large_members_are_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "MOST", 1 << 20)
  with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
    add(tar, "a.png", bytes(64 << 20))
    add(tar, "a.txt", b"of a")
    add(tar, "b.png", b"image")
    add(tar, "b.txt", bytes(64 << 20))
    add(tar, "c.png", b"image")
    add(tar, "c.txt", b"of c")
    add(tar, "c.mp4", bytes(64 << 20))  # not asked for
  tracemalloc.start()
  a, b, c = samples(tmp_path / "a.tar.gz", ["txt"])
  assert tracemalloc.get_traced_memory()[1] < 32 << 20
  tracemalloc.stop()
  for sample, name in ((a, "a.png"), (b, "b.txt")):
    assert f"{name}: {64 << 20:,} bytes; at most 1,048,576" in str(sample.image)
  assert a.kept == {"txt": "of a"} and b.kept == {"txt": None}
  assert c == ("c", b"image", {"txt": "of c"})


def test_a_long_name_takes_no_memory_either(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "MOST", 1 << 20)
  with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
    add(tar, "a.png", b"image")
    add(tar, "b.png", b"image")
    add(tar, "long", bytes(64 << 20), type=tarfile.GNUTYPE_LONGNAME)
    add(tar, "c.png", b"image")
  tracemalloc.start()
  first, last = samples(tmp_path / "a.tar.gz")
  assert tracemalloc.get_traced_memory()[1] < 32 << 20
  tracemalloc.stop()
  assert first.image == b"image" and last.key == "" and "beside the files" in str(last.image)


@pytest.mark.parametrize("sidecar", [b"[1]", b"7", b"null", b'{"url": ', b"[" * 10**6])
def test_a_sidecar_that_is_no_table_costs_nothing_else(sidecar, tmp_path):
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for name, data in (("a", sidecar), ("b", json.dumps({"url": "u"}).encode())):
      add(tar, f"{name}.png", b"image")
      add(tar, f"{name}.json", data)
  assert samples(tmp_path / "a.tar", ["url"]) == [("a", b"image", {"url": None}), ("b", b"image", {"url": "u"})]


def test_records_that_announce_more_than_may_be_are_not_waited_for(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "MOST", 100)
  for length in (101, 2**63):
    with pytest.raises(EOFError, match="longer than 100 bytes"):
      list(shards._tfrecords(io.BytesIO(length.to_bytes(8, "little") + bytes(4) + bytes(1000))))
  assert list(shards._tfrecords(io.BytesIO((100).to_bytes(8, "little") + bytes(4) + b"x" * 100 + bytes(4)))) == [
    b"x" * 100
  ]


def test_scores_of_a_shard_are_whole_after_a_power_cut(metric, tmp_path, monkeypatch):
  images = [open(path, "rb").read() for path in made.files(tmp_path / "photos", [(40, 52)])]
  pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
  (tmp_path / "out").mkdir()
  disk = Disk(tmp_path / "out", monkeypatch)
  shards.score_shards(metric, [str(tmp_path / "a.parquet")], str(tmp_path / "out"))
  whole = (tmp_path / "out" / "a.parquet").read_bytes()
  found = [left.get("a.parquet") for left in disk.left]
  assert set(found) == {None, whole} and found[-1] == found[-2] == whole
