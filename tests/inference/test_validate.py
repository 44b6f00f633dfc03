"""Methods that predict scores: trained on the training part, chosen on validation, judged on test."""

import hashlib
import json

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict
from PIL import Image

from data_builders.prepare import prepare
from jiqa import evaluate as evaluation
from jiqa import train as loop
from jiqa.data.source import Database, open_database
from jiqa.data.splits import TEST, TRAIN, VALIDATION, assign, run_splits
from jiqa.errors import UserError
from jiqa.inference import validation as validation_room
from jiqa.inference.validation import Validation
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from jiqa.weights.store import save_weights
from tests import brightness_method

COUNT = 60


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Sixty gray images; the score is their brightness and a little noise."""
  images, data_dir = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("data")
  rng, rows = np.random.default_rng(0), ["image_name,mos"]
  for i in range(COUNT):
    level = int(rng.integers(0, 256))
    Image.new("RGB", (20 + i % 3, 16), (level,) * 3).save(images / f"{i}.png")
    rows.append(f"{i}.png,{level / 2.55 + rng.normal(0, 5):.3f}")
  (images / "scores.csv").write_text("\n".join(rows))
  prepare("csv/gray", images, data_dir)
  return data_dir


@pytest.fixture
def config(data_dir, monkeypatch):
  entry = {"name": "csv/gray", "weight": 0.0, "count": 0, "protocol": "folds", "distortion": ""}
  return ConfigDict(
    {
      "method": brightness_method.NAME, "seed": 0, "split": 1, "data": [ConfigDict(entry)], "data_dir": str(data_dir),
      "threads": 1, "init_from": "", "batch_size": 8, "epochs": 0, "steps": 12,
      "accumulate": 1, "remat": False, "sharding": "replicated",
      "optimizer": {
        "name": "sgd", "schedule": "cosine", "learning_rate": 0.2, "weight_decay": 0.0, "warmup_steps": 0,
        "clip_norm": 0.0,
      },
      "checkpoint_every": 5, "checkpoints_kept": 2, "validate_every": 4, "log_every": 1,
      "evaluation": {
        "databases": ("csv/gray",), "protocol": "folds", "splits": 3, "fractions": (0.6, 0.2, 0.2),
        "alphas": (1.0, 1.0, 1), "pixels_per_batch": 8 * 32 * 32, "untrained": True, "checkpoint": "best",
      },
    }
  )  # fmt: skip


def records(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_validation_predicts_as_many_pixels_at_once_as_the_config_says(config, tmp_path, monkeypatch):
  config.evaluation.pixels_per_batch = 5 * 32 * 32
  asked, predict = [], validation_room.predict_database

  def noted(*arguments):
    asked.append(arguments[4])
    return predict(*arguments)

  monkeypatch.setattr(validation_room, "predict_database", noted)
  loop.train(config, tmp_path, jax.devices()[:1])
  assert set(asked) == {5 * 32 * 32}


def test_a_split_trains_on_its_own_training_part_alone(config):
  sources, _, _ = loop.open_sources(config)
  table = open_database("csv/gray", config.data_dir).table
  split = run_splits(config, table, "csv/gray", "folds")
  assert split.shape == (1, COUNT)
  expected = set(table.image_name[split[0] == TRAIN])
  assert {record["image_name"] for record in (sources[0][i] for i in range(len(sources[0])))} == expected
  config.split = 0
  assert (run_splits(config, table, "csv/gray", "folds") != split).any()
  config.split, config.data[0].protocol = 4, "official"
  with pytest.raises(UserError, match="official"):
    loop.open_sources(config)


def test_scores_are_validated_and_judged_on_parts_never_trained_on(config, tmp_path):
  assert loop.train(config, tmp_path, jax.devices()[:1])
  validations = [r for r in records(tmp_path) if "validation_srcc" in r]
  assert [r["step"] for r in validations] == [4, 8, 12]
  results = evaluation.evaluate(config, tmp_path, jax.devices()[:1])
  table = open_database("csv/gray", config.data_dir).table
  test = run_splits(config, table, "csv/gray", "folds")[0] == TEST
  predictions = np.load(tmp_path / "scores_csv_gray.npz")["predictions"][0]
  assert (np.isfinite(predictions) == test).all()
  assert results["srcc"][0] > 0.9 and results["further"]["rows"] == test.sum()
  assert results["further"]["error"] == pytest.approx(results["mae"][0])
  assert results["step"] == 4  # of equals the earliest is kept
  # a slope of either sign is all there is to learn
  assert abs(results["untrained"]["srcc"][0]) == pytest.approx(results["srcc"][0])


@pytest.fixture
def opposed(config, tmp_path):
  """(config, names): on sixty gray images; the score rises with the brightness of those named, and falls elsewhere."""
  images, table = tmp_path / "images", pd.DataFrame({"image_name": [f"{i}.png" for i in range(COUNT)]})
  rises = assign(
    table.assign(reference_name="", split=""), "csv/opposed", "folds", seed=7, fractions=(0.6, 0.2, 0.2), num_splits=2
  )[1] == VALIDATION  # fmt: skip
  images.mkdir()
  for i in range(COUNT):
    Image.new("RGB", (16, 16), (4 * i,) * 3).save(images / f"{i}.png")
  table.assign(mos=np.where(rises, 4.0, -4.0) * np.arange(COUNT)).to_csv(images / "scores.csv", index=False)
  prepare("csv/opposed", images, tmp_path / "data")
  config.update(data_dir=str(tmp_path / "data"), seed=7)
  config.evaluation.databases = ("csv/opposed",)
  return config, set(table.image_name[rises])


class Notes(dict):
  """Stands for the writer of a run."""

  def note(self, step, values):
    self[step] = values


def test_the_state_that_agrees_best_with_the_validation_part_is_kept(opposed, tmp_path, monkeypatch):
  config, validation_part = opposed
  config.data[0].name = "csv/opposed"
  read, reader = [], Database.__getitem__
  monkeypatch.setattr(Database, "__getitem__", lambda self, i: read.append(i) or reader(self, i))
  mesh = make_mesh(jax.devices()[:1])
  method = loop.build(config, mesh)
  validation, notes = Validation(config, method, mesh, tmp_path), Notes()
  state = method.init(jax.random.key(0))
  for step, slope in ((4, -1.0), (8, 2.0), (12, 0.0), (16, -3.0), (20, 5.0)):
    validation.evaluate(step, state.replace(params={"slope": jnp.float32(slope)}), notes)
  measured = [notes[step]["validation_srcc"] for step in (4, 8, 12, 16, 20)]
  np.testing.assert_allclose(measured, [-1, 1, np.nan, -1, 1], atol=1e-9)
  with Checkpoints(tmp_path / "best", keep=1, best="srcc") as best:
    assert best.steps() == [8] and best.best_metrics()["srcc"] == pytest.approx(1)
    assert float(best.restore(state).params["slope"]) == 2
  names = open_database("csv/opposed", config.data_dir).table.image_name
  assert {names[i] for i in read} == validation_part and len(read) == 5 * len(validation_part)


def test_the_mean_over_the_databases_decides(config, data_dir, tmp_path):
  images = tmp_path / "images"
  images.mkdir()
  for i in range(20):
    Image.new("RGB", (16, 16), (12 * i,) * 3).save(images / f"{i}.png")
  pd.DataFrame({"image_name": [f"{i}.png" for i in range(20)], "mos": -np.arange(20.0)}).to_csv(images / "scores.csv")
  prepare("csv/turned", images, data_dir)
  config.evaluation.databases = ("csv/turned", "csv/gray")
  mesh, notes = make_mesh(jax.devices()[:1]), Notes()
  method = loop.build(config, mesh)
  Validation(config, method, mesh, tmp_path).evaluate(3, method.init(jax.random.key(0)), notes)
  turned, gray = (notes[3][f"validation_srcc/{name}"] for name in config.evaluation.databases)
  assert abs(turned) == pytest.approx(1) and 0.5 < -gray * np.sign(turned) < 1
  assert notes[3]["validation_srcc"] == pytest.approx((turned + gray) / 2)
  with Checkpoints(tmp_path / "best", keep=1, best="srcc") as best:
    assert best.best_metrics()["srcc"] == pytest.approx((turned + gray) / 2)


def test_the_best_state_survives_a_kill_between_checkpoint_and_validation(config, tmp_path):
  assert loop.train(config, tmp_path / "whole", jax.devices()[:1])
  config.checkpoint_every = 4  # a checkpoint at step 8, then the end before its validation
  judge, judged = Validation.evaluate, []

  class Killed(Exception):
    pass

  def kill_at_8(self, step, state, log):
    judged.append(step)
    if step == 8:
      raise Killed
    judge(self, step, state, log)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Validation, "evaluate", kill_at_8)
    with pytest.raises(Killed):
      loop.train(config, tmp_path / "cut", jax.devices()[:1])
  assert loop.train(config, tmp_path / "cut", jax.devices()[:1])

  def without_times(workdir):
    timed = ("images_per_second", "input_wait", "tflops_per_second")
    return [{k: v for k, v in r.items() if k not in timed} for r in records(workdir)]

  assert judged == [4, 8] and without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
  kept = [Checkpoints(tmp_path / run / "best", keep=1, best="srcc") for run in ("cut", "whole")]
  assert kept[0].best_metrics() == kept[1].best_metrics() and kept[0].latest_step() == kept[1].latest_step()


def test_training_starts_from_given_weights(config, tmp_path, monkeypatch):
  save_weights(tmp_path / "weights", {"slope": np.float32(3)}, {}, {"model": "brightness"})
  config.init_from = str(tmp_path / "weights")
  config.optimizer.learning_rate, config.steps = 0.0, 1
  loop.train(config, tmp_path / "run", jax.devices()[:1])
  config.evaluation.checkpoint = "newest"
  results = evaluation.evaluate(config, tmp_path / "run", jax.devices()[:1])
  assert results["srcc"] == results["untrained"]["srcc"] and results["srcc"][0] > 0.9
  # The same weights at an address, and others under their digest.
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  files = {name: (tmp_path / "weights" / name).read_bytes() for name in ("weights.safetensors", "card.json")}
  fsspec.filesystem("memory").pipe({f"/start/{name}": data for name, data in files.items()})
  digest = hashlib.sha256(b"".join(files.values())).hexdigest()
  config.init_from = f"memory://start@sha256:{digest}"
  loop.train(config, tmp_path / "again", jax.devices()[:1])
  assert evaluation.evaluate(config, tmp_path / "again", jax.devices()[:1])["srcc"] == results["srcc"]
  config.init_from = f"memory://start@sha256:{digest[::-1]}"
  with pytest.raises(UserError, match="they are not used"):
    loop.train(config, tmp_path / "tampered", jax.devices()[:1])
  config.init_from = str(tmp_path / "nothing")
  with pytest.raises(UserError, match="not there"):
    loop.train(config, tmp_path / "other", jax.devices()[:1])


def test_what_cannot_be_validated_is_refused(config, tmp_path):
  config.evaluation.checkpoint = "latest"
  with pytest.raises(UserError, match="expected newest or best"):
    evaluation.evaluate(config, tmp_path)
  with pytest.raises(UserError, match="expected newest, or best"):
    loop.train(config, tmp_path, jax.devices()[:1])
  config.evaluation.checkpoint = "newest"
  config.split = -1
  with pytest.raises(UserError, match=r"config.split is -1"):
    loop.train(config, tmp_path, jax.devices()[:1])
