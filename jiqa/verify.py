"""`jiqa verify RUN`: whether what a run has left is whole, and belongs together and to the data that are here."""

import json
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from jiqa.data.source import open_database
from jiqa.errors import UserError
from jiqa.inference import heads
from jiqa.inference.loading import read_weights
from jiqa.inference.validation import BEST
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from jiqa.runtime.workdir import read_config
from jiqa.train import build, build_optimizer, init_state
from jiqa.weights.store import checksum


def verify(run, data_dir=None):
  """Checks the folder of a run: yields (what, problem) part by part, problem '' where it is as it should be.

  Its databases lie in `data_dir`; None: where its config says. A UserError where there is no run, or its config cannot
  be read: then nothing else can be checked.
  """
  run = pathlib.Path(run)
  if not (run / "config.json").is_file():
    raise UserError(f"{run}: no config.json; expected the --workdir of a run")
  config = read_config(run / "config.json")
  yield "config.json", ""
  for name, expected in config.get("data_sha256", {}).items():
    yield f"data {name}", _problem(_check_data, config, name, expected, data_dir)
  if (run / "metrics.jsonl").exists():
    yield "metrics.jsonl", _problem(_check_lines, run / "metrics.jsonl")
  # Else heads were fitted to features of weights that lie elsewhere.
  trained = "steps" in config or (run / "checkpoints").exists()
  if trained:
    entries = [ConfigDict(entry) for entry in config.get("data", ())]
    yield from _checkpoints(run, ConfigDict({**config, "data": entries}))
  for path in sorted(run.glob("head*.safetensors")):
    yield path.name, _problem(heads.read, path)
  for path in sorted(run.glob("*.npz")):
    yield path.name, _problem(_check_arrays, path)
  if (run / "results.json").exists():
    yield "results.json", _problem(_check_results if trained else _check_heads_of_results, run)


def _problem(check, *args):
  try:
    problem = check(*args)
    return problem if isinstance(problem, str) else ""
  except UserError as error:
    return str(error)


def _check_data(config, name, expected, data_dir):
  metadata = open_database(name, data_dir or config["data_dir"] or None, config.get("score", "mos")).metadata
  if metadata["labels_sha256"] != expected:
    return f"its labels have checksum {metadata['labels_sha256']}, the run used {expected}: prepare the same release"


def _check_lines(path):
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      json.loads(line)
    except ValueError as error:
      return f"line {number} is no JSON ({error})"


def _checkpoints(run, config):
  """Reads every checkpoint and compares its arrays with the checksums that were saved with them."""
  config.init_from = ""  # which need not be there any more
  try:
    method = build(config, make_mesh())
    tx, _, _ = build_optimizer(config, config.batch_size * (1 if config.steps else 10**5))
    like = init_state(config, method, tx, method.mesh)
  except (UserError, AttributeError, KeyError) as error:
    yield "checkpoints", f"the config does not fit this version of jiqa ({error})"
    return
  if not any((run / "checkpoints").glob("[0-9]*")):
    yield "checkpoints", "there is none: start the run's command again"
  for name in ("checkpoints", BEST):
    if (run / name).is_dir():
      with Checkpoints(run / name) as saved:
        for step in saved.steps():
          problem = saved.damage(step, like)
          yield f"{name}/{step}", problem and f"is damaged, or does not fit the configured model ({problem})"


def _check_arrays(path):
  if path.name.startswith("heads_"):
    heads.read(path)
  try:
    with np.load(path) as file:
      for name in file.files:
        file[name]
  except Exception as error:  # what zipfile, zlib and NumPy raise has no common type
    return f"cannot be read ({error}); run launch.py --mode=evaluate again"


def _check_heads_of_results(run):
  again = "start the run's command again"
  try:
    databases = json.loads((run / "results.json").read_bytes())["databases"].values()
    missing = [result["head"] for result in databases if not (run / result["head"]).is_file()]
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    return f"is damaged ({error!r}); {again}"
  return f"names the head {missing[0]}, which is not there; {again}" if missing else ""


def _check_results(run):
  try:
    results = json.loads((run / "results.json").read_bytes())
    step, expected = results["step"], results["weights_sha256"]
  except (ValueError, LookupError, TypeError) as error:
    return f"is damaged ({error!r}); run launch.py --mode=evaluate again"
  params, stats, card = read_weights(run)
  if card["step"] != step:
    return f"is of step {step}, the checkpoint that predicts is of step {card['step']}: run launch.py --mode=evaluate"
  if (actual := checksum(*jax.tree.map(np.asarray, (params, stats)))) != expected:
    return f"is of weights {expected}, those of step {step} are {actual}: run launch.py --mode=evaluate again"
