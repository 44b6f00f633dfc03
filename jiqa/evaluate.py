"""The evaluation after training: predictions for every image, a ridge head where they are features, correlations."""

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

import jiqa
from jiqa.data.source import open_database
from jiqa.data.splits import TEST, run_splits
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import console, correlation, outputs, protocol, report, study
from jiqa.inference.predictor import Network, predict_database
from jiqa.inference.validation import BEST
from jiqa.inference.views import views
from jiqa.methods import method_class
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.distributed import is_main
from jiqa.runtime.sharding import make_mesh
from jiqa.runtime.workdir import Workdir, check, read_config
from jiqa.train import build, build_optimizer, defaults_of, init_state
from jiqa.weights.store import checksum

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy", "pillow")


def evaluate(config, workdir, devices=None, overrides=()):
  """Tests the newest checkpoint of a run: workdir/results.json, a table on the console, reports, scatter plots.

  The arguments are those of `jiqa.train.train`.

  Returns:
    dict, the contents of results.json: `srcc`, `plcc`, `plcc_logistic` (a value for every split) and their `median` for
    the trained encoder, the same under `untrained`, and what it takes to repeat the run. Of several databases the first
    stands at the top, all of them under `databases`. None in any process but the main one.

  Raises:
    UserError: the run has no checkpoint, or a database is not prepared.
  """
  with Workdir(workdir) as folder:
    return _evaluate(config, folder, make_mesh(devices), overrides)


def _evaluate(config, folder, mesh, overrides):
  checkpoints = newest_or_best(config, folder.remote)
  plain_config = json.loads(config.to_json_best_effort())
  # What the training data were is known from the run that trained on them; they need not be there any more.
  trained_on = read_config(folder.local / "config.json").get("data_sha256", {})
  claimed = plain_config | {"data_sha256": trained_on}
  try:
    free = method_class(config.method).prediction_keys
  except ValueError as error:
    raise UserError(str(error)) from error
  check(claimed, folder.local, free=free, defaults=defaults_of(claimed, overrides))
  for name in config.evaluation.databases:
    check_trained_protocol(config, name)
  method = build(config, mesh)
  # The number of training images decides the length of the schedule alone, which nothing reads here: many where
  # epochs are counted, one step an epoch where steps are, so that no run is too short for its schedule.
  tx, _, _ = build_optimizer(config, config.batch_size * (1 if config.steps else 10**5))
  fresh = init_state(config, method, tx, mesh)
  trained = checkpoints.restore(fresh)
  networks = {"trained": Network.of_state(method, trained, mesh)}
  if config.evaluation.untrained:
    networks = {"untrained": Network.of_state(method, fresh, mesh, networks["trained"].programs), **networks}
  databases = {name: evaluate_database(config, name, networks, folder.local) for name in config.evaluation.databases}
  if not is_main():
    return None
  params, stats, _ = networks["trained"].weights
  results = {
    **next(iter(databases.values()), {}),
    "databases": databases,
    "step": int(trained.step),
    "checkpoint": config.evaluation.checkpoint,
    "seed": config.seed,
    "weights_sha256": checksum(*jax.device_get((params, stats))),
    "command": command(),
    "config": plain_config,
    "data_sha256": trained_on,
    "versions": {"jiqa": jiqa.__version__, "python": platform.python_version()}
    | {package: importlib.metadata.version(package) for package in PACKAGES},
    "devices": [device.device_kind for device in jax.devices()],
  }
  text = json.dumps(results, indent=2, allow_nan=False) + "\n"
  outputs.write_bytes(folder.local / "results.json", text.encode())
  if databases:
    console.print_medians(databases)
    for name, result in databases.items():
      print(f"{name}: scores are {result['label']}")
    print(f"results: {folder.remote / 'results.json'}, report: {folder.remote / 'report'}")
  return results


def evaluate_database(config, name, networks, workdir):
  """Tests networks, 'trained' and perhaps 'untrained', on the splits of one database; the main process writes a report.

  A dict: `protocol.summarise` of the trained network, the untrained one's under 'untrained', and what was used; empty
  in any process but the main one.
  """
  database = open_database(name, config.data_dir or None, config.get("score", "mos"))
  table, evaluation = database.table, config.evaluation
  splits = run_splits(config, table, name, evaluation.protocol)
  # A run with a split of its own has trained on the rest: only its test part says anything.
  positions = np.arange(len(table)) if config.split < 0 else np.flatnonzero(splits[0] == TEST)
  domains, results, summaries = np.array(database.domains), {}, {}
  for label, network in networks.items():
    title, started = f"{name}, {label} network", time.perf_counter()
    (shown,) = views(network, evaluation, database)
    predicted = predict_database(shown, database, positions, title, evaluation.pixels_per_batch)
    seconds = time.perf_counter() - started
    if not is_main():  # the others have done their share of the predictions
      continue
    rate = len(positions) / seconds
    print(f"{title}: {len(positions)} images in {seconds:.1f} s, {rate:.1f} images/s", file=sys.stderr)
    results[label] = test(config, name, table, splits, positions, predicted)
    further = network.method.compute_metrics(predicted, table.iloc[positions].assign(database=name))
    summaries[label] = protocol.summarise(results[label], domains) | ({"further": further} if further else {})
  if not is_main():
    return {}
  results["trained"].save(workdir, name.replace("/", "_"))
  write_report(config, database, results, workdir)
  return {
    "database": name,
    **summaries.pop("trained"),
    **summaries,
    "label": database.label,
    "labels_sha256": database.metadata["labels_sha256"],
    "split_sha256": split_checksum(table, splits),
    "protocol": evaluation.protocol,
  }


def test(config, name, table, splits, positions, predicted):
  """Compares predictions with the human scores, as they are or, where they are features, through ridge heads.

  `predicted`, a dict with 'features' [n, d] or 'score' [n], is of the rows `positions` [n] int of the database's label
  `table`; splits are [k, rows] int8. Returns a protocol.Result or protocol.Scored.
  """
  mos, groups = table.mos.to_numpy(), table.reference_name.to_numpy()
  if "score" in predicted:
    scores = np.full(len(table), np.nan)
    scores[positions] = predicted["score"]
    return protocol.scored(scores, mos, splits, names=table.image_name.to_numpy(), groups=groups)
  if config.split >= 0:
    raise UserError(f"{name}: method {config.method!r} predicts features, which need config.split=-1")
  first, last, count = config.evaluation.alphas
  alphas = np.geomspace(first, last, int(count))
  options = {"groups": groups, "standardise": config.evaluation.get("standardise", True)}
  return protocol.fit_heads(predicted["features"], mos, splits, alphas, **options)


def write_report(config, database, results, workdir):
  """Draws scatter_NAME.png, and writes report/index.html, or report/NAME/index.html for several databases.

  The results are what `test` returned for 'trained' and perhaps 'untrained'.
  """
  name, table = database.name, database.table
  stem, mos = name.replace("/", "_"), table.mos.to_numpy()
  unit = "SSIM" if name == "demo" else "MOS"
  distortion, level = table.distortion.to_numpy(str), table.level.to_numpy()
  conditions = {"part": np.array(database.domains), "distortion": distortion}
  if (level >= 0).any():  # as databases number them: 0 is pristine, 1 the weakest distortion
    conditions["level"] = np.where((level >= 0) | np.isin(distortion, ("", "pristine")), (level + 1).astype(str), "")
  present = {key: values for key, values in conditions.items() if (values != "").any()}
  report.scatter(
    workdir / f"scatter_{stem}.png", results["trained"].predictions[0], mos, unit=unit,
    title=f"{config.method} on {name}, test part of split {max(config.split, 0) + 1}",
    labels=next(iter(present.values()), None),
  )  # fmt: skip
  names, references = table.image_name.to_numpy(str), table.reference_name.to_numpy(str)
  groups = references if references.any() else None
  predictions = {label: results[label].predictions for label in reversed(results)}
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    comparison = study.compare(predictions, mos, names=names, groups=groups, labels=present, seed=config.seed)
  report.write(
    workdir / "report" / (stem if len(config.evaluation.databases) > 1 else ""), comparison, command=command(),
    title=f"{config.method} on {name}: {database.label}", unit=unit, warnings=correlation.reasons(caught),
  )  # fmt: skip


def command():
  """The command of this process, as a shell takes it."""
  return shlex.join([pathlib.Path(sys.executable).name, *sys.argv])


def check_trained_protocol(config, name):
  """Raises a UserError if a run was trained on a database by another protocol than it is to be tested by."""
  for entry in config.data:
    if entry.name == name and entry.protocol not in ("", config.evaluation.protocol):
      raise UserError(
        f"{name}: this run was trained on what protocol {entry.protocol!r} leaves it, so config.evaluation.protocol "
        f"{config.evaluation.protocol!r} would test on images that it has seen; evaluate it by {entry.protocol!r}"
      )


def newest_or_best(config, workdir):
  """The checkpoints that config.evaluation.checkpoint asks for."""
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
