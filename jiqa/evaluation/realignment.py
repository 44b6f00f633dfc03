"""One scale for many databases: the raw scores of each are carried onto the scale of a model that was trained on all.

A model trained on rankings inside several databases aligns their scales (Zhang et al. 2023, LIQE). Each database gets
one monotone logistic from its raw scores to the model's; the baseline is a linear rescaling of each to one range.
"""

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import correlation, logistic


def realign(scores, mos, databases, fitted=None):
  """Carries the human scores of every database onto the model's scale.

  Args:
    scores, mos: [n] float, finite, the model's scores and the raw human ones, each on its database's own scale.
    databases: [n] str, the database of every image.
    fitted: [n] bool, images that the curves may use (training and validation part); None: all.

  Returns:
    dict with `realigned` [n] and `linear` [n] float64 (the baseline: lowest score of a database 1, highest 5),
    `curves` (dict from database to `logistic.Curve`) and `pooled`: SRCC and PLCC of scores and human scores over the
    images that are not fitted (all, where every image is), for `raw`, `linear` and `realigned`.

  Raises:
    UserError: a database has fewer than 4 images to fit, or its curve falls.
  """
  scores, mos, databases = np.asarray(scores, np.float64), np.asarray(mos, np.float64), np.asarray(databases)
  fitted = np.ones(len(mos), bool) if fitted is None else np.asarray(fitted, bool)
  realigned, linear, curves = np.empty(len(mos)), np.empty(len(mos)), {}
  for name in np.unique(databases):
    of = databases == name
    fit = of & fitted
    if fit.sum() < 4 or mos[fit].max() == mos[fit].min():
      raise UserError(f"database {name}: {int(fit.sum())} images to fit, at least 4 with different scores are needed")
    curve = logistic.fit(mos[fit], scores[fit])
    low, high = mos[of].min(), mos[of].max()
    if not curve(high) > curve(low):
      raise UserError(f"database {name}: the model's scores fall as the human scores rise; is its direction declared?")
    curves[str(name)] = curve
    realigned[of] = curve(mos[of])
    linear[of] = 1 + 4 * (mos[of] - low) / (high - low)
  tested = fitted if fitted.all() else ~fitted
  measures = {"srcc": correlation.srcc, "plcc": correlation.plcc}
  scales = {"raw": mos, "linear": linear, "realigned": realigned}
  pooled = {kind: {key: of(scores[tested], y[tested]) for key, of in measures.items()} for kind, y in scales.items()}
  return {"realigned": realigned, "linear": linear, "curves": curves, "pooled": pooled}
