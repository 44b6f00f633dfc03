"""Checkpoints of the whole State through Orbax: asynchronous, atomic, the newest few kept."""

import pathlib

import jax
import orbax.checkpoint as ocp

from jiqa.errors import UserError


class Checkpoints:
  """The checkpoints of one run, `DIRECTORY/STEP`.

  Orbax writes under a temporary name and renames, so a process killed while saving leaves the previous checkpoints
  intact and nothing that could be mistaken for a new one.

  Args:
    directory: created if absent.
    keep: how many to keep.
    best: name of the metric whose largest values decide which are kept; None keeps the newest.
  """

  def __init__(self, directory, keep=2, best=None):
    self.directory = pathlib.Path(directory).resolve()
    choice = {"best_fn": lambda metrics: metrics[best], "best_mode": "max"} if best else {}
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, **choice)
    self._manager = ocp.CheckpointManager(self.directory, options=options)

  def latest_step(self):
    """The newest saved step, or None."""
    return self._manager.latest_step()

  def restore(self, like):
    """The newest state, with the shardings of `like`; None if nothing is saved.

    Raises:
      UserError: if what is saved has another structure than `like`.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
      return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except (ValueError, KeyError) as error:
      raise UserError(
        f"{self.directory / str(step)}: this checkpoint does not fit the configured model ({error}). Use another "
        "--workdir, or the config the run was started with."
      ) from error

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
    """
    if step != self._manager.latest_step():
      self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

  def wait(self):
    """Returns when everything is on disk."""
    self._manager.wait_until_finished()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.wait()
    self._manager.close()
