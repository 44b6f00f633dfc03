"""Elastic net on frozen features: the whole path of alphas with warm starts, splits one after the other in one call.

Zou and Hastie 2005, solved by cyclic coordinate descent on the Gram matrix (Friedman, Hastie and Tibshirani 2010): a
coordinate that stays 0 costs a few operations, one that moves costs one column. The objective is scikit-learn's:
|y - Z w|^2 / (2 n) + alpha l1_ratio |w|_1 + alpha (1 - l1_ratio) |w|^2 / 2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.evaluation import ridge


def fit(features, target, rows, alphas, *, l1_ratio=0.5, standardize=True, tolerance=1e-8, max_sweeps=10_000):
  """Fits the elastic net for every split and every alpha.

  Args:
    features: [n, d] float32 or float64.
    target: [n] float, mean opinion scores; may be nan in rows that no split fits.
    rows: [k, n] bool, True where split k fits the row.
    alphas: [a] float > 0, weight of the penalty; worked through from the largest down.
    l1_ratio: share of the absolute values in the penalty, in (0, 1].
    standardize: divide every feature by its standard deviation over the fitted rows (a constant one by 1).
    tolerance: the descent ends where the duality gap is below this share of the variance of the target.
    max_sweeps: bound of the sweeps over all features; where it ends them, a `ridge.UnsettledWarning` says so.

  Returns:
    `ridge.Heads`; `error` [k, a] is the relative duality gap reached, `steps` [k] the sweeps taken.

  Raises:
    UserError: a value is not finite, an alpha is not positive, a split fits fewer than 2 rows.
    ValueError: `l1_ratio` is outside (0, 1].

  Example:
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> heads = fit(x, 2 * x[:, 0], np.ones((1, 50), bool), [0.1], l1_ratio=1.0)
    >>> (heads.weights[0, 0] != 0).tolist()
    [True, False, False]
  """
  if not 0 < l1_ratio <= 1:
    raise ValueError(f"l1_ratio is {l1_ratio}, expected a number in (0, 1]; `ridge` is the case 0")
  features, target, rows, alphas = ridge.checked(features, target, rows, alphas)
  order = np.argsort(-alphas, kind="stable")
  place = np.argsort(order, kind="stable")
  with jax.enable_x64(True):
    out = _fit(
      features, np.where(np.isfinite(target), target, 0.0), rows, ridge.padded_indices(rows), alphas[order],
      l1_ratio, tolerance, standardize=standardize, max_sweeps=max_sweeps,
    )  # fmt: skip
    heads = ridge.Heads(*(np.asarray(part) for part in out))
  ridge.warn_if_unsettled(heads.error, tolerance)
  return heads._replace(weights=heads.weights[:, place], error=heads.error[:, place])


@functools.partial(jax.jit, static_argnames=("standardize", "max_sweeps"))
def _fit(features, target, rows, index, alphas, l1_ratio, tolerance, *, standardize, max_sweeps):
  mean, scale, _, _ = ridge.moments(features, rows, standardize)

  def one(split):
    index, mean, scale = split
    weight = (index < len(target)).astype(jnp.float64)
    count = weight.sum()
    y = jnp.take(target, index, mode="clip") * weight
    intercept = y.sum() / count
    y = (y - intercept) * weight
    gram = ridge.gram(features, index, mean, 1 / scale, jnp.float64) / count
    right = ridge.project(features, index, mean, 1 / scale, y[:, None])[:, 0] / count
    variance = y @ y / count

    def at(start, alpha):
      w, product, gap, sweeps = _descend(
        gram, right, variance, alpha * l1_ratio, alpha * (1 - l1_ratio), start, tolerance, max_sweeps
      )
      return (w, product), (w, gap, sweeps)

    zero = jnp.zeros_like(right)
    _, (weights, gaps, sweeps) = jax.lax.scan(at, (zero, zero), alphas)
    return weights, intercept, mean, scale, gaps, sweeps.sum()

  return jax.lax.map(one, (index, mean, scale))


def _descend(gram, right, variance, absolute, square, start, tolerance, max_sweeps):
  """Coordinate descent from `start` = (w, G w / n) until the duality gap closes."""
  diagonal = jnp.diagonal(gram)

  def coordinate(j, carry):
    w, product = carry
    pull = right[j] - product[j] + diagonal[j] * w[j]
    new = jnp.sign(pull) * jnp.maximum(jnp.abs(pull) - absolute, 0) / jnp.maximum(diagonal[j] + square, 1e-300)
    new = jnp.where(diagonal[j] > 0, new, 0)
    step = new - w[j]
    product = jax.lax.cond(step != 0, lambda product: product + gram[j] * step, lambda product: product, product)
    return w.at[j].set(new), product

  def gap(w, product):
    """Primal minus dual value, as a share of the variance; the dual point is the residual, scaled to be feasible."""
    slope = right - product - square * w
    fit = variance - 2 * (w @ right) + w @ product + square * (w @ w)  # squared residual of the augmented problem
    scale = jnp.minimum(1.0, absolute / jnp.maximum(jnp.abs(slope).max(), 1e-300))
    primal = fit / 2 + absolute * jnp.abs(w).sum()
    along = variance - w @ right  # residual times target
    dual = scale * along - scale**2 * fit / 2
    return (primal - dual) / jnp.where(variance > 0, variance, 1)

  def sweep(carry):
    w, product, _, sweeps = carry
    w, product = jax.lax.fori_loop(0, len(w), coordinate, (w, product))
    return w, product, gap(w, product), sweeps + 1

  carry = (*start, gap(*start), 0)
  return jax.lax.while_loop(lambda c: (c[3] < max_sweeps) & (c[2] > tolerance), sweep, carry)
