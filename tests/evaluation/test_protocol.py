"""The protocol inside a database, against the same steps written with scikit-learn and SciPy."""

import json
import warnings

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.linear_model import Ridge

from jiqa.errors import UserError
from jiqa.evaluation import correlation, protocol

ALPHAS = np.array([0.1, 10.0, 1000.0])


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  references = np.array([f"r{i}" for i in np.repeat(np.arange(30), 5)])
  features = rng.normal(size=(150, 25)).astype(np.float32)
  mos = np.clip(features[:, :5] @ rng.normal(size=5) + rng.normal(size=150), -2, 2)  # clipped, so that there are ties
  splits = np.stack([rng.choice([0, 0, 0, 1, 2], 30)[np.repeat(np.arange(30), 5)] for _ in range(3)])
  splits[:, :2] = -1
  return features, mos, splits.astype(np.int8), references


@pytest.fixture(scope="module")
def result(data):
  features, mos, splits, references = data
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    return protocol.fit_heads(features, mos, splits, ALPHAS, groups=references)


def fitted(x, y, rows, alpha):
  mean, scale = x[rows].mean(0), x[rows].std(0)
  return Ridge(alpha=alpha).fit((x[rows] - mean) / scale, y[rows]).predict((x - mean) / scale)


def test_every_step_equals_scikit_learn(data, result):
  features, mos, splits, _ = data
  x = features.astype(np.float64)
  for k, split in enumerate(splits):
    validation = split == 1
    scores = [stats.spearmanr(fitted(x, mos, split == 0, a)[validation], mos[validation])[0] for a in ALPHAS]
    assert result.alpha[k] == ALPHAS[np.isclose(scores, max(scores), atol=1e-12)].max()  # the smoother of equals
    assert result.validation_srcc[k] == pytest.approx(max(scores), abs=1e-10)
    test = split == 2
    expected = fitted(x, mos, (split == 0) | validation, result.alpha[k])
    np.testing.assert_allclose(result.predictions[k, test], expected[test], atol=1e-7)
    assert np.isnan(result.predictions[k, ~test]).all()
    assert result.srcc[k] == pytest.approx(stats.spearmanr(expected[test], mos[test])[0], abs=1e-10)
    assert result.plcc[k] == pytest.approx(stats.pearsonr(expected[test], mos[test])[0], abs=1e-8)


def test_summary_is_json_and_heads_can_be_read_back(data, result, tmp_path):
  features, _, splits, _ = data
  summary = json.loads(json.dumps(result.summary(), allow_nan=False))
  assert summary["median"]["srcc"] == pytest.approx(np.median(summary["srcc"]))
  assert [sum(counts) for counts in summary["images"]] == [148] * 3
  result.save(tmp_path, "x")
  head = np.load(tmp_path / "heads_x.npz")
  scores = (features - head["mean"][1]) / head["scale"][1] @ head["weights"][1] + head["intercept"][1]
  test = splits[1] == 2
  np.testing.assert_allclose(scores[test], result.predictions[1, test], atol=1e-9)
  assert [path.name for path in tmp_path.iterdir()] == ["heads_x.npz"]


def test_the_test_part_has_no_say(data, result):
  features, mos, splits, _ = data
  other = np.where(splits[0] == 2, 7 * mos[::-1], mos)
  again = protocol.fit_heads(features, other, splits[:1], ALPHAS)
  np.testing.assert_allclose(again.predictions[0], result.predictions[0], atol=1e-9)


@pytest.mark.parametrize("part", [0, 1])
def test_leaks_are_warned_about(data, part):
  features, mos, splits, references = data
  moved = splits[:2].copy()
  image = np.flatnonzero(moved[1] == 2)[0]  # one test image; the others of its reference stay
  moved[1, image] = part
  message = f"split 1: 1 reference.* both the training and the test part, e.g. {references[image]}$"
  with pytest.warns(correlation.EvaluationWarning, match=message):
    protocol.fit_heads(features, mos, moved, [1.0], groups=references)
  with pytest.warns(correlation.EvaluationWarning, match=message):
    protocol.scored(features[:, 0], mos, moved, groups=references)
  moved[1, image] = -1
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    protocol.fit_heads(features, mos, moved, [1.0], groups=references)
    protocol.scored(features[:, 0], mos, moved, groups=references)


@pytest.mark.parametrize(
  ("splits", "message"),
  [
    (np.array([[0, 0, 0, 2, 2, 2]]), "0 validation"),
    (np.array([[0, 0, 0, 1, 1, 1]]), "0 test"),
    (np.array([[0, 0, 0, 1, 1, 3]]), r"splits hold \[3\]"),
    (np.zeros((1, 5)), "do not belong"),
  ],
)
def test_splits_that_cannot_be_used_are_refused(splits, message):
  with pytest.raises(UserError, match=message):
    protocol.fit_heads(np.eye(6), np.arange(6.0), splits)


def test_scores_of_a_methods_own_are_judged_on_the_test_parts(data):
  _, mos, splits, _ = data
  scores = np.round(mos + np.random.default_rng(3).normal(size=150), 1)
  tested = (splits == 2).any(0)
  found = protocol.scored(np.where(tested, scores, np.nan), mos, splits)
  for k, test in enumerate(splits == 2):
    assert found.srcc[k] == pytest.approx(stats.spearmanr(scores[test], mos[test])[0])
    assert found.mae[k] == pytest.approx(np.mean(np.abs(scores[test] - mos[test])))
    np.testing.assert_array_equal(found.predictions[k], np.where(test, scores, np.nan))
  assert found.summary()["images"] == [[int((split == part).sum()) for part in range(3)] for split in splits]


def test_a_test_image_with_no_score_is_named(data):
  _, mos, splits, _ = data
  missing = np.flatnonzero((splits == 2).sum(0) == 1)[0]  # of one split alone
  scores = np.where(np.arange(150) == missing, np.nan, mos)
  with pytest.raises(UserError, match=rf"^image {missing} has the score nan; 1 test image"):
    protocol.scored(scores, mos, splits)
  with pytest.raises(UserError, match=r"^a.png has the score nan"):
    protocol.scored(scores, mos, splits, names=["a.png"] * 150)


def test_breakdown_by_condition(data):
  _, mos, _, _ = data
  labels = np.arange(150) % 4
  prediction = np.where(np.arange(150) < 5, np.nan, mos + np.random.default_rng(0).normal(size=150))
  found = protocol.breakdown(prediction, mos, labels)
  for label in range(4):
    part = (labels == label) & (np.arange(150) >= 5)
    assert found[str(label)]["images"] == part.sum()
    assert found[str(label)]["krcc"] == pytest.approx(stats.kendalltau(prediction[part], mos[part])[0])


def test_domains_are_summarised_by_their_median(data, result):
  _, mos, splits, _ = data
  domains = np.where(np.arange(150) < 75, "first", "")
  summary = protocol.summarise(result, domains)
  parts = [(split == 2) & (domains == "first") for split in splits]
  expected = np.median([stats.spearmanr(row[p], mos[p])[0] for row, p in zip(result.predictions, parts, strict=True)])
  assert summary["domains"]["first"]["srcc"] == pytest.approx(expected)
  assert summary["median"] == result.summary()["median"] and list(summary["domains"]) == ["first"]


def test_arniqas_protocol_is_scikit_learns_ridge_on_five_crops():
  rng = np.random.default_rng(1)
  mos, grid = rng.uniform(1, 100, 90), np.geomspace(1e-3, 1e3, 100)
  features = (mos[:, None, None] * rng.normal(size=40) / 30 + rng.normal(0, 3, (90, 5, 40))).astype(np.float32)
  splits = np.stack([rng.permutation(90) % 4 for _ in range(5)]).astype(np.int8)
  splits[splits == 3] = 0
  result = protocol.fit_heads(features, mos, splits, grid[::-1], standardise=False, refit=False, per_split=False)

  x = features.astype(np.float64)
  regressor = lambda alpha, part: Ridge(alpha).fit(x[part].reshape(-1, 40), np.repeat(mos[part], 5))
  scores = lambda ridge, part: ridge.predict(x[part].reshape(-1, 40)).reshape(-1, 5).mean(1)
  srcc = np.array([
    [stats.spearmanr(scores(regressor(alpha, split == 0), split == 1), mos[split == 1])[0] for alpha in grid]
    for split in splits
  ])  # fmt: skip
  best = int(np.argmax(np.median(srcc, axis=0)))
  assert len(set(np.argmax(srcc, axis=1))) > 1  # splits by themselves would choose otherwise
  np.testing.assert_allclose(result.alpha, grid[best])
  np.testing.assert_allclose(result.validation_srcc, srcc[:, best], atol=1e-10)
  for k, split in enumerate(splits):
    expected = scores(regressor(grid[best], split == 0), split == 2)
    np.testing.assert_allclose(result.predictions[k, split == 2], expected, rtol=1e-6)
    assert result.plcc[k] == pytest.approx(stats.pearsonr(expected, mos[split == 2])[0], abs=1e-7)
  tested = protocol.head_of(result, 2, {})
  np.testing.assert_allclose(tested(x.mean(1)[splits[2] == 2]), result.predictions[2, splits[2] == 2], rtol=1e-6)
  assert tested.card["images"] == int((splits[2] == 0).sum())


def test_of_equally_good_penalties_one_for_all_is_the_smallest():
  mos = np.arange(30.0)
  result = protocol.fit_heads(mos[:, None], mos, np.arange(30)[None] % 3, [0.1, 1.0, 10.0], per_split=False)
  assert result.alpha.tolist() == [0.1]


def test_plcc_after_the_logistic_is_scipys_beside_the_raw_one():
  rng = np.random.default_rng(0)
  score = rng.normal(size=200)
  mos = 20 + 60 / (1 + np.exp(-3 * score)) + rng.normal(0, 2, 200)
  split = np.where(np.arange(200) < 150, 2, 0)[None]
  summary = protocol.scored(score, mos, split).summary()
  x, y = score[:150], mos[:150]
  logistic = lambda x, b1, b2, b3, b4: b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))
  curve, _ = optimize.curve_fit(logistic, x, y, [y.max(), y.min(), 0, 1])
  assert summary["plcc"][0] == pytest.approx(stats.pearsonr(x, y)[0])
  assert summary["plcc_logistic"][0] == pytest.approx(stats.pearsonr(logistic(x, *curve), y)[0], abs=1e-6)
  assert summary["median"]["plcc_logistic"] == summary["plcc_logistic"][0] > summary["plcc"][0] + 0.01
