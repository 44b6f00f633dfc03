"""Bootstrap confidence intervals of SRCC, PLCC and KRCC, thousands of resamples in one jitted call.

A resample is kept as a count of every image: ranks are then running sums of the counts along one fixed order, so that
nothing is sorted again, and the pairs of Kendall's tau are one matrix product.
"""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jiqa.evaluation import correlation

# Resamples of one jitted call: their counts, one column each, then stay in the cache of a CPU.
COLUMNS = 64
# The acceleration of the BCa interval is a skewness: leaving out one of 200 blocks estimates it as well as one of n.
JACKKNIFE_BLOCKS = 200
# Beyond so many images an interval is that of a jackknife, which leaves out one of a few groups: a thousand resamples,
# and all pairs for Kendall's tau, take hours, and a statistic of so many images is as good as normal.
MOST, GROUPS = 30_000, 20


class Interval(NamedTuple):
  """A statistic with its confidence interval."""

  value: float
  low: float
  high: float


def interval(prediction, target, *, groups=None, measures=("srcc", "plcc"), resamples=1000, level=0.95, seed=0):
  """Bias-corrected and accelerated (BCa) bootstrap intervals (Efron 1987).

  Where groups are given, whole groups are resampled (cluster bootstrap, Davison and Hinkley 1997, 3.8).

  Args:
    prediction, target: [n] float, scores of one model and human scores.
    groups: [n], the reference of every image; '' stands for an image of its own. None: every image on its own.
    measures: of 'srcc', 'plcc', 'krcc'.
    resamples, level, seed: number of resamples, nominal coverage, seed of the resampling.

  Returns:
    dict from measure to `Interval`; nan, with an `UndefinedCorrelationWarning`, where it is undefined; its ends are nan
    where fewer than 3 images or references leave nothing to resample.
  """
  values = {measure: getattr(correlation, measure)(prediction, target) for measure in measures}
  if np.isnan(list(values.values())).all():
    return {measure: Interval(value, value, value) for measure, value in values.items()}
  units = units_of(groups, len(prediction))
  if (count := int(units.max()) + 1) < 3:
    message = f"an interval needs at least 3 {'images' if groups is None else 'references'}; there are {count}"
    warnings.warn(message, correlation.UndefinedCorrelationWarning, stacklevel=2)
    return {measure: Interval(value, float("nan"), float("nan")) for measure, value in values.items()}
  if jackknife_groups(units):
    return {key: _jackknife(key, value, prediction, target, units, level, seed) for key, value in values.items()}
  draws = resample(prediction, target, units, measures, resamples, seed)
  block = np.random.default_rng(seed).permutation(count) % min(count, JACKKNIFE_BLOCKS)
  without = (block != np.arange(block.max() + 1)[:, None]).astype(np.uint16)
  blocks = np.asarray(_correlator(prediction, target, units, measures)(without))
  rows = zip(values.items(), draws, blocks, strict=True)
  return {key: Interval(value, *_bca(value, drawn, left, level, count)) for (key, value), drawn, left in rows}


def resample(prediction, target, units, measures, resamples, seed):
  """Correlations of resampled images [measures, resamples], float64; units [n] int number what is drawn together."""
  rng, count = np.random.default_rng(seed), int(units.max()) + 1
  correlate, calls = _correlator(prediction, target, units, measures), []
  for _ in range(0, resamples, COLUMNS):
    counts = np.empty((COLUMNS, count), np.uint16)
    for row in counts:
      row[:] = np.bincount(rng.integers(0, count, count, np.int32), minlength=count)
    calls.append(correlate(counts))  # not waited for: the next counts are drawn while these are worked on
  return np.concatenate([np.asarray(call) for call in calls], axis=-1)[:, :resamples]


def jackknife_groups(units):
  """How many groups of the units [n] are left out in turn instead of resampling; 0 for a bootstrap."""
  return min(GROUPS, int(units.max()) + 1) if len(units) > MOST else 0


def _jackknife(measure, value, prediction, target, units, level, seed):
  """The interval of a statistic by its spread when one of a few groups of units is left out (Shao and Wu 1989)."""
  count = jackknife_groups(units)
  message = f"more than {MOST:,} images: intervals by a jackknife of {count} groups instead of resamples"
  warnings.warn(message, correlation.EvaluationWarning, stacklevel=3)
  group = (np.random.default_rng(seed).permutation(int(units.max()) + 1) % count)[units]
  left = [getattr(correlation, measure)(prediction[group != g], target[group != g]) for g in range(count)]
  reach = stats.t.ppf((1 + level) / 2, count - 1) * np.sqrt(count - 1) * np.std(left)
  return Interval(value, float(max(value - reach, -1)), float(min(value + reach, 1)))


def _bca(value, draws, blocks, level, count):
  """The BCa interval (low, high) of a value from `draws` [resamples] of `count` units and with `blocks` [b] left out.

  Efron 1987, eq. 3.9 and 6.6; widened for small samples as Hesterberg 2015, sec. 5.3, widens the percentile interval.
  (nan, nan) for fewer than 3 units, or where more than 5 % of the resamples have no value.
  """
  kept = draws[np.isfinite(draws)]
  if not np.isfinite(value) or count < 3 or len(kept) < 0.95 * len(draws):
    return float("nan"), float("nan")
  below = (np.sum(kept < value) + np.sum(kept == value) / 2) / len(kept)
  bias = stats.norm.ppf(np.clip(below, 1 / (len(kept) + 1), len(kept) / (len(kept) + 1)))
  pull = np.nanmean(blocks) - blocks[np.isfinite(blocks)]
  spread = np.sum(pull**2)
  acceleration = np.sum(pull**3) / (6 * spread**1.5) if spread > 0 else 0.0
  # A resample spreads by the factor (count - 1) / count too little, and knows its own spread only as Student's t does.
  reach = np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1)
  tails = bias + np.array([-reach, reach])
  low, high = np.quantile(kept, stats.norm.cdf(bias + tails / (1 - acceleration * tails)))
  return float(low), float(high)


def units_of(groups, n):
  """Numbers what shows one content, [n] int: every reference, and every image without one ('', or no groups)."""
  if groups is None:
    return np.arange(n)
  groups, alone = np.asarray(groups).astype(str), np.char.add("\0", np.arange(n).astype(str))
  return np.unique(np.where(groups == "", alone, groups), return_inverse=True)[1]


def _correlator(prediction, target, units, measures):
  """The function from counts [b, units], how often every resample holds every unit, to correlations [measures, b]."""
  x, y = correlation.pair(prediction, target)
  order = np.argsort(x, kind="stable")  # all in the order of x: its ranks then need no gathering
  x, y, units = x[order], y[order], units[order].astype(np.int32)
  by_y = np.argsort(y, kind="stable").astype(np.int32)
  constants = (units, x, y, by_y, _ties(x), _ties(y[by_y]))

  def correlate(counts):
    with jax.enable_x64(True):
      return _correlate(counts, *constants, measures=tuple(measures))

  return correlate


def _ties(ordered):
  """First and last position of everything equal to each element, or None where all differ."""
  first, last = np.searchsorted(ordered, ordered, "left"), np.searchsorted(ordered, ordered, "right") - 1
  return None if (first == last).all() else (first.astype(np.int32), last.astype(np.int32))


@functools.partial(jax.jit, static_argnames="measures")
def _correlate(counts, units, x, y, by_y, ties_x, ties_y, *, measures):
  """counts [b, units] -> [measures, b] float64; everything below has the layout [n, b]."""
  counts, of = counts.astype(jnp.float32).T[units], {"srcc": _spearman, "krcc": _kendall, "plcc": _pearson}
  return jnp.stack([of[measure](counts, x, y, by_y, ties_x, ties_y) for measure in measures])


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # whole numbers below 2^24 stay whole


def _dot(a, b):
  return jnp.einsum("nb,nb->b", a, b, preferred_element_type=jnp.float64)


def _running_sum(counts):
  """Sums of whole numbers along the first axis, in blocks, each block as a product with a triangle."""
  n, b = counts.shape
  block = 32
  parts = jnp.pad(counts, ((0, -n % block), (0, 0))).reshape(-1, block, b)
  inside = _matmul(jnp.tril(jnp.ones((block, block), jnp.float32)), parts)
  before = jnp.cumsum(inside[:, -1], 0) - inside[:, -1]
  return (inside + before[:, None]).reshape(-1, b)[:n]


def _tie_sums(counts, ties):
  """For every element in sorted order: how many draws stand before its tie group, and how many up to its end."""
  upto = _running_sum(counts)
  return (upto - counts, upto) if ties is None else ((upto - counts)[ties[0]], upto[ties[1]])


def _spearman(counts, x, y, by_y, ties_x, ties_y):
  # Average ranks, halves exact in float32, of elements that are drawn `counts` times; less their mean.
  ranks = lambda counts, ties: (sum(_tie_sums(counts, ties)) - counts.sum(0)) / 2
  place = jnp.zeros_like(by_y).at[by_y].set(jnp.arange(len(by_y), dtype=by_y.dtype), unique_indices=True)
  x, y = ranks(counts, ties_x), ranks(counts[by_y], ties_y)[place]
  weighted = counts * x
  return _ratio(_dot(weighted, y), _dot(weighted, x) * _dot(counts * y, y))


def _pearson(counts, x, y, *_):
  x, y = x - x.mean(), y - y.mean()
  sums = jnp.stack([jnp.ones_like(x), x, y, x * x, y * y, x * y]) @ counts.astype(jnp.float64)
  count, x, y, xx, yy, xy = sums
  # A resample of one single value leaves only rounding in the norm.
  return _ratio(xy - x * y / count, (xx - x * x / count) * (yy - y * y / count), 1e-24 * xx * yy)


def _kendall(counts, x, y, by_y, ties_x, ties_y):
  """tau-b: w' S w over the draws w, where S holds the product of the signs of all pairs of images."""

  def of_image(image):
    sign = (jnp.sign(image[0] - x) * jnp.sign(image[1] - y)).astype(jnp.float32)
    return _matmul(sign, counts)

  agree = _dot(jax.lax.map(of_image, (x, y), batch_size=256), counts)
  size = counts.sum(0).astype(jnp.float64)

  def untied(counts, ties):
    before, upto = _tie_sums(counts, ties)
    return size**2 - _dot(counts, upto - before)

  return _ratio(agree, untied(counts, ties_x) * untied(counts[by_y], ties_y))


def _ratio(covariance, norm, least=0.0):
  return covariance / jnp.sqrt(jnp.where(norm > least, norm, jnp.nan))
