"""The loop after training: features of every image, a ridge regressor on them, correlations with the human scores."""

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import time

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import jiqa
from jiqa.data.batching import framed_batches
from jiqa.data.decode import decode_rgb
from jiqa.data.source import open_database
from jiqa.data.splits import assign
from jiqa.errors import UserError
from jiqa.evaluation import protocol, report
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh, put_batch
from jiqa.train import build, init_state, open_sources

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy", "pillow")


def features_of(method, state, database, mesh, pixels_per_batch, what):
  """The features of all images of a database, in its order.

  Args:
    method: see methods/base.py.
    state: State.
    database: random-access source of records with 'image' and 'image_name'.
    mesh: the devices.
    pixels_per_batch: bounds the memory of a batch.
    what: shown on the progress bar.

  Returns:
    [n, d] float32 NumPy array.
  """
  predict = jax.jit(method.predict)

  def items():
    for i in track(range(len(database)), what, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()):
      record = database[i]
      yield i, method.views(decode_rgb(record["image"], record["image_name"]))

  features = None
  for indices, batch in framed_batches(items(), pixels_per_batch, mesh.size):
    rows = np.asarray(predict(state, put_batch(batch, mesh))["features"])
    if features is None:
      features = np.empty((len(database), rows.shape[1]), np.float32)
    features[indices] = rows[: len(indices)]
  return features


def checksum(tree):
  """The first 16 hex digits of the SHA-256 of a tree of arrays, in the order of its sorted paths."""
  digest = hashlib.sha256()
  for path, leaf in sorted((jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)):
    digest.update(path.encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def split_checksum(names, splits):
  """Checksum of who is in which part, independent of the order of the records."""
  rows = sorted((name, *map(int, column)) for name, column in zip(names, splits.T, strict=True))
  return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
