"""Predictions for a whole database: what validation during training and the evaluation after it have in common."""

import sys

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from jiqa.data.batching import framed_batches
from jiqa.data.decode import decode_rgb
from jiqa.runtime.sharding import put_batch


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

    Args:
      state: State.
      database: random-access source of records with 'image' and 'image_name'.
      positions: [n] int, the records wanted.
      what: shown on the progress bar.

    Returns:
      dict of NumPy arrays [n, ...], rows in the order of `positions`.
    """
    state = self._prepare(state)

    def items():
      hidden = not sys.stderr.isatty()
      for i in track(range(len(positions)), what, console=Console(file=sys.stderr), disable=hidden):
        record = database[int(positions[i])]
        yield i, self.method.views(decode_rgb(record["image"], record["image_name"]))

    outputs = {}
    for indices, batch in framed_batches(items(), self.pixels_per_batch, self.mesh.size):
      for name, rows in self._predict(state, put_batch(batch, self.mesh)).items():
        rows = np.asarray(rows)
        if name not in outputs:
          outputs[name] = np.empty((len(positions), *rows.shape[1:]), rows.dtype)
        outputs[name][indices] = rows[: len(indices)]
    return outputs
