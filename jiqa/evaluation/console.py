"""What the `jiqa` command runs for score tables: evaluate, gmad and realign. Prints a table, writes the rest."""

import os
import pathlib
import shlex
import sys
import warnings

import numpy as np
import rich.console
import rich.table

from jiqa.errors import UserError
from jiqa.evaluation import correlation, gmad_session, protocol, realignment, report, study, tables

# What a reader of the numbers has to know; all other warnings are for programmers.
TOLD = (correlation.UndefinedCorrelationWarning, protocol.SeenImagesWarning)


def evaluate(
  scores, mos, *, methods=(), group=None, by=(), split=None, out, title=None, unit="MOS", resamples=1000, seed=0
):
  """Judges a table of scores and writes the report.

  Args:
    scores: table with one row an image, one column a method.
    mos: column of the human scores, or a file with `image_name` and `mos`.
    methods: columns of the methods; none: all columns of numbers that are not used otherwise.
    group: column of the references, or a file with `image_name` and `reference_name`.
    by: columns to break the results down by.
    split: beginning of the names of the columns that say 'test'.
    out: folder of the report.
    title: its heading; None: the name of the table.
    unit: name of the human scale.
    resamples: of the bootstrap.
    seed: of the bootstrap.
  """
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = study.from_table(
      scores, mos, scores=methods, group=group, labels=by, split=split, resamples=resamples, seed=seed
    )  # fmt: skip
  told = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, TOLD)))
  for name, method in found["methods"].items():
    if method["value"]["srcc"] < 0:
      told.append(
        f"{name} falls as the human scores rise (SRCC {method['value']['srcc']:.3f}): is its direction right?"
      )
  for text in told:
    print(f"jiqa: warning: {text}", file=sys.stderr)
  title = title or f"Evaluation of {pathlib.Path(scores).name}"
  extra = {
    "checksums": {str(path): report.checksum(path) for path in (scores, mos, group) if path and os.path.isfile(path)}
  }
  page = report.write(out, found, title=title, command=_command(), unit=unit, warnings=told, extra=extra)
  rows = [
    [name, *(f"{m['value'][k]:.4f}" for k in study.MEASURES), "[{:.4f}, {:.4f}]".format(*m["interval"]["srcc"])]
    for name, m in found["methods"].items()
  ]
  level = f"SRCC {found['settings']['level']:.0%} interval"
  _print(title, ["method", *(report.NAMES[k] for k in study.MEASURES), level], rows)
  print(f"report: {page}")


def gmad(score_files, out, **options):
  """Runs a competition, see `gmad_session.run`, and prints the ranking where there are answers."""
  found = gmad_session.run(score_files, out, **options)
  print(f"{len(found['pairs'].low)} pairs of {len(found['methods'])} methods: {pathlib.Path(out) / 'pairs.csv'}")
  if options.get("images"):
    print(f"to be answered in a browser: {pathlib.Path(out) / 'index.html'}")
  if "resistance_rank" in found:
    order = np.argsort(-found["resistance_rank"])
    rows = [
      [found["methods"][i], f"{found['resistance_rank'][i]:.3f}", f"{found['aggressiveness_rank'][i]:.3f}"]
      for i in order
    ]
    kind = "answers of the proxy" if options.get("proxy") else "answers"
    _print(f"gMAD ranking by the {kind}, higher is better", ["method", "resistance", "aggressiveness"], rows)


def realign(scores, *, score, mos, database, fitted=None, out):
  """Carries the human scores of several databases onto a model's scale and writes them.

  Args:
    scores: table with one row an image.
    score: column of the model's scores.
    mos: column of the raw human scores.
    database: column of the database names.
    fitted: column that says 'test' where an image must not shape its database's curve; None: all do.
    out: CSV file to write.
  """
  table = tables.read(scores)
  names = tables.words(table, tables.NAME, scores)
  of, raw = tables.words(table, database, scores), tables.numbers(table, mos, scores)
  may_fit = None if fitted is None else np.char.lower(tables.words(table, fitted, scores)) != "test"
  if may_fit is not None and may_fit.all():
    raise UserError(f"{scores}: column {fitted!r} holds no 'test'")
  found = realignment.realign(tables.numbers(table, score, scores), raw, of, may_fit)
  realignment.write(out, names, of, raw, found)
  rows = [[kind, f"{m['srcc']:.4f}", f"{m['plcc']:.4f}"] for kind, m in found["pooled"].items()]
  where = "all images (the curves were fitted to them)" if fitted is None else "the test images"
  _print(f"Model against human scores, pooled over the databases, {where}", ["human scores", "SRCC", "PLCC"], rows)
  for name, curve in found["curves"].items():
    if not curve.converged:
      print(f"jiqa: warning: database {name}: {curve.message}", file=sys.stderr)
  print(f"realigned labels: {out}")


def _print(title, head, rows):
  table = rich.table.Table(title=title, title_justify="left")
  for i, name in enumerate(head):
    table.add_column(name, justify="right" if i else "left")
  for row in rows:
    table.add_row(*row)
  # A table in a pipe or a log is not cut to the width of a terminal that is not there.
  width = None if sys.stdout.isatty() else 160
  rich.console.Console(width=width).print(table)


def _command():
  return shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
