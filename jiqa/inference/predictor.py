"""Predictions for a whole database: what validation during training and the evaluation after it have in common."""

import sys

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from jiqa.data.decode import decode_rgb
from jiqa.inference.buckets import bucketed_batches
from jiqa.runtime.distributed import all_gather_rows, is_main
from jiqa.runtime.sharding import on_local_devices, put_batch


class Predictor:
  """A method's jitted prediction; compiles once per frame, however many states and databases it is used for.

  Args:
    method: see methods/base.py.
    mesh: the devices.
    pixels_per_batch: bounds the memory of a batch.
  """

  def __init__(self, method, mesh, pixels_per_batch):
    self.method, self.mesh, self.pixels_per_batch = method, mesh, pixels_per_batch
    self._prepare, self._predict = jax.jit(method.prepare), jax.jit(method.predict)

  def __call__(self, state, database, positions, what):
    """Predicts records of a database.

    Of several processes each predicts every so many-th record on its own devices, so that they need not agree on
    frames, and all get all rows.

    Args:
      state: State.
      database: random-access source of records with 'image' and 'image_name'.
      positions: [n] int, the records wanted.
      what: shown on the progress bar.

    Returns:
      dict of NumPy arrays [n, ...], rows in the order of `positions`.
    """
    # Prepared by all processes together, which may share that work out among their devices.
    state, own = on_local_devices(self._prepare(state), self.mesh)
    # As many for every process: the last is predicted again where they do not divide evenly.
    padded = np.pad(positions, (0, -len(positions) % jax.process_count()), mode="edge")
    mine = padded[jax.process_index() :: jax.process_count()]

    def items():
      hidden = not (is_main() and sys.stderr.isatty())
      for i in track(range(len(mine)), what, console=Console(file=sys.stderr), disable=hidden):
        record = database[int(mine[i])]
        yield i, self.method.preprocess_eval(decode_rgb(record["image"], record["image_name"]))

    outputs = {}
    for indices, batch in bucketed_batches(items(), self.pixels_per_batch, own.size):
      for name, rows in self._predict(state, put_batch(batch, own)).items():
        rows = np.asarray(rows)
        if name not in outputs:
          outputs[name] = np.empty((len(mine), *rows.shape[1:]), rows.dtype)
        outputs[name][indices] = rows[: len(indices)]
    return all_gather_rows(outputs, len(positions))
