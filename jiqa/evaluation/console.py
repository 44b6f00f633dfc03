"""What the `jiqa` command runs for score tables and runs: evaluate, gmad, realign. Prints a table, writes the rest."""

import json
import pathlib
import shlex
import sys
import warnings

import numpy as np
import rich.console
import rich.table

from jiqa.errors import UserError
from jiqa.evaluation import correlation, outputs, protocol, realignment, report, study, tables
from jiqa.evaluation.gmad import run as run_competition


def evaluate(
  scores, mos, *, methods=(), group=None, by=(), split=None, cross=None, name=None, out, title=None, unit=None,
  **options,
):  # fmt: skip
  """Evaluates files by `study.compare_table`, or one by `study.cross_database`; writes the report, prints results."""
  if cross and (group or by or split or len(scores) > 1):
    raise UserError(
      f"--cross={cross}: compares inside every database of one file and takes no --group, --by or --split"
    )
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if cross:
      results = study.cross_database(scores[0], mos, cross, scores=methods, name=name)
    else:
      options |= {"scores": methods, "group": group, "labels": by, "split": split, "name": name}
      results = study.compare_table(scores, mos, **options)
  notes = correlation.reasons(caught)
  for name, method in results["methods"].items():
    if (srcc := method["value"].get("srcc", 0)) < 0:
      notes.append(f"{name} falls as the human scores rise (SRCC {srcc:.3f}): is its direction right?")
  for text in notes:
    print(f"jiqa: warning: {text}", file=sys.stderr)
  unit = unit or ("MOS" if results["column"].lower() == "mos" else results["column"])
  title = title or f"Evaluation of {', '.join(pathlib.Path(file).name for file in scores)}"
  extra = {"checksums": {str(path): report.checksum(path) for path in results.pop("files")}}
  command = shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
  page = report.write(out, results, title=title, command=command, unit=unit, warnings=notes, extra=extra)
  _print_results(title, results)
  print(f"report: {page}")


def print_medians(databases):
  """Prints the medians over splits, and inside domains, of every network that results.json has under 'databases'."""
  rows = []
  for name, result in databases.items():
    for network, of in _networks(result).items():
      kept = " (kept)" if network == result.get("chosen") else ""
      rows.append([name, network + kept, *protocol.cells(of["median"]), str(len(of["srcc"]))])
      rows += [[f"  {domain}", network, *protocol.cells(inside)] for domain, inside in of["domains"].items()]
      rows += [[f"  {measure}", network, f"{value:.3f}"] for measure, value in of.get("further", {}).items()]
      if "chosen" in result:
        rows.append(["  validation", network, f"{np.median(np.array(of['validation_srcc'], float)):.3f}"])
  _print("median over splits, test parts only", ["database", "network", *protocol.SHOWN.values(), "splits"], rows)


def aggregate(runs, out):
  """Prints median, mean and standard deviation over all splits of several runs, and writes them to OUT/runs.csv."""
  values, tested = {}, {}
  for run in runs:
    path = pathlib.Path(run) / "results.json"
    try:
      databases = json.loads(path.read_text())["databases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
      hint = "evaluate it first with --mode=evaluate; a table of scores needs --mos"
      raise UserError(f"{path}: no results of a run ({error!r}); {hint}") from error
    for name, result in databases.items():
      if other := tested.get(images := (name, result["split_sha256"])):
        print(f"jiqa: warning: {other} and {run} test the same images of {name}", file=sys.stderr)
      tested.setdefault(images, run)
      for network, of in _networks(result).items():
        splits = values.setdefault((name, result["protocol"], network), {key: [] for key in protocol.SHOWN})
        for key in protocol.SHOWN:
          splits[key] += of.get(key) or [None] * len(of["srcc"])
  rows = []
  for labels, splits in values.items():
    numbers = np.array([splits[key] for key in protocol.SHOWN], float)  # None becomes nan
    deviation = numbers.std(1, ddof=1) if numbers.shape[1] > 1 else np.full(len(numbers), np.nan)
    for statistic, of in (("median", np.median(numbers, 1)), ("mean", numbers.mean(1)), ("deviation", deviation)):
      rows.append([*labels, statistic, *(f"{value:.4f}" for value in of), str(numbers.shape[1])])
  head = ["database", "protocol", "network", "over splits", *protocol.SHOWN.values(), "splits"]
  outputs.write_csv(pathlib.Path(out) / "runs.csv", [head, *rows])
  _print(f"{len(runs)} runs, test parts only", head, rows)


def _networks(result):
  """What results.json says of a database by network, or by features and regressor."""
  untrained = {"untrained": result["untrained"]} if "untrained" in result else {}
  return result.get("candidates") or untrained | {"trained": result}


def gmad(score_files, out, **options):
  """Runs a competition, see `jiqa.evaluation.gmad.run`, and prints the ranking where there are answers."""
  results = run_competition(score_files, out, **options)
  print(f"{len(results['pairs'].low)} pairs of {len(results['methods'])} methods: {pathlib.Path(out) / 'pairs.csv'}")
  if options.get("images"):
    print(f"to be answered in a browser: {pathlib.Path(out) / 'index.html'}")
  if "resistance_rank" in results:
    ranks = results["resistance_rank"], results["aggressiveness_rank"]
    rows = [[results["methods"][i], *(f"{rank[i]:.3f}" for rank in ranks)] for i in np.argsort(-ranks[0])]
    kind = "answers of the proxy" if options.get("proxy") else "answers"
    _print(f"gMAD ranking by the {kind}, higher is better", ["method", "resistance", "aggressiveness"], rows)


def realign(scores, *, score, mos, database, fitted=None, name=None, out):
  """Carries the human scores of several databases onto a model's scale and writes them; columns, see `tables.join`."""
  table = tables.read(scores, name)
  mos = tables.join(table, scores, mos, "mos", name)
  tables.human_columns(mos, scores, [score])
  database = tables.join(table, scores, database, "database", name)
  fitted = None if fitted is None else tables.join(table, scores, fitted, "split", name)
  names, of, raw = tables.words(table, tables.NAME, scores), database.words(), mos.numbers()
  may_fit = None if fitted is None else np.char.lower(fitted.words()) != "test"
  if may_fit is not None and may_fit.all():
    raise UserError(f"{fitted.path}: column {fitted.name!r} holds no 'test'")
  realigned = realignment.realign(tables.numbers(table, score, scores), raw, of, may_fit)
  columns = (names, of, raw, realigned["realigned"], realigned["linear"])
  head = ("image_name", "database", "mos", "realigned_mos", "linear_mos")
  outputs.write_csv(out, [head, *zip(*(values.tolist() for values in columns), strict=True)])
  rows = [[kind, f"{m['srcc']:.4f}", f"{m['plcc']:.4f}"] for kind, m in realigned["pooled"].items()]
  where = "all images (the curves were fitted to them)" if fitted is None else "the test images"
  _print(f"Model against human scores, pooled over the databases, {where}", ["human scores", "SRCC", "PLCC"], rows)
  for name, curve in realigned["curves"].items():
    if not curve.converged:
      print(f"jiqa: warning: database {name}: {curve.message}", file=sys.stderr)
  print(f"realigned labels: {out}")


def _print_results(title, results):
  if "cross_database" in results:
    section = report.cross_database(results["cross_database"])
    return _print(f"{title}: SRCC inside every database", section["head"], section["rows"])
  rows = [
    [name, *(f"{m['value'][k]:.4f}" for k in report.NAMES), "[{:.4f}, {:.4f}]".format(*m["interval"]["srcc"])]
    for name, m in results["methods"].items()
  ]
  level = f"SRCC {results['settings']['level']:.0%} interval"
  _print(title, ["method", *report.NAMES.values(), level], rows)


def _print(title, head, rows):
  columns = [rich.table.Column(name, justify="right" if i else "left") for i, name in enumerate(head)]
  table = rich.table.Table(*columns, title=title, title_justify="left")
  for row in rows:
    table.add_row(*row)
  # A table in a pipe or a log is not cut to the width of a terminal that is not there.
  rich.console.Console(width=None if sys.stdout.isatty() else 160).print(table)
