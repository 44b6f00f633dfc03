"""Heads: chosen like scikit-learn's on the validation part, saved in a file, refused where they do not fit."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
import sklearn.linear_model

from jiqa.errors import UserError
from jiqa.evaluation import head, protocol

ALPHAS, RATIOS = np.geomspace(1e-3, 1, 4), (0.2, 1.0)


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  x = rng.normal(3, 2, (120, 12)).astype(np.float32)
  mos = 50 + 5 * x[:, 0] - 3 * x[:, 1] + rng.normal(0, 6, 120)
  splits = np.stack([rng.permutation(np.repeat([0, 1, 2], [70, 25, 25])) for _ in range(2)]).astype(np.int8)
  return x, mos, splits


def by_sklearn(x, mos, split):
  """Validation-chosen penalty and test predictions of one split, penalties tried from the largest down."""
  train, validation, test = (split == part for part in range(3))

  def fit(rows, alpha, ratio):
    mean, scale = x[rows].mean(0, dtype=float), x[rows].std(0, dtype=float)
    model = sklearn.linear_model.ElasticNet(alpha=alpha * mos.std(), l1_ratio=ratio, tol=1e-10, max_iter=100_000)
    model.fit((x[rows] - mean) / scale, mos[rows])
    return lambda rows: model.predict((x[rows] - mean) / scale)

  best = (-2,)
  for ratio in sorted(RATIOS, reverse=True):
    for alpha in sorted(ALPHAS, reverse=True):
      value = scipy.stats.spearmanr(fit(train, alpha, ratio)(validation), mos[validation])[0]
      if value > best[0] + 1e-12:
        best = (value, alpha, ratio)
  return best, fit(train | validation, *best[1:])(test)


def test_elastic_net_is_searched_as_one_would_with_scikit_learn(problem):
  x, mos, splits = problem
  result = protocol.fit_heads(x, mos, splits, ALPHAS, regressor="elastic_net", l1_ratios=RATIOS)
  for k, split in enumerate(splits):
    (value, alpha, ratio), expected = by_sklearn(x, mos, split)
    assert result.validation_srcc[k] == pytest.approx(value, abs=2e-3)
    if (result.l1_ratio[k], result.alpha[k]) == (ratio, pytest.approx(alpha * mos.std())):
      np.testing.assert_allclose(result.predictions[k][split == 2], expected, atol=1e-3)
      assert result.srcc[k] == pytest.approx(scipy.stats.spearmanr(expected, mos[split == 2])[0], abs=1e-3)
    else:  # equally good on the validation part but for rounding
      assert result.validation_srcc[k] == pytest.approx(value, abs=1e-6)
  assert np.isnan(result.predictions[:, :]).sum() == 2 * 95


def test_of_equally_good_penalties_the_smoothest_and_sparsest_is_kept(problem):
  x, mos, splits = problem  # one feature ranks the images alike whatever its weight
  options = {"regressor": "elastic_net", "l1_ratios": (0.5, 0.9, 0.2)}
  result = protocol.fit_heads(x[:, :1], mos, splits, [0.01, 0.1, 0.03], **options)
  assert result.l1_ratio.tolist() == [0.9, 0.9]
  np.testing.assert_allclose(result.alpha, 0.1 * mos.std())


def test_a_head_comes_back_from_its_file_and_scores_as_in_the_search(problem, tmp_path):
  x, mos, splits = problem
  result = protocol.fit_heads(x, mos, splits, ALPHAS)
  saved = protocol.head_of(result, 1, {"database": "some", "range": [0, 100], "features": ["quality"]})
  saved.save(tmp_path / "head.safetensors")
  loaded = head.load(tmp_path / "head.safetensors")
  test = splits[1] == 2
  np.testing.assert_allclose(loaded(x[test]), result.predictions[1][test], rtol=1e-9)
  assert loaded.card == json.loads(json.dumps(saved.card))
  assert loaded.card["direction"] == "higher is better" and loaded.card["images"] == 95 and loaded.card["split"] == 1
  assert loaded.card["test"]["srcc"] == pytest.approx(scipy.stats.spearmanr(loaded(x[test]), mos[test])[0])
  assert (tmp_path / "head.safetensors").stat().st_size < 2000
  with pytest.raises(UserError, match=r"takes 12 features \(\['quality'\]\), but there are 5"):
    loaded(x[:, :5])


@pytest.mark.parametrize("options", [{}, {"regressor": "elastic_net", "l1_ratios": RATIOS}])
def test_a_head_of_all_images_takes_the_median_penalty(problem, options):
  x, mos, splits = problem
  result = protocol.fit_heads(x, mos, np.concatenate([splits, splits[:1]]), ALPHAS, **options)
  ratios = np.array([1.0, 0.2, 0.5]) if options else np.zeros(3)
  result = dataclasses.replace(result, alpha=np.array([8.0, 0.5, 2.0]), l1_ratio=ratios)
  whole = protocol.head_of(result, None, {"database": "some"})
  alpha, ratio = 2.0, 0.5
  assert whole.card["alpha"] == alpha and whole.card["images"] == len(mos) and "split" not in whole.card
  assert whole.card["test"]["srcc"] == pytest.approx(np.median(result.srcc))
  z = (x - x.mean(0, dtype=float)) / x.std(0, dtype=float)
  if options:
    model = sklearn.linear_model.ElasticNet(alpha=alpha, l1_ratio=ratio, tol=1e-10, max_iter=100_000)
  else:
    model = sklearn.linear_model.Ridge(alpha=alpha)
  np.testing.assert_allclose(whole(x), model.fit(z, mos).predict(z), atol=1e-3 if options else 1e-7)


def test_mistakes_are_refused(problem, tmp_path):
  x, mos, splits = problem
  for options, message in (
    ({"regressor": "svr"}, "no regressor 'svr'"),
    ({"regressor": "elastic_net"}, "at least one l1_ratio"),
    ({"regressor": "elastic_net", "alphas": [1e6], "l1_ratios": RATIOS}, "smaller net_alphas"),
  ):
    with pytest.raises(UserError, match=message):
      protocol.fit_heads(x, mos, splits, **options)
  with pytest.raises(UserError, match="no such file"):
    head.load(tmp_path / "none")
  (tmp_path / "text").write_text("no head")
  with pytest.raises(UserError, match="holds no head"):
    head.load(tmp_path / "text")
