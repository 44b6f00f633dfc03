"""Everything that is said about one or more methods on one set of images, as plain data for `report.write`."""

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import bootstrap, correlation, logistic, protocol, significance, tables, transfer

MEASURES = ("srcc", "krcc", "plcc", "plcc_logistic", "rmse_logistic", "rmse", "mae")
INTERVALS = ("srcc", "krcc", "plcc")


def judge(methods, mos, *, names=None, groups=None, labels=None, resamples=1000, level=0.95, seed=0):
  """Measures, intervals, breakdowns and comparisons of one or more methods.

  Args:
    methods: dict from name to [n] float scores; or to [k, n], one row a split, nan outside its test part.
    mos: [n] float, higher is better.
    names: [n] str, image names, for the outliers; None: row numbers.
    groups: [n] str, references: they are resampled as a whole. None: images.
    labels: dict from a kind such as 'distortion' to [n] str, for the breakdowns.
    resamples: of the bootstrap.
    level: of the intervals; differences are called at 1 - level.
    seed: of the bootstrap.

  Returns:
    dict with `methods` (for each: `value` and `interval` by measure, `splits`, `conditions`, `outliers`, and the
    `prediction` [n] that is drawn), `comparison` (None for one method), `mos`, `labels` and the settings. Values over
    several splits are medians; intervals, curves and the comparison are those of the split whose SRCC is closest to
    the median of the first method.

  Raises:
    UserError: a score is missing inside a split, or a split has fewer than 3 images.
  """
  mos = np.asarray(mos, np.float64)
  scores = {name: np.atleast_2d(np.asarray(values, np.float64)) for name, values in methods.items()}
  tested = _tested(scores, mos)
  first = next(iter(scores.values()))
  srcc = np.array([correlation.srcc(row[part], mos[part]) for row, part in zip(first, tested, strict=True)])
  known = np.where(np.isfinite(srcc), srcc, -2.0)
  shown = int(np.abs(known - np.median(known)).argmin())
  part = tested[shown]
  found = {}
  for name, rows in scores.items():
    of = None if groups is None else np.asarray(groups)[part]
    found[name] = _one(rows, mos, tested, shown, names, of, labels or {}, resamples, level, seed)
  comparison = _compare(scores, mos, tested, shown, level) if len(scores) > 1 else None
  return {
    "methods": found,
    "comparison": comparison,
    "mos": np.where(part, mos, np.nan),
    "labels": {kind: np.asarray(values) for kind, values in (labels or {}).items()},
    "images": [int(row.sum()) for row in tested],
    "shown_split": shown,
    "settings": {
      "resamples": resamples, "level": level, "seed": seed, "resampled": "images" if groups is None else "references",
    },
  }  # fmt: skip


def from_table(path, mos, *, scores=(), group=None, labels=(), split=None, **options):
  """`judge` for a table of scores, such as a CSV file.

  Args:
    path: table with one row an image.
    mos: a column of the table, or a file (or FILE:COLUMN) with `image_name` and `mos`.
    scores: columns that hold the methods' scores; none: every column of numbers that is not used otherwise.
    group: a column with the references, or a file as for `mos`; None: images stand for themselves.
    labels: columns to break the results down by, such as distortion or level.
    split: beginning of the names of the columns that hold 'test' where an image is tested, one column a split.
    **options: handed to `judge`.

  Returns:
    what `judge` returns.

  Raises:
    UserError: a file, a column or a value is missing or wrong; the message names it.
  """
  table = tables.read(path)
  table, mos = tables.join(table, path, mos, "mos")
  if group is not None:
    table, group = tables.join(table, path, group, "reference_name")
  splits = [column for column in table.columns if split and column.startswith(split)]
  if split and not splits:
    raise UserError(f"{path}: no column begins with {split!r}; there are {', '.join(map(repr, table.columns))}")
  used = {mos, group, tables.NAME, *labels, *splits}
  numeric = [c for c in table.columns if c not in used and table[c].dtype.kind in "fiu"]
  scores = list(scores) or numeric
  if not scores:
    raise UserError(f"{path}: no column of scores; name it, there are {', '.join(map(repr, table.columns))}")
  methods = {column: tables.numbers(table, column, path) for column in scores}
  if splits:
    tested = np.stack([np.char.lower(tables.words(table, column, path)) == "test" for column in splits])
    if not tested.any(1).all():
      raise UserError(f"{path}: column {splits[int(tested.any(1).argmin())]!r} holds no 'test'")
    methods = {name: np.where(tested, values, np.nan) for name, values in methods.items()}
  return judge(
    methods,
    tables.numbers(table, mos, path),
    names=tables.words(table, tables.NAME, path) if tables.NAME in table else None,
    groups=None if group is None else tables.words(table, group, path),
    labels={column: tables.words(table, column, path) for column in labels},
    **options,
  )


def _tested(scores, mos):
  """Which images every split tests [k, n]; all methods must have scored the same."""
  tested = None
  for name, rows in scores.items():
    if rows.shape[1:] != mos.shape:
      raise UserError(f"method {name!r} has {rows.shape[-1]} scores for {len(mos)} images")
    if np.isinf(rows).any():
      raise UserError(f"method {name!r} has an infinite score for row {np.argwhere(np.isinf(rows))[0][1]}")
    known = np.isfinite(rows)
    if tested is not None and (known.shape != tested.shape or (known != tested).any()):
      raise UserError(f"method {name!r} does not score the same images as the first method; leave the others out")
    tested = known
  if not np.isfinite(mos[tested.any(0)]).all():
    raise UserError(f"row {np.flatnonzero(tested.any(0) & ~np.isfinite(mos))[0]} has no human score; leave it out")
  if tested.sum(1).min() < 3:
    raise UserError(f"split {tested.sum(1).argmin()} tests {tested.sum(1).min()} image(s), at least 3 are needed")
  return tested


def _one(rows, mos, tested, shown, names, groups, labels, resamples, level, seed):
  splits = [_measure(row[part], mos[part]) for row, part in zip(rows, tested, strict=True)]
  part, prediction = tested[shown], rows[shown]
  x, y = prediction[part], mos[part]
  curve = logistic.fit(x, y)
  intervals = bootstrap.interval(
    x, y, groups=groups, measures=INTERVALS, resamples=resamples, level=level, seed=seed
  )  # fmt: skip
  residual = np.where(part, mos - curve(prediction), np.nan)
  worst = np.argsort(-np.abs(np.where(part, residual, 0)), kind="stable")[: min(10, int(part.sum()))]
  return {
    "value": {key: float(np.median([split[key] for split in splits])) for key in MEASURES},
    "interval": {key: (found.low, found.high) for key, found in intervals.items()},
    "splits": {key: [split[key] for split in splits] for key in MEASURES},
    "conditions": {kind: transfer.breakdown(prediction, mos, values) for kind, values in labels.items()},
    "logistic": {"parameters": curve.parameters, "converged": curve.converged, "message": curve.message},
    "outliers": [
      {
        "image": str(names[i]) if names is not None else f"row {i}", "prediction": float(prediction[i]),
        "mos": float(mos[i]), "residual": float(residual[i]),
      }
      for i in worst
    ],
    "prediction": prediction,
    "curve": curve,
  }  # fmt: skip


def _measure(x, y):
  curve = logistic.fit(x, y)
  mapped = curve(x) if np.isfinite(curve.sse) else x
  values = protocol.measures(x, y)
  if np.isfinite(curve.sse):
    values |= {"plcc_logistic": correlation.plcc(mapped, y), "rmse_logistic": correlation.rmse(mapped, y)}
  else:
    values |= {"plcc_logistic": float("nan"), "rmse_logistic": float("nan")}
  return values


def _compare(scores, mos, tested, shown, level):
  part, names = tested[shown], list(scores)
  table, p = significance.win_tie_loss(
    {name: rows[shown][part] for name, rows in scores.items()}, mos[part], level=1 - level
  )
  found = {"names": names, "table": table, "p": p, "over_splits": None}
  if len(tested) >= 5:
    srcc = [[correlation.srcc(row[t], mos[t]) for row, t in zip(scores[name], tested, strict=True)] for name in names]
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    adjusted = significance.holm([significance.wilcoxon(srcc[i], srcc[j]) for i, j in pairs])
    found["over_splits"] = np.full(p.shape, np.nan)
    for (i, j), value in zip(pairs, adjusted, strict=True):
      found["over_splits"][i, j] = found["over_splits"][j, i] = value
  return found
