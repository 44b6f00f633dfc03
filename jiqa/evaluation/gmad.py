"""The group maximum differentiation competition: methods pick the images on which they disagree most.

Ma et al. 2016 and 2020. Of images that one method, the defender, calls equally good another, the attacker, picks the
worst and the best. If people see the difference the attacker has found a failure of the defender, if not the defender
has stood firm. No human scores of the pool are needed. `run` is a whole competition, from score tables to files.
"""

import hashlib
import importlib.resources
import json
import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageDraw
from scipy import optimize, stats

from jiqa.errors import UserError
from jiqa.evaluation import bootstrap, figures, logistic, outputs, tables

LEVELS = 6
# Half the width of a level, on the common scale of 0 to 100.
HALF_WIDTH = 9.0
PAGE_SIDE, SHEET_SIDE = 1024, 256  # longest side of an image on the subjects' page, and on a contact sheet


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


def by_logistic(scores, anchors, mos, methods=None):
  """Common scale from labelled images: a logistic maps every method onto the human scale, 0 to 100.

  scores are [j, n] on the pool, anchors [j, m] those of the same methods on labelled images, mos [m] the human ones;
  methods [j] are their names, for messages. A UserError where the labelled images give no curve, or one that falls
  where the human scores rise.
  """
  scores, anchors, mos = (np.asarray(values, np.float64) for values in (scores, anchors, mos))
  methods = range(len(scores)) if methods is None else methods
  for method, row in (
    ("the human score", mos),
    *((f"method {m}", row) for m, row in zip(methods, anchors, strict=True)),
  ):
    if len(row) < 4 or row.min() == row.max():
      raise UserError(
        f"{method}: a curve needs at least 4 labelled images with different scores; {len(row)} are there,"
        f" {len(np.unique(row))} different"
      )
  curves = [logistic.fit(anchor, (mos - mos.min()) / np.ptp(mos) * 100) for anchor in anchors]
  for method, curve in zip(methods, curves, strict=True):
    if not curve.parameters[0] > curve.parameters[1]:
      raise UserError(f"method {method} falls where the human scores rise ({curve.parameters}): negate its scores")
  return np.stack([curve(row) for curve, row in zip(curves, scores, strict=True)])


def compete(scores, *, contents=None, levels=LEVELS, half_width=HALF_WIDTH, top=1):
  """Lets every method attack every other.

  The range of the defender's scores is cut into equal levels, to which the images within `half_width` of the centre
  belong. Of these the attacker takes the `top` worst and best. No content appears twice in a level.

  Args:
    scores: [j, n] float, finite, on a common scale of 0 to 100, from `by_quantile` or `by_logistic`.
    contents: [n] str, what an image shows, such as its reference; '' stands for an image of its own. None: all
      different.
    levels, half_width: number of levels, and half the width of one.
    top: pairs of every defender, attacker and level.

  Returns:
    `Pairs`, in the order of defender, attacker, level, rank. A level with fewer than two contents gives none.
  """
  scores = np.asarray(scores, np.float64)
  contents = bootstrap.units_of(contents, scores.shape[1])
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
  if quality.min() == quality.max():
    raise UserError(f"the proxy is {quality[0]:g} for every image and prefers none; give another one")
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


def run(
  score_files, out, *, images=None, anchors=None, content=None, answers=(), proxy=None, levels=LEVELS, top=1, name=None
):
  """Picks the pairs and writes what people need to compare them; with answers, writes who has won.

  The options are those of `jiqa gmad`; a lone column `score` is called after its file. `out` gets `pairs.csv`, with
  `images` also `index.html`, `images/` and `sheets/`, with answers (of people, or by a `proxy`) `aggressiveness`,
  `resistance` and `ranking`.

  Returns a dict with `methods`, `pairs` (`Pairs`), and with answers `aggressiveness`, `resistance` [j, j] and
  `aggressiveness_rank`, `resistance_rank` [j].
  """
  if answers and proxy:
    raise UserError("give the answers of people or a proxy, not both")
  first = score_files[0]
  table = tables.read(first, name)
  names = tables.unique_names(table, first).to_numpy(str)
  content = None if content is None else tables.join(table, first, content, "reference_name", name)
  proxy = None if proxy is None else tables.join(table, first, proxy, "mos", name)
  scores = tables.pool(table, score_files, {column.taken for column in (content, proxy) if column}, name=name)
  if len(scores) < 2:
    raise UserError(f"only the method {next(iter(scores))!r} was found; a competition needs at least two")
  methods, scores = list(scores), np.stack(list(scores.values()))
  if anchors is None:
    scale = by_quantile(scores)
  else:
    labelled = tables.read(anchors, name)
    anchored = np.stack([tables.numbers(labelled, method, anchors) for method in methods])
    scale = by_logistic(scores, anchored, tables.numbers(labelled, "mos", anchors), methods)
  contents = None if content is None else content.words()
  pairs, out = compete(scale, contents=contents, levels=levels, top=top), pathlib.Path(out)
  rows = [
    [n, methods[d], methods[a], level + 1, rank + 1, names[low], names[high], f"{gap:.4f}", f"{share:.6f}"]
    for n, (d, a, level, rank, low, high, gap, share) in enumerate(zip(*pairs, strict=True))
  ]
  outputs.write_csv(out / "pairs.csv", [["pair", *Pairs._fields], *rows])
  if images is not None:
    _write_images(out, pathlib.Path(images), pairs, names, methods)
  results = {"methods": methods, "pairs": pairs}
  if answers:
    results |= _outcome(out, pairs, _answered(answers, len(pairs.low), out), methods)
  elif proxy:
    results |= _outcome(out, pairs, proxy_preferences(pairs, proxy.numbers()), methods)
  return results


def _write_images(out, folder, pairs, names, methods):
  """Copies for the page, contact sheets, and the page itself."""
  shown = np.unique(np.concatenate([pairs.low, pairs.high])).tolist()
  # What `jiqa score pool` wrote names its images from where it ran.
  paths = {
    image: next(filter(pathlib.Path.is_file, (folder / names[image], pathlib.Path(names[image]))), None)
    for image in shown
  }
  for image, path in paths.items():
    if path is None:
      raise UserError(f"{folder / names[image]}: no such image; --images is the folder that the image names start from")
  copies = {image: f"images/{image:06d}.png" for image in shown}
  (out / "images").mkdir(parents=True, exist_ok=True)
  for image, copy in copies.items():
    # Lossless: a second JPEG compression would be one more distortion.
    _open(paths[image], PAGE_SIDE).save(out / copy)
  (out / "sheets").mkdir(exist_ok=True)
  ends = [(copies[low], copies[high]) for low, high in zip(pairs.low.tolist(), pairs.high.tolist(), strict=True)]
  for d, a in sorted(set(zip(pairs.defender.tolist(), pairs.attacker.tolist(), strict=True))):
    of = np.flatnonzero((pairs.defender == d) & (pairs.attacker == a))
    sheet = _sheet([(pairs.level[i], *(out / copy for copy in ends[i])) for i in of])
    defender, attacker = ("".join(c if c.isalnum() else "-" for c in methods[i]) for i in (d, a))
    sheet.save(out / "sheets" / f"{defender}_defends_{attacker}_attacks.png")
  text = json.dumps([[n, *pair] for n, pair in enumerate(ends)])
  page = importlib.resources.files(__package__).joinpath("templates/gmad.html").read_text("utf-8")
  # No string.Template: the page's script has its own use for the dollar sign.
  page = page.replace("$pairs", text).replace("$key", hashlib.sha256(text.encode()).hexdigest()[:12])
  outputs.write_bytes(out / "index.html", page.encode())


def _open(path, side):
  try:
    with PIL.Image.open(path) as image:
      image = image.convert("RGB")
  except OSError as error:
    raise UserError(f"{path}: not a readable image ({error})") from error
  image.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
  return image


def _sheet(rows):
  """One row a pair: level, the image that the attacker calls worse, the one that it calls better."""
  gap, side = 8, SHEET_SIDE
  sheet = PIL.Image.new("RGB", (60 + 2 * (side + gap), len(rows) * (side + gap) + 24), "white")
  draw = PIL.ImageDraw.Draw(sheet)
  draw.text((60, 6), "attacker: worse", fill="black")
  draw.text((60 + side + gap, 6), "attacker: better", fill="black")
  for i, (level, *pair) in enumerate(rows):
    top = 24 + i * (side + gap)
    draw.text((6, top + side // 2), f"level {level + 1}", fill="black")
    for j, path in enumerate(pair):
      image = _open(path, side)
      sheet.paste(image, (60 + j * (side + gap) + (side - image.width) // 2, top + (side - image.height) // 2))
  return sheet


def _answered(files, count, out):
  """Mean preference of every pair over the subjects that are kept."""
  answers = []
  for file in files:
    table = tables.read(file)
    pair, preference = tables.numbers(table, "pair", file), tables.numbers(table, "preference", file)
    wrong = np.flatnonzero((pair % 1 != 0) | (pair < 0) | (pair >= count) | (np.abs(preference) > 100))
    if len(wrong):
      line = f"{tables.place(table, wrong[0], file)}: pair {pair[wrong[0]]:g}, preference {preference[wrong[0]]:g}"
      raise UserError(f"{file}: {line}; pairs run from 0 to {count - 1}, preferences from -100 to 100")
    answers.append(pd.Series(preference, [tables.words(table, "subject", file), pair.astype(int)]))
  answers = pd.concat(answers)
  if len(twice := answers.index[answers.index.duplicated()]):
    raise UserError(f"subject {twice[0][0]!r} answers pair {twice[0][1]} twice; give every file once")
  answers = answers.unstack().reindex(columns=range(count))
  mean, kept = screen(answers)
  rows = [[n, f"{value:.4f}", given] for n, (value, given) in enumerate(zip(mean, answers[kept].count(), strict=True))]
  outputs.write_csv(out / "answers.csv", [["pair", "preference", "answers"], *rows])
  if not kept.all():
    print(f"rejected as outliers (ITU-R BT.500): {', '.join(answers.index[~kept])}")
  return mean


def _outcome(out, pairs, preferences, methods):
  attack, stand = matrices(pairs, preferences, len(methods))
  outcome = {"aggressiveness": attack, "resistance": stand}
  ranks = {f"{name}_rank": rank(matrix) for name, matrix in outcome.items()}
  roles = (("attacker", "defender"), ("defender", "attacker"))
  for (name, matrix), (row, column) in zip(outcome.items(), roles, strict=True):
    text = pd.DataFrame(matrix, methods, methods).to_csv(index_label=row, float_format="%.4f", lineterminator="\n")
    outputs.write_bytes(out / f"{name}.csv", text.encode())
    image = figures.heat_map(matrix, methods, methods, title=name, high=100.0, row_title=row, column_title=column)
    outputs.write_bytes(out / f"{name}.png", image)
  order = np.argsort(-ranks["resistance_rank"])
  rows = [[methods[i], *(f"{rank[i]:.4f}" for rank in ranks.values())] for i in order]
  outputs.write_csv(out / "ranking.csv", [["method", *ranks], *rows])
  return outcome | ranks
