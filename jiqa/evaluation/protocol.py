"""Evaluation inside one database: head on train, penalty on validation, one look at test, median of the splits.

For every split a head is fitted to the training part for every penalty; the one with the highest SRCC on the validation
part is refitted on both parts, and the test part is predicted once. With `standardise`, `refit` and `per_split` False
it is the protocol of ARNIQA (Agnolucci et al., WACV 2024), whose features are of five crops.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import bootstrap, correlation, linear, logistic, outputs
from jiqa.evaluation.head import Head

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, -1
ALPHAS = np.geomspace(1e-3, 1e6, 19)
MEASURES = ("srcc", "krcc", "plcc", "rmse", "mae")
SHOWN = {"srcc": "SRCC", "plcc": "PLCC", "plcc_logistic": "PLCC (logistic)"}  # in every table


def fit_heads(
  features, mos, splits, alphas=ALPHAS, *, regressor="ridge", l1_ratios=(), groups=None, standardise=True, refit=True,
  per_split=True,
):  # fmt: skip
  """Fits a head on every split and tests it: the `Result`.

  Args:
    features: [n, d] float32, one row an image; or [n, c, d], of c crops, each of which is fitted with the image's score
      while an image's prediction is the mean over its crops.
    mos: [n] float, higher is better.
    splits: [k, n] int8: 0 train, 1 validation, 2 test, -1 unused.
    alphas: [a] float > 0; for the elastic net in units of the standard deviation of the scores. One penalty needs no
      validation part.
    regressor: 'ridge' or 'elastic_net'.
    l1_ratios: [r] float in (0, 1], the shares of absolute values that the elastic net tries.
    groups: [n] str, the reference of every image; a reference on both sides of a split is warned about.
    standardise: as for `linear.ridge`.
    refit: fit the head that is tested to the validation part, too.
    per_split: every split chooses its penalty; else one serves all, by the median SRCC on the validation parts.

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
  alphas = np.atleast_1d(np.asarray(alphas, np.float64))
  # The smoothest heads come first: of equally good ones it is the first that counts.
  falling, ratios = np.sort(alphas)[::-1], [0.0] if regressor == "ridge" else sorted(l1_ratios, reverse=True)
  if not ratios:
    raise UserError("elastic_net needs at least one l1_ratio in (0, 1]")
  search = len(alphas) * len(ratios) > 1
  _check_splits(splits, mos, {TRAIN: "training", TEST: "test"} | ({VALIDATION: "validation"} if search else {}))
  _warn_if_shared(splits, groups)
  if regressor == "elastic_net":
    alphas = falling = falling * mos[(splits != UNUSED).any(0)].std()
  chosen, validation_srcc = np.zeros(len(splits), int), np.full(len(splits), np.nan)
  fit = functools.partial(_fit, features, mos, standardise=standardise)
  seen = features if features.ndim == 2 else features.mean(1, dtype=np.float64)
  if search:
    chosen, validation_srcc = _search(fit, seen, mos, splits, falling, ratios, per_split)
  alpha, ratio = np.array([(alpha, ratio) for ratio in ratios for alpha in falling])[chosen].T
  fitted = np.isin(splits, (TRAIN, VALIDATION) if refit else (TRAIN,))
  heads = fit(fitted, alpha[:, None], ratio)
  predictions = np.where(splits == TEST, linear.predict(seen, heads)[:, 0], np.nan)
  chosen = {"alphas": alphas, "alpha": alpha, "l1_ratio": ratio, "validation_srcc": validation_srcc}
  return Result(**_tested(predictions, mos, splits), **chosen, fitted=fitted, fit=fit, heads=heads)


def head_of(result, split, card):
  """One head of a `Result` as a `Head`.

  That of a split (int) is the one tested. With None it is fitted to all images with the median of the penalties
  chosen, and what it is worth is the median over the splits. Of its card (dict) what is missing is filled in: 'alpha',
  'images', 'test', 'direction' and 'split' or 'tested'.
  """
  if split is None:
    k = np.argsort(result.alpha, kind="stable")[len(result.alpha) // 2]
    rows, parts = np.ones((1, len(result.mos)), bool), slice(None)
    heads = result.fit(rows, result.alpha[[k]], result.l1_ratio[[k]])
    origin = {"tested": f"median of {len(result.alpha)} random splits; the head itself is fitted to all ratings"}
  else:
    k, rows, parts = split, result.fitted[split], split
    heads, origin = linear.Heads(*(array[[k]] for array in result.heads)), {"split": k}
  test = {key: outputs.plain(np.median(getattr(result, key)[parts])) for key in ("srcc", "plcc")}
  facts = {"alpha": float(result.alpha[k]), "images": int(rows.sum()), "test": test, "direction": "higher is better"}
  return Head(heads.weights[0, 0], heads.mean[0], heads.scale[0], heads.intercept[0], facts | origin | card)


def scored(scores, mos, splits, *, names=None, groups=None):
  """The `Scored` of a method's own scores, to which no head is fitted, on the test part of every split.

  scores are [n], nan where the method was not asked, the rest as for `fit_heads`; a UserError, with the image's name,
  where a score of a test part is missing or infinite, and where a test part is too small.
  """
  scores, mos, splits = np.asarray(scores, np.float64), np.asarray(mos, np.float64), np.atleast_2d(np.asarray(splits))
  _check_splits(splits, mos, needed={TEST: "test"})
  _warn_if_shared(splits, groups)
  bad = np.flatnonzero((splits == TEST).any(0) & ~np.isfinite(scores))
  if len(bad):
    first = f"image {bad[0]}" if names is None else names[bad[0]]
    raise UserError(f"{first} has the score {scores[bad[0]]}; {len(bad)} test image(s) have no score")
  return Scored(**_tested(np.where(splits == TEST, scores, np.nan), mos, splits))


def measures(prediction, mos):
  """SRCC, KRCC, PLCC, RMSE and MAE of raw predictions [n] as a dict of float, see `correlation`."""
  return {key: getattr(correlation, key)(prediction, mos) for key in MEASURES}


def cells(measured):
  """A table's cells for the measures that are `SHOWN`, of a dict in which what is undefined is None."""
  return ["undefined" if measured[key] is None else f"{measured[key]:.3f}" for key in SHOWN]


def breakdown(prediction, mos, labels):
  """Dict from every label, such as a distortion, to its number of `images` and the `measures` inside it.

  prediction, mos, labels are [n]; images without a prediction (nan) do not count. `undefined` says why a correlation
  is nan; nothing warns, since in a group such as the pristine images this is how it should be.
  """
  prediction, mos, labels = np.asarray(prediction, np.float64), np.asarray(mos, np.float64), np.asarray(labels)
  known, by_label = np.isfinite(prediction), {}
  for label in np.unique(labels[known]):
    part = known & (labels == label)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always", correlation.EvaluationWarning)
      by_label[str(label)] = {"images": int(part.sum()), **measures(prediction[part], mos[part])}
    why = dict.fromkeys(text.partition("undefined: ")[2] for text in correlation.reasons(caught))
    by_label[str(label)]["undefined"] = "; ".join(why)
  return by_label


def summarise(result, domains):
  """`result.summary()`, and under 'domains' the `SHOWN` medians inside each; domains is [n] str, '' for none."""
  inside = {}
  for domain in sorted(set(domains) - {""}):
    parts = [np.isfinite(row) & (domains == domain) for row in result.predictions]
    measured = [_measured(row[part], result.mos[part]) for row, part in zip(result.predictions, parts, strict=True)]
    inside[domain] = {key: outputs.plain(np.median([m[key] for m in measured])) for key in SHOWN}
  return {**result.summary(), "domains": inside}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """How the scores of one method agree with one database: `k` splits, `n` images."""

  predictions: np.ndarray  # [k, n] float64, nan outside the test part
  mos: np.ndarray  # [n]
  splits: np.ndarray  # [k, n] int8
  srcc: np.ndarray  # [k] on the test part, like the next five
  krcc: np.ndarray
  plcc: np.ndarray
  rmse: np.ndarray
  mae: np.ndarray
  plcc_logistic: np.ndarray

  def summary(self):
    """For a results file: every measure of every split, their `median`, and `images`, the counts of the three parts."""
    counts = [[int((split == part).sum()) for part in (TRAIN, VALIDATION, TEST)] for split in self.splits]
    values = {key: getattr(self, key) for key in (*MEASURES, "plcc_logistic")}
    median = {key: np.median(of_split) for key, of_split in values.items()}
    return outputs.plain({**values, "median": median, "images": counts})

  def save(self, directory, stem):
    """Writes the scores of the images tested, `scores_STEM.npz`: predictions [k, n] (nan elsewhere) and mos [n]."""
    outputs.write_npz(directory / f"scores_{stem}.npz", predictions=self.predictions, mos=self.mos)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(Scored):
  """What the features of one method reached with fitted heads: besides `Scored`, `a` alphas and `d` features."""

  fit: Callable  # from (rows [k, n], alphas [k, a], l1_ratio [k]) to the `Heads` of these features
  fitted: np.ndarray  # [k, n] bool, the rows of the heads that were tested
  alphas: np.ndarray  # [a] searched
  alpha: np.ndarray  # [k] chosen
  l1_ratio: np.ndarray  # [k] chosen; 0 is ridge
  validation_srcc: np.ndarray  # [k] of the chosen penalty; nan where there was nothing to choose
  heads: linear.Heads  # weights [k, 1, d]

  def summary(self):
    """`Scored.summary()`, and `alpha`, `validation_srcc` (one value a split), `alphas` searched."""
    chosen = outputs.plain({"alpha": self.alpha, "validation_srcc": self.validation_srcc})
    return {**chosen, **super().summary(), "alphas": self.alphas.tolist()}

  def save(self, directory, stem):
    """Writes weights, mean, scale [k, d], intercept and alpha [k] of the heads of all splits, `heads_STEM.npz`."""
    heads = self.heads
    arrays = {"weights": heads.weights[:, 0], "intercept": heads.intercept, "mean": heads.mean, "scale": heads.scale}
    outputs.write_npz(directory / f"heads_{stem}.npz", **arrays, alpha=self.alpha)


def _search(fit, features, mos, splits, alphas, ratios, per_split):
  """The best penalty of every split on its validation part, and the SRCC that it has there.

  The first of the equally best; where one serves all splits the last, as ARNIQA's grid rises.
  """
  columns = []
  for ratio in ratios:
    heads = fit(splits == TRAIN, alphas, ratio, final=False)
    scores = zip(linear.predict(features, heads), splits == VALIDATION, strict=True)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", correlation.UndefinedCorrelationWarning)
      columns.append([[correlation.srcc(row[part], mos[part]) for row in rows] for rows, part in scores])
  srcc = np.concatenate(columns, 1)
  undefined = np.flatnonzero(np.isnan(srcc).all(1))
  if len(undefined):
    raise UserError(
      f"split {undefined[0]}: no penalty gives a defined SRCC on the validation part; are its scores all equal? "
      "An elastic net may need smaller net_alphas"
    )
  chosen = (srcc >= np.nanmax(srcc, axis=1, keepdims=True) - 1e-12).argmax(1)
  if not per_split:
    median = np.median(np.nan_to_num(srcc, nan=-1), axis=0)
    chosen[:] = np.flatnonzero(median == median.max())[-1]
  return chosen, srcc[np.arange(len(srcc)), chosen]


def _fit(features, mos, rows, alphas, ratio, *, standardise, final=True):
  """Heads of rows [k, n], by ridge where the share of absolute values is 0; the final ones are more exact."""
  if features.ndim == 3:
    mos, rows = np.repeat(mos, features.shape[1]), np.repeat(rows, features.shape[1], axis=1)
    features = features.reshape(-1, features.shape[2])
  if np.any(ratio):
    options = {"l1_ratio": ratio, "tolerance": 1e-8 if final else 1e-5}
    return linear.elastic_net(features, mos, rows, alphas, standardise=standardise, **options)
  return linear.ridge(features, mos, rows, alphas, standardise=standardise, tolerance=1e-10 if final else 1e-6)


def _measured(prediction, mos):
  """`measures`, and the PLCC after the curve that fits best, nan where none exists."""
  curve = logistic.fit(prediction, mos)
  return measures(prediction, mos) | {"plcc_logistic": correlation.plcc(curve(prediction), mos)}


def _tested(predictions, mos, splits):
  """The fields of `Scored`."""
  measured = [_measured(row[part], mos[part]) for row, part in zip(predictions, splits == TEST, strict=True)]
  by_key = {key: np.array([m[key] for m in measured]) for key in measured[0]}
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
  if groups is None:
    return
  units = bootstrap.units_of(groups, len(groups))
  for k, split in enumerate(splits):
    shared = np.intersect1d(units[np.isin(split, (TRAIN, VALIDATION))], units[split == TEST])
    if len(shared):
      first = np.asarray(groups)[units == shared[0]][0]
      message = f"split {k}: {len(shared)} reference(s) stand in both the training and the test part, e.g. {first}"
      warnings.warn(message, correlation.EvaluationWarning, stacklevel=3)
