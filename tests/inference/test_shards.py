"""Shards in, shards out: the scores of the same files, nothing lost or double whatever is broken or interrupted."""

import io
import json
import tarfile

import fsspec
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

import jiqa
from jiqa.errors import UserError
from jiqa.inference import command, shards
from tests.inference import made

SIZES = ((40, 52), (30, 44), (48, 60))


def photos(folder, seed=0):
  """(names, bytes of PNG files)."""
  paths = made.files(folder, SIZES, seed)
  return [path.rpartition("/")[2][:-4] for path in paths], [open(path, "rb").read() for path in paths]


def tar_of(path, names, files, mode="w"):
  """A WebDataset shard; of the second sample the image is broken, the third is preceded by a sample without one."""
  with tarfile.open(path, mode) as tar:

    def add(name, data):
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))

    for i, (name, data) in enumerate(zip(names, files, strict=True)):
      if i == 2:
        add("set/empty.txt", b"alone")
      add(f"set/{name}.txt", f"caption {i}".encode())
      add(f"set/{name}.png", data if i != 1 else data[:60])
      add(f"set/{name}.json", json.dumps({"url": f"u{i}", "width": i}).encode() if i else b"{")
  return str(path)


def scores_of(metric, folder):
  return metric([str(path) for path in sorted(folder.iterdir())]).score


def test_a_tar_is_scored_in_its_order_with_its_sidecars(metric, tmp_path):
  names, files = photos(tmp_path / "photos")
  shard, out = tar_of(tmp_path / "a-000.tar", names, files), tmp_path / "scores"
  assert shards.score_shards(metric, [shard], str(out), keep=["txt", "url"]) == 3
  table = pq.read_table(out / "a-000.parquet").to_pandas()
  assert table.key.tolist() == [f"set/{name}" for name in (*names[:2], "empty", names[2])]
  assert table.row.tolist() == [0, 1, 2, 3]
  assert table.txt.tolist() == ["caption 0", "caption 1", "alone", "caption 2"]
  assert table.url.fillna("").tolist() == ["", "u1", "", "u2"]
  good = [0, 3]
  np.testing.assert_allclose(table.score[good], scores_of(metric, tmp_path / "photos")[[0, 2]], atol=1e-4)
  assert table.score[[1, 2]].isna().all()
  assert table.error[good].isin(["", None]).all()
  assert "set/0001" in table.error[1]
  assert "no image among txt" in table.error[2]
  assert table.width[0] == 52
  assert [path.name for path in out.iterdir()] == ["a-000.parquet"]


def test_what_is_complete_is_not_scored_again_and_other_weights_are_refused(metric, tmp_path, monkeypatch):
  names, files = photos(tmp_path / "photos")
  for i in range(3):
    tar_of(tmp_path / f"s-{i}.tar.gz", names, files, "w:gz")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "s-0.parquet.new").write_bytes(b"left by a kill")
  read, samples = [], shards.samples
  monkeypatch.setattr(shards, "samples", lambda address, keep: read.append(address[-8]) or samples(address, keep))

  def score(**options):
    shards.score_shards(metric, [str(tmp_path / "s-*.tar.gz")], str(tmp_path / "out"), **options)

  score(shard="1/3")
  assert read == ["1"]
  score()
  assert read == ["1", "0", "2"]
  score()
  assert len(read) == 3
  (tmp_path / "out" / "s-2.parquet").unlink()
  tar_of(tmp_path / "s-0.tar.gz", names[:2], files[:2], "w:gz")  # replaced by another
  score()
  assert read[3:] == ["0", "2"]
  assert len(pq.read_table(tmp_path / "out" / "s-0.parquet")) == 2
  score(keep=["txt"])
  assert read[5:] == ["0", "1", "2"]
  other = jiqa.load(made.weights(tmp_path / "w", seed=5), devices=jax.devices()[:1])
  with pytest.raises(UserError, match=r"s-0\.parquet.*other weights"):
    shards.score_shards(other, [str(tmp_path / "s-0.tar.gz")], str(tmp_path / "out"))


@pytest.mark.parametrize("damage", [b"", b"\xff"])  # the second leaves the size as it is
def test_a_shard_that_is_cut_off_keeps_its_rows_and_is_tried_again(metric, tmp_path, damage):
  names, files = photos(tmp_path / "photos")
  shard, out = tar_of(tmp_path / "a.tar", names, files), tmp_path / "out"
  whole = open(shard, "rb").read()
  half = whole[: len(whole) // 2]
  open(shard, "wb").write(half + damage * (len(whole) - len(half)))
  assert shards.score_shards(metric, [shard], str(out)) == 3
  rows = pq.read_table(out / "a.parquet").to_pylist()
  assert rows[0]["key"] == "set/0000"
  assert "cannot be read after" in rows[-1]["error"]
  open(shard, "wb").write(whole)
  shards.score_shards(metric, [shard], str(out))
  assert pq.read_table(out / "a.parquet")["key"].to_pylist() == ["set/0000", "set/0001", "set/empty", "set/0002"]
  (tmp_path / "no.tar").write_bytes(b"no tar")
  assert shards.score_shards(metric, [str(tmp_path / "no.tar")], str(out)) == 3


@pytest.mark.parametrize("form", ["bytes", "huggingface"])
def test_parquet_with_bytes_or_as_hugging_face_writes_it(metric, tmp_path, form):
  names, files = photos(tmp_path / "photos")
  images = [*files, None]
  if form == "huggingface":
    images = [{"bytes": data, "path": f"{name}.png"} for name, data in zip(names, files, strict=True)]
    images += [{"bytes": None, "path": str(tmp_path / "photos" / "0000.png")}]
  table = pa.table({"image": images, "caption": ["a", "b", "c", "d"], "tags": [[1], [], None, [2, 3]]})
  pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=2)
  memory = "memory://scores"
  shards.score_shards(metric, [str(tmp_path / "*.parquet")], memory, keep=["tags", "caption"])
  with fsspec.open(f"{memory}/train-00000-of-00001.parquet") as file:
    rows = pq.read_table(file).to_pylist()
  expected = scores_of(metric, tmp_path / "photos")
  np.testing.assert_allclose([row["score"] for row in rows[:3]], expected, atol=1e-4)
  assert [row["caption"] for row in rows] == ["a", "b", "c", "d"]
  assert [row["tags"] for row in rows] == [[1], [], None, [2, 3]]
  if form == "huggingface":
    assert [row["key"] for row in rows[:3]] == [f"{name}.png" for name in names]
    assert rows[3]["score"] == pytest.approx(expected[0], abs=1e-4)
  else:
    assert [row["key"] for row in rows] == ["0", "1", "2", "3"]
    assert "is empty" in rows[3]["error"]
  with pytest.raises(UserError, match=r"captions.*image"):
    shards.score_shards(metric, [str(tmp_path / "*.parquet")], memory, keep=["captions"], overwrite=True)


@pytest.mark.parametrize("embedded", [False, True])
def test_what_the_datasets_package_writes_is_read_and_what_is_written_it_reads(metric, tmp_path, embedded):
  import datasets

  paths = made.files(tmp_path / "photos", SIZES)
  images = [{"bytes": open(path, "rb").read(), "path": None} if embedded else path for path in paths]
  source = datasets.Dataset.from_dict({"image": images, "caption": ["a", "b", "c"]})
  source.cast_column("image", datasets.Image()).to_parquet(tmp_path / "hf.parquet")
  assert (pq.read_table(tmp_path / "hf.parquet")["image"].to_pylist()[0]["bytes"] is not None) == embedded
  assert shards.score_shards(metric, [str(tmp_path / "hf.parquet")], str(tmp_path / "out"), keep=["caption"]) == 0
  scored = datasets.Dataset.from_parquet(str(tmp_path / "out/hf.parquet"), cache_dir=str(tmp_path / "cache"))
  np.testing.assert_allclose(scored["score"], metric(paths).score, atol=1e-4)
  assert list(scored["caption"]) == ["a", "b", "c"] and list(scored["row"]) == [0, 1, 2]
  best = scored.filter(lambda row: row["score"] >= max(scored["score"]))
  assert len(best) == 1


def test_columns_have_one_type_whatever_cannot_be_read_and_names_that_are_taken(metric, tmp_path):
  pq.write_table(pa.table({"image": [b"no image", None], "score": ["x", "y"]}), tmp_path / "a.parquet")
  assert shards.score_shards(metric, [str(tmp_path / "a.parquet")], str(tmp_path / "out"), keep=["score"]) == 3
  table = pq.read_table(tmp_path / "out/a.parquet")
  assert table.schema.field("score").type == pa.float64() and table["score"].null_count == 2
  assert table["score_of_shard"].to_pylist() == ["x", "y"] and all(table["error"].to_pylist())
  (tmp_path / "out/a.parquet").write_bytes(b"something else")
  with pytest.raises(UserError, match=r"out/a\.parquet: holds something else"):
    shards.score_shards(metric, [str(tmp_path / "a.parquet")], str(tmp_path / "out"))


class Photos(tfds.core.GeneratorBasedBuilder):
  """Photographs with a label."""

  VERSION = tfds.core.Version("1.0.0")
  FILES = ()

  def _info(self):
    features = {
      "image": tfds.features.Image(encoding_format="png"),
      "label": np.int64,
      "file_name": tfds.features.Text(),
    }
    return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

  def _split_generators(self, manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for name, data in self.FILES:
      yield name, {"image": io.BytesIO(data), "label": len(name), "file_name": name}


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_records_of_tfds(metric, tmp_path, form, monkeypatch):
  names, files = photos(tmp_path / "photos")
  monkeypatch.setattr(Photos, "FILES", tuple(zip(names, files, strict=True)))
  builder = Photos(data_dir=tmp_path / "not.tfrecords", file_format="array_record")
  builder.download_and_prepare()
  (path,) = builder.data_path.glob("*array_record*")
  if form == "tfrecord":
    records = list(shards._array_records(str(path)))
    path = path.with_name(path.name.replace("array_record", "tfrecord"))
    frame = lambda data: len(data).to_bytes(8, "little") + b"crc " + data + b"crc "
    path.write_bytes(b"".join(map(frame, records)))
  shards.score_shards(metric, [str(path)], str(tmp_path / "out"), keep=["label"])
  (written,) = (tmp_path / "out").iterdir()
  rows = {row["key"]: row for row in pq.read_table(written).to_pylist()}
  assert sorted(rows) == names
  expected = scores_of(metric, tmp_path / "photos")
  np.testing.assert_allclose([rows[name]["score"] for name in names], expected, atol=1e-4)
  assert rows[names[0]]["label"] == len(names[0])


def test_names_that_cannot_be_scored_are_refused(metric, tmp_path):
  with pytest.raises(UserError, match="no such shard"):
    shards.score_shards(metric, [str(tmp_path / "*.tar")], str(tmp_path / "out"))
  for folder in ("a", "b"):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "x.tar").touch()
  with pytest.raises(UserError, match=r"a/x\.tar and .*b/x\.tar: the scores of both"):
    shards.score_shards(metric, [str(tmp_path / "*" / "x.tar")], str(tmp_path / "out"))
  (tmp_path / "taken").touch()
  with pytest.raises(UserError, match=r"--out=.*taken: no folder can be made"):
    shards.targets([str(tmp_path / "a" / "x.tar")], str(tmp_path / "taken"))
  with pytest.raises(UserError, match=r"missing\.tar"):
    shards.score_shards(metric, [str(tmp_path / "missing.tar")], str(tmp_path / "out"))


@pytest.mark.parametrize("out", ["set", "link", "set/../set/"])
def test_scores_never_replace_the_images(metric, tmp_path, monkeypatch, out):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "set").mkdir()
  (tmp_path / "link").symlink_to("set")
  pq.write_table(pa.table({"image": [b"image"]}), "set/a.parquet")
  before = (tmp_path / "set/a.parquet").read_bytes()
  with pytest.raises(UserError, match=r"--out=.*: the scores of .*set/a\.parquet would replace it; choose another"):
    shards.score_shards(metric, ["set/a.parquet"], out, overwrite=True)
  assert (tmp_path / "set/a.parquet").read_bytes() == before
  with pytest.raises(UserError, match="would replace it"):
    shards.targets([f"file://{tmp_path}/set/a.parquet"], "set")


def test_a_name_like_a_pattern_is_a_name_where_there_is_such_a_file(tmp_path):
  for name in ("x[1].tar", "x1.tar"):
    (tmp_path / name).touch()
  ((address, target),) = shards.targets([str(tmp_path / "x[1].tar")], str(tmp_path / "out"))
  assert address == str(tmp_path / "x[1].tar") and target == str(tmp_path / "out/x[1].parquet")


def test_the_command_tells_shards_from_files(weights, tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(shards, "score_shards", lambda metric, *args, **options: calls.append((args, options)) or 3)
  names, options = (
    ["a.tar", "gs://b/x-*.array_record*", "c.tfrecord-00000-of-00010"],
    {"overwrite": True, "shard": "0/2", "sandbox": True},
  )
  extra = {"frames_per_second": 1.0}
  assert command.score_files(names, weights=weights, out="folder", keep=["txt"], **options, **extra) == 3
  assert calls == [((names, "folder"), {"keep": ["txt"], **options})]
  with pytest.raises(UserError, match="--out=FOLDER"):
    command.score_files(names, weights=weights, **options, **extra)
  with pytest.raises(UserError, match=r"a\.tar is a shard.*two commands"):
    command.score_files(["photo.jpg", "a.tar"], weights=weights, out=str(tmp_path / "o.csv"), **options, **extra)
