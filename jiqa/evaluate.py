"""The loop after training: features of every image, a ridge regressor on them, correlations with the human scores."""

import hashlib
import importlib.metadata
import json
import pathlib
import platform
import shlex
import sys
import time

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jiqa
from jiqa.data.batching import framed_batches
from jiqa.data.decode import decode_rgb
from jiqa.data.source import open_database
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import protocol, report
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh, put_batch
from jiqa.train import build, check_workdir, init_state, splits_of

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy", "pillow")


def features_of(method, state, database, mesh, pixels_per_batch, what):
  """The features of all images of a database, in its order.

  Args:
    method: see methods/base.py.
    state: State.
    database: random-access source of records with 'image' and 'image_name'.
    mesh: the devices.
    pixels_per_batch: bounds the memory of a batch.
    what: shown on the progress bar.

  Returns:
    [n, d] float32 NumPy array.
  """
  predict = jax.jit(method.predict)

  def items():
    for i in track(range(len(database)), what, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()):
      record = database[i]
      yield i, method.views(decode_rgb(record["image"], record["image_name"]))

  features = None
  for indices, batch in framed_batches(items(), pixels_per_batch, mesh.size):
    rows = np.asarray(predict(state, put_batch(batch, mesh))["features"])
    if features is None:
      features = np.empty((len(database), rows.shape[1]), np.float32)
    features[indices] = rows[: len(indices)]
  return features


def checksum(tree):
  """The first 16 hex digits of the SHA-256 of a tree of arrays, in the order of its sorted paths."""
  digest = hashlib.sha256()
  for path, leaf in sorted((jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)):
    digest.update(path.encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def evaluate_database(config, name, encoders, method, mesh, workdir):
  """Judges every encoder on the splits of one database.

  Args:
    config: ConfigDict.
    name: the database.
    encoders: dict from 'trained' and perhaps 'untrained' to State.
    method: see methods/base.py.
    mesh: the devices.
    workdir: pathlib.Path; gets the heads of the trained encoder and a scatter plot.

  Returns:
    dict: what `summarise` says of the trained encoder, the untrained one's under 'untrained', and what was used.
  """
  wanted = config.evaluation
  database = open_database(name, config.data_dir or None)
  table = database.table
  splits = splits_of(config, table, name, wanted.protocol)
  first, last, count = wanted.alphas
  alphas = np.geomspace(first, last, int(count))
  mos = table.mos.to_numpy()
  groups = table.reference_name.to_numpy()
  results = {}
  for label, state in encoders.items():
    what = f"{name}, {label} encoder"
    started = time.perf_counter()
    features = features_of(method, state, database, mesh, wanted.pixels_per_batch, what)
    seconds = time.perf_counter() - started
    results[label] = protocol.in_database(features, mos, splits, alphas, groups=groups)
    print(f"{what}: {len(table)} images in {seconds:.1f} s, {len(table) / seconds:.1f} images/s", file=sys.stderr)
  domains = np.array(database.domains)
  stem = name.replace("/", "_")
  trained = results["trained"]
  trained.save_heads(workdir / f"heads_{stem}.npz")
  in_test = np.isfinite(trained.predictions[0])
  report.scatter(
    workdir / f"scatter_{stem}.png",
    trained.predictions[0][in_test],
    mos[in_test],
    title=f"{config.method} on {name}, test part of split 1",
    labels=np.where(domains != "", domains, table.distortion.to_numpy(str))[in_test],
    unit="SSIM, a proxy" if name == "demo" else "MOS",
  )
  return {
    "database": name,
    **summarise(trained, domains),
    **{label: summarise(result, domains) for label, result in results.items() if label != "trained"},
    "label": database.metadata["score"],
    "labels_sha256": database.metadata["labels_sha256"],
    "split_sha256": split_checksum(table, splits),
    "protocol": wanted.protocol,
  }


def summarise(result, domains):
  """`protocol.Result.summary()`, and under 'domains' the median SRCC and PLCC inside each part of the database."""
  inside = {}
  for domain in sorted(set(domains) - {""}):
    parts = [np.isfinite(row) & (domains == domain) for row in result.predictions]
    measured = [
      protocol.measures(row[part], result.mos[part]) for row, part in zip(result.predictions, parts, strict=True)
    ]
    medians = {key: float(np.median([m[key] for m in measured])) for key in ("srcc", "plcc")}
    inside[domain] = {key: value if np.isfinite(value) else None for key, value in medians.items()}
  return {**result.summary(), "domains": inside}


def evaluate(config, workdir, devices=None):
  """Scores the newest checkpoint of a run: workdir/results.json, a table on the console, scatter plots.

  Args:
    config: ConfigDict, see configs/.
    workdir: pathlib.Path of a run.
    devices: the jax devices to use; None: all.

  Returns:
    dict, the contents of results.json: `srcc`, `plcc` (a value for every split) and their `median` for the trained
    encoder, the same under `untrained`, and what it takes to repeat the run. Of several databases the first stands at
    the top, all of them under `databases`.

  Raises:
    UserError: if the run has no checkpoint or a database is not prepared.
  """
  workdir = pathlib.Path(workdir)
  mesh = make_mesh(devices)
  plain_config = json.loads(config.to_json_best_effort())
  if not (workdir / "checkpoints").is_dir():
    raise UserError(f"{workdir}: no checkpoints to evaluate; train first with --mode=train")
  checkpoints = Checkpoints(workdir / "checkpoints", keep=config.checkpoints_kept)
  if checkpoints.latest_step() is None:
    raise UserError(f"{workdir / 'checkpoints'}: no complete checkpoint; train first with --mode=train")
  # What the training data were is the business of the run that trained on them.
  trained_on = json.loads((workdir / "config.json").read_text())["data_sha256"]
  check_workdir(plain_config | {"data_sha256": trained_on}, workdir)
  method, tx, _, _ = build(config, mesh, config.batch_size)
  fresh = init_state(config, method, tx, mesh)
  state = checkpoints.restore(fresh)
  encoders = {"untrained": fresh} if config.evaluation.untrained else {}
  encoders["trained"] = state
  databases = {
    name: evaluate_database(config, name, encoders, method, mesh, workdir) for name in config.evaluation.databases
  }
  results = {
    **next(iter(databases.values()), {}),
    "databases": databases,
    "step": int(state.step),
    "seed": config.seed,
    "weights_sha256": checksum((state.params, state.stats)),
    "command": shlex.join([pathlib.Path(sys.executable).name, *sys.argv]),
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
  print_table(results, workdir)
  return results


def print_table(results, workdir):
  """Prints the medians over splits, trained beside untrained; nothing where no database was asked for."""
  if not results["databases"]:
    return
  table = Table(title="median over splits, test parts only", title_justify="left")
  for column in ("database", "encoder", "SRCC", "PLCC", "splits"):
    table.add_column(column, justify="right" if column in ("SRCC", "PLCC", "splits") else "left")
  for name, result in results["databases"].items():
    for label, summary in (("untrained", result.get("untrained")), ("trained", result)):
      if summary:
        median = summary["median"]
        rows = {name: median} | {f"  {domain}": inside for domain, inside in summary["domains"].items()}
        for shown, measured in rows.items():
          cells = [f"{measured[key]:.3f}" if measured[key] is not None else "undefined" for key in ("srcc", "plcc")]
          table.add_row(shown, label, *cells, str(len(summary["srcc"])))
  console = Console(width=100)
  console.print(table)
  for name, result in results["databases"].items():
    console.print(f"{name}: scores are {result['label']}", highlight=False)
  console.print(f"results: {workdir / 'results.json'}", highlight=False)
