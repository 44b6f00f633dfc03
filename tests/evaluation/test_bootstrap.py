"""Resampled correlations against SciPy on the same resamples; coverage of the intervals on simulated data."""

import types

import numpy as np
import pytest
from scipy import stats

from jiqa.evaluation import bootstrap, correlation


@pytest.mark.parametrize("tied", [True, False])
def test_every_resample_equals_scipy(tied):
  rng = np.random.default_rng(0)
  n, count = 37, 5
  x = rng.integers(0, 12, n) if tied else rng.normal(size=n)
  y = x + (rng.integers(-6, 7, n) if tied else rng.normal(size=n))
  found = bootstrap.resample(x, y, np.arange(n), ("srcc", "plcc", "krcc"), count, 3)
  draw = np.random.default_rng(3)
  for i in range(count):
    drawn = draw.integers(0, n, n, np.int32)
    expected = [of(x[drawn], y[drawn])[0] for of in (stats.spearmanr, stats.pearsonr, stats.kendalltau)]
    np.testing.assert_allclose(found[:, i], expected, atol=1e-12)


def test_references_are_drawn_as_a_whole():
  rng = np.random.default_rng(0)
  groups = np.array(["a"] * 10 + ["b"] * 5 + ["c"] * 7 + ["", ""])
  x, y = rng.normal(size=(2, len(groups)))
  units = bootstrap.units_of(groups, len(groups))
  assert units.max() == 4 and len(set(units[-2:])) == 2  # the last two stand for themselves
  found = bootstrap.resample(x, y, units, ("srcc",), 4, 1)[0]
  draw = np.random.default_rng(1)
  for value in found:
    drawn = np.concatenate([np.flatnonzero(units == unit) for unit in draw.integers(0, 5, 5, np.int32)])
    assert value == pytest.approx(stats.spearmanr(x[drawn], y[drawn])[0], abs=1e-12)


def simulate(rng, n, correlation_):
  z = rng.normal(size=(2, n))
  return z[0], correlation_ * z[0] + np.sqrt(1 - correlation_**2) * z[1]


@pytest.mark.parametrize(("n", "rho"), [(100, 0.8), (200, 0.3)])
def test_coverage_of_the_interval(n, rho):
  rng = np.random.default_rng(n)
  truth = {"srcc": 6 / np.pi * np.arcsin(rho / 2), "plcc": rho}
  hits = {"srcc": [], "plcc": []}
  for seed in range(600):
    for key, found in bootstrap.interval(*simulate(rng, n, rho), resamples=448, seed=seed).items():
      hits[key].append(found.low <= truth[key] <= found.high)
  for key, hit in hits.items():
    assert 0.93 <= np.mean(hit) <= 0.97, (key, np.mean(hit))


SCIPY = {"srcc": stats.spearmanr, "plcc": stats.pearsonr, "krcc": stats.kendalltau}


def bca_by_scipy(x, y, units, measure, draws, level):
  """SciPy's BCa interval from resamples that are given; it leaves out one unit after the other."""
  members = [np.flatnonzero(units == unit) for unit in range(units.max() + 1)]

  def statistic(drawn):
    rows = np.concatenate([members[unit] for unit in drawn])
    return SCIPY[measure](x[rows], y[rows]).statistic

  given = types.SimpleNamespace(bootstrap_distribution=draws)
  options = {"method": "BCa", "vectorized": False, "n_resamples": 0, "bootstrap_result": given}
  return stats.bootstrap((np.arange(len(members)),), statistic, confidence_level=level, **options).confidence_interval


@pytest.mark.parametrize("measure", SCIPY)
@pytest.mark.parametrize("grouped", [False, True])
def test_bca_is_scipys_on_the_same_resamples(measure, grouped):
  """Of a skewed statistic of few images, so that bias and acceleration move both ends."""
  rng = np.random.default_rng(6)
  x, y = simulate(rng, 45, 0.8)
  y[:3] -= 2  # outliers
  groups = np.char.add("r", (np.arange(45) // 3).astype(str)) if grouped else None
  units = np.unique(groups, return_inverse=True)[1] if grouped else np.arange(45)
  count = units.max() + 1
  found = bootstrap.interval(x, y, groups=groups, measures=(measure,), resamples=999, level=0.9, seed=4)[measure]
  draws = bootstrap.resample(x, y, units, (measure,), 999, 4)[0]
  # Both tails reach further than SciPy's normal ones (Hesterberg 2015, sec. 5.3): a wider level says how far.
  reach = np.sqrt(count / (count - 1)) * stats.t.ppf(0.95, count - 1)
  expected = bca_by_scipy(x, y, units, measure, draws, 2 * stats.norm.cdf(reach) - 1)
  assert found.value == pytest.approx(SCIPY[measure](x, y).statistic, abs=1e-12)
  np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-6)
  tails = stats.norm.cdf([-reach, reach])
  plain, mirrored = np.quantile(draws, tails), 2 * found.value - np.quantile(draws, tails)[::-1]
  for other in (plain, mirrored):  # the percentile interval, and the basic one
    assert np.abs(np.subtract([found.low, found.high], other)).min() > 1e-3


def test_many_images_are_left_out_in_blocks():
  x, y = simulate(np.random.default_rng(5), 1200, 0.9)
  y[:40] -= 1.5
  found = bootstrap.interval(x, y, measures=("plcc",), resamples=999, seed=4)["plcc"]
  draws = bootstrap.resample(x, y, np.arange(1200), ("plcc",), 999, 4)[0]
  reach = np.sqrt(1200 / 1199) * stats.t.ppf(0.975, 1199)
  expected = bca_by_scipy(x, y, np.arange(1200), "plcc", draws, 2 * stats.norm.cdf(reach) - 1)
  np.testing.assert_allclose([found.low, found.high], expected, atol=0.01 * (expected.high - expected.low))


def test_dependent_images_need_the_grouped_interval():
  """Ten images of one reference with one common error: the plain interval is far too narrow."""
  rng = np.random.default_rng(0)
  hits = {True: [], False: []}
  groups = np.repeat(np.arange(40), 10)
  for seed in range(250):
    x, y = (np.repeat(side, 10) + 0.3 * rng.normal(size=400) for side in simulate(rng, 40, 0.6))
    for grouped, hit in hits.items():
      found = bootstrap.interval(x, y, groups=groups if grouped else None, measures=("plcc",), resamples=256, seed=seed)
      hit.append(found["plcc"].low <= 0.6 / 1.09 <= found["plcc"].high)
  assert np.mean(hits[True]) > 0.9 > 0.6 > np.mean(hits[False])


def test_the_same_seed_gives_the_same_interval():
  x, y = simulate(np.random.default_rng(0), 50, 0.5)
  first, again, other = (bootstrap.interval(x, y, seed=seed) for seed in (1, 1, 2))
  assert first == again
  for key, found in first.items():
    assert found.value == other[key].value and min(np.abs(np.subtract(found, other[key]))[1:]) > 1e-4


@pytest.mark.parametrize("x", [np.ones(20), np.r_[np.nan, np.arange(19.0)], np.arange(2.0)])
def test_undefined_is_nan(x):
  with pytest.warns(correlation.UndefinedCorrelationWarning):
    found = bootstrap.interval(x, np.arange(len(x), dtype=float), resamples=64)
  assert all(np.isnan(value) for interval in found.values() for value in interval)
