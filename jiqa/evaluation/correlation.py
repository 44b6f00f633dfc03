"""Agreement of predictions with human scores: SRCC, KRCC, PLCC, RMSE, MAE, in float64, ties as SciPy counts them.

Every function takes one score of a model and one human score an image ([n] float each) and raises a ValueError where
these are not of one length. A value that does not exist is `nan`, never a number, and an `UndefinedCorrelationWarning`
says why: fewer than 3 images, a value that is not finite, or a side on which all values are equal.

`plcc_batch` and `srcc_batch` are for JAX programs: many sets at once, in float32, without warnings.
"""

import functools
import warnings

import jax.numpy as jnp
import numpy as np
from scipy import stats


def srcc(prediction, target):
  """Spearman's rank correlation, ties with average ranks: float in [-1, 1], or nan."""
  return _measure("SRCC", prediction, target, lambda x, y: _pearson(stats.rankdata(x), stats.rankdata(y)))


def krcc(prediction, target):
  """Kendall's rank correlation, tau-b: float in [-1, 1], or nan."""
  return _measure("KRCC", prediction, target, lambda x, y: float(stats.kendalltau(x, y).statistic))


def plcc(prediction, target):
  """Pearson's linear correlation: float in [-1, 1], or nan."""
  return _measure("PLCC", prediction, target, _pearson)


def rmse(prediction, target):
  """Root of the mean squared difference, in the unit of the two: float >= 0, or nan."""
  return _measure("RMSE", prediction, target, lambda x, y: float(np.sqrt(np.mean((x - y) ** 2))), difference=True)


def mae(prediction, target):
  """Mean absolute difference, in the unit of the two: float >= 0, or nan."""
  return _measure("MAE", prediction, target, lambda x, y: float(np.mean(np.abs(x - y))), difference=True)


def plcc_batch(prediction, target):
  """Pearson's correlations along the last axis, of JAX arrays inside `jax.jit`: [..., n] and [..., n] to [...] float32.

  nan where `plcc` is; nothing warns.
  """
  sides = [jnp.asarray(side, jnp.float32) for side in (prediction, target)]
  defined = [jnp.isfinite(side).all(-1) & (side.max(-1) > side.min(-1)) for side in sides]
  x, y = (side - side.mean(-1, keepdims=True) for side in sides)
  x, y = (side / jnp.abs(side).max(-1, keepdims=True) for side in (x, y))
  r = (x * y).sum(-1) / jnp.sqrt(jnp.square(x).sum(-1) * jnp.square(y).sum(-1))
  return jnp.where(defined[0] & defined[1] & (x.shape[-1] >= 3), jnp.clip(r, -1, 1), jnp.nan)


def srcc_batch(prediction, target):
  """Spearman's correlations, ties with average ranks; arguments and result as for `plcc_batch`."""

  @functools.partial(jnp.vectorize, signature="(n)->(n)")
  def ranks(x):
    first, last = (jnp.searchsorted(jnp.sort(x), x, side) for side in ("left", "right"))
    return jnp.where(jnp.isfinite(x), (first + last) / 2, jnp.nan)

  return plcc_batch(*(ranks(jnp.asarray(side)) for side in (prediction, target)))


def pair(prediction, target):
  """The two as float64 arrays; a ValueError where they are not one-dimensional and of one length."""
  prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
  if prediction.ndim != 1 or prediction.shape != target.shape:
    raise ValueError(f"one score for every image is needed: prediction is {prediction.shape}, target {target.shape}")
  return prediction, target


def _pearson(x, y):
  x, y = x - x.mean(), y - y.mean()
  # Two steps of scaling, so that neither tiny nor huge units overflow or vanish in the squares.
  x, y = x / np.abs(x).max(), y / np.abs(y).max()
  return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def _measure(name, prediction, target, compute, difference=False):
  """Computes a measure, or warns and returns nan; a `difference` exists for one image and for constants too."""
  (prediction, target), length, reason = pair(prediction, target), 1 if difference else 3, None
  if len(prediction) < length:
    reason = f"{len(prediction)} image(s), at least {length} are needed"
  for side, values in (("prediction", prediction), ("target", target)):
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
      reason = f"{len(broken)} {side} value(s) not finite, the first at index {broken[0]}: {values[broken[0]]}"
    elif not difference and reason is None and values.max() == values.min():
      reason = f"every {side} is {values[0]}"
  if reason is None:
    return compute(prediction, target)
  warnings.warn(f"{name} is undefined: {reason}", UndefinedCorrelationWarning, stacklevel=3)
  return float("nan")


class EvaluationWarning(RuntimeWarning):
  """What whoever reads the results has to know."""


class UndefinedCorrelationWarning(EvaluationWarning):
  """A correlation was asked for where none exists; the result is nan and the message says why."""


def reasons(caught):
  """What the `EvaluationWarning`s among recorded warnings say, each once."""
  return list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, EvaluationWarning)))
