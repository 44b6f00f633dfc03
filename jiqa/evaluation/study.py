"""Everything that is said about one or more methods on one set of images, as plain data for `report.write`."""

import itertools
import warnings

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import bootstrap, correlation, logistic, protocol, significance, tables

MEASURES = ("srcc", "krcc", "plcc", "plcc_logistic", "rmse_logistic", "rmse", "mae")
INTERVALS = ("srcc", "krcc", "plcc")
OUTLIERS = 10


def compare(methods, mos, *, names=None, groups=None, labels=None, resamples=1000, level=0.95, seed=0):
  """Measures, intervals, breakdowns and comparisons of one or more methods.

  Args:
    methods: dict from name to [n] float scores; or to [k, n], one row a split, nan outside its test part.
    mos: [n] float, higher is better.
    names: [n] str, image names, for the outliers; None: row numbers.
    groups: [n] str, references: they are resampled as a whole. None: images.
    labels: dict from a kind such as 'distortion' to [n] str, for the breakdowns.
    resamples, level, seed: of the bootstrap; differences are called at 1 - level.

  Returns:
    dict with `methods` (for each: `value` and `interval` by measure, `splits`, `conditions`, `outliers`, and the
    `prediction` [n] that is drawn), `comparison` (None for one method), `mos`, `labels` and the settings. Values over
    several splits are medians; intervals, curves and the comparison are those of the split whose SRCC is closest to
    the median of the first method.

  Raises:
    UserError: a score is missing inside a split, or a split has fewer than 3 images.
  """
  mos, labels = np.asarray(mos, np.float64), {kind: np.asarray(values) for kind, values in (labels or {}).items()}
  names = [f"row {i}" for i in range(len(mos))] if names is None else names
  scores = {name: np.atleast_2d(np.asarray(values, np.float64)) for name, values in methods.items()}
  tested, rows = _tested(scores, mos), next(iter(scores.values()))
  first = [correlation.srcc(row[part], mos[part]) for row, part in zip(rows, tested, strict=True)]
  first = np.nan_to_num(first, nan=-2.0)
  shown = int(np.abs(first - np.median(first)).argmin())
  part = tested[shown]
  settings = {"resamples": resamples, "level": level, "seed": seed}
  options = {**settings, "measures": INTERVALS, "groups": None if groups is None else np.asarray(groups)[part]}
  described = {name: _described(rows, mos, tested, shown, names, labels, options) for name, rows in scores.items()}
  comparison = None
  if len(scores) > 1:
    table, p = significance.win_tie_loss({n: rows[shown][part] for n, rows in scores.items()}, mos[part], 1 - level)
    comparison = {"names": list(scores), "table": table, "p": p, "over_splits": None}
    if len(tested) >= 5:
      pairs = itertools.combinations((m["splits"]["srcc"] for m in described.values()), 2)
      p = significance.holm([significance.wilcoxon(*pair) for pair in pairs])
      comparison["over_splits"] = significance.symmetric(p, len(scores))
  settings["resampled"] = "images" if groups is None else "references"
  settings["jackknife_groups"] = bootstrap.jackknife_groups(bootstrap.units_of(options["groups"], int(part.sum())))
  return {
    "methods": described, "comparison": comparison, "mos": np.where(part, mos, np.nan), "labels": labels,
    "images": tested.sum(1).tolist(), "shown_split": shown, "settings": settings,
  }  # fmt: skip


def compare_table(files, mos, *, scores=(), group=None, labels=(), split=None, name=None, **options):
  """`compare` for tables with one row an image; what is missing or wrong is a UserError that names it.

  Args:
    files: one or several, see `tables.read`; the images are those of the first.
    mos: a column of the table, or a file (or FILE:COLUMN) with `image_name` and `mos`.
    scores: columns that hold the methods' scores; none: every column of numbers that is not used otherwise.
    group: a column with the references, or a file as for `mos`; None: images stand for themselves.
    labels: columns to break the results down by, such as distortion or level.
    split: beginning of the names of the columns that hold 'test' where an image is tested, one column a split.
    name: column of the image names; None: image_name, path or Image Name.

  Returns:
    dict as of `compare`, `column`, the name of the column with the human scores, and `files`, all that were read.
  """
  path = files[0]
  table = tables.read(path, name)
  mos = tables.join(table, path, mos, "mos", name)
  group = None if group is None else tables.join(table, path, group, "reference_name", name)
  splits = [column for column in table.columns if split and column.startswith(split)]
  if split and not splits:
    raise UserError(f"{path}: no column begins with {split!r}; there are {', '.join(map(repr, table.columns))}")
  others = [column for column in (mos, group) if column]
  used = {column.taken for column in others}
  methods = tables.pool(table, files, {*used, *labels, *splits}, scores, name, mos)
  if splits:
    tested = np.stack([np.char.lower(tables.words(table, column, path)) == "test" for column in splits])
    if not tested.any(1).all():
      raise UserError(f"{path}: column {splits[int(tested.any(1).argmin())]!r} holds no 'test'")
    methods = {name: np.where(tested, values, np.nan) for name, values in methods.items()}
  names = tables.words(table, tables.NAME, path) if tables.NAME in table else None
  if names is not None and (twice := table[tables.NAME].duplicated()).any():
    what = f"{twice.sum():,} row(s) are of images that stand in another row too, such as {str(names[twice][0])!r}"
    warnings.warn(f"{path}: {what}; each row counts", correlation.EvaluationWarning, stacklevel=2)
  groups = None if group is None else group.words()
  labels = {column: tables.words(table, column, path) for column in labels}
  result = compare(methods, mos.numbers(), names=names, groups=groups, labels=labels, **options)
  return result | {"column": mos.name, "files": [*files, *(column.path for column in others)]}


def cross_database(path, mos, database, *, scores=(), name=None):
  """Measures of every method inside every database, such as of methods that were trained on one database each.

  The scores of a method may be empty on whole databases; `database` is the column of their names, the rest as for
  `compare_table`. Returns a dict with `cross_database`: dict from method to what `protocol.breakdown` says.
  """
  table = tables.read(path, name)
  mos = tables.join(table, path, mos, "mos", name)
  target, databases = mos.numbers(), tables.words(table, database, path)
  inside = {}
  for method, values in tables.methods(table, path, {mos.taken, database}, scores, empty=True, mos=mos).items():
    known = np.isfinite(values)
    if len(both := np.intersect1d(databases[known], databases[~known])):
      raise UserError(f"{path}: {method!r} scores only some images of {str(both[0])!r}; score all or none")
    inside[method] = protocol.breakdown(values, target, databases)
  described = {method: {"value": {}, "conditions": {"database": parts}} for method, parts in inside.items()}
  return {"cross_database": inside, "methods": described, "column": mos.name, "files": [path, mos.path]}


def _tested(scores, mos):
  """Which images every split tests [k, n]; all methods must have scored the same."""
  tested = np.isfinite(next(iter(scores.values())))
  for name, rows in scores.items():
    if rows.shape[1:] != mos.shape:
      raise UserError(f"method {name!r} has {rows.shape[-1]} scores for {len(mos)} images")
    if np.isinf(rows).any():
      raise UserError(f"method {name!r} has an infinite score for row {np.argwhere(np.isinf(rows))[0][1]}")
    if not np.array_equal(np.isfinite(rows), tested):
      raise UserError(f"method {name!r} does not score the same images as the first method; leave the others out")
  if not np.isfinite(mos[tested.any(0)]).all():
    raise UserError(f"row {np.flatnonzero(tested.any(0) & ~np.isfinite(mos))[0]} has no human score; leave it out")
  if tested.sum(1).min() < 3:
    raise UserError(f"split {tested.sum(1).argmin()} tests {tested.sum(1).min()} image(s), at least 3 are needed")
  return tested


def _described(rows, mos, tested, shown, names, labels, options):
  """Every measure of every split, and its median; intervals, breakdowns, curve and outliers of the split shown."""
  splits, curves = [], []
  for row, part in zip(rows, tested, strict=True):
    x, y = row[part], mos[part]
    curves.append(logistic.fit(x, y))
    exists = np.isfinite(curves[-1].sse)
    after = {key: getattr(correlation, key)(curves[-1](x), y) if exists else float("nan") for key in ("plcc", "rmse")}
    splits.append(protocol.measures(x, y) | {f"{key}_logistic": value for key, value in after.items()})
  by_measure = {key: [split[key] for split in splits] for key in MEASURES}
  prediction, part, curve = rows[shown], tested[shown], curves[shown]
  intervals = bootstrap.interval(prediction[part], mos[part], **options)
  columns = {"prediction": prediction, "mos": mos, "residual": np.where(part, mos - curve(prediction), np.nan)}
  missed = np.abs(columns["residual"])  # nan, which comes last, where an image is not tested or no curve exists
  worst = np.argsort(-missed, kind="stable")[: min(OUTLIERS, np.isfinite(missed).sum())]
  return {
    "value": {key: float(np.median(values)) for key, values in by_measure.items()},
    "splits": by_measure,
    "interval": {key: (interval.low, interval.high) for key, interval in intervals.items()},
    "conditions": {kind: protocol.breakdown(prediction, mos, values) for kind, values in labels.items()},
    "logistic": {"parameters": curve.parameters, "converged": curve.converged, "message": curve.message},
    "outliers": [{"image": str(names[i]), **{k: float(values[i]) for k, values in columns.items()}} for i in worst],
    "prediction": prediction,
    "curve": curve,
  }
