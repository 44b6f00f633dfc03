"""Folders that a metric can be built from: weights with a card, or the working directory of a training run."""

import importlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

from jiqa.errors import UserError
from jiqa.inference import heads
from jiqa.weights.store import CARD, load_weights

RUN_CONFIG = "config.json"
# Networks of published checkpoints: method, config file and variant, and the keys of the card that the config takes.
PUBLISHED = {
  ("reiqa", "quality"): ("configs.reiqa", "quality", ("depth", "width", "embedding")),
  ("reiqa", "content"): ("configs.reiqa", "content", ("depth", "width", "embedding")),
  ("liqe", None): ("configs.liqe", None, ("prompt",)),
  ("lml", None): ("configs.lml", None, ()),
}


class Found(NamedTuple):
  """What a folder holds.

  Attributes:
    folder: pathlib.Path.
    config: dict of plain values, of the run that trained the weights.
    params, stats: nested dicts of NumPy arrays.
    extra: the same for what else the state carries; None where it was not saved.
    card: dict of plain values: where the weights are from.
    heads: dict from name to the file of a head that lies in the folder.
  """

  folder: pathlib.Path
  config: dict
  params: dict
  stats: dict
  extra: dict | None
  card: dict
  heads: dict


def find(folder):
  """Reads a folder of weights or the working directory of a run.

  Args:
    folder: path.

  Returns:
    Found.

  Raises:
    UserError: it is neither, or is damaged.
  """
  folder = pathlib.Path(folder)
  if folder.is_file():
    raise UserError(
      f"{folder}: is a file; expected a folder of weights or of a run. A published checkpoint becomes one with "
      "`jiqa convert SOURCE FILE OUT`; `jiqa convert list` shows the sources."
    )
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder; expected a folder of weights (with {CARD}) or the --workdir of a run")
  if (folder / CARD).is_file():
    return _folder_of_weights(folder)
  if (folder / RUN_CONFIG).is_file():
    return _run(folder)
  raise UserError(
    f"{folder}: neither a folder of weights ({CARD} is missing) nor the --workdir of a run ({RUN_CONFIG} is missing)"
  )


def _folder_of_weights(folder):
  params, stats, card = load_weights(folder)
  if "config" in card:
    config = card["config"]
  else:
    config = _published_config(folder, card)
  # Kept in half precision to be small; computed with in single precision.
  params, stats = (_single_precision(tree) for tree in (params, stats))
  return Found(folder, config, params, stats, None, card, heads.beside(folder))


def _single_precision(tree):
  if isinstance(tree, dict):
    return {key: _single_precision(value) for key, value in tree.items()}
  return tree.astype(np.float32) if tree.dtype == np.float16 else tree


def _published_config(folder, card):
  kind = (card.get("model"), card.get("expert"))
  if kind not in PUBLISHED:
    known = ", ".join(" ".join(filter(None, each)) for each in PUBLISHED)
    raise UserError(
      f"{folder / CARD}: has no entry 'config', and model {kind[0]!r}, expert {kind[1]!r} is none of {known}; these "
      "weights start a training (--config.init_from) but give no scores themselves"
    )
  module, variant, taken = PUBLISHED[kind]
  get_config = importlib.import_module(module).get_config
  config = json.loads((get_config(variant) if variant else get_config()).to_json_best_effort())
  # Published weights are float32; half precision would be seen in the third digit of a score.
  return config | {key: card[key] for key in taken} | ({"dtype": "float32"} if "dtype" in config else {})


def _run(folder):
  from jiqa.runtime.checkpoint import read_arrays  # Orbax takes long to import

  try:
    config = json.loads((folder / RUN_CONFIG).read_text())
  except ValueError as error:
    raise UserError(f"{folder / RUN_CONFIG}: is damaged ({error})") from error
  which = "best" if config.get("evaluation", {}).get("checkpoint") == "best" else "newest"
  directory = folder / {"best": "best", "newest": "checkpoints"}[which]
  step, saved = read_arrays(directory)
  card = {"run": folder.name, "step": step, "checkpoint": which}
  return Found(folder, config, saved["params"], saved["stats"], saved["extra"], card, heads.beside(folder))
