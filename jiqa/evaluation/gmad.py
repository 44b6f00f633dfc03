"""The group maximum differentiation competition: methods pick the images on which they disagree most.

Ma et al. 2016 and 2020. Of images that one method, the defender, calls equally good another, the attacker, picks the
worst and the best. If people see the difference the attacker has found a failure of the defender, if not the defender
has stood firm. No human scores of the pool are needed.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from jiqa.errors import UserError
from jiqa.evaluation import logistic

LEVELS = 6
# Half the width of a level, on the common scale of 0 to 100.
HALF_WIDTH = 9.0


class Pairs(NamedTuple):
  """Image pairs of a competition, one entry a pair; images are numbered as in the pool."""

  defender: np.ndarray
  attacker: np.ndarray
  level: np.ndarray
  rank: np.ndarray  # 0 for the pair with the largest gap of its level
  low: np.ndarray  # the image that the attacker calls worse
  high: np.ndarray
  gap: np.ndarray  # what the attacker sees between the two less what the defender sees, on the common scale
  share: np.ndarray  # of the defender's images that its level holds, over the levels that gave a pair


def by_quantile(scores):
  """Common scale without labels: the percentage of the pool that a method puts below an image, both [j, n]."""
  scores = np.asarray(scores, np.float64)
  return (stats.rankdata(scores, axis=1) - 1) / max(scores.shape[1] - 1, 1) * 100


def by_logistic(scores, anchors, mos):
  """Common scale from labelled images: a logistic maps every method onto the human scale, 0 to 100.

  scores are [j, n] on the pool, anchors [j, m] those of the same methods on labelled images, mos [m] the human ones. A
  method that falls where the human scores rise is a UserError.
  """
  scores, anchors, mos = (np.asarray(values, np.float64) for values in (scores, anchors, mos))
  curves = [logistic.fit(anchor, (mos - mos.min()) / np.ptp(mos) * 100) for anchor in anchors]
  for i, curve in enumerate(curves):
    if not curve.parameters[0] > curve.parameters[1]:
      raise UserError(f"method {i} falls where the human scores rise ({curve.parameters}): negate its scores")
  return np.stack([curve(row) for curve, row in zip(curves, scores, strict=True)])


def compete(scores, *, contents=None, levels=LEVELS, half_width=HALF_WIDTH, top=1):
  """Lets every method attack every other.

  The range of the defender's scores is cut into equal levels, to which the images within `half_width` of the centre
  belong. Of these the attacker takes the `top` worst and best. No content appears twice in a level.

  Args:
    scores: [j, n] float on a common scale of 0 to 100, from `by_quantile` or `by_logistic`.
    contents: [n], what an image shows, such as its reference; None: all different.
    levels, half_width: number of levels, and half the width of one.
    top: pairs of every defender, attacker and level.

  Returns:
    `Pairs`, in the order of defender, attacker, level, rank. A level with fewer than two contents gives none.

  Example:
    >>> pairs = compete(by_quantile(np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]])), levels=1, half_width=51)
    >>> [(int(d), int(l), int(h)) for d, l, h in zip(pairs.defender, pairs.low, pairs.high)]
    [(0, 0, 2), (1, 0, 3)]
  """
  scores = np.asarray(scores, np.float64)
  contents = np.arange(scores.shape[1]) if contents is None else np.unique(np.asarray(contents), return_inverse=True)[1]
  pairs = []
  for i, defender in enumerate(scores):
    low, high = defender.min(), defender.max()
    centres = low + (np.arange(levels) + 0.5) * (high - low) / levels
    members = [np.flatnonzero(np.abs(defender - centre) < half_width) for centre in centres]
    members = {level: member for level, member in enumerate(members) if len(np.unique(contents[member])) > 1}
    total = sum(map(len, members.values()))
    for j, attacker in enumerate(scores):
      for level, member in members.items() if i != j else ():
        ends = _extremes(member[np.argsort(attacker[member], kind="stable")], contents, top)
        for rank, (a, b) in enumerate(ends):
          gap = attacker[b] - attacker[a] - abs(defender[b] - defender[a])
          pairs.append((i, j, level, rank, a, b, gap, len(member) / total))
  columns = np.array(pairs, np.float64).reshape(-1, len(Pairs._fields)).T  # images are numbered below 2^53
  return Pairs(*columns[:6].astype(np.int64), *columns[6:])


def _extremes(ordered, contents, top):
  """The `top` pairs of first and last images of an order, taken in turn, no content twice."""
  pairs = []
  while len(pairs) < top and (rest := ordered[contents[ordered] != contents[ordered[:1]]]).size:
    low, high = ordered[0], rest[-1]
    pairs.append((low, high))
    ordered = rest[contents[rest] != contents[high]]
  return pairs


def proxy_preferences(pairs, quality):
  """What a known quality [n], such as SSIM or a MOS, would answer: a stand-in for people, to be called so.

  The preferences [pairs] are the differences of the two images in percent of the range of the quality.
  """
  quality = np.asarray(quality, np.float64)
  return (quality[pairs.high] - quality[pairs.low]) / (quality.max() - quality.min()) * 100


def screen(answers):
  """Rejects subjects whose answers are too often far from those of the others (ITU-R BT.500-13, annex 2, 2.3.1).

  answers [s, p] in [-100, 100], nan where there is none -> (mean [p] of the subjects kept, which are kept [s] bool).
  """
  answers = np.ma.masked_invalid(np.asarray(answers, np.float64))
  off, kurtosis = answers - answers.mean(0), stats.mstats.kurtosis(answers, fisher=False)
  bound = answers.std(0, ddof=1) * np.where((kurtosis >= 2) & (kurtosis <= 4), 2, np.sqrt(20))
  above, below = (((side >= bound) & (bound > 0)).filled(False).sum(1) for side in (off, -off))
  outside, balanced = above + below, np.abs(above - below) < 0.3 * (above + below)
  kept = ~((outside > 0.05 * np.maximum(answers.count(1), 1)) & balanced)
  return answers[kept].mean(0).filled(np.nan), kept


def matrices(pairs, preferences, methods):
  """How hard every method attacks, and how well it stands attacks (Ma et al. 2020, eq. 4-7).

  Args:
    pairs: `Pairs` of `methods` methods.
    preferences: [pairs] float in [-100, 100], 100 where people clearly agree with the attacker; nan: not answered.

  Returns:
    (aggressiveness [j, j], row j attacks column i, >= 0; resistance [j, j], row i resists column j), both in [0, 100],
    nan where a pair of methods has no answer and on the diagonal.
  """
  preferences = np.asarray(preferences, np.float64)
  attack, stand = np.full((methods, methods), np.nan), np.full((methods, methods), np.nan)
  for i, j in {(int(i), int(j)) for i, j in zip(pairs.defender, pairs.attacker, strict=True)}:
    of = (pairs.defender == i) & (pairs.attacker == j) & np.isfinite(preferences)
    if of.any():
      weight = pairs.share[of] / pairs.share[of].sum()
      attack[j, i] = max(weight @ preferences[of], 0.0)
      stand[i, j] = weight @ (100 - np.abs(preferences[of]))
  return attack, stand


def rank(matrix):
  """Global scores from a matrix of pairwise outcomes, by maximum likelihood (Thurstone, case V, with a normal prior).

  Tsukida and Gupta 2011, sec. 3: maximise sum_ij M_ij log Phi(mu_i - mu_j) - sum_i mu_i^2 / 2 with sum mu = 0.
  The matrix [j, j] says how much row i outdoes column j (nan: not compared); higher scores [j] are better.
  """
  won = np.nan_to_num(np.asarray(matrix, np.float64))
  np.fill_diagonal(won, 0)

  def loss(mu):
    apart = mu[:, None] - mu
    value = -(won * stats.norm.logcdf(apart)).sum() + mu @ mu / 2
    slope = won * np.exp(stats.norm.logpdf(apart) - stats.norm.logcdf(apart))
    return value, slope.sum(0) - slope.sum(1) + mu

  mu = optimize.minimize(loss, np.zeros(len(won)), jac=True, method="BFGS", options={"gtol": 1e-9}).x
  return mu - mu.mean()
