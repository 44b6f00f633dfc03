"""`jiqa fit`: a head on frozen features for a user's own ratings, judged on images that it has not seen."""

import pathlib

import numpy as np

from jiqa.data.splits import assign
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import head, protocol, regression, report, ridge, study, tables
from jiqa.inference.inputs import Item
from jiqa.inference.metric import SEVERAL

# As configs/reiqa.py evaluates.
ALPHAS = np.geomspace(1e-2, 1e6, 25)
SPLITS = 10
CONCAT = "concat"


def fit(
  metric, images, scores, *, features=None, mos="mos", group=None, out, report_folder, command, resamples=1000, seed=0
):
  """Fits a ridge head to ratings and writes it with the evaluation report.

  Args:
    metric: Metric, whose models give features; of several each is judged, and all together.
    images: folder that the image names start from.
    scores: CSV or Parquet with image_name and the ratings, higher is better. A column split with train, validation and
      test is kept to; without one the images are divided at random SPLITS times.
    features: name of a method, or "concat"; None: all there are. Which head is kept.
    mos: column of the ratings.
    group: column that says what an image shows; images of one group are never on both sides of a split.
    out: file of the head.
    report_folder: for index.html, report.md, report.json, report.csv.
    command: text, the command that did it, for the report.
    resamples: of the bootstrap of the report's intervals.
    seed: of the splits and the bootstrap.

  Returns:
    dict from 'concat' or the method to protocol.Result.

  Raises:
    UserError: a file, column or value is missing or wrong, or there are too few ratings.
  """
  metric.check_features()
  if pathlib.Path(out).suffix != ".safetensors":
    raise UserError(f"--out={out}: a head is a .safetensors file; give it that ending")
  kinds = feature_sets(metric.models)
  kept = features or list(kinds)[-1]
  if kept not in kinds:
    raise UserError(f"--features={kept}: these weights give {', '.join(kinds)}")
  table = read_ratings(scores, mos, group)
  splits = assign(table, "ratings", "official" if (table.split != "").any() else "folds", num_splits=SPLITS, seed=seed)
  matrix = features_of(metric, images, table.image_name)
  groups = None if group is None else table.reference_name.to_numpy(str)
  ratings = table.mos.to_numpy(np.float64)
  results = {
    name: protocol.in_database(matrix[:, columns], ratings, splits, ALPHAS, groups=groups)
    for name, (columns, _) in kinds.items()
  }
  columns, checksum = kinds[kept]
  card = {
    "weights_sha256": checksum, "features": kept, "regressor": "ridge", "database": pathlib.Path(scores).name,
    "range": [float(ratings.min()), float(ratings.max())], "labels_sha256": report.checksum(scores),
    "split_sha256": split_checksum(table, splits), "protocol": "given" if (table.split != "").any() else "folds",
  }  # fmt: skip
  keep(results[kept], matrix[:, columns], card).save(pathlib.Path(out))
  order = sorted(results, key=lambda name: name != kept)  # the kept one decides which split is drawn
  found = study.judge(
    {name: results[name].predictions for name in order}, ratings, names=table.image_name.to_numpy(str), groups=groups,
    resamples=resamples, seed=seed,
  )  # fmt: skip
  report.write(
    report_folder, found, title=f"{kept} on {pathlib.Path(scores).name}", command=command, extra={"head": card}
  )
  return results


def feature_sets(models):
  """What heads can be fitted to: every model's features, and all together.

  Args:
    models: list of Model.

  Returns:
    dict from method or 'concat' to (slice of the columns, checksum of the weights); 'concat' comes last.
  """
  found, start = {}, 0
  for model in models:
    width = model.gives()["features"][0]
    found[model.name] = slice(start, start + width), model.card["weights_sha256"]
    start += width
  if len(found) < len(models):
    raise UserError(f"two of the weights are of {models[0].name!r}; name those of different methods")
  if len(models) > 1:
    found[CONCAT] = slice(0, start), SEVERAL.join(model.card["weights_sha256"] for model in models)
  return found


def read_ratings(path, mos, group):
  """The ratings as a label table.

  Args:
    path: CSV or Parquet.
    mos: column of the ratings.
    group: column of the contents, or None.

  Returns:
    DataFrame with image_name, reference_name, mos and split.

  Raises:
    UserError: a column or a value is missing or wrong, or an image is rated twice.
  """
  import pandas as pd

  table = tables.read(path)
  names = tables.words(table, tables.NAME, path)
  twice = pd.Series(names).duplicated()
  if twice.any():
    first = str(names[twice.to_numpy()][0])
    raise UserError(f"{path}: {first!r} stands in more than one row; average its ratings first")
  split = tables.words(table, "split", path) if "split" in table else np.full(len(names), "")
  unknown = sorted(set(split.tolist()) - {"train", "validation", "test", ""})
  if unknown:
    raise UserError(f"{path}: column 'split' holds {unknown[0]!r}; expected train, validation, test or nothing")
  if (split != "").any() and not {"train", "test"} <= set(split):
    raise UserError(f"{path}: column 'split' needs both 'train' and 'test'; or leave the column out")
  return pd.DataFrame(
    {
      "image_name": names,
      "reference_name": tables.words(table, group, path) if group else "",
      "mos": tables.numbers(table, mos, path),
      "split": split,
    }
  )


def features_of(metric, folder, names):
  """The features of rated images.

  Args:
    metric: Metric.
    folder: that the names start from.
    names: [n] str.

  Returns:
    [n, d] float32.

  Raises:
    UserError: images cannot be read, naming the first and their number.
  """
  items = [Item(name, str(pathlib.Path(folder) / name)) for name in names]
  rows, errors = [None] * len(items), []
  for found in metric.stream(items):
    if found.error:
      errors.append(found.error)
    else:
      rows[found.index] = found.outputs["features"]
  if errors:
    raise UserError(
      f"{len(errors)} of {len(items)} rated images cannot be read; leave them out. The first: {errors[0]}"
    )
  return np.stack(rows)


def keep(result, features, card):
  """The head that is saved.

  With a split of the user's own, the one fitted to its training and validation part. Otherwise one fitted to all
  ratings with the median of the alphas that the random splits chose; what it is worth is their median.

  Args:
    result: protocol.Result.
    features: [n, d] float32.
    card: dict of plain values.

  Returns:
    Head.
  """
  if card["protocol"] == "given":
    return regression.of_split(result, 0, card)
  alpha = float(np.sort(result.alpha)[len(result.alpha) // 2])
  heads = ridge.fit(features, result.mos, np.ones((1, len(features)), bool), [alpha], tolerance=1e-10)
  median = result.summary()["median"]
  known = {
    "alpha": alpha, "images": len(features), "test": {key: median[key] for key in ("srcc", "plcc")},
    "tested": f"median of {len(result.alpha)} random splits; the head itself is fitted to all ratings",
    "direction": "higher is better",
  }  # fmt: skip
  return head.Head(heads.weights[0, 0], heads.mean[0], heads.scale[0], heads.intercept[0], {**card, **known})


def print_results(results, out, report_folder):
  """Prints the medians, and whether joined features beat the best single ones.

  Args:
    results: what `fit` returned.
    out: file of the head.
    report_folder: of the report.
  """
  for name, result in results.items():
    median = result.summary()["median"]
    print(f"{name}: SRCC {median['srcc']:.4f}, PLCC {median['plcc']:.4f}, median of {len(result.alpha)} split(s)")
  if CONCAT in results:
    srcc = {name: float(np.median(result.srcc)) for name, result in results.items()}
    best = max((name for name in srcc if name != CONCAT), key=srcc.get)
    gain = srcc[CONCAT] - srcc[best]
    wins = int((results[CONCAT].srcc > results[best].srcc).sum())
    verb = "beats" if gain > 0 else "does not beat"
    print(f"concat {verb} {best}, the best single one: SRCC {gain:+.4f}, better in {wins} of {len(results[best].srcc)}")
  print(f"head: {out}\nreport: {pathlib.Path(report_folder) / 'index.html'}")
