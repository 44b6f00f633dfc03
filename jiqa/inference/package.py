"""Small weights that can be given away: a run's network as a folder, with what it is worth."""

import pathlib

import jax
import numpy as np

from jiqa.data.source import open_database
from jiqa.data.splits import TEST, VALIDATION, run_splits
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import protocol
from jiqa.inference import heads
from jiqa.inference.loading import Model
from jiqa.inference.metric import trained_on
from jiqa.inference.predictor import predict_database
from jiqa.inference.views import views
from jiqa.runtime.sharding import make_mesh
from jiqa.weights.store import flatten, save_weights, unflatten

# Of the config, paths of a machine; the rest says how to build the network and how it was trained.
PRIVATE = ("data_dir", "init_from", "data_sha256")
PARTS = {VALIDATION: "validation images", TEST: "test images"}
LEAST_PAIRS = 100  # of which a share is worth telling
MOST_IMAGES = 2000  # that are paired with each other


def package(run, out, *, database, dtype="float16", data_dir=None, recipe=None, licence=None, notes=()):
  """Writes a folder of weights from a run, and what exactly those weights are worth on images it has not trained on.

  A method with a score of its own keeps it, calibrated on the validation images if there are; to features a head is
  fitted.

  Args:
    run: the --workdir of a finished run, or weights that came of one.
    out: folder to write: weights.safetensors, card.json, and for features head.safetensors.
    database: that a head is fitted to and that is tested on, on the splits of the run's evaluation; the run's training
      has left out what they test on only if it is one of its own databases. None: the first that the run evaluates.
    dtype: float16 or float32, of the stored numbers.
    data_dir: where the prepared database lies; None: the default.
    recipe, licence, notes: for the card: the command that trains such a run; and list of str, what people should know.

  Returns:
    dict, the card that was written, and a head's under 'head'.
  """
  if dtype not in ("float16", "float32"):
    raise UserError(f"--dtype={dtype}: expected float16 or float32")
  mesh = make_mesh(jax.local_devices())
  model = Model(run, mesh)
  tested = database or next(iter(model.config["evaluation"]["databases"]), None)
  if tested is None:
    raise UserError(f"{run}: evaluates no database; name one to test the weights on: --head=DATABASE")
  source = open_database(tested, data_dir, model.config.get("score", "mos"))
  params, stats, _ = model.weights
  if "score" in model.outputs and model.config["split"] >= 0:
    outputs, mos, _ = _part(model, source, VALIDATION)
    if outputs:
      params, stats = model.method.calibrate(params, stats, outputs, mos)
  smaller = {"stats": {}, **_smaller({"params": params, "stats": stats}, dtype, model.method.training_only)}
  config = {key: value for key, value in model.config.items() if key not in PRIVATE}
  started = pathlib.Path(model.config.get("init_from") or "scratch").name
  card = {
    "method": model.name, "config": config | {"init_from": "", "data_dir": ""}, "dtype": dtype,
    "step": model.card.get("step"), "trained_on": trained_on(model.config),
    "from": model.card.get("from", f"trained by jiqa from {started}"),
  }  # fmt: skip
  card |= {key: value for key, value in {"recipe": recipe, "licence": licence, "notes": list(notes)}.items() if value}
  written = save_weights(out, **smaller, card=card)
  written_model = Model(out, mesh)
  if "score" in model.outputs:
    return save_weights(out, **smaller, card=card | _own_score(written_model, source, model.config))
  head = _fit_head(written_model, source, model.config)
  head.save(pathlib.Path(out) / heads.BESIDE)
  return {**written, "head": head.card}


def _facts(source, config, splits):
  return {
    "database": source.name, "label": source.label, "range": list(source.metadata["range"]),
    "protocol": config["evaluation"]["protocol"], "labels_sha256": source.metadata["labels_sha256"],
    "split_sha256": split_checksum(source.table, splits),
  }  # fmt: skip


def _part(model, source, part):
  """(outputs, mos on the scale of the score, splits) of one part of the split that a run left out."""
  splits = run_splits(model.config, source.table, source.name, model.config["evaluation"]["protocol"])[:1]
  positions = np.flatnonzero(splits[0] == part)
  mos = source.table.mos.to_numpy(np.float64)[positions]
  if model.method.score_range:
    (low, high), (lowest, highest) = source.metadata["range"], model.method.score_range
    mos = lowest + (mos - low) / (high - low) * (highest - lowest)
  return _predicted(model, source, positions, PARTS[part]) if len(positions) else {}, mos, splits


def _predicted(model, source, positions, what):
  """What a network predicts of records of a database, as the evaluation of its run shows them."""
  evaluation = model.config["evaluation"]
  (shown,) = views(model, evaluation, source)
  return predict_database(shown, source, positions, f"{source.name}, {what}", evaluation["pixels_per_batch"])


def _own_score(model, source, config):
  """What the card says of a method's own score: measures on the test part of the split that the run left out."""
  outputs, mos, splits = _part(model, source, TEST)
  score = outputs["score"].astype(np.float64)
  measured = {**protocol.measures(score, mos), **_agreement(score, mos)}
  if "score_std" in outputs:
    measured["within_90_percent_intervals"] = float((np.abs(score - mos) <= 1.645 * outputs["score_std"]).mean())
  return {"test": {"images": len(mos), "split": max(config["split"], 0), **measured, **_facts(source, config, splits)}}


def _agreement(score, mos):
  """Of pairs of images whose scores differ by about so many points, the share that people order the same way."""
  chosen = np.random.default_rng(0).permutation(len(mos))[:MOST_IMAGES]
  score, mos = score[chosen], mos[chosen]
  first, second = np.triu_indices(len(mos), 1)
  difference = score[first] - score[second]
  gap, agree = np.abs(difference), np.sign(difference * (mos[first] - mos[second]))
  shares = {}
  for points in (1, 2, 5, 10, 20, 40):
    near = (gap > 0.8 * points) & (gap < 1.2 * points) & (agree != 0)
    if near.sum() >= LEAST_PAIRS:
      shares[points] = round(float((agree[near] > 0).mean()), 3)
  return {"pairs_ordered_alike_by_points": shares} if shares else {}


def _fit_head(model, source, config):
  """The head of the first split of a database, as the run's evaluation would fit it.

  Its card has 'test' with its own measures on the test images, and 'median' with those over all splits.
  """
  if (split := config["split"]) >= 0:
    raise UserError(f"{model.folder}: gives features and was trained on split {split}; a head needs config.split=-1")
  table = source.table
  splits = run_splits(config, table, source.name, config["evaluation"]["protocol"])
  features = _predicted(model, source, np.arange(len(table)), "features")["features"]
  first, last, count = config["evaluation"]["alphas"]
  result = protocol.fit_heads(
    features, table.mos.to_numpy(), splits, np.geomspace(first, last, int(count)),
    groups=table.reference_name.to_numpy(), standardise=config["evaluation"].get("standardise", True),
  )  # fmt: skip
  measures = {key: getattr(result, key) for key in protocol.MEASURES}
  card = {
    "weights_sha256": model.card["weights_sha256"], "regressor": "ridge", **_facts(source, config, splits),
    "test": {"images": int((splits[0] == TEST).sum()), **{key: float(x[0]) for key, x in measures.items()}},
    "median": {"splits": len(splits), **{key: float(np.median(x)) for key, x in measures.items()}},
  }  # fmt: skip
  return protocol.head_of(result, 0, card)


def _smaller(trees, dtype, unread):
  """Nested dicts as NumPy arrays of `dtype`, without the paths that begin with one of `unread`."""
  flat = {path: np.asarray(leaf).astype(dtype) for path, leaf in flatten(trees).items() if not path.startswith(unread)}
  for path, leaf in flat.items():
    if not np.isfinite(leaf).all():
      raise UserError(f"{path}: holds numbers that {dtype} cannot; take float32")
  return unflatten(flat)
