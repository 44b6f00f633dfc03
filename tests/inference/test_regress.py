"""Heads on frozen features: every candidate judged, the best one kept, nothing computed twice."""

import json
import shutil
import types

import jax
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import Ridge

from configs import reiqa as config_file
from jiqa.data.source import open_database
from jiqa.data.splits import assign
from jiqa.errors import UserError
from jiqa.evaluation import head
from jiqa.inference import regress as room
from jiqa.inference import views
from jiqa.runtime.sharding import make_mesh
from jiqa.verify import verify
from tests import tiny_experts
from tests.test_evaluate import data_dir  # noqa: F401, a fixture: ten scenes at six strengths of noise


def config_of(data, **weights):
  config = config_file.get_config("regress")
  with config.unlocked():
    config.data_dir = str(data)
    config.weights.update({expert: str(folder) for expert, folder in weights.items()})
    config.evaluation.update(
      databases=("csv/noisy",), protocol="folds", splits=3, alphas=(0.1, 1e3, 5), net_alphas=(0.01, 1.0, 3),
      l1_ratios=(0.1, 0.9), pixels_per_batch=16 * 64 * 64,
    )  # fmt: skip
  return config


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):  # noqa: F811
  folder = tmp_path_factory.mktemp("regress")
  weights = {expert: folder / expert for expert in ("quality", "content")}
  for seed, (expert, place) in enumerate(weights.items()):
    tiny_experts.save(place, expert, seed)
  config, workdir = config_of(data_dir, **weights), folder / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(room, "make_mesh", lambda _: make_mesh(jax.devices()[:1]))
    results = room.regress(config, workdir)
    kept = workdir / "features_csv_noisy.npz"
    before = kept.stat().st_mtime_ns
    again = room.regress(config, workdir)
    assert kept.stat().st_mtime_ns == before and again == results
  return config, workdir, results


def test_every_candidate_is_judged_and_the_best_on_validation_is_kept(run):
  _, workdir, results = run
  found = results["databases"]["csv/noisy"]
  assert json.loads((workdir / "results.json").read_text()) == results
  expected = {f"{what} {how}" for what in ("quality", "content", "concat") for how in ("ridge", "elastic_net")}
  assert set(found["candidates"]) == expected
  validation = {name: np.median(each["validation_srcc"]) for name, each in found["candidates"].items()}
  assert validation[found["chosen"]] == max(validation.values())
  for each in found["candidates"].values():
    assert len(each["srcc"]) == len(each["alpha"]) == len(each["l1_ratio"]) == 3
    assert each["median"]["srcc"] == pytest.approx(np.median(each["srcc"]))
  assert max(each["median"]["srcc"] for each in found["candidates"].values()) > 0.5


def test_the_head_file_scores_as_reported(run):
  config, workdir, results = run
  found = results["databases"]["csv/noisy"]
  kept = head.load(workdir / found["head"])
  database = open_database("csv/noisy", config.data_dir)
  with np.load(workdir / "features_csv_noisy.npz") as file:
    features = np.concatenate([file[expert] for expert in kept.card["features"]], 1)
  scores, mos = kept(features), database.table.mos.to_numpy()
  splits = assign(database.table, "csv/noisy", "folds", num_splits=3, seed=0, fractions=(0.7, 0.1, 0.2))
  test = splits[0] == 2
  assert found["candidates"][found["chosen"]]["srcc"][0] == pytest.approx(
    scipy.stats.spearmanr(scores[test], mos[test])[0]
  )
  card = kept.card
  assert card["range"] == list(database.metadata["range"]) and card["direction"] == "higher is better"
  assert card["database"] == "csv/noisy" and card["images"] == int((splits[0] < 2).sum())
  for key in ("labels_sha256", "split_sha256"):
    assert card[key] == found[key]
  assert list(card["weights_sha256"]) == card["features"]


def test_one_expert_is_enough_and_none_is_refused(run, data_dir, tmp_path, monkeypatch):  # noqa: F811
  config, _, _ = run
  with pytest.raises(UserError, match="both empty"):
    room.regress(config_of(data_dir), tmp_path)
  (tmp_path / "one").mkdir()
  alone = config_of(data_dir, quality=config.weights.quality)
  alone.regressors = ("ridge",)
  monkeypatch.setattr(room, "make_mesh", lambda _: make_mesh(jax.devices()[:1]))
  found = room.regress(alone, tmp_path / "one")["databases"]["csv/noisy"]
  assert set(found["candidates"]) == {"quality ridge"}
  alone.features = ("quality", "colour")
  with pytest.raises(UserError, match=r"config.features has 'colour'; expected content, quality or concat"):
    room.regress(alone, tmp_path / "colour")
  swapped = config_of(data_dir, quality=config.weights.content)
  with pytest.raises(UserError, match=r"holds the content expert, but config.weights.quality names it"):
    room.regress(swapped, tmp_path / "swapped")
  alone.features = ("content",)
  with pytest.raises(UserError, match="none of them can be had"):
    room.regress(alone, tmp_path / "one")


def test_what_configs_called_both_is_concat(run, tmp_path, monkeypatch):
  config, _, results = run
  earlier = config.copy_and_resolve_references()
  earlier.features, earlier.regressors = ("both",), ("ridge",)
  monkeypatch.setattr(room, "make_mesh", lambda _: make_mesh(jax.devices()[:1]))
  found = room.regress(earlier, tmp_path / "run")["databases"]["csv/noisy"]
  assert found["chosen"] == "concat ridge" and list(found["candidates"]) == ["concat ridge"]
  assert found["candidates"]["concat ridge"] == results["databases"]["csv/noisy"]["candidates"]["concat ridge"]


def test_a_head_for_which_nothing_was_chosen_is_not_the_best(run, tmp_path, monkeypatch):
  config = run[0].copy_and_resolve_references()
  config.features, config.evaluation.alphas = ("quality",), (1.0, 1.0, 1)
  monkeypatch.setattr(room, "make_mesh", lambda _: make_mesh(jax.devices()[:1]))
  found = room.regress(config, tmp_path / "run")["databases"]["csv/noisy"]
  assert list(found["candidates"]) == ["quality ridge", "quality elastic_net"]
  assert found["candidates"]["quality ridge"]["validation_srcc"] == [None] * 3
  assert found["chosen"] == "quality elastic_net"


def test_features_are_kept_for_the_same_weights_and_labels_alone(tmp_path, monkeypatch):
  computed = []

  def predict(model, database, positions, _, pixels_per_batch):
    assert pixels_per_batch == config_file.get_config("regress").evaluation.pixels_per_batch
    computed.append(model.card["weights_sha256"])
    return {"features": np.full((len(positions), 2), float(len(computed)), np.float32)}

  class Database:
    name, shorter_side = "noisy", 0

    def __init__(self, labels):
      self.metadata = {"labels_sha256": labels}

    def __len__(self):
      return 3

  def features(labels, **sums):
    models = {name: types.SimpleNamespace(card={"weights_sha256": sha}) for name, sha in sums.items()}
    return room._features(config_file.get_config("regress"), Database(labels), models, tmp_path / "features.npz")

  monkeypatch.setattr(room, "predict_database", predict)
  monkeypatch.setattr(room, "views", lambda model, evaluation, database: [model])
  first = features("ab", quality="q", content="c")
  again = features("ab", quality="q", content="c")
  assert computed == ["q", "c"] and list(again) == ["quality", "content"]
  for name in first:
    np.testing.assert_array_equal(again[name], first[name])
  features("ab", quality="q", content="other")
  features("other", quality="q", content="other")
  assert computed[2:] == ["q", "other"] * 2


def test_features_of_five_crops_are_heads_rows_by_the_arniqa_variant(run, tmp_path, monkeypatch):
  config = config_file.get_config("arniqa")
  config.data_dir, config.weights.quality, config.features = run[0].data_dir, run[0].weights.quality, ("quality",)
  config.evaluation.update(databases=("csv/noisy",), protocol="folds", splits=3)
  monkeypatch.setattr(room, "make_mesh", lambda _: make_mesh(jax.devices()[:1]))
  monkeypatch.setattr(views, "CROP", 40)
  found = room.regress(config, tmp_path / "run")["databases"]["csv/noisy"]["candidates"]
  assert set(found) == {"quality ridge"} and len(set(found["quality ridge"]["alpha"])) == 1
  database = open_database("csv/noisy", config.data_dir)
  with np.load(tmp_path / "run/features_csv_noisy.npz") as file:
    features = file["quality"].astype(np.float64)
  assert features.shape[:2] == (len(database), 5) and np.ptp(features, axis=1).max() > 0
  splits, mos = assign(database.table, "csv/noisy", "folds", num_splits=3, seed=0), database.table.mos.to_numpy()
  for split, alpha, srcc in zip(splits, found["quality ridge"]["alpha"], found["quality ridge"]["srcc"], strict=True):
    train, test = split == 0, split == 2
    ridge = Ridge(alpha=alpha).fit(features[train].reshape(-1, features.shape[2]), np.repeat(mos[train], 5))
    scores = ridge.predict(features[test].reshape(-1, features.shape[2])).reshape(-1, 5).mean(1)
    assert srcc == pytest.approx(scipy.stats.spearmanr(scores, mos[test])[0])


def test_what_it_leaves_is_verified(run, tmp_path):
  shutil.copytree(run[1], tmp_path / "run")
  parts = dict(verify(tmp_path / "run"))
  names = {"config.json", "features_csv_noisy.npz", "head_csv_noisy.safetensors", "results.json"}
  assert set(parts) >= names and not any(parts.values()), parts
  kept = tmp_path / "run/head_csv_noisy.safetensors"
  kept.write_bytes(kept.read_bytes()[:-8])
  (what,) = (what for what, problem in verify(tmp_path / "run") if problem)
  assert what == kept.name
  kept.unlink()
  (problem,) = (problem for _, problem in verify(tmp_path / "run") if problem)
  assert "head_csv_noisy.safetensors, which is not there" in problem
