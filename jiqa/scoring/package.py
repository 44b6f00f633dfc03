"""Small weights that can be given away: a run's network and one of its heads as a folder, with what they are worth."""

import pathlib

import jax
import numpy as np

from jiqa.data.source import open_database
from jiqa.data.splits import assign
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import head as heads
from jiqa.evaluation import protocol
from jiqa.runtime.sharding import make_mesh
from jiqa.scoring import head as head_files
from jiqa.scoring.card import trained_on
from jiqa.scoring.metric import Metric
from jiqa.scoring.model import Model
from jiqa.scoring.pictures import Item
from jiqa.weights.store import flatten, save_weights, unflatten

# Of the config, what says how to build the network and how it was trained; paths of a machine are left out.
PRIVATE = ("data_dir", "init_from", "data_sha256")


def package(run, out, *, database, dtype="float16", data_dir=None, recipe=None, licence=None):
  """Writes a folder of weights from a run, and scores its test images anew with what was written.

  Args:
    run: the --workdir of a finished run.
    out: folder to write: weights.safetensors, card.json, head.safetensors.
    database: whose head goes with it; the run's evaluation has fitted one.
    dtype: float16 or float32, of the stored numbers.
    data_dir: where the prepared database lies; None: the default.
    recipe: command that trains such a run, for the card.
    licence: for the card.

  Returns:
    dict, the card of the metric that was written.

  Raises:
    UserError: the run has no such head, or the database is not prepared.
  """
  if dtype not in ("float16", "float32"):
    raise UserError(f"--dtype={dtype}: expected float16 or float32")
  mesh = make_mesh(jax.local_devices())
  model = Model(run, mesh)
  stem = database.replace("/", "_")
  if stem not in model.heads:
    raise UserError(f"{run}: has no head for {database}; it has {', '.join(model.heads) or 'none'}")
  params, stats = (
    smaller(tree, dtype, name, model.method.training_only)
    for name, tree in (("params", model.state.params), ("stats", model.state.stats))
  )
  config = {key: value for key, value in model.config.items() if key not in PRIVATE}
  card = {
    "method": model.name, "config": config | {"init_from": "", "data_dir": ""}, "dtype": dtype,
    "step": model.card.get("step"), "trained_on": trained_on(model.config), "from": "trained from scratch by jiqa",
  }  # fmt: skip
  card |= {key: value for key, value in {"recipe": recipe, "licence": licence}.items() if value}
  written = save_weights(out, params, stats, card)
  head = head_files.read(model.heads[stem])
  source = open_database(database, data_dir)
  facts = {"weights_sha256": written["weights_sha256"], "range": list(source.metadata["range"])}
  head = heads.Head(head.weights, head.mean, head.scale, head.intercept, {**head.card, **facts})
  small = Model(out, mesh)
  test = measure(Metric([small], head, mesh, {}), source, model.config)
  if test["split_sha256"] != head.card.get("split_sha256", test["split_sha256"]):
    raise UserError(
      f"{database}: its splits are not those of the run's evaluation; run launch.py --mode=evaluate again"
    )
  del test["split_sha256"]
  heads.Head(head.weights, head.mean, head.scale, head.intercept, {**head.card, "test": test}).save(
    pathlib.Path(out) / head_files.BESIDE
  )
  return {**written, "head": {**head.card, "test": test}}


def smaller(tree, dtype, name, unread):
  """A tree as NumPy arrays of `dtype`, without what predictions do not read.

  Args:
    tree: nested dict of arrays.
    dtype: name of the type.
    name: what stands before its paths in `unread`.
    unread: beginnings of paths.

  Returns:
    nested dict of NumPy arrays.

  Raises:
    UserError: a number is too large for the type.

  Example:
    >>> smaller({"encoder": {"a": np.ones(1)}, "head": {"b": np.ones(1)}}, "float16", "params", ("params/head",))
    {'encoder': {'a': array([1.], dtype=float16)}}
  """
  flat = {
    path: np.asarray(leaf).astype(dtype)
    for path, leaf in flatten(tree).items()
    if not f"{name}/{path}".startswith(tuple(unread))
  }
  for path, leaf in flat.items():
    if not np.isfinite(leaf).all():
      raise UserError(f"{name}/{path}: holds numbers that {dtype} cannot; take float32")
  return unflatten(flat)


def measure(metric, source, config):
  """How well scores agree with the human ones on the test images of the run's first split.

  Args:
    metric: Metric.
    source: Database.
    config: dict, of the run.

  Returns:
    dict: 'images', 'srcc', 'krcc', 'plcc', 'rmse', 'mae', 'split_sha256' (of all splits).
  """
  wanted = config["evaluation"]
  splits = assign(
    source.table, source.name, wanted["protocol"], num_splits=wanted["splits"], seed=config["seed"],
    fractions=tuple(wanted["fractions"]),
  )  # fmt: skip
  positions = np.flatnonzero(splits[0] == protocol.TEST)
  scores = np.full(len(positions), np.nan)
  records = (source[int(i)] for i in positions)
  for found in metric.stream(Item(record["image_name"], record["image"]) for record in records):
    if found.error:
      raise UserError(found.error)
    scores[found.index] = found.outputs["score"]
  measured = protocol.measures(scores, source.table.mos.to_numpy()[positions])
  return {
    "images": len(positions),
    **{key: float(value) for key, value in measured.items()},
    "split_sha256": split_checksum(source.table, splits),
  }
