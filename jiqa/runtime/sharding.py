"""Devices as one mesh axis: a batch is sharded over it; a state is replicated, or sharded too."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from jiqa.errors import UserError

SHARDINGS = ("replicated", "fsdp")
# Arrays of fewer elements are cheaper to replicate than to gather.
SMALL = 2**14


def check_devices():
  """Raises a UserError where jax has no device, such as JAX_PLATFORMS=cuda without its build for CUDA."""
  try:
    jax.devices()
  except Exception as error:  # RuntimeError, AssertionError, ... by the version
    message = f"jax finds no device for JAX_PLATFORMS={jax.config.jax_platforms!r}; install its build for it, as in"
    reason = str(error) or type(error).__name__
    raise UserError(f"{message} pip install 'jax[cuda12]', or set JAX_PLATFORMS=cpu ({reason})"[:500]) from error


def make_mesh(devices=None):
  """A mesh with the single axis `data` over all (or the given) devices.

  Devices of one process stand side by side: process i holds rows [i b / processes, (i + 1) b / processes) of a batch.
  """
  devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
  # With Explicit axes, the default of `jax.make_mesh`, products such as x @ x.T raise.
  return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh):
  """Sharding of an array whose leading axis is the batch."""
  return NamedSharding(mesh, jax.P("data"))


def replicated(mesh):
  """Sharding of an array that every device holds whole."""
  return NamedSharding(mesh, jax.P())


def fsdp_sharding(shape, mesh):
  """Over the largest axis that the devices divide evenly; small arrays, and those without such an axis, replicated."""
  axes = [axis for axis, n in enumerate(shape) if n % mesh.size == 0]
  if np.prod(shape, dtype=np.int64) < SMALL or not axes:
    return replicated(mesh)
  axis = max(axes, key=lambda axis: shape[axis])
  return NamedSharding(mesh, jax.P(*[None] * axis, "data"))


def state_sharding(state, mesh, how):
  """State of the NamedShardings of a State of arrays, or of their shapes; `how` is one of SHARDINGS.

  'fsdp' shards parameters, optimiser state and whatever in `extra` is built like the parameters (a teacher, a key
  encoder) by `fsdp_sharding`.
  """
  whole = jax.tree.map(lambda _: replicated(mesh), state)
  if how == "replicated":
    return whole
  sharded = jax.tree.map(lambda x: fsdp_sharding(x.shape, mesh), state)
  like_params = jax.tree.structure(state.params)
  extra = whole.extra | {k: sharded.extra[k] for k, x in state.extra.items() if jax.tree.structure(x) == like_params}
  return sharded.replace(step=whole.step, stats=whole.stats, extra=extra)


def put_batch(batch, mesh):
  """This process's rows of a batch, dict of NumPy arrays, as global arrays sharded over the leading axis."""
  return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


def local_mesh(mesh):
  """The mesh of this process's devices among those of `mesh`."""
  return make_mesh([device for device in mesh.devices.flat if device.process_index == jax.process_index()])


def on_local_devices(tree, mesh):
  """A tree of arrays replicated over this process's devices of `mesh`; every process must call this."""
  local = local_mesh(mesh)
  if not all(x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)):
    tree = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
  if local.size < mesh.size:
    tree = jax.tree.map(lambda x: jax.device_put(np.asarray(x.addressable_data(0)), replicated(local)), tree)
  return tree
