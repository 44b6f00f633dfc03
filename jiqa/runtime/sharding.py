"""Devices as one mesh axis: the batch is split over it; the state is whole on every device, or split too."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SHARDINGS = ("replicated", "fsdp")
# Below this number of elements an array is cheaper to keep whole than to gather.
SMALL = 2**14


def make_mesh(devices=None):
  """A mesh with the single axis `data` over all (or the given) devices, those of one process side by side.

  So process i holds rows [i b / processes, (i + 1) b / processes) of a batch. Axes are Auto: with the Explicit default
  of `jax.make_mesh`, products such as x @ x.T raise.
  """
  devices = jax.devices() if devices is None else devices
  devices = sorted(devices, key=lambda device: (device.process_index, device.id))
  return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh):
  """Sharding of an array whose leading axis is the batch."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh):
  """Sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def fsdp_sharding(shape, mesh):
  """Sharding of an array of the state under 'fsdp': its largest axis that the devices divide evenly is split.

  Args:
    shape: tuple of int.
    mesh: from `make_mesh`.

  Returns:
    NamedSharding; whole on every device where the array is small or no axis can be split.
  """
  axes = [axis for axis, n in enumerate(shape) if n % mesh.size == 0]
  if np.prod(shape, dtype=np.int64) < SMALL or not axes:
    return replicated(mesh)
  axis = max(axes, key=lambda axis: shape[axis])
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def state_sharding(state, mesh, how):
  """Where the arrays of a state lie.

  Args:
    state: State, of arrays or of their shapes.
    mesh: from `make_mesh`.
    how: 'replicated'; or 'fsdp': parameters, optimiser state and whatever in `extra` is built like the parameters (a
      teacher, a key encoder) are split by `fsdp_sharding`, so that every device holds 1 / devices of them.

  Returns:
    State of NamedSharding.

  Raises:
    ValueError: on another `how`.
  """
  if how not in SHARDINGS:
    raise ValueError(f"config.sharding is {how!r}; expected {' or '.join(SHARDINGS)}")
  whole = jax.tree.map(lambda _: replicated(mesh), state)
  if how == "replicated":
    return whole
  split = jax.tree.map(lambda x: fsdp_sharding(x.shape, mesh), state)
  like_params = jax.tree.structure(state.params)
  extra = {
    name: split.extra[name] if jax.tree.structure(part) == like_params else whole.extra[name]
    for name, part in state.extra.items()
  }
  return whole.replace(params=split.params, opt_state=split.opt_state, extra=extra)


def put_batch(batch, mesh):
  """Moves this process's rows of a batch onto its devices as one global array per entry.

  Args:
    batch: dict of NumPy arrays [rows of this process, ...].
    mesh: from `make_mesh`.

  Returns:
    dict of global jax arrays [rows of all processes, ...], sharded over the leading axis.
  """
  sharding = batch_sharding(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}


def local_mesh(mesh):
  """The mesh of this process's devices among those of `mesh`."""
  return make_mesh([device for device in mesh.devices.flat if device.process_index == jax.process_index()])


def on_local_devices(state, mesh):
  """A state that this process can use without the others, whole on each of its devices.

  Args:
    state: State on the devices of all processes; every process must call this.
    mesh: its mesh.

  Returns:
    (State, mesh of this process's devices among them); the same ones where all is at hand and whole already.
  """
  own = local_mesh(mesh)
  if not all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state)):
    state = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(state)
  if own.size < mesh.size:
    state = jax.tree.map(lambda x: jax.device_put(np.asarray(x.addressable_data(0)), replicated(own)), state)
  return state, own
