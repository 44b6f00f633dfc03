"""The benchmark of content and quality features: its bookkeeping by hand, its regressors on made-up features."""

import json
import types

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy import stats

from benchmarks import thesis
from data_builders.prepare import prepare
from jiqa.data.source import open_database
from jiqa.errors import UserError
from jiqa.evaluation import significance
from jiqa.evaluation.protocol import TEST, TRAIN, UNUSED, VALIDATION
from jiqa.inference import predictor
from jiqa.inference.inputs import Item
from jiqa.weights.store import save_weights
from tests.helpers import mesh_of, randomised


def official_splits(n=60, tested=12, k=3, seed=0):
  """k choices of an eighth of the first n - tested images."""
  splits = np.full((k, n), TRAIN, np.int8)
  for split, rng in zip(splits, map(np.random.default_rng, range(seed, seed + k)), strict=True):
    split[rng.permutation(n - tested)[: n // 6]] = VALIDATION
  splits[:, n - tested :] = TEST
  return splits


def test_the_corrected_interval_is_students_with_a_larger_variance():
  values = np.array([0.03, 0.011, -0.002, 0.024, 0.017])
  mean, low, high, p = thesis.corrected_t(values, 0.25)
  # Deviations stretched so that the plain variance of the mean is that of the correction: 1 / 5 becomes 1 / 5 + 0.25.
  stretched = values.mean() + (values - values.mean()) * np.sqrt((0.2 + 0.25) / 0.2)
  plain = stats.ttest_1samp(stretched, 0)
  assert p == pytest.approx(plain.pvalue) and mean == pytest.approx(values.mean())
  assert (low, high) == pytest.approx(tuple(plain.confidence_interval(0.95)))
  assert thesis.corrected_t([0.0, 0.0], 0.1)[3] == 1 and thesis.corrected_t([0.5, 0.5], 0.1)[3] == 0


def test_penalties_are_chosen_inside_the_training_part_and_never_on_what_is_predicted():
  splits = official_splits()
  inner = thesis.inner_splits(splits)
  for k, (outer, row) in enumerate(zip(splits, inner, strict=True)):
    following = splits[(k + 1) % len(splits)]
    np.testing.assert_array_equal(row == TEST, outer == VALIDATION)
    np.testing.assert_array_equal(row == UNUSED, outer == TEST)
    np.testing.assert_array_equal(row == VALIDATION, (following == VALIDATION) & (outer == TRAIN))
    assert (row == VALIDATION).any()


def test_last_means_of_lite0_stand_before_the_last_deviations_of_each_scale():
  last = thesis.last_means([16, 24, 40, 80, 112, 192, 320, 1280])
  # 784 channels before the last level, each with a mean and a deviation; 4,128 numbers a scale.
  np.testing.assert_array_equal(last, np.r_[1568:2848, 4128 + 1568 : 4128 + 2848])


def test_the_mlp_learns_what_is_not_linear_and_sees_no_score_of_the_part_it_predicts():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(400, 6)).astype(np.float32)
  features[:, 3] = 7.0  # a constant
  mos = 1 / (1 + np.exp(-1.5 * np.abs(features[:, 0]) + features[:, 1] + 1))
  splits = np.array([[TRAIN] * 250 + [VALIDATION] * 50 + [TEST] * 90 + [UNUSED] * 10], np.int8)
  hidden = np.where(np.isin(splits[0], (TEST, UNUSED)), np.nan, mos)
  predictions = thesis.mlp(features, hidden, splits, epochs=150)
  tested = splits == TEST
  np.testing.assert_array_equal(np.isfinite(predictions), tested)
  assert (predictions[tested] > 0).all() and (predictions[tested] < 1).all()
  assert stats.spearmanr(predictions[tested], mos[tested[0]])[0] > 0.8  # the best linear one has 0.6
  ridge = thesis.ridge(features, mos, splits)
  assert stats.spearmanr(ridge[tested], mos[tested[0]])[0] < 0.75


def test_tables_hold_what_predictions_reach_on_each_part():
  rng, splits, n = np.random.default_rng(1), official_splits(), 60
  mos = rng.uniform(size=n)
  domains = np.array(["a", "b"])[np.arange(n) % 2]
  spreads = {"content": 0.3, "content, last means": 0.5, "quality": 0.4, "both": 0.1, "both, last means": 0.2}
  sets = {name: (mos + rng.normal(0, s, n))[:, None].astype(np.float32) for name, s in spreads.items()}
  first_column = lambda features, mos, splits: np.where(splits == TEST, features[:, 0], np.nan)
  rows, comparisons = thesis.study(sets, mos, splits, domains, {"as it is": first_column})

  srcc = lambda x, rows: stats.spearmanr(x[rows, 0], mos[rows])[0]
  validated, tested = splits == VALIDATION, splits[0] == TEST
  for row in rows:
    x = sets[row["features"]]
    assert row["srcc"]["splits"] == pytest.approx([srcc(x, part) for part in validated])
    assert row["srcc"]["median"] == pytest.approx(np.median(row["srcc"]["splits"]))
    assert row["test"]["srcc"]["value"] == pytest.approx(srcc(x, tested))
    assert row["test"]["plcc"]["value"] == pytest.approx(np.corrcoef(x[tested, 0], mos[tested])[0, 1])
    inside = [srcc(x, part & (domains == "b")) for part in validated]
    assert row["domains"]["b"] == pytest.approx(np.median(inside))
  pair = next(c for c in comparisons if (c["first"], c["second"]) == ("both", "quality"))
  gain = [srcc(sets["both"], part) - srcc(sets["quality"], part) for part in validated]
  mean, *_, p = thesis.corrected_t(gain, 10 / 38)
  assert (pair["gain"], pair["p"], pair["won"]) == pytest.approx((mean, p, sum(g > 0 for g in gain)))
  assert pair["p_holm"] >= pair["p"]
  seen = validated.any(0)
  for where, part in (("pooled", seen), ("test", tested)):
    expected = significance.meng(sets["both"][part, 0], sets["quality"][part, 0], mos[part])
    assert (pair[f"{where}_z"], pair[f"{where}_p"]) == pytest.approx(expected, rel=1e-5)

  lines = thesis.markdown({"rows": rows, "comparisons": comparisons}).splitlines()
  assert lines[0].split(" | ")[7:9] == ["a", "b"] and len(lines) == 2 + 5 + 1 + 2 + 4
  assert f" | {pair['gain']:+.4f} [" in next(line for line in lines if "both over quality" in line)


@pytest.fixture
def small_set(tmp_path):
  """Forty images of 12 pixels, whose brightness is their score, in an official training and test part."""
  folder, values = tmp_path / "images", np.linspace(20, 240, 40).astype(np.uint8)
  folder.mkdir()
  lines = ["image_name,mos,split"]
  for i, value in enumerate(np.random.default_rng(3).permutation(values)):
    Image.fromarray(np.full((12, 12, 3), value)).save(folder / f"{i}.png")
    lines.append(f"{i}.png,{value},{'test' if i % 4 == 0 else 'train'}")
  (folder / "labels.csv").write_text("\n".join(lines))
  prepare("csv/gray", folder, tmp_path / "data")
  return tmp_path / "data"


def test_the_command_writes_both_tables_and_keeps_its_features(small_set, tmp_path, monkeypatch, capsys):
  calls = []

  def predict(network, database, positions, what):
    calls.append(what)
    mos = database.table.mos.to_numpy()[positions]
    noise = np.random.default_rng(len(network)).normal(0, 5, (len(mos), 4))
    return {"features": (mos[:, None] + noise).astype(np.float32)}

  metric = types.SimpleNamespace(check_features=lambda: None, models=["quality"], weights_sha256="1")
  monkeypatch.setattr(thesis, "predict_database", predict)
  monkeypatch.setattr(thesis, "content_network", lambda folder: ("content", np.array([1, 3]), "0"))
  monkeypatch.setattr(thesis.jiqa, "load", lambda weights: metric)
  out = tmp_path / "new" / "found.json"
  command = [f"--data_dir={small_set}", "--database=csv/gray", "--content=none", f"--out={out}", "--splits=2"]
  thesis.main([*command, "--epochs=1", "--limit=38"])
  found = json.loads(out.read_text())
  assert found["images"] == {"train": 25, "validation": 4, "test": 9} and found["weights"] == ["0", "1"]
  numbers = {row["features"]: row["numbers"] for row in found["rows"]}
  assert numbers == {"content": 4, "content, last means": 2, "quality": 4, "both": 8, "both, last means": 6}
  assert [row["regressor"] for row in found["rows"]] == ["ridge", "MLP"] * 5 and len(found["comparisons"]) == 8
  assert found["rows"][0]["test"]["srcc"]["value"] > 0.9
  assert "both over content |" in capsys.readouterr().out
  assert calls == ["found_content", "found_quality"]

  metric.weights_sha256 = "2"  # other weights: their features are made again, the others not
  thesis.main([*command, "--epochs=1", "--limit=38"])
  assert calls == ["found_content", "found_quality", "found_quality"]


def test_features_of_other_images_are_not_used(small_set, tmp_path, monkeypatch):
  database = open_database("csv/gray", small_set)
  monkeypatch.setattr(
    thesis, "predict_database", lambda network, database, rows, what: {"features": np.float32(rows)[:, None]}
  )
  monkeypatch.setattr(thesis, "CHUNK", 7)
  for rows in (np.arange(20), np.arange(20, 40)):
    features = thesis.features_of(None, "0", database, rows, tmp_path / "kept.npz")
    np.testing.assert_array_equal(features[:, 0], rows)


def test_what_cannot_be_compared_is_refused(tmp_path):
  with pytest.raises(UserError, match="validation part of its own"):
    thesis.study({}, np.zeros(60), official_splits(k=1), np.full(60, ""), {})
  save_weights(tmp_path / "other", {"a": np.ones(2, np.float32)}, {}, {"model": "resnet"})
  with pytest.raises(UserError, match=r"resnet.*efficientnet-lite0 OUT"):
    thesis.content_network(tmp_path / "other")


@pytest.mark.slow
def test_content_features_are_those_of_both_scales(tmp_path):
  method = thesis.Content({"variant": 0, "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}, mesh_of(1))
  graphdef, params, stats = randomised(lambda: method.build(None))
  card = {"model": "efficientnet-lite", **method.config}
  save_weights(tmp_path / "lite0", params, stats, card)
  network, last, _ = thesis.content_network(tmp_path / "lite0")
  image = np.random.default_rng(5).integers(0, 256, (40, 57, 3), np.uint8)
  half = np.asarray(Image.fromarray(image).resize((28, 20), Image.Resampling.BICUBIC))
  encode = jax.jit(lambda x: nnx.merge(graphdef, params, stats).encoder(x))
  expected = [np.asarray(encode((x[None].astype(np.float32) - 127) / 128))[0] for x in (image, half)]
  (prediction,) = predictor.stream([network], [Item("image", image)])
  features = prediction.outputs["features"]
  np.testing.assert_allclose(features, np.concatenate(expected), rtol=1e-3, atol=1e-4)
  np.testing.assert_array_equal(features[last][:1280], features[1568:2848])
