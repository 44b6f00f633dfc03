"""The monotone curve that maps predictions onto the human scale before PLCC and RMSE are taken.

It is linear in all parameters but centre and slope, so only a plane is searched (variable projection, Golub and Pereyra
1973): a coarse grid, then a bounded trust-region polish of its best cells.
"""

import dataclasses
import warnings

import numpy as np
from scipy import optimize, special

from jiqa.evaluation import correlation

# The plane in standard units of the prediction: from a straight line to a step; a far centre leaves an exponential.
SLOPES = (1e-4, 1e4)
CENTRES = (-300.0, 300.0)
# A slope beyond these cannot be told from a straight line, or from a step: its parameters mean nothing.
SETTLED = (0.02, 1e3)


@dataclasses.dataclass(frozen=True)
class Curve:
  """A fitted logistic; calling it maps predictions [n] onto the human scale, float64."""

  parameters: tuple  # b1..b4 of the published form
  sse: float  # sum of squared residuals, in the squared unit of the human scores
  converged: bool
  message: str  # why the search ended

  def __call__(self, prediction):
    b1, b2, b3, b4 = self.parameters
    return b2 + (b1 - b2) * special.expit((np.asarray(prediction, np.float64) - b3) / abs(b4))


def fit(prediction, target):
  """Least-squares fit of b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)) (VQEG 2000).

  Args:
    prediction, target: [n] float, scores of one model and human scores.

  Returns:
    `Curve`; where none exists (fewer than 4 images, values not finite or all equal) its parameters are nan and an
    `UndefinedCorrelationWarning` says why.

  Example:
    >>> x = np.linspace(-3, 3, 50)
    >>> curve = fit(x, 2 + 3 / (1 + np.exp(-(x - 0.5) / 0.7)))
    >>> np.round(curve.parameters, 4).tolist(), curve.converged
    ([5.0, 2.0, 0.5, 0.7], True)
  """
  prediction, target = correlation.pair(prediction, target)
  reason = ""
  if len(prediction) < 4:
    reason = f"{len(prediction)} image(s) for 4 parameters"
  elif not (np.isfinite(prediction).all() and np.isfinite(target).all()):
    reason = "a value is not finite"
  elif prediction.max() == prediction.min():
    reason = f"every prediction is {prediction[0]}"
  if reason:
    warnings.warn(f"no logistic exists: {reason}", correlation.UndefinedCorrelationWarning, stacklevel=2)
    return Curve((float("nan"),) * 4, float("nan"), False, reason)
  shift, unit = prediction.mean(), prediction.std()
  level, height = target.mean(), target.std() or 1.0
  x, y = (prediction - shift) / unit, (target - level) / height
  best = min((_polish(x, y, start) for start in _starts(x, y)), key=lambda polished: polished.cost)
  centre, slope = best.x[0], np.exp(best.x[1])
  linear, residual = _project(x, y, centre, slope)
  low, rise = level + height * linear[0], height * linear[1]
  parameters = tuple(map(float, (low + rise, low, shift + unit * centre, unit / slope)))
  edge = not SETTLED[0] < slope < SETTLED[1]
  message = "the curve has degenerated: within the data it is a straight line or a step" if edge else best.message
  return Curve(parameters, float(height**2 * residual @ residual), bool(best.success and not edge), str(message))


def _project(x, y, centre, slope):
  """The linear parameters for a given centre and slope, and the residuals."""
  basis = np.stack([np.ones_like(x), special.expit(slope * (x - centre))], -1)
  size = np.maximum(np.abs(basis).max(0), 1e-290)  # far from its centre the logistic is tiny, but still a shape
  linear = np.linalg.lstsq(basis / size, y, rcond=1e-13)[0] / size
  return linear, basis @ linear - y


def _starts(x, y):
  """The best cells of a grid of centres (quantiles of the data) and slopes, at most one for each centre."""
  centres, slopes = np.unique(np.quantile(x, np.linspace(0.02, 0.98, 9))), np.geomspace(0.1, 100.0, 10)
  thin = slice(None, None, max(1, len(x) // 2000))  # enough to find the cell
  cost = np.array([[np.sum(_project(x[thin], y[thin], c, s)[1] ** 2) for s in slopes] for c in centres])
  order = np.argsort(cost.min(1))[:4]
  return [(centres[i], np.log(slopes[cost[i].argmin()])) for i in order]


def _polish(x, y, start):
  residual = lambda free: _project(x, y, free[0], np.exp(free[1]))[1]
  options = {"jac": "3-point", "ftol": 1e-12, "xtol": 1e-10, "gtol": 1e-10, "max_nfev": 200}
  return optimize.least_squares(residual, start, bounds=list(zip(CENTRES, np.log(SLOPES), strict=True)), **options)
