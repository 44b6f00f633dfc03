"""`jiqa fit`: a head on frozen features for a user's own ratings, tested on images that it has not seen."""

import pathlib

import numpy as np
import pandas as pd

from jiqa.data.splits import assign
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import protocol, report, study, tables
from jiqa.inference.heads import CONCAT, JOINED, SUFFIX
from jiqa.inference.inputs import Item
from jiqa.inference.results import check

# As configs/ evaluate.
ALPHAS = np.geomspace(1e-2, 1e6, 25)
SPLITS = 10
WITHOUT = "without a head"


def fit(
  metric, images, scores, *, features=None, mos="mos", group=None, out, report_folder, command, resamples=1000, seed=0
):
  """Fits a ridge head to ratings and writes it with the evaluation report; options as `jiqa fit --help` has them.

  Args:
    metric: Metric, whose models give features; of several each is evaluated, and all together.
    scores: table of ratings, higher is better, see `tables.read`. A column split with train, validation and test is
      kept to; without one the images are divided at random SPLITS times.
    features: which head is kept: name of a method, or "concat"; None: all there are.
    command: text, the command that did it, for the report.
    resamples: of the bootstrap of the report's intervals.
    seed: of the splits and the bootstrap.

  Returns:
    dict from 'concat' or the method to protocol.Result; under WITHOUT the protocol.Scored of a method's own score.

  Raises:
    UserError: a file, column or value is missing or wrong, or there are too few ratings.
  """
  metric.check_features()
  check(out, (SUFFIX,))
  sets = _feature_sets(metric.models)
  kept = features or list(sets)[-1]
  if kept not in sets:
    raise UserError(f"--features={kept}: these weights give {', '.join(sets)}")
  table = _read_ratings(scores, mos, group)
  given = bool((table.split != "").any())
  splits = assign(table, "ratings", "official" if given else "folds", num_splits=SPLITS, seed=seed)
  predicted = _predicted(metric, images, table.image_name)
  matrix = np.stack([outputs["features"] for outputs in predicted])
  groups = None if group is None else table.reference_name.to_numpy(str)
  ratings = table.mos.to_numpy(np.float64)
  results = {
    name: protocol.fit_heads(matrix[:, columns], ratings, splits, ALPHAS, groups=groups)
    for name, (columns, _) in sets.items()
  }
  if "score" in predicted[0]:
    results[WITHOUT] = protocol.scored([outputs["score"] for outputs in predicted], ratings, splits)
  card = {
    "weights_sha256": sets[kept][1], "features": kept, "regressor": "ridge", "database": pathlib.Path(scores).name,
    "range": [float(ratings.min()), float(ratings.max())], "labels_sha256": report.checksum(scores),
    "split_sha256": split_checksum(table, splits), "protocol": "given" if given else "folds",
  }  # fmt: skip
  # A split of the user's own decides what a head may see; without one it is fitted to all ratings.
  protocol.head_of(results[kept], 0 if given else None, card).save(pathlib.Path(out))
  order = sorted(results, key=lambda name: name != kept)  # the first one decides which split is drawn
  comparison = study.compare(
    {name: results[name].predictions for name in order}, ratings, names=table.image_name.to_numpy(str), groups=groups,
    resamples=resamples, seed=seed,
  )  # fmt: skip
  title = f"{kept} on {pathlib.Path(scores).name}"
  report.write(report_folder, comparison, title=title, command=command, extra={"head": card})
  return results


def _feature_sets(models):
  """What heads can be fitted to: dict from every method, and 'concat' at last, to (slice of columns, checksum)."""
  sets, start = {}, 0
  for model in models:
    width = model.outputs["features"][0]
    sets[model.name] = slice(start, start + width), model.card["weights_sha256"]
    start += width
  if len(sets) < len(models):
    raise UserError(f"two of the weights are of {models[0].name!r}; name those of different methods")
  if len(models) > 1:
    sets[CONCAT] = slice(0, start), JOINED.join(model.card["weights_sha256"] for model in models)
  return sets


def _read_ratings(path, mos, group):
  """The ratings as a label table: DataFrame with image_name, reference_name, mos and split."""
  table = tables.read(path)
  names = tables.words(table, tables.NAME, path)
  twice = names[pd.Series(names).duplicated().to_numpy()]
  if len(twice):
    raise UserError(f"{path}: {str(twice[0])!r} stands in more than one row; average its ratings first")
  split = tables.words(table, "split", path) if "split" in table else np.full(len(names), "")
  unknown = sorted(set(split.tolist()) - {"train", "validation", "test", ""})
  if unknown:
    raise UserError(f"{path}: column 'split' holds {unknown[0]!r}; expected train, validation, test or nothing")
  if (split != "").any() and not {"train", "test"} <= set(split):
    raise UserError(f"{path}: column 'split' needs both 'train' and 'test'; or leave the column out")
  references = tables.words(table, group, path) if group else ""
  ratings = tables.numbers(table, mos, path)
  return pd.DataFrame({"image_name": names, "reference_name": references, "mos": ratings, "split": split})


def _predicted(metric, folder, names):
  """What is predicted of rated images, a list of dict."""
  predictions = sorted(metric.stream(Item(name, str(pathlib.Path(folder) / name)) for name in names))
  errors = [prediction.error for prediction in predictions if prediction.error]
  if errors:
    first = f"leave them out. The first: {errors[0]}"
    raise UserError(f"{len(errors)} of {len(names)} rated images cannot be read; {first}")
  return [prediction.outputs for prediction in predictions]


def print_results(results, out, report_folder):
  """Prints the medians of what `fit` returned, without a head too, and whether joined features beat the best single."""
  for name, result in results.items():
    median = result.summary()["median"]
    measured = ", ".join(f"{title} {median[key]:.4f}" for key, title in protocol.SHOWN.items())
    print(f"{name}: {measured}, median of {len(result.splits)} split(s)")
  if CONCAT in results:
    srcc = {name: float(np.median(result.srcc)) for name, result in results.items()}
    best = max((name for name in srcc if name != CONCAT), key=srcc.get)
    gain = srcc[CONCAT] - srcc[best]
    wins = int((results[CONCAT].srcc > results[best].srcc).sum())
    verb = "beats" if gain > 0 else "does not beat"
    print(f"concat {verb} {best}, the best single one: SRCC {gain:+.4f}, better in {wins} of {len(results[best].srcc)}")
  print(f"head: {out}\nreport: {pathlib.Path(report_folder) / 'index.html'}")
