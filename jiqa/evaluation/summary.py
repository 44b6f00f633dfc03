"""How the scores of a data set are distributed: quantiles and a histogram of any number of rows."""

import json
import shutil

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation.outputs import plain, write_bytes

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
FINE, COARSE = 100_000, 20  # bins of which quantiles are read, and of those that are shown


def summarise(paths, min_score=None):
  """Counts, mean, quantiles and a histogram of scores, read twice and in parts.

  Args:
    paths: files that `jiqa score` has written, .csv or .parquet, or folders of them; or of a store of fsspec. A
      UserError where there is nothing, or something else, or no row with a score.
    min_score: float or None.

  Returns:
    dict: 'rows', 'errors' (rows without a score), 'mean', 'std', 'min', 'max', 'quantiles' (dict from probability to
    score, within a hundred thousandth of the range), 'histogram' ('edges' [21], 'counts' [20]) and, with `min_score`,
    'kept', the rows that reach it.
  """
  rows, count, kept, total, low, high, fine, squares = 0, 0, 0, 0.0, np.inf, -np.inf, 0, 0.0
  for scores in _scores(paths):
    rows, scores = rows + len(scores), scores[np.isfinite(scores)]
    if len(scores):
      low, high = min(low, scores.min()), max(high, scores.max())
      count, total = count + len(scores), total + scores.sum()
      kept += int(np.sum(scores >= min_score)) if min_score is not None else 0
  if not count:
    raise UserError(f"{', '.join(map(str, paths))}: no row has a score")
  edges = np.linspace(low, high if high > low else low + 1, FINE + 1)
  mean = total / count
  for scores in _scores(paths):
    fine += np.histogram(scores, edges)[0]
    squares += np.square(scores[np.isfinite(scores)] - mean).sum()
  below = np.concatenate([[0], np.cumsum(fine)]) / count
  return {
    "rows": rows, "errors": rows - count, "mean": mean, "std": (squares / count) ** 0.5,
    "min": low, "max": high, "quantiles": {q: np.interp(q, below, edges) for q in QUANTILES},
    "histogram": {"edges": edges[:: FINE // COARSE], "counts": fine.reshape(COARSE, -1).sum(1)},
    **({} if min_score is None else {"min_score": min_score, "kept": kept}),
  }  # fmt: skip


def _scores(paths):
  """Yields parts of the column of scores, [n] float64, nan where there is none."""
  try:
    import fsspec
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.dataset
  except ImportError as error:
    raise UserError(f"a summary needs {error.name}: pip install 'pyarrow>=17' 'fsspec>=2024.6'") from error

  # Else the type of a column is that of its first megabyte, which may hold no score at all.
  typed = pa.csv.ConvertOptions(column_types={"score": pa.float64()})
  formats = {"csv": pa.dataset.CsvFileFormat(convert_options=typed), "parquet": "parquet"}
  for path in map(str, paths):
    store, name = fsspec.url_to_fs(path)
    files = [file for file in sorted(store.find(name)) if file.endswith((".csv", ".parquet"))]
    files = [file for file in files if not file.endswith(".videos.csv")]
    if not files:
      raise UserError(f"{path}: no scores; expected .csv or .parquet of jiqa score, or a folder of them")
    for file in files:
      try:
        table = pa.dataset.dataset(file, filesystem=store, format=formats[file.rpartition(".")[2]])
        for batch in table.to_batches(columns=["score"]):
          yield batch["score"].cast(pa.float64()).to_numpy(zero_copy_only=False)
      except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{file}: no scores that jiqa score has written ({error})") from error


def print_summary(paths, min_score=None, out=None):
  """`jiqa summary`: prints what `summarise` finds, and writes it as JSON."""
  summary = summarise(paths, min_score)
  print(f"{summary['rows']:,} rows, {summary['errors']:,} of them without a score")
  print("mean {mean:.4g}, deviation {std:.4g}, from {min:.4g} to {max:.4g}".format_map(summary))
  print("quantiles " + ", ".join(f"{q:g}: {score:.4g}" for q, score in summary["quantiles"].items()))
  edges, counts = summary["histogram"].values()
  width = max(shutil.get_terminal_size().columns - 35, 10)
  for low, high, count in zip(edges, edges[1:], counts, strict=False):
    print(f"{low:10.4g} to {high:8.4g} {count:11,d} {'#' * round(width * count / counts.max())}")
  if min_score is not None:
    print(f"{summary['kept']:,} rows ({summary['kept'] / summary['rows']:.1%}) have a score of {min_score:g} or more")
  if out:
    write_bytes(out, (json.dumps(plain(summary), indent=1) + "\n").encode())
