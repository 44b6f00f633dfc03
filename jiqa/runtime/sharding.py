"""Devices as one mesh axis: the batch is split over it, everything else is replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def make_mesh(devices=None):
  """A mesh with the single axis `data` over all (or the given) devices.

  Axes are Auto: with the Explicit default of `jax.make_mesh`, products such as x @ x.T raise.
  """
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def over_batch(mesh):
  """Sharding of an array whose leading axis is the batch."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh):
  """Sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def put_batch(batch, mesh):
  """Moves this host's rows of a batch onto its devices as one global array per entry.

  Args:
    batch: dict of NumPy arrays [rows of this host, ...].
    mesh: from `make_mesh`.

  Returns:
    dict of global jax arrays [rows of all hosts, ...], sharded over the leading axis.
  """
  sharding = over_batch(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}
