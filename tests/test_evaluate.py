"""The loop after training, on a set of one's own images: features, heads, files, what they say."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.linear_model
import sklearn.preprocessing
from ml_collections import ConfigDict
from PIL import Image

import jiqa
from configs import reiqa as config_file
from data_builders.prepare import prepare
from jiqa import evaluate as evaluation
from jiqa import train as loop
from jiqa.data.decode import decode_rgb
from jiqa.data.source import Database, open_database
from jiqa.data.splits import run_splits
from jiqa.errors import UserError
from jiqa.evaluation.correlation import EvaluationWarning
from jiqa.inference.predictor import Network, predict_database
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from jiqa.runtime.workdir import check

SCENES, VERSIONS = 10, 6


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Ten scenes, each at six strengths of noise, of different sizes; the score falls with the noise."""
  images, data_dir = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  rows = ["image_name,mos,reference_name"]
  for scene in range(SCENES):
    size = (70, 50) if scene % 2 else (64, 64)
    coarse = Image.fromarray(rng.integers(60, 200, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    for version in range(VERSIONS):
      noisy = np.clip(np.asarray(coarse) + rng.normal(0, 1 + 8 * version, (*size[::-1], 3)), 0, 255)
      name = f"{scene}_{version}.png"
      Image.fromarray(noisy.astype(np.uint8)).save(images / name)
      rows.append(f"{name},{80 - 10 * version + scene / 10},scene{scene}")
  (images / "scores.csv").write_text("\n".join(rows))
  prepare("csv/noisy", images, data_dir)
  return data_dir


def tiny_config(data_dir):
  config = config_file.get_config("demo")
  with config.unlocked():
    config.update(depth=10, width=4, embedding=8, window=48, crop=16, versions=3, kinds=(6, 7), batch_size=30)
    config.update(seed=4, steps=0, epochs=1)  # two steps, one of them warming up
    config.data_dir = str(data_dir)
    config.optimizer.warmup_steps = 1
    config.data[0].update(name="csv/noisy", distortion="")
    config.evaluation.update(databases=("csv/noisy",), splits=3, pixels_per_batch=16 * 64 * 64)
  return config


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  config, workdir = tiny_config(data_dir), tmp_path_factory.mktemp("run")
  assert loop.train(config, workdir, jax.devices()[:1])
  return config, workdir, evaluation.evaluate(config, workdir, jax.devices()[:1])


def ridge(x, mos, rows, alpha):
  """Scores of all images by scikit-learn's ridge on the standardised features of some rows."""
  scaler = sklearn.preprocessing.StandardScaler().fit(x[rows])
  model = sklearn.linear_model.Ridge(alpha=alpha).fit(scaler.transform(x[rows]), mos[rows])
  return model.predict(scaler.transform(x))


def test_results_hold_what_is_promised_and_repeat_the_printed_medians(run):
  _, workdir, results = run
  assert json.loads((workdir / "results.json").read_text()) == json.loads(json.dumps(results))
  for summary in (results, results["untrained"]):
    for measure in ("srcc", "plcc"):
      assert len(summary[measure]) == 3
      assert summary["median"][measure] == pytest.approx(np.median(summary[measure]))
  assert results["srcc"] != results["untrained"]["srcc"]
  assert results["config"]["crop"] == 16 and results["seed"] == 4 and results["step"] == 2
  assert {"jax", "python", "pillow"} <= set(results["versions"])
  assert len(results["weights_sha256"]) == 16 and results["command"]
  assert results["databases"]["csv/noisy"]["split_sha256"] == results["split_sha256"]
  assert Image.open(workdir / "scatter_csv_noisy.png").size[0] > 300
  told = json.loads((workdir / "report" / "report.json").read_text())
  for method, summary in (("trained", results), ("untrained", results["untrained"])):
    assert told["methods"][method]["splits"]["srcc"] == pytest.approx(summary["srcc"])
  assert told["settings"]["resampled"] == "references" and told["settings"]["seed"] == 4
  assert "trained" in (workdir / "report" / "report.md").read_text()
  records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert {"step", "loss", "learning_rate", "images_per_second"} <= set(records[0])


def test_pristine_images_are_level_0_and_no_reason_for_a_warning(tmp_path):
  mos = np.random.default_rng(0).random(40)
  level = np.arange(40) % 4 - 1
  table = pd.DataFrame({"image_name": [f"{i}.png" for i in range(40)], "reference_name": "", "level": level})
  table["distortion"], table["mos"] = np.where(level < 0, "", "blur"), np.where(level < 0, 1.0, mos)
  table.loc[5, "level"] = -1  # distorted, at a level that nobody tells
  database = SimpleNamespace(name="demo", table=table, domains=[""] * 40, label="a proxy")
  config = ConfigDict({"method": "lml", "split": -1, "seed": 0, "evaluation": {"databases": ("demo",)}})
  results = {"trained": SimpleNamespace(predictions=np.where(np.arange(40) == 39, np.nan, mos)[None])}
  evaluation.write_report(config, database, results, tmp_path)
  told = json.loads((tmp_path / "report" / "report.json").read_text())
  of_level = told["methods"]["trained"]["conditions"]["level"]
  assert {key: found["images"] for key, found in of_level.items()} == {"": 1, "0": 10, "1": 9, "2": 10, "3": 9}
  assert told["warnings"] == [] and of_level["0"]["srcc"] is None and of_level["1"]["srcc"] == pytest.approx(1)
  page = (tmp_path / "report" / "index.html").read_text()
  assert 'class="warn"' not in page and "every SSIM is 1.0" in page and "<th>SSIM</th>" in page and "MOS" not in page


def test_results_are_those_of_scikit_learn_on_the_features(run, data_dir):
  config, workdir, results = run
  database = open_database("csv/noisy", data_dir)
  mesh = make_mesh(jax.devices()[:1])
  method, (tx, _, _) = loop.build(config, mesh), loop.build_optimizer(config, len(database))
  fresh = loop.init_state(config, method, tx, mesh)
  state = Checkpoints(workdir / "checkpoints").restore(fresh)
  splits, mos = run_splits(config, database.table, "csv/noisy", "folds"), database.table.mos.to_numpy()
  heads = np.load(workdir / "heads_csv_noisy.npz")
  alphas = np.geomspace(*config.evaluation.alphas[:2], int(config.evaluation.alphas[2]))
  for told, of in ((results["untrained"], fresh), (results, state)):
    network = Network.of_state(method, of, mesh)
    features = predict_database(network, database, np.arange(len(database)), "test")["features"]
    for k, split in enumerate(splits):
      x, test = features.astype(np.float64), split == 2
      by_alpha = [ridge(x, mos, split == 0, alpha) for alpha in alphas]
      srcc = [scipy.stats.spearmanr(scores[split == 1], mos[split == 1])[0] for scores in by_alpha]
      assert told["validation_srcc"][k] == pytest.approx(max(srcc), abs=1e-12)
      alpha = told["alpha"][k]
      assert srcc[np.abs(alphas / alpha - 1).argmin()] == pytest.approx(max(srcc), abs=1e-12)
      score = ridge(x, mos, split < 2, alpha)[test]
      assert told["srcc"][k] == pytest.approx(scipy.stats.spearmanr(score, mos[test])[0], abs=1e-12)
      assert told["krcc"][k] == pytest.approx(scipy.stats.kendalltau(score, mos[test])[0], abs=1e-12)
      assert told["plcc"][k] == pytest.approx(scipy.stats.pearsonr(score, mos[test])[0], abs=1e-6)
      assert told["rmse"][k] == pytest.approx(np.sqrt(np.mean((score - mos[test]) ** 2)), rel=1e-6)
      assert told["images"][k] == [int((split == part).sum()) for part in range(3)]
  for k, split in enumerate(splits):  # and the heads that were kept are the trained network's
    saved = (x - heads["mean"][k]) / heads["scale"][k] @ heads["weights"][k] + heads["intercept"][k]
    np.testing.assert_allclose(saved, ridge(x, mos, split < 2, results["alpha"][k]), rtol=1e-6)

  alone = jax.jit(method.predict)
  for i in (0, 7, 20):  # of a batch and alone, padded and not: the same features
    views = method.preprocess_eval(decode_rgb(database[i]["image"]))
    batch = {name: view[None] for name, view in views.items()}
    batch |= {name + "_size": np.int32([view.shape[:2]]) for name, view in views.items()}
    expected = np.asarray(alone(*network.weights, batch)["features"])[0]
    np.testing.assert_allclose(features[i], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_scores_are_of_the_weights_that_were_evaluated_and_of_no_others(run, tmp_path):
  _, workdir, results = run
  assert jiqa.load(workdir).weights_sha256 == results["weights_sha256"]
  shutil.copytree(workdir, tmp_path / "run")
  told = json.loads((tmp_path / "run/results.json").read_text())
  (tmp_path / "run/results.json").write_text(json.dumps(told | {"weights_sha256": "0123456789abcdef"}))
  with pytest.raises(UserError, match=r"features of the weights 0123456789abcdef, .*launch.py --mode=evaluate"):
    jiqa.load(tmp_path / "run")
  (tmp_path / "run/results.json").write_text("{]")
  with pytest.raises(UserError, match=r"results.json: is damaged"):
    jiqa.load(tmp_path / "run")


@pytest.mark.parametrize("output", ["score", "features"])
def test_leaks_are_warned_about_whatever_a_network_gives(output):
  table = pd.DataFrame({"image_name": list("abcdefgh"), "mos": np.arange(8.0), "reference_name": list("ppqqrrss")})
  config = ConfigDict({"split": -1, "method": "m", "evaluation": {"alphas": (1.0, 1.0, 1)}})
  predicted = {"score": np.arange(8.0), "features": np.eye(8, dtype=np.float32)}
  split = np.array([[0, 0, 0, 2, 2, 2, 2, 2]])  # q stands on both sides
  with pytest.warns(EvaluationWarning, match="both the training and the test part, e.g. q"):
    evaluation.test(config, "set", table, split, np.arange(8), {output: predicted[output]})


@pytest.mark.parametrize("split", [-1, 1])
def test_images_that_a_run_is_tested_on_are_not_read_in_training(split, data_dir, brightness_run, monkeypatch):
  config, workdir = brightness_run
  config.update(data_dir=str(data_dir), split=split, seed=3)
  config.data[0].update(name="csv/noisy", protocol="folds")
  config.evaluation.databases = ("csv/noisy",)
  read, reader = set(), Database.__getitem__
  monkeypatch.setattr(Database, "__getitem__", lambda self, i: read.add(i) or reader(self, i))
  assert loop.train(config, workdir, jax.devices()[:1])
  trained = read.copy()
  read.clear()
  evaluation.evaluate(config, workdir, jax.devices()[:1])
  tested = np.isfinite(np.load(workdir / "scores_csv_noisy.npz")["predictions"])
  assert tested.shape == (3 if split < 0 else 1, SCENES * VERSIONS) and tested.any(1).all()
  assert read == (set(range(SCENES * VERSIONS)) if split < 0 else set(np.flatnonzero(tested[0])))
  scenes = open_database("csv/noisy", data_dir).table.reference_name.to_numpy()
  assert not set(scenes[sorted(trained)]) & set(scenes[tested.any(0)])
  if split < 0:  # all others train
    assert trained == set(np.flatnonzero(~tested.any(0)))
  else:  # of the ten scenes two are tested, two kept for validation
    assert len(trained) == 6 * VERSIONS and tested.sum() == 2 * VERSIONS


def test_a_run_is_tested_by_the_protocol_that_it_was_trained_by(run, tmp_path):
  config, workdir, _ = run
  trained = config.copy_and_resolve_references()
  trained.data[0].protocol = "folds"
  told = json.loads((workdir / "config.json").read_text()) | json.loads(trained.to_json_best_effort())
  (tmp_path / "config.json").write_text(json.dumps(told))
  trained.evaluation.fractions = (0.5, 0.0, 0.5)
  with pytest.raises(UserError, match=r"evaluation.fractions was \[0.4, 0.4, 0.2\], is \[0.5, 0.0, 0.5\]"):
    check(json.loads(trained.to_json_best_effort()) | {"data_sha256": told["data_sha256"]}, tmp_path)
  trained.evaluation.protocol = "official"
  with pytest.raises(UserError, match="trained on what protocol 'folds' leaves it"):
    evaluation.check_trained_protocol(trained, "csv/noisy")


def test_another_config_than_the_trained_one_is_refused(run):
  config, workdir, _ = run
  changed = config.copy_and_resolve_references()
  changed.seed = 1
  with pytest.raises(UserError, match="seed was 4, is 1"):
    evaluation.evaluate(changed, workdir)


def test_a_schedule_of_epochs_is_evaluated_where_the_run_counts_steps(data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.update(steps=2, epochs=0)
  config.optimizer.update(name="sgd", schedule="moco", warmup_steps=0, learning_rate=0.01)
  config.evaluation.databases = ()
  assert loop.train(config, tmp_path, jax.devices()[:1])
  assert evaluation.evaluate(config, tmp_path, jax.devices()[:1])["step"] == 2


def test_evaluating_before_training_is_refused(data_dir, tmp_path):
  with pytest.raises(UserError, match="train first"):
    evaluation.evaluate(tiny_config(data_dir), tmp_path / "empty")
