"""The loop after training: predictions for every image, a ridge regressor where they are features, correlations."""

import importlib.metadata
import json
import pathlib
import platform
import shlex
import sys
import time
import warnings

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jiqa
from jiqa.data.source import open_database
from jiqa.data.splits import TEST
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import correlation, protocol, report, study
from jiqa.inference.predictor import Predictor
from jiqa.inference.validation import BEST
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.distributed import is_main
from jiqa.runtime.sharding import make_mesh, on_local_devices
from jiqa.runtime.workdir import Workdir, check
from jiqa.train import build, init_state, splits_of
from jiqa.weights.store import checksum

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy", "pillow")


def evaluate_database(config, name, states, predictor, workdir):
  """Judges every state on the splits of one database.

  Features are regressed on the human scores by ridge heads; scores are compared with them as they are.

  Args:
    config: ConfigDict.
    name: the database.
    states: dict from 'trained' and perhaps 'untrained' to State.
    predictor: Predictor.
    workdir: pathlib.Path; gets the heads or the scores of the trained state, and a scatter plot.

  Returns:
    dict: what `protocol.summarise` says of the trained state, the untrained one's under 'untrained', and what was used;
    empty in any process but the main one.
  """
  wanted = config.evaluation
  check_protocol(config, name)
  database = open_database(name, config.data_dir or None)
  table = database.table
  splits = splits_of(config, table, name, wanted.protocol)
  # A run with a split of its own has trained on the rest: only its test part says anything.
  positions = np.arange(len(table)) if config.split < 0 else np.flatnonzero(splits[0] == TEST)
  domains, stem = np.array(database.domains), name.replace("/", "_")
  results, summaries = {}, {}
  for label, state in states.items():
    what = f"{name}, {label} network"
    started = time.perf_counter()
    outputs = predictor(state, database, positions, what)
    seconds = time.perf_counter() - started
    if not is_main():  # the others have done their share of the predictions
      continue
    print(
      f"{what}: {len(positions)} images in {seconds:.1f} s, {len(positions) / seconds:.1f} images/s", file=sys.stderr
    )
    results[label] = judge(config, name, table, splits, positions, outputs)
    records = table.iloc[positions].assign(database=name)
    further = predictor.method.compute_metrics(outputs, records)
    summaries[label] = protocol.summarise(results[label], domains) | ({"further": further} if further else {})
  if not is_main():
    return {}
  results["trained"].save(workdir, stem)
  write_report(config, database, results, workdir)
  return {
    "database": name,
    **summaries.pop("trained"),
    **summaries,
    "label": database.metadata["score"],
    "labels_sha256": database.metadata["labels_sha256"],
    "split_sha256": split_checksum(table, splits),
    "protocol": wanted.protocol,
  }


def write_report(config, database, results, workdir):
  """Draws the scatter plot and writes the report with intervals, breakdowns and outliers, trained beside untrained.

  Args:
    config: ConfigDict.
    database: Database.
    results: dict from 'trained' and perhaps 'untrained' to what `judge` returned.
    workdir: pathlib.Path; gets scatter_NAME.png and report/index.html, or report/NAME/index.html for several databases.
  """
  name, table = database.name, database.table
  stem, domains = name.replace("/", "_"), np.array(database.domains)
  unit = "SSIM, a proxy" if name == "demo" else "MOS"
  predictions, mos = results["trained"].predictions[0], table.mos.to_numpy()
  kinds = {"part": domains, "distortion": table.distortion.to_numpy(str), "level": table.level.to_numpy(str)}
  present = {kind: values for kind, values in kinds.items() if not np.isin(values, ("", "-1")).all()}
  report.scatter(
    workdir / f"scatter_{stem}.png",
    predictions,
    mos,
    title=f"{config.method} on {name}, test part of split {max(config.split, 0) + 1}",
    labels=next(iter(present.values()), None),
    unit=unit,
  )
  references = table.reference_name.to_numpy(str)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = study.compare(
      {label: results[label].predictions for label in reversed(results)},
      mos,
      names=table.image_name.to_numpy(),
      groups=np.where(references == "", table.image_name.to_numpy(str), references) if references.any() else None,
      labels=present,
      seed=config.seed,
    )
  told = [str(w.message) for w in caught if issubclass(w.category, correlation.UndefinedCorrelationWarning)]
  report.write(
    workdir / "report" / (stem if len(config.evaluation.databases) > 1 else ""),
    found,
    title=f"{config.method} on {name}: {database.metadata['score']}",
    command=command(),
    unit=unit,
    warnings=list(dict.fromkeys(told)),
  )


def command():
  """The command of this process, as a shell takes it."""
  return shlex.join([pathlib.Path(sys.executable).name, *sys.argv])


def check_protocol(config, name):
  """Raises a UserError if a run was trained on a database by another protocol than it is to be tested by."""
  for entry in config.data:
    if entry.name == name and entry.protocol not in ("", config.evaluation.protocol):
      raise UserError(
        f"{name}: this run was trained on what protocol {entry.protocol!r} leaves it, so config.evaluation.protocol "
        f"{config.evaluation.protocol!r} would test on images that it has seen; evaluate it by {entry.protocol!r}"
      )


def judge(config, name, table, splits, positions, outputs):
  """Compares what a method predicted with the human scores.

  Args:
    config: ConfigDict.
    name: the database.
    table: its labels, N rows.
    splits: [k, N] int8.
    positions: [n] int, the rows predicted.
    outputs: dict with 'features' [n, d] or 'score' [n].

  Returns:
    protocol.Result or protocol.Scored.

  Raises:
    UserError: if a method that predicts features was trained on a split of its own.
  """
  mos = table.mos.to_numpy()
  if "score" in outputs:
    scores = np.full(len(table), np.nan)
    scores[positions] = outputs["score"]
    return protocol.scored(scores, mos, splits, names=table.image_name.to_numpy())
  if config.split >= 0:
    raise UserError(f"{name}: method {config.method!r} predicts features, which need config.split=-1")
  first, last, count = config.evaluation.alphas
  groups = table.reference_name.to_numpy()
  return protocol.fit_heads(outputs["features"], mos, splits, np.geomspace(first, last, int(count)), groups=groups)


def evaluate(config, workdir, devices=None):
  """Scores the newest checkpoint of a run: workdir/results.json, a table on the console, scatter plots.

  Args:
    config: ConfigDict, see configs/.
    workdir: folder of a run, or gs://BUCKET/FOLDER.
    devices: the jax devices to use; None: all.

  Returns:
    dict, the contents of results.json: `srcc`, `plcc` (a value for every split) and their `median` for the trained
    encoder, the same under `untrained`, and what it takes to repeat the run. Of several databases the first stands at
    the top, all of them under `databases`. None in any process but the main one.

  Raises:
    UserError: if the run has no checkpoint or a database is not prepared.
  """
  with Workdir(workdir) as folder:
    return _evaluate(config, folder, make_mesh(devices))


def _evaluate(config, folder, mesh):
  workdir = folder.local
  plain_config = json.loads(config.to_json_best_effort())
  checkpoints = newest_or_best(config, folder.remote)
  # What the training data were is the business of the run that trained on them.
  trained_on = json.loads((workdir / "config.json").read_text())["data_sha256"]
  check(plain_config | {"data_sha256": trained_on}, workdir)
  # Training data need not be at hand. Their number decides the length of the schedule alone, which nothing reads here.
  method, tx, _, _ = build(config, mesh, 10**5 * config.batch_size)
  fresh = init_state(config, method, tx, mesh)
  state = checkpoints.restore(fresh)
  states = {"untrained": fresh} if config.evaluation.untrained else {}
  states["trained"] = state
  predictor = Predictor(method, mesh, config.evaluation.pixels_per_batch)
  databases = {
    name: evaluate_database(config, name, states, predictor, workdir) for name in config.evaluation.databases
  }
  at_hand, _ = on_local_devices(state, mesh)
  if not is_main():
    return None
  results = {
    **next(iter(databases.values()), {}),
    "databases": databases,
    "step": int(state.step),
    "checkpoint": config.evaluation.checkpoint,
    "seed": config.seed,
    "weights_sha256": checksum(*jax.device_get((at_hand.params, at_hand.stats))),
    "command": command(),
    "config": plain_config,
    "data_sha256": trained_on,
    "versions": {
      "jiqa": jiqa.__version__,
      "python": platform.python_version(),
      **{package: importlib.metadata.version(package) for package in PACKAGES},
    },
    "devices": [device.device_kind for device in jax.devices()],
  }
  temporary = workdir / "results.tmp"
  temporary.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
  temporary.replace(workdir / "results.json")
  print_table(results, folder.remote)
  return results


def newest_or_best(config, workdir):
  """The checkpoints that config.evaluation.checkpoint asks for.

  Raises:
    UserError: if there are none, or the config asks for something else.
  """
  which = config.evaluation.checkpoint
  folders = {"newest": workdir / "checkpoints", "best": workdir / BEST}
  if which not in folders:
    raise UserError(f"config.evaluation.checkpoint is {which!r}; expected newest or best")
  missing = "train first with --mode=train" + ("" if which == "newest" else " and config.validate_every > 0")
  if not folders[which].is_dir():
    raise UserError(f"{workdir}: no {which} checkpoint to evaluate; {missing}")
  checkpoints = Checkpoints(folders[which], config.checkpoints_kept, best=None if which == "newest" else "srcc")
  if checkpoints.latest_step() is None:
    raise UserError(f"{folders[which]}: no complete checkpoint; {missing}")
  return checkpoints


def print_table(results, workdir):
  """Prints the medians over splits, trained beside untrained; nothing where no database was asked for."""
  if not results["databases"]:
    return
  table = Table(title="median over splits, test parts only", title_justify="left")
  for column in ("database", "network", "SRCC", "PLCC", "splits"):
    table.add_column(column, justify="right" if column in ("SRCC", "PLCC", "splits") else "left")
  for name, result in results["databases"].items():
    for label, summary in (("untrained", result.get("untrained")), ("trained", result)):
      if summary:
        median = summary["median"]
        rows = {name: median} | {f"  {domain}": inside for domain, inside in summary["domains"].items()}
        for shown, measured in rows.items():
          cells = [f"{measured[key]:.3f}" if measured[key] is not None else "undefined" for key in ("srcc", "plcc")]
          table.add_row(shown, label, *cells, str(len(summary["srcc"])))
        for measure, value in summary.get("further", {}).items():
          table.add_row(f"  {measure}", label, f"{value:.3f}", "", "")
  console = Console(width=100)
  console.print(table)
  for name, result in results["databases"].items():
    console.print(f"{name}: scores are {result['label']}", highlight=False)
  console.print(f"results: {workdir / 'results.json'}, report: {workdir / 'report'}", highlight=False)
