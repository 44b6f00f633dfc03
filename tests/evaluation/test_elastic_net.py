"""Against scikit-learn's ElasticNet at a tight tolerance."""

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet

from jiqa.evaluation import linear


@pytest.mark.parametrize(("n", "d", "l1_ratio"), [(120, 20, 0.5), (60, 90, 0.5), (120, 20, 1.0)])
def test_equals_scikit_learn_along_the_path(n, d, l1_ratio):
  rng = np.random.default_rng(0)
  x = (rng.normal(size=(n, d)) + 0.5 * rng.normal(size=(n, 1)) + 2).astype(np.float32)
  x[:, 1] = 1
  y = x[:, :6] @ rng.normal(size=6) + rng.normal(size=n) / 2
  rows = np.stack([rng.permutation(n) < 0.7 * n for _ in range(2)])
  alphas = np.array([0.01, 1.0, 0.1])  # any order
  heads = linear.elastic_net(x, y, rows, alphas, l1_ratio=l1_ratio)
  assert (heads.error <= 1e-8).all()
  found = linear.predict(x, heads)
  for k, a in np.ndindex(2, 3):
    z = x.astype(np.float64)
    scale = z[rows[k]].std(0)
    z = (z - z[rows[k]].mean(0)) / np.where(scale > 1e-9, scale, 1)
    head = ElasticNet(alpha=alphas[a], l1_ratio=l1_ratio, tol=1e-8, max_iter=100_000).fit(z[rows[k]], y[rows[k]])
    expected = head.predict(z)
    assert np.abs(found[k, a] - expected).max() <= 1e-4 * max(expected.std(), 0.1)
    assert ((heads.weights[k, a] != 0) == (np.abs(head.coef_) > 1e-12)).mean() > 0.95


def test_the_largest_alpha_leaves_nothing():
  x = np.random.default_rng(0).normal(size=(30, 4))
  heads = linear.elastic_net(x, x[:, 0], np.ones((1, 30), bool), [100.0])
  assert not heads.weights.any()


def test_only_a_penalty_with_absolute_values():
  with pytest.raises(ValueError, match="l1_ratio"):
    linear.elastic_net(np.eye(4), np.arange(4.0), np.ones((1, 4), bool), [1.0], l1_ratio=0.0)
