"""The head of a metric: from its own file, or from what an evaluation left in a run."""

import json
import pathlib
import zipfile

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import head as heads

SUFFIX = ".safetensors"
BESIDE = "head" + SUFFIX  # in a folder of weights


def beside(folder):
  """The heads that lie in a folder of weights or in the working directory of a run.

  Args:
    folder: pathlib.Path.

  Returns:
    dict from name (of the database, in a run) to file.
  """
  own = {path.stem.removeprefix("head").lstrip("_") or "head": path for path in sorted(folder.glob(f"head*{SUFFIX}"))}
  return own | {path.stem.removeprefix("heads_"): path for path in sorted(folder.glob("heads_*.npz"))}


def read(path):
  """Reads a head.

  Args:
    path: file of `jiqa fit`; or heads_DATABASE.npz of a run, of which the first split's counts.

  Returns:
    evaluation.head.Head. Its card has 'weights_sha256' where it is known whose features it takes.

  Raises:
    UserError: there is no such file, or it holds something else.
  """
  path = pathlib.Path(path)
  return heads.Head(*_of_run(path, heads.ARRAYS)) if path.suffix == ".npz" else heads.load(path)


def _of_run(path, names):
  if not path.is_file():
    raise UserError(f"{path}: no such head; launch.py writes heads_DATABASE.npz at the end of a run")
  try:
    with np.load(path) as file:
      arrays = [file[name].astype(np.float64)[0] for name in names]
      card = {"regressor": "ridge", "alpha": float(file["alpha"][0])}
  except (KeyError, IndexError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f"{path}: holds no heads ({error}); run launch.py --mode=evaluate again") from error
  return [*arrays, {**card, **_facts(path), "split": 0, "direction": "higher is better"}]


def _facts(path):
  """What the results of the run say of the first split's head."""
  results = path.parent / "results.json"
  if not results.is_file():
    return {}
  try:
    told = json.loads(results.read_text())
    return _fact_sheet(told, path.name)
  except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
    raise UserError(f"{results}: is damaged ({error!r}); run launch.py --mode=evaluate again") from error


def _fact_sheet(told, file_name):
  for name, found in told["databases"].items():
    if f"heads_{name.replace('/', '_')}.npz" == file_name:
      train, validation, test = found["images"][0]
      return {
        "weights_sha256": told["weights_sha256"],
        "database": name,
        "label": found["label"],
        "images": train + validation,
        "test": {"images": test, **{key: found[key][0] for key in ("srcc", "krcc", "plcc", "rmse")}},
        **{key: found[key] for key in ("protocol", "split_sha256", "labels_sha256")},
      }
  return {}


def in_order(head, path, models):
  """The models in the order in which the head takes their features.

  Args:
    head: Head.
    path: its file, for the message.
    models: list of Model.

  Returns:
    list of Model.

  Raises:
    UserError: it was fitted to the features of other weights.
  """
  expected = head.card.get("weights_sha256")
  if expected is None:
    return models
  expected = expected.split("+") if isinstance(expected, str) else list(expected.values())
  own = {model.card["weights_sha256"]: model for model in models}
  if sorted(expected) != sorted(own):
    raise UserError(
      f"{path}: was fitted to features of the weights {' + '.join(expected)}, but these are {' + '.join(own)}; fit a "
      "head to these with `jiqa fit` (in a run that was trained on: launch.py --mode=evaluate), or name the weights it "
      "belongs to"
    )
  return [own[each] for each in expected]
