"""Against SciPy, on random cases with ties, and on everything that has no correlation."""

import warnings

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jiqa.evaluation import correlation

PAIRS = st.integers(3, 30).flatmap(
  lambda n: st.tuples(*[st.lists(st.integers(-5, 5), min_size=n, max_size=n) for _ in range(2)])
)


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.sampled_from([1.0, 0.1, 1e-8, 1e9]))
def test_equals_scipy_with_ties(pair, unit):
  x, y = (np.array(side) * unit for side in pair)
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    for measure in (correlation.srcc, correlation.krcc, correlation.plcc):
      with pytest.warns(correlation.UndefinedCorrelationWarning, match="every"):
        assert np.isnan(measure(x, y))
    return
  assert correlation.srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-10)
  assert correlation.krcc(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-10)
  assert correlation.plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-10)


@pytest.mark.parametrize(
  ("x", "reason"), [([1, 2], "2 image"), ([], "0 image"), ([1, np.nan, 2], "index 1"), ([1, 2, np.inf], "not finite")]
)
@pytest.mark.parametrize("name", ["srcc", "krcc", "plcc"])
def test_undefined_is_nan_and_says_why(name, x, reason):
  with pytest.warns(correlation.UndefinedCorrelationWarning, match=reason):
    assert np.isnan(getattr(correlation, name)(x, np.arange(len(x))))


def test_errors_of_predictions():
  assert correlation.rmse([1, 2, 4], [1, 4, 8]) == pytest.approx(np.sqrt(20 / 3))
  assert correlation.mae([1, 2, 4], [1, 4, 8]) == pytest.approx(2)
  assert correlation.rmse([2], [2]) == 0  # one image is enough, and a constant too
  with pytest.warns(correlation.UndefinedCorrelationWarning):
    assert np.isnan(correlation.mae([], []))


def test_lengths_must_agree():
  with pytest.raises(ValueError, match=r"\(3,\), target \(4,\)"):
    correlation.srcc([1, 2, 3], [1, 2, 3, 4])


def test_tiny_differences_on_a_large_offset_are_not_constant():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert correlation.plcc([1e9, 1e9 + 1, 1e9 + 2], [1, 2, 3]) == pytest.approx(1)
    assert correlation.plcc([1e-200, 2e-200, 3e-200], [1e200, 2e200, 3e200]) == pytest.approx(1)


def test_batches_in_jax_are_scipys_and_undefined_where_ours_are():
  rng = np.random.default_rng(7)
  target = np.round(rng.normal(50, 20, (2, 3, 40)), -1)
  prediction = np.round(target / 30 + rng.normal(size=target.shape), 1) + 1000
  prediction[1, 1], prediction[1, 2, 5], target[0, 2] = 3.3, np.nan, 20
  for traced, oracle in ((correlation.plcc_batch, stats.pearsonr), (correlation.srcc_batch, stats.spearmanr)):
    found = np.asarray(jax.jit(traced)(prediction, target))
    for place in ((0, 0), (0, 1), (1, 0)):
      assert found[place] == pytest.approx(oracle(prediction[place], target[place])[0], abs=1e-4)
    assert np.isnan([found[0, 2], found[1, 1], found[1, 2]]).all()
    assert np.isnan(traced(prediction[0, :, :2], target[0, :, :2])).all()
    alone = traced(prediction[1, 0] - 1000, target[1, 0])
    assert float(alone) == pytest.approx(oracle(prediction[1, 0], target[1, 0])[0], abs=1e-6)
