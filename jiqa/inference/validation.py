"""Validation during training: keeps the state whose scores agree best with the human scores of the validation part."""

import numpy as np

from jiqa.data.source import open_database
from jiqa.data.splits import VALIDATION, run_splits
from jiqa.errors import UserError
from jiqa.evaluation.correlation import srcc
from jiqa.inference.predictor import Network, predict_database
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.distributed import from_main

BEST = "best"


class Validation:
  """Evaluates states on the validation parts of the run's databases; the test parts are not looked at.

  The method must predict 'score'; the best state is kept in the folder `best` of the workdir. Raises a UserError where
  the run has no split, or a validation part is too small.
  """

  def __init__(self, config, method, mesh, workdir):
    if config.split < 0:
      raise UserError("config.validate_every is set, but config.split is -1: there is no split to validate on")
    self._method, self._mesh, self._programs = method, mesh, None
    self._parts, self._pixels = {}, config.evaluation.pixels_per_batch
    for name in config.evaluation.databases:
      database = open_database(name, config.data_dir or None, config.get("score", "mos"))
      positions = np.flatnonzero(run_splits(config, database.table, name, config.evaluation.protocol)[0] == VALIDATION)
      if len(positions) < 3:
        raise UserError(f"{name}: split {config.split} has {len(positions)} validation image(s); at least 3 are needed")
      self._parts[name] = (database, positions)
    self._directory = workdir / BEST

  def evaluate(self, step, state, log):
    """Logs the SRCC of every validation part and their mean, and keeps the state if the mean is the best so far."""
    network = Network.of_state(self._method, state, self._mesh, self._programs)
    self._programs = network.programs
    measured = {}
    for name, (database, positions) in self._parts.items():
      scores = predict_database(network, database, positions, f"{name}, validation", self._pixels)["score"]
      measured[name] = float(srcc(scores, database.table.mos.to_numpy()[positions]))
    # The processes must agree on whether it is the best, to the last bit.
    mean = from_main(float(np.mean(list(measured.values()))))
    log.note(step, {"validation_srcc": mean, **{f"validation_srcc/{name}": x for name, x in measured.items()}})
    if not np.isfinite(mean):  # a constant score has no rank correlation; it is never the best
      return
    with Checkpoints(self._directory, keep=1, best="srcc") as best:
      kept = best.best_metrics() or {"srcc": -np.inf}
      if mean > from_main(kept["srcc"]):
        best.save(step, state, {"srcc": mean})
