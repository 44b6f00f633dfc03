"""Against SciPy's curve_fit from several starts."""

import warnings

import numpy as np
import pytest
from scipy import optimize, special

from jiqa.evaluation import correlation, logistic


def four(x, b1, b2, b3, b4):
  return b2 + (b1 - b2) * special.expit((x - b3) / abs(b4))


def best_of_five(x, y, rng):
  start = [y.max(), y.min(), x.mean(), x.std()]
  errors = []
  for i in range(5):
    jitter = 1 + 0.5 * rng.normal(size=len(start)) * (i > 0)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optimize.curve_fit(four, x, y, np.array(start) * jitter, maxfev=20_000)[0]
        errors.append(np.sum((four(x, *found) - y) ** 2))
    except RuntimeError:
      continue
  return min(errors)


@pytest.mark.parametrize("shape", ["logistic", "steep", "line", "falling", "large units", "ties"])
def test_no_worse_than_scipy_from_five_starts(shape):
  rng = np.random.default_rng(len(shape))
  x = rng.normal(size=150)
  y = {"line": x, "steep": np.tanh(20 * x), "falling": -np.tanh(x)}.get(shape, np.tanh(x - 0.5)) + rng.normal(
    size=150
  ) / 5
  if shape == "large units":
    x, y = 1000 * x + 1e5, 100 * y + 3e3
  if shape == "ties":
    x, y = np.round(x), np.round(y, 1)
  found = logistic.fit(x, y)
  assert found.sse == pytest.approx(np.sum((found(x) - y) ** 2), rel=1e-6)
  assert found.sse <= best_of_five(x, y, rng) * (1 + 1e-6)


def test_a_line_is_reported_as_degenerate_and_still_mapped():
  x = np.linspace(0, 1, 50)
  found = logistic.fit(x, 3 * x)
  assert not found.converged and "straight line" in found.message
  np.testing.assert_allclose(found(x), 3 * x, atol=1e-3)


def test_the_published_form_is_recovered():
  x = np.linspace(-4, 4, 100)
  truth = (7.0, 2.0, 0.3, 1.5)
  found = logistic.fit(x, four(x, *truth))
  np.testing.assert_allclose(found.parameters, truth, rtol=1e-4)
  assert found.converged


@pytest.mark.parametrize(
  ("x", "reason"), [([1, 2, 3], "3 image"), ([1, 1, 1, 1, 1], "every"), ([1, 2, 3, np.nan, 5], "finite")]
)
def test_no_curve_is_nan_and_says_why(x, reason):
  y = np.arange(len(x), dtype=float)
  with pytest.warns(correlation.UndefinedCorrelationWarning, match=reason):
    assert np.isnan(logistic.fit(x, y).sse)


def test_mapping_raises_the_correlation_of_a_curved_relation():
  x = np.linspace(-3, 3, 200)
  y = special.expit(4 * x)
  mapped = logistic.fit(x, y)(x)
  assert correlation.plcc(mapped, y) > 0.9999 > correlation.plcc(x, y)
  assert correlation.rmse(mapped, y) < 1e-3
