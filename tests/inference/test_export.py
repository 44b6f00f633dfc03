"""The exported program gives the same scores, in a process that cannot import this package."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import jiqa
from jiqa import train as loop
from jiqa.data.source import open_database
from jiqa.data.splits import TEST, assign
from jiqa.errors import UserError
from jiqa.inference import export, package
from jiqa.inference.metric import Metric
from jiqa.weights.store import load_weights
from tests.inference import made

pytest.importorskip("flatbuffers")

STRANGER = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("jiqa", "configs", "data_builders", "flax"):
      raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import numpy as np
from PIL import Image
from jax import export
program = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))

def padded(image):
  h, w = image.shape[:2]
  return np.pad(image, ((0, -h % 32), (0, -w % 32), (0, 0)), constant_values=77)

example = np.load("example.npz")
got = program.call({name: example[name] for name in ("full", "full_size", "half", "half_size")})
np.testing.assert_allclose(got["score"], example["score"], atol=1e-4)
image = np.load("image.npy")
h, w = image.shape[:2]
half = np.asarray(Image.fromarray(image).resize((w // 2, h // 2), Image.Resampling.BICUBIC))
rows = 3  # any number of rows: the image alone, beside others
batch = {"full": np.stack([padded(image)] * rows), "half": np.stack([padded(half)] * rows)}
batch |= {"full_size": np.int32([[h, w]] * rows), "half_size": np.int32([half.shape[:2]] * rows)}
print(*program.call(batch)["score"])
"""


def test_runs_without_this_package(metric, tmp_path):
  sheet = export.export(metric, tmp_path)
  assert set(sheet["inputs"]) == {"full", "full_size", "half", "half_size"}
  assert json.loads((tmp_path / "model.json").read_text())["card"]["method"] == "reiqa"
  example = np.load(tmp_path / "example.npz")
  assert float(metric(export.synthetic_image())) == pytest.approx(float(example["score"][0]), abs=1e-4)
  image = made.images([(70, 90)])[0]
  np.save(tmp_path / "image.npy", image)
  answer = subprocess.run([sys.executable, "-c", STRANGER], cwd=tmp_path, capture_output=True, text=True, check=False)
  assert answer.returncode == 0, answer.stderr
  np.testing.assert_allclose([float(x) for x in answer.stdout.split()], float(metric(image)), atol=1e-4)


def test_what_has_no_score_is_exported_and_used_as_the_sheet_says(metric, tmp_path):
  sheet = export.export(Metric(metric.models), tmp_path)
  assert sheet["card"]["weights"][0]["folder"] == metric.models[0].folder.name
  answer = subprocess.run(
    [sys.executable, "-c", sheet["use"]], cwd=tmp_path, capture_output=True, text=True, check=False
  )
  assert answer.returncode == 0 and answer.stdout.startswith("features [["), answer


def test_views_of_one_shape_and_scores_of_the_method(brightness, tmp_path):
  metric = jiqa.load(brightness, devices=jax.devices()[:1])
  export.export(metric, tmp_path / "brightness")
  shapes = export.symbolic(export.example_of({"crops": np.zeros((15, 224, 224, 3), np.uint8)}))
  assert shapes["crops"].shape[1:] == (15, 224, 224, 3)
  with pytest.raises(UserError, match="export them one by one"):
    export.export(Metric([*metric.models, *metric.models]), tmp_path)


class Rated:
  """A prepared database as far as packaging looks."""

  name, label, shorter_side = "demo", "spread of the pixels", 0
  metadata = {"range": [0.0, 1.0], "score": "spread of the pixels", "labels_sha256": "ab"}

  def __init__(self, folder, table):
    self.folder, self.table = folder, table

  def __getitem__(self, i):
    name = self.table.image_name[i]
    return {"image": (self.folder / name).read_bytes(), "image_name": name}


def test_packaged_weights_say_how_good_they_are(weights, tmp_path, monkeypatch):
  import pandas as pd

  from jiqa.runtime.checkpoint import Checkpoints
  from jiqa.runtime.state import new_state

  made.files(tmp_path / "images", [(48, 60)] * 30)
  names = [f"{i:04d}.png" for i in range(30)]
  mos = [np.asarray(Image.open(tmp_path / "images" / name)).std() for name in names]
  table = pd.DataFrame({"image_name": names, "reference_name": "", "mos": mos, "split": ""})
  splits = assign(table, "demo", "folds", num_splits=10, seed=0)
  run = tmp_path / "run"
  params, stats, card = load_weights(weights)
  with Checkpoints(run / "checkpoints") as checkpoints:
    checkpoints.save(1, jax.device_put(new_state(params, stats)))
  (run / "config.json").write_text(json.dumps({**card["config"], "data_dir": "/home/me", "data_sha256": {}}))
  monkeypatch.setattr(package, "open_database", lambda name, data_dir, score: Rated(tmp_path / "images", table))
  package.package(run, tmp_path / "small", database="demo", recipe="launch.py ...", licence="Apache-2.0")
  small = jiqa.load(tmp_path / "small", devices=jax.devices()[:1])
  assert {leaf.dtype.name for leaf in jax.tree.leaves(small.models[0].weights)} == {"float32"}  # to compute with
  tested = np.flatnonzero(splits[0] == 2)
  scores = small([tmp_path / "images" / names[i] for i in tested]).score
  measured = small.card["score"]["head"]["test"]
  expected = pd.Series(scores).corr(pd.Series(np.array(mos)[tested]), method="spearman")
  assert measured["srcc"] == pytest.approx(expected) and measured["images"] == len(tested)
  network = small.card["weights"][0]
  assert network["recipe"] == "launch.py ..." and network["dtype"] == "float16" and network["licence"] == "Apache-2.0"
  text = (tmp_path / "small/card.json").read_text()
  assert "/home/me" not in text and not any(name in text for name in names)
  sizes = [sum(path.stat().st_size for path in folder.iterdir()) for folder in (tmp_path / "small", weights)]
  assert sizes[0] < 0.7 * sizes[1]
  assert small.card["score"]["head"]["weights_sha256"] == small.weights_sha256
  with pytest.raises(UserError, match=r"--dtype=int8: expected float16 or float32"):
    package.package(run, tmp_path / "other", database="demo", dtype="int8")


def test_what_half_precision_cannot_hold_and_what_only_training_reads():
  trees = {"params": {"encoder": {"a": np.float32([1, 7e4])}, "head": {"b": np.float32([2])}}}
  with (
    np.errstate(over="ignore"),
    pytest.raises(UserError, match=r"params/encoder/a: holds numbers that float16 cannot; take float32"),
  ):
    package._smaller(trees, "float16", ())
  smaller = package._smaller(trees, "float32", ("params/head",))
  assert list(smaller["params"]) == ["encoder"] and smaller["params"]["encoder"]["a"].tolist() == [1, 7e4]


@pytest.mark.parametrize(("split", "dtype"), [(0, "float32"), (2, "float16")])
def test_packaged_scores_are_measured_on_the_test_images_of_the_runs_split(brightness_run, tmp_path, split, dtype):
  config, workdir = brightness_run
  config.split, config.data[0].protocol, config.evaluation.databases = split, "folds", ("csv/gray",)
  assert loop.train(config, workdir, jax.devices()[:1])
  written = package.package(workdir, tmp_path / "small", database=None, dtype=dtype, data_dir=config.data_dir)
  table = open_database("csv/gray", config.data_dir).table
  parts = assign(table, "csv/gray", "folds", num_splits=3, seed=0, fractions=(0.6, 0.2, 0.2))[split]
  mos = table.mos.to_numpy()[parts == TEST]
  slope = float(load_weights(tmp_path / "small")[0]["slope"])
  errors = slope * np.floor(2.4 * mos + 0.5) / 255 - mos  # the image of the score 2.5 i has the gray 6 i
  told = written["test"]
  assert told["images"] == len(mos) == 8 and told["split"] == split and told["database"] == "csv/gray"
  # The scores are small beside the mos: only close up it shows whether they are those of the rounded weights.
  assert told["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-7)
  assert told["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-7)
  assert json.loads((tmp_path / "small/card.json").read_text())["test"] == told
  assert not (tmp_path / "small/head.safetensors").exists()
