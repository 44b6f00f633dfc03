"""Ridge regression on frozen features: all alphas and all splits in one jitted call, float32 work, float64 answers.

For one split, minimise |y - Z w|^2 + alpha |w|^2, where Z holds the centred (and standardised) features of the rows
that are fitted. With at least d rows the primal system (Z'Z + alpha I) w = Z'y is solved, with fewer the dual
(ZZ' + alpha I) c = y, w = Z'c: the smaller of the two, and the one that is not singular.

The expensive part is O(min(n, d)^3), so it runs in float32 and as rarely as possible. Alphas within a factor of
`GROUP_SPAN` share one Cholesky factor, taken at their geometric mean: as a preconditioner it leaves a condition number
of at most sqrt(GROUP_SPAN), so that conjugate gradients solve every alpha of the group in a few O(n^2) steps (Hestenes
and Stiefel 1952). Where the matrix is large they run in float32 on it first; they end in float64 on the features
themselves, when the error is below `tolerance`. So the answer does not carry the rounding of the float32 matrix, which
for small alphas would be visible in the third digit.
"""

import functools
import itertools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import cholesky

# Ratio of the largest to the smallest alpha that share a factor. One factor costs as much as about 25 CG steps on a
# CPU, where 100 is best; accelerators factorise relatively faster, so there every alpha has its own.
GROUP_SPAN = {"cpu": 100.0}
# Rows that a pass over the features converts to float64 at a time: 64 MiB at d = 8,192.
CHUNK = 1024
# Row panels in which a symmetric product is formed; only those left of the diagonal are.
PANELS = 8
# From this size on, steps on the float32 Gram matrix go first: below, the float64 pass over the features costs no more.
ROUGH_FROM = 768
# Splits are solved side by side while their matrices fit into this many bytes, else one after the other.
BATCH_BYTES = 2**26


class UnsettledWarning(RuntimeWarning):
  """A head is less exact than was asked for."""


class Heads(NamedTuple):
  """Fitted regressors of `k` splits x `a` alphas: score = (x - mean) / scale @ weights + intercept.

  weights [k, a, d], intercept [k], mean [k, d], scale [k, d]: float64. error [k, a] bounds the relative error of the
  weights in the norm of the system; steps [k] counts the float64 passes that it took.
  """

  weights: np.ndarray
  intercept: np.ndarray
  mean: np.ndarray
  scale: np.ndarray
  error: np.ndarray
  steps: np.ndarray


def fit(features, target, rows, alphas, *, standardize=True, tolerance=1e-6, max_steps=300):
  """Fits ridge regressors for every split and every alpha.

  Hoerl and Kennard 1970; the objective and the unpenalised intercept are those of scikit-learn's `Ridge`.

  Args:
    features: [n, d] float32 or float64.
    target: [n] float, mean opinion scores; may be nan in rows that no split fits.
    rows: [k, n] bool, True where split k fits the row.
    alphas: [a] float > 0, weight of the squared norm; or [k, a], each split its own.
    standardize: divide every feature by its standard deviation over the fitted rows (a constant one by 1).
    tolerance: relative error at which the float64 steps end, in the norm of the system; 1e-6 is enough to choose
      alpha, 1e-11 gives float64 answers.
    max_steps: bound of the float64 steps; where it ends them, an `UnsettledWarning` says so.

  Returns:
    `Heads` of NumPy arrays.

  Raises:
    UserError: a value is not finite, an alpha is not positive, a split fits fewer than 2 rows.

  Example:
    >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 2.0])
    >>> heads = fit(x, y, np.ones((1, 3), bool), [2.0], standardize=False)
    >>> np.round(predict(x, heads), 6).tolist()
    [[[0.5, 1.0, 1.5]]]
  """
  features, target, rows, alphas = checked(features, target, rows, alphas)
  groups, place = _grouped(np.broadcast_to(alphas, (len(rows), alphas.shape[-1])))
  count = rows.sum(1)
  index = padded_indices(rows)
  dual = features.shape[1] > count.min()
  # What a Gram matrix lacks of the one over all rows is cheaper to take away than to add up, where it is the smaller.
  outside = padded_indices(~rows) if not dual and 2 * count.min() > len(target) else None
  size = index.shape[1] if dual else features.shape[1]
  limit = BATCH_BYTES // (4 * size**2 * 4)
  side_by_side = max([k for k in range(2, len(rows) + 1) if k <= limit and len(rows) % k == 0], default=None)
  with jax.enable_x64(True), cholesky.one_blas_thread():
    out = _fit(
      features, np.where(np.isfinite(target), target, 0.0), rows, index, outside, groups, tolerance,
      dual=dual, standardize=standardize, max_steps=max_steps, side_by_side=side_by_side,
    )  # fmt: skip
    heads = Heads(*(np.asarray(part) for part in out))
  split = np.arange(len(rows))[:, None]
  warn_if_unsettled(heads.error, tolerance)
  return heads._replace(weights=heads.weights[split, place], error=heads.error[split, place])


def predict(features, heads):
  """Scores of every image by every head, in float64.

  Args:
    features: [n, d] float.
    heads: `Heads` of `k` splits x `a` alphas.

  Returns:
    [k, a, n] float64.
  """
  weights = heads.weights / heads.scale[:, None]
  centre = heads.mean.mean(0)  # features far from 0 keep their digits
  intercept = heads.intercept[:, None] + np.einsum("kd,kad->ka", centre - heads.mean, weights)
  flat = np.ascontiguousarray(weights.reshape(-1, weights.shape[-1]).T)
  scores = np.empty((len(features), flat.shape[1]))
  with jax.enable_x64(True):
    flat, centre = jnp.asarray(flat), jnp.asarray(centre)
    for start in range(0, len(features), CHUNK):
      scores[start : start + CHUNK] = _apply(features[start : start + CHUNK], centre, flat)
  return scores.T.reshape(*weights.shape[:2], -1) + intercept[..., None]


@jax.jit
def _apply(features, centre, weights):
  return (features.astype(jnp.float64) - centre) @ weights


def warn_if_unsettled(error, tolerance):
  """Warns where a search was ended by its bound and not by its tolerance; error is [k, a]."""
  if not (error <= tolerance).all():
    message = f"{int((~(error <= tolerance)).sum())} of {error.size} heads have not settled: error {np.max(error):.1e}"
    warnings.warn(f"{message}, asked for {tolerance:.0e}; larger alphas settle sooner", UnsettledWarning, stacklevel=3)


def checked(features, target, rows, alphas):
  features = np.asarray(features)
  features = features if features.dtype in (np.float32, np.float64) else features.astype(np.float32)
  target, rows = np.asarray(target, np.float64), np.atleast_2d(np.asarray(rows, bool))
  alphas = np.atleast_1d(np.asarray(alphas, np.float64))
  if features.ndim != 2 or target.shape != features.shape[:1] or rows.shape[1:] != target.shape:
    raise ValueError(f"features {features.shape}, target {target.shape} and rows {rows.shape} do not fit together")
  broken = np.flatnonzero(~np.isfinite(features.sum(axis=1, dtype=np.float64)))
  if len(broken):
    raise UserError(
      f"the features of {len(broken)} image(s) are not finite, the first is row {broken[0]}: leave it out"
    )
  broken = np.flatnonzero(~np.isfinite(target) & rows.any(0))
  if len(broken):
    raise UserError(f"row {broken[0]} has the score {target[broken[0]]} and is fitted by a split: leave it out")
  if not (np.isfinite(alphas).all() and (alphas > 0).all()):
    raise UserError(f"every alpha must be a positive number, got {alphas.tolist()}")
  if rows.sum(1).min() < 2:
    raise UserError(f"split {int(rows.sum(1).argmin())} fits {int(rows.sum(1).min())} row(s), at least 2 are needed")
  return features, target, rows, alphas


def _grouped(alphas):
  """Alphas [k, a] sorted into groups [k, g, w] that share a factor, and the place [k, a] of each when flattened."""
  span = GROUP_SPAN.get(jax.default_backend(), 1.0) * (1 + 1e-9)
  grouped = []
  for split in alphas:
    groups = []
    for alpha in np.unique(split):
      if groups and alpha <= groups[-1][0] * span:
        groups[-1].append(alpha)
      else:
        groups.append([alpha])
    grouped.append(groups)
  count, width = max(map(len, grouped)), max(len(group) for groups in grouped for group in groups)
  padded = np.empty((len(alphas), count, width))
  for row, groups in zip(padded, grouped, strict=True):
    for i in range(count):
      group = groups[min(i, len(groups) - 1)]
      row[i] = group + group[-1:] * (width - len(group))
  flat = padded.reshape(len(alphas), 1, -1)
  return padded, (flat == alphas[..., None]).argmax(-1)


def padded_indices(rows):
  """Row numbers of every split [k, m], m a multiple of the chunk; padding is n, one past the last row."""
  count = max(int(rows.sum(1).max()), 1)
  chunk = min(CHUNK, count)
  index = np.full((len(rows), -(-count // chunk) * chunk), rows.shape[1], np.int32)
  for k, row in enumerate(rows):
    index[k, : row.sum()] = np.flatnonzero(row)
  return index


@functools.partial(jax.jit, static_argnames=("dual", "standardize", "max_steps", "side_by_side"))
def _fit(features, target, rows, index, outside, groups, tolerance, *, dual, standardize, max_steps, side_by_side):
  mean, scale, centre, unit = moments(features, rows, standardize)
  total = None if outside is None else gram(features, jnp.arange(_padded_length(len(target))), centre, 1 / unit)

  def one(split):
    groups, index, outside, mean, scale = split
    weight = (index < len(target)).astype(jnp.float64)
    count = weight.sum()
    y = jnp.take(target, index, mode="clip") * weight
    intercept = y.sum() / count
    y = (y - intercept) * weight
    standard = (features, index, mean, 1 / scale)
    transpose, expand = functools.partial(project, *standard), functools.partial(_expand, *standard)
    if dual:
      matrix = _kernel(*standard)
      right, operate = y, lambda v: expand(transpose(v))
    else:
      own = gram(features, index if outside is None else outside, centre, 1 / unit)
      matrix = own if outside is None else total - own
      shift, stretch = ((mean - centre) / unit).astype(jnp.float32), (unit / scale).astype(jnp.float32)
      matrix = (matrix - count.astype(jnp.float32) * shift[:, None] * shift) * stretch[:, None] * stretch
      right, operate = transpose(y[:, None])[:, 0], functools.partial(_normal, *standard)
    solution, error, steps = _solve(matrix, operate, right, groups, tolerance, max_steps)
    return (transpose(solution) if dual else solution).T, intercept, mean, scale, error, steps

  return jax.lax.map(one, (groups, index, outside, mean, scale), batch_size=side_by_side)


def _solve(matrix, operate, right, groups, tolerance, max_steps):
  """Solves (A + alpha I) x = right for all alphas; `matrix` is A in float32, `operate` multiplies by A in float64.

  One group of alphas after the other: only one factor is held, and a group that is done does not wait for the others.
  """
  floor = 1e-7 * jnp.trace(matrix)

  def of_group(alphas):
    factor = _factorise(matrix, jnp.maximum(jnp.sqrt(alphas[0] * alphas[-1]).astype(jnp.float32), floor))

    def precondition(residual):
      size = jnp.linalg.norm(residual, axis=0)
      unit = (residual / jnp.where(size > 0, size, 1)).astype(jnp.float32)
      return cholesky.solve(factor, unit).astype(residual.dtype) * size

    rough = lambda v: _matmul(matrix, v.astype(jnp.float32)).astype(v.dtype) + alphas * v  # noqa: E731
    exact = lambda v: operate(v) + alphas * v  # noqa: E731
    columns = jnp.broadcast_to(right[:, None], (len(right), len(alphas)))
    start = jnp.zeros_like(columns)
    if len(matrix) >= ROUGH_FROM:
      start, _, _ = _conjugate_gradients(rough, precondition, columns, start, 1e-5, 30)
    return _conjugate_gradients(exact, precondition, columns, start, tolerance, max_steps)

  solution, error, steps = jax.lax.map(of_group, groups)
  return jnp.moveaxis(solution, 0, 1).reshape(len(right), -1), error.reshape(-1), steps.sum()


def _factorise(matrix, alpha):
  """Cholesky factor of matrix + alpha I, with a larger alpha where that is not positive definite.

  A float32 Gram matrix may be indefinite by its rounding; the steps in float64 make up for what is added here.
  """

  def attempt(carry):
    alpha = 10 * carry[0]
    return alpha, cholesky.factorise(matrix + alpha * jnp.eye(len(matrix), dtype=jnp.float32))

  def broken(carry):
    return ~jnp.isfinite(carry[1].lower[-1, -1]) & (carry[0] < jnp.inf)

  empty = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), jax.eval_shape(cholesky.factorise, matrix))
  return jax.lax.while_loop(broken, attempt, (alpha / 10, empty))[1]


def _conjugate_gradients(apply, precondition, right, x, tolerance, max_steps):
  """Preconditioned conjugate gradients for the columns of `right`, each with its own step sizes.

  Returns x, the relative error sqrt(r' M^-1 r / x' b) of every column, and the number of steps.
  """
  dot = lambda a, b: (a * b).sum(0)  # noqa: E731
  ratio = lambda a, b: jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)  # noqa: E731

  def unsettled(x, rz):
    return rz > tolerance**2 * dot(x, right)

  def body(carry):
    x, r, z, p, rz, step = carry
    active = unsettled(x, rz)
    q = apply(p)
    length = jnp.where(active, ratio(rz, dot(p, q)), 0)
    x, r = x + length * p, r - length * q
    z = precondition(r)
    rz_next = jnp.where(active, dot(r, z), rz)
    p = z + ratio(rz_next, rz) * p
    return x, r, z, p, rz_next, step + 1

  r = right - apply(x)
  z = precondition(r)
  carry = (x, r, z, z, dot(r, z), 0)
  carry = jax.lax.while_loop(lambda c: (c[5] < max_steps) & unsettled(c[0], c[4]).any(), body, carry)
  x, rz = carry[0], carry[4]
  return x, jnp.sqrt(ratio(jnp.maximum(rz, 0), dot(x, right))), carry[5]


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # no TF32 or bfloat16 passes


def _padded_length(n):
  chunk = min(CHUNK, n)
  return -(-n // chunk) * chunk


def _rows(features, index):
  """Rows [m, d] of the features in their own dtype and a [m, 1] bool that is False for padding."""
  return jnp.take(features, index, axis=0, mode="clip"), (index < len(features))[:, None]


def _chunks(index):
  return index.reshape(-1, min(CHUNK, len(index)))


def _standard(features, index, mean, stretch):
  part, valid = _rows(features, index)
  return jnp.where(valid, (part.astype(jnp.float64) - mean) * stretch, 0)


def moments(features, rows, standardize):
  """Mean and scale of every split [k, d], and of all rows [d], float64."""
  n = len(features)
  centre = jnp.zeros(features.shape[1], jnp.float64)

  def pass_over(centre, weights):
    def body(sums, index):
      part, valid = _rows(features, index)
      part = jnp.where(valid, part.astype(jnp.float64) - centre, 0)
      weight = jnp.take(weights, index, axis=1, mode="clip")
      return (sums[0] + weight @ part, sums[1] + weight @ part**2), None

    zero = jnp.zeros((len(weights), features.shape[1]), jnp.float64)
    sums, _ = jax.lax.scan(body, (zero, zero), _chunks(jnp.arange(_padded_length(n))))
    return tuple(total / weights.sum(1, keepdims=True) for total in sums)

  centre = pass_over(centre, jnp.ones((1, n)))[0][0]
  mean, square = pass_over(centre, jnp.concatenate([rows, jnp.ones((1, n), bool)]).astype(jnp.float64))
  variance = square - mean**2
  # A feature that is constant over the fitted rows leaves only the rounding of the difference: nothing to scale.
  scale = jnp.where(variance > 1e-12 * square, jnp.sqrt(jnp.maximum(variance, 0)), 1.0)
  scale = scale if standardize else jnp.ones_like(scale)
  return mean[:-1] + centre, scale[:-1], centre, scale[-1]


def gram(features, index, mean, stretch, dtype=jnp.float32):
  """X'X of the given rows; centred and scaled first, so that float32 loses as few digits as possible."""

  def body(total, index):
    return _add_lower_product(total, _standard(features, index, mean, stretch).astype(dtype).T), None

  zero = jnp.zeros((features.shape[1],) * 2, dtype)
  return _mirror(jax.lax.scan(body, zero, _chunks(index))[0])


def _kernel(features, index, mean, stretch):
  """ZZ' of the given rows in float32."""
  part = jax.lax.map(lambda i: _standard(features, i, mean, stretch).astype(jnp.float32), _chunks(index))
  part = part.reshape(-1, features.shape[1])
  return _mirror(_add_lower_product(jnp.zeros((len(part),) * 2, jnp.float32), part))


def _add_lower_product(total, part):
  """total + part part', right in the lower triangle only."""
  edges = np.linspace(0, len(part), min(PANELS, 1 + len(part) // 256) + 1).astype(int)
  for start, stop in itertools.pairwise(edges):
    total = total.at[start:stop, :stop].add(_matmul(part[start:stop], part[:stop].T))
  return total


def _mirror(lower):
  return jnp.tril(lower) + jnp.tril(lower, -1).T


def project(features, index, mean, stretch, v):
  """Z'v: [m, a] -> [d, a] float64."""

  def body(total, part):
    return total + _standard(features, part[0], mean, stretch).T @ part[1], None

  zero = jnp.zeros((features.shape[1], v.shape[1]), jnp.float64)
  return jax.lax.scan(body, zero, (_chunks(index), v.reshape(-1, min(CHUNK, len(index)), v.shape[1])))[0]


def _expand(features, index, mean, stretch, v):
  """Zv: [d, a] -> [m, a] float64."""
  return jax.lax.map(lambda i: _standard(features, i, mean, stretch) @ v, _chunks(index)).reshape(-1, v.shape[1])


def _normal(features, index, mean, stretch, v):
  """Z'Zv: [d, a] -> [d, a] float64, in one pass over the rows."""

  def body(total, index):
    part = _standard(features, index, mean, stretch)
    return total + part.T @ (part @ v), None

  return jax.lax.scan(body, jnp.zeros_like(v), _chunks(index))[0]
