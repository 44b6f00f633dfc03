"""Published and hand-worked values; the false positive rate of every test on simulated data."""

import numpy as np
import pytest
from scipy import stats

from jiqa.evaluation import significance


def scores(rng, n, first=0.8, second=0.8, between=0.7):
  matrix = np.array([[1, first, second], [first, 1, between], [second, between, 1]])
  return np.linalg.cholesky(matrix) @ rng.normal(size=(3, n))


@pytest.mark.parametrize("test", [significance.meng, significance.steiger])
@pytest.mark.parametrize("measure", ["srcc", "plcc"])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_correlation_tests_keep_their_level(test, measure, level):
  rng = np.random.default_rng(0)
  between = {0.5: 0.4, 0.9: 0.85}[level]
  p = []
  for _ in range(1200):
    target, first, second = scores(rng, 100, level, level, between)
    p.append(test(first, second, target, measure)[1])
  assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07


def test_other_tests_keep_their_level():
  rng = np.random.default_rng(1)
  p = {"wilcoxon": [], "resampled_t": [], "residual_f": [], "pitman_morgan": []}
  for _ in range(2000):
    a, b = rng.normal(size=(2, 10))
    p["wilcoxon"].append(significance.wilcoxon(a, b))
    p["resampled_t"].append(significance.resampled_t(a, b, 0.0))  # independent splits: no correction
    a, b = rng.normal(size=(2, 60))
    p["residual_f"].append(significance.residual_f(a, b)[1])
    p["pitman_morgan"].append(significance.pitman_morgan(a + b, a - b)[1])
  for name, values in p.items():
    assert 0.03 <= np.mean(np.array(values) < 0.05) <= 0.07, name


def test_overlapping_training_parts_need_the_corrected_t_test():
  """Splits that share an error: Wilcoxon is fooled, the corrected test is not."""
  rng = np.random.default_rng(2)
  plain, corrected = [], []
  for _ in range(800):
    # Correlation test_share / (1 + test_share) between splits, as Nadeau and Bengio assume.
    gain = rng.normal(size=10) * np.sqrt(0.8) + rng.normal() * np.sqrt(0.2)
    plain.append(significance.wilcoxon(gain, np.zeros(10)))
    corrected.append(significance.resampled_t(gain, np.zeros(10), 0.25))
  assert np.mean(np.array(plain) < 0.05) > 0.15
  assert 0.03 <= np.mean(np.array(corrected) < 0.05) <= 0.07


def test_correlated_residuals_need_pitman_morgan():
  rng = np.random.default_rng(3)
  common = rng.normal(size=500) * 4
  first, second = common + rng.normal(size=500) * 0.5, common + rng.normal(size=500) * 1.5
  assert significance.residual_f(first, second)[1] > 0.05
  statistic, p = significance.pitman_morgan(first, second)
  assert statistic > 0 and p < 0.01


def test_meng_by_hand():
  """r 0.63 and 0.43 with 0.55 between them, n = 50, worked with the published formula."""
  z = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 4)) @ np.eye(4))[0]
  z = np.linalg.qr(np.column_stack([np.ones(50), z]))[0][:, 1:4]  # orthonormal, mean 0
  matrix = np.array([[1, 0.63, 0.43], [0.63, 1, 0.55], [0.43, 0.55, 1]])
  target, first, second = np.linalg.cholesky(matrix) @ z.T
  square = (0.63**2 + 0.43**2) / 2
  h = (1 - (1 - 0.55) / (2 * (1 - square)) * square) / (1 - square)
  expected = (np.arctanh(0.63) - np.arctanh(0.43)) * np.sqrt(47 / (2 * (1 - 0.55) * h))
  found, p = significance.meng(first, second, target, "plcc")
  assert found == pytest.approx(expected, rel=1e-9)
  assert p == pytest.approx(2 * stats.norm.sf(expected), rel=1e-9)
  assert significance.steiger(first, second, target, "plcc")[0] == pytest.approx(expected, rel=0.05)


def test_holm_by_hand():
  np.testing.assert_allclose(significance.holm([0.01, 0.02, 0.03, 0.5]), [0.04, 0.06, 0.06, 0.5])
  np.testing.assert_allclose(significance.holm([0.6, np.nan, 0.6]), [1, np.nan, 1])


def test_win_tie_loss_is_antisymmetric_and_right():
  rng = np.random.default_rng(4)
  target = rng.normal(size=200)
  methods = {
    "good": target + 0.3 * rng.normal(size=200),
    "twin": target + 0.3 * rng.normal(size=200),
    "bad": target + 2 * rng.normal(size=200),
  }
  table, p = significance.win_tie_loss(methods, target)
  np.testing.assert_array_equal(table, [[0, 0, 1], [0, 0, 1], [-1, -1, 0]])
  np.testing.assert_array_equal(p, p.T)
  assert np.isnan(np.diag(p)).all()


def test_identical_methods_tie():
  x = np.arange(20.0)
  y = x + np.sin(x)
  for test in (significance.meng, significance.steiger):
    assert test(x, x, y) == (0.0, 1.0)
  assert significance.wilcoxon(x, x) == significance.resampled_t(x, x, 0.25) == 1
  assert significance.pitman_morgan(x, x)[1] == 1
