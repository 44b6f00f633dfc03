"""Is one method better than another, or is it the sample? Tests for two methods that scored the same images."""

import math
import warnings

import numpy as np
from scipy import stats

from jiqa.evaluation import correlation


def meng(first, second, target, measure="srcc"):
  """Meng, Rosenthal and Rubin's z-test for two correlations with the same target.

  Meng, Rosenthal and Rubin 1992, eq. 1-3.

  Args:
    first: [n] float, scores of one method.
    second: [n] float, scores of the other.
    target: [n] float, human scores in the same order.
    measure: 'srcc' or 'plcc'; the variance of ranks is Bonett and Wright's (2000, eq. 3).

  Returns:
    (z, p): z > 0 where the first correlates better, two-sided p-value; (nan, nan) where a correlation is undefined.

  Example:
    >>> x = np.arange(40.0)
    >>> z, p = meng(x, np.cos(x), x + 3 * np.sin(x))
    >>> z > 5, p < 1e-6
    (True, True)
  """
  r1, r2, between, n = _three(first, second, target, measure)
  square = (r1**2 + r2**2) / 2
  if not square < 1:
    return _equal_or_undefined(r1, r2)
  f = min(1.0, (1 - between) / (2 * (1 - square)))
  h = (1 - f * square) / (1 - square)
  return _decide(r1, r2, n, 2 * (1 - between) * h, square, measure)


def steiger(first, second, target, measure="srcc"):
  """Steiger's z-test for two correlations with the same target, with the pooled covariance.

  Steiger 1980, eq. 3 and 14.

  Args:
    first: [n] float, scores of one method.
    second: [n] float, scores of the other.
    target: [n] float, human scores in the same order.
    measure: 'srcc' or 'plcc'; the variance of ranks is Bonett and Wright's (2000, eq. 3).

  Returns:
    (z, p) as `meng`.

  Example:
    >>> x = np.arange(40.0)
    >>> steiger(x, x, x + 3 * np.sin(x))
    (0.0, 1.0)
  """
  r1, r2, between, n = _three(first, second, target, measure)
  square = ((r1 + r2) / 2) ** 2
  if not square < 1:
    return _equal_or_undefined(r1, r2)
  covariance = between * (1 - 2 * square) - square * (1 - 2 * square - between**2) / 2
  spread = 2 - 2 * covariance / (1 - square) ** 2
  return _decide(r1, r2, n, spread, square, measure)


def wilcoxon(first, second):
  """Wilcoxon's signed-rank test over the splits.

  The training parts of random splits overlap, so their values are not independent and the test is too generous there;
  `resampled_t` allows for that.

  Args:
    first: [k] float, one value of a measure for every split.
    second: [k] float, of the other method on the same splits.

  Returns:
    float, two-sided p-value; 1 where all pairs are equal.

  Raises:
    ValueError: the two are not of one length, or a value is not finite.

  Example:
    >>> wilcoxon([0.9, 0.8, 0.85, 0.95, 0.7, 0.75], [0.8, 0.75, 0.7, 0.9, 0.6, 0.7])
    0.03125
  """
  gain = _paired_gain(first, second)
  return float(stats.wilcoxon(gain).pvalue) if gain.any() else 1.0


def resampled_t(first, second, test_share):
  """Student's t-test over random splits, its variance corrected for the overlap of the training parts.

  Nadeau and Bengio 2003, sec. 3.2.

  Args:
    first: [k] float, one value of a measure for every split.
    second: [k] float, of the other method on the same splits.
    test_share: test images over fitted images of a split, such as 0.25 for 80/20.

  Returns:
    float, two-sided p-value; 1 where all pairs are equal.

  Raises:
    ValueError: the two are not of one length, or a value is not finite.

  Example:
    >>> resampled_t([0.9, 0.8, 0.7], [0.9, 0.8, 0.7], 0.25)
    1.0
  """
  gain = _paired_gain(first, second)
  if not gain.any():
    return 1.0
  spread = math.sqrt((1 / len(gain) + test_share) * gain.var(ddof=1))
  return float(2 * stats.t.sf(abs(gain.mean()) / spread, len(gain) - 1)) if spread > 0 else 0.0


def residual_f(first, second):
  """F-test of the residual variances, the usual test of the IQA literature.

  Sheikh, Sabir and Bovik 2006, sec. III-D. It takes the two sets of residuals as independent normal samples. Those of
  two methods on the same images are not: the test is then too strict, and `pitman_morgan` is the right one.

  Args:
    first: [n] float, human score minus the (mapped) prediction of one method.
    second: [m] float, of the other.

  Returns:
    (F, p): variance of the second over that of the first (> 1: the first is better), two-sided p-value.

  Example:
    >>> f, p = residual_f([0.1, -0.2, 0.1, 0.0], [1.0, -2.0, 1.0, 0.0])
    >>> round(f), p < 0.01
    (100, True)
  """
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if min(len(first), len(second)) < 3 or not first.var() > 0 or not np.isfinite(second).all():
    _warn("the F-test needs at least 3 finite residuals with some spread on each side")
    return float("nan"), float("nan")
  f = float(second.var(ddof=1) / first.var(ddof=1))
  tail = stats.f(len(second) - 1, len(first) - 1)
  return f, float(min(1.0, 2 * min(tail.cdf(f), tail.sf(f))))


def pitman_morgan(first, second):
  """Pitman and Morgan's test of two residual variances on the same images.

  Morgan 1939: the variances are equal where sum and difference are uncorrelated.

  Args:
    first: [n] float, human score minus the (mapped) prediction of one method.
    second: [n] float, of the other, in the same order.

  Returns:
    (r, p): correlation of second - first with second + first (> 0: the first is better), two-sided p-value.

  Example:
    >>> r, p = pitman_morgan([0.1, -0.2, 0.1, 0.0, 0.1], [1.0, 2.0, -1.0, 0.0, -2.0])
    >>> r > 0.9
    True
  """
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if np.array_equal(first, second):
    return 0.0, 1.0
  r = correlation.plcc(second - first, second + first)
  if math.isnan(r) or abs(r) == 1:
    return r, (float("nan") if math.isnan(r) else 0.0)
  t = abs(r) * math.sqrt((len(first) - 2) / (1 - r * r))
  return r, float(2 * stats.t.sf(t, len(first) - 2))


def holm(p):
  """Holm's step-down correction: the chance of one false positive among all tests stays below the level.

  Holm 1979.

  Args:
    p: [m] float, p-values; nan are passed through and not counted.

  Returns:
    [m] float, adjusted p-values.

  Example:
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
  """
  p = np.asarray(p, np.float64)
  adjusted = np.full(p.shape, np.nan)
  order = np.argsort(p)[: int(np.isfinite(p).sum())]
  steps = np.arange(len(order), 0, -1)
  adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * steps))
  return adjusted


def win_tie_loss(methods, target, test=meng, level=0.05):
  """Compares every pair of methods on one set of images.

  Args:
    methods: dict from name to [n] float scores.
    target: [n] float, human scores in the same order.
    test: function of (first, second, target) that gives (statistic, p), the statistic > 0 where the first is better.
    level: chance of any false win in the whole table; p-values are corrected by `holm`.

  Returns:
    (table [m, m] int8: 1 the row wins, -1 it loses, 0 no difference shown; p [m, m] float64 corrected, nan on the
    diagonal), in the order of `methods`.

  Example:
    >>> x = np.arange(40.0)
    >>> table, p = win_tie_loss({"good": x, "bad": np.cos(x)}, x + 3 * np.sin(x))
    >>> table.tolist()
    [[0, 1], [-1, 0]]
  """
  scores = list(methods.values())
  pairs = [(i, j) for i in range(len(scores)) for j in range(i)]
  found = [test(scores[i], scores[j], target) for i, j in pairs]
  table = np.zeros((len(scores), len(scores)), np.int8)
  p = np.full(table.shape, np.nan)
  for (i, j), (statistic, _), adjusted in zip(pairs, found, holm([value for _, value in found]), strict=True):
    p[i, j] = p[j, i] = adjusted
    if adjusted < level:
      table[i, j], table[j, i] = np.sign(statistic), -np.sign(statistic)
  return table, p


def _three(first, second, target, measure):
  of = {"srcc": correlation.srcc, "plcc": correlation.plcc}[measure]
  return of(first, target), of(second, target), of(first, second), len(target)


def _decide(r1, r2, n, spread, square, measure):
  """z and p; the difference of the Fisher transforms has the variance spread / (n - 3), that of ranks a little more."""
  if r1 == r2:
    return 0.0, 1.0
  if not (n > 3 and spread > 0):
    _warn("two correlations can be compared for more than 3 images and methods that do not rank alike")
    return float("nan"), float("nan")
  variance = spread / (n - 3) * (1 + square / 2 if measure == "srcc" else 1)
  z = float((np.arctanh(r1) - np.arctanh(r2)) / math.sqrt(variance))
  return z, float(2 * stats.norm.sf(abs(z)))


def _equal_or_undefined(r1, r2):
  """Both correlations are 1 (nothing to tell apart), or one does not exist."""
  return (0.0, 1.0) if abs(r1) == 1 and r1 == r2 else (float("nan"), float("nan"))


def _paired_gain(first, second):
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
    raise ValueError(f"two or more splits of both methods are needed: {first.shape} and {second.shape}")
  if not np.isfinite(first - second).all():
    raise ValueError("a split has no finite value; leave it out of both methods")
  return first - second


def _warn(message):
  warnings.warn(message, correlation.UndefinedCorrelationWarning, stacklevel=3)
