"""Evaluation inside one database: head on train, penalty on validation, one look at test, median of the splits.

For every split a head is fitted to the training part for every penalty; the one with the highest SRCC on the validation
part is refitted on both parts, and the test part is predicted once.
"""

import dataclasses
import warnings

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import correlation, elastic_net, outputs, ridge
from jiqa.evaluation.head import Head

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, -1
ALPHAS = np.geomspace(1e-3, 1e6, 19)
MEASURES = ("srcc", "krcc", "plcc", "rmse", "mae")


def fit_heads(features, mos, splits, alphas=ALPHAS, *, regressor="ridge", l1_ratios=(), groups=None):
  """Fits a head on every split and tests it: the `Result`.

  Args:
    features: [n, d] float32, one row an image.
    mos: [n] float, higher is better.
    splits: [k, n] int8: 0 train, 1 validation, 2 test, -1 unused.
    alphas: [a] float > 0; for the elastic net in units of the standard deviation of the scores. One penalty needs no
      validation part.
    regressor: 'ridge' or 'elastic_net'.
    l1_ratios: [r] float in (0, 1], the shares of absolute values that the elastic net tries.
    groups: [n] str, the reference of every image; a reference on both sides of a split is warned about.

  Raises:
    UserError: a value is not finite, a part is too small, or no penalty has a defined SRCC on the validation part.

  Example:
    >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    >>> result = fit_heads(x, x @ [1.0, 2.0, 0.0, 0.0], np.arange(60)[None] % 3, alphas=[0.1, 1.0])
    >>> result.summary()["median"]["srcc"] > 0.99
    True
  """
  if regressor not in ("ridge", "elastic_net"):
    raise UserError(f"there is no regressor {regressor!r}; expected ridge or elastic_net")
  features, mos, splits = np.asarray(features), np.asarray(mos, np.float64), np.atleast_2d(np.asarray(splits))
  alphas, ratios = np.atleast_1d(np.asarray(alphas, np.float64)), (0.0,)
  if regressor == "elastic_net":
    ratios = sorted(l1_ratios, reverse=True)
    if not ratios:
      raise UserError("elastic_net needs at least one l1_ratio in (0, 1]")
  search = len(alphas) * len(ratios) > 1
  _check_splits(splits, mos, {TRAIN: "training", TEST: "test"} | ({VALIDATION: "validation"} if search else {}))
  _warn_if_shared(splits, groups)
  if regressor == "elastic_net":
    alphas = np.sort(alphas)[::-1] * mos[(splits != UNUSED).any(0)].std()
  # The smoothest heads come first: of equally good ones it is the first that counts.
  falling = np.sort(alphas)[::-1]
  penalties = [(alpha, ratio) for ratio in ratios for alpha in falling]
  chosen, validation_srcc = np.zeros(len(splits), int), np.full(len(splits), np.nan)
  if search:
    srcc = [_validation_srcc(features, mos, splits, falling, ratio) for ratio in ratios]
    chosen, validation_srcc = _best(np.concatenate(srcc, 1))
  alpha, ratio = np.array(penalties)[chosen].T
  heads = _fit(features, mos, np.isin(splits, (TRAIN, VALIDATION)), alpha, ratio)
  predictions = np.where(splits == TEST, ridge.predict(features, heads)[:, 0], np.nan)
  chosen = {"alphas": alphas, "alpha": alpha, "l1_ratio": ratio, "validation_srcc": validation_srcc}
  return Result(**_tested(predictions, mos, splits), **chosen, features=features, heads=heads)


def head_of(result, split, card):
  """One head of a result as a `Head`.

  Args:
    result: `Result`.
    split: int: the head of this split, fitted to its training and validation part. None: one fitted to all images
      with the median of the penalties chosen; what it is worth is the median over the splits.
    card: dict, see `Head`; 'alpha', 'images', 'test', 'direction' and 'split' or 'tested' are filled in where missing.
  """
  if split is None:
    middle = np.argsort(result.alpha, kind="stable")[len(result.alpha) // 2]
    alpha, ratio = result.alpha[[middle]], result.l1_ratio[[middle]]
    everything = np.ones((1, len(result.mos)), bool)
    heads, k = _fit(result.features, result.mos, everything, alpha, ratio), 0
    test = {key: outputs.plain(np.median(getattr(result, key))) for key in ("srcc", "plcc")}
    tested = f"median of {len(result.alpha)} random splits; the head itself is fitted to all ratings"
    facts = {"alpha": float(alpha[0]), "images": len(result.mos), "tested": tested}
  else:
    heads, k = result.heads, split
    test = {key: float(getattr(result, key)[k]) for key in ("srcc", "plcc")}
    images = int(np.isin(result.splits[k], (TRAIN, VALIDATION)).sum())
    facts = {"alpha": float(result.alpha[k]), "images": images, "split": k}
  facts |= {"test": test, "direction": "higher is better"}
  return Head(heads.weights[k, 0], heads.mean[k], heads.scale[k], heads.intercept[k], facts | card)


def scored(scores, mos, splits, *, names=None):
  """The `Scored` of a method's own scores, to which no head is fitted, on the test part of every split.

  Args:
    scores: [n] float, nan where the method was not asked.
    mos, splits: as for `fit_heads`.
    names: [n] str, image names for the error message.

  Raises:
    UserError: a score of a test part is missing or infinite, or a test part is too small.
  """
  scores, mos, splits = np.asarray(scores, np.float64), np.asarray(mos, np.float64), np.atleast_2d(np.asarray(splits))
  _check_splits(splits, mos, needed={TEST: "test"})
  bad = np.flatnonzero((splits == TEST).any(0) & ~np.isfinite(scores))
  if len(bad):
    first = f"image {bad[0]}" if names is None else names[bad[0]]
    raise UserError(f"{first} has the score {scores[bad[0]]}; {len(bad)} test image(s) have no score")
  return Scored(**_tested(np.where(splits == TEST, scores, np.nan), mos, splits))


def measures(prediction, mos):
  """SRCC, KRCC, PLCC, RMSE and MAE of raw predictions [n] as a dict of float, see `correlation`."""
  return {key: getattr(correlation, key)(prediction, mos) for key in MEASURES}


def breakdown(prediction, mos, labels):
  """The measures inside every condition, such as a distortion or a level.

  From prediction, mos [n] float and labels [n] to a dict from label to dict of `images` and the `measures`. Images
  without a prediction (nan) do not count.
  """
  prediction, mos, labels = np.asarray(prediction, np.float64), np.asarray(mos, np.float64), np.asarray(labels)
  known = np.isfinite(prediction)
  parts = {str(label): known & (labels == label) for label in np.unique(labels[known])}
  return {label: {"images": int(part.sum()), **measures(prediction[part], mos[part])} for label, part in parts.items()}


def summarise(result, domains):
  """`result.summary()`, and under 'domains' the median SRCC and PLCC inside each; domains is [n] str, '' for none."""
  inside = {}
  for domain in sorted(set(domains) - {""}):
    parts = [np.isfinite(row) & (domains == domain) for row in result.predictions]
    measured = [measures(row[part], result.mos[part]) for row, part in zip(result.predictions, parts, strict=True)]
    inside[domain] = {key: outputs.plain(np.median([m[key] for m in measured])) for key in ("srcc", "plcc")}
  return {**result.summary(), "domains": inside}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """How the scores of one method agree with one database: `k` splits, `n` images."""

  predictions: np.ndarray  # [k, n] float64, nan outside the test part
  mos: np.ndarray  # [n]
  splits: np.ndarray  # [k, n] int8
  srcc: np.ndarray  # [k] on the test part, like the next four
  krcc: np.ndarray
  plcc: np.ndarray
  rmse: np.ndarray
  mae: np.ndarray

  def summary(self):
    """For a results file: every measure of every split, their `median`, and `images`, the counts of the three parts."""
    counts = [[int((split == part).sum()) for part in (TRAIN, VALIDATION, TEST)] for split in self.splits]
    median = {key: outputs.plain(np.median(getattr(self, key))) for key in MEASURES}
    return {**{key: outputs.plain(getattr(self, key)) for key in MEASURES}, "median": median, "images": counts}

  def save(self, directory, stem):
    """Writes the scores of the images tested, `scores_STEM.npz`: predictions [k, n] (nan elsewhere) and mos [n]."""
    outputs.write_npz(directory / f"scores_{stem}.npz", predictions=self.predictions, mos=self.mos)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(Scored):
  """What the features of one method reached with fitted heads: besides `Scored`, `a` alphas and `d` features."""

  features: np.ndarray  # [n, d]
  alphas: np.ndarray  # [a] searched
  alpha: np.ndarray  # [k] chosen
  l1_ratio: np.ndarray  # [k] chosen; 0 is ridge
  validation_srcc: np.ndarray  # [k] of the chosen penalty; nan where there was nothing to choose
  heads: ridge.Heads  # weights [k, 1, d]

  def summary(self):
    """`Scored.summary()`, and `alpha`, `validation_srcc` (one value a split), `alphas` searched."""
    chosen = {"alpha": outputs.plain(self.alpha), "validation_srcc": outputs.plain(self.validation_srcc)}
    return {**chosen, **super().summary(), "alphas": outputs.plain(self.alphas)}

  def save(self, directory, stem):
    """Writes weights, mean, scale [k, d], intercept and alpha [k] of the heads of all splits, `heads_STEM.npz`."""
    heads = self.heads
    arrays = {"weights": heads.weights[:, 0], "intercept": heads.intercept, "mean": heads.mean, "scale": heads.scale}
    outputs.write_npz(directory / f"heads_{stem}.npz", **arrays, alpha=self.alpha)


def _validation_srcc(features, mos, splits, alphas, ratio):
  """SRCC of every split and alpha on the validation part [k, a]; nan where it is undefined."""
  train = splits == TRAIN
  if ratio:
    heads = elastic_net.fit(features, mos, train, alphas, l1_ratio=ratio, tolerance=1e-5)
  else:
    heads = ridge.fit(features, mos, train, alphas)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", correlation.UndefinedCorrelationWarning)
    scores = zip(ridge.predict(features, heads), splits == VALIDATION, strict=True)
    return np.array([[correlation.srcc(row[part], mos[part]) for row in rows] for rows, part in scores])


def _best(srcc):
  """The first of the equally best columns of every row, and its value; srcc is [k, penalties]."""
  undefined = np.flatnonzero(np.isnan(srcc).all(1))
  if len(undefined):
    raise UserError(
      f"split {undefined[0]}: no penalty gives a defined SRCC on the validation part; are its scores all equal? "
      "An elastic net may need smaller net_alphas"
    )
  chosen = (srcc >= np.nanmax(srcc, axis=1, keepdims=True) - 1e-12).argmax(1)
  return chosen, srcc[np.arange(len(srcc)), chosen]


def _fit(features, mos, rows, alpha, ratio):
  """The final heads [k, 1, d] of rows [k, n], each split with its own penalty."""
  if not ratio.any():
    return ridge.fit(features, mos, rows, alpha[:, None], tolerance=1e-10)
  penalties = zip(rows, alpha, ratio, strict=True)
  each = [elastic_net.fit(features, mos, row, [a], l1_ratio=share) for row, a, share in penalties]
  return ridge.Heads(*map(np.concatenate, zip(*each, strict=True)))


def _tested(predictions, mos, splits):
  """The fields of `Scored`."""
  measured = [measures(row[part], mos[part]) for row, part in zip(predictions, splits == TEST, strict=True)]
  by_key = {key: np.array([m[key] for m in measured]) for key in MEASURES}
  return {"predictions": predictions, "mos": mos, "splits": splits, **by_key}


def _check_splits(splits, mos, needed):
  """Refuses splits that cannot be evaluated, naming the split and the part."""
  if splits.ndim != 2 or splits.shape[1:] != mos.shape:
    raise UserError(f"splits of shape {splits.shape} do not belong to {len(mos)} scores")
  unknown = np.setdiff1d(splits, [TRAIN, VALIDATION, TEST, UNUSED])
  if len(unknown):
    raise UserError(f"splits hold {unknown.tolist()}; known are 0 train, 1 validation, 2 test, -1 unused")
  for part, name in needed.items():
    sizes = (splits == part).sum(1)
    if sizes.min() < 3:
      raise UserError(f"split {sizes.argmin()} has {sizes.min()} {name} image(s); at least 3 are needed")


def _warn_if_shared(splits, groups):
  """Warns where a reference stands on both sides of a split; '' stands for an image that is its own content."""
  groups = np.full(splits.shape[1], "") if groups is None else np.asarray(groups)
  for k, split in enumerate(splits):
    fitted = np.isin(split, (TRAIN, VALIDATION)) & (groups != "")
    shared = np.intersect1d(groups[fitted], groups[split == TEST])
    if len(shared):
      message = f"split {k}: {len(shared)} reference(s) stand in both the fitted and the test part, e.g. {shared[0]}"
      warnings.warn(message, stacklevel=3)
