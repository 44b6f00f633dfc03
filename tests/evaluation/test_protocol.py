"""The in-database protocol and the others, against the same steps written with scikit-learn and SciPy."""

import json
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge

from jiqa.errors import UserError
from jiqa.evaluation import protocol, ridge, transfer

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
    return protocol.in_database(features, mos, splits, ALPHAS, groups=references)


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
  again = protocol.in_database(features, other, splits[:1], ALPHAS)
  np.testing.assert_allclose(again.predictions[0], result.predictions[0], atol=1e-9)


def test_leaks_are_warned_about(data):
  features, mos, splits, references = data
  names = np.array([f"{i}.png" for i in range(150)])
  seen = names[np.flatnonzero(splits[0] == 2)[:4]]
  with pytest.warns(protocol.SeenImagesWarning, match=f"4 test image.*{seen[0]}"):
    protocol.in_database(features, mos, splits[:1], [1.0], names=names, seen=seen)
  mixed = np.random.default_rng(0).permuted(splits, axis=1)
  with pytest.warns(protocol.SeenImagesWarning, match="both the fitted and the test part"):
    protocol.in_database(features, mos, mixed[:1], [1.0], groups=references)


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
    protocol.in_database(np.eye(6), np.arange(6.0), splits)


def test_cross_database(data):
  features, mos, _, references = data
  shifted = {"features": features * 2 + 1, "mos": mos * 10, "groups": references}
  reversed_ = {"features": features, "mos": -mos, "names": ["x"] * 150}
  databases = {"one": {"features": features, "mos": mos, "groups": references}, "two": shifted, "three": reversed_}
  found = transfer.cross_database(databases, ALPHAS)
  assert np.isnan(np.diag(found["srcc"])).all()
  expected = fitted(features.astype(np.float64), mos, np.ones(150, bool), found["alpha"][0])
  assert found["srcc"][0, 2] == pytest.approx(stats.spearmanr(expected, -mos)[0], abs=1e-9)
  assert found["plcc"][0, 2] == pytest.approx(stats.pearsonr(expected, -mos)[0], abs=1e-7)
  # The same features on another scale: the head is wrong by an affine map, which no correlation sees.
  assert found["srcc"][0, 1] == pytest.approx(-found["srcc"][0, 2], abs=1e-9)
  assert found["alpha"][0] == found["alpha"][1]
  with pytest.warns(protocol.SeenImagesWarning):
    databases["one"]["names"] = ["x", *map(str, range(149))]
    transfer.cross_database({name: databases[name] for name in ("one", "three")}, ALPHAS)


def test_leave_one_distortion_out(data):
  features, mos, _, references = data
  labels = np.array(["blur", "noise", "jpeg"])[np.arange(150) % 3]
  found = transfer.leave_one_out(features, mos, labels, ALPHAS, groups=references)
  for label, measured in found.items():
    rest = labels != label
    expected = fitted(features.astype(np.float64), mos, rest, measured["alpha"])[~rest]
    assert measured["images"] == 50
    assert measured["srcc"] == pytest.approx(stats.spearmanr(expected, mos[~rest])[0], abs=1e-9)
  with pytest.raises(UserError, match="at least two"):
    transfer.leave_one_out(features, mos, ["blur"] * 150, ALPHAS)


def test_breakdown_by_condition(data):
  _, mos, _, _ = data
  labels = np.arange(150) % 4
  prediction = np.where(np.arange(150) < 5, np.nan, mos + np.random.default_rng(0).normal(size=150))
  found = transfer.breakdown(prediction, mos, labels)
  for label in range(4):
    part = (labels == label) & (np.arange(150) >= 5)
    assert found[str(label)]["images"] == part.sum()
    assert found[str(label)]["krcc"] == pytest.approx(stats.kendalltau(prediction[part], mos[part])[0])


def test_fewer_labels(data, monkeypatch):
  features, mos, splits, references = data
  fitted_rows = []
  original = ridge.fit
  monkeypatch.setattr(
    ridge, "fit", lambda x, y, rows, *a, **k: (fitted_rows.append(rows), original(x, y, rows, *a, **k))[1]
  )
  found = transfer.data_efficiency(features, mos, splits[:1], (0.2, 0.4), groups=references, alphas=[10.0])
  small, large = (rows[0] & (splits[0] == 0) for rows in fitted_rows)
  assert (small <= large).all() and small.sum() == 30 and large.sum() == 60
  for rows in (small, large):
    assert not set(references[rows]) & set(references[(splits[0] == 0) & ~rows])
  np.testing.assert_array_equal(np.isnan(found[0.2].predictions), np.isnan(found[0.4].predictions))
  with pytest.raises(UserError, match=r"a share of 0\.9"):
    transfer.data_efficiency(features, mos, splits[:1], (0.9,), alphas=[10.0])


def test_folds_keep_contents_together():
  groups = np.repeat(np.arange(11), [9, 1, 4, 4, 2, 7, 3, 3, 5, 1, 6])
  fold = transfer.folds(groups, 45)
  assert all(len(set(fold[groups == group])) == 1 for group in range(11))
  assert np.ptp(np.bincount(fold)) <= 1
