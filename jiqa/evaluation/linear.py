"""Linear regression on frozen features for every split and every alpha: float32 work, float64 answers.

The ridge minimises |y - Z w|^2 + alpha |w|^2 over the centred features Z of a split's rows, of unit variance unless
asked otherwise: by (Z'Z + alpha I) w = Z'y, or where these are fewer than the features by (ZZ' + alpha I) c = y and w =
Z'c.

Alphas within a factor of `SPAN` share one float32 Cholesky factor. As a preconditioner it leaves a condition number of
at most sqrt(SPAN), so that conjugate gradients (Hestenes and Stiefel 1952) solve all of them in a few steps: first on
the float32 matrix, then in float64 on the features, so that the answer does not carry the rounding of the matrix.
"""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from jiqa.errors import UserError

# Ratio of the largest to the smallest alpha that share a factor, which costs as much as about 25 steps.
SPAN = 100.0
# Columns of a symmetric product that are formed at a time, and only the part below the diagonal.
PANEL = 1024
# Rows that `predict` converts to float64 at a time: 64 MiB at d = 8,192.
CHUNK = 1024
# Bound of the elastic net's sweeps over all features.
SWEEPS = 10_000


class Heads(NamedTuple):
  """Fitted regressors of `k` splits x `a` alphas: score = (x - mean) / scale @ weights + intercept.

  weights [k, a, d], intercept [k], mean [k, d], scale [k, d]: float64. error [k, a] bounds the relative error of the
  weights in the norm of the system.
  """

  weights: np.ndarray
  intercept: np.ndarray
  mean: np.ndarray
  scale: np.ndarray
  error: np.ndarray


def ridge(features, target, rows, alphas, *, tolerance=1e-6, max_steps=300, standardise=True):
  """Fits ridge regressors (Hoerl and Kennard 1970) for every split and every alpha.

  The objective and the unpenalised intercept are those of scikit-learn's `Ridge`.

  Args:
    features: [n, d] float32 or float64.
    target: [n] float, human scores; may be nan in rows that no split fits.
    rows: [k, n] bool, True where split k fits the row.
    alphas: [a] float > 0, weight of the squared norm; or [k, a], each split its own.
    tolerance: relative error at which the float64 steps end, in the norm of the system; 1e-6 is enough to choose
      alpha, 1e-11 gives float64 answers.
    max_steps: bound of the float64 steps; where it ends them, a RuntimeWarning says so.
    standardise: bring the features of the rows to unit variance; scikit-learn's `Ridge` by itself only centres them.

  Returns:
    `Heads`.

  Raises:
    UserError: a value is not finite, an alpha is not positive, a split fits fewer than 2 rows.

  Example:
    >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 2.0])
    >>> np.round(predict(x, ridge(x, y, np.ones((1, 3), bool), [3.0])), 6).tolist()
    [[[0.5, 1.0, 1.5]]]
  """
  features, target, rows, alphas = _checked(features, target, rows, alphas)
  groups, count = _grouped(alphas), rows.sum(1)
  dual, fitted = features.shape[1] > count.min(), []
  # LAPACK's own threads would wait in a loop for cores that XLA is using.
  with jax.enable_x64(True), threadpoolctl.threadpool_limits(1, "blas"):
    for row, size, of_split in zip(rows, count, groups, strict=True):
      x, y = np.zeros((count.max(), features.shape[1]), features.dtype), np.zeros(count.max())
      x[:size], y[:size] = features[row], target[row]
      options = {"standardise": standardise, "dual": dual, "max_steps": max_steps}
      fitted.append(jax.device_get(_ridge(x, y, size, of_split, tolerance, **options)))
  weights, *moments, error = map(np.stack, zip(*fitted, strict=True))
  given = np.s_[:, : alphas.shape[1]]  # without what has filled the last group
  _warn_if_unsettled(error[given], tolerance)
  return Heads(weights[given], *moments, error[given])


def elastic_net(features, target, rows, alphas, *, l1_ratio=0.5, tolerance=1e-8, standardise=True):
  """Fits the elastic net for every split and every alpha, by scikit-learn's path (Zou and Hastie 2005).

  Minimises |y - Z w|^2 / (2 n) + alpha l1_ratio |w|_1 + alpha (1 - l1_ratio) |w|^2 / 2.

  Args:
    features, target, rows, alphas, standardise: as for `ridge`.
    l1_ratio: share of the absolute values in the penalty, in (0, 1], else a ValueError; or [k], each split its own.
    tolerance: the descent ends where the duality gap is below this share of the variance of the target; where SWEEPS
      over all features do not get there, a RuntimeWarning says so.

  Returns:
    `Heads`; `error` [k, a] is the relative duality gap reached.
  """
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import enet_path

  if not ((np.asarray(l1_ratio) > 0) & (np.asarray(l1_ratio) <= 1)).all():
    raise ValueError(f"l1_ratio is {l1_ratio}, expected a number in (0, 1]; `ridge` is the case 0")
  features, target, rows, alphas = _checked(features, target, rows, alphas)
  fitted = []
  for row, of_split, share in zip(rows, alphas, np.broadcast_to(l1_ratio, len(rows)), strict=True):
    falling, place = np.unique(-of_split, return_inverse=True)
    with jax.enable_x64(True):
      z, mean, scale = jax.device_get(_standardise(features[row], row.sum(), standardise))
    y = target[row] - target[row].mean()
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", ConvergenceWarning)  # said below, for all splits together
      options = {"precompute": len(z) > z.shape[1], "tol": tolerance, "max_iter": SWEEPS}
      _, weights, gaps = enet_path(z, y, l1_ratio=share, alphas=-falling, **options)
    error = gaps[place] / max(y @ y / len(y), np.finfo(float).tiny)
    fitted.append((weights.T[place], target[row].mean(), mean, scale, error))
  heads = Heads(*map(np.stack, zip(*fitted, strict=True)))
  _warn_if_unsettled(heads.error, tolerance * (1 + 1e-9))
  return heads


def predict(features, heads):
  """Scores [k, a, n] float64 of every image, features [n, d], by every one of the `Heads`."""
  weights = heads.weights / heads.scale[:, None]
  centre = heads.mean.mean(0)  # features far from 0 keep their digits
  intercept = heads.intercept[:, None] + np.einsum("kd,kad->ka", centre - heads.mean, weights)
  flat = weights.reshape(-1, weights.shape[-1]).T
  chunks = (features[start : start + CHUNK].astype(np.float64) for start in range(0, len(features), CHUNK))
  scores = np.concatenate([(chunk - centre) @ flat for chunk in chunks])
  return scores.T.reshape(*weights.shape[:2], -1) + intercept[..., None]


def _warn_if_unsettled(error, tolerance):
  """Warns where a search was ended by its bound and not by its tolerance; error is [k, a]."""
  if unsettled := int((~(error <= tolerance)).sum()):
    message = f"{unsettled} of {error.size} heads have not settled: error {np.max(error):.1e}, asked for"
    warnings.warn(f"{message} {tolerance:.0e}; larger alphas settle sooner", RuntimeWarning, stacklevel=3)


def _checked(features, target, rows, alphas):
  """The arguments of `ridge` as arrays of the right types, alphas [k, a]; see its errors."""
  features = np.asarray(features)
  features = features.astype(np.promote_types(features.dtype, np.float32), copy=False)
  target, rows = np.asarray(target, np.float64), np.atleast_2d(np.asarray(rows, bool))
  alphas = np.atleast_1d(np.asarray(alphas, np.float64))
  if features.ndim != 2 or target.shape != features.shape[:1] or rows.shape[1:] != target.shape:
    raise ValueError(f"features {features.shape}, target {target.shape} and rows {rows.shape} do not fit together")
  broken = np.flatnonzero(~np.isfinite(features.sum(axis=1, dtype=np.float64)))
  if len(broken):
    raise UserError(f"the features of {len(broken)} image(s) are not finite, such as row {broken[0]}: leave it out")
  broken = np.flatnonzero(~np.isfinite(target) & rows.any(0))
  if len(broken):
    raise UserError(f"row {broken[0]} has the score {target[broken[0]]} and is fitted by a split: leave it out")
  if not (np.isfinite(alphas).all() and (alphas > 0).all()):
    raise UserError(f"every alpha must be a positive number, got {alphas.tolist()}")
  if rows.sum(1).min() < 2:
    raise UserError(f"split {int(rows.sum(1).argmin())} fits {int(rows.sum(1).min())} row(s), at least 2 are needed")
  return features, target, rows, np.broadcast_to(alphas, (len(rows), alphas.shape[-1]))


def _standardise(x, count, scaled):
  """z = (x - mean) / scale [m, d], mean [d], scale [d], float64, of features x [m, d].

  Unless `scaled`, and of a constant, the scale is 1; else the deviation. Rows from `count` on are padding: z is 0.
  """
  valid = (jnp.arange(len(x)) < count)[:, None]
  mean = jnp.where(valid, x, 0).sum(0, dtype=jnp.float64) / count
  z = jnp.where(valid, x.astype(jnp.float64) - mean, 0)
  varies = jnp.where(valid, x, -jnp.inf).max(0) > jnp.where(valid, x, jnp.inf).min(0)
  scale = jnp.where(scaled & varies, jnp.sqrt((z**2).sum(0) / count), 1)
  return z / scale, mean, scale


def _grouped(alphas):
  """Alphas [k, a] as [k, g, w]: as few groups of neighbours as `SPAN` allows, the last alpha repeated."""
  for width in range(alphas.shape[1], 0, -1):
    groups = np.pad(alphas, ((0, 0), (0, -alphas.shape[1] % width)), "edge").reshape(len(alphas), -1, width)
    if (groups.max(-1) <= SPAN * (1 + 1e-9) * groups.min(-1)).all():
      break
  return groups


@functools.partial(jax.jit, static_argnames=("dual", "max_steps"))
def _ridge(x, y, count, groups, tolerance, *, standardise, dual, max_steps):
  """One split: weights [g * w, d], intercept, mean, scale, error [g * w]."""
  z, mean, scale = _standardise(x, count, standardise)
  intercept = y.sum() / count
  y = jnp.where(jnp.arange(len(y)) < count, y - intercept, 0)
  a = z.T if dual else z
  matrix = _gram(a.astype(jnp.float32))
  right = y if dual else z.T @ y
  solve = functools.partial(_solve, matrix, lambda v: a.T @ (a @ v), right, tolerance=tolerance, max_steps=max_steps)
  # One group of alphas after the other: only one factor is held.
  solutions, error = jax.lax.map(solve, groups)
  solutions = jnp.moveaxis(solutions, 1, 0).reshape(len(right), -1)
  weights = z.T @ solutions if dual else solutions
  return weights.T, intercept, mean, scale, error.reshape(-1)


def _solve(matrix, multiply, right, alphas, *, tolerance, max_steps):
  """Solves (A + alpha I) x = right for a group of alphas; `matrix` is A in float32, `multiply` A in float64."""
  factor = _factorise(matrix, jnp.sqrt(alphas.min() * alphas.max()).astype(jnp.float32))
  in_float32 = lambda of, v: of(v.astype(jnp.float32)).astype(v.dtype)
  precondition = functools.partial(in_float32, lambda r: jax.scipy.linalg.cho_solve((factor, True), r))
  rough = lambda v: in_float32(lambda v: _matmul(matrix, v), v) + alphas * v
  exact = lambda v: multiply(v) + alphas * v
  right = jnp.broadcast_to(right[:, None], (len(right), len(alphas)))
  start, _ = _conjugate_gradients(rough, precondition, right, jnp.zeros_like(right), 1e-5, 30)
  return _conjugate_gradients(exact, precondition, right, start, tolerance, max_steps)


def _factorise(matrix, alpha):
  """Lower Cholesky factor of matrix + alpha I, with a larger alpha where rounding has made that indefinite."""

  def attempt(carry):
    alpha = 10 * carry[0]
    shifted = matrix + alpha * jnp.eye(len(matrix), dtype=matrix.dtype)
    return alpha, jax.lax.linalg.cholesky(shifted, symmetrize_input=False)

  broken = lambda carry: ~jnp.isfinite(carry[1][-1, -1]) & (carry[0] < jnp.inf)
  alpha = jnp.maximum(alpha, 1e-7 * jnp.trace(matrix))
  return jax.lax.while_loop(broken, attempt, (alpha / 10, jnp.full_like(matrix, jnp.nan)))[1]


def _conjugate_gradients(apply, precondition, right, x, tolerance, max_steps):
  """Preconditioned, for each column of `right` by itself: x, and its relative error sqrt(r' M^-1 r / x' b)."""
  dot = lambda a, b: (a * b).sum(0)
  ratio = lambda a, b: jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
  unsettled = lambda x, rz: rz > tolerance**2 * dot(x, right)

  def body(carry):
    x, r, p, rz, step = carry
    active = unsettled(x, rz)
    q = apply(p)
    length = jnp.where(active, ratio(rz, dot(p, q)), 0)
    x, r = x + length * p, r - length * q
    z = precondition(r)
    rz_next = jnp.where(active, dot(r, z), rz)
    return x, r, z + ratio(rz_next, rz) * p, rz_next, step + 1

  r = right - apply(x)
  z = precondition(r)
  proceed = lambda carry: (carry[4] < max_steps) & unsettled(carry[0], carry[3]).any()
  x, _, _, rz, _ = jax.lax.while_loop(proceed, body, (x, r, z, dot(r, z), 0))
  return x, jnp.sqrt(ratio(jnp.maximum(rz, 0), dot(x, right)))


def _gram(a):
  """a'a, of which only the panels left of the diagonal are computed."""
  d = a.shape[1]
  panels = [_matmul(a[:, start : start + PANEL].T, a[:, : start + PANEL]) for start in range(0, d, PANEL)]
  lower = jnp.concatenate([jnp.pad(panel, ((0, 0), (0, d - panel.shape[1]))) for panel in panels])
  return jnp.tril(lower) + jnp.tril(lower, -1).T


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # no TF32 or bfloat16 passes
