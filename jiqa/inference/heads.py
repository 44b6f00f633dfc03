"""The head of a metric: from its own file, or from what an evaluation left in a run."""

import json
import pathlib

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import head as head_files

SUFFIX = ".safetensors"
BESIDE = "head" + SUFFIX  # in a folder of weights
JOINED = "+"  # between the checksums of several networks
CONCAT = "concat"  # their features side by side, as one that a head can be fitted to
MEASURES = ("srcc", "krcc", "plcc", "rmse")


def beside(folder):
  """The heads in a folder of weights or the workdir of a run: dict from name (in a run the database's) to file."""
  files = {path.stem.removeprefix("head").lstrip("_") or "head": path for path in sorted(folder.glob(f"head*{SUFFIX}"))}
  return files | {path.stem.removeprefix("heads_"): path for path in sorted(folder.glob("heads_*.npz"))}


def read(path):
  """Reads a `Head` from a file of `jiqa fit`, or from heads_DATABASE.npz of a run, of which the first split's counts.

  Its card has 'weights_sha256' where it is known whose features it takes. A UserError where there is no head.
  """
  path = pathlib.Path(path)
  return _of_run(path) if path.suffix == ".npz" else head_files.load(path)


def _of_run(path):
  if not path.is_file():
    raise UserError(f"{path}: no such head; launch.py writes heads_DATABASE.npz at the end of a run")
  facts = _facts(path)
  try:
    with np.load(path) as file:
      arrays = [file[name].astype(np.float64)[0] for name in head_files.ARRAYS]
      card = {"regressor": "ridge", "alpha": float(file["alpha"][0])}
    return head_files.Head(*arrays, {**card, **facts, "split": 0, "direction": "higher is better"})
  except Exception as error:  # what zipfile, zlib and NumPy raise has no common type
    raise UserError(f"{path}: holds no heads ({error}); run launch.py --mode=evaluate again") from error


def _facts(path):
  """What the results of the run say of the first split's head."""
  file = path.parent / "results.json"
  if not file.is_file():
    return {}
  try:
    results = json.loads(file.read_text())
    for name, result in results["databases"].items():
      if f"heads_{name.replace('/', '_')}.npz" == path.name:
        train, validation, test = result["images"][0]
        facts = {key: result[key] for key in ("label", "protocol", "split_sha256", "labels_sha256")}
        facts |= {"weights_sha256": results["weights_sha256"], "database": name, "images": train + validation}
        return facts | {"test": {"images": test, **{key: result[key][0] for key in MEASURES}}}
  except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
    raise UserError(f"{file}: is damaged ({error!r}); run launch.py --mode=evaluate again") from error
  return {}


def in_order(head, path, models):
  """The models in the order in which a head, read from `path`, takes their features.

  A UserError where it was fitted to the features of other weights.
  """
  expected = head.card.get("weights_sha256")
  if expected is None:
    return models
  expected = expected.split(JOINED) if isinstance(expected, str) else list(expected.values())
  by_checksum = {model.card["weights_sha256"]: model for model in models}
  if sorted(expected) != sorted(by_checksum):
    raise UserError(
      f"{path}: was fitted to features of the weights {' + '.join(expected)}, but these are {' + '.join(by_checksum)}; "
      "fit a head to these with `jiqa fit` (in a run that was trained on: launch.py --mode=evaluate), or name the "
      "weights it belongs to"
    )
  return [by_checksum[each] for each in expected]
