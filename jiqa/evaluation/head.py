"""A head: the small safetensors file that turns an encoder's features into a score.

score = (features - mean) / scale @ weights + intercept, in float64. Its card says what it was fitted to, which way its
scores run and how well it did on images that it has not seen.
"""

import dataclasses
import json
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from jiqa.errors import UserError
from jiqa.evaluation import outputs

ARRAYS = ("weights", "mean", "scale", "intercept")


@dataclasses.dataclass(frozen=True)
class Head:
  """One fitted regressor.

  Its card, a dict of plain values, has 'features' (which experts, in their order), 'database', 'range' ([low, high] of
  its scores), 'direction' ('higher is better'), 'regressor', 'alpha', 'l1_ratio', 'split', 'split_sha256',
  'labels_sha256', 'images' (fitted), 'weights_sha256' of the experts, 'test' (SRCC and PLCC on the test part).
  """

  weights: np.ndarray  # [d] float64, like the next two
  mean: np.ndarray
  scale: np.ndarray
  intercept: np.ndarray  # []
  card: dict

  def __post_init__(self):
    if wrong := [name for name in ARRAYS if not np.isfinite(getattr(self, name)).all()]:
      raise ValueError(f"{wrong[0]} not finite")

  def __call__(self, features):
    """Scores [n] float64 of features [n, d], not limited to card['range']; a UserError for another encoder's."""
    features = np.asarray(features, np.float64)
    if features.shape[-1] != len(self.weights):
      takes = f"the head takes {len(self.weights)} features ({self.card.get('features')})"
      raise UserError(f"{takes}, but there are {features.shape[-1]}; use the experts it was fitted with")
    return (features - self.mean) / self.scale @ self.weights + self.intercept

  def save(self, path):
    """Writes the file, see `load`."""
    arrays = {name: np.asarray(getattr(self, name), np.float64) for name in ARRAYS}
    outputs.write_bytes(path, safetensors.numpy.save(arrays, metadata={"card": json.dumps(self.card, sort_keys=True)}))


def load(path):
  """Reads the `Head` that `Head.save` has written; a UserError where there is none."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file; expected a head, as written by `jiqa fit`")
  try:
    with safetensors.safe_open(path, "numpy") as file:
      card = json.loads(file.metadata()["card"])
      return Head(**{name: file.get_tensor(name) for name in ARRAYS}, card=card)
  except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
    raise UserError(f"{path}: holds no head ({error}); fit one with `jiqa fit`") from error
