"""How far a head carries: to other databases, to unseen distortions, from fewer labels, to single conditions."""

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import correlation, protocol, ridge

FOLDS = 5


def cross_database(databases, alphas=protocol.ALPHAS, *, standardize=True, seed=0):
  """Fits a head to all of one database and tests it on all of another, for every pair.

  Alpha is chosen inside the database that is fitted, by content-disjoint folds; the other one is looked at once.

  Args:
    databases: dict from name to dict of `features` [n, d], `mos` [n], optionally `groups` [n] (references) and
      `names` [n] (images; two databases that share some are warned about).
    alphas: [a] float > 0.
    standardize: scale every feature to unit variance over the fitted database.
    seed: of the folds.

  Returns:
    dict with `names`, `alpha` of every row, and `srcc`, `krcc` and `plcc`: [m, m] float64, row fitted, column tested,
    nan on the diagonal (`protocol.in_database` is the place for that).
  """
  names = list(databases)
  found = {key: np.full((len(names), len(names)), np.nan) for key in ("srcc", "krcc", "plcc")}
  chosen = []
  for i, name in enumerate(names):
    source = databases[name]
    head, alpha = _fit_all(source["features"], source["mos"], source.get("groups"), alphas, standardize, seed)
    chosen.append(alpha)
    for j, other in enumerate(names):
      target = databases[other]
      if i != j:
        if "names" in source and "names" in target:
          tested = np.full((1, len(target["mos"])), protocol.TEST)
          protocol.warn_if_seen(tested, target["names"], seen=source["names"])
        measured = protocol.measures(ridge.predict(target["features"], head)[0, 0], target["mos"])
        for key, matrix in found.items():
          matrix[i, j] = measured[key]
  return {"names": names, "alpha": np.array(chosen), **found}


def leave_one_out(features, mos, labels, alphas=protocol.ALPHAS, *, groups=None, standardize=True, seed=0):
  """Fits a head to all distortions but one and tests it on that one, for every distortion.

  Args:
    features: [n, d] float32.
    mos: [n] float.
    labels: [n] str, the distortion (or subset) of every image.
    alphas: [a] float > 0.
    groups: [n] str, references, to choose alpha by content-disjoint folds. Contents are shared between the distortions.
    standardize: scale every feature to unit variance over the fitted rows.
    seed: of the folds.

  Returns:
    dict from label to dict of `alpha`, `images` and the measures of `protocol.measures`.

  Raises:
    UserError: there are fewer than two labels.
  """
  features, mos, labels = np.asarray(features), np.asarray(mos, np.float64), np.asarray(labels)
  groups = None if groups is None else np.asarray(groups)
  if len(np.unique(labels)) < 2:
    raise UserError(f"every image has the label {labels[0]!r}; to leave one out at least two are needed")
  found = {}
  for label in np.unique(labels):
    rest = labels != label
    head, alpha = _fit_all(
      features[rest], mos[rest], None if groups is None else groups[rest], alphas, standardize, seed
    )
    measured = protocol.measures(ridge.predict(features[~rest], head)[0, 0], mos[~rest])
    found[str(label)] = {"alpha": alpha, "images": int((~rest).sum()), **measured}
  return found


def breakdown(prediction, mos, labels):
  """The measures inside every condition, such as a distortion or a level.

  Args:
    prediction: [n] float, scores of one model; images without one (nan) do not count.
    mos: [n] float, human scores in the same order.
    labels: [n], the condition of every image.

  Returns:
    dict from label to dict of `images` and the measures of `protocol.measures`; nan where one is undefined.

  Example:
    >>> found = breakdown(np.arange(6.0), np.array([1, 2, 3, 6, 5, 4.0]), ["a", "a", "a", "b", "b", "b"])
    >>> found["a"]["srcc"], found["b"]["srcc"]
    (1.0, -1.0)
  """
  prediction, mos, labels = np.asarray(prediction, np.float64), np.asarray(mos, np.float64), np.asarray(labels)
  known = np.isfinite(prediction)
  found = {}
  for label in np.unique(labels[known]):
    part = known & (labels == label)
    found[str(label)] = {"images": int(part.sum()), **protocol.measures(prediction[part], mos[part])}
  return found


def data_efficiency(features, mos, splits, shares=(0.2, 0.4, 0.6), *, groups=None, seed=0, **options):
  """Judges the features with fewer labels: only a share of every training part is fitted.

  Args:
    features: [n, d] float32.
    mos: [n] float.
    splits: [k, n] int8, as for `protocol.in_database`; the shares are of all images that a split uses, so that 0.6
      stands for 60 % of the database.
    shares: shares of the images that training may use; the smaller sets are parts of the larger ones.
    groups: [n] str, references: whole references are kept. None: images.
    seed: of the choice.
    **options: handed to `protocol.in_database`.

  Returns:
    dict from share to `protocol.Result`.

  Raises:
    UserError: a share is larger than the training part of a split.
  """
  splits = np.asarray(splits)
  units = np.arange(splits.shape[1]) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
  order = np.random.default_rng(seed).permutation(units.max() + 1)[units]
  found = {}
  for share in shares:
    fewer = splits.copy()
    for k, split in enumerate(splits):
      train = np.flatnonzero(split == protocol.TRAIN)
      keep = round(share * (split != protocol.UNUSED).sum())
      if keep > len(train):
        raise UserError(f"split {k} trains on {len(train)} images; a share of {share} would need {keep}")
      cut = np.sort(order[train])[keep - 1] if keep else -1
      fewer[k, train[order[train] > cut]] = protocol.UNUSED
    found[share] = protocol.in_database(features, mos, fewer, groups=groups, **options)
  return found


def folds(groups, n, count=FOLDS, seed=0):
  """Content-disjoint folds [n] int of nearly equal size: the largest references are dealt out first, to the emptiest.

  Args:
    groups: [n] references, or None for images on their own.
    n: number of images.
    count: number of folds.
    seed: order of references of one size.
  """
  units = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
  sizes = np.bincount(units)
  order = np.random.default_rng(seed).permutation(len(sizes))
  fold, filled = np.zeros(len(sizes), int), np.zeros(count)
  for unit in order[np.argsort(-sizes[order], kind="stable")]:
    fold[unit] = filled.argmin()
    filled[fold[unit]] += sizes[unit]
  return fold[units]


def _fit_all(features, mos, groups, alphas, standardize, seed):
  """A head on all rows; alpha has the best mean SRCC over folds."""
  alphas = np.asarray(alphas, np.float64)
  mos = np.asarray(mos, np.float64)
  fold = folds(groups, len(mos), seed=seed)
  inside = fold != np.arange(FOLDS)[:, None]
  heads = ridge.fit(features, mos, inside, alphas, standardize=standardize)
  scores = ridge.predict(features, heads)
  srcc = correlation.srcc_batch(scores, mos, np.broadcast_to(~inside[:, None], scores.shape))
  mean = np.nanmean(np.where(np.isfinite(srcc).any(1)[:, None], srcc, 0), axis=0)
  alpha = alphas[np.nanargmax(mean)]
  rows = np.ones((1, len(mos)), bool)
  return ridge.fit(features, mos, rows, [alpha], standardize=standardize, tolerance=1e-10), float(alpha)
