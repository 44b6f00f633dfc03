"""The search for a good head: every penalty on every split, chosen on the validation part."""

import numpy as np

from jiqa.errors import UserError
from jiqa.evaluation import correlation, elastic_net, protocol, ridge
from jiqa.evaluation.head import Head


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
