"""Everything said about several methods over several splits, against SciPy split by split."""

import numpy as np
import pytest
from scipy import optimize, stats

from jiqa.evaluation import bootstrap, significance, study

SETTINGS = {"resamples": 128, "level": 0.8, "seed": 3}


@pytest.fixture(scope="module")
def scored():
  """(methods, mos, references, distortions, tested): thirty references of four images, five random splits."""
  rng = np.random.default_rng(2)
  references = np.array([f"r{i}" for i in np.repeat(np.arange(30), 4)])
  quality = np.repeat(rng.normal(size=30), 4) + 0.7 * rng.normal(size=120)
  mos = 50 + 30 * np.tanh(quality) + rng.normal(size=120)
  tested = np.stack([np.isin(references, rng.choice(references, 18, replace=False)) for _ in range(5)])
  methods = {
    name: np.where(tested, quality + spread * rng.normal(size=120), np.nan)
    for name, spread in (("fine", 0.3), ("near", 0.36), ("poor", 1.5))
  }
  return methods, mos, references, np.array(["blur", "jpeg", "noise"])[np.arange(120) % 3], tested


@pytest.fixture(scope="module")
def found(scored):
  methods, mos, references, distortions, _ = scored
  return study.compare(methods, mos, groups=references, labels={"distortion": distortions}, **SETTINGS)


def logistic_by_scipy(x, y):
  """The four-parameter logistic with the least squares, as a function."""
  curve = lambda x, high, low, middle, width: low + (high - low) / (1 + np.exp(-(x - middle) / abs(width)))
  fitted = optimize.curve_fit(curve, x, y, [y.max(), y.min(), x.mean(), x.std()], maxfev=20_000)[0]
  return lambda x: curve(x, *fitted)


def test_every_measure_of_every_split_and_their_medians(scored, found):
  methods, mos, _, _, tested = scored
  for name, rows in methods.items():
    expected = {key: [] for key in study.MEASURES}
    for row, part in zip(rows, tested, strict=True):
      x, y = row[part], mos[part]
      mapped = logistic_by_scipy(x, y)(x)
      expected["srcc"].append(stats.spearmanr(x, y)[0])
      expected["krcc"].append(stats.kendalltau(x, y)[0])
      expected["plcc"].append(stats.pearsonr(x, y)[0])
      expected["plcc_logistic"].append(stats.pearsonr(mapped, y)[0])
      expected["rmse_logistic"].append(np.sqrt(np.mean((mapped - y) ** 2)))
      expected["rmse"].append(np.sqrt(np.mean((x - y) ** 2)))
      expected["mae"].append(np.mean(np.abs(x - y)))
    for key, values in expected.items():
      np.testing.assert_allclose(found["methods"][name]["splits"][key], values, rtol=1e-5, err_msg=key)
      assert found["methods"][name]["value"][key] == pytest.approx(np.median(values), rel=1e-5)


def test_the_split_shown_is_the_first_methods_median_one_for_all_methods(scored, found):
  methods, mos, references, distortions, tested = scored
  srcc = np.array([stats.spearmanr(row[part], mos[part])[0] for row, part in zip(methods["fine"], tested, strict=True)])
  shown = found["shown_split"]
  assert srcc[shown] == np.median(srcc) and found["images"] == tested.sum(1).tolist()
  part = tested[shown]
  np.testing.assert_array_equal(np.isfinite(found["mos"]), part)
  for name, rows in methods.items():
    told, row = found["methods"][name], rows[shown]
    drawn = bootstrap.interval(row[part], mos[part], groups=references[part], measures=study.INTERVALS, **SETTINGS)
    for key, (low, high) in told["interval"].items():
      assert (low, high) == (drawn[key].low, drawn[key].high)
    for distortion, measured in told["conditions"]["distortion"].items():
      inside = part & (distortions == distortion)
      assert measured["images"] == inside.sum()
      assert measured["srcc"] == pytest.approx(stats.spearmanr(row[inside], mos[inside])[0])
    residual = mos - logistic_by_scipy(row[part], mos[part])(row)
    worst = sorted(np.flatnonzero(part), key=lambda i: -abs(residual[i]))[:10]
    assert [each["image"] for each in told["outliers"]] == [f"row {i}" for i in worst]
    np.testing.assert_allclose([each["residual"] for each in told["outliers"]], residual[worst], atol=1e-2)
    assert [each["mos"] for each in told["outliers"]] == mos[worst].tolist()
  assert found["settings"] == {**SETTINGS, "resampled": "references", "jackknife_groups": 0}


def test_methods_are_compared_on_the_split_shown_and_over_all(scored, found):
  methods, mos, references, _, tested = scored
  shown, names = found["shown_split"], list(methods)
  part, pairs = tested[shown], [(0, 1), (0, 2), (1, 2)]
  rows = [methods[name][shown][part] for name in names]
  z, p = zip(*(significance.meng(rows[i], rows[j], mos[part]) for i, j in pairs), strict=True)
  steps = np.argsort(np.argsort(p))
  holm = np.maximum.accumulate(np.sort(p) * [3, 2, 1]).clip(max=1)[steps]
  assert holm[0] > 0.06  # one pair for which the level decides, two for which it does not
  for level, verdict in ((0.95, 0), (1 - 2 * holm[0], np.sign(z[0]))):
    again = study.compare(methods, mos, groups=references, **{**SETTINGS, "level": level})["comparison"]
    np.testing.assert_array_equal(again["table"], [[0, verdict, 1], [-verdict, 0, 1], [-1, -1, 0]])
  for (i, j), value in zip(pairs, holm, strict=True):
    assert found["comparison"]["p"][i, j] == found["comparison"]["p"][j, i] == pytest.approx(value)
  srcc = [found["methods"][name]["splits"]["srcc"] for name in names]
  over = np.array([stats.wilcoxon(srcc[i], srcc[j]).pvalue for i, j in pairs])
  holm = np.maximum.accumulate(np.sort(over) * [3, 2, 1]).clip(max=1)[np.argsort(np.argsort(over))]
  np.testing.assert_allclose([found["comparison"]["over_splits"][pair] for pair in pairs], holm)


def test_without_a_curve_nothing_is_an_outlier_of_it():
  mos, score = np.arange(12.0), np.full(12, np.nan)
  score[8:11] = 1, 3, 2
  with pytest.warns(RuntimeWarning, match=r"3 image\(s\) for 4 parameters"):
    result = study.compare({"few": score}, mos, labels={"kind": np.array(["x"] * 12)}, resamples=128)
  assert result["methods"]["few"]["outliers"] == [] and result["methods"]["few"]["value"]["srcc"] == pytest.approx(0.5)
