"""A gMAD competition on disk: score tables in; pairs, contact sheets, a page for the subjects and the outcome out."""

import hashlib
import importlib.resources
import itertools
import json
import pathlib

import numpy as np
import PIL.Image
import PIL.ImageDraw

from jiqa.errors import UserError
from jiqa.evaluation import figures, gmad, outputs, tables

PAGE_SIDE, SHEET_SIDE = 1024, 256  # longest side of an image on the subjects' page, and on a contact sheet


def run(
  score_files, out, *, images=None, anchors=None, content=None, answers=(), proxy=None, levels=gmad.LEVELS, top=1
):
  """Picks the pairs and writes what people need to compare them; with answers, writes who has won.

  Args:
    score_files: tables with `image_name` and a column of numbers a method; a lone `score` is called after its file.
    out: folder for `pairs.csv`; with `images` (the folder that the names start from) also `index.html`, `images/` and
      `sheets/`; with answers `answers.csv` (means), `aggressiveness`, `resistance` and `ranking`.
    anchors: table of labelled images with the methods' columns and `mos`, for the common scale; None: quantiles.
    content: a column of the first table, or a file with `image_name` and `reference_name`: what an image shows.
    answers: CSV files that the page has saved: pair, subject, preference.
    proxy: a column of the first table that answers in place of people, such as SSIM or a MOS.
    levels, top: as for `gmad.compete`.

  Returns:
    dict with `methods`, `pairs` (`gmad.Pairs`), and with answers `aggressiveness`, `resistance` [j, j] and
    `aggressiveness_rank`, `resistance_rank` [j].
  """
  if answers and proxy:
    raise UserError("give the answers of people or a proxy, not both")
  table, scores = _pool(score_files, [name for name in (content, proxy) if name])
  methods, scores = list(scores), np.stack(list(scores.values()))
  if anchors is None:
    scale = gmad.by_quantile(scores)
  else:
    labelled = tables.read(anchors)
    anchored = np.stack([tables.numbers(labelled, method, anchors) for method in methods])
    scale = gmad.by_logistic(scores, anchored, tables.numbers(labelled, "mos", anchors))
  contents, names = None, tables.words(table, tables.NAME, score_files[0])
  if content:
    table, column = tables.join(table, score_files[0], content, "reference_name")
    contents = tables.words(table, column, score_files[0])
  pairs, out = gmad.compete(scale, contents=contents, levels=levels, top=top), pathlib.Path(out)
  rows = [
    [n, methods[d], methods[a], level + 1, rank + 1, names[low], names[high], f"{gap:.4f}", f"{share:.6f}"]
    for n, (d, a, level, rank, low, high, gap, share) in enumerate(zip(*pairs, strict=True))
  ]
  outputs.write_csv(out / "pairs.csv", [["pair", *gmad.Pairs._fields], *rows])
  if images is not None:
    _write_images(out, pathlib.Path(images), pairs, names, methods)
  found = {"methods": methods, "pairs": pairs}
  if answers:
    found |= _outcome(out, pairs, _answered(answers, len(pairs.low), out), methods)
  elif proxy:
    quality = tables.numbers(table, proxy, score_files[0])
    found |= _outcome(out, pairs, gmad.proxy_preferences(pairs, quality), methods)
  return found


def _pool(files, used):
  """The scores of every method (dict) on the images that the first file lists, and that file's table."""
  first, scores = None, {}
  for file in files:
    table = tables.read(file)
    rows = tables.by_name(table, file) if first is None else tables.matched(table, file, first.index, files[0])
    first = rows if first is None else first
    methods = tables.methods(rows, file, used)
    if list(methods) == ["score"]:
      methods = {pathlib.Path(file).stem: methods["score"]}
    if twice := sorted(set(methods) & set(scores)):
      raise UserError(f"{file}: the method {twice[0]!r} has been read already; rename it")
    scores |= methods
  if len(scores) < 2:
    raise UserError(f"only the method {next(iter(scores))!r} was found; a competition needs at least two")
  return first, scores


def _write_images(out, folder, pairs, names, methods):
  """Copies for the page, contact sheets, and the page itself."""
  shown = np.unique(np.concatenate([pairs.low, pairs.high])).tolist()
  for image in shown:
    if not (folder / names[image]).is_file():
      raise UserError(f"{folder / names[image]}: no such image; --images is the folder that the image names start from")
  copies = {image: f"images/{image:06d}.png" for image in shown}
  (out / "images").mkdir(parents=True, exist_ok=True)
  for image, copy in copies.items():
    # Lossless: a second JPEG compression would be one more distortion.
    _open(folder / names[image], PAGE_SIDE).save(out / copy)
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
  subjects = {}
  for file in files:
    table = tables.read(file)
    pair, preference = tables.numbers(table, "pair", file), tables.numbers(table, "preference", file)
    wrong = np.flatnonzero((pair % 1 != 0) | (pair < 0) | (pair >= count) | (np.abs(preference) > 100))
    if len(wrong):
      line = f"line {wrong[0] + 2}: pair {pair[wrong[0]]:g}, preference {preference[wrong[0]]:g}"
      raise UserError(f"{file}: {line}; pairs run from 0 to {count - 1}, preferences from -100 to 100")
    for n, subject, value in zip(pair.astype(int), tables.words(table, "subject", file), preference, strict=True):
      row = subjects.setdefault(str(subject), np.full(count, np.nan))
      if np.isfinite(row[n]):
        raise UserError(f"subject {str(subject)!r} answers pair {n} twice; give every file once")
      row[n] = value
  answers = np.stack(list(subjects.values()))
  mean, kept = gmad.screen(answers)
  given = np.isfinite(answers[kept]).sum(0)
  rows = [[n, f"{value:.4f}", given[n]] for n, value in enumerate(mean)]
  outputs.write_csv(out / "answers.csv", [["pair", "preference", "answers"], *rows])
  if not kept.all():
    print(f"rejected as outliers (ITU-R BT.500): {', '.join(itertools.compress(subjects, ~kept))}")
  return mean


def _outcome(out, pairs, preferences, methods):
  import pandas as pd

  attack, stand = gmad.matrices(pairs, preferences, len(methods))
  outcome = {"aggressiveness": attack, "resistance": stand}
  ranks = {f"{name}_rank": gmad.rank(matrix) for name, matrix in outcome.items()}
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
