"""Checkpoints of the whole State through Orbax: asynchronous, atomic, checked, the newest few kept."""

import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from jiqa.errors import UserError
from jiqa.runtime.distributed import is_main


class Checkpoints:
  """The checkpoints of one run, `DIRECTORY/STEP`.

  Orbax writes under a temporary name and renames, so a process killed while saving leaves the previous checkpoints
  intact and nothing that could be mistaken for a new one. Every process of a run must call the same functions; each
  writes what its devices hold, to a directory that all of them see.

  Args:
    directory: a folder, or gs://BUCKET/FOLDER; created if absent.
    keep: how many to keep.
    best: name of the metric whose largest values decide which are kept; None keeps the newest.
  """

  def __init__(self, directory, keep=2, best=None):
    in_bucket = "://" in os.fspath(directory)
    self.directory = epath.Path(os.fspath(directory)) if in_bucket else pathlib.Path(directory).resolve()
    choice = {"best_fn": lambda metrics: metrics[best], "best_mode": "max"} if best else {}
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, **choice)
    self._manager = ocp.CheckpointManager(self.directory, options=options)
    self._damaged = set()

  def steps(self):
    """The saved steps, the newest first, without those that `restore` has found damaged."""
    return sorted(set(self._manager.all_steps()) - self._damaged, reverse=True)

  def latest_step(self):
    """The newest saved step, or None."""
    return next(iter(self.steps()), None)

  def restore(self, like):
    """The newest state that can be read, with the shardings of `like`; None if nothing is saved.

    A damaged checkpoint is passed over with a warning, and replaced when one is saved again.

    Raises:
      UserError: if none can be read, or what is saved has another structure than `like`.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    failures = {}
    for step in self.steps():
      try:
        state = self._read(step, abstract)
      except Exception as error:  # what a damaged file makes the readers raise has no common type
        failures[step] = error
        continue
      self._pass_over(failures, step)
      return state
    if not failures:
      return None
    newest, error = next(iter(failures.items()))
    raise UserError(
      f"{self.directory / str(newest)}: this checkpoint does not fit the configured model, or is damaged "
      f"({_first_line(error)}); so are all older ones. Use another --workdir, or the config the run was started with."
    ) from error

  def _read(self, step, abstract):
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), digest=ocp.args.JsonRestore())
    found = self._manager.restore(step, args=wanted)
    expected, is_now = found.digest, digest(found.state)
    wrong = sorted(path for path in {*expected, *is_now} if expected.get(path) != is_now.get(path))
    if wrong:
      raise ValueError(f"the values of {', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''} are not those saved")
    return found.state

  def _pass_over(self, failures, found):
    for step, error in failures.items():
      self._damaged.add(step)
      if is_main():
        print(
          f"warning: {self.directory / str(step)} is damaged ({_first_line(error)}); going on from step {found}",
          file=sys.stderr,
        )

  def best_metrics(self):
    """The metrics that the best checkpoint was saved with; None if nothing is saved."""
    step = self._manager.best_step()
    return None if step is None else dict(self._manager.metrics(step))

  def save(self, step, state, metrics=None):
    """Starts saving `state` as `step`; returns at once, the arrays are copied before they can be donated.

    Args:
      step: int.
      state: State.
      metrics: dict of floats, where the best are kept.

    Raises:
      UserError: if this or the checkpoint before cannot be written.
    """
    for damaged in self._damaged:
      self._manager.delete(damaged)
    self._damaged = set()
    if step != self._manager.latest_step():
      parts = ocp.args.Composite(state=ocp.args.StandardSave(state), digest=ocp.args.JsonSave(digest(state)))
      self._written(lambda: self._manager.save(step, args=parts, metrics=metrics))

  def wait(self):
    """Returns when everything is on disk.

    Raises:
      UserError: if it cannot be written.
    """
    self._written(self._manager.wait_until_finished)

  def _written(self, action):
    try:
      action()
    except Exception as error:  # disks, buckets and the writers between them raise what they like
      self._manager.reload()
      raise UserError(
        f"{self.directory}: a checkpoint could not be written ({_first_line(error)}). The last complete one is step "
        f"{self.latest_step()}. Make room or put right what the message says; the same command then goes on from there."
      ) from error

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self.wait()
    self._manager.close()


def digest(state):
  """Checksums of the arrays of a state, the same however they are spread over devices.

  Files do not notice all damage themselves. Sums of integers do not depend on their order; the weights, which depend on
  the place, let exchanged values show.

  Args:
    state: pytree of arrays.

  Returns:
    dict from path to int.
  """
  sums = jax.device_get(_sums(state))
  return {jax.tree_util.keystr(path): int(value) for path, value in jax.tree_util.tree_leaves_with_path(sums)}


@jax.jit
def _sums(tree):
  def one(x):
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")).astype(jnp.uint32)
    places = sum((n + 2) * jax.lax.broadcasted_iota(jnp.uint32, bits.shape, n) for n in range(bits.ndim))
    return (bits * (2 * places + 1)).sum(dtype=jnp.uint32)

  return jax.tree.map(one, tree)


def _first_line(error):
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 300 else text[:300] + " ..."
