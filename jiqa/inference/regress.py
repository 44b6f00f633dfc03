"""Heads on frozen features: every encoder and every regressor on the published splits, the best one kept as a file.

Run by `launch.py` with config.method "regress". Nothing is trained; what was computed lies in the workdir and is not
computed again.
"""

import itertools
import json

import jax
import numpy as np

import jiqa
from jiqa.data.source import open_database
from jiqa.data.splits import checksum as split_checksum
from jiqa.data.splits import run_splits
from jiqa.errors import UserError
from jiqa.evaluation import console, outputs, protocol
from jiqa.inference.heads import CONCAT
from jiqa.inference.loading import Model
from jiqa.inference.metric import Metric
from jiqa.inference.predictor import predict_database
from jiqa.inference.views import views
from jiqa.runtime.bounds import check_bounds
from jiqa.runtime.sharding import make_mesh
from jiqa.runtime.workdir import Workdir, claim


def regress(config, workdir):
  """Fits and tests heads.

  Args:
    config: ConfigDict, see configs/reiqa.py, variant 'regress'. `weights` has a folder for every encoder, by the name
      that `features` uses.
    workdir: folder, or gs://BUCKET/FOLDER; gets features_*.npz, results.json and, for every database,
      head_NAME.safetensors: the head with the best median validation SRCC, fitted to the training and validation part
      of the first split.

  Returns:
    dict, the contents of results.json.
  """
  check_bounds(config)
  folders = {name: folder for name, folder in config.weights.items() if folder}
  if not folders:
    keys = [f"config.weights.{name}" for name in config.weights]
    how = f"give a folder of converted weights or the workdir of a run: --{keys[0]}=DIR"
    raise UserError(f"{' and '.join(keys)} are both empty; {how}")
  plain_config = json.loads(config.to_json_best_effort())
  with Workdir(workdir) as folder, claim(folder, plain_config):
    models = _models(folders)
    databases = {name: _regress_database(config, name, models, folder.local) for name in config.evaluation.databases}
    experts = [{**model.card, "expert": expert} for expert, model in models.items()]
    results = {"databases": databases, "experts": experts}
    results |= {"config": plain_config, "versions": {"jiqa": jiqa.__version__}}
    outputs.write_bytes(folder.local / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    console.print_medians(databases)
    for name, result in databases.items():
      print(f"{name}: head {folder.remote / result['head']}")
  return results


def _models(folders):
  """The encoders by name, in the order in which their features are joined."""
  mesh = make_mesh(jax.local_devices())
  models = {name: Model(folder, mesh) for name, folder in folders.items()}
  Metric(list(models.values())).check_features()
  for name, model in models.items():
    if getattr(model.method, "expert", name) != name:
      raise UserError(f"{model.folder}: holds the {model.method.expert} expert, but config.weights.{name} names it")
  return dict(sorted(models.items(), key=lambda item: item[1].method.feature_order))


def _regress_database(config, name, models, workdir):
  database = open_database(name, config.data_dir or None, config.get("score", "mos"))
  table, stem, evaluation = database.table, name.replace("/", "_"), config.evaluation
  splits = run_splits(config, table, name, evaluation.protocol)
  features = _features(config, database, models, workdir / f"features_{stem}.npz")
  card = {
    "model": next(iter(models.values())).family, "database": name, "range": list(database.metadata["range"]),
    "scores": database.metadata["score"], "labels_sha256": database.metadata["labels_sha256"],
    "split_sha256": split_checksum(table, splits), "protocol": evaluation.protocol,
  }  # fmt: skip
  domains, candidates, best = np.array(database.domains), {}, None
  named = [CONCAT if what == "both" else what for what in config.features]  # as configs have called it
  for what, regressor in itertools.product(named, config.regressors):
    parts = _parts(what, config, features)
    if not parts:
      continue
    first, last, count = evaluation.alphas if regressor == "ridge" else evaluation.net_alphas
    result = protocol.fit_heads(
      np.concatenate([features[part] for part in parts], -1), table.mos.to_numpy(), splits,
      np.geomspace(first, last, int(count)), regressor=regressor, l1_ratios=tuple(evaluation.l1_ratios),
      groups=table.reference_name.to_numpy(str), standardise=evaluation.standardise, refit=evaluation.refit,
      per_split=evaluation.per_split,
    )  # fmt: skip
    candidate = f"{what} {regressor}"
    candidates[candidate] = {**protocol.summarise(result, domains), "l1_ratio": result.l1_ratio.tolist()}
    # A single penalty is not validated; what was goes before it.
    validation = float(np.nan_to_num(np.median(result.validation_srcc), nan=-2))
    if best is None or validation > best[0]:
      facts = {"features": list(parts), "regressor": regressor, "l1_ratio": float(result.l1_ratio[0])}
      facts["weights_sha256"] = {part: models[part].card["weights_sha256"] for part in parts}
      best = (validation, candidate, protocol.head_of(result, 0, card | facts))
  if best is None:
    raise UserError(f"config.features is {tuple(config.features)}; none of them can be had from {list(features)}")
  path = workdir / f"head_{stem}.safetensors"
  best[2].save(path)
  chosen = {"chosen": best[1], "head": path.name, "median": candidates[best[1]]["median"]}
  return {**card, "candidates": candidates, **chosen}


def _parts(what, config, features):
  """The encoders that a feature set is made of, () where one is missing."""
  if what == CONCAT:
    return tuple(features) if len(features) > 1 else ()
  if what not in config.weights:
    raise UserError(f"config.features has {what!r}; expected {', '.join(config.weights)} or {CONCAT}")
  return (what,) if what in features else ()


def _features(config, database, models, path):
  """Features of all images by encoder; kept in a file with what they depend on."""
  checksums = [model.card["weights_sha256"] for model in models.values()]
  evaluation = config.evaluation
  key = json.dumps([database.metadata["labels_sha256"], checksums, evaluation.resize, evaluation.five_crops])
  if path.exists():
    with np.load(path) as kept:
      if str(kept["key"]) == key:
        return {name: kept[name] for name in kept.files if name != "key"}
  features, everything = {}, np.arange(len(database))
  for name, model in models.items():
    title, shown = f"{database.name}, {name} features", views(model, evaluation, database)
    pixels = evaluation.pixels_per_batch
    crops = [predict_database(view, database, everything, title, pixels)["features"] for view in shown]
    features[name] = np.stack(crops, axis=1) if evaluation.five_crops else crops[0]
  outputs.write_npz(path, key=np.array(key), **features)
  return features
