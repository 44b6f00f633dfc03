"""Small weights that can be given away: a run's network and a head as a folder, with what they are worth."""

import dataclasses
import pathlib

import jax
import numpy as np

from jiqa.data.source import open_database
from jiqa.data.splits import assign
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import protocol, regression
from jiqa.inference import heads as head_files
from jiqa.inference.card import trained_on
from jiqa.inference.inputs import Item
from jiqa.inference.metric import Metric
from jiqa.inference.model import Model
from jiqa.runtime.sharding import make_mesh
from jiqa.weights.store import flatten, save_weights, unflatten

MEASURES = ("srcc", "krcc", "plcc", "rmse", "mae")
# Of the config, paths of a machine; the rest says how to build the network and how it was trained.
PRIVATE = ("data_dir", "init_from", "data_sha256")


def package(run, out, *, database, dtype="float16", data_dir=None, recipe=None, licence=None):
  """Writes a folder of weights from a run, with a head fitted to the features of exactly what was written.

  Args:
    run: the --workdir of a finished run.
    out: folder to write: weights.safetensors, card.json, head.safetensors.
    database: that the head is fitted to, on the splits of the run's evaluation; its training has left out what they
      test on only if it is one of the run's own databases.
    dtype: float16 or float32, of the stored numbers.
    data_dir: where the prepared database lies; None: the default.
    recipe: command that trains such a run, for the card.
    licence: for the card.

  Returns:
    dict, the card that was written, and the head's under 'head'.

  Raises:
    UserError: the database is not prepared, or the run's method gives no features.
  """
  if dtype not in ("float16", "float32"):
    raise UserError(f"--dtype={dtype}: expected float16 or float32")
  mesh, source = make_mesh(jax.local_devices()), open_database(database, data_dir)
  model = Model(run, mesh)
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
  head = fit_head(Metric([Model(out, mesh)], None, mesh, {}), source, model.config)
  head.save(pathlib.Path(out) / head_files.BESIDE)
  return {**written, "head": head.card}


def fit_head(metric, source, config):
  """The head of the first split of a database, as the run's evaluation would fit it.

  Args:
    metric: Metric of one network that gives features.
    source: Database.
    config: dict, of the run.

  Returns:
    Head; its card has 'test' with its own measures on the test images, and 'median' with those over all splits.
  """
  metric.check_features()
  wanted, table = config["evaluation"], source.table
  splits = assign(
    table, source.name, wanted["protocol"], num_splits=wanted["splits"], seed=config["seed"],
    fractions=tuple(wanted["fractions"]),
  )  # fmt: skip
  features = None
  records = (source[i] for i in range(len(table)))
  for found in metric.stream(Item(record["image_name"], record["image"]) for record in records):
    if found.error:
      raise UserError(found.error)
    row = found.outputs["features"]
    features = np.empty((len(table), len(row)), row.dtype) if features is None else features
    features[found.index] = row
  first, last, count = wanted["alphas"]
  references = table.reference_name.to_numpy()
  result = protocol.in_database(
    features, table.mos.to_numpy(), splits, np.geomspace(first, last, int(count)), groups=references
  )
  test = {"images": int((splits[0] == protocol.TEST).sum()), **{k: float(getattr(result, k)[0]) for k in MEASURES}}
  facts = {
    "weights_sha256": metric.weights_sha256, "regressor": "ridge", "database": source.name,
    "label": source.metadata["score"], "range": list(source.metadata["range"]), "protocol": wanted["protocol"],
    "labels_sha256": source.metadata["labels_sha256"], "split_sha256": split_checksum(table, splits),
    "median": {"splits": len(splits), **{k: float(np.median(getattr(result, k))) for k in MEASURES}},
  }  # fmt: skip
  head = regression.of_split(result, 0, facts)
  return dataclasses.replace(head, card={**head.card, "test": test})


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
