"""Agreement of predictions with human scores: SRCC, KRCC, PLCC, RMSE, MAE.

Single calls run in SciPy, float64, which is faster than a jitted call for one table. `srcc_batch` and `plcc_batch` are
jitted and take many rows at once (splits, methods). Both count ties as SciPy does: average ranks, Kendall's tau-b.

A correlation that does not exist is `nan`, never a number, and the `UndefinedCorrelationWarning` says why: fewer than 3
images, a value that is not finite, or a side on which all values are equal.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats


def srcc(prediction, target):
  """Spearman's rank correlation, ties with average ranks.

  Args:
    prediction: [n] float, scores of one model.
    target: [n] float, mean opinion scores in the same order.

  Returns:
    float in [-1, 1]; nan, with an `UndefinedCorrelationWarning`, where it is undefined.

  Raises:
    ValueError: the two are not one-dimensional and of one length.

  Example:
    >>> srcc([0.1, 0.4, 0.2, 0.9], [1, 3, 2, 4])
    1.0
  """
  prediction, target = _pair(prediction, target)
  if _undefined("SRCC", prediction, target):
    return float("nan")
  return _pearson(stats.rankdata(prediction), stats.rankdata(target))


def krcc(prediction, target):
  """Kendall's rank correlation, tau-b.

  Args:
    prediction: [n] float, scores of one model.
    target: [n] float, mean opinion scores in the same order.

  Returns:
    float in [-1, 1]; nan, with an `UndefinedCorrelationWarning`, where it is undefined.

  Raises:
    ValueError: the two are not one-dimensional and of one length.

  Example:
    >>> round(krcc([1, 2, 3, 4], [1, 2, 4, 3]), 4)
    0.6667
  """
  prediction, target = _pair(prediction, target)
  if _undefined("KRCC", prediction, target):
    return float("nan")
  return float(stats.kendalltau(prediction, target).statistic)


def plcc(prediction, target):
  """Pearson's linear correlation of the raw predictions; `logistic.mapped_plcc` maps them first.

  Args:
    prediction: [n] float, scores of one model.
    target: [n] float, mean opinion scores in the same order.

  Returns:
    float in [-1, 1]; nan, with an `UndefinedCorrelationWarning`, where it is undefined.

  Raises:
    ValueError: the two are not one-dimensional and of one length.

  Example:
    >>> plcc([1, 2, 3], [10, 20, 30])
    1.0
  """
  prediction, target = _pair(prediction, target)
  if _undefined("PLCC", prediction, target):
    return float("nan")
  return _pearson(prediction, target)


def rmse(prediction, target):
  """Root of the mean squared difference, in the unit of the two.

  Args:
    prediction: [n] float, predictions on the scale of the target.
    target: [n] float, mean opinion scores in the same order.

  Returns:
    float >= 0; nan, with an `UndefinedCorrelationWarning`, for no images or values that are not finite.

  Raises:
    ValueError: the two are not one-dimensional and of one length.

  Example:
    >>> rmse([1, 2], [4, 6])
    3.5355339059327378
  """
  prediction, target = _pair(prediction, target)
  if _undefined("RMSE", prediction, target, length=1, constant=True):
    return float("nan")
  return float(np.sqrt(np.mean((prediction - target) ** 2)))


def mae(prediction, target):
  """Mean absolute difference, in the unit of the two.

  Args:
    prediction: [n] float, predictions on the scale of the target.
    target: [n] float, mean opinion scores in the same order.

  Returns:
    float >= 0; nan, with an `UndefinedCorrelationWarning`, for no images or values that are not finite.

  Raises:
    ValueError: the two are not one-dimensional and of one length.

  Example:
    >>> mae([1, 2], [4, 6])
    3.5
  """
  prediction, target = _pair(prediction, target)
  if _undefined("MAE", prediction, target, length=1, constant=True):
    return float("nan")
  return float(np.mean(np.abs(prediction - target)))


def srcc_batch(predictions, targets, mask=None):
  """`srcc` of many rows in one jitted call.

  Args:
    predictions: [..., n] float.
    targets: [..., n] float, broadcast against `predictions`.
    mask: [..., n] bool, False where a column is padding; None counts every column.

  Returns:
    [...] float64 NumPy array; nan where `srcc` would be nan (no warning: a row of a batch has no name).
  """
  return _batch(predictions, targets, mask, ranked=True)


def plcc_batch(predictions, targets, mask=None):
  """`plcc` of many rows in one jitted call.

  Args:
    predictions: [..., n] float.
    targets: [..., n] float, broadcast against `predictions`.
    mask: [..., n] bool, False where a column is padding; None counts every column.

  Returns:
    [...] float64 NumPy array; nan where `plcc` would be nan (no warning: a row of a batch has no name).
  """
  return _batch(predictions, targets, mask, ranked=False)


def average_ranks(values, mask=None):
  """Ranks from 1, ties with the average of the ranks they cover; a pure function for use inside a jitted one.

  Args:
    values: [..., n] float, finite where it counts.
    mask: [..., n] bool, False where a column does not count; None counts every column.

  Returns:
    [..., n] of the dtype of `values`, 0 where it does not count.

  Example:
    >>> average_ranks(jnp.array([3.0, 1.0, 3.0, 2.0])).tolist()
    [3.5, 1.0, 3.5, 2.0]
  """
  mask = jnp.ones(values.shape, bool) if mask is None else mask
  values = jnp.where(mask, values, jnp.inf)
  order = jnp.argsort(values, axis=-1)
  ordered = jnp.take_along_axis(values, order, axis=-1)
  position = jnp.broadcast_to(jnp.arange(values.shape[-1]), values.shape)
  edge = ordered[..., 1:] != ordered[..., :-1]
  border = jnp.ones((*values.shape[:-1], 1), bool)
  axis = values.ndim - 1
  first = jax.lax.cummax(jnp.where(jnp.concatenate([border, edge], -1), position, 0), axis=axis)
  last = jnp.where(jnp.concatenate([edge, border], -1), position, values.shape[-1])
  last = jax.lax.cummin(last, axis=axis, reverse=True)
  rank = (first + last).astype(values.dtype) / 2 + 1
  rank = jnp.put_along_axis(jnp.zeros_like(rank), order, rank, axis=-1, inplace=False)
  return jnp.where(mask, rank, 0)


def pearson(x, y, weight):
  """Weighted Pearson correlation along the last axis; a pure function for use inside a jitted one.

  Args:
    x: [..., n] float.
    y: [..., n] float.
    weight: [..., n] float >= 0, how often a column counts.

  Returns:
    [...] float; nan where a side has no spread.
  """
  total = weight.sum(-1, keepdims=True)
  x = x - (weight * x).sum(-1, keepdims=True) / total
  y = y - (weight * y).sum(-1, keepdims=True) / total
  norm = jnp.sqrt((weight * x * x).sum(-1)) * jnp.sqrt((weight * y * y).sum(-1))
  return jnp.clip((weight * x * y).sum(-1) / jnp.where(norm > 0, norm, jnp.nan), -1, 1)


def _batch(predictions, targets, mask, ranked):
  with jax.enable_x64(True):
    predictions, targets = np.broadcast_arrays(np.asarray(predictions, np.float64), np.asarray(targets, np.float64))
    mask = np.ones(predictions.shape, bool) if mask is None else np.broadcast_to(mask, predictions.shape)
    return np.asarray(_correlate(predictions, targets, mask, ranked))


@functools.partial(jax.jit, static_argnames="ranked")
def _correlate(predictions, targets, mask, ranked):
  count = mask.sum(-1)
  finite = jnp.all(jnp.where(mask, jnp.isfinite(predictions) & jnp.isfinite(targets), True), -1)
  predictions, targets = (jnp.where(mask & finite[..., None], side, 0) for side in (predictions, targets))
  spread = _spread(predictions, mask) & _spread(targets, mask)
  if ranked:
    predictions, targets = average_ranks(predictions, mask), average_ranks(targets, mask)
  result = pearson(predictions, targets, mask.astype(predictions.dtype))
  return jnp.where((count >= 3) & finite & spread, result, jnp.nan)


def _spread(values, mask):
  """False where all counted values are equal: rounding of the mean must not turn them into a correlation."""
  return jnp.where(mask, values, -jnp.inf).max(-1) > jnp.where(mask, values, jnp.inf).min(-1)


def _pearson(x, y):
  x, y = x - x.mean(), y - y.mean()
  # Two steps of scaling, so that neither tiny nor huge units overflow or vanish in the squares.
  x, y = x / np.abs(x).max(), y / np.abs(y).max()
  return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def _pair(prediction, target):
  prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
  if prediction.ndim != 1 or prediction.shape != target.shape:
    raise ValueError(f"one score for every image is needed: prediction is {prediction.shape}, target {target.shape}")
  return prediction, target


def _undefined(name, prediction, target, length=3, constant=False):
  """Warns and returns True where the statistic does not exist."""
  reason = None
  if len(prediction) < length:
    reason = f"{len(prediction)} image(s), at least {length} are needed"
  for side, values in (("prediction", prediction), ("target", target)):
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
      reason = f"{len(broken)} {side} value(s) not finite, the first at index {broken[0]}: {values[broken[0]]}"
    elif not constant and reason is None and values.max() == values.min():
      reason = f"every {side} is {values[0]}"
  if reason:
    warnings.warn(f"{name} is undefined: {reason}", UndefinedCorrelationWarning, stacklevel=3)
  return reason is not None


class UndefinedCorrelationWarning(RuntimeWarning):
  """A correlation was asked for where none exists; the result is nan and the message says why."""
