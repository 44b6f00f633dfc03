"""Elastic net on frozen features: scikit-learn's path of alphas (Zou and Hastie 2005) for every split.

The objective is |y - Z w|^2 / (2 n) + alpha l1_ratio |w|_1 + alpha (1 - l1_ratio) |w|^2 / 2.
"""

import warnings

import jax
import numpy as np

from jiqa.evaluation import ridge


def fit(features, target, rows, alphas, *, l1_ratio=0.5, tolerance=1e-8, max_sweeps=10_000):
  """Fits the elastic net for every split and every alpha.

  Args:
    features, target, rows, alphas: as for `ridge.fit`.
    l1_ratio: share of the absolute values in the penalty, in (0, 1], else a ValueError; or [k], each split its own.
    tolerance: the descent ends where the duality gap is below this share of the variance of the target.
    max_sweeps: bound of the sweeps over all features; where it ends them, a RuntimeWarning says so.

  Returns:
    `ridge.Heads`; `error` [k, a] is the relative duality gap reached.
  """
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import enet_path

  if not ((np.asarray(l1_ratio) > 0) & (np.asarray(l1_ratio) <= 1)).all():
    raise ValueError(f"l1_ratio is {l1_ratio}, expected a number in (0, 1]; `ridge` is the case 0")
  features, target, rows, alphas = ridge.checked(features, target, rows, alphas)
  fitted = []
  for row, of_split, share in zip(rows, alphas, np.broadcast_to(l1_ratio, len(rows)), strict=True):
    falling, place = np.unique(-of_split, return_inverse=True)
    with jax.enable_x64(True):
      z, mean, scale = jax.device_get(ridge.standardise(features[row], row.sum()))
    y = target[row] - target[row].mean()
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", ConvergenceWarning)  # said below, for all splits together
      options = {"precompute": len(z) > z.shape[1], "tol": tolerance, "max_iter": max_sweeps}
      _, weights, gaps = enet_path(z, y, l1_ratio=share, alphas=-falling, **options)
    error = gaps[place] / max(y @ y / len(y), np.finfo(float).tiny)
    fitted.append((weights.T[place], target[row].mean(), mean, scale, error))
  heads = ridge.Heads(*map(np.stack, zip(*fitted, strict=True)))
  ridge.warn_if_unsettled(heads.error, tolerance * (1 + 1e-9))
  return heads
