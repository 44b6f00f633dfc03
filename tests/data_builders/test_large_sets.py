"""Many shards: Beam and our own threads write the same set, and neither preparing nor reading costs much."""

import time

import numpy as np
import pytest
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2

from data_builders import make_builder, shards
from data_builders.prepare import prepare
from jiqa.data.decode import decode_rgb
from jiqa.data.source import open_database
from jiqa.errors import UserError
from tests.data_builders import dummy_trees


@pytest.fixture
def release(tmp_path, monkeypatch):
  """26 images of unequal sizes in 13 shards of unequal lengths."""
  monkeypatch.setattr(shards, "SHARD_BYTES", 5_000)
  folder = tmp_path / "kadis700k/ref_imgs"
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for i in range(26):
    pixels = rng.integers(0, 256, (8 + i, 40, 3), dtype=np.uint8)
    dummy_trees.Image.fromarray(pixels).save(folder / f"{i:02d}.png")
  return tmp_path


def test_beam_writes_the_same_set(release, tmp_path):
  pytest.importorskip("apache_beam")
  prepare("kadis700k", release, tmp_path / "threads")
  prepare("kadis700k", release, tmp_path / "beam", beam=["--direct_num_workers=1"])
  ours, beams = (open_database("kadis700k", tmp_path / which) for which in ("threads", "beam"))
  assert len(list(ours.path.glob("*.array_record*"))) == len(list(beams.path.glob("*.array_record*"))) > 10
  assert [beams[i]["image"] for i in range(26)] == [ours[i]["image"] for i in range(26)]
  assert beams.metadata["labels_sha256"] == ours.metadata["labels_sha256"]


def test_beam_refuses_damaged_images_by_name(release, tmp_path):
  pytest.importorskip("apache_beam")
  path = release / "kadis700k/ref_imgs/07.png"
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(UserError, match=r"07\.png: .*incomplete"):
    prepare("kadis700k", release, tmp_path / "beam", beam=[])
  assert [file for file in (tmp_path / "beam").rglob("*") if file.is_file()] == []


def test_order_does_not_depend_on_the_number_of_threads(release, tmp_path):
  sets = []
  for workers in (1, 7):
    path = prepare("kadis700k", release, tmp_path / f"of_{workers}", workers=workers)
    sets.append([(file.name, file.read_bytes()) for file in sorted(path.glob("*.array_record*"))])
  assert sets[0] == sets[1]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])  # at which lengths take another byte
def test_serialized_records_are_those_of_tfds(tmp_path, size):
  features = make_builder("demo", tmp_path).info.features
  record = {"image": bytes(range(256)) * (size // 256) + bytes(size % 256), "image_name": "a/ü.png"}
  record |= {"reference_name": "", "raw_score": 0.1, "mos": -2.5}
  record |= {"mos_std": float("nan"), "distortion": "x", "level": -1, "split": "train"}
  serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
  ours, theirs = shards.serialized(record), serializer.serialize_example(features.encode_example(record))
  parse = tf_example_pb2.Example.FromString
  assert str(sorted(parse(ours).features.feature.items(), key=str)) == str(
    sorted(parse(theirs).features.feature.items(), key=str)
  )


def test_preparing_and_reading_cost_a_fraction_of_decoding(tmp_path):
  """Files of KonIQ's size, by processor time, which other programs do not disturb."""
  rng = np.random.default_rng(0)
  ramp = np.add.outer(np.arange(768), np.arange(1024))[..., None] // 7 + rng.integers(0, 40, (768, 1024, 3))
  data = dummy_trees.io.BytesIO()
  dummy_trees.Image.fromarray(ramp.astype(np.uint8)).save(data, format="JPEG", quality=85)
  (tmp_path / "photos").mkdir()
  for i in range(200):
    (tmp_path / f"photos/{i:03d}.jpg").write_bytes(data.getvalue())

  def seconds(function, repeats):
    start = time.process_time()
    for i in range(repeats):
      function(i)
    return (time.process_time() - start) / repeats

  preparing = seconds(lambda _: prepare("image_folder/photos", tmp_path / "photos", tmp_path / "set"), 1) / 200
  database = open_database("image_folder/photos", tmp_path / "set")
  reading = seconds(lambda i: database[i], 200)
  decoding = seconds(lambda i: decode_rgb(data.getvalue()), 10)
  assert preparing < decoding / 3, (preparing, decoding)
  assert reading < decoding / 5, (reading, decoding)
