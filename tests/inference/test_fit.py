"""Heads for one's own ratings equal those of the evaluation, and go where `jiqa score` takes them."""

import json
import types

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

import jiqa
from jiqa import evaluate
from jiqa.data.splits import assign
from jiqa.errors import UserError
from jiqa.evaluation import protocol
from jiqa.evaluation.head import load as load_head
from jiqa.inference import fit
from jiqa.inference.loading import Model
from jiqa.inference.metric import Metric
from jiqa.inference.predictor import Prediction, predict_database
from jiqa.runtime.sharding import make_mesh
from tests.inference import made

COUNT = 60


class Ratings:
  """A prepared database as far as prediction looks: records by position."""

  def __init__(self, table, folder):
    self.table, self.folder = table, folder

  def __getitem__(self, i):
    name = self.table.image_name[i]
    return {"image": (self.folder / name).read_bytes(), "image_name": name}


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
  """(folder, label table): dark and light noise, rated by how light it is."""
  folder, rng = tmp_path_factory.mktemp("rated"), np.random.default_rng(0)
  rows = []
  for i in range(COUNT):
    light = rng.uniform(0, 180)
    Image.fromarray((light + rng.uniform(0, 70, (48, 60, 3))).astype(np.uint8)).save(folder / f"{i}.png")
    split = "test" if i % 4 == 0 else "train"
    rows.append((f"{i}.png", "", light / 50 + rng.normal(0, 0.2), split, f"scene {i // 3}"))
  return folder, pd.DataFrame(rows, columns=["image_name", "reference_name", "mos", "split", "scene"])


@pytest.fixture(scope="module")
def bare(weights):
  """The metric without a head."""
  mesh = make_mesh(jax.devices()[:1])
  return Metric([Model(weights, mesh)])


def run(metric, rated, tmp_path, table=None, **options):
  folder, labels = rated
  path = tmp_path / "mos.csv"
  (labels if table is None else table).drop(columns="reference_name").to_csv(path, index=False)
  out = tmp_path / "head.safetensors"
  options = {"out": out, "report_folder": tmp_path / "report", "command": "jiqa fit", "resamples": 100, **options}
  return fit.fit(metric, folder, path, **options), out


def test_equals_the_evaluation_on_the_same_splits(bare, weights, rated, tmp_path):
  results, out = run(bare, rated, tmp_path)
  folder, table = rated
  # As launch.py --mode=evaluate does it.
  splits = assign(table, "mine", "official", num_splits=10, seed=0)
  config = made.config()
  outputs = predict_database(bare.models[0], Ratings(table, folder), np.arange(COUNT), "features", 2**16)
  expected = evaluate.test(config, "mine", table, splits, np.arange(COUNT), outputs)
  np.testing.assert_allclose(results["reiqa"].srcc, expected.srcc, atol=1e-9)
  np.testing.assert_array_equal(results["reiqa"].alpha, expected.alpha)
  # And the head that was saved, on images scored anew, is that of the first split.
  tested = table.image_name[splits[0] == 2]
  scores = jiqa.load(weights, head=out, devices=jax.devices()[:1])([folder / name for name in tested]).score
  np.testing.assert_allclose(scores, expected.predictions[0][splits[0] == 2], atol=1e-4)
  assert evaluate.protocol.measures(scores, table.mos[splits[0] == 2])["srcc"] == pytest.approx(
    expected.srcc[0], abs=1e-9
  )
  assert expected.srcc[0] > 0.8  # there was something to learn
  card = jiqa.load(weights, head=out, devices=jax.devices()[:1]).card["score"]["head"]
  assert card["test"]["srcc"] == pytest.approx(expected.srcc[0]) and card["images"] == 45


def test_without_a_split_of_its_own_all_ratings_count(bare, weights, rated, tmp_path):
  table = rated[1].drop(columns="split").assign(rating=rated[1].mos, mos=rated[1].mos[::-1].to_numpy())
  results, out = run(bare, rated, tmp_path, table, group="scene", mos="rating", seed=3)
  result = results["reiqa"]
  labels = table.assign(reference_name=table.scene, split="")
  np.testing.assert_array_equal(result.splits, assign(labels, "ratings", "folds", num_splits=10, seed=3))
  scene = rated[1].scene.to_numpy()
  for split in result.splits:  # a scene is on one side only
    assert all(len(set(split[scene == each])) == 1 for each in set(scene))
  card = jiqa.load(weights, head=out, devices=jax.devices()[:1]).card["score"]["head"]
  assert card["images"] == COUNT and card["alpha"] in result.alpha
  assert card["test"]["srcc"] == pytest.approx(np.median(result.srcc))
  # Ridge by its definition, on standardised features.
  features = bare.features([rated[0] / name for name in rated[1].image_name]).astype(np.float64)
  spread = features.std(0)  # of units that no image excites, nothing
  z, y = (features - features.mean(0)) / np.where(spread > 0, spread, 1), rated[1].mos.to_numpy()
  solution = np.linalg.solve(z.T @ z + card["alpha"] * np.eye(z.shape[1]), z.T @ (y - y.mean()))
  scores = jiqa.load(weights, head=out, devices=jax.devices()[:1])([rated[0] / "0.png", rated[0] / "1.png"]).score
  np.testing.assert_allclose(scores, z[:2] @ solution + y.mean(), atol=1e-4)
  found = json.loads((tmp_path / "report/report.json").read_text())
  assert found["methods"]["reiqa"]["value"]["srcc"] == pytest.approx(np.median(result.srcc))
  assert (tmp_path / "report/index.html").exists()


class Known:
  """Stands for a metric of two networks, whose features are known: three and two columns."""

  models = [
    types.SimpleNamespace(name=name, outputs={"features": (width,)}, card={"weights_sha256": f"sum of {name}"})
    for name, width in (("one", 3), ("two", 2))
  ]

  def __init__(self, matrix):
    self.matrix = matrix

  def check_features(self):
    pass

  def stream(self, items):
    found = [Prediction(i, item.name, {"features": self.matrix[i]}, 8, 8, 0.0) for i, item in enumerate(items)]
    return reversed(found)


@pytest.mark.parametrize(
  ("kept", "columns", "checksum"),
  [
    (None, slice(0, 5), "sum of one+sum of two"),
    ("one", slice(0, 3), "sum of one"),
    ("two", slice(3, 5), "sum of two"),
  ],
)
def test_the_head_is_that_of_its_columns_and_the_report_begins_with_it(rated, tmp_path, kept, columns, checksum):
  table = rated[1]
  matrix = np.random.default_rng(1).normal(size=(COUNT, 5)).astype(np.float32)
  matrix[:, [0, 4]] += table.mos.to_numpy()[:, None]
  results, out = run(Known(matrix), rated, tmp_path, features=kept)
  head = load_head(out)
  assert list(results) == ["one", "two", "concat"] and head.card["features"] == (kept or "concat")
  splits = assign(table, "ratings", "official", num_splits=fit.SPLITS, seed=0)
  alone = protocol.fit_heads(matrix[:, columns], table.mos.to_numpy(), splits, fit.ALPHAS)
  np.testing.assert_allclose(results[kept or "concat"].predictions, alone.predictions, rtol=1e-6)
  np.testing.assert_allclose(head.weights, alone.heads.weights[0, 0], rtol=1e-6)
  assert head.card["range"] == [table.mos.min(), table.mos.max()] and head.card["weights_sha256"] == checksum
  report = json.loads((tmp_path / "report" / "report.json").read_text())
  assert next(iter(report["methods"])) == (kept or "concat") and report["head"]["features"] == (kept or "concat")


class Scoring(Known):
  """One network that also has a score of its own, the sum of its features."""

  models = Known.models[:1]

  def stream(self, items):
    return (
      p._replace(outputs={**p.outputs, "score": np.float32(p.outputs["features"].sum())}) for p in super().stream(items)
    )


def test_a_score_of_its_own_is_tested_on_the_same_images(rated, tmp_path, capsys):
  table = rated[1].drop(columns="split")
  matrix = np.random.default_rng(2).normal(size=(COUNT, 3)).astype(np.float32)
  matrix[:, 1] += table.mos.to_numpy()
  results, out = run(Scoring(matrix), rated, tmp_path, table)
  assert list(results) == ["one", fit.WITHOUT]
  tests = results["one"].splits == 2
  score, mos = matrix.sum(1), table.mos.to_numpy()
  srcc = np.median([scipy.stats.spearmanr(score[test], mos[test])[0] for test in tests])
  fit.print_results(results, out, tmp_path / "report")
  assert f"without a head: SRCC {srcc:.4f}, PLCC " in capsys.readouterr().out
  report = json.loads((tmp_path / "report" / "report.json").read_text())
  assert list(report["methods"]) == ["one", fit.WITHOUT]
  assert report["methods"][fit.WITHOUT]["value"]["srcc"] == pytest.approx(srcc)
  assert load_head(out).card["features"] == "one"


@pytest.mark.slow
def test_joined_features_are_compared_with_the_best_single_ones(weights, rated, tmp_path, capsys):
  content = made.weights(tmp_path / "content", seed=5, with_head=False, expert="reiqa_content")
  mesh = make_mesh(jax.devices()[:1])
  metric = Metric([Model(weights, mesh), Model(content, mesh)])
  results, out = run(metric, rated, tmp_path)
  assert list(results) == ["reiqa", "reiqa_content", "concat"]
  fit.print_results(results, out, tmp_path / "report")
  best = max(("reiqa", "reiqa_content"), key=lambda name: np.median(results[name].srcc))
  gain = np.median(results["concat"].srcc) - np.median(results[best].srcc)
  assert (
    f"{'beats' if gain > 0 else 'does not beat'} {best}, the best single one: SRCC {gain:+.4f}"
    in capsys.readouterr().out
  )
  both = jiqa.load(weights=[weights, content], head=out, devices=jax.devices()[:1])
  assert both.card["method"] == "reiqa+reiqa_content" and len(both([rated[0] / "0.png"])) == 1
  single, out = run(metric, rated, tmp_path, features="reiqa_content")
  np.testing.assert_array_equal(single["concat"].srcc, results["concat"].srcc)
  assert jiqa.load(content, head=out, devices=jax.devices()[:1]).card["score"]["head"]["features"] == "reiqa_content"


@pytest.mark.parametrize(
  ("change", "options", "message"),
  [
    (lambda t: t.assign(image_name=["1.png", *t.image_name[1:]]), {}, r"mos.csv: '1.png' stands in more than one row"),
    (lambda t: t.assign(mos=[np.nan, *t.mos[1:]]), {}, r"mos.csv: column 'mos' holds .* in line 2"),
    (lambda t: t.assign(split=["x", *t.split[1:]]), {}, r"column 'split' holds 'x'; expected train, validation, test"),
    (lambda t: t.assign(split="train"), {}, r"column 'split' needs both 'train' and 'test'"),
    (lambda t: t.assign(image_name=["gone.png", *t.image_name[1:]]), {}, r"1 of 60 rated .*gone.png: no such"),
    (lambda t: t, {"mos": "score"}, r"mos.csv: no column 'score'; there are"),
    (lambda t: t, {"group": "place"}, r"mos.csv: no column 'place'"),
    (lambda t: t, {"features": "liqe"}, r"--features=liqe: these weights give reiqa"),
    (lambda t: t.iloc[:5], {}, r"at least 3 are needed|cannot be divided"),
  ],
)  # fmt: skip
def test_ratings_that_cannot_be_used_are_named(bare, rated, tmp_path, change, options, message):
  with pytest.raises(UserError, match=message):
    run(bare, rated, tmp_path, change(rated[1]), **options)


def test_other_refusals(bare, rated, brightness, weights, tmp_path):
  with pytest.raises(UserError, match=r"--out=head.npz: expected a name that ends in .safetensors"):
    fit.fit(bare, tmp_path, "mos.csv", out="head.npz", report_folder=tmp_path, command="")
  mesh = make_mesh(jax.devices()[:1])
  with pytest.raises(UserError, match=r"Brightness' gives scores and no features"):
    run(Metric([Model(brightness, mesh)]), rated, tmp_path)
  with pytest.raises(UserError, match=r"two of the weights are of 'reiqa'"):
    run(Metric([Model(weights, mesh), Model(weights, mesh)]), rated, tmp_path)
