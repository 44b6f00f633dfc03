"""Published and hand-worked values; the false positive rate of every test on simulated data."""

import numpy as np
import pytest
from scipy import stats

from jiqa.evaluation import correlation, significance


def scores(rng, n, first=0.8, second=0.8, between=0.7):
  matrix = np.array([[1, first, second], [first, 1, between], [second, between, 1]])
  return np.linalg.cholesky(matrix) @ rng.normal(size=(3, n))


@pytest.mark.parametrize("measure", ["srcc", "plcc"])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_meng_keeps_its_level(measure, level):
  rng = np.random.default_rng(0)
  between = {0.5: 0.4, 0.9: 0.85}[level]
  p = []
  for _ in range(1200):
    target, first, second = scores(rng, 100, level, level, between)
    p.append(significance.meng(first, second, target, measure)[1])
  assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07


def test_wilcoxon_keeps_its_level():
  rng = np.random.default_rng(1)
  p = [significance.wilcoxon(*rng.normal(size=(2, 10))) for _ in range(2000)]
  assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07
  assert np.isnan(significance.wilcoxon([0.5, np.nan], [0.4, 0.3]))


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


def test_meng_of_ranks_by_hand():
  """Three orders of eight images: 1 - 6 sum d^2 / (n^3 - n) by hand, and Bonett and Wright's variance."""
  target, first, second = np.arange(1.0, 9), np.array([2, 1, 4, 3, 5, 6, 8, 7]), np.array([1, 5, 2, 7, 3, 4, 8, 6])
  r1, r2, between = 1 - 6 * 6 / 504, 1 - 6 * 32 / 504, 1 - 6 * 46 / 504
  square = (r1**2 + r2**2) / 2
  h = (1 - min(1, (1 - between) / (2 * (1 - square))) * square) / (1 - square)
  expected = (np.arctanh(r1) - np.arctanh(r2)) * np.sqrt(5 / (2 * (1 - between) * h * (1 + square / 2)))
  found, p = significance.meng(np.exp(first), np.exp(second), target)
  assert found == pytest.approx(expected, rel=1e-9) and expected > 0
  assert p == pytest.approx(2 * stats.norm.sf(expected), rel=1e-9)
  assert significance.meng(second, first, target) == pytest.approx((-found, p))


def test_wilcoxon_by_hand():
  """Of six gains all but the smallest are positive: ranks 2..6 against 1, two of 64 signs are as far out each way."""
  gains = np.array([-0.01, 0.02, 0.03, 0.05, 0.08, 0.13])
  assert significance.wilcoxon(0.5 + gains, np.full(6, 0.5)) == pytest.approx(2 * 2 / 64)


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
  assert significance.meng(x, x, y) == (0.0, 1.0)
  assert significance.wilcoxon(x, x) == 1


def test_a_perfect_correlation_wins_nothing():
  rng = np.random.default_rng(0)
  target = np.arange(40.0)
  noisy, poor = target + 9 * rng.normal(size=40), rng.normal(size=40)
  for perfect in (target**3, -target):
    with pytest.warns(correlation.UndefinedCorrelationWarning, match="exactly 1 or -1"):
      assert np.isnan(significance.meng(perfect, noisy, target)).all()
  with pytest.warns(correlation.UndefinedCorrelationWarning):
    table, p = significance.win_tie_loss({"exact": target, "noisy": noisy, "poor": poor}, target, 0.2)
  np.testing.assert_array_equal(table, [[0, 0, 0], [0, 0, 1], [0, -1, 0]])
  assert np.isnan(p[0]).all() and p[1, 2] == significance.meng(noisy, poor, target)[1]
  assert significance.meng(target, target**3, target) == (0.0, 1.0)
