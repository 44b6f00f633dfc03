"""The teacher of a network that was trained with one; scoring itself does without."""

import numpy as np

from jiqa.inference.loading import find


def of(model):
  """The teacher's parameters.

  Args:
    model: Model.

  Returns:
    nested dict of arrays with the keys of the network's own. Weights without a teacher are a teacher's first state,
    which is the network itself.
  """
  extra = find(model.folder).extra

  def fitted(own, loaded):
    """`loaded`, whose keys are all text, with the keys of `own`."""
    if not isinstance(own, dict):
      return np.asarray(loaded)
    return {key: fitted(value, loaded[str(key)]) for key, value in own.items()}

  return fitted(model.state.params, extra["teacher"]) if extra else model.state.params
