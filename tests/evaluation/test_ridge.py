"""Against scikit-learn's Ridge in float64, for every alpha, in the primal and in the dual."""

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Ridge

from jiqa.errors import UserError
from jiqa.evaluation import linear

ALPHAS = np.geomspace(1e-3, 1e6, 10)


def problem(n, d, seed=0):
  """Features as an encoder gives them: positive, correlated, far from 0, one of them dead."""
  rng = np.random.default_rng(seed)
  x = np.abs(rng.normal(size=(n, d))) @ np.abs(rng.normal(size=(d, d))) / d + 5
  x[:, 3] = 2.5
  y = x @ rng.normal(size=d) / 3 + rng.normal(size=n)
  rows = np.stack([rng.permutation(n) < share * n for share in (0.7, 0.6, 0.8)])
  return x.astype(np.float32), y, rows


def reference(x, y, rows, alpha):
  x = x.astype(np.float64)
  mean, scale = x[rows].mean(0), x[rows].std(0)
  z = (x - mean) / np.where(scale > 1e-9, scale, 1)
  return Ridge(alpha=alpha, solver="svd").fit(z[rows], y[rows]).predict(z)


@pytest.mark.parametrize(("n", "d"), [(150, 40), (120, 300), (160, 150)])
def test_equals_scikit_learn_for_every_alpha(n, d):
  x, y, rows = problem(n, d)
  for tolerance, bound in ((1e-6, 1e-3), (1e-12, 1e-8)):
    heads = linear.ridge(x, y, rows, ALPHAS, tolerance=tolerance)
    assert (heads.error <= tolerance).all()
    found = linear.predict(x, heads)
    for k, a in np.ndindex(len(rows), len(ALPHAS)):
      expected = reference(x, y, rows[k], ALPHAS[a])
      # A huge alpha leaves less spread than float64 has digits after the mean.
      close = bound * expected.std() + 1e-13 * np.abs(expected).max()
      assert np.abs(found[k, a] - expected).max() < close, (k, ALPHAS[a])


@pytest.mark.parametrize(("n", "d"), [(150, 40), (120, 300)])
def test_unscaled_features_are_those_of_scikit_learn_by_itself(n, d):
  x, y, rows = problem(n, d)
  x = (x * np.geomspace(0.1, 10, d)).astype(np.float32)
  found = linear.predict(x, linear.ridge(x, y, rows, [0.1, 10.0], tolerance=1e-12, standardise=False))
  net = linear.predict(x, linear.elastic_net(x, y, rows, [0.3], l1_ratio=0.4, standardise=False))
  x = x.astype(np.float64)
  for k, row in enumerate(rows):
    for a, alpha in enumerate((0.1, 10.0)):
      np.testing.assert_allclose(found[k, a], Ridge(alpha=alpha).fit(x[row], y[row]).predict(x), rtol=1e-7, atol=1e-8)
    expected = ElasticNet(alpha=0.3, l1_ratio=0.4, tol=1e-9, max_iter=10**5).fit(x[row], y[row]).predict(x)
    np.testing.assert_allclose(net[k, 0], expected, rtol=1e-3, atol=1e-3 * y.std())


def test_several_panels_and_chunks(monkeypatch):
  monkeypatch.setattr(linear, "PANEL", 32)
  monkeypatch.setattr(linear, "CHUNK", 50)
  for n, d in ((210, 100), (90, 110)):
    x, y, rows = problem(n, d, seed=1)
    found = linear.predict(x, linear.ridge(x, y, rows, ALPHAS[:3], tolerance=1e-12))
    for k, a in np.ndindex(3, 3):
      expected = reference(x, y, rows[k], ALPHAS[a])
      assert np.abs(found[k, a] - expected).max() < 1e-8 * expected.std()


def test_one_factor_for_each_alpha_gives_the_same(monkeypatch):
  x, y, rows = problem(80, 20)
  shared = linear.ridge(x, y, rows, ALPHAS, tolerance=1e-12)
  monkeypatch.setattr(linear, "SPAN", 1.0)
  own = linear.ridge(x, y, rows, ALPHAS, tolerance=1e-12)
  np.testing.assert_allclose(own.weights, shared.weights, rtol=1e-8, atol=1e-12)


def test_alphas_in_any_order_and_of_each_split():
  x, y, rows = problem(80, 20)
  plain = linear.ridge(x, y, rows, [1.0, 10.0], tolerance=1e-12)
  mixed = linear.ridge(x, y, rows, [10.0, 1.0, 10.0], tolerance=1e-12)
  np.testing.assert_allclose(mixed.weights, plain.weights[:, [1, 0, 1]], rtol=1e-9, atol=1e-13)
  own = linear.ridge(x, y, rows, np.array([[1.0], [10.0], [1.0]]), tolerance=1e-12)
  np.testing.assert_allclose(own.weights[:, 0], plain.weights[[0, 1, 2], [0, 1, 0]], rtol=1e-9, atol=1e-13)


def test_rows_outside_the_split_do_not_matter():
  x, y, rows = problem(80, 20)
  before = linear.ridge(x, y, rows[:1], [1.0])
  y = np.where(rows[0], y, np.nan)
  after = linear.ridge(x, y, rows[:1], [1.0])
  np.testing.assert_array_equal(after.weights, before.weights)


def test_collinear_features_with_tiny_alpha():
  x, y, rows = problem(60, 10)
  x = np.concatenate([x, x, 1000 * x], axis=1)
  heads = linear.ridge(x, y, rows, [1e-3], tolerance=1e-9)
  for k in range(3):
    expected = reference(x, y, rows[k], 1e-3)
    assert np.abs(linear.predict(x, heads)[k, 0] - expected).max() < 1e-3 * expected.std()


def test_a_search_that_is_cut_short_says_so():
  x, y, rows = problem(80, 20)
  with pytest.warns(RuntimeWarning, match="asked for 1e-12"):
    heads = linear.ridge(x, y, rows, [1.0, 10.0], tolerance=1e-12, max_steps=1)
  assert (heads.error > 1e-12).any()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"alphas": [0.0]}, "positive"),
    ({"features": np.full((5, 2), np.nan)}, "row 0"),
    ({"target": np.array([1, 2, np.nan, 4, 5])}, "row 2"),
    ({"rows": np.eye(5, dtype=bool)[:1]}, "split 0 fits 1 row"),
  ],
)
def test_bad_input_is_refused(change, message):
  inputs = {"features": np.eye(5)[:, :2], "target": np.arange(5.0), "rows": np.ones((1, 5), bool), "alphas": [1.0]}
  with pytest.raises(UserError, match=message):
    linear.ridge(**(inputs | change))
