"""Checkpoints of the whole State through Orbax: asynchronous, atomic, checked, the newest few kept."""

import contextlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jiqa.errors import UserError, brief
from jiqa.runtime.distributed import from_main, is_main
from jiqa.runtime.workdir import as_path

# What the runtime says when it waits in vain for the coordinator or another process.
GONE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")


class Checkpoints(contextlib.AbstractContextManager):
  """The checkpoints of one run, `DIRECTORY/STEP`: `keep` of the newest, or of those with the largest metric `best`.

  Orbax writes under a temporary name and renames: a process killed while saving leaves the checkpoints before intact
  and nothing that could be mistaken for a new one. Every process of a run must call the same functions.
  """

  def __init__(self, directory, keep=2, best=None):
    self.directory = as_path(directory)
    choice = {"best_fn": lambda metrics: metrics[best], "best_mode": "max"} if best else {}
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, **choice)
    self._manager = ocp.CheckpointManager(self.directory, options=options)
    self._damaged = set()

  def steps(self):
    """The saved steps, the newest first, without those that `restore` has found damaged."""
    return sorted(set(self._manager.all_steps()) - self._damaged, reverse=True)

  def latest_step(self):
    """The newest of them, or None."""
    return max(self.steps(), default=None)

  def restore(self, like):
    """The newest state that can be read, with the shardings of `like`; None if nothing is saved.

    A damaged checkpoint is passed over with a warning, and replaced when one is saved again; a UserError if none can be
    read, or what is saved has another structure than `like`.
    """
    failures, several = {}, jax.process_count() > 1
    for step in self.steps():
      # Where several read at once, one that fails leaves the others waiting for it: first the main process reads all.
      if several and (message := from_main(self.damage(step, like) if is_main() else "")):
        failures[step] = message
        continue
      try:
        state = self._read(step, like)
      except Exception as error:  # what a damaged file makes the readers raise has no common type
        if several:
          raise UserError(
            f"{self.directory / str(step)}: process {jax.process_index()} cannot read this checkpoint "
            f"({brief(error)}), which process 0 alone could. Let all see the same files, and start them again."
          ) from error
        failures[step] = brief(error)
        continue
      self._damaged |= set(failures)
      if is_main():
        for damaged, message in failures.items():
          place = self.directory / str(damaged)
          print(f"warning: {place} is damaged ({message}); going on from step {step}", file=sys.stderr)
      return state
    if not failures:
      return None
    newest, message = next(iter(failures.items()))
    raise UserError(
      f"{self.directory / str(newest)}: this checkpoint does not fit the configured model, or is damaged "
      f"({message}); so are all older ones. Use another --workdir, or the config the run was started with."
    )

  def damage(self, step, like):
    """What is wrong with the checkpoint of a step, '' where it is whole; `like` as for `restore`.

    This process reads the whole state by itself, as NumPy arrays.
    """
    folder = self.directory / str(step)
    try:
      state = _as_numpy(folder, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
      saved, expected = ([x.shape for x in jax.tree.leaves(tree)] for tree in (state, like))
      if saved != expected:
        raise ValueError(f"its arrays are of shapes {saved}, expected {expected}")
      _compare(json.loads((folder / "digest" / "metadata").read_text()), digest(state))
    except Exception as error:  # as in `restore`
      return brief(error)
    return ""

  def _read(self, step, like):
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    parts = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), digest=ocp.args.JsonRestore())
    restored = self._manager.restore(step, args=parts)
    _compare(restored.digest, digest(restored.state))
    return restored.state

  def best_metrics(self):
    """The metrics that the best checkpoint was saved with; None if nothing is saved."""
    step = self._manager.best_step()
    return None if step is None else dict(self._manager.metrics(step))

  def save(self, step, state, metrics=None):
    """Starts saving a state, and a dict of floats where the best are kept; the arrays may be donated at once.

    Raises a UserError if this or the checkpoint before cannot be written.
    """
    for damaged in self._damaged:
      self._manager.delete(damaged)
    self._damaged = set()
    if step != self._manager.latest_step():
      parts = ocp.args.Composite(state=ocp.args.StandardSave(state), digest=ocp.args.JsonSave(digest(state)))
      with self._writing():
        self._manager.save(step, args=parts, metrics=metrics)

  def wait(self):
    """Returns when everything is on disk; raises a UserError if it cannot be written."""
    with self._writing():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _writing(self):
    try:
      yield
    except Exception as error:  # disks, buckets and the writers between them raise what they like
      self._manager.reload()
      cure = "Make room or put right what the message says"
      if jax.process_count() > 1 and any(word in str(error) for word in GONE):
        cure = "Another process of the run is gone: start all of them again"
      raise UserError(
        f"{self.directory}: a checkpoint could not be written ({brief(error)}). The last complete one is step "
        f"{self.latest_step()}. {cure}; the same command then goes on from there."
      ) from error

  def __exit__(self, kind, *_):
    if kind is None:
      self.wait()
    self._manager.close()


def read_arrays(directory):
  """The newest checkpoint of a run's folder `checkpoints` or `best` as NumPy arrays, whatever devices wrote it.

  Returns (step, dict with 'params', 'stats' and 'extra'); all keys of the trees are text, also places in lists. Raises
  a UserError if there is none, or it is damaged.
  """
  steps = [int(path.name) for path in directory.iterdir() if path.name.isdigit()] if directory.is_dir() else []
  if not steps:
    raise UserError(f"{directory}: no complete checkpoint; run the same launch.py command again to train on")
  newest = directory.resolve() / str(max(steps))
  try:
    tree = ocp.PyTreeCheckpointHandler().metadata(newest / "state").tree
    parts = {key: tree.get(key, {}) for key in ("params", "stats", "extra")}
    saved = _as_numpy(newest, parts)
  except Exception as error:  # what a damaged file makes the readers raise has no common type
    raise UserError(
      f"{newest}: this checkpoint is damaged ({brief(error)}); delete it to use the one before"
    ) from error
  return max(steps), {key: saved.get(key) or {} for key in parts}


def _as_numpy(folder, like):
  """The parts of a checkpoint's state that are in `like`, as NumPy arrays; read by this process alone."""
  process = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})
  types = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
  args = ocp.args.PyTreeRestore(like, restore_args=types, partial_restore=True)
  return ocp.PyTreeCheckpointHandler(multiprocessing_options=alone).restore(folder / "state", args=args)


def digest(state):
  """Checksums of the arrays of a state, dict from path to int, the same however they are spread over devices.

  Sums of integers do not depend on their order; weights, which depend on the index, let exchanged values show.
  """
  sums = jax.tree_util.tree_leaves_with_path(jax.device_get(_sums(state)))
  return {jax.tree_util.keystr(path): int(value) for path, value in sums}


@jax.jit
def _sums(tree):
  def one(x):
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")).astype(jnp.uint32)
    index = sum((n + 2) * jax.lax.broadcasted_iota(jnp.uint32, bits.shape, n) for n in range(bits.ndim))
    return (bits * (2 * index + 1)).sum(dtype=jnp.uint32)

  return jax.tree.map(one, tree)


def _compare(saved, read):
  """Raises a ValueError where two `digest`s differ."""
  if wrong := sorted(path for path in {*saved, *read} if saved.get(path) != read.get(path)):
    raise ValueError(f"the values of {', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''} are not those saved")
