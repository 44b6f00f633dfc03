"""A head: the small file that turns an encoder's features into a score, and the search that finds a good one.

score = (features - mean) / scale @ weights + intercept, in float64. The file is safetensors; its card says what the
head was fitted to, which way its scores run and how well it did on images that it has not seen.
"""

import dataclasses
import json
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from jiqa.errors import UserError
from jiqa.evaluation import correlation, elastic_net, outputs, protocol, ridge

ARRAYS = ("weights", "mean", "scale", "intercept")


@dataclasses.dataclass(frozen=True)
class Head:
  """One fitted regressor.

  Attributes:
    weights, mean, scale: [d] float64.
    intercept: [] float64.
    card: dict of plain values: 'features' (which experts, in their order), 'database', 'range' ([low, high] of its
      scores), 'direction' ('higher is better'), 'regressor', 'alpha', 'l1_ratio', 'split', 'split_sha256',
      'labels_sha256', 'images' (fitted), 'weights_sha256' of the experts, 'test' (SRCC and PLCC on the test part).
  """

  weights: np.ndarray
  mean: np.ndarray
  scale: np.ndarray
  intercept: np.ndarray
  card: dict

  def __call__(self, features):
    """Scores of images.

    Args:
      features: [n, d] float.

    Returns:
      [n] float64 on the scale of card['range']; a picture unlike any in the database may lie outside of it.

    Raises:
      UserError: the features are those of another encoder.
    """
    features = np.asarray(features, np.float64)
    if features.shape[-1] != len(self.weights):
      raise UserError(
        f"the head takes {len(self.weights)} features ({self.card.get('features')}), but there are "
        f"{features.shape[-1]}; use the experts it was fitted with"
      )
    return (features - self.mean) / self.scale @ self.weights + self.intercept

  def save(self, path):
    """Writes the file, see `load`."""
    arrays = {name: np.asarray(getattr(self, name), np.float64) for name in ARRAYS}
    outputs.write_bytes(path, safetensors.numpy.save(arrays, metadata={"card": json.dumps(self.card, sort_keys=True)}))


def load(path):
  """Reads a head.

  Args:
    path: file written by `Head.save`.

  Returns:
    Head.

  Raises:
    UserError: there is no such file, or it holds no head.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file; expected a head, as written by `jiqa fit` or configs/reiqa.py:regress")
  try:
    with safetensors.safe_open(path, "numpy") as file:
      card = json.loads(file.metadata()["card"])
      return Head(**{name: file.get_tensor(name) for name in ARRAYS}, card=card)
  except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
    raise UserError(f"{path}: holds no head ({error}); fit one with `jiqa fit`") from error


def search(features, mos, splits, regressor, alphas, l1_ratios=(), **options):
  """Fits a regressor on every split, its penalty chosen on the validation part.

  Args:
    features: [n, d] float32.
    mos: [n] float, higher is better.
    splits: [k, n] int8, see `protocol.in_database`.
    regressor: 'ridge' or 'elastic_net'.
    alphas: [a] float > 0; for the elastic net in units of the standard deviation of the scores.
    l1_ratios: [r] float in (0, 1], for the elastic net.
    **options: handed to `protocol.in_database`, or to its checks.

  Returns:
    (protocol.Result, [k] the share of absolute values chosen, 0 for ridge).

  Raises:
    UserError: see `protocol.in_database`; or there is no such regressor.
  """
  if regressor == "ridge":
    return protocol.in_database(features, mos, splits, alphas, **options), np.zeros(len(splits))
  if regressor != "elastic_net":
    raise UserError(f"there is no regressor {regressor!r}; expected ridge or elastic_net")
  return _search_elastic_net(features, mos, splits, alphas, l1_ratios, **options)


def _search_elastic_net(features, mos, splits, alphas, l1_ratios, *, names=None, groups=None, seen=()):
  mos, splits = np.asarray(mos, np.float64), np.atleast_2d(np.asarray(splits))
  protocol.check_splits(splits, mos, need_validation=True)
  protocol.warn_if_seen(splits, names, groups, seen)
  if not len(l1_ratios):
    raise UserError("elastic_net needs at least one l1_ratio in (0, 1]")
  used = (splits != protocol.UNUSED).any(0)
  alphas = np.sort(np.asarray(alphas, np.float64))[::-1] * mos[used].std()
  best = [(-np.inf, None, None)] * len(splits)
  # Large penalties first: ties go to the smoother of two equally good heads.
  for ratio in sorted(l1_ratios, reverse=True):
    heads = elastic_net.fit(features, mos, splits == protocol.TRAIN, alphas, l1_ratio=ratio, tolerance=1e-5)
    validation = ridge.predict(features, heads)
    parts = np.broadcast_to((splits == protocol.VALIDATION)[:, None], validation.shape)
    for k, row in enumerate(correlation.srcc_batch(validation, mos, parts)):
      for alpha, value in zip(alphas, row, strict=True):
        if value > best[k][0]:
          best[k] = (value, alpha, ratio)
  for k, (_, alpha, _) in enumerate(best):
    if alpha is None:
      raise UserError(f"split {k}: no penalty gives a defined SRCC on the validation part; take smaller net_alphas")
  fitted = np.isin(splits, (protocol.TRAIN, protocol.VALIDATION))
  each = [
    elastic_net.fit(features, mos, fitted[k : k + 1], [alpha], l1_ratio=ratio)
    for k, (_, alpha, ratio) in enumerate(best)
  ]
  heads = ridge.Heads(*(np.concatenate(parts) for parts in zip(*each, strict=True)))
  predictions = np.where(splits == protocol.TEST, ridge.predict(features, heads)[:, 0], np.nan)
  measured = [
    protocol.measures(row[part], mos[part]) for row, part in zip(predictions, splits == protocol.TEST, strict=True)
  ]
  result = protocol.Result(
    alphas=alphas, alpha=np.array([b[1] for b in best]), validation_srcc=np.array([b[0] for b in best]),
    predictions=predictions, mos=mos, splits=splits, heads=heads,
    **{key: np.array([m[key] for m in measured]) for key in protocol.MEASURES},
  )  # fmt: skip
  return result, np.array([b[2] for b in best])


def of_split(result, k, card):
  """The head of one split as a `Head`.

  Args:
    result: protocol.Result.
    k: int, the split.
    card: dict, see `Head`; 'alpha', 'images', 'split' and 'test' are filled in.

  Returns:
    Head.
  """
  heads = result.heads
  images = int(np.isin(result.splits[k], (protocol.TRAIN, protocol.VALIDATION)).sum())
  test = {key: float(getattr(result, key)[k]) for key in ("srcc", "plcc")}
  known = {"alpha": float(result.alpha[k]), "images": images, "split": k, "test": test, "direction": "higher is better"}
  return Head(heads.weights[k, 0], heads.mean[k], heads.scale[k], heads.intercept[k], {**card, **known})
