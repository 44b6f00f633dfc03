"""The monotone curves that map predictions onto the human scale before PLCC and RMSE are taken.

Both are linear in all parameters but centre and slope, so only a plane is searched (variable projection, Golub and
Pereyra 1973): a coarse grid, then a bounded trust-region polish of its best cells.
"""

import dataclasses
import warnings

import numpy as np
from scipy import optimize, special

from jiqa.evaluation import correlation

# The plane in standard units of the prediction: from a straight line to a step. A centre far outside
# the data leaves an exponential.
SLOPES = (1e-4, 1e4)
CENTRES = (-300.0, 300.0)
# A slope beyond these cannot be told from a straight line, or from a step: its parameters mean nothing.
SETTLED = (0.02, 1e3)
MAX_EVALUATIONS = 200


def fit(prediction, target, parameters=4):
  """Least-squares fit of the 4- or the 5-parameter logistic.

  4: b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)) (VQEG 2000).
  5: b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5 (Sheikh, Sabir and Bovik 2006, eq. 1).

  Args:
    prediction, target: [n] float, scores of one model and human scores.
    parameters: 4 or 5.

  Returns:
    `Curve`; where none exists (fewer images than parameters, values not finite or all equal) its parameters are nan and
    an `UndefinedCorrelationWarning` says why.

  Raises:
    ValueError: the two are not of one length, or `parameters` is neither 4 nor 5.

  Example:
    >>> x = np.linspace(-3, 3, 50)
    >>> curve = fit(x, 2 + 3 / (1 + np.exp(-(x - 0.5) / 0.7)))
    >>> np.round(curve.parameters, 4).tolist(), curve.converged
    ([5.0, 2.0, 0.5, 0.7], True)
  """
  if parameters not in (4, 5):
    raise ValueError(f"the logistic has 4 or 5 parameters, not {parameters}")
  prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
  reason = _reason(prediction, target, parameters)
  if reason:
    warnings.warn(f"no logistic exists: {reason}", correlation.UndefinedCorrelationWarning, stacklevel=2)
    return Curve((float("nan"),) * parameters, float("nan"), False, reason)
  shift, unit = prediction.mean(), prediction.std()
  level, height = target.mean(), target.std() or 1.0
  x, y = (prediction - shift) / unit, (target - level) / height
  best = min((_polish(x, y, parameters, start) for start in _starts(x, y, parameters)), key=lambda found: found.cost)
  centre, slope = best.x[0], np.exp(best.x[1])
  linear, residual = _project(x, y, parameters, centre, slope)
  if parameters == 4:
    low, rise = level + height * linear[0], height * linear[1]
    values = (low + rise, low, shift + unit * centre, unit / slope)
  else:
    straight = height * linear[2] / unit
    constant = level + height * linear[0] - straight * shift
    values = (height * linear[1], slope / unit, shift + unit * centre, straight, constant)
  edge = not SETTLED[0] < slope < SETTLED[1]
  message = "the curve has degenerated: within the data it is a straight line or a step" if edge else best.message
  sse = float(height**2 * residual @ residual)
  return Curve(tuple(float(value) for value in values), sse, bool(best.success and not edge), str(message))


def _reason(x, y, parameters):
  if x.ndim != 1 or x.shape != y.shape:
    raise ValueError(f"one score for every image is needed: prediction is {x.shape}, target {y.shape}")
  if len(x) < parameters:
    return f"{len(x)} image(s) for {parameters} parameters"
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    return "a value is not finite"
  return f"every prediction is {x[0]}" if x.max() == x.min() else ""


def _basis(x, parameters, centre, slope):
  """[n, 2 or 3]: the terms in which the curve is linear; broadcasts over leading axes of centre and slope."""
  rise = special.expit(slope * (x - centre))
  rise = rise if parameters == 4 else rise - 0.5
  return np.stack([np.ones_like(rise), rise] + [np.broadcast_to(x, rise.shape)] * (parameters - 4), -1)


def _project(x, y, parameters, centre, slope):
  """The linear parameters for a given centre and slope, and the residuals."""
  basis = _basis(x, parameters, centre, slope)
  size = np.maximum(np.abs(basis).max(0), 1e-290)  # far from its centre the logistic is tiny, but still a shape
  linear = np.linalg.lstsq(basis / size, y, rcond=1e-13)[0] / size
  return linear, basis @ linear - y


def _starts(x, y, parameters):
  """The best cells of a grid of centres (quantiles of the data) and slopes, at most one for each centre."""
  centres = np.unique(np.quantile(x, np.linspace(0.02, 0.98, 9)))
  slopes = np.geomspace(0.1, 100.0, 10)
  thin = slice(None, None, max(1, len(x) // 2000))  # enough to find the cell
  cost = np.array([[np.sum(_project(x[thin], y[thin], parameters, c, s)[1] ** 2) for s in slopes] for c in centres])
  order = np.argsort(cost.min(1))[:4]
  return [(centres[i], np.log(slopes[cost[i].argmin()])) for i in order]


def _polish(x, y, parameters, start):
  residual = lambda free: _project(x, y, parameters, free[0], np.exp(free[1]))[1]  # noqa: E731
  bounds = ([CENTRES[0], np.log(SLOPES[0])], [CENTRES[1], np.log(SLOPES[1])])
  return optimize.least_squares(
    residual, start, bounds=bounds, jac="3-point", ftol=1e-12, xtol=1e-10, gtol=1e-10, max_nfev=MAX_EVALUATIONS
  )


@dataclasses.dataclass(frozen=True)
class Curve:
  """A fitted logistic; calling it maps predictions onto the human scale."""

  parameters: tuple  # b1..b4 or b1..b5 of the published form
  sse: float  # sum of squared residuals, in the squared unit of the human scores
  converged: bool
  message: str  # why the search ended

  def __call__(self, prediction):
    """Maps predictions [n] to human scores [n], float64."""
    x = np.asarray(prediction, np.float64)
    if len(self.parameters) == 4:
      b1, b2, b3, b4 = self.parameters
      return b2 + (b1 - b2) * special.expit((x - b3) / abs(b4))
    b1, b2, b3, b4, b5 = self.parameters
    return b1 * (special.expit(b2 * (x - b3)) - 0.5) + b4 * x + b5
