"""Is one method better than another, or is it the sample? Tests for two methods that scored the same images."""

import itertools
import math
import warnings

import numpy as np
from scipy import stats

from jiqa.evaluation import correlation


def meng(first, second, target, measure="srcc"):
  """Meng, Rosenthal and Rubin's z-test for two correlations with the same target (1992, eq. 1-3).

  Args:
    first, second, target: [n] float, scores of two methods and human scores.
    measure: 'srcc' or 'plcc'; the variance of ranks is Bonett and Wright's (2000, eq. 3).

  Returns:
    (z, p): z > 0 where the first correlates better, two-sided p-value; (0, 1) for equal correlations; (nan, nan), with
    an `UndefinedCorrelationWarning`, where a correlation is undefined or exactly 1 or -1.
  """
  of = getattr(correlation, measure)
  r1, r2, between, n = of(first, target), of(second, target), of(first, second), len(target)
  square = (r1**2 + r2**2) / 2
  if r1 == r2:
    return 0.0, 1.0
  if np.isnan(square):
    return float("nan"), float("nan")
  if max(abs(r1), abs(r2)) > 1 - 1e-12:  # 1 but for rounding
    message = "a correlation of exactly 1 or -1 cannot be compared with another: its Fisher transform is infinite"
    warnings.warn(message, correlation.UndefinedCorrelationWarning, stacklevel=2)
    return float("nan"), float("nan")
  f = min(1.0, (1 - between) / (2 * (1 - square)))
  spread = 2 * (1 - between) * (1 - f * square) / (1 - square)
  if not (n > 3 and spread > 0):
    message = "two correlations can be compared for more than 3 images and methods that do not rank alike"
    warnings.warn(message, correlation.UndefinedCorrelationWarning, stacklevel=2)
    return float("nan"), float("nan")
  # The difference of the Fisher transforms has the variance spread / (n - 3), that of ranks a little more.
  variance = spread / (n - 3) * (1 + square / 2 if measure == "srcc" else 1)
  z = float((np.arctanh(r1) - np.arctanh(r2)) / math.sqrt(variance))
  return z, float(2 * stats.norm.sf(abs(z)))


def wilcoxon(first, second):
  """Two-sided p-value of Wilcoxon's signed-rank test over the splits, a measure [k] of each of two methods.

  Too generous where the training parts of random splits overlap; 1 where all pairs are equal, nan for undefined values.
  """
  gain = np.subtract(first, second)
  return float(stats.wilcoxon(gain).pvalue) if gain.any() else 1.0


def holm(p):
  """Adjusts p-values [m] by Holm's step-down correction (1979): one false positive among all stays below the level.

  Undefined ones (nan) are passed through and not counted.

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


def win_tie_loss(methods, target, level=0.05):
  """Compares every pair of methods on one set of images by `meng`.

  Args:
    methods: dict from name to [n] float scores.
    target: [n] float, human scores in the same order.
    level: chance of any false win in the whole table; p-values are corrected by `holm`.

  Returns:
    (table [m, m] int8: 1 the row wins, -1 it loses, 0 no difference shown; p [m, m] float64 corrected, nan on the
    diagonal and where there is no test), in the order of `methods`.
  """
  z, p = zip(*(meng(*pair, target) for pair in itertools.combinations(methods.values(), 2)), strict=True)
  p = symmetric(holm(p), len(methods))
  wins = np.where(p < level, np.sign(symmetric(z, len(methods))), 0).astype(np.int8)  # nan is below nothing
  return np.triu(wins) - np.tril(wins), p


def symmetric(values, size):
  """The [size, size] matrix of values of pairs, in the order of `itertools.combinations`; nan on the diagonal."""
  matrix, upper = np.full((size, size), np.nan), np.triu_indices(size, 1)
  matrix[upper] = matrix.T[upper] = values
  return matrix
