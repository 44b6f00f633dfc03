"""How a method is judged inside one database: head on train, alpha on validation, one look at test, median of splits.

The protocol of the published split files: for every split a ridge head is fitted to the training part for every alpha,
the alpha with the highest SRCC on the validation part is refitted on training and validation part together, and the
test part is predicted once.
"""

import dataclasses
import io
import warnings

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import correlation, outputs, ridge

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, -1
ALPHAS = np.geomspace(1e-3, 1e6, 19)
MEASURES = ("srcc", "krcc", "plcc", "rmse", "mae")


def in_database(features, mos, splits, alphas=ALPHAS, *, standardize=True, names=None, groups=None, seen=()):
  """Judges frozen features on the splits of their own database.

  Args:
    features: [n, d] float32, one row an image.
    mos: [n] float, higher is better.
    splits: [k, n] int8: 0 train, 1 validation, 2 test, -1 unused.
    alphas: [a] float > 0; one alpha needs no validation part.
    standardize: scale every feature to unit variance over the fitted rows.
    names: [n] str, image names; needed for `seen`.
    groups: [n] str, the reference of every image; a reference on both sides of a split is warned about.
    seen: image names that the encoder's weights have seen with their scores.

  Returns:
    `Result`.

  Raises:
    UserError: features or scores are not finite, a part is too small, or there is no validation part to choose by.

  Example:
    >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    >>> result = in_database(x, x @ [1.0, 2.0, 0.0, 0.0], np.arange(60)[None] % 3, alphas=[0.1, 1.0])
    >>> result.summary()["median"]["srcc"] > 0.99
    True
  """
  mos, splits = np.asarray(mos, np.float64), np.atleast_2d(np.asarray(splits))
  alphas = np.atleast_1d(np.asarray(alphas, np.float64))
  check_splits(splits, mos, need_validation=len(alphas) > 1)
  warn_if_seen(splits, names, groups, seen)
  chosen, validation_srcc = np.zeros(len(splits), int), np.full(len(splits), np.nan)
  if len(alphas) > 1:
    heads = ridge.fit(features, mos, splits == TRAIN, alphas, standardize=standardize)
    validation = ridge.predict(features, heads)
    scores = correlation.srcc_batch(validation, mos, np.broadcast_to((splits == VALIDATION)[:, None], validation.shape))
    if np.isnan(scores).all(1).any():
      k = int(np.flatnonzero(np.isnan(scores).all(1))[0])
      raise UserError(f"split {k}: no alpha gives a defined SRCC on the validation part; are its scores all equal?")
    # Ties go to the larger alpha: the smoother of two equally good heads.
    chosen = np.array(
      [np.flatnonzero(row == np.nanmax(row))[np.argmax(alphas[row == np.nanmax(row)])] for row in scores]
    )
    validation_srcc = scores[np.arange(len(splits)), chosen]
  fitted = np.isin(splits, (TRAIN, VALIDATION))
  heads = ridge.fit(features, mos, fitted, alphas[chosen, None], standardize=standardize, tolerance=1e-10)
  predictions = ridge.predict(features, heads)[:, 0]
  predictions = np.where(splits == TEST, predictions, np.nan)
  measured = [measures(row[part], mos[part]) for row, part in zip(predictions, splits == TEST, strict=True)]
  return Result(
    alphas=alphas, alpha=alphas[chosen], validation_srcc=validation_srcc, predictions=predictions, mos=mos,
    splits=splits, heads=heads, **{key: np.array([m[key] for m in measured]) for key in MEASURES},
  )  # fmt: skip


def scored(scores, mos, splits, *, names=None):
  """Judges a method's own scores, to which no head is fitted, on the test part of every split.

  Args:
    scores: [n] float, nan where the method was not asked.
    mos: [n] float, higher is better.
    splits: [k, n] int8: 2 is the test part.
    names: [n] str, image names for the error message.

  Returns:
    `Scored`.

  Raises:
    UserError: a score of a test part is missing or infinite, or a test part is too small.

  Example:
    >>> result = scored(np.arange(6.0), np.arange(6.0) ** 2, np.full((1, 6), TEST))
    >>> result.summary()["median"]["srcc"]
    1.0
  """
  scores, mos = np.asarray(scores, np.float64), np.asarray(mos, np.float64)
  splits = np.atleast_2d(np.asarray(splits))
  for k, part in enumerate(splits == TEST):
    if part.sum() < 3:
      raise UserError(f"split {k} has {int(part.sum())} test image(s); at least 3 are needed")
    bad = np.flatnonzero(part & ~np.isfinite(scores))
    if len(bad):
      where = f"{names[bad[0]]} " if names is not None else f"image {bad[0]} "
      raise UserError(f"{where}has the score {scores[bad[0]]}; {len(bad)} test image(s) of split {k} have no score")
  predictions = np.where(splits == TEST, scores, np.nan)
  measured = [measures(scores[part], mos[part]) for part in splits == TEST]
  return Scored(
    predictions=predictions, mos=mos, splits=splits, **{key: np.array([m[key] for m in measured]) for key in MEASURES}
  )


def measures(prediction, mos):
  """SRCC, KRCC, PLCC, RMSE and MAE of raw predictions.

  Args:
    prediction: [n] float, scores of one model.
    mos: [n] float, human scores in the same order.

  Returns:
    dict of float, see `correlation` for what each means and when it is nan.
  """
  return {key: getattr(correlation, key)(prediction, mos) for key in MEASURES}


def check_splits(splits, mos, need_validation):
  """Refuses splits that cannot be evaluated, naming the split and the part.

  Args:
    splits: [k, n] int8.
    mos: [n] float.
    need_validation: whether an alpha has to be chosen.

  Raises:
    UserError: a code is unknown, a part is too small, or the splits do not belong to the scores.
  """
  if splits.ndim != 2 or splits.shape[1:] != mos.shape:
    raise UserError(f"splits of shape {splits.shape} do not belong to {len(mos)} scores")
  unknown = np.setdiff1d(splits, [TRAIN, VALIDATION, TEST, UNUSED])
  if len(unknown):
    raise UserError(f"splits hold {unknown.tolist()}; known are 0 train, 1 validation, 2 test, -1 unused")
  for k, split in enumerate(splits):
    for part, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
      size = int((split == part).sum())
      if size < 3 and (part != VALIDATION or need_validation):
        raise UserError(f"split {k} has {size} {name} image(s); at least 3 are needed")


def warn_if_seen(splits, names=None, groups=None, seen=()):
  """Warns where the test part of a split is not new to the head or to the weights.

  Args:
    splits: [k, n] int8.
    names: [n] str or None, image names.
    groups: [n] str or None, reference names; '' stands for an image that is its own content.
    seen: image names that the weights have been trained on.
  """
  if len(seen):
    if names is None:
      raise ValueError("`seen` needs `names`")
    known = np.isin(np.asarray(names), list(seen))
    count = int((known & (splits == TEST).any(0)).sum())
    if count:
      message = f"{count} test image(s) were seen by the weights, for example {np.asarray(names)[known][0]}"
      warnings.warn(message, SeenImagesWarning, stacklevel=3)
  if groups is not None:
    groups = np.asarray(groups)
    for k, split in enumerate(splits):
      fitted = np.isin(split, (TRAIN, VALIDATION)) & (groups != "")
      shared = np.intersect1d(groups[fitted], groups[split == TEST])
      if len(shared):
        message = f"split {k}: {len(shared)} reference(s) stand in both the fitted and the test part, e.g. {shared[0]}"
        warnings.warn(message, SeenImagesWarning, stacklevel=3)


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
    """Everything that fits into a results file: plain lists and numbers, None for nan.

    Returns:
      dict with `srcc`, `krcc`, `plcc`, `rmse`, `mae` (one value a split), their `median`, and `images` (train,
      validation and test count of every split).
    """
    counts = [[int((split == part).sum()) for part in (TRAIN, VALIDATION, TEST)] for split in self.splits]
    median = {key: _plain(np.median(getattr(self, key))) for key in MEASURES}
    return {**{key: _plain(getattr(self, key)) for key in MEASURES}, "median": median, "images": counts}

  def save(self, directory, stem):
    """Writes the scores of the images tested, `scores_STEM.npz`: predictions [k, n] (nan elsewhere) and mos [n]."""
    file = io.BytesIO()
    np.savez(file, predictions=self.predictions, mos=self.mos)
    outputs.write_bytes(directory / f"scores_{stem}.npz", file.getvalue())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(Scored):
  """What the features of one method reached with ridge heads: besides `Scored`, `a` alphas and `d` features."""

  alphas: np.ndarray  # [a] searched
  alpha: np.ndarray  # [k] chosen
  validation_srcc: np.ndarray  # [k] of the chosen alpha; nan where there was nothing to choose
  heads: ridge.Heads  # weights [k, 1, d]

  def summary(self):
    """`Scored.summary()`, and `alpha`, `validation_srcc` (one value a split), `alphas` searched."""
    chosen = {"alpha": _plain(self.alpha), "validation_srcc": _plain(self.validation_srcc)}
    return {**chosen, **super().summary(), "alphas": _plain(self.alphas)}

  def save(self, directory, stem):
    """Writes the head of every split, `heads_STEM.npz`: score = (x - mean) / scale @ weights + intercept.

    The arrays are weights [k, d], intercept [k], mean [k, d], scale [k, d], alpha [k], all float64.
    """
    heads, file = self.heads, io.BytesIO()
    arrays = {"weights": heads.weights[:, 0], "intercept": heads.intercept, "mean": heads.mean, "scale": heads.scale}
    np.savez(file, **arrays, alpha=self.alpha)
    outputs.write_bytes(directory / f"heads_{stem}.npz", file.getvalue())


def _plain(values):
  """Python numbers that JSON can hold."""
  if np.ndim(values):
    return [_plain(value) for value in values]
  return float(values) if np.isfinite(values) else None


class SeenImagesWarning(UserWarning):
  """A method is tested on images, or on content, that it was fitted to."""
